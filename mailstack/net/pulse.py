"""
The pulse: how late the reactor comes to what it was to do.

A tick each TICK_SECONDS; what it is late by is what a connection would have had to wait that had something to say then. The
ticks that should have come meanwhile count, too, each with its own delay: a stall of a second is what forty would have met, not
one. The delays are counted in a histogram of fixed size, so that days of them cost what a second does.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

TICK_SECONDS: Final = 0.025

_FINE_MS: Final = 0.1
_FINE: Final = 1_000  # up to 100 ms in steps of 0.1
_COARSE_MS: Final = 10.0
_COARSE: Final = 1_000  # up to 10 s in steps of 10, and whatever is longer
_LONGEST_SECONDS: Final = 60.0  # after a longer one (the machine slept) not every tick is made up for


@dataclass(frozen=True, slots=True)
class Delays:
    """What was seen, in milliseconds; the percentiles are upper bounds of their steps, and never beyond the most."""

    p50_ms: float
    p99_ms: float
    most_ms: float


class Pulse:
    """
    Measures the reactor.

    Shape:   `seconds` is a clock that nobody sets, such as time.monotonic; `clock` ticks.
    """

    def __init__(self, clock: IReactorTime, seconds: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._steps = array("Q", bytes(8 * (_FINE + _COARSE)))
        self._most_seconds = 0.0
        self._due_seconds = 0.0
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._schedule()

    def stop(self) -> Delays:
        """End, and say what was seen."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        return self.delays()

    def delays(self) -> Delays:
        """Say what has been seen."""
        most_ms = self._most_seconds * 1_000
        p50, p99 = (min(each, most_ms) for each in self._percentiles(0.5, 0.99))
        return Delays(p50, p99, most_ms)

    def _schedule(self) -> None:
        self._due_seconds = self._seconds() + TICK_SECONDS
        self._next = self._clock.callLater(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        late_seconds = max(self._seconds() - self._due_seconds, 0.0)
        if late_seconds > self._most_seconds:
            self._most_seconds = late_seconds
        self._count(late_seconds)
        while late_seconds > TICK_SECONDS:
            late_seconds = min(late_seconds - TICK_SECONDS, _LONGEST_SECONDS)
            self._count(late_seconds)
        self._schedule()

    def _count(self, late_seconds: float) -> None:
        late_ms = late_seconds * 1_000
        step = int(late_ms / _FINE_MS)
        if step >= _FINE:
            step = _FINE + min(int(late_ms / _COARSE_MS), _COARSE - 1)
        self._steps[step] += 1

    def _percentiles(self, *parts: float) -> Iterator[float]:
        total = sum(self._steps)
        for part in parts:
            wanted, seen = part * total, 0
            for step, count in enumerate(self._steps):
                seen += count
                if seen and seen >= wanted:
                    yield (step + 1) * _FINE_MS if step < _FINE else (step - _FINE + 1) * _COARSE_MS
                    break
            else:
                yield 0.0
