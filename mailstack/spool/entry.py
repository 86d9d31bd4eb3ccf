"""Entries as they are in memory, and the lanes in which they wait for their attempts."""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from mailstack.mail.disposition import Disposition
from mailstack.mail.envelope import Account, Content, Envelope, Recipient
from mailstack.spool.identifiers import format_number

if TYPE_CHECKING:  # the names of lanes are known to the operator's command, too, which answers without Twisted
    from twisted.internet.defer import Deferred

LOCAL_LANE: Final = ""
"""All accounts share a lane, since one delivery goes to all accounts of an entry; no domain has this name."""

OWN_WAY: Final = "local"
"""The way of mail for accounts in a domain that is paused: none, until that ends."""

ALL_DOMAINS: Final = "*"
"""Among the domains that are paused: all that goes elsewhere, also what the operator has put on another way."""

_BY: Final = " by "
_VIA: Final = " via "

WayOf = Callable[[Recipient], str | None]
"""Says by which way the mail of a recipient goes for the time being; None: as its destination says."""


def as_usual(recipient: Recipient) -> str | None:
    """Say that mail goes as its destination says (a WayOf)."""
    return None


def lane_of(recipient: Recipient, way_of: WayOf = as_usual) -> str:
    """
    Return the key by which recipients are grouped into deliveries: their destination, and the way there.

        ""                        accounts of ours
        example.net               a domain
        example.net by WAY        a domain, ours or not, whose mail goes another way as long as the configuration says so
        example.net by local      accounts in a domain that is paused (`pausing`)
        example.net via WAY       a domain, ours or not, of which the operator has put this recipient on another way

    A delivery is to one domain, also where one way serves several: what is slow, or paused, is a domain.
    """
    destination = recipient.destination
    domain = recipient.address.domain if isinstance(destination, Account) else destination.domain
    if recipient.via is not None:
        return f"{domain}{_VIA}{recipient.via}"
    if (way := way_of(recipient)) is not None:
        return f"{domain}{_BY}{way}"
    return LOCAL_LANE if isinstance(destination, Account) else domain


def lanes_of(envelope: Envelope, way_of: WayOf = as_usual) -> tuple[str, ...]:
    """Return the lane of each recipient of an envelope."""
    return tuple(lane_of(recipient, way_of) for recipient in envelope.recipients)


def way_of_lane(lane: str) -> str:
    """Return the way on which the mail of a lane goes; "" as its destination says."""
    return lane.partition(_BY)[2] or lane.partition(_VIA)[2]


def domain_of(lane: str) -> str:
    """Return the domain whose mail is in a lane for as long as the operator says nothing else of it; for accounts ""."""
    return lane.partition(_BY)[0]


def lanes_by_way(domain: str) -> tuple[str, str]:
    """Return what all lanes of a domain with a way of their own come behind, and before, by which they can be looked up."""
    return f"{domain}{_BY}", f"{domain}{_BY[:-1]}{chr(ord(_BY[-1]) + 1)}"


def is_own(lane: str) -> bool:
    """Say whether a lane is of accounts of ours."""
    return lane == LOCAL_LANE or way_of_lane(lane) == OWN_WAY


def paused_as(lane: str, paused: Container[str]) -> str | None:
    """Return as what a lane is paused: its domain, or ALL_DOMAINS for every one but those of our accounts; None: it is not."""
    if (domain := domain_of(lane)) in paused:
        return domain
    return ALL_DOMAINS if ALL_DOMAINS in paused and not is_own(lane) else None


def waits_as(lane: str, recipient: Recipient | None, paused: Container[str]) -> str | None:
    """Return as what a recipient is paused; an account that waits since before that comes into another lane when it is due."""
    domain = recipient.address.domain if recipient is not None and lane == LOCAL_LANE else ""
    return domain if domain and domain in paused else paused_as(lane, paused)


def parts_of_lane(lane: str) -> tuple[str, str]:
    """Return the domain of a lane, "" for accounts, and the way of the lane, "" when it goes as its destination says."""
    return lane.partition(_BY)[0].partition(_VIA)[0], way_of_lane(lane)


def is_lane_of(lane: str, recipient: Recipient) -> bool:
    """Say whether a lane is one of those of a recipient, now or with another configuration."""
    plain = lane_of(recipient)
    if recipient.via is not None:
        return lane == plain
    return lane == plain or (_BY in lane and lane.startswith(f"{recipient.address.domain}{_BY}"))


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
            answers; `via` is where the operator has it go instead; `is_released`: he let go what an attempt had held.
    """

    attempts: int = 0
    failure: Disposition | None = None
    is_warned: bool = False
    is_doubtful: bool = False
    via: str | None = None
    is_released: bool = False

    def rerouted(self, recipient: Recipient) -> Recipient:
        """Return the recipient with the way on which the operator has put it."""
        return recipient if self.via is None else replace(recipient, via=self.via)


@dataclass(slots=True, eq=False)
class Work:
    """
    What is to be done for the recipients of one entry in one lane; it is held by one attempt at most.

    Shape:  `is_withdrawn`: the operator has taken it out of memory before its turn; `has_more`: others of the entry have become
            due in the lane meanwhile, and are looked for when it has ended; `orders` are what the operator wants to be
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
    has_more: bool = False
    orders: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    afterwards: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        content = self.entry.content.in_memory
        self.octets = len(content) if content is not None else 0
        self.priority = self.entry.envelope.requests.priority
