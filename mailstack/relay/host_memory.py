"""
The memory of hosts: which could not be used a moment ago, and why.

Many domains share a host, and many messages a domain. When a host refuses the connection, does not answer in time, or ends the
session with 421, the next message need not find that out again, perhaps for half a minute: the host is passed over, and the
next host of the domain is tried. A domain whose hosts are all remembered is not asked at all.

It is remembered for a minute, and for twice as long each time that it happens again, up to half an hour. Then one attempt
is let through, and the others wait for what it finds; a probe that has said nothing for PROBE_SECONDS is no longer waited for.
A host that opens a session is forgotten, and one that was not asked for FORGOTTEN_SECONDS begins anew.

Beside them it knows the hosts that offer CHUNKING and do not have it, until they are pushed out: they get contents by DATA,
which costs them nothing.

Kept within bounds: so many hosts of each kind, and the one that was noted first goes first. It is in memory only, since a
start is a good reason to ask everybody again.

Source:  Exim, "retry" database of hosts: the idea.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from mailstack.relay.protocol import Trouble

PROBE_SECONDS: Final = 60.0
FORGOTTEN_SECONDS: Final = 14_400.0
MOST_HOSTS: Final = 10_000
MOST_CHARACTERS: Final = 400
"""Of what a host has said: a reply may have 200,000."""

Host = tuple[str, int]
"""An IP address and a port."""


@dataclass(slots=True)
class _Failure:
    trouble: Trouble
    at: float
    times: int
    until: float


class HostMemory:
    """
    Hosts that could not be used.

    Shape:   `seconds` is the time; one is remembered from `first_seconds` up to `most_seconds`.
    """

    def __init__(self, seconds: Callable[[], float], first_seconds: float, most_seconds: float) -> None:
        self._seconds = seconds
        self._first_seconds = first_seconds
        self._most_seconds = max(first_seconds, most_seconds)
        self._failures: dict[Host, _Failure] = {}  # the oldest first
        self._chunkless: dict[Host, None] = {}  # likewise

    def __len__(self) -> int:
        return len(self._failures)

    def obstacle(self, host: Host) -> Trouble | None:
        """Return why a host need not be asked now, with the time after which that is worth while; None: it may be asked."""
        failure, now = self._failures.get(host), self._seconds()
        if failure is None or failure.until <= now:
            return None
        cause = f"remembered, {now - failure.at:.0f} s ago: {failure.trouble.cause}"
        return replace(failure.trouble, cause=cause, wait_seconds=failure.until - now)

    def asked(self, host: Host) -> None:
        """Note that a host is asked now: that is the probe for which the others wait. Who only may ask it is none."""
        failure, now = self._failures.get(host), self._seconds()
        if failure is not None and failure.until <= now:
            failure.until = now + PROBE_SECONDS

    def failed(self, host: Host, trouble: Trouble) -> None:
        """Note that a host could not be used."""
        now = self._seconds()
        before = self._failures.pop(host, None)
        times = 1
        if before is not None and now - before.at < FORGOTTEN_SECONDS:
            # Attempts that began together fail together, and that counts once.
            times = before.times + (1 if now - before.at >= self._first_seconds else 0)
        pause = min(self._first_seconds * 2.0 ** min(times - 1, 16), self._most_seconds)
        text, cause = trouble.text[:MOST_CHARACTERS], trouble.cause[:MOST_CHARACTERS]
        self._failures[host] = _Failure(replace(trouble, text=text, cause=cause), now, times, now + pause)
        if len(self._failures) > MOST_HOSTS:
            del self._failures[next(iter(self._failures))]

    def worked(self, host: Host) -> None:
        """Note that a host has opened a session."""
        self._failures.pop(host, None)

    def takes_chunks(self, host: Host) -> bool:
        """Say whether a host that offers CHUNKING may be believed."""
        return host not in self._chunkless

    def refused_chunks(self, host: Host) -> None:
        """Note that a host offers CHUNKING and does not know it."""
        self._chunkless[host] = None
        if len(self._chunkless) > MOST_HOSTS:
            del self._chunkless[next(iter(self._chunkless))]

    def forget_all(self) -> None:
        """Let every host be asked; for those without CHUNKING it makes no difference."""
        self._failures.clear()
