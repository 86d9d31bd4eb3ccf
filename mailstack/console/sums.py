"""
Sums as they go over the control socket, added up and kept small. Pure.

A flood comes from any number of senders. Whoever adds up keeps the sums of those that have most, and one of all others; so
what is in memory and in an answer is bounded, here and in the server. Of who was among the others for a while, what was
counted by then stays there: the sums of the largest are right or a little low, and nothing is counted twice or lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

GROUPS: Final = 1_000
"""The most sums of one answer."""
KEPT: Final = 10_000
"""So many are kept while all answers are added up, and twice as many for a moment."""

Tally = dict[str, Any]
Groups = dict[str, Tally]


def nothing() -> Tally:
    """Return the sum of nothing."""
    return {"entries": 0, "octets": 0, "states": {}, "oldest": None}


def recipients(tally: Mapping[str, Any]) -> int:
    """Return how many recipients a sum is of."""
    return sum(tally["states"].values())


def add(into: Tally, more: Mapping[str, Any]) -> None:
    """Add one sum to another."""
    into["entries"] += more["entries"]
    into["octets"] += more["octets"]
    for state, count in more["states"].items():
        into["states"][state] = into["states"].get(state, 0) + count
    if into["oldest"] is None or (more["oldest"] is not None and more["oldest"] < into["oldest"]):
        into["oldest"] = more["oldest"]


def add_groups(into: Groups, more: Mapping[str, Mapping[str, Any]]) -> None:
    """Add sums to those of the same names."""
    for key, tally in more.items():
        add(into.setdefault(key, nothing()), tally)


def keep_largest(groups: Groups, rest: Tally, most: int) -> None:
    """Keep so many sums, those of most recipients, and add the others to the rest."""
    if len(groups) <= most:
        return
    for key in sorted(groups, key=lambda key: (-recipients(groups[key]), key))[most:]:
        add(rest, groups.pop(key))
