"""
What each mechanism of SASL may say, found from the whole of what the client has said.

It shares with the exchanges the names of what they say and nothing of how it is found: messages are split by hand, and what a
client of SCRAM must show is computed as RFC 5802 §3 writes it down.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mailstack.mail.saslprep import saslprep
from mailstack.mail.scram import ScramProof, make_keys
from mailstack.wire.mechanisms import offered_mechanisms
from mailstack.wire.sasl import Bearer, Challenge, Credentials, Exchange, External, KeysWanted, Said

SCOPE: Final = "mail"
BINDINGS: Final = {"tls-exporter": b"\1" * 32, "tls-server-end-point": b"\2" * 32}
PASSWORD, SALT, ITERATIONS, NONCE = b"p", b"salt", 4_096, "s"  # short ones, so that an exchange fits the smallest limits
KEYS: Final = make_keys(PASSWORD, SALT, ITERATIONS)

_NO_NAME: Final = re.compile("[\x00-\x1f\x7f]")
_SALTED: Final = hashlib.pbkdf2_hmac("sha256", PASSWORD, SALT, ITERATIONS)
_CLIENT_KEY: Final = hmac.digest(_SALTED, b"Client Key", "sha256")
_SERVER_KEY: Final = hmac.digest(_SALTED, b"Server Key", "sha256")


def mechanisms() -> Mapping[str, Callable[[], Exchange]]:
    """Return all that there are, those first that were first there."""
    offered = offered_mechanisms(BINDINGS, scram=True, external=True, token_scope=SCOPE)
    return dict(sorted(offered.items(), key=lambda each: each[0] not in ("PLAIN", "LOGIN")))


def check(mechanism: str, lines: Sequence[bytes], said: Said) -> None:
    """Check what an exchange says to the last of the client's lines; an initial response that is not there is none of them."""
    messages = [b"" if line == b"=" else base64.b64decode(line, validate=True) for line in lines]
    match said:
        case Challenge(octets):
            assert base64.b64decode(said.encoded) == octets
            _check_challenge(mechanism, messages, octets)
        case KeysWanted(username):
            assert mechanism.startswith("SCRAM-SHA-256")
            assert len(messages) == 1
            _check_name(username, _scram_name(messages[0]))
        case Credentials(username, password, other):
            assert mechanism in ("PLAIN", "LOGIN")
            parts = messages[0].split(b"\0") if mechanism == "PLAIN" else [b"", *messages]
            assert parts == [other, username, password]
            assert password
            _check_name(username, parts[1])
            assert repr(said) == repr(Credentials(username, b"", other)), "the password is shown"
        case External(other):
            assert mechanism == "EXTERNAL"
            assert messages == [other]
            assert not _NO_NAME.search(other.decode())
        case ScramProof():
            assert mechanism.startswith("SCRAM-SHA-256")
            _check_proof(messages, said)
        case Bearer(token, other):
            assert mechanism in ("OAUTHBEARER", "XOAUTH2")
            assert re.fullmatch(rb"[A-Za-z0-9._~+/-]+=*", token)
            assert _tokens(messages) == [token]
            assert other == _bearers_name(mechanism, messages[0])
            assert not _NO_NAME.search(other.decode())
            assert repr(said) == repr(Bearer(b"", other)), "the token is shown"


def check_refusal(challenge: Challenge) -> None:
    """Check what is said of a token that is refused."""
    told = json.loads(challenge.octets)
    assert told["scope"] == SCOPE
    assert told["status"] in ("invalid_token", "401")


def _check_name(name: bytes, said: bytes) -> None:
    assert name == said
    assert name
    assert not _NO_NAME.search(name.decode())


def _check_challenge(mechanism: str, messages: Sequence[bytes], octets: bytes) -> None:
    if mechanism == "LOGIN":
        assert octets == (b"Username:", b"Password:")[len(messages)]
    elif not messages:
        assert octets == b""
    elif mechanism.startswith("SCRAM-SHA-256"):
        assert len(messages) == 2, "nothing is said but to the right proof"
        assert _is_right(messages)
        assert not _scram_other(messages[0])
        assert octets == b"v=" + base64.b64encode(hmac.digest(_SERVER_KEY, _auth_message(messages), "sha256"))
    else:
        assert mechanism in ("OAUTHBEARER", "XOAUTH2")
        assert not _tokens(messages)
        check_refusal(Challenge(octets))


# SCRAM


def _unescaped(name: bytes) -> bytes:
    return b",".join(part.replace(b"=3D", b"=") for part in name.split(b"=2C"))


def _prepared(name: bytes) -> bytes:
    """Return the form in which a name counts (RFC 5802 §5.1)."""
    return (saslprep(_unescaped(name).decode()) or "").encode()


def _scram_name(first: bytes) -> bytes:
    return _prepared(first.split(b",")[2].removeprefix(b"n="))


def _scram_other(first: bytes) -> bytes:
    other = _prepared(first.split(b",")[1].removeprefix(b"a="))
    return b"" if other == _scram_name(first) else other


def server_first(first: bytes) -> bytes:
    """Return what the server says to the first message."""
    nonce = first.split(b",")[3].removeprefix(b"r=")
    return b"r=%b%b,s=%b,i=%d" % (nonce, NONCE.encode(), base64.b64encode(SALT), ITERATIONS)


def _auth_message(messages: Sequence[bytes]) -> bytes:
    first, final = messages[:2]
    return b",".join((first.split(b",", 2)[2], server_first(first), final.rpartition(b",p=")[0]))


def _is_right(messages: Sequence[bytes]) -> bool:
    signature = hmac.digest(hashlib.sha256(_CLIENT_KEY).digest(), _auth_message(messages), "sha256")
    proof = bytes(one ^ other for one, other in zip(_CLIENT_KEY, signature, strict=True))
    return base64.b64decode(messages[1].rpartition(b",p=")[2]) == proof


def _check_proof(messages: Sequence[bytes], said: ScramProof) -> None:
    first, final = messages[:2]
    flag, other, _ = first.split(b",", 2)
    channel = base64.b64decode(final.split(b",")[0].removeprefix(b"c="))
    assert channel == b"%b,%b," % (flag, other) + BINDINGS.get(flag.decode().partition("=")[2], b"")
    assert final.split(b",")[1] == server_first(first).split(b",")[0]
    assert said.is_by(KEYS) == _is_right(messages)
    assert said.auth_message == _auth_message(messages)
    _check_name(said.username, _scram_name(first))
    assert said.acts_for_other == bool(_scram_other(first))
    if len(messages) == 2:
        assert not said.is_by(KEYS) or said.acts_for_other
    else:
        assert said.is_by(KEYS)
        assert not said.acts_for_other
        assert messages[2:] == [b""]
    assert base64.b64encode(said.proof).decode() not in repr(said)


# Tokens


def _tokens(messages: Sequence[bytes]) -> list[bytes]:
    assert len(messages) == 1
    assert messages[0].endswith(b"\1\1")
    _, *pairs = messages[0].split(b"\1")
    auths = [value for name, _, value in (pair.partition(b"=") for pair in pairs) if name.lower() == b"auth"]
    assert len(auths) <= 1
    return [value[len(b"bearer ") :] for value in auths if value.lower().startswith(b"bearer ")]


def _bearers_name(mechanism: str, message: bytes) -> bytes:
    head = message.split(b"\1")[0]
    if mechanism == "XOAUTH2":
        assert head[:5].lower() == b"user="
        return head[5:]
    flag, name, rest = head.split(b",")
    assert (flag in (b"n", b"y"), rest) == (True, b"")
    return _unescaped(name.removeprefix(b"a="))
