"""
Leases: who has recipients for the time being, by their entry and lane. In memory only (see the charter).

    held by             from                      until                               meanwhile
    a work              it enters memory          the ledger has its outcome          nothing else attempts them
    hands               they are claimed          they are given back                 nothing is taken up; a work that waits in
                                                                                      memory is withdrawn, an attempt goes on

Hands are those of the operator, or of the runner where it changes rows itself. Several may be on the same recipients. Of an
attempt that goes on they leave those alone whom it is for; all others of the entry and lane they may touch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mailstack.spool.entry import Work

Key = tuple[int, str]
"""An entry and a lane of it."""


class Leases:
    """Knows who has what."""

    def __init__(self) -> None:
        self._works: dict[Key, Work] = {}
        self._hands: Counter[Key] = Counter()

    def is_free(self, key: Key) -> bool:
        """Say whether recipients may be taken up."""
        return key not in self._works and key not in self._hands

    def work_at(self, key: Key) -> Work | None:
        """Return the work that has recipients."""
        return self._works.get(key)

    def take(self, work: Work) -> None:
        """Note that a work has its recipients now, which were free."""
        self._works[work.entry.number, work.lane] = work

    def let_go(self, work: Work) -> None:
        """Note that a work is over; one that was withdrawn has nothing any more."""
        key = (work.entry.number, work.lane)
        if self._works.get(key) is work:
            del self._works[key]

    def claim(self, key: Key) -> Work | None:
        """Take recipients into hands, and return the work that attempts some of them."""
        self._hands[key] += 1
        work = self._works.get(key)
        if work is None or work.has_begun:
            return work
        work.is_withdrawn = True
        del self._works[key]
        return None

    def give_back(self, claims: Iterable[Key]) -> None:
        """Let go of what was claimed, each once."""
        for key in claims:
            self._hands[key] -= 1
            if not self._hands[key]:
                del self._hands[key]
