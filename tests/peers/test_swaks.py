"""swaks, the tester's SMTP client, at each of the doors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import messages
from harness.house import House, Person
from harness.programs import needs, run

pytestmark = needs("swaks")

RECIPIENT_REFUSED, NO_AUTHENTICATION, SENDER_REFUSED = 24, 28, 23


def swaks(house: House, port: int, *words: str | Path, expect: int = 0) -> str:
    done = run(["swaks", "--server", "localhost", "--port", str(port), "--helo", "client.test", *words], expect=expect)
    return done.stdout.decode() + done.stderr.decode()


def login(person: Person, mechanism: str = "PLAIN") -> list[str]:
    return ["--auth", mechanism, "--auth-user", person.address, "--auth-password", person.password]


def verified_tls(house: House, option: str) -> list[str]:
    return [option, "--tls-verify", "--tls-ca-path", str(house.ca)]


def one(house: House, person: Person) -> bytes:
    (file,) = house.wait_for_files(person.address, 1)
    return file.read_bytes()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_submission_with_starttls_and_auth(house: House, alice: Person, bob: Person, mechanism: str) -> None:
    words = [*verified_tls(house, "--tls"), *login(alice, mechanism), "--from", alice.address, "--to", bob.address]
    said = swaks(house, house.ports.submission, *words, "--header", "Subject: by STARTTLS")
    assert re.search(r"^ ~> .*\n(?:.*\n)*?<~  250 2\.0\.0", said, re.MULTILINE), said
    got = one(house, bob)
    assert b"\r\nSubject: by STARTTLS\r\n" in got
    assert b"with ESMTPSA" in messages.trace(got)


def test_submissions_with_implicit_tls(house: House, alice: Person, bob: Person) -> None:
    words = [*verified_tls(house, "--tls-on-connect"), *login(alice), "--from", alice.address, "--to", bob.address]
    swaks(house, house.ports.submissions, *words)
    assert b"with ESMTPSA" in messages.trace(one(house, bob))


@pytest.mark.parametrize("more", [["--pipeline"], ["--tls"], ["--protocol", "SMTP"]], ids=["pipelined", "starttls", "helo"])
def test_another_server_hands_in_mail_for_a_local_user(house: House, bob: Person, more: list[str]) -> None:
    swaks(house, house.ports.smtp, *more, "--from", "someone@elsewhere.test", "--to", bob.address)
    assert b"Return-Path: <someone@elsewhere.test>\r\n" in one(house, bob)


def test_an_attachment_arrives(house: House, bob: Person, folder: Path) -> None:
    picture = folder / "garden.png"
    picture.write_bytes(messages.png())
    more = ["--attach-type", "image/png", "--attach", f"@{picture}"]
    swaks(house, house.ports.smtp, "--from", "someone@elsewhere.test", "--to", bob.address, *more)
    assert b"Content-Type: image/png" in one(house, bob)


def test_no_open_relay(house: House) -> None:
    said = swaks(
        house,
        house.ports.smtp,
        "--from",
        "someone@elsewhere.test",
        "--to",
        "victim@another.test",
        expect=RECIPIENT_REFUSED,
    )
    assert "<** 550 5.7.1 " in said


def test_our_own_domain_as_sender_is_no_key(house: House, alice: Person) -> None:
    said = swaks(house, house.ports.smtp, "--from", alice.address, "--to", "victim@another.test", expect=RECIPIENT_REFUSED)
    assert "<** 550 5.7.1 " in said


def test_an_unknown_user_is_refused_at_once(house: House) -> None:
    words = ["--from", "someone@elsewhere.test", "--to", f"nobody-here@{house.domain}"]
    assert "<** 550 5.1.1 " in swaks(house, house.ports.smtp, *words, expect=RECIPIENT_REFUSED)


def test_no_password_in_the_clear(house: House, alice: Person, bob: Person) -> None:
    words = [*login(alice), "--from", alice.address, "--to", bob.address]
    said = swaks(house, house.ports.submission, *words, expect=NO_AUTHENTICATION)
    assert "STARTTLS" in said
    assert not re.search(r"^<-  250[ -]AUTH", said, re.MULTILINE)
    assert not re.search(r"^ -> AUTH", said, re.MULTILINE)


def test_submission_wants_authentication(house: House, alice: Person, bob: Person) -> None:
    words = ["--tls", "--from", alice.address, "--to", bob.address]
    assert "530 5.7.0 " in swaks(house, house.ports.submission, *words, expect=SENDER_REFUSED)


def test_a_wrong_password(house: House, alice: Person, bob: Person) -> None:
    words = ["--tls", *login(Person(alice.address, "wrong")), "--from", alice.address, "--to", bob.address]
    assert "535 5.7.8 " in swaks(house, house.ports.submission, *words, expect=NO_AUTHENTICATION)


def test_one_may_not_write_as_somebody_else(house: House, alice: Person, bob: Person) -> None:
    words = ["--tls", *login(alice), "--from", bob.address, "--to", bob.address]
    swaks(house, house.ports.submission, *words, expect=SENDER_REFUSED)
    assert not house.files(bob.address)


def test_a_subaddress_reaches_its_account(house: House, bob: Person) -> None:
    local_part, _, domain = bob.address.partition("@")
    swaks(house, house.ports.smtp, "--from", "someone@elsewhere.test", "--to", f"{local_part}+list@{domain}")
    assert one(house, bob)
