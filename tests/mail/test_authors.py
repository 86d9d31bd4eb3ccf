"""The mailboxes of a From field: what it names, and what is too doubtful to be judged."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.address import AddressError
from mailstack.mail.authors import FIELD_OCTETS, MAILBOXES, parse_mailboxes
from mailstack.mail.headers import VALUES, field_values

READ = [
    (" alice@example.org", ["alice@example.org"]),
    (" Alice <alice@EXAMPLE.org>", ["alice@example.org"]),
    (' "Doe, Alice: <ceo@x.example>" <alice@example.org>', ["alice@example.org"]),
    (" =?utf-8?q?Al=40ice?= <alice@example.org>\r\n", ["alice@example.org"]),
    (" Alice\r\n\t(her (own) \\) comment)\r\n <alice@example.org> (work)", ["alice@example.org"]),
    (" Jürgen <jürgen@example.org>", ["jürgen@example.org"]),
    (' "a b"@example.org', ['"a b"@example.org']),
    (" alice@[192.0.2.1]", ["alice@[192.0.2.1]"]),
    (" alice@example.org, Bob <bob@example.org>,,", ["alice@example.org", "bob@example.org"]),
    (" The Board: alice@example.org, Bob <bob@example.org>;", ["alice@example.org", "bob@example.org"]),
    (" Nobody:;", []),
    (" Nobody:; , alice@example.org", ["alice@example.org"]),
    ("", []),
    (" (nobody)", []),
    (" ceo@x.example <alice@example.org>", ["ceo@x.example", "alice@example.org"]),
    (" ceo@x.example: alice@example.org;", ["ceo@x.example", "alice@example.org"]),
    (" Alice @ Work @home <alice@example.org>", ["alice@example.org"]),
    (" [List] Alice J. <alice@example.org>", ["alice@example.org"]),
]
DOUBTFUL = [
    "alice",
    "Alice alice@example.org",
    "alice@example.org bob@example.org",
    "alice@example.org; bob@example.org",
    "<alice@example.org> ceo@x.example",
    "<alice@example.org> <ceo@x.example>",
    "<alice@example.org",
    "alice@example.org>",
    "<ceo@x.example <alice@example.org>>",
    "<@x.example:alice@example.org>",
    "<>",
    "<alice @example.org>",
    '"alice@example.org',
    "(alice@example.org",
    "alice@example.org)",
    "board: alice@example.org",
    "board: inner: alice@example.org;;",
    ": alice@example.org;",
    "<alice@example.org>: bob@example.org;",
    "alice@example.org\0",
    "alice@exa mple.org",
    "\\alice@example.org",
]


@pytest.mark.parametrize(("value", "expected"), READ)
def test_what_it_names(value: str, expected: list[str]) -> None:
    assert [str(each) for each in parse_mailboxes(value.encode())] == expected


@pytest.mark.parametrize("value", DOUBTFUL)
def test_what_is_doubtful(value: str) -> None:
    with pytest.raises(AddressError):
        parse_mailboxes(value.encode())


def test_it_is_bounded() -> None:
    assert len(parse_mailboxes(b"a@b.example," * MAILBOXES)) == MAILBOXES
    for value in (b"a@b.example," * (MAILBOXES + 1), b" " * (FIELD_OCTETS + 1), b"\xff@b.example"):
        with pytest.raises(AddressError):
            parse_mailboxes(value)


@pytest.mark.parametrize("octets", [b"(", b"\\", b'"', b"(\\", b"<", b"a@", b",", b" ", b'"\\', b"(a)", b"[", b":"])
def test_hostile_values_take_no_time(octets: bytes) -> None:
    began = time.perf_counter()
    with suppress(AddressError):
        parse_mailboxes((octets * FIELD_OCTETS)[:FIELD_OCTETS])
    assert time.perf_counter() - began < 0.5


@given(st.text('ab@.<>,:;()"\\[] \r\n', max_size=60))
def test_anything_is_read_or_doubtful(value: str) -> None:
    try:
        found = parse_mailboxes(value.encode())
    except AddressError:
        return
    # Whatever stands between brackets and outside of quotes and comments is never passed over.
    assert found or "@" not in value or "(" in value or '"' in value or value.strip(" \r\n@.") == ""


class TestFieldValues:
    def test_each_field_of_the_name(self) -> None:
        section = b"FROM : a\r\n b\r\nX-From: c\r\nno field\r\nfrom:d\r\nTo: from: e\r\nFrom a@b Mon Jan 1 1:2:3\r\n"
        assert field_values(section, b"from") == [b" a\r\n b", b"d"]
        assert field_values(section, b"sender") == []

    def test_not_too_many(self) -> None:
        assert len(field_values(b"From: a\r\n" * 100, b"from")) == VALUES
