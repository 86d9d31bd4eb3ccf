"""
Prompt transports: what is written is sent at once, and goes through the reactor only when the peer does not take it.

Twisted's transports keep what is written until the reactor says that the socket has room. In a dialogue of short lines it
always has: the detour costs two changes of the epoll set, a turn of the reactor and a second callback for each reply.

And they read at most 64 KiB at a time. A peer that fills that is sending a large message, and is given more: what is done for
each piece is then done four times less often. Not all are, since memory of that size comes from the kernel each time.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.interfaces import IConnector

MOST_OCTETS: Final = 262_144
"""Of one read."""


class _Prompt(tcp.Connection):
    """
    A connection that sends at once what is written when nothing else waits to be sent; in TLS the same, below it.

    What does not go out at once, and every error, is left to the reactor: connectionLost never comes from within a write.
    """

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
        super().startWriting()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def _dataReceived(self, data: bytes | None) -> Any:
        octets = len(data or b"")
        if octets == self.bufferSize:
            self.bufferSize = MOST_OCTETS
        elif octets < PromptServer.bufferSize // 2:
            self.bufferSize = PromptServer.bufferSize
        return super()._dataReceived(data)

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
    """A listening port whose connections are prompt."""

    transport: Any = PromptServer


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


class _Connector(tcp.Connector):
    def _makeTransport(self) -> Any:
        make: Any = PromptClient
        return make(self.host, self.port, self.bindAddress, self, self.reactor)
