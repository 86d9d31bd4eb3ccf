from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import argon2
import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from mailstack.directory import passwords
from mailstack.directory.passwords import CACHE_SECONDS, PASSWORD_OCTETS, Argon2Hasher, Verifier
from mailstack.mail.scram import make_keys, parse_keys


class PlainHasher:
    """A hasher that tells what it was asked."""

    dummy = "dummy"

    def __init__(self) -> None:
        self.verified: list[tuple[str, bytes]] = []

    def hash(self, password: bytes) -> str:
        return "plain:" + password.decode()

    def verify(self, encoded: str, password: bytes) -> bool:
        self.verified.append((encoded, password))
        return encoded == self.hash(password) or encoded == "dummy"


def result_of(coroutine: Coroutine[Any, Any, bool]) -> bool:
    results: list[bool] = []
    Deferred.fromCoroutine(coroutine).addCallback(results.append)
    return results[0]


@pytest.fixture
def hasher() -> PlainHasher:
    return PlainHasher()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(hasher: PlainHasher, clock: Clock) -> Verifier:
    return Verifier(hasher, maybeDeferred, seconds=clock.seconds, cache_key=b"k" * 32)


class TestArgon2:
    def test_hash_and_verify(self) -> None:
        hasher = Argon2Hasher()
        encoded = hasher.hash("pässword\0".encode())
        assert hasher.verify(encoded, "pässword\0".encode())
        assert not hasher.verify(encoded, b"password")
        assert hasher.hash(b"x") != hasher.hash(b"x")

    @pytest.mark.parametrize("encoded", ["", "plain", "$argon2id$v=19$m=1", "$argon2id$v=19$m=19456,t=2,p=1$x$y", "\udc80"])
    def test_a_hash_that_is_none_is_nobodys(self, encoded: str) -> None:
        assert not Argon2Hasher().verify(encoded, b"x")

    def test_octets_that_are_no_utf8(self) -> None:
        hasher = Argon2Hasher()
        assert hasher.verify(hasher.hash(b"\xff\xfe"), b"\xff\xfe")

    def test_the_dummy_costs_what_a_real_hash_costs(self) -> None:
        hasher = Argon2Hasher()
        assert argon2.extract_parameters(hasher.dummy) == argon2.extract_parameters(hasher.hash(b"x"))
        assert argon2.extract_parameters(hasher.dummy).memory_cost == 19_456
        assert not hasher.verify(hasher.dummy, b"x")


class TestScram:
    def test_new_keys(self) -> None:
        kept = parse_keys(passwords.new_scram_keys(b"secret"))
        assert kept == make_keys(b"secret", kept.salt, kept.iterations) if kept else False
        assert passwords.new_scram_keys(b"secret") != passwords.new_scram_keys(b"secret")

    def test_decoys(self) -> None:
        decoy = passwords.decoy_keys(b"k" * 32, b"alice")
        assert decoy == passwords.decoy_keys(b"k" * 32, b"alice")
        for other in (passwords.decoy_keys(b"k" * 32, b"bob"), passwords.decoy_keys(b"l" * 32, b"alice")):
            assert not {other.salt, other.stored_key, other.server_key} & {decoy.salt, decoy.stored_key, decoy.server_key}
        real = parse_keys(passwords.new_scram_keys(b"secret"))
        assert real is not None
        assert (len(decoy.salt), decoy.iterations) == (len(real.salt), real.iterations)


class TestVerifier:
    def test_right_and_wrong(self, verifier: Verifier, hasher: PlainHasher) -> None:
        assert result_of(verifier.is_right("plain:secret", b"secret"))
        assert not result_of(verifier.is_right("plain:secret", b"Secret"))

    def test_nobody_costs_one_verification_and_is_never_right(self, verifier: Verifier, hasher: PlainHasher) -> None:
        assert not result_of(verifier.is_right(None, b"anything"))
        assert hasher.verified == [("dummy", b"anything")]
        assert not result_of(verifier.is_right(None, b"anything"))
        assert len(hasher.verified) == 2

    @pytest.mark.parametrize("password", [b"", b"x" * (PASSWORD_OCTETS + 1)])
    @pytest.mark.parametrize("encoded", [None, "plain:", "plain:" + "x" * (PASSWORD_OCTETS + 1)])
    def test_empty_and_overlong_are_wrong_for_everybody(
        self, verifier: Verifier, hasher: PlainHasher, password: bytes, encoded: str | None
    ) -> None:
        assert not result_of(verifier.is_right(encoded, password))
        assert hasher.verified == []

    def test_the_longest(self, verifier: Verifier) -> None:
        assert result_of(verifier.is_right("plain:" + "x" * PASSWORD_OCTETS, b"x" * PASSWORD_OCTETS))

    def test_a_right_one_is_remembered_for_a_minute(self, verifier: Verifier, hasher: PlainHasher, clock: Clock) -> None:
        for _ in range(5):
            assert result_of(verifier.is_right("plain:a", b"a"))
        assert len(hasher.verified) == 1
        clock.advance(CACHE_SECONDS - 0.1)
        assert result_of(verifier.is_right("plain:a", b"a"))
        assert len(hasher.verified) == 1
        clock.advance(0.2)
        assert result_of(verifier.is_right("plain:a", b"a"))
        assert len(hasher.verified) == 2

    def test_a_wrong_one_is_not(self, verifier: Verifier, hasher: PlainHasher) -> None:
        result_of(verifier.is_right("plain:a", b"b"))
        result_of(verifier.is_right("plain:a", b"b"))
        assert len(hasher.verified) == 2

    def test_a_changed_hash_forgets(self, verifier: Verifier) -> None:
        assert result_of(verifier.is_right("plain:a", b"a"))
        assert not result_of(verifier.is_right("plain:b", b"a"))

    def test_no_password_is_kept(self, verifier: Verifier) -> None:
        result_of(verifier.is_right("plain:secret", b"secret"))
        assert "secret" not in repr(vars(verifier))

    def test_memory_is_bounded(
        self, verifier: Verifier, hasher: PlainHasher, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(passwords, "CACHE_ITEMS", 3)
        for name in "abcd":
            result_of(verifier.is_right(f"plain:{name}", name.encode()))
        assert len(verifier._right_until) == 3
        result_of(verifier.is_right("plain:d", b"d"))
        assert len(hasher.verified) == 4
        result_of(verifier.is_right("plain:a", b"a"))
        assert len(hasher.verified) == 5
        clock.advance(CACHE_SECONDS + 1)
        result_of(verifier.is_right("plain:a", b"a"))
        assert len(verifier._right_until) == 1

    def test_the_key_must_be_long(self, hasher: PlainHasher, clock: Clock) -> None:
        with pytest.raises(ValueError, match="32"):
            Verifier(hasher, maybeDeferred, seconds=clock.seconds, cache_key=b"short")

    def test_hashing_happens_where_it_was_told_to(self, hasher: PlainHasher, clock: Clock) -> None:
        held: list[tuple[Any, ...]] = []

        def run_in_thread(*call: Any) -> Deferred[bool]:
            held.append(call)
            return Deferred()

        verifier = Verifier(hasher, run_in_thread, seconds=clock.seconds, cache_key=b"k" * 32)
        Deferred.fromCoroutine(verifier.is_right("plain:a", b"a"))
        Deferred.fromCoroutine(verifier.is_right(None, b"a"))
        assert held == [(hasher.verify, "plain:a", b"a"), (hasher.verify, "dummy", b"a")]
        assert hasher.verified == []
