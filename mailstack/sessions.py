"""
The sessions of a service: counted for each peer and each network, kept within caps, and ended together.

Used by the factories of `receive` and `retrieve`; knows nothing of either's protocol. A peer is an IPv4 address or an IPv6 /64,
a network an IPv4 /24 or an IPv6 /48: what one customer has at least, and what who rents a few machines has. This machine itself
is a peer, but no network, and may come as often as it likes: a proxy or a list server on it is not a stranger.
"""

from __future__ import annotations

import enum
import ipaddress
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress


class Session(Protocol):
    """What a session must be able to do."""

    def drain(self) -> None:
        """End as soon as nothing is running that would be cut off."""

    def abort(self) -> None:
        """End at once."""


S = TypeVar("S", bound=Session)


ARRIVAL_SECONDS: Final = 60


class Full(enum.Enum):
    """Why there is no session more; the values are the keys of the configuration."""

    ALL = "connections"
    PEER = "connections_per_peer"
    NETWORK = "connections_per_network"
    ARRIVALS = "connections_per_minute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How many sessions there may be; `per_minute` is of those that one peer begins."""

    all: int
    per_peer: int
    per_network: int
    per_minute: int


class Counts(Protocol):
    """Counts the sessions of one kind of service under the names of their peers, be they in this process or in others."""

    def admit(self, caps: Mapping[str, int], *, most: int) -> str | None:
        """Count one more under each name, unless there are too many; say of which name, or of all, which is ""."""

    def leave(self, names: Iterable[str]) -> None:
        """Count one less under each name."""


class Arrivals(Protocol):
    """Counts what happens within a while, by name, be it in this process or in others."""

    def add(self, name: str, window_seconds: int) -> int:
        """Count one more, and return how many there are now."""
        ...


class OwnCounts:
    """The counts of a process that alone has the listeners."""

    def __init__(self) -> None:
        self._total = 0
        self._names: Counter[str] = Counter()

    def admit(self, caps: Mapping[str, int], *, most: int) -> str | None:
        """Count one more under each name, unless there are too many; say of which name, or of all, which is ""."""
        if self._total >= most:
            return ""
        for name, cap in caps.items():
            if self._names[name] >= cap:
                return name
        self._total += 1
        self._names.update(caps.keys())
        return None

    def leave(self, names: Iterable[str]) -> None:
        """Count one less under each name."""
        self._total -= 1
        for name in names:
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]


class Sessions(Generic[S]):
    """
    The sessions of one listener that are open in this process.

    Shape:   `counts` may know of others elsewhere, `arrivals` of those that were; without it peers may come as often as they
             like.
    """

    def __init__(self, counts: Counts | None = None, arrivals: Arrivals | None = None) -> None:
        self._counts = counts or OwnCounts()
        self._arrivals = arrivals
        self._peers: dict[S, tuple[str, ...]] = {}
        self._drained: list[Deferred[None]] = []
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._peers)

    def begin(self, make: Callable[[], S], peer: str, caps: Caps) -> S | Full:
        """Make a session and take note of it, or say which of the caps does not allow it."""
        names = _caps_of(peer, caps)
        full = self._full(names, caps)
        if full is not None:
            return full
        try:
            session = make()
        except BaseException:
            self._counts.leave(names)
            raise
        self._peers[session] = tuple(names)
        return session

    def move(self, session: S, peer: str, caps: Caps) -> bool:
        """Count a session for another peer from now on, and say so, unless that one has too many."""
        before, names = self._peers[session], _caps_of(peer, caps)
        if before == tuple(names):
            return True
        self._counts.leave(before)
        is_within = self._counts.admit(names, most=caps.all) is None
        if is_within:
            self._peers[session] = tuple(names)
        else:  # it is still there, whoever it is counted for
            self._counts.admit(dict.fromkeys(before, sys.maxsize), most=sys.maxsize)
        return is_within

    def _full(self, names: Mapping[str, int], caps: Caps) -> Full | None:
        peer, *networks = names or ("",)
        if networks and self._arrivals is not None and self._arrivals.add(peer, ARRIVAL_SECONDS) > caps.per_minute:
            return Full.ARRIVALS
        name = self._counts.admit(names, most=caps.all)
        if name is None:
            return None
        return Full.ALL if not name else Full.PEER if name == peer else Full.NETWORK

    def remove(self, session: S) -> None:
        """Take note that it has ended; may be said again."""
        names = self._peers.pop(session, None)
        if names is None:
            return
        self._counts.leave(names)
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


def peer_network(host: str) -> str:
    """Return the network of a peer: an IPv4 /24, an IPv6 /48; "" for this machine, and for what is no IP address."""
    if ":" not in host:
        network, dot, _ = host.rpartition(".")
        return f"{network}.0/24" if dot and not network.startswith("127.") else ""
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return ""
    return "" if address.is_loopback else str(ipaddress.IPv6Network((int(address) >> 80 << 80, 48)))


def _caps_of(peer: str, caps: Caps) -> dict[str, int]:
    """Return the cap of each name under which a peer counts; who has no address (a UNIX socket) counts under none."""
    key, network = peer_key(peer), peer_network(peer)
    if not key:
        return {}
    return {key: caps.per_peer, network: caps.per_network} if network else {key: caps.per_peer}
