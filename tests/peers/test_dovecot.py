"""Dovecot reads and changes the maildirs that we write, and neither of the two confuses the other."""

from __future__ import annotations

import imaplib
import poplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import messages
from harness.dovecot import Dovecot
from harness.house import House, Person, retrieve
from harness.programs import needs

pytestmark = needs("dovecot")


@pytest.fixture
def stored(house: House, bob: Person) -> list[bytes]:
    """Deliver a message of every kind to bob."""
    for make in messages.KINDS.values():
        house.deliver(make("someone@elsewhere.test", bob.address), bob.address)
    return [file.read_bytes() for file in house.wait_for_files(bob.address, len(messages.KINDS))]


@pytest.fixture
def dovecot(house: House, bob: Person, stored: list[bytes], folder: Path) -> Iterator[Dovecot]:
    """Run Dovecot over bob's maildir."""
    with Dovecot(folder / "dovecot", {bob.address: house.maildir(bob.address)}) as running:
        yield running


def pop3_of(dovecot: Dovecot, person: Person) -> poplib.POP3:
    client = poplib.POP3("127.0.0.1", dovecot.pop3_port, timeout=60)
    client.user(person.address)
    client.pass_(dovecot.password)
    return client


def test_both_retrieve_the_same_and_agree_on_sizes(house: House, bob: Person, stored: list[bytes], dovecot: Dovecot) -> None:
    ours, theirs = house.pop3s(bob), pop3_of(dovecot, bob)
    assert ours.stat() == theirs.stat() == (len(stored), sum(map(len, stored)))
    by_us = sorted(retrieve(ours, number) for number in range(1, len(stored) + 1))
    by_them = sorted(retrieve(theirs, number) for number in range(1, len(stored) + 1))
    assert by_us == by_them == sorted(stored)
    theirs.quit()
    ours.quit()
    assert dovecot.complaints() == [], "Dovecot says in its log when an S= or W= is wrong"


def test_our_uidls_survive_what_dovecot_does_to_the_files(
    house: House, bob: Person, stored: list[bytes], dovecot: Dovecot
) -> None:
    before = house.pop3s(bob)
    uidls = before.uidl()[1]
    before.quit()
    with imaplib.IMAP4("127.0.0.1", dovecot.imap_port) as imap:
        imap.login(bob.address, dovecot.password)
        assert imap.select()[1] == [str(len(stored)).encode()]
        imap.store("1:*", "+FLAGS", r"(\Seen \Flagged)")
        _, parts = imap.fetch("1:*", "(BODY.PEEK[])")
        assert sorted(part[1] for part in parts if isinstance(part, tuple)) == sorted(stored)
    assert all(":2,FS" in file.name for file in house.files(bob.address)), "Dovecot has renamed every file"
    after = house.pop3s(bob)
    assert after.uidl()[1] == uidls
    assert sorted(retrieve(after, number) for number in range(1, len(stored) + 1)) == sorted(stored)
    after.quit()
    assert dovecot.complaints() == []


def test_what_dovecot_removes_is_gone_and_the_others_keep_their_uidl(
    house: House, bob: Person, stored: list[bytes], dovecot: Dovecot
) -> None:
    before = house.pop3s(bob)
    uidls = {line.split()[1] for line in before.uidl()[1]}
    before.quit()
    theirs = pop3_of(dovecot, bob)
    theirs.dele(1)
    theirs.quit()
    after = house.pop3s(bob)
    left = {line.split()[1] for line in after.uidl()[1]}
    after.quit()
    assert len(left) == len(stored) - 1
    assert left < uidls


def test_mail_that_comes_while_dovecot_looks_is_seen_by_both(
    house: House, bob: Person, stored: list[bytes], dovecot: Dovecot
) -> None:
    with imaplib.IMAP4("127.0.0.1", dovecot.imap_port) as imap:
        imap.login(bob.address, dovecot.password)
        imap.select()
        house.deliver(messages.plain("meanwhile"), bob.address)
        house.wait_for_files(bob.address, len(stored) + 1)
        dovecot.adopt()
        imap.noop()
        assert imap.select()[1] == [str(len(stored) + 1).encode()]
    assert len(house.retrieved(bob)) == len(stored) + 1
    assert dovecot.complaints() == []
