"""
SASL exchanges by which a client shows a token that somebody else gave it: OAUTHBEARER (RFC 7628) and XOAUTH2, its forerunner.

Both are one message of the client. When the token is refused the client is told why, in JSON, and answers with anything; only
then the exchange has failed (RFC 7628 §3.2.3).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from mailstack.wire.errors import SaslMalformedError
from mailstack.wire.sasl import IDENTITY_OCTETS, Challenge, decode_response

TOKEN_OCTETS: Final = 8_192
_SEPARATOR: Final = b"\x01"
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*\Z")  # RFC 6750 §2.1, b64token
_PAIR: Final = re.compile(rb"([A-Za-z]{1,32})=([ -~\t\r\n]*)\Z")  # RFC 7628 §3.1, kvpair
_NAME: Final = re.compile(rb"[^\x00-\x1f\x7f]+\Z")


@dataclass(frozen=True, slots=True)
class Bearer:
    """
    A token, and for whom the client says it is: UTF-8, or b"" when it leaves that to the token.

    Shape:  the token is of the alphabet of RFC 6750 §2.1, and at most TOKEN_OCTETS.
    """

    username: bytes
    token: bytes = field(repr=False)


class OAuthBearerExchange:
    """OAUTHBEARER: `n,a=user@example.org,` and pairs between octets 1, of which `auth` is the token (RFC 7628 §3.1)."""

    def step(self, line: bytes | None) -> Challenge | Bearer:
        """Take the message; an empty challenge asks for it."""
        if line is None:
            return Challenge(b"")
        header, *pairs = decode_response(line).split(_SEPARATOR)
        if len(pairs) < 3 or pairs[-2:] != [b"", b""]:
            raise SaslMalformedError("OAUTHBEARER wants pairs, and an octet 1 behind the last")
        return _bearer(_gs2_name(header), _pairs(pairs[:-2]))


class XOAuth2Exchange:
    """XOAUTH2: the pairs `user` and `auth`, each ended by an octet 1, and one octet 1 more."""

    def step(self, line: bytes | None) -> Challenge | Bearer:
        """Take the message; an empty challenge asks for it."""
        if line is None:
            return Challenge(b"")
        pairs = decode_response(line).split(_SEPARATOR)
        if len(pairs) < 3 or pairs[-2:] != [b"", b""]:
            raise SaslMalformedError("XOAUTH2 wants pairs, and an octet 1 behind the last")
        found = _pairs(pairs[:-2])
        return _bearer(found.get(b"user", b""), found)


def refusal_challenge() -> Challenge:
    """Say that the token is not good (RFC 7628 §3.2.2)."""
    return Challenge(json.dumps({"status": "invalid_token"}).encode("ascii"))


def _gs2_name(header: bytes) -> bytes:
    """Return the name in a GS2 header (RFC 5801 §4); there is no channel binding here."""
    parts = header.split(b",")
    if len(parts) != 3 or parts[0] not in (b"n", b"y") or parts[2]:
        raise SaslMalformedError("bad GS2 header")
    if not parts[1]:
        return b""
    if not parts[1].startswith(b"a="):
        raise SaslMalformedError("bad GS2 header")
    name = parts[1][2:]
    if re.search(rb"=(?!2C|3D)", name):  # "," and "=" are written so, and nothing else is (RFC 5801 §4, saslname)
        raise SaslMalformedError("bad GS2 header")
    return name.replace(b"=2C", b",").replace(b"=3D", b"=")


def _pairs(octets: list[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for each in octets:
        pair = _PAIR.match(each) or _USER_PAIR.match(each)
        if pair is None or pair[1].lower() in found:
            raise SaslMalformedError("bad pairs")
        found[pair[1].lower()] = pair[2]
    return found


_USER_PAIR: Final = re.compile(rb"(user)=([^\x00-\x1f\x7f]*)\Z")


def _bearer(username: bytes, pairs: dict[bytes, bytes]) -> Bearer:
    scheme, _, token = pairs.get(b"auth", b"").partition(b" ")
    if scheme.lower() != b"bearer" or len(token) > TOKEN_OCTETS or not _TOKEN.match(token):
        raise SaslMalformedError("no bearer token")
    if username and (len(username) > IDENTITY_OCTETS or not _NAME.match(username)):
        raise SaslMalformedError("bad name")
    try:
        username.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SaslMalformedError("not UTF-8") from error
    return Bearer(username, token)
