"""Counting: how many sessions there are of each kind of service, and how many logins have failed, here or in all workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mailstack.compose import chance
from mailstack.lockout import Lockout, LockoutLimits
from mailstack.mail.envelope import Service
from mailstack.net.shared_counts import SharedMemory
from mailstack.net.tallies import Tally
from mailstack.sessions import Counts, OwnCounts

_KINDS: Final = ((Service.SMTP,), (Service.SUBMISSION, Service.SUBMISSIONS), (Service.POP3, Service.POP3S), (Service.LMTP,))
KINDS: Final = len(_KINDS)
TALLIES: Final = KINDS + 2
"""Of the connections to each kind of service, and of the logins that failed and that succeeded."""


def kind_of(service: Service) -> int:
    """Return the number of the kind of service whose sessions count together."""
    return next(number for number, services in enumerate(_KINDS) if service in services)


class Counting:
    """
    What the listeners of one process count in.

    Shape:   it counts alone until it is told to `share`. `steady_seconds` are the same for all processes.
    """

    def __init__(self, limits: LockoutLimits, steady_seconds: Callable[[], float]) -> None:
        self._steady_seconds = steady_seconds
        self._counts: list[Counts] = [OwnCounts() for _ in range(KINDS)]
        key = chance.key()
        self._count_in([Tally.alone(key, steady_seconds) for _ in range(TALLIES)], limits)

    def share(self, memory: SharedMemory, worker: int) -> None:
        """Count together with other processes; to be said before any factory is made."""
        self._counts = [memory.counts(worker, kind) for kind in range(KINDS)]
        tallies = [memory.tally(worker, number, self._steady_seconds) for number in range(TALLIES)]
        self._count_in(tallies, self.lockout.limits)

    def _count_in(self, tallies: Sequence[Tally], limits: LockoutLimits) -> None:
        *self._arrivals, failed, good = tallies
        self.lockout = Lockout(failed, good, limits)

    def sessions_of(self, service: Service) -> Counts:
        """Return what counts the sessions of a service."""
        return self._counts[kind_of(service)]

    def arrivals_of(self, service: Service) -> Tally | None:
        """Return what counts how many begin, where that is limited."""
        return None if service is Service.LMTP else self._arrivals[kind_of(service)]  # a neighbour may be busy
