"""The sums of what waits, added up of as many answers as it takes; memory stays small, whoever floods the queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailstack.console.sums import KEPT, Groups, Tally, add, add_groups, keep_largest, nothing

if TYPE_CHECKING:
    from mailstack.console.control import Answer
    from mailstack.console.control_client import Client
    from mailstack.console.queue_selecting import Select


@dataclass(slots=True)
class Sums:
    """
    What all answers came to.

    Shape:   `groups` are by what is summed up by, `rest` is of all others; `is_exact`: nobody was among these only for a while.
    """

    by: str
    groups: Groups = field(default_factory=dict)
    rest: Tally = field(default_factory=nothing)
    is_exact: bool = True
    entries: int = 0
    octets: int = 0
    corrupt: int = 0
    attempts: int = 0
    paused: dict[str, float] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        """Add an answer, and keep what is in memory small."""
        add_groups(self.groups, answer["groups"])
        add(self.rest, answer["rest"])
        if len(self.groups) > 2 * KEPT:
            keep_largest(self.groups, self.rest, KEPT)
        self.is_exact = not self.rest["entries"]
        self.entries += answer["entries"]
        self.octets += answer["octets"]
        self.corrupt += answer["corrupt"]

    def keep_largest(self, most: int) -> None:
        """Keep so many; 0: all."""
        if most:
            keep_largest(self.groups, self.rest, most)


def sum_up(client: Client, select: Select, by: str) -> Sums:
    """Sum up what is selected."""
    sums = Sums(by)
    answer = client.ask("stats", select=select, per=by, after=None)
    sums.attempts, sums.paused = answer["attempts"], answer["paused"]
    sums.add(answer)
    while answer["to"] is not None:
        answer = client.ask("stats", select=select, per=by, after=answer["to"])
        sums.add(answer)
    return sums
