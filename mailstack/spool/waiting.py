"""A line in which the most urgent is next, and among equals who waits longest. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

H = TypeVar("H", bound=Hashable)

MOST_LEFT_OVER: Final = 100
"""So many places that nobody has any more are kept; behind those who are always more urgent they would stay for ever."""


class Waiting(Generic[H]):
    """Who waits."""

    __slots__ = ("_heap", "_last_turn", "_places")

    def __init__(self) -> None:
        self._places: dict[H, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, H]] = []  # also places that somebody had before becoming more urgent
        self._last_turn = 0

    def __bool__(self) -> bool:
        return bool(self._places)

    def put(self, who: H, urgency: int) -> None:
        """Let somebody wait; who waits already may become more urgent by it, and keeps the turn."""
        before = self._places.get(who)
        if before is None:
            self._last_turn += 1
            turn = self._last_turn
        elif -urgency >= before[0]:
            return
        else:
            turn = before[1]
        self._places[who] = (-urgency, turn)
        heapq.heappush(self._heap, (-urgency, turn, who))
        if len(self._heap) > 2 * len(self._places) + MOST_LEFT_OVER:
            self._heap = [(*place, each) for each, place in self._places.items()]
            heapq.heapify(self._heap)

    def pop(self) -> H:
        """
        Return who is next, and let that one wait no more.

        Raises:  IndexError: nobody waits.
        """
        while True:
            urgency, turn, who = heapq.heappop(self._heap)
            if self._places.get(who) == (urgency, turn):
                del self._places[who]
                return who
