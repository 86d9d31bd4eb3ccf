"""
The words of SMTP, submission and LMTP: commands, and the events that they become.

A line is parsed once, into values that every room shares or into the reply that refuses it. Nothing here knows a session.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from mailstack.mail import reply as replies
from mailstack.mail.address import Address, AddressError, parse_address
from mailstack.mail.envelope import BodyType
from mailstack.mail.reply import Reply
from mailstack.mail.requests import Notify, OriginalRecipient, Return
from mailstack.mail.scram import ScramProof
from mailstack.wire import grammar
from mailstack.wire.sasl import Bearer, Credentials, External, KeysWanted
from mailstack.wire.smtp_parameters import By, mail_fields, rcpt_fields, split_parameters


class Verb(enum.Enum):
    """
    The commands of RFC 5321, RFC 2033 (LHLO), RFC 3030 (BDAT), RFC 3207 (STARTTLS), RFC 4954 (AUTH), and two of Postfix
    (XCLIENT, XFORWARD).
    """

    HELO = "HELO"
    EHLO = "EHLO"
    LHLO = "LHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"
    VRFY = "VRFY"
    EXPN = "EXPN"
    HELP = "HELP"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    BDAT = "BDAT"
    XCLIENT = "XCLIENT"
    XFORWARD = "XFORWARD"
    HTTP = "an HTTP method"

    __hash__ = object.__hash__  # Enum's own hashes the name, in Python: half of what a look into a table costs


_HTTP_METHODS: Final = (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH", b"PRI")

VERBS: Final[Mapping[bytes, Verb]] = {
    **{verb.value.encode("ascii"): verb for verb in Verb if verb is not Verb.HTTP},
    **dict.fromkeys(_HTTP_METHODS, Verb.HTTP),
}


@dataclass(frozen=True, slots=True)
class Command:
    """A line that has the form of a command."""

    verb: Verb
    argument: bytes = b""


@dataclass(frozen=True, slots=True)
class Chunk:
    """BDAT: so many octets follow, and with `is_last` the content ends with them."""

    octets: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A command that needs nobody outside the core: send the reply."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """Something wrong in its form or its place: count it, and send the reply; after one that `closes` the session is over."""

    reply: Reply
    closes: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """EHLO or LHLO (`extended`) or HELO; `reply` is the answer when nobody objects."""

    name: str
    extended: bool
    reply: Reply


@dataclass(frozen=True, slots=True)
class Mail:
    """
    MAIL: `parameters` are those given, keys in upper case, and what they mean stands in the fields.

    Shape:  `size_octets` is what SIZE announced, within the limit; `envelope_id` is decoded. Times are as the peer gave them:
            seconds from now (`by`, `hold_seconds`), or since 1970 (`hold_until`); no more than one of the latter two.
    Source: `smtp_parameters`.
    """

    reverse_path: Address | None
    size_octets: int | None = None
    body: BodyType = BodyType.SEVEN_BIT
    parameters: Mapping[str, str] = field(default_factory=dict)
    smtputf8: bool = False
    returns: Return | None = None
    envelope_id: str | None = None
    requires_tls: bool = False
    by: By | None = None
    hold_seconds: int | None = None
    hold_until: float | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT; of what `notify` says nothing (None), the sender is told of failures (RFC 3461 §4.1)."""

    forward_path: Address
    notify: frozenset[Notify] | None = None
    original_recipient: OriginalRecipient | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """
    DATA, or the first BDAT of a content; a 354 begins the content.

    To BDAT that 354 is not sent: the peer has sent its octets already.
    """


@dataclass(frozen=True, slots=True)
class ContentChunk:
    """The next octets of the content, unstuffed and without binary parts; wants no reply."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class ChunkEnd:
    """The octets of a BDAT are there, so many, and others will follow: send the reply."""

    reply: Reply
    octets: int


@dataclass(frozen=True, slots=True)
class ContentEnd:
    """
    The content is complete: `octets` counts those of its chunks.

    Shape:  wants `replies` replies, in LMTP one for each recipient, in their order; with a `refusal` each of them is that, and
            the chunks were not the whole content.
    """

    octets: int
    replies: int = 1
    refusal: Reply | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """RSET."""


@dataclass(frozen=True, slots=True)
class StartTLS:
    """STARTTLS: after a 220 the caller calls `tls_started()` and begins TLS."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """
    The end of an AUTH exchange: a 2yz reply says that the credentials are right.

    Before it a KeysWanted may come, which wants `give_keys` in place of a reply, or a reply that ends the exchange. A 5yz reply
    to a Bearer is not sent at once: the client is told why first, and gets it when it has answered that.
    """

    mechanism: str
    credentials: Credentials | ScramProof | External | Bearer


@dataclass(frozen=True, slots=True)
class XClient:
    """
    XCLIENT: who the client is, from somebody who may say so; the reply is a greeting, and the session begins anew.

    Shape:   `attributes` are those given, names in upper case, values checked, or "" where the speaker does not know.
    Source:  `smtp_clients`.
    """

    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class XForward:
    """XFORWARD: of whom the next message is, for the log; `attributes` as of XClient."""

    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT."""


