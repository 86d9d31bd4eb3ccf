"""The place of a process among those that serve, and its part of what all of them may do together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Which one a process is of those that serve."""

    worker: int = 0
    workers: int = 1

    def part_of(self, number: int) -> int:
        """Return the part of a limit that falls to each worker: rounded up, so at least 1."""
        return -(-number // self.workers)
