"""The header section is read without being parsed into a message, and is bounded."""

import pytest

from mailstack.mail.headers import HEADER_OCTETS, MAX_FIELDS, count_fields, fields, header_section


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", b""),
        (b"\r\nbody", b""),
        (b"A: 1\r\n\r\nbody", b"A: 1\r\n"),
        (b"A: 1\r\nB: 2\r\n\r\n\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"A: 1\r\n", b"A: 1\r\n"),
    ],
)
def test_the_section_ends_at_the_first_empty_line(content: bytes, expected: bytes) -> None:
    assert header_section(content) == expected


def test_the_section_is_bounded() -> None:
    assert len(header_section(b"x" * (HEADER_OCTETS + 100))) == HEADER_OCTETS
    assert sum(1 for _ in fields(b"A: 1\r\n" * (MAX_FIELDS + 100))) == MAX_FIELDS


def test_fields_keep_their_folds_and_lose_their_case() -> None:
    section = b"Subject: one\r\n two\r\nX-Y :3\r\nto:\r\n\t4\r\n"
    assert list(fields(section)) == [(b"subject", b" one\r\n two"), (b"x-y", b"3"), (b"to", b"\r\n\t4")]


@pytest.mark.parametrize("junk", [b"no colon\r\n", b": empty\r\n", b"b\xc3\xa4d: x\r\n", b"two words: x\r\n"])
def test_what_is_no_field_ends_the_section(junk: bytes) -> None:
    assert list(fields(b"A: 1\r\n" + junk + b"B: 2\r\n")) == [(b"a", b" 1")]


def test_a_section_cannot_begin_with_a_fold() -> None:
    assert list(fields(b" fold: x\r\nB: 2\r\n")) == []


def test_fields_are_counted() -> None:
    assert count_fields(b"Received: a\r\n\tb\r\nreceived: c\r\nReceived-SPF: d\r\n", b"received") == 2
