"""
The words of POP3: commands, the events that they become, and replies.

A line is parsed once, into an `Order` or into the reply that refuses it. Numbers are as the client says them, from 1.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mailstack.mail.scram import ScramProof
from mailstack.wire.sasl import Bearer, External, KeysWanted

REPLY_OCTETS: Final = 512  # RFC 1939 §3, with CRLF
COMMAND_OCTETS: Final = 512  # RFC 2449 §4 says 255 with CRLF; addresses as user names can be longer
SECRET_OCTETS: Final = 12_288  # of PASS, AUTH and SASL responses (RFC 5034 §4)
ORDERS_KEPT: Final = 4_096  # of those with a number that were parsed last, for all sessions

_NUMBER: Final = re.compile(rb"[0-9]{1,10}")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")


class Indicator(enum.Enum):
    """The status indicators of RFC 1939 §3, and the continuation of RFC 5034 §4."""

    OK = "+OK"
    ERR = "-ERR"
    CONTINUE = "+"

    __hash__ = object.__hash__  # as that of Verb


_SAID: Final = {indicator: indicator.value for indicator in Indicator}  # `value` is a call of Python's own


@dataclass(frozen=True, slots=True)
class POP3Reply:
    """
    One reply.

    Shape:  `code` is a response code without brackets (RFC 2449 §8, RFC 3206) or ""; `lines` make it a multi-line reply, when
            they are not None; after one that `closes` the connection ends.
    """

    indicator: Indicator
    text: str
    code: str = ""
    lines: tuple[str, ...] | None = None
    closes: bool = False

    def __str__(self) -> str:
        code = f"[{self.code}] " if self.code else ""
        return f"{_SAID[self.indicator]} {code}{self.text}"

    @property
    def is_success(self) -> bool:
        """+OK."""
        return self.indicator is Indicator.OK


def ok(text: str, *lines: str) -> POP3Reply:
    """Make a +OK reply; with lines, a multi-line one."""
    return POP3Reply(Indicator.OK, text, lines=lines or None)


def err(text: str, code: str = "", *, closes: bool = False) -> POP3Reply:
    """Make an -ERR reply."""
    return POP3Reply(Indicator.ERR, text, code, closes=closes)


def format_pop3_reply(reply: POP3Reply) -> bytes:
    """Write a reply as octets, its first line within 512, whatever its text holds."""
    text = str(reply)
    if len(text) > REPLY_OCTETS - 2 or not (text.isascii() and text.isprintable()):
        text = _UNPRINTABLE.sub("?", text)[: REPLY_OCTETS - 2]
    first = text.encode("ascii") + b"\r\n"
    if reply.lines is None:
        return first
    rest = "".join(("." if line.startswith(".") else "") + line + "\r\n" for line in reply.lines)
    return first + rest.encode("ascii") + b".\r\n"


def challenge(encoded: str) -> POP3Reply:
    """Make the reply that goes on with an exchange of SASL (RFC 5034 §4)."""
    return POP3Reply(Indicator.CONTINUE, encoded)


CHALLENGE: Final = challenge("")
GREETING: Final = ok("POP3 server ready")
USER_OK: Final = ok("Send PASS")
NOOP_OK: Final = ok("Nothing done")
START_TLS: Final = ok("Begin TLS negotiation")
BYE: Final = POP3Reply(Indicator.OK, "Bye", closes=True)

AUTH_FAILED: Final = err("Authentication failed", "AUTH")
AUTH_CANCELLED: Final = err("Authentication cancelled")
BAD_AUTH_RESPONSE: Final = err("Cannot decode the response")
UNKNOWN_MECHANISM: Final = err("Mechanism not supported")
TLS_REQUIRED: Final = err("Use STLS first", "SYS/PERM")
TLS_NEEDED: Final = err("Log in over TLS only", "SYS/PERM")
TLS_ACTIVE: Final = err("TLS is active already")
TLS_UNAVAILABLE: Final = err("TLS is not available")
TLS_INJECTION: Final = err("Octets after STLS", "SYS/PERM", closes=True)
IN_USE: Final = err("Another session has the maildrop open", "IN-USE")
LOGIN_UNAVAILABLE: Final = err("Temporary authentication failure", "SYS/TEMP")
LOCAL_ERROR: Final = err("Local error, try again later", "SYS/TEMP")
NOT_REMOVED: Final = err("some deleted messages not removed", "SYS/TEMP", closes=True)
SHUTTING_DOWN: Final = err("shutting down", "SYS/TEMP", closes=True)
TIMED_OUT: Final = err("Timeout, closing connection", closes=True)
TOO_MANY_CONNECTIONS: Final = err("Too many connections, try again later", "SYS/TEMP", closes=True)
TOO_MANY_ERRORS: Final = err("Too many errors", closes=True)
TOO_MANY_FAILURES: Final = err("Authentication failed", "AUTH", closes=True)

UNKNOWN_COMMAND: Final = err("Unknown command")
BAD_STATE: Final = err("Command not valid in this state")
LINE_TOO_LONG: Final = err("Line too long")
BAD_LINE: Final = err("Lines must end with CRLF")
NO_ARGUMENT: Final = err("Argument missing")
EXTRA_ARGUMENT: Final = err("Too many arguments")
BAD_ARGUMENT: Final = err("Bad argument")
BAD_NUMBER: Final = err("Bad message number")
NO_SUCH_MESSAGE: Final = err("No such message")
IS_DELETED: Final = err("Message is deleted")
IS_GONE: Final = err("Message is no longer there")


class Verb(enum.Enum):
    """The commands of RFC 1939, RFC 2449 (CAPA), RFC 2595 (STLS) and RFC 5034 (AUTH)."""

    USER = "USER"
    PASS = "PASS"  # noqa: S105 (a command)
    AUTH = "AUTH"
    STLS = "STLS"
    CAPA = "CAPA"
    STAT = "STAT"
    LIST = "LIST"
    UIDL = "UIDL"
    RETR = "RETR"
    TOP = "TOP"
    DELE = "DELE"
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"

    __hash__ = object.__hash__  # enum's own is written in Python, and every command looks itself up


VERBS: Final[Mapping[bytes, Verb]] = {verb.value.encode("ascii"): verb for verb in Verb}
_NUMBERED: Final = frozenset({b"RETR ", b"DELE "})
_NUMBERED_OCTETS: Final = 20  # the longest number and some spaces


@dataclass(frozen=True, slots=True)
class Order:
    """A well-formed command: its verb, and its arguments by their kind."""

    verb: Verb
    text: bytes = b""
    number: int | None = None
    lines: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """A command that needs nobody outside the core: send the reply."""

    reply: POP3Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that is wrong in its form or its place: count it, and send the reply."""

    reply: POP3Reply


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password, by USER and PASS or by AUTH PLAIN; either may hold any octets but CR and LF."""

    username: bytes
    password: bytes

    def __repr__(self) -> str:
        return f"Login({self.username!r}, …)"


@dataclass(frozen=True, slots=True)
class Leave:
    """QUIT; `commit` when there is a maildrop whose deletions are to be carried out (RFC 1939 §6)."""

    commit: bool


@dataclass(frozen=True, slots=True)
class Prove:
    """The end of an exchange of SCRAM. Before it a KeysWanted comes; it wants `give_keys` in place of a reply, or -ERR."""

    proof: ScramProof


@dataclass(frozen=True, slots=True)
class Show:
    """A token. AUTH_FAILED is not sent at once: the client is told why first, and gets it when it has answered that."""

    bearer: Bearer


@dataclass(frozen=True, slots=True)
class Certify:
    """Whom the client wants to be of those whom its certificate names."""

    external: External


Event = Answered | Refused | Login | KeysWanted | Prove | Show | Certify | Leave | Order
"""What a core makes of the client's octets; an Order is STLS or a command on the maildrop."""


