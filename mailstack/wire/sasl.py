"""
SASL exchanges: what they have in common, and PLAIN, LOGIN and EXTERNAL (RFC 4422).

An exchange of the server is a small object: `step(line)` takes the client's base64 line (or None when there was no initial
response) and returns the next Challenge or, at the end, Credentials, a ScramProof, External or a Bearer. Whether they are right
is for others to say. In the midst it may want the keys of a user; it goes on when `give_keys` brings them. A token that is not
right is not the end: `refuse` says so to the client, which answers.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final, Protocol

from mailstack.mail.scram import ScramProof
from mailstack.wire.errors import SaslCancelledError, SaslMalformedError
from mailstack.wire.limits import SASL_OCTETS

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
IDENTITY_OCTETS: Final = 255  # RFC 4616 §2 recommends to accept as many
TOKEN_OCTETS: Final = 8_192  # those with all rights of a user in them have some 2,000


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the server says next, not yet encoded."""

    octets: bytes

    @property
    def encoded(self) -> str:
        """The challenge in base64, as it goes onto the wire."""
        return base64.b64encode(self.octets).decode("ascii")


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    What the client claims to be.

    Shape:  UTF-8 octets; names are not empty and hold no control octet; `authorization_id` is b"" when it was not given.
    """

    username: bytes
    password: bytes = field(repr=False)
    authorization_id: bytes = b""

    @property
    def acts_for_other(self) -> bool:
        """Whether the client asks to act as somebody else than it authenticates as."""
        return self.authorization_id not in (b"", self.username)


@dataclass(frozen=True, slots=True)
class KeysWanted:
    """
    An exchange cannot go on without the keys of a user: `give_keys` gives it those, or others that nobody has.

    Shape:  UTF-8 octets, not empty and without control octets.
    """

    username: bytes


@dataclass(frozen=True, slots=True)
class External:
    """
    The client claims to be whom its certificate names, and perhaps which of them.

    Shape:  as in Credentials.
    """

    authorization_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Bearer:
    """
    A token, and for whom the client wants to act, or b"" when it leaves that to the token.

    Shape:  `authorization_id` as in Credentials; the token is of the alphabet of RFC 6750 §2.1, and at most TOKEN_OCTETS.
    """

    token: bytes = field(repr=False)
    authorization_id: bytes = b""


Said = Challenge | Credentials | ScramProof | KeysWanted | External | Bearer
"""What an exchange says to a line."""


class Exchange(Protocol):
    """The server side of one exchange."""

    def step(self, line: bytes | None) -> Said:
        """
        Take the client's line.

        Raises:  SaslError: the exchange is over.
        """
        ...


class PlainExchange:
    """PLAIN: one message, `authzid NUL authcid NUL passwd` (RFC 4616)."""

    def step(self, line: bytes | None) -> Challenge | Credentials:
        """Take the message; an empty challenge asks for it."""
        if line is None:
            return Challenge(b"")
        parts = decode_response(line).split(b"\0")
        if len(parts) != 3:
            raise SaslMalformedError("PLAIN wants two NUL")
        authorization_id, username, password = parts
        return _credentials(username, password, authorization_id)


class LoginExchange:
    """LOGIN: user name and password, each asked for; never standardised, and many clients know nothing else."""

    def __init__(self) -> None:
        self._username: bytes | None = None

    def step(self, line: bytes | None) -> Challenge | Credentials:
        """Take the user name, then the password."""
        if line is None:
            return Challenge(b"Username:")
        if self._username is None:
            self._username = decode_response(line)
            return Challenge(b"Password:")
        return _credentials(self._username, decode_response(line), b"")


class ExternalExchange:
    """EXTERNAL: one message, whom to act for, and mostly nothing (RFC 4422, appendix A)."""

    def step(self, line: bytes | None) -> Said:
        """Take the message; an empty challenge asks for it."""
        if line is None:
            return Challenge(b"")
        authorization_id = decode_response(line)
        check_name(authorization_id)
        return External(authorization_id)


def decode_response(line: bytes) -> bytes:
    """
    Decode one base64 line of a client; `=` alone is an empty initial response (RFC 4954 §4).

    Raises:  SaslCancelledError: it is `*`. SaslMalformedError: it is not base64, or too long.
    """
    if line == b"*":
        raise SaslCancelledError("cancelled")
    if line == b"=":
        return b""
    if len(line) > SASL_OCTETS:
        raise SaslMalformedError("too long")
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SaslMalformedError("not base64") from error


def _credentials(username: bytes, password: bytes, authorization_id: bytes) -> Credentials:
    if not username or not password:
        raise SaslMalformedError("empty user name or password")
    if b"\0" in password:
        raise SaslMalformedError("control octets")
    check_name(username)
    check_name(authorization_id)
    _check_utf8(password)
    return Credentials(username, password, authorization_id)


def check_name(octets: bytes) -> None:
    """
    Check the name of somebody; none is one, too.

    Raises:  SaslMalformedError: it is too long, holds a control octet, or is not UTF-8.
    """
    if len(octets) > IDENTITY_OCTETS:
        raise SaslMalformedError("name too long")
    if _CONTROL.search(octets):
        raise SaslMalformedError("control octets")
    _check_utf8(octets)


def _check_utf8(octets: bytes) -> None:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SaslMalformedError("not UTF-8") from error


def plain_initial_response(username: str, password: str, authorization_id: str = "") -> bytes:
    """Write what a client sends for PLAIN, encoded (RFC 4616 §2)."""
    return base64.b64encode(f"{authorization_id}\0{username}\0{password}".encode())
