"""
Connections over TCP, to an address that is already known: no lookups here, and so no threads of Twisted's resolver.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IProtocolFactory

from mailstack.route.hosts import Hop


class TCPConnect:
    """Connects within a time limit, from `local_address` where that is of the same family."""

    def __init__(self, reactor: Any, timeout_seconds: float = 30.0, local_address: str | None = None) -> None:
        self._reactor = reactor
        self._timeout_seconds = timeout_seconds
        self._local_address = local_address

    def __call__(self, hop: Hop, port: int, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect, and return the factory's protocol."""
        is_ipv6 = ":" in hop.address
        local = self._local_address
        bind = (local, 0) if local is not None and (":" in local) == is_ipv6 else None
        kind = TCP6ClientEndpoint if is_ipv6 else TCP4ClientEndpoint
        endpoint = kind(self._reactor, hop.address, port, timeout=self._timeout_seconds, bindAddress=bind)
        connected: Deferred[Any] = endpoint.connect(factory)
        return connected
