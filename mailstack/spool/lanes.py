"""
Lanes: the work that is in memory, by destination, and whose turn it is. Pure.

Bounded in all: number and octets of works in memory, those that wait in one lane, attempts at once in one lane and over all. A
domain that does not answer so fills its own lane and leaves the rest to the others; what finds no room waits on disk.
Domains with work and a free place take turns. Within a lane those of higher priority come first, and else who came first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from mailstack.spool.entry import LOCAL_LANE, Work

REMOTE_SHARE: Final = 0.75  # of memory; so slow hosts never keep local mail waiting on disk
LOW: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How much at once.

    Shape:   local deliveries have a limit of their own, larger since they are done in groups and wait for our disk only;
             `attempts_at_once` counts the others.
    """

    attempts_at_once: int = 50
    per_destination: int = 5
    local_at_once: int = 200
    works: int = 2_000
    octets: int = 67_108_864
    works_per_destination: int = 400


class Lanes:
    """Works that are ready or in an attempt."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ready: dict[str, deque[Work]] = {}
        self._taken: dict[str, int] = {}
        self._turns: deque[str] = deque()  # remote lanes with ready work and a free place, each once
        self._remote_taken = 0
        self.works = 0
        self.octets = 0

    @property
    def has_room(self) -> bool:
        """Whether anything more may be put into memory."""
        return self.works < self._limits.works and self.octets < self._limits.octets

    def has_room_for(self, lane: str, works: int = 0) -> bool:
        """Whether more for that lane may be put into memory, after so many other works of it."""
        return self._is_within(lane, 1.0, works)

    def is_low(self, lane: str) -> bool:
        """Whether it is time to look for more on disk."""
        return self._is_within(lane, LOW)

    def _is_within(self, lane: str, part: float, more: int = 0) -> bool:
        limits = self._limits
        if lane != LOCAL_LANE:
            if len(self._ready.get(lane, ())) + more >= limits.works_per_destination * part:
                return False
            part *= REMOTE_SHARE
        return self.works + more < limits.works * part and self.octets < limits.octets * part

    def add(self, work: Work) -> None:
        """Take work into memory."""
        self.works += 1
        self.octets += work.octets
        ready = self._ready.setdefault(work.lane, deque())
        _put(ready, work)
        if len(ready) == 1 and work.lane != LOCAL_LANE and self._has_place(work.lane):
            self._turns.append(work.lane)

    def take(self) -> Work | None:
        """Return the next work to be attempted, if there is one and a place for it."""
        if LOCAL_LANE in self._ready and self._has_place(LOCAL_LANE):
            return self._take_from(LOCAL_LANE)
        if not self._turns or self._remote_taken >= self._limits.attempts_at_once:
            return None
        lane = self._turns.popleft()
        work = self._take_from(lane)
        self._remote_taken += 1
        if lane in self._ready and self._has_place(lane):
            self._turns.append(lane)
        return work

    def _take_from(self, lane: str) -> Work:
        self._taken[lane] = self._taken.get(lane, 0) + 1
        ready = self._ready[lane]
        work = ready.popleft()
        if not ready:
            del self._ready[lane]
        return work

    def free(self, lane: str) -> None:
        """Give back the place of an attempt that has ended."""
        was_full = not self._has_place(lane)
        self._taken[lane] -= 1
        if not self._taken[lane]:
            del self._taken[lane]
        if lane != LOCAL_LANE:
            self._remote_taken -= 1
            if was_full and lane in self._ready:
                self._turns.append(lane)

    def forget(self, work: Work) -> None:
        """Let work go from memory."""
        self.works -= 1
        self.octets -= work.octets

    def _has_place(self, lane: str) -> bool:
        limit = self._limits.local_at_once if lane == LOCAL_LANE else self._limits.per_destination
        return self._taken.get(lane, 0) < limit


def _put(ready: deque[Work], work: Work) -> None:
    """Add work behind all of its priority, and before all that has less (RFC 6710 §4.1)."""
    if not ready or ready[-1].priority >= work.priority:
        ready.append(work)
        return
    place = next(place for place, each in enumerate(ready) if each.priority < work.priority)
    ready.insert(place, work)
