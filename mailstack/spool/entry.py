"""Entries as they are in memory, and the lanes in which they wait for their attempts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred

from mailstack.mail.disposition import Disposition
from mailstack.mail.envelope import Account, Content, Destination, Envelope
from mailstack.spool.identifiers import format_number

LOCAL_LANE = ""
"""All accounts share a lane, since one delivery goes to all accounts of an entry; no domain has this name."""


def lane_of(destination: Destination, via: str | None = None) -> str:
    """
    Return the key by which recipients are grouped into deliveries.

    Shape:   `via` is where the operator has them go instead; a delivery is to one domain all the same.
    """
    lane = LOCAL_LANE if isinstance(destination, Account) else destination.domain
    return lane if via is None else f"{lane} via {via}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message in the spool."""

    number: int
    envelope: Envelope
    content: Content
    expires_at: float

    @property
    def name(self) -> str:
        """The number as it is written in trace fields, logs and file names."""
        return format_number(self.number)


@dataclass(frozen=True, slots=True)
class Pending:
    """
    A recipient that is not finished.

    Shape:  `attempts` were made before; `failure` is what the last one came to, when all that is left is to report it;
            `is_warned`: the sender knows of the delay; `is_doubtful`: the last attempt did not show that the destination
            answers; `via` is where the operator has it go instead.
    """

    attempts: int = 0
    failure: Disposition | None = None
    is_warned: bool = False
    is_doubtful: bool = False
    via: str | None = None


@dataclass(slots=True, eq=False)
class Work:
    """
    What is to be done for the recipients of one entry in one lane; it is held by one attempt at most.

    Shape:  `is_withdrawn`: the operator has taken it out of memory before its turn; `orders` are what the operator wants to be
            done with what its attempt leaves; `afterwards` is what the courier wants called when the outcomes are on disk.
    """

    entry: Entry
    lane: str
    pending: dict[int, Pending]
    may_repeat: bool
    octets: int = field(init=False)
    priority: int = field(init=False)
    attempt: Deferred[None] | None = None
    is_overdue: bool = False
    has_begun: bool = False
    is_withdrawn: bool = False
    orders: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    afterwards: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        content = self.entry.content.in_memory
        self.octets = len(content) if content is not None else 0
        self.priority = self.entry.envelope.requests.priority
