"""
Prompt transports: what is written is sent at once, and goes through the reactor only when the peer does not take it.

Twisted's transports keep what is written until the reactor says that the socket has room. In a dialogue of short lines it
always has: the detour costs two changes of the epoll set, a turn of the reactor and a second callback for each reply, and
again for the end of a connection.

And they read at most 64 KiB at a time. A peer that fills that is sending a large message, and is given more: what is done for
each piece is then done four times less often. Not all are, since memory of that size comes from the kernel each time. Nor is
who speaks TLS: each record is decrypted and passed on by itself, and a peer may put a single octet into each. Of 256 KiB of
these the other sessions wait 40 to 60 ms for their turn, of 64 KiB 10 to 18; large records take 12% more time so.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConnector
from twisted.internet.main import CONNECTION_DONE
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python import log
from twisted.python.failure import Failure

USUAL_OCTETS: Final = tcp.Connection.bufferSize
MOST_OCTETS: Final = 262_144
"""Of one read."""
LINE_OCTETS: Final = 4096
"""What is no longer goes out in one piece, as a rule."""

_DONE: Final = Failure(CONNECTION_DONE)


class _Prompt(tcp.Connection):
    """
    A connection that sends at once what is written when nothing else waits to be sent; in TLS the same, below it.

    What does not go out at once, and every error, is left to the reactor: connectionLost never comes from within a write.
    """

    def write(self, data: bytes) -> None:
        """Send octets."""
        if len(data) > LINE_OCTETS or not self._is_idle():
            super().write(data)  # type: ignore[no-untyped-call]  # Twisted's is untyped
            return
        sent = self._send(data)
        if sent < len(data):
            super().write(data[sent:])  # type: ignore[no-untyped-call]  # as above

    def startWriting(self) -> None:
        """Send what was just written, or as much of it as there is room for; then have the reactor send the rest."""
        waiting: list[bytes] = self._tempDataBuffer
        if waiting and not self.dataBuffer and not self.disconnecting:
            octets = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            sent = self._send(octets)
            self._tempDataBuffer, self._tempDataLen = [], 0
            if sent < len(octets):
                self.dataBuffer, self.offset = octets, sent
            elif not self.producerPaused:  # a paused producer is resumed by the reactor
                return
        super().startWriting()  # type: ignore[no-untyped-call]  # as above

    def loseConnection(self) -> None:
        """Close when everything is sent: mostly in the next turn."""
        if self.producer is not None or not self._is_idle():
            super().loseConnection()  # type: ignore[no-untyped-call]  # as above
            return
        self.stopReading()  # type: ignore[no-untyped-call]  # as above
        self.disconnecting = 1
        clock: Any = self.reactor
        clock.callLater(0, self.connectionLost, _DONE)

    def _is_idle(self) -> bool:
        """Say whether the connection is up, in the clear, and has nothing to send."""
        return not (self._tempDataBuffer or self.dataBuffer or self.TLS or self.disconnecting) and bool(
            self.connected and not self._writeDisconnected
        )

    def _dataReceived(self, data: bytes | None) -> ConnectionDone | None:
        if not data:
            return CONNECTION_DONE
        if len(data) == self.bufferSize:
            self.bufferSize = USUAL_OCTETS if isinstance(self.protocol, TLSMemoryBIOProtocol) else MOST_OCTETS
        elif self.bufferSize > USUAL_OCTETS and len(data) < USUAL_OCTETS // 2:
            self.bufferSize = USUAL_OCTETS
        self.protocol.dataReceived(data)
        return None

    def _send(self, octets: bytes) -> int:
        try:
            return self.socket.send(octets if len(octets) <= self.SEND_LIMIT else memoryview(octets)[: self.SEND_LIMIT])
        except OSError:  # no room, or an error that the reactor will find again
            return 0


class PromptServer(_Prompt, tcp.Server):
    """A connection that was accepted."""


class PromptClient(_Prompt, tcp.Client):
    """A connection that we make."""


class PromptPort(tcp.Port):
    """
    A listening port whose connections are prompt.

    It takes one connection in a turn of the reactor, so that those who are here are served as fast as others come.
    """

    transport: Any = PromptServer
    numberAccepts = 1

    def doRead(self) -> None:
        """Accept a connection; what is not as usual, as a lack of descriptors, is Twisted's."""
        try:
            accepted, address = self.socket.accept()
        except BlockingIOError:
            return
        except OSError:
            super().doRead()  # type: ignore[no-untyped-call]  # as above
            return
        protocol = self._made_for(address)
        if protocol is None:
            accepted.close()
            return
        self.sessionno += 1
        transport = self.transport(accepted, protocol, address, self, self.sessionno, self.reactor)
        try:
            protocol.makeConnection(transport)
        except Exception:  # a bulkhead: this connection only
            log.err()
            transport.abortConnection()

    def _made_for(self, address: Any) -> Any:
        factory: Any = self.factory
        try:
            if address[-1] and len(address) == 4:  # the scope of an IPv6 address belongs to its name
                numeric = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
                address = (numeric[0], *address[1:])
            return factory.buildProtocol(self._buildAddr(address))  # type: ignore[no-untyped-call]  # as above
        except Exception:  # as below
            log.err()
            return None


class PromptUNIXServer(PromptServer):
    """A connection that was accepted through the file of a socket, which knows no address and no Nagle."""

    def __init__(self, accepted: Any, protocol: Any, client: Any, *more: Any) -> None:
        super().__init__(accepted, protocol, ("", 0), *more)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: what is written is there at once."""

    def getPeer(self) -> Any:
        """Return the address of nobody."""
        return UNIXAddress(None)

    getHost = getPeer


class PromptUNIXPort(PromptPort):
    """A listening port that has a file."""

    transport = PromptUNIXServer

    def _buildAddr(self, address: Any) -> UNIXAddress:
        return UNIXAddress(None)

    def _made_for(self, address: Any) -> Any:
        return super()._made_for(("", 0))


class PromptTCP:
    """Connects as the reactor does, but for the class of the connections."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30.0, bindAddress: tuple[str, int] | None = None
    ) -> IConnector:
        """Connect."""
        connector = _Connector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connect()
        return connector

    def connectUNIX(self, path: str, factory: Any, timeout: float = 30.0, checkPID: bool = False) -> IConnector:
        """Connect to a socket that has a file; these transports are the reactor's own."""
        connector: IConnector = self._reactor.connectUNIX(path, factory, timeout=timeout, checkPID=checkPID)
        return connector


class _Connector(tcp.Connector):
    def _makeTransport(self) -> Any:
        make: Any = PromptClient
        return make(self.host, self.port, self.bindAddress, self, self.reactor)
