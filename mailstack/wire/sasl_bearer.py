"""
SASL exchanges by which a client shows a token that somebody else gave it: OAUTHBEARER (RFC 7628) and XOAUTH2, its forerunner.

    client   n,a=alice@example.org,^Aauth=Bearer TOKEN^A^A     for whom, and by what right; ^A is the octet 1
    server   {"status": "invalid_token"}                       only when it is no good
    client   ^A                                                anything; only now the exchange has failed

A client that has no token yet may send none, and so learns of what scope one must be (RFC 7628 §4.3).
"""

from __future__ import annotations

import json
import re
from typing import Final

from mailstack.wire.errors import SaslCancelledError, SaslMalformedError, SaslRefusedError
from mailstack.wire.sasl import TOKEN_OCTETS, Bearer, Challenge, check_name, decode_response

_SEPARATOR: Final = b"\x01"
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]++=*+")  # RFC 6750 §2.1, b64token
_PAIR: Final = re.compile(rb"([A-Za-z]{1,32})=([ -~\t\r\n]*+)")  # RFC 7628 §3.1, kvpair
_USER: Final = b"user="  # of XOAUTH2 and no kvpair, since it may hold any UTF-8
_ESCAPED: Final = re.compile(rb"=(?!2C|3D)")  # RFC 5801 §4: "," and "=" are written as these, and "=" stands for nothing else


class BearerExchange:
    """
    What both have in common: one message, and one more when it does no good.

    Shape:  `scope` is that of which a token must be, for the client to know, or "".
    """

    def __init__(self, scope: str = "") -> None:
        self._scope = scope
        self._is_refused = False

    def step(self, line: bytes | None) -> Challenge | Bearer:
        """
        Take the message; an empty challenge asks for it.

        Raises:  SaslRefusedError: the client has seen why its token is no good.
        """
        if line is None:
            return Challenge(b"")
        if self._is_refused:
            raise SaslCancelledError("cancelled") if line == b"*" else SaslRefusedError("no token that is any good")
        authorization_id, pairs = self._read(decode_response(line))
        check_name(authorization_id)
        scheme, _, token = pairs.get(b"auth", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return self.refuse()
        if len(token) > TOKEN_OCTETS or not _TOKEN.fullmatch(token):
            raise SaslMalformedError("no bearer token")
        return Bearer(token, authorization_id)

    def refuse(self) -> Challenge:
        """Say that the token is no good, and of what scope one must be (RFC 7628 §3.2.2)."""
        self._is_refused = True
        return Challenge(json.dumps(self._why() | ({"scope": self._scope} if self._scope else {})).encode("ascii"))

    def _read(self, message: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        raise NotImplementedError

    def _why(self) -> dict[str, str]:
        raise NotImplementedError


class OAuthBearerExchange(BearerExchange):
    """OAUTHBEARER: a GS2 header with the name, and pairs between octets 1, of which `auth` is the token (RFC 7628 §3.1)."""

    def _read(self, message: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        header, *pairs = message.split(_SEPARATOR)
        return _gs2_name(header), _pairs(pairs)

    def _why(self) -> dict[str, str]:
        return {"status": "invalid_token"}


class XOAuth2Exchange(BearerExchange):
    """XOAUTH2: the pairs `user` and `auth`, each ended by an octet 1, and one octet 1 more (Google's, never standardised)."""

    def _read(self, message: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        user, *pairs = message.split(_SEPARATOR)
        if not user.lower().startswith(_USER):
            raise SaslMalformedError("XOAUTH2 begins with the user")
        return user[len(_USER) :], _pairs(pairs)

    def _why(self) -> dict[str, str]:
        return {"status": "401", "schemes": "bearer"}


def _gs2_name(header: bytes) -> bytes:
    """Return the name in a GS2 header (RFC 5801 §4); no channel binding is defined for these mechanisms."""
    flag, comma, rest = header.partition(b",")
    name, end, more = rest.partition(b",")
    if flag not in (b"n", b"y") or not comma or not end or more:
        raise SaslMalformedError("bad GS2 header")
    if not name:
        return b""
    if not name.startswith(b"a=") or len(name) == 2 or _ESCAPED.search(name, 2):
        raise SaslMalformedError("bad GS2 header")
    return name[2:].replace(b"=2C", b",").replace(b"=3D", b"=")


def _pairs(parts: list[bytes]) -> dict[bytes, bytes]:
    """Read what stands behind the first octet 1: pairs, each with an octet 1 behind it, and one more."""
    if len(parts) < 2 or parts[-2:] != [b"", b""]:
        raise SaslMalformedError("an octet 1 stands behind the last pair, and one more")
    found: dict[bytes, bytes] = {}
    for each in parts[:-2]:
        pair = _PAIR.fullmatch(each)
        if pair is None or pair[1].lower() in found:
            raise SaslMalformedError("bad pairs")
        found[pair[1].lower()] = pair[2]
    return found
