"""
Passwords: hashed with Argon2id, verified in a thread, and remembered for a minute when right; and their keys for SCRAM.

An unknown account costs what a known one costs: a dummy is verified in its place, so that time does not tell who exists. A
right password is remembered for CACHE_SECONDS as an HMAC under a key of this process, because POP3 clients log in again and
again and each hash takes 30 ms and 19 MiB. The remembered value covers the stored hash: a changed password forgets it at once.

The keys for SCRAM cannot be made of the Argon2 hash, so they are made along with it, when a password is set. They are cheaper
to guess from than it is, by whoever has stolen the file: RFC 7677 §4 knows only PBKDF2.

Source: RFC 9106; the parameters are the second profile of the OWASP Password Storage Cheat Sheet. RFC 7677 for SCRAM.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from mailstack.mail.scram import ITERATIONS, SALT_OCTETS, ScramKeys, make_keys

PASSWORD_OCTETS: Final = 1024
CACHE_SECONDS: Final = 60.0
CACHE_ITEMS: Final = 10_000
TIME_COST: Final = 2
MEMORY_KIB: Final = 19_456
PARALLELISM: Final = 1

RunInThread = Callable[..., Awaitable[Any]]
"""`run_in_thread(function, *arguments)`: call it in a thread, and await what it returned or raised."""


class Hasher(Protocol):
    """Hashes and verifies; both block."""

    @property
    def dummy(self) -> str:
        """A hash of nobody's password, as costly as any other."""

    def hash(self, password: bytes) -> str:
        """Make the encoded hash of a password with a new salt."""
        ...

    def verify(self, encoded: str, password: bytes) -> bool:
        """Say whether the password is the one that was hashed; a hash that is none is nobody's."""
        ...


class Argon2Hasher:
    """Argon2id with OWASP's parameters: 2 passes over 19 MiB in one lane."""

    # Of a random password that nobody kept. Made with the parameters above; a test compares them.
    dummy: Final = "$argon2id$v=19$m=19456,t=2,p=1$t+L8XSHtDUL3zAHqQEchug$dImd7zQijUH9Q8v41W8SFgC6NZ5t9yD37WfjxRIbvkI"

    def __init__(self) -> None:
        from argon2 import PasswordHasher  # not needed by most commands, and slow to import

        self._argon2 = PasswordHasher(time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=PARALLELISM)

    def hash(self, password: bytes) -> str:
        """Make the encoded hash of a password with a new salt."""
        return self._argon2.hash(password)

    def verify(self, encoded: str, password: bytes) -> bool:
        """Say whether the password is the one that was hashed; a hash that is none is nobody's."""
        from argon2.exceptions import Argon2Error

        try:
            return self._argon2.verify(encoded, password)
        except (Argon2Error, ValueError):
            return False


def new_scram_keys(password: bytes) -> str:
    """Make what is kept of a password for SCRAM, with a new salt; blocks."""
    return make_keys(password, secrets.token_bytes(SALT_OCTETS)).to_text()


def decoy_keys(secret: bytes, name: bytes) -> ScramKeys:
    """Return keys that nobody has a password for; for the same secret and name they are the same."""
    salt, stored_key, server_key = (hmac.digest(secret, use + name, hashlib.sha256) for use in (b"1", b"2", b"3"))
    return ScramKeys(salt[:SALT_OCTETS], ITERATIONS, stored_key, server_key)


class Verifier:
    """
    Verifies passwords against stored hashes.

    Shape:  `seconds` is a monotonic clock; `cache_key` is at least 32 random octets, new for each process; `run_in_thread`
            should have few threads of its own, since each verification takes 19 MiB.
    """

    def __init__(self, hasher: Hasher, run_in_thread: RunInThread, *, seconds: Callable[[], float], cache_key: bytes) -> None:
        if len(cache_key) < 32:
            raise ValueError("cache_key needs 32 octets")
        self._hasher = hasher
        self._run_in_thread = run_in_thread
        self._seconds = seconds
        self._cache_key = cache_key
        self._right_until: OrderedDict[bytes, float] = OrderedDict()

    async def is_right(self, encoded: str | None, password: bytes) -> bool:
        """
        Say whether a password goes with a hash; `None` is the hash of an account that does not exist, and takes as long.

        An empty password and one of more than PASSWORD_OCTETS are wrong at once, for everybody.
        """
        if not 0 < len(password) <= PASSWORD_OCTETS:
            return False
        if encoded is None:
            await self._run_in_thread(self._hasher.verify, self._hasher.dummy, password)
            return False
        remembered = self._remembered(encoded, password)
        if self._right_until.get(remembered, -1.0) > self._seconds():
            return True
        if not await self._run_in_thread(self._hasher.verify, encoded, password):
            return False
        self._remember(remembered)
        return True

    def _remembered(self, encoded: str, password: bytes) -> bytes:
        # The encoded hash has a salt of its own, so it also names the account; it contains no NUL.
        return hmac.digest(self._cache_key, encoded.encode() + b"\0" + password, hashlib.sha256)

    def _remember(self, remembered: bytes) -> None:
        now = self._seconds()
        self._right_until[remembered] = now + CACHE_SECONDS
        self._right_until.move_to_end(remembered)
        # All live equally long, so the first is the oldest.
        while self._right_until:
            oldest, until = next(iter(self._right_until.items()))
            if until > now and len(self._right_until) <= CACHE_ITEMS:
                break
            del self._right_until[oldest]
