"""Lines and dot transparency, against oracles that are slow and plain."""

from __future__ import annotations

import itertools
import re
import time

import pytest

from mailstack.mail.crlf import has_bare_newline, normalise_newlines
from mailstack.wire.dots import DotStuffer, DotUnstuffer
from mailstack.wire.lines import TOO_LONG, LineBuffer

ALPHABET = (b"\r", b"\n", b".", b"a")


def words(length: int) -> list[bytes]:
    return [b"".join(each) for size in range(length + 1) for each in itertools.product(ALPHABET, repeat=size)]


def oracle(octets: bytes) -> tuple[bytes, bytes] | None:
    """Cut at CRLF.CRLF by the book: line by line. Return content and rest, or None when it does not end."""
    content = b""
    while True:
        line, crlf, octets = octets.partition(b"\r\n")
        if not crlf:
            return None
        if line == b".":
            return content, octets
        content += (line[1:] if line.startswith(b".") else line) + crlf


def unstuffed(pieces: list[bytes], *, normalise: bool = False) -> tuple[bytes, bytes, bool] | None:
    unstuffer, content, rest = DotUnstuffer(normalise=normalise), b"", b""
    for piece in pieces:
        if unstuffer.ended:
            rest += piece
        else:
            content += unstuffer.feed(piece)
            rest = unstuffer.rest
    return (content, rest, unstuffer.has_bare_newline) if unstuffer.ended else None


class TestFraming:
    def test_end_is_found_as_the_oracle_finds_it_whatever_the_cut(self) -> None:
        for word in words(8):
            expected = oracle(word)
            for found in (unstuffed([word]), unstuffed([word[i : i + 1] for i in range(len(word))])):
                if expected is None:
                    assert found is None, word
                else:
                    assert found is not None, word
                    assert found[:2] == expected, word

    def test_bare_newlines_are_seen_exactly(self) -> None:
        for word in words(6):
            found = unstuffed([word + b"\r\n.\r\n"])
            assert found is not None
            wire_content = (b"\r\n" + word + b"\r\n.\r\n").partition(b"\r\n.\r\n")[0] + b"\r\n"
            assert found[2] == bool(re.search(rb"(?<!\r)\n|\r(?!\n)", wire_content)), word

    def test_normalised_content_has_none_and_is_the_same_for_every_cut(self) -> None:
        for word in words(6):
            octets = word + b"\r\n.\r\n"
            whole = unstuffed([octets], normalise=True)
            assert whole is not None
            assert not has_bare_newline(whole[0]), word
            for cut in range(len(octets)):
                assert unstuffed([octets[:cut], octets[cut:]], normalise=True) == whole, word


class TestStuffing:
    def test_only_the_end_ends_it_and_it_comes_back(self) -> None:
        for word in words(7):
            stuffer = DotStuffer()
            wire = stuffer.feed(word) + stuffer.finish()
            assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3, word
            assert not has_bare_newline(wire), word
            back = unstuffed([wire])
            assert back is not None
            content = normalise_newlines(word)
            assert back[0] == (content if content.endswith(b"\r\n") or not content else content + b"\r\n"), word

    def test_every_cut_gives_the_same(self) -> None:
        for word in words(6):
            whole = DotStuffer()
            expected = whole.feed(word) + whole.finish()
            single = DotStuffer()
            assert b"".join(single.feed(word[i : i + 1]) for i in range(len(word))) + single.finish() == expected, word
            for cut in range(len(word)):
                two = DotStuffer()
                assert two.feed(word[:cut]) + two.feed(word[cut:]) + two.finish() == expected, word

    def test_a_dot_at_a_chunk_border_is_stuffed(self) -> None:
        stuffer = DotStuffer()
        wire = stuffer.feed(b"x" * 16377 + b"\r\n") + stuffer.feed(b".\r\nMAIL FROM:<evil@example.com>\r\n") + stuffer.finish()
        assert b"\r\n..\r\nMAIL" in wire

    def test_what_a_lenient_receiver_would_take_for_the_end_is_not_sent(self) -> None:
        stuffer = DotStuffer()
        assert stuffer.feed(b"a\n.\nMAIL\r.\rb\r") + stuffer.finish() == b"a\r\n..\r\nMAIL\r\n..\r\nb\r\n.\r\n"

    def test_an_empty_content_is_one_line_with_a_dot(self) -> None:
        assert DotStuffer().finish() == b".\r\n"

    def test_a_long_line_is_one_line(self) -> None:
        found = unstuffed([b"x" * 65536] * 5 + [b"\r\n.\r\nQUIT\r\n"])
        assert found == (b"x" * 65536 * 5 + b"\r\n", b"QUIT\r\n", False)


class TestLines:
    def test_only_crlf_ends_a_line(self) -> None:
        lines = LineBuffer(100)
        lines.receive(b"a\nb\rc\x85\x0b\x0c\x1c\xe2\x80\xa8d\r\r\n\r\nrest")
        assert lines.next_line() == b"a\nb\rc\x85\x0b\x0c\x1c\xe2\x80\xa8d\r"
        assert lines.next_line() == b""
        assert lines.next_line() is None
        assert lines.pending == 4
        assert lines.begins_with(b"re")
        assert lines.take() == b"rest"
        assert lines.pending == 0

    @pytest.mark.parametrize("size", [1, 2, 3, 1000])
    def test_the_limit_is_exact(self, size: int) -> None:
        octets = b"12345\r\n123456\r\n12345\r\n" + b"x" * 50 + b"\r\n1\r\n"
        lines, found = LineBuffer(5), []
        for start in range(0, len(octets), size):
            lines.receive(octets[start : start + size])
            while (line := lines.next_line()) is not None:
                found.append(line)
        assert found == [b"12345", TOO_LONG, b"12345", TOO_LONG, b"1"]

    def test_an_endless_line_is_dropped_as_it_comes(self) -> None:
        lines = LineBuffer(100)
        lines.receive(b"x" * 300)
        assert lines.next_line() is TOO_LONG
        for _ in range(100):
            lines.receive(b"y" * 1000 + b"\r")
            assert lines.next_line() is None
            assert lines.pending <= 1
        assert lines.discarded > 100_000
        lines.receive(b"\nnext\r\n")
        assert lines.discarded == 0
        assert lines.next_line() == b"next"

    def test_time_is_linear(self) -> None:
        lines = LineBuffer(2_000_000)
        start = time.process_time()
        for _ in range(1_000_000):
            lines.receive(b"x")
            lines.next_line()
        assert time.process_time() - start < 4
        assert lines.pending == 1_000_000

    def test_clear_forgets_an_overlong_line_too(self) -> None:
        lines = LineBuffer(10)
        lines.receive(b"x" * 30)
        lines.next_line()
        lines.clear()
        lines.receive(b"ok\r\n")
        assert lines.next_line() == b"ok"
