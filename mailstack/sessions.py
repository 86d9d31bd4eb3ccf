"""
The sessions of a service: counted for each peer, kept within caps, and ended together.

Used by the factories of `receive` and `retrieve`; knows nothing of either's protocol.
"""

from __future__ import annotations

import ipaddress
import sys
from collections import Counter
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress


class Session(Protocol):
    """What a session must be able to do."""

    def drain(self) -> None:
        """End as soon as nothing is running that would be cut off."""

    def abort(self) -> None:
        """End at once."""


S = TypeVar("S", bound=Session)


class Counts(Protocol):
    """Counts the sessions of one listener by peer, be they in this process or in others."""

    def admit(self, peer: str, *, most: int, most_per_peer: int) -> bool:
        """Count one more, and say so, unless there are too many; who has no name (a UNIX socket) has no cap of his own."""

    def leave(self, peer: str) -> None:
        """Count one less."""


class OwnCounts:
    """The counts of a process that alone has the listener."""

    def __init__(self) -> None:
        self._total = 0
        self._peers: Counter[str] = Counter()

    def admit(self, peer: str, *, most: int, most_per_peer: int) -> bool:
        """Count one more, and say so, unless there are too many."""
        if self._total >= most or (peer and self._peers[peer] >= most_per_peer):
            return False
        self._total += 1
        self._peers[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """Count one less."""
        self._total -= 1
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]


class Sessions(Generic[S]):
    """The sessions of one listener that are open in this process; `counts` may know of others elsewhere."""

    def __init__(self, counts: Counts | None = None) -> None:
        self._counts = counts or OwnCounts()
        self._peers: dict[S, str] = {}
        self._drained: list[Deferred[None]] = []
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._peers)

    def begin(self, make: Callable[[], S], peer: str, *, most: int, most_per_peer: int) -> S | None:
        """Make a session and take note of it, if one more is within the caps."""
        key = peer_key(peer)
        if not self._counts.admit(key, most=most, most_per_peer=most_per_peer):
            return None
        try:
            session = make()
        except BaseException:
            self._counts.leave(key)
            raise
        self._peers[session] = key
        return session

    def move(self, session: S, peer: str, *, most: int, most_per_peer: int) -> bool:
        """Count a session for another peer from now on, and say so, unless that one has too many."""
        before, key = self._peers[session], peer_key(peer)
        if before == key:
            return True
        self._counts.leave(before)
        is_within = self._counts.admit(key, most=most, most_per_peer=most_per_peer)
        if is_within:
            self._peers[session] = key
        else:  # it is still there, whoever it is counted for
            self._counts.admit(before, most=sys.maxsize, most_per_peer=sys.maxsize)
        return is_within

    def remove(self, session: S) -> None:
        """Take note that it has ended; may be said again."""
        key = self._peers.pop(session, None)
        if key is None:
            return
        self._counts.leave(key)
        self._settle()

    def drain(self) -> Deferred[None]:
        """Let all of them end; the Deferred fires when the last has. None should be added from now on."""
        self.is_draining = True
        for session in list(self._peers):
            session.drain()
        over: Deferred[None] = Deferred()
        self._drained.append(over)
        self._settle()
        return over

    def abort_all(self) -> None:
        """End all of them at once."""
        for session in list(self._peers):
            session.abort()

    def _settle(self) -> None:
        if self.is_draining and not self._peers:
            drained, self._drained = self._drained, []
            for over in drained:
                over.callback(None)


def peer_address(address: IAddress | None) -> str:
    """Return a peer's IP address, an IPv4 one as such even where the socket is of both kinds; "" for a UNIX socket."""
    host = str(getattr(address, "host", "") or "").partition("%")[0]
    if host.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
        return str(mapped) if mapped is not None else host
    return host


def peer_key(host: str) -> str:
    """Return what counts as one peer: an IPv4 address, or the /64 that one IPv6 customer has at least."""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.IPv6Network((int(ipaddress.IPv6Address(host)) >> 64 << 64, 64)))
    except ValueError:
        return host
