"""CRLF line ends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.crlf import CRLFNormaliser, with_crlf


@pytest.mark.parametrize(
    ("octets", "normal"),
    [
        (b"", b""),
        (b"\n", b"\r\n"),
        (b"\r\n", b"\r\n"),
        (b"\r", b"\r\n"),
        (b"a", b"a\r\n"),
        (b"a\nb\r\nc", b"a\r\nb\r\nc\r\n"),
        (b"a\rb\n", b"a\r\nb\r\n"),
        (b"a\r\r\n", b"a\r\n\r\n"),
        (b"\n\r\n\n", b"\r\n\r\n\r\n"),
        (b"\x00\n", b"\x00\r\n"),
        (b".\n", b".\r\n"),
    ],
)
def test_every_line_ends_with_crlf(octets: bytes, normal: bytes) -> None:
    assert with_crlf(octets) == normal


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"."]), max_size=12), st.lists(st.integers(1, 4), max_size=30))
def test_any_split_gives_the_same(parts: list[bytes], cuts: list[int]) -> None:
    octets = b"".join(parts)
    expected = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    if octets and not octets.endswith((b"\r", b"\n")):
        expected += b"\r\n"
    normaliser, out, position = CRLFNormaliser(), b"", 0
    for cut in cuts:
        out += normaliser.feed(octets[position : position + cut])
        position += cut
    assert out + normaliser.feed(octets[position:]) + normaliser.finish() == expected
