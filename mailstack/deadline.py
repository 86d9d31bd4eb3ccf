"""
A deadline that is cheap to move: one timer, which looks at the time when it fires.

Used by the sessions of `receive` and `relay`. A timer that each octet resets lets a peer stay for ever at one octet a minute,
so nothing resets a deadline but progress.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall


class Clock(Protocol):
    """The part of IReactorTime that a deadline needs."""

    def seconds(self) -> float:
        """Return the time."""
        ...

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> IDelayedCall:
        """Call after so many seconds."""
        ...


class Deadline:
    """
    Calls `expired` once when the time that was set last has passed.

    Units:  seconds from the call of `set`.
    """

    __slots__ = ("_clock", "_ends_at", "_expired", "_timer")

    def __init__(self, clock: Clock, expired: Callable[[], None]) -> None:
        self._clock = clock
        self._expired = expired
        self._ends_at: float | None = None
        self._timer: IDelayedCall | None = None

    @property
    def is_set(self) -> bool:
        """Whether a time is set that has not passed."""
        return self._ends_at is not None

    def set(self, seconds: float) -> None:
        """Set or move the deadline."""
        self._ends_at = self._clock.seconds() + seconds
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._look)
        elif self._timer.getTime() > self._ends_at:
            self._timer.reset(seconds)

    def clear(self) -> None:
        """Want no deadline; the timer may stay, for the next."""
        self._ends_at = None

    def stop(self) -> None:
        """End, and leave no timer behind."""
        self._ends_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._ends_at is None:
            return
        left = self._ends_at - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._look)
        else:
            self._ends_at = None
            self._expired()
