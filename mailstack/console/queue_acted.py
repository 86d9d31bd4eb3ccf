"""What an act came to: the sums of its parts, as far as it has gone, and the words in which they are told."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mailstack.console.queue_views import count, safe

if TYPE_CHECKING:
    from mailstack.console.control import Answer

TOLD: Final = 20
"""So many of those with which nothing could be done are named; with --json all are."""


@dataclass(slots=True)
class Acted:
    """
    How many were selected, and what was done with them.

    Shape:   `under_way` are recipients in an attempt, with whom it is done when that ends; `later` are those that are due only
             when their senders want it; of what was given up `untold` are those of whom the sender wants to hear nothing, and
             `senderless` those that have no sender; `paused` says by domain how many wait since it is paused; `refused` says
             by ID with which messages it could not be done, and why.
    """

    messages: int = 0
    changed_messages: int = 0
    changed_recipients: int = 0
    under_way: int = 0
    later: int = 0
    untold: int = 0
    senderless: int = 0
    paused: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, done: Answer) -> None:
        """Add what one part came to."""
        self.changed_messages += done["entries"]
        self.changed_recipients += done["recipients"]
        self.under_way += done["under_way"]
        self.later += done["later"]
        self.untold += done["untold"]
        self.senderless += done["senderless"]
        for domain, recipients in done["paused"].items():
            self.paused[domain] = self.paused.get(domain, 0) + recipients
        self.refused |= done["refused"]

    def as_fields(self) -> dict[str, Any]:
        """Return all of it for a program."""
        return asdict(self)

    def lines(self, past: str, *, is_retry: bool) -> Iterator[str]:
        """Yield the sums in words: `past` is what was done."""
        recipients = partial(count, word="recipient")
        yield f"{recipients(self.changed_recipients)} of {count(self.changed_messages, 'message')}: {past}."
        if self.under_way and is_retry:
            yield f"{recipients(self.under_way)} more: attempted at this moment."
        elif self.under_way:
            yield f"{recipients(self.under_way)} more: in an attempt. What that leaves is {past} when it ends."
        # The first of a destination that is asked again make all due that wait for it.
        others = (
            self.messages - self.changed_messages - self.under_way - self.later - sum(self.paused.values()) - len(self.refused)
        )
        if is_retry and others > 0:
            yield f"{count(others, 'more message')}: due already."
        if self.untold:
            yield f"{recipients(self.untold)} of them: the sender wants no word of that, and is not told."
        if self.senderless:
            yield f"{recipients(self.senderless)} of them: without a sender; the postmaster is told, if anybody is."
        for domain, number in list(self.paused.items())[:TOLD]:
            name = safe(domain)
            resume = f"mailstack queue resume {shlex.quote(name)}"
            yield f"{recipients(number)}: waiting all the same, since {name} is paused, for: {resume}"
        if self.later:
            yield f"{recipients(self.later)}: due when the sender wants it. An ID says that it is to go now."

    def refusals(self) -> Iterator[str]:
        """Yield a line for each message with which nothing could be done."""
        for name in list(self.refused)[:TOLD]:
            yield f"{name} {safe(self.refused[name])}."
        if len(self.refused) > TOLD:
            yield f"and {count(len(self.refused) - TOLD, 'message')} more; --json names them all"
