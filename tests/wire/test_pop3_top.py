"""The cut that TOP makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.pop3_top import TopCut

HEADER = b"a: b\r\nc: d\r\n"
BODY = b"1\r\n2\r\n3\r\n"


@pytest.mark.parametrize(
    ("content", "lines", "passes"),
    [
        (HEADER + b"\r\n" + BODY, 0, HEADER + b"\r\n"),
        (HEADER + b"\r\n" + BODY, 1, HEADER + b"\r\n1\r\n"),
        (HEADER + b"\r\n" + BODY, 2, HEADER + b"\r\n1\r\n2\r\n"),
        (HEADER + b"\r\n" + BODY, 3, HEADER + b"\r\n" + BODY),
        (HEADER + b"\r\n" + BODY, 4, HEADER + b"\r\n" + BODY),
        (HEADER + b"\r\n" + BODY, 9_999_999_999, HEADER + b"\r\n" + BODY),
        (HEADER + b"\r\n\r\n\r\n" + BODY, 2, HEADER + b"\r\n\r\n\r\n"),
        (b"\r\n" + BODY, 1, b"\r\n1\r\n"),
        (b"\r\n", 5, b"\r\n"),
        (HEADER, 5, HEADER),
        (HEADER, 0, HEADER),
        (b"", 5, b""),
    ],
)
def test_header_section_empty_line_and_that_many_lines_pass(content: bytes, lines: int, passes: bytes) -> None:
    for size in (1, 2, 3, 5, len(content) or 1):
        cut = TopCut(lines)
        assert b"".join(cut.feed(content[at : at + size]) for at in range(0, len(content), size)) == passes


def test_nothing_passes_after_the_end() -> None:
    cut = TopCut(0)
    assert cut.feed(b"a: b\r\n\r\n") == b"a: b\r\n\r\n"
    assert cut.is_done
    assert cut.feed(b"more\r\n") == b""


@given(
    st.lists(st.sampled_from([b"", b"a", b".", b"a: b", b"\r", b"x" * 50]), max_size=12),
    st.integers(0, 8),
    st.lists(st.integers(1, 9), max_size=60),
)
def test_any_split_gives_what_counting_lines_gives(parts: list[bytes], lines: int, cuts: list[int]) -> None:
    content = b"".join(part + b"\r\n" for part in parts)
    split = content.split(b"\r\n")[:-1]
    head = split.index(b"") + 1 if b"" in split else len(split)
    expected = b"".join(line + b"\r\n" for line in split[: head + lines])
    cut, out, at = TopCut(lines), b"", 0
    for size in cuts:
        out += cut.feed(content[at : at + size])
        at += size
    assert out + cut.feed(content[at:]) == expected