def parse_order(line: bytes) -> Order | POP3Reply:
    """
    Parse a command line, given without its CRLF.

    Shape:   spaces at the end are ignored, but for PASS, whose argument is the whole rest (RFC 1939 §7).
    """
    word, _, rest = line.partition(b" ")
    verb = VERBS.get(word) or VERBS.get(word.upper())
    if verb is None:
        return UNKNOWN_COMMAND if len(line) <= COMMAND_OCTETS else LINE_TOO_LONG
    if verb is Verb.PASS:
        return Order(verb, rest) if rest else NO_ARGUMENT
    if verb is not Verb.AUTH and len(line) > COMMAND_OCTETS:
        return LINE_TOO_LONG
    return _ARGUMENTS.get(verb, _nothing)(verb, rest.rstrip(b" "))


def whole_order(octets: bytes) -> Order | None:
    """
    Parse what came from the network, if it is exactly one command of those that come by the thousand, with its CRLF.

    They are the same for every maildrop, so those that were parsed last are remembered. Lines with secrets are not looked at.
    """
    return _numbered(octets) if octets[:5] in _NUMBERED and len(octets) <= _NUMBERED_OCTETS else None


@functools.lru_cache(ORDERS_KEPT)
def _numbered(octets: bytes) -> Order | None:
    order = (
        parse_order(octets[:-2]) if octets.find(b"\n") == len(octets) - 1 and octets.find(b"\r") == len(octets) - 2 else None
    )
    return order if isinstance(order, Order) else None


def _nothing(verb: Verb, rest: bytes) -> Order | POP3Reply:
    return EXTRA_ARGUMENT if rest else Order(verb)


def _name(verb: Verb, rest: bytes) -> Order | POP3Reply:
    if not rest:
        return NO_ARGUMENT
    return BAD_ARGUMENT if _CONTROL.search(rest) else Order(verb, rest)


def _text(verb: Verb, rest: bytes) -> Order | POP3Reply:
    return Order(verb, rest) if rest else NO_ARGUMENT


def _number(verb: Verb, rest: bytes) -> Order | POP3Reply:
    if not rest:
        return NO_ARGUMENT
    number = _parsed(rest)
    if not number:
        return BAD_NUMBER if number == 0 or b" " not in rest else EXTRA_ARGUMENT
    return Order(verb, number=number)


def _number_or_nothing(verb: Verb, rest: bytes) -> Order | POP3Reply:
    return _number(verb, rest) if rest else Order(verb)


def _number_and_lines(verb: Verb, rest: bytes) -> Order | POP3Reply:
    first, space, second = rest.partition(b" ")
    number, lines = _parsed(first), _parsed(second)
    if not number:
        return BAD_NUMBER if first else NO_ARGUMENT
    if lines is None:
        return BAD_ARGUMENT if space else NO_ARGUMENT
    return Order(verb, number=number, lines=lines)


def _parsed(digits: bytes) -> int | None:
    return int(digits) if _NUMBER.fullmatch(digits) else None


_ARGUMENTS: Final[Mapping[Verb, Callable[[Verb, bytes], Order | POP3Reply]]] = {
    Verb.USER: _name,
    Verb.AUTH: _text,
    Verb.LIST: _number_or_nothing,
    Verb.UIDL: _number_or_nothing,
    Verb.RETR: _number,
    Verb.DELE: _number,
    Verb.TOP: _number_and_lines,
}