Event = (
    Answered
    | Refused
    | Hello
    | Mail
    | Rcpt
    | Data
    | ContentChunk
    | ChunkEnd
    | ContentEnd
    | Reset
    | StartTLS
    | KeysWanted
    | Authenticate
    | XClient
    | XForward
    | Quit
)
"""What a server core makes of the peer's octets."""


def parse_command(line: bytes) -> Command | Reply:
    """Parse a line, given without its CRLF."""
    if grammar.CONTROL.search(line):
        return replies.SYNTAX_ERROR
    found = grammar.COMMAND.match(line.rstrip(b" "))
    if found is None:
        return replies.UNKNOWN_COMMAND
    verb = VERBS.get(found[1].upper())
    return replies.UNKNOWN_COMMAND if verb is None else Command(verb, found[2] or b"")


def parse_bdat(argument: bytes) -> Chunk | None:
    """
    Parse the argument of BDAT; None when nobody can say how many octets follow.

    Source:  RFC 3030 §2.
    """
    found = grammar.CHUNK.match(argument)
    return Chunk(int(found[1]), found[2] is not None) if found else None


def parse_hello(argument: bytes) -> str | Reply:
    """Parse what a peer calls itself."""
    return argument.decode("ascii") if grammar.HELLO_NAME.match(argument) else replies.BAD_ARGUMENTS


def parse_mail(argument: bytes, *, announced: Set[str], size_limit_octets: int) -> Mail | Reply:
    """
    Parse the argument of MAIL; `announced` are the extensions that the peer was told of.

    Source:  RFC 5321 §4.1.1.2.
    """
    split = _split_path(b"FROM:", argument)
    if split is None:
        return replies.BAD_SENDER_ADDRESS if argument[:5].upper() == b"FROM:" else replies.BAD_ARGUMENTS
    path, rest = split
    parameters: dict[str, str] | Reply = split_parameters(rest) if rest else {}
    if isinstance(parameters, Reply):
        return parameters
    reverse_path = _mailbox(path, is_utf8="SMTPUTF8" in parameters and "SMTPUTF8" in announced) if path else None
    if isinstance(reverse_path, Reply):
        return replies.BAD_SENDER_ADDRESS if reverse_path is replies.BAD_RECIPIENT_ADDRESS else reverse_path
    if not parameters:
        return Mail(reverse_path)
    fields = mail_fields(parameters, announced)
    if isinstance(fields, Reply):
        return fields
    mail = Mail(reverse_path, parameters=parameters, **fields)
    if mail.size_octets is not None and mail.size_octets > size_limit_octets:
        return replies.MESSAGE_TOO_BIG
    return mail


def parse_rcpt(argument: bytes, *, announced: Set[str] = frozenset(), is_utf8: bool = False) -> Rcpt | Reply:
    """
    Parse the argument of RCPT; `announced` as for `parse_mail`; `is_utf8`: MAIL said SMTPUTF8.

    Source:  RFC 5321 §4.1.1.3; §4.5.1 for the postmaster without a domain.
    """
    split = _split_path(b"TO:", argument)
    if split is None:
        return replies.BAD_RECIPIENT_ADDRESS if argument[:3].upper() == b"TO:" else replies.BAD_ARGUMENTS
    path, rest = split
    if path.lower() == b"postmaster":
        forward_path: Address | Reply = Address("postmaster", "")
    else:
        forward_path = _mailbox(path, is_utf8=is_utf8)
    if isinstance(forward_path, Reply):
        return forward_path
    if not rest:
        return Rcpt(forward_path)
    parameters = split_parameters(rest, is_utf8=is_utf8)
    fields = parameters if isinstance(parameters, Reply) else rcpt_fields(parameters, announced)
    return fields if isinstance(fields, Reply) else Rcpt(forward_path, **fields)


def _split_path(keyword: bytes, argument: bytes) -> tuple[bytes, bytes] | None:
    """Cut `FROM:<path> parameters` in two."""
    if argument[: len(keyword)].upper() != keyword:
        return None
    found = grammar.PATH.match(argument, len(keyword))
    if found is None:
        return None
    rest = argument[found.end() :]
    return None if rest and not rest.startswith(b" ") else (found[1], rest)


def _mailbox(path: bytes, *, is_utf8: bool) -> Address | Reply:
    """Parse what stands between the brackets, without its source route."""
    route = grammar.SOURCE_ROUTE.match(path)
    if route is not None:
        path = path[route.end() :]
    try:
        address = parse_address(path.decode("utf-8"))
    except (UnicodeDecodeError, AddressError):
        return replies.BAD_RECIPIENT_ADDRESS
    return address if is_utf8 or path.isascii() else replies.NEEDS_SMTPUTF8
