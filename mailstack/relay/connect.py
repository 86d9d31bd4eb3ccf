"""
Connections to an address that is already known, over TCP or a UNIX socket: no lookups here, and so no threads of Twisted's
resolver.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectBindError, ConnectError
from twisted.internet.interfaces import IProtocolFactory

from mailstack.route.hosts import Hop

_USED_UP: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connector:
    """
    Connects within a time limit.

    Shape:  `reactor` has connectTCP and connectUNIX.
    """

    def __init__(self, reactor: Any, timeout_seconds: float = 30.0) -> None:
        self._reactor = reactor
        self._timeout_seconds = timeout_seconds

    def __call__(self, hop: Hop, port: int, factory: IProtocolFactory, source: str | None = None) -> Deferred[Any]:
        """Connect, from the IP address `source` if there is one, and return the factory's protocol."""
        connected: Deferred[Any] = self._endpoint(hop.address, port, source).connect(factory)
        return connected

    def _endpoint(self, address: str, port: int, source: str | None) -> Any:
        if address.startswith("/"):
            return UNIXClientEndpoint(self._reactor, address, timeout=self._timeout_seconds)
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        bind = (source, 0) if source is not None else None
        return kind(self._reactor, address, port, timeout=self._timeout_seconds, bindAddress=bind)


def is_our_fault(error: Exception) -> bool:
    """
    Say whether a connection failed for a reason of this machine, whoever was to be connected to.

    Shape:  descriptors or memory are used up, or the address to connect from is not here. That a family of addresses is missing
            is not meant: then a host is better passed over at its addresses of that family.
    """
    number = error.osError if isinstance(error, ConnectError) else getattr(error, "errno", None)
    return number in _USED_UP or (isinstance(error, ConnectBindError) and number != errno.EAFNOSUPPORT)
