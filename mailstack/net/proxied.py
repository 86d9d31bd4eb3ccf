"""
Connections through a proxy: the PROXY header is read before anything else is done, so all that follows sees the client.

A connection from a proxy gets its session when the header is there, with the address that the header names; until then it is
counted nowhere but here. The header comes before TLS, so this stands around everything else that a listener has. Other
connections pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

HEADER_SECONDS: Final = 5.0
MOST_WAITING: Final = 1_000
"""Connections without a header, to one listener."""


class Header(Protocol):
    """What the parser makes of a header: see `wire.proxy.ProxyHeader`."""

    @property
    def octets(self) -> int:
        """Its length."""

    @property
    def host(self) -> str:
        """The address of the client, or ""."""

    @property
    def port(self) -> int:
        """Its port."""


class ProxiedFactory(Factory):
    """
    Makes what `factory` makes, for the client for whom a proxy speaks.

    Shape:   `is_proxy(address)` says whether a connection begins with a header; `parse(octets)` returns it, or None as long as
             it is not complete, and raises ValueError when it never will be; `dropped(address, why)` is told of those that had
             none.
    """

    noisy = False

    def __init__(
        self,
        factory: Any,
        *,
        is_proxy: Callable[[IAddress], bool],
        parse: Callable[[bytes], Header | None],
        dropped: Callable[[IAddress, str], None],
        clock: IReactorTime,
    ) -> None:
        self.factory = factory
        self.parse = parse
        self.dropped = dropped
        self.clock = clock
        self.waiting: set[HeaderProtocol] = set()
        self._is_proxy = is_proxy

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make a session, or what waits for the header."""
        if addr is None or not self._is_proxy(addr):
            return self.factory.buildProtocol(addr)
        if len(self.waiting) >= MOST_WAITING:
            self.dropped(addr, "too many wait for theirs")
            return None
        return HeaderProtocol(self, addr)

    def doStart(self) -> None:
        """Begin, with the factory."""
        self.factory.doStart()
        super().doStart()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def doStop(self) -> None:
        """End, with the factory; who has no session yet will get none."""
        self.factory.doStop()
        super().doStop()  # type: ignore[no-untyped-call]  # as above

    def stopFactory(self) -> None:
        """Drop who waits."""
        for each in list(self.waiting):
            each.drop()


class HeaderProtocol(TwistedProtocol):
    """A connection until its header is read; then the session has the transport."""

    factory: ProxiedFactory
    transport: Any

    def __init__(self, factory: ProxiedFactory, address: IAddress) -> None:
        self.factory = factory
        self._address = address
        self._octets = bytearray()
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait, but not for long, and however slowly the octets come."""
        self.factory.waiting.add(self)
        self._deadline = self.factory.clock.callLater(HEADER_SECONDS, self._refuse, f"none after {HEADER_SECONDS:.0f} s")

    def dataReceived(self, data: bytes) -> None:
        """Look for the header."""
        if self._deadline is None:  # dropped already
            return
        self._octets += data
        try:
            header = self.factory.parse(bytes(self._octets))
        except ValueError as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._hand_over(header, bytes(self._octets[header.octets :]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End; a balancer that only looks whether we are there says nothing, and nothing is said of it."""
        if self._deadline is not None and self._octets:
            self.factory.dropped(self._address, "it is not complete")
        self._leave()

    def drop(self) -> None:
        """End at once."""
        self._leave()
        self.transport.abortConnection()

    def _refuse(self, why: str) -> None:
        self.factory.dropped(self._address, why)
        self.drop()

    def _leave(self) -> None:
        self.factory.waiting.discard(self)
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _hand_over(self, header: Header, rest: bytes) -> None:
        """Put the session that belongs to the connection into our place."""
        self._leave()
        session = self.factory.factory.buildProtocol(_client(header) or self._address)
        if session is None:
            self.transport.abortConnection()
            return
        self.transport.protocol = session
        session.makeConnection(self.transport)
        if rest:
            session.dataReceived(rest)


def _client(header: Header) -> IAddress | None:
    if not header.host:
        return None
    kind = IPv6Address if ":" in header.host else IPv4Address
    return kind("TCP", header.host, header.port)
