"""
The words of SMTP, submission and LMTP: commands, and the events that they become.

A line is parsed once, into values that every room shares or into the reply that refuses it. Nothing here knows a session.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mailstack.mail import reply as replies
from mailstack.mail.address import Address, AddressError, parse_address
from mailstack.mail.envelope import BodyType
from mailstack.mail.reply import Reply
from mailstack.wire import grammar
from mailstack.wire.sasl import Credentials


class Verb(enum.Enum):
    """The commands of RFC 5321, RFC 2033 (LHLO), RFC 3030 (BDAT), RFC 3207 (STARTTLS) and RFC 4954 (AUTH)."""

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
    """MAIL: `parameters` are those given, keys in upper case; `size_octets` is what SIZE announced, within the limit."""

    reverse_path: Address | None
    size_octets: int | None = None
    body: BodyType = BodyType.SEVEN_BIT
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT."""

    forward_path: Address


@dataclass(frozen=True, slots=True)
class Data:
    """DATA; a 354 begins the content."""


@dataclass(frozen=True, slots=True)
class ContentChunk:
    """The next octets of the content, unstuffed; wants no reply."""

    octets: bytes


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
    """The end of an AUTH exchange: a 2yz reply says that the credentials are right."""

    mechanism: str
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT."""


Event = Answered | Refused | Hello | Mail | Rcpt | Data | ContentChunk | ContentEnd | Reset | StartTLS | Authenticate | Quit
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


def parse_hello(argument: bytes) -> str | Reply:
    """Parse what a peer calls itself."""
    return argument.decode("ascii") if grammar.HELLO_NAME.match(argument) else replies.BAD_ARGUMENTS


def parse_mail(argument: bytes, *, size_limit_octets: int, authentication: bool) -> Mail | Reply:
    """
    Parse the argument of MAIL; `authentication` says that AUTH= may be given.

    Source:  RFC 5321 §4.1.1.2; RFC 1870 §6.1; RFC 6152 §3; RFC 4954 §5.
    """
    split = _split_path(b"FROM:", argument)
    if split is None:
        return replies.BAD_SENDER_ADDRESS if argument[:5].upper() == b"FROM:" else replies.BAD_ARGUMENTS
    path, rest = split
    reverse_path = _mailbox(path) if path else None
    if isinstance(reverse_path, Reply):
        return replies.BAD_SENDER_ADDRESS if reverse_path is replies.BAD_RECIPIENT_ADDRESS else reverse_path
    if not rest:
        return Mail(reverse_path)
    parameters = _parameters(rest)
    if isinstance(parameters, Reply):
        return parameters
    size_octets, body = None, BodyType.SEVEN_BIT
    for keyword, value in parameters.items():
        if keyword == "SIZE":
            if not grammar.SIZE_VALUE.match(value.encode("ascii")):
                return replies.BAD_ARGUMENTS
            size_octets = int(value)
        elif keyword == "BODY":
            if value.upper() not in ("7BIT", "8BITMIME"):
                return replies.BAD_ARGUMENTS
            body = BodyType(value.upper())
        elif keyword == "AUTH" and authentication:
            # Nobody is trusted to vouch for a third party, so what it says is checked and left alone (RFC 4954 §5).
            if value != "<>" and not grammar.decode_xtext(value.encode("ascii")):
                return replies.BAD_ARGUMENTS
        else:
            return replies.UNKNOWN_PARAMETER
    if size_octets is not None and size_octets > size_limit_octets:
        return replies.MESSAGE_TOO_BIG
    return Mail(reverse_path, size_octets, body, parameters)


def parse_rcpt(argument: bytes) -> Rcpt | Reply:
    """
    Parse the argument of RCPT.

    Source:  RFC 5321 §4.1.1.3; §4.5.1 for the postmaster without a domain.
    """
    split = _split_path(b"TO:", argument)
    if split is None:
        return replies.BAD_RECIPIENT_ADDRESS if argument[:3].upper() == b"TO:" else replies.BAD_ARGUMENTS
    path, rest = split
    if path.lower() == b"postmaster":
        forward_path: Address | Reply = Address("postmaster", "")
    else:
        forward_path = _mailbox(path)
    if isinstance(forward_path, Reply):
        return forward_path
    if rest:
        parameters = _parameters(rest)
        return parameters if isinstance(parameters, Reply) else replies.UNKNOWN_PARAMETER
    return Rcpt(forward_path)


def _split_path(keyword: bytes, argument: bytes) -> tuple[bytes, bytes] | None:
    """Cut `FROM:<path> parameters` in two."""
    if argument[: len(keyword)].upper() != keyword:
        return None
    found = grammar.PATH.match(argument, len(keyword))
    if found is None:
        return None
    rest = argument[found.end() :]
    return None if rest and not rest.startswith(b" ") else (found[1], rest)


def _mailbox(path: bytes) -> Address | Reply:
    """Parse what stands between the brackets, without its source route."""
    route = grammar.SOURCE_ROUTE.match(path)
    if route is not None:
        path = path[route.end() :]
    try:
        address = parse_address(path.decode("utf-8"))
    except (UnicodeDecodeError, AddressError):
        return replies.BAD_RECIPIENT_ADDRESS
    return address if address.is_ascii else replies.NEEDS_SMTPUTF8


def _parameters(rest: bytes) -> dict[str, str] | Reply:
    parameters: dict[str, str] = {}
    for each in rest.split(b" "):
        if not each:
            continue
        found = grammar.ESMTP_PARAMETER.match(each)
        if found is None:
            return replies.BAD_ARGUMENTS
        keyword = found[1].decode("ascii").upper()
        if keyword in parameters:
            return replies.BAD_ARGUMENTS
        parameters[keyword] = (found[2] or b"").decode("ascii")
    return parameters
