"""
SCRAM-SHA-256: what is kept of a password, and what proves that somebody has it.

From the keys nobody gets the password, nor what a client must prove: who steals them can only play the server.

Source:  RFC 5802 §3; RFC 7677; RFC 5803 for the text in which keys are kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from mailstack.mail.saslprep import saslprep

ITERATIONS: Final = 60_000  # 20 ms; RFC 7677 §4 wants at least 4096, and Cyrus SASL refuses more than 65,536
MIN_ITERATIONS: Final = 4_096
SALT_OCTETS: Final = 16
KEY_OCTETS: Final = 32

_KEPT: Final = re.compile(r"SCRAM-SHA-256\$([0-9]{4,9}):([A-Za-z0-9+/=]{4,64})\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)")


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a server keeps of a password. The keys are not in its repr."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def to_text(self) -> str:
        """Write the keys as one word, to be kept and not to be shown (RFC 5803 §2)."""
        salt, stored, server = (
            base64.b64encode(each).decode("ascii") for each in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"

    def signature(self, auth_message: bytes) -> bytes:
        """Return what proves to the client that the server has its keys."""
        return hmac.digest(self.server_key, auth_message, hashlib.sha256)


@dataclass(frozen=True, slots=True)
class ScramProof:
    """
    What a client has shown in an exchange that it claims to have won.

    Shape:  UTF-8 octets without control characters; `authorization_id` is b"" when it was not given. `auth_message` is all that
            both have said, and `proof` has KEY_OCTETS.
    """

    username: bytes
    auth_message: bytes = field(repr=False)
    proof: bytes = field(repr=False)
    authorization_id: bytes = b""

    @property
    def acts_for_other(self) -> bool:
        """Whether the client asks to act as somebody else than it authenticates as."""
        return self.authorization_id not in (b"", self.username)

    def is_by(self, keys: ScramKeys) -> bool:
        """Say whether it was made with the password of which these keys are."""
        client_key = _xor(self.proof, hmac.digest(keys.stored_key, self.auth_message, hashlib.sha256))
        return hmac.compare_digest(hashlib.sha256(client_key).digest(), keys.stored_key)


def salted_password(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Stretch a password; blocks, 20 ms for ITERATIONS."""
    return hashlib.pbkdf2_hmac("sha256", _prepared(password), salt, iterations)


def make_keys(password: bytes, salt: bytes, iterations: int = ITERATIONS) -> ScramKeys:
    """Make the keys of a password; blocks. The salt should be SALT_OCTETS that nobody could foresee."""
    salted = salted_password(password, salt, iterations)
    return ScramKeys(
        salt=salt,
        iterations=iterations,
        stored_key=hashlib.sha256(_client_key(salted)).digest(),
        server_key=_server_key(salted),
    )


def parse_keys(text: str) -> ScramKeys | None:
    """Read what `ScramKeys.to_text` wrote; None when it is nothing of the kind."""
    found = _KEPT.fullmatch(text)
    if found is None:
        return None
    try:
        salt, stored_key, server_key = (base64.b64decode(each, validate=True) for each in found.groups()[1:])
    except binascii.Error:
        return None
    return ScramKeys(salt, int(found[1]), stored_key, server_key)


def client_proof(salted: bytes, auth_message: bytes) -> bytes:
    """Return what a client shows of its password, salted."""
    client_key = _client_key(salted)
    return _xor(client_key, hmac.digest(hashlib.sha256(client_key).digest(), auth_message, hashlib.sha256))


def server_signature(salted: bytes, auth_message: bytes) -> bytes:
    """Return what a server that has the keys must show to the client."""
    return hmac.digest(_server_key(salted), auth_message, hashlib.sha256)


def _prepared(password: bytes) -> bytes:
    """
    Return the form of a password that is hashed.

    Deviates:  RFC 5802 §2.2 — a password that cannot be prepared is taken as it is, as PostgreSQL does; the client's own rule
               then decides whether it can log in so.
    """
    try:
        prepared = saslprep(password.decode("utf-8"))
    except UnicodeDecodeError:
        return password
    return prepared.encode() if prepared else password


def _client_key(salted: bytes) -> bytes:
    return hmac.digest(salted, b"Client Key", hashlib.sha256)


def _server_key(salted: bytes) -> bytes:
    return hmac.digest(salted, b"Server Key", hashlib.sha256)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(one, other, strict=True))
