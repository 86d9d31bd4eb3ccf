"""The meter of header sections: it counts the same however the content is cut, and never counts down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.headers import HeaderMeter


def measured(*pieces: bytes) -> tuple[int, int, bool]:
    meter, before = HeaderMeter(), (-2, 0)
    for piece in pieces:
        meter.feed(piece)
        assert meter.octets >= before[0]
        assert meter.fields >= before[1]
        before = meter.octets, meter.fields
    return meter.octets, meter.fields, meter.is_over


@pytest.mark.parametrize(
    ("content", "octets", "fields"),
    [
        (b"A: b\r\n\r\nbody\r\n", 6, 1),
        (b"A: b\r\nC: d\r\n e\r\n\tf\r\nG: h\r\n\r\nX: y\r\n", 26, 3),
        (b"A: b\r\nno field\r\n\r\n", 16, 2),
        (b"From a@b Mon Jan 1\r\nA: b\r\n\r\n", 26, 2),
        (b"\r\nA: b\r\n\r\n", 0, 0),
        (b"Hello,\r\nA: b\r\n\r\n", -2, 0),
        (b" A: b\r\nC: d\r\n\r\n", -2, 0),
        (b"x" * 900 + b": y\r\n\r\n", 905, 1),
        (b"x" * 901 + b": y\r\n\r\n", -2, 0),
        (b"x" * 2_000 + b": y\r\n\r\n", -2, 0),
    ],
)
def test_what_belongs_to_it(content: bytes, octets: int, fields: int) -> None:
    expected = (octets, fields, True)
    assert measured(content) == expected
    assert measured(*[bytes([octet]) for octet in content]) == expected
    for at in range(len(content)):
        assert measured(content[:at], content[at:]) == expected


def test_without_an_end_all_but_the_last_octets_count() -> None:
    assert measured(b"A: b\r\nC: d\r\n") == (9, 2, False)


@given(st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b"A:", b"b", b":", b"From "])), st.data())
def test_the_cut_does_not_matter(parts: list[bytes], data: st.DataObject) -> None:
    content = b"A: " + b"".join(parts)
    whole = measured(content)
    assert measured(*[bytes([octet]) for octet in content]) == whole
    at = data.draw(st.integers(0, len(content)))
    assert measured(content[:at], content[at:]) == whole


def test_it_keeps_little() -> None:
    meter = HeaderMeter()
    for _ in range(1_000):
        meter.feed(b"x" * 10_000)
    assert len(meter._tail) <= 3
    meter = HeaderMeter()
    for _ in range(100_000):
        meter.feed(b"x")
    assert len(meter._tail) <= 1_000
