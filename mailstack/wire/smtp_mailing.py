"""
What a client core is told and what it says: mailings, results, phases and events.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from mailstack.mail.address import Address
from mailstack.mail.reply import Reply
from mailstack.mail.requests import NO_REQUESTS, Notify, OriginalRecipient, Requests
from mailstack.mail.status import EnhancedStatus

HONOURED: Final = frozenset(("DSN", "DELIVERBY"))
"""With a server that offers these the sender's requests are in good hands; otherwise we tell the sender."""


class Phase(enum.Enum):
    """What the client waits for, or does; each has a time limit of its own (RFC 5321 §4.5.3.2)."""

    GREETING = "greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    HANDSHAKE = "TLS handshake"
    AUTH = "AUTH"
    READY = "ready"
    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "content"
    CONTENT_END = "end of content"
    ABANDONED = "end of an empty content that nobody wants"
    OUT_OF_STEP = "out of step"
    QUIT = "QUIT"
    ENDED = "ended"

    __hash__ = object.__hash__  # each is there once; Enum's own is a call in Python, a dozen times for a message


class TLS(enum.Enum):
    """Whether STARTTLS is used: never, when offered, or always."""

    NEVER = "never"
    MAY = "may"
    MUST = "must"


@dataclass(frozen=True, slots=True)
class Login:
    """What AUTH proves. The password is not in its repr."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r})"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a sender wants to be told of one recipient (RFC 3461 §4.1, §4.2)."""

    notify: frozenset[Notify] | None = None
    original_recipient: OriginalRecipient | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailing:
    """
    One transaction.

    Shape:  `octets` is the length of the content; `eight_bit` and `smtputf8` say what the content may hold. `asked` is what the
            sender wants to be told of each recipient, in their order, or empty when that is nothing particular. `by_seconds`
            are left until the deadline of DELIVERBY, negative when it has passed.
    """

    reverse_path: Address | None
    recipients: tuple[Address, ...]
    octets: int
    eight_bit: bool = False
    smtputf8: bool = False
    requests: Requests = NO_REQUESTS
    asked: tuple[Asked, ...] = ()
    by_seconds: int | None = None

    @property
    def has_ascii_reverse_path(self) -> bool:
        """Whether a host without SMTPUTF8 can send it back."""
        return self.reverse_path is None or self.reverse_path.is_ascii


@dataclass(frozen=True, slots=True)
class Result:
    """
    What became of one recipient.

    Shape:  `phase` is where it was decided; `is_local` says that the reply is our own judgement and not the server's;
            `honours` are the extensions, of those in HONOURED, by which the server took it over.
    """

    phase: Phase
    reply: Reply
    is_local: bool = False
    honours: frozenset[str] = frozenset()

    @property
    def is_accepted(self) -> bool:
        """Whether the server has taken over the message for the recipient."""
        return self.phase is Phase.CONTENT_END and self.reply.is_success


@dataclass(frozen=True, slots=True)
class Send:
    """Write these octets."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Begin TLS on the connection; when the handshake is done, call `tls_started()`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The session can take a mailing: call `begin(mailing)` or `quit()`."""


@dataclass(frozen=True, slots=True)
class SendContent:
    """Write the content now: `content(chunk)` for each chunk, and then `end_content()`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """
    The mailing is done: a result for each recipient, in their order.

    Shape:  with `is_open` the session can take another, as after Ready. Without, the server has ended it, or nobody knows what
            it takes for commands (Phase.OUT_OF_STEP): then call `quit()`.
    """

    results: tuple[Result, ...]
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Chunkless:
    """
    The server offers CHUNKING and does not know BDAT: whom it has accepted has no result, and may be asked for by DATA.

    Shape:  the session is over; what the server reads now, it reads as commands.
    """

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """The server ends the session, or does not let it begin; recipients without a result have none from this host."""

    phase: Phase
    reply: Reply


@dataclass(frozen=True, slots=True)
class Unusable:
    """The server lacks what we insist on."""

    status: EnhancedStatus
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """QUIT is answered; close the connection."""


Event = Send | StartTLS | Ready | SendContent | Finished | Chunkless | Refused | Unusable | Closed
