"""Loops through a mailbox, by the Delivered-To field."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailstack.deliver.loops import LoopGuard, MessageLoops, was_delivered_to
from mailstack.mail.address import parse_address
from mailstack.mail.headers import HEADER_OCTETS

ALICE = parse_address("alice@example.org")
FIELD = b"Delivered-To: alice@example.org\r\n"


class Content:
    """On disk in pieces, or in memory."""

    def __init__(self, *pieces: bytes, in_memory: bool = False) -> None:
        self._pieces = pieces
        self.octets = sum(map(len, pieces))
        self.in_memory = b"".join(pieces) if in_memory else None
        self.sizes: list[int] = []

    def chunks(self, size_octets: int = 7) -> Iterator[bytes]:
        self.sizes.append(size_octets)
        yield from self._pieces


@pytest.mark.parametrize(
    ("section", "loops"),
    [
        (b"", False),
        (b"Subject: a\r\n", False),
        (FIELD, True),
        (b"Received: x\r\n\ty\r\n" + FIELD, True),
        (b"delivered-TO:   ALICE@Example.ORG \t\r\n", True),
        (b"Delivered-To:alice@example.org\r\n", True),
        (b"Delivered-To :\r\n alice@example.org\r\n", True),
        (b"Delivered-To: <alice@example.org>\r\n", False),
        (b"Delivered-To: bob@example.org\r\n", False),
        (b"Delivered-To: bob@example.org\r\n" + FIELD, True),
        (b"Delivered-To: alice+tag@example.org\r\n", False),
        (b"Delivered-To: alice@example.org.evil.example\r\n", False),
        (b"X-Delivered-To: alice@example.org\r\n", False),
        (b"Subject: Delivered-To: alice@example.org\r\n", False),
        (b"Subject: a\r\n " + FIELD, False),
        (b"no field\r\n" + FIELD, False),
        (b"Delivered-To: \xff\r\n", False),
    ],
)
def test_header_section(section: bytes, loops: bool) -> None:
    assert was_delivered_to(ALICE, section) is loops


def test_address_in_utf8_and_quoted() -> None:
    assert was_delivered_to(parse_address("älice@example.org"), "Delivered-To: älice@example.org\r\n".encode())
    assert was_delivered_to(parse_address('"a b"@example.org'), b'Delivered-To: "a b"@example.org\r\n')


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("pieces", [(b"Subject: a\r\n\r\ntext\r\n",), (b"Subject: ", b"a\r\n", b"\r\n" + FIELD), (b"",), ()])
def test_content_stays_what_it_is(pieces: tuple[bytes, ...], in_memory: bool) -> None:
    content = Content(*pieces, in_memory=in_memory)
    guard = LoopGuard(content, ALICE)
    assert guard.octets == content.octets
    assert guard.in_memory is None
    for _ in range(2):
        assert b"".join(guard.chunks()) == b"".join(pieces)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("cut", range(len(FIELD)))
def test_field_in_whatever_pieces(cut: int, in_memory: bool) -> None:
    guard = LoopGuard(Content(b"A: b\r\n" + FIELD[:cut], FIELD[cut:] + b"\r\ntext\r\n", in_memory=in_memory), ALICE)
    with pytest.raises(MessageLoops):
        guard.chunks()


def test_large_content_is_not_gathered() -> None:
    pieces = [b"x" * 100_000] * 50
    chunks = list(LoopGuard(Content(*pieces), ALICE).chunks())
    assert len(chunks[0]) == 300_000
    assert [len(chunk) for chunk in chunks[1:]] == [100_000] * 47
    assert HEADER_OCTETS < 300_000


def test_size_of_pieces_is_passed_on() -> None:
    content = Content(b"text")
    list(LoopGuard(content, ALICE).chunks(1234))
    list(LoopGuard(content, ALICE).chunks())
    assert content.sizes == [1234, HEADER_OCTETS]
