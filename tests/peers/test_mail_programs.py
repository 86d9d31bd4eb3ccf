"""Users' programs send and fetch: msmtp, mpop, fetchmail, curl. What they fetch is what the maildir holds, octet for octet."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import messages
from harness.certificates import make_user
from harness.clients import fetch_by_curl, fetch_by_fetchmail, fetch_by_mpop, send_by_curl, send_by_msmtp
from harness.house import House, Person, with_lines
from harness.programs import needs, wait_for

from mailstack.console.certificates import make_authority

SPLIT_BY_FETCHMAIL = {"long_line"}  # fetchmail itself cuts lines beyond 8 kB


def fill(house: House, person: Person, *, without: set[str] = frozenset()) -> list[bytes]:  # type: ignore[assignment]
    """Deliver a message of every kind, and return what the maildir then holds."""
    kinds = [kind for kind in messages.KINDS if kind not in without]
    for kind in kinds:
        house.deliver(messages.KINDS[kind]("someone@elsewhere.test", person.address), person.address)
    return sorted(file.read_bytes() for file in house.wait_for_files(person.address, len(kinds)))


@needs("msmtp")
@pytest.mark.parametrize("tls_at_once", [False, True], ids=["starttls", "tls"])
@pytest.mark.parametrize("kind", ["pictures", "eight_bit", "dots", "long_line", "empty_body"])
def test_msmtp_sends(house: House, alice: Person, bob: Person, folder: Path, kind: str, tls_at_once: bool) -> None:
    port = house.ports.submissions if tls_at_once else house.ports.submission
    sent = messages.KINDS[kind](alice.address, bob.address)
    send_by_msmtp(folder, port, alice, bob.address, sent, ca=house.ca, tls_at_once=tls_at_once)
    (file,) = house.wait_for_files(bob.address, 1)
    assert messages.without_trace(file.read_bytes()) == sent


@needs("msmtp")
def test_msmtp_proves_its_password_without_telling_it(house: House, alice: Person, bob: Person, folder: Path) -> None:
    sent = messages.KINDS["dots"](alice.address, bob.address)
    port, ca = house.ports.submission, house.ca
    send_by_msmtp(folder, port, alice, bob.address, sent, ca=ca, tls_at_once=False, auth="scram-sha-256")
    (file,) = house.wait_for_files(bob.address, 1)
    assert messages.without_trace(file.read_bytes()) == sent
    wrong = Person(alice.address, "another password")
    with pytest.raises(AssertionError, match="535"):
        send_by_msmtp(folder, port, wrong, bob.address, sent, ca=ca, tls_at_once=False, auth="scram-sha-256")


@needs("mpop")
@pytest.mark.parametrize("tls_at_once", [False, True], ids=["stls", "tls"])
def test_mpop_fetches(house: House, bob: Person, folder: Path, tls_at_once: bool) -> None:
    stored = fill(house, bob)
    port = house.ports.pop3s if tls_at_once else house.ports.pop3
    assert sorted(fetch_by_mpop(folder, port, bob, ca=house.ca, tls_at_once=tls_at_once)) == stored
    assert fetch_by_mpop(folder, port, bob, ca=house.ca, tls_at_once=tls_at_once) == [], "by UIDL it knows what it has"
    house.deliver(messages.plain("later"), bob.address)
    house.wait_for_files(bob.address, len(stored) + 1)
    (later,) = fetch_by_mpop(folder, port, bob, ca=house.ca, tls_at_once=tls_at_once, keep=False)
    assert messages.without_trace(later) == messages.plain("later")
    wait_for(lambda: not house.files(bob.address), "mpop removed them all")


@needs("msmtp", "mpop")
@pytest.mark.parametrize("workers", [1, 2])
def test_msmtp_and_mpop_show_a_certificate(make_house: Callable[..., House], folder: Path, workers: int) -> None:
    house = make_house(change=lambda text: with_lines("tls", 'client_authority = "users.pem"')(f"workers = {workers}\n{text}"))
    authority = make_authority("users.test", time.time())
    (house.folder / "users.pem").write_bytes(authority.certificate_pem())
    alice, user = house.start().person("alice"), folder / "alice.pem"
    make_user(user, authority, alice.address)
    nobody = Person(alice.address, "not asked for")
    for tls_at_once, port in ((False, house.ports.submission), (True, house.ports.submissions)):
        sent = messages.plain(f"at once: {tls_at_once}", alice.address, alice.address)
        before = len(house.files(alice.address))
        send_by_msmtp(
            folder, port, nobody, alice.address, sent, ca=house.ca, tls_at_once=tls_at_once, auth="external", user=user
        )
        house.wait_for_files(alice.address, before + 1)
    for tls_at_once, port in ((False, house.ports.pop3), (True, house.ports.pop3s)):
        inbox = folder / f"at-once-{tls_at_once}"
        inbox.mkdir()
        got = fetch_by_mpop(inbox, port, nobody, ca=house.ca, tls_at_once=tls_at_once, auth="external", user=user)
        assert len(got) == len(house.files(alice.address))


@needs("mpop")
def test_mpop_proves_its_password_without_telling_it(house: House, bob: Person, folder: Path) -> None:
    house.deliver(messages.plain("hello"), bob.address)
    house.wait_for_files(bob.address, 1)
    (got,) = fetch_by_mpop(folder, house.ports.pop3s, bob, ca=house.ca, auth="scram-sha-256")
    assert messages.without_trace(got) == messages.plain("hello")


@needs("fetchmail")
def test_fetchmail_fetches_and_removes(house: House, bob: Person, folder: Path) -> None:
    stored = fill(house, bob, without=SPLIT_BY_FETCHMAIL)
    assert sorted(fetch_by_fetchmail(folder, house.ports.pop3s, bob, ca=house.ca)) == stored
    assert sorted(fetch_by_fetchmail(folder, house.ports.pop3s, bob, ca=house.ca, keep=False)) == stored
    wait_for(lambda: not house.files(bob.address), "fetchmail removed them all")


@needs("curl")
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_curl_sends(house: House, alice: Person, bob: Person, folder: Path, scheme: str) -> None:
    file = folder / "message.eml"
    file.write_bytes(messages.dots(alice.address, bob.address))
    port = house.ports.submissions if scheme == "smtps" else house.ports.submission
    send_by_curl(f"{scheme}://localhost:{port}/client.test", alice, bob.address, file, ca=house.ca)
    (stored,) = house.wait_for_files(bob.address, 1)
    assert messages.without_trace(stored.read_bytes()) == file.read_bytes()


@needs("curl")
@pytest.mark.parametrize("scheme", ["pop3", "pop3s"])
def test_curl_fetches(house: House, bob: Person, scheme: str) -> None:
    stored = fill(house, bob)
    port = house.ports.pop3s if scheme == "pop3s" else house.ports.pop3
    url = f"{scheme}://localhost:{port}/"
    listing = fetch_by_curl(url, bob, ca=house.ca)
    assert len(listing.splitlines()) == len(stored)
    assert sorted(fetch_by_curl(f"{url}{number}", bob, ca=house.ca) for number in range(1, len(stored) + 1)) == stored


@needs("curl")
def test_the_lines_that_demo_prints_work_as_they_are(house: House) -> None:
    """Paste what `mailstack demo` prints into a shell, line by line."""
    printed = house.mailstack("demo", house.folder).stdout.decode()
    lines = _commands(printed)
    assert any(" smtp" in line for line in lines), printed
    assert any(" pop3" in line for line in lines), printed
    shown = b""
    for line in lines:
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{line}\n{done.stderr.decode()}"
        shown += done.stdout
        house.wait_for_files(f"bob@{house.domain}", 1)
    assert b"\r\nReceived: " in shown
    assert b"\r\nSubject: Hello from mailstack\r\n" in shown, "the message that was sent is the one that is fetched"


def _commands(printed: str) -> list[str]:
    """Return the shell commands in a text: lines that begin with a program's name, joined where they end in a backslash."""
    joined = printed.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip().split(" ")[0] in ("curl", "printf", "swaks", "echo")]
