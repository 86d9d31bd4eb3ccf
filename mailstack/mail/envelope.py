"""
The envelope: who sends to whom, and how the message reached us.

A message is its envelope and its content. The content is octets with CRLF line ends and is never in here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mailstack.mail.address import Address
from mailstack.mail.requests import NO_REQUESTS, Notify, OriginalRecipient, Requests


class Service(enum.Enum):
    """The service at which a message or a session came in (RFC 5598 §5; ports of RFC 6409, RFC 8314)."""

    SMTP = "smtp"
    SUBMISSION = "submission"
    SUBMISSIONS = "submissions"
    LMTP = "lmtp"
    POP3 = "pop3"
    POP3S = "pop3s"
    LOCAL = "local"

    @property
    def is_submission(self) -> bool:
        """Whether it is for our own users, who authenticate (RFC 6409)."""
        return self in (Service.SUBMISSION, Service.SUBMISSIONS)

    @property
    def is_implicit_tls(self) -> bool:
        """Whether TLS starts with the connection (RFC 8314 §3)."""
        return self in (Service.SUBMISSIONS, Service.POP3S)


class BodyType(enum.Enum):
    """
    BODY= of MAIL (RFC 6152 §3, RFC 3030 §3).

    BINARYMIME is what a client may say; no envelope says it, since a content is converted as it comes in.
    """

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"


@dataclass(frozen=True, slots=True)
class Account:
    """Delivery into the maildir of a local account, by its name in the directory."""

    name: str


@dataclass(frozen=True, slots=True)
class Remote:
    """Relay to the hosts of a domain: a name or an address literal, in lower case."""

    domain: str


Destination = Account | Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """
    One recipient after expansion.

    Shape:  `address` is where it goes; `original` is the forward-path that was accepted at RCPT (RFC 3461 §5 calls it
            the original recipient) and differs when an alias was expanded. What of `notify` is None was not asked for: then
            failures are told, and delays. `original_recipient` is what ORCPT said. `is_expanded` marks one of the several for
            whom `original` stands: by it the sender is told that they are several, as he wants to know. `via` is where the
            operator has it go instead of where its destination says ("smtp:[192.0.2.1]:2525"); it is no part of the envelope.
    """

    address: Address
    original: Address
    destination: Destination
    notify: frozenset[Notify] | None = None
    original_recipient: OriginalRecipient | None = None
    is_expanded: bool = False
    via: str | None = None

    @property
    def domain(self) -> str:
        """The domain for which its mail is."""
        return self.destination.domain if isinstance(self.destination, Remote) else self.address.domain

    @property
    def is_forwarded(self) -> bool:
        """Whether an address of ours led to one elsewhere."""
        return isinstance(self.destination, Remote) and self.address != self.original


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """
    How a message reached us: what the trace field, the log and policies need.

    Shape:  `hello` is the peer's name for itself, printable; `peer` is an IP address without brackets, or "" for a
            message made here or through a UNIX socket, and where nobody knows; `account` is the authenticated account or None;
            `session` names the session in the log; `name` is the host name of the peer, if somebody who is trusted said so.
    """

    service: Service
    peer: str = ""
    hello: str = ""
    extended: bool = True
    tls: str | None = None
    account: str | None = None
    session: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """
    Everything about a message that is not its content.

    Shape:  `reverse_path` None is the null reverse-path; `recipients` are in order and their index is their ordinal;
            `accepted_at` is in seconds since 1970, UTC; `smtputf8` says that only hosts with SMTPUTF8 may get it.
    """

    reverse_path: Address | None
    recipients: tuple[Recipient, ...]
    origin: Origin
    accepted_at: float
    body: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    requests: Requests = NO_REQUESTS

    @property
    def due_at(self) -> float:
        """When it may be attempted first, and from when on its lifetime counts (RFC 4865 §4)."""
        held_until = self.requests.held_until
        return self.accepted_at if held_until is None else max(self.accepted_at, held_until)


class Content(Protocol):
    """
    The octets of a message, with CRLF line ends; read as often as needed.

    `in_memory` is the whole content when it is small, so that nobody need enter a thread for it, else None. `chunks` may block
    when `in_memory` is None: call it in a thread then.
    """

    @property
    def octets(self) -> int:
        """The length."""

    @property
    def in_memory(self) -> bytes | None:
        """The whole, or None when it is on disk."""

    def chunks(self, size_octets: int = 262_144) -> Iterator[bytes]:
        """Yield it in pieces."""
        ...

    def file_with(self, head: bytes) -> str | None:
        """
        Return the path of a file that holds the head and then the content, and nothing else; None: there is none.

        Whoever wants that file may make a link to it, instead of a copy. May block, as `chunks`.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """
    What one attempt is given: recipients of one entry that have the same destination.

    Shape:  `entry` is the spool's name for the message, `[0-9a-z]{13}`, unique for ever; `recipients` maps ordinals to
            recipients; `attempt` counts from 1; `may_repeat` is False only when no earlier attempt can have happened. With
            `all_or_none` nobody gets it when somebody cannot, which only a courier to accounts can do. What a courier adds to
            `afterwards` is called when the outcomes are on disk; None: nobody will call anything. `released` are the ordinals
            of those whom a courier has held, and the operator has let go.
    """

    entry: str
    envelope: Envelope
    recipients: dict[int, Recipient]
    content: Content
    attempt: int
    may_repeat: bool
    all_or_none: bool = False
    afterwards: list[Callable[[], None]] | None = None
    released: frozenset[int] = frozenset()
