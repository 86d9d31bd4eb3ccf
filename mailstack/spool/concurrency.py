"""
Concurrency: how many attempts one destination gets at once, how often, and when it is left alone. Pure.

The window follows what the destination shows. Each attempt at which it answers makes it larger by 1/N, each that finds it down
smaller by 1/N, so that a whole window of successes or failures counts for one. A window of failures with no success between
them is a cohort: the destination is taken to be down, and is left alone for a while, each time longer. Then one message is the
probe; the others wait on disk until it has shown something.

A destination that says it has enough sessions of ours gets one less than it had, for a while.

What the message itself brings about (a refused recipient, greylisting) is an answer like any other: it tells that the
destination is up.

Source:  Postfix, SCHEDULER_README ("concurrency feedback", "cohort"): the idea, and the figures 1/N and one cohort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SPREAD: Final = 0.1
CROWDED_SECONDS: Final = 600.0
BURST_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long a destination that is down is left alone."""

    first_seconds: float = 300.0
    longest_seconds: float = 3_600.0

    def seconds(self, cohorts: int, chance: float) -> float:
        """
        Say how long, after so many cohorts of failures, one after the other.

        Shape:   `cohorts` counts from 1; `chance` is 0 <= x < 1: what failed together does not all come back together.
        """
        delay = min(self.first_seconds * 2.0 ** min(cohorts - 1, 32), self.longest_seconds)
        return delay * (1.0 + SPREAD * (2.0 * chance - 1.0))


class Window:
    """
    How many attempts at once.

    Shape:   `initial` and `most` are 1 or more; `places` is what counts now.
    """

    __slots__ = ("_crowded_until", "_failures", "_most", "_most_when_crowded", "_size")

    def __init__(self, initial: int, most: int) -> None:
        self._most = most
        self._size = float(min(initial, most))
        self._failures = 0.0
        self._most_when_crowded = most
        self._crowded_until = 0.0

    def places(self, now: float) -> int:
        """Say how many attempts it allows."""
        size = int(self._size + 1e-6)  # five times a fifth is a little less than one
        return size if now >= self._crowded_until else min(size, self._most_when_crowded)

    def succeeded(self, in_use: int, initial: int) -> None:
        """
        Note that the destination answers.

        Shape:   `in_use` are the attempts of now, with this one: a window that is not used is not made larger.
        """
        self._failures = 0.0
        if self._size < in_use + initial:
            self._size = min(self._size + 1.0 / self._size, float(self._most))

    def failed(self) -> bool:
        """Note that the destination could not be used, and say whether that makes a cohort."""
        self._failures += 1.0 / self._size
        self._size = max(self._size - 1.0 / self._size, 1.0)
        return self._failures >= 1.0 - 1e-6

    def limit(self, most: int) -> None:
        """Allow no more than so many at once."""
        self._most = most
        self._size = min(self._size, float(most))

    def close(self) -> None:
        """Allow one attempt, until the destination answers."""
        self._size = 1.0

    def crowded(self, in_use: int, now: float) -> bool:
        """Note that the destination wants fewer sessions than the `in_use` of now; say whether even one is too many."""
        if in_use <= 1:
            return self.failed()
        self._most_when_crowded, self._crowded_until = in_use - 1, now + CROWDED_SECONDS
        self._size = min(self._size, float(self._most_when_crowded))
        return False


@dataclass(frozen=True, slots=True)
class Rate:
    """How many messages in how long."""

    messages: float
    seconds: float

    @property
    def each_seconds(self) -> float:
        """The time from one to the next."""
        return self.seconds / self.messages


class Bucket:
    """
    Spreads messages over time: after a pause a few may go at once, and never more in a unit than the rate says by much.

    Shape:   a token bucket, kept as the time at which it will be full (GCRA): one number, and nothing to refill.
    """

    __slots__ = ("__weakref__", "_each_seconds", "_full_at", "_slack_seconds", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._each_seconds = rate.each_seconds
        self._slack_seconds = max(min(BURST_SECONDS, rate.seconds / 2) - rate.each_seconds, 0.0)
        self._full_at = 0.0

    def ready_at(self, now: float) -> float:
        """Say when the next may go; not after `now`: at once."""
        return max(self._full_at - self._slack_seconds, now)

    def take(self, now: float) -> None:
        """Note that one goes."""
        self._full_at = max(self._full_at, now) + self._each_seconds

    def give_back(self) -> None:
        """Note that the last one that was to go did not."""
        self._full_at -= self._each_seconds
