"""SCRAM's keys and proofs, and SASLprep."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from mailstack.mail.saslprep import saslprep
from mailstack.mail.scram import (
    ITERATIONS,
    MIN_ITERATIONS,
    ScramProof,
    client_proof,
    make_keys,
    parse_keys,
    salted_password,
    server_signature,
)

# RFC 7677 §3
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
MESSAGE = (
    f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={NONCE}".encode()
)  # the AuthMessage of RFC 5802 §3
PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
SIGNATURE = base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
KEYS = make_keys(b"pencil", SALT, 4096)


class TestKeys:
    def test_the_example_of_rfc_7677(self) -> None:
        salted = salted_password(b"pencil", SALT, 4096)
        assert client_proof(salted, MESSAGE) == PROOF
        assert server_signature(salted, MESSAGE) == KEYS.signature(MESSAGE) == SIGNATURE
        assert ScramProof(b"user", MESSAGE, PROOF).is_by(KEYS)

    def test_what_proves_nothing(self) -> None:
        proof = ScramProof(b"user", MESSAGE, PROOF)
        assert not proof.is_by(make_keys(b"pencil", SALT, 4097))
        assert not proof.is_by(make_keys(b"pencil", SALT + b"x", 4096))
        assert not proof.is_by(make_keys(b"Pencil", SALT, 4096))
        assert not replace(proof, auth_message=MESSAGE + b"x").is_by(KEYS)
        assert not replace(proof, proof=bytes(32)).is_by(KEYS)

    def test_who_steals_the_keys_cannot_log_in_with_them(self) -> None:
        for key in (KEYS.stored_key, KEYS.server_key):
            assert not ScramProof(b"user", MESSAGE, key).is_by(KEYS)

    def test_iterations_that_every_client_does(self) -> None:
        assert MIN_ITERATIONS <= ITERATIONS <= 65_536, "Cyrus SASL, and so Postfix, gives up at more"

    def test_kept_as_text(self) -> None:
        text = KEYS.to_text()
        assert text.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
        assert parse_keys(text) == KEYS

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "h:secret",
            KEYS.to_text() + "\n",
            KEYS.to_text()[:-1],
            KEYS.to_text().replace("256", "1"),
            KEYS.to_text().replace("4096", "-1"),
            KEYS.to_text().replace("W22Z", "W22"),
            KEYS.to_text().replace("==$", "$"),
        ],
    )
    def test_text_that_holds_none(self, text: str) -> None:
        assert parse_keys(text) is None

    def test_no_secret_is_in_a_repr(self) -> None:
        shown = repr(KEYS) + repr(ScramProof(b"user", MESSAGE, PROOF))
        assert not any(repr(each) in shown for each in (KEYS.stored_key, KEYS.server_key, PROOF, MESSAGE))

    def test_passwords_that_look_the_same_are_the_same(self) -> None:
        assert make_keys("pa\u00adss".encode(), SALT, 4096) == make_keys(b"pass", SALT, 4096)
        assert make_keys("a\u0308".encode(), SALT, 4096) == make_keys("ä".encode(), SALT, 4096)

    @pytest.mark.parametrize("password", [b"\xff\xfe", b"a\x07b", "\u00ad".encode()])
    def test_what_cannot_be_prepared_is_taken_as_it_is(self, password: bytes) -> None:
        assert make_keys(password, SALT, 4096) != make_keys(b"", SALT, 4096)
        assert make_keys(password, SALT, 4096) == make_keys(password, SALT, 4096)


class TestSaslprep:
    @pytest.mark.parametrize(
        ("text", "prepared"),
        [
            ("I\u00adX", "IX"),  # these five are RFC 4013 §3
            ("user", "user"),
            ("USER", "USER"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
            ("a\u00a0b", "a b"),
            ("\u0627\u0628", "\u0627\u0628"),
            ("\U0001f600", "\U0001f600"),
            ("", ""),
        ],
    )
    def test_prepared(self, text: str, prepared: str) -> None:
        assert saslprep(text) == prepared

    @pytest.mark.parametrize(
        "text",
        [
            "\x07",
            "a\nb",
            "a\0",
            "\x7f",
            "ä\x07",
            "ä\x85",
            "\u0627\u0031",
            "\u0627a\u0628",
            "\ue000",
            "\ufffd",
            "ä\u200e",
            "ä\u2028",
        ],
    )
    def test_prohibited(self, text: str) -> None:
        assert saslprep(text) is None
