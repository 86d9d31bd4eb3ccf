"""Replies: their form on the wire, and a catalogue that is true to itself."""

import re

import pytest

from mailstack.mail import reply as catalogue
from mailstack.mail.reply import Reply, format_reply, reply
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.verdict import defer, reject

CATALOGUE = {name: value for name, value in vars(catalogue).items() if isinstance(value, Reply)}


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_is_well_formed(name: str) -> None:
    value = CATALOGUE[name]
    assert value.enhanced is None or value.enhanced.kind == value.code // 100
    assert re.fullmatch(rb"[245]\d\d \d\.\d\.\d{1,2} [ -~]+\r\n|354 [ -~]+\r\n", format_reply(value))


def test_a_catalogue_is_there() -> None:
    assert len(CATALOGUE) > 30


def test_lines_are_bounded_and_printable() -> None:
    octets = format_reply(Reply(550, ("a\r\nb" + "x" * 1000, "ü"), EnhancedStatus(5, 1, 1)))
    first, second, rest = octets.split(b"\r\n")
    assert (rest, second) == (b"", b"550 5.1.1 ?")
    assert first.startswith(b"550-5.1.1 a??b")
    assert len(first) + 2 == 512


def test_no_text_is_still_a_reply() -> None:
    assert format_reply(Reply(250, ())) == b"250 OK\r\n"


def test_code_and_status_must_agree() -> None:
    with pytest.raises(ValueError, match="does not go with"):
        reply(450, "5.1.1", "x")
    with pytest.raises(ValueError, match="5yz"):
        reject("x", 450, "4.1.1")
    with pytest.raises(ValueError, match="4yz"):
        defer("x", 550, "5.1.1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5.1.1 no", EnhancedStatus(5, 1, 1)), ("4.7.999", EnhancedStatus(4, 7, 999)), ("3.1.1 x", None), ("5.1", None),
        ("5.1.1000", None), ("5.1.1no", None), ("", None), ("5.\u0661.1", None),
    ],
)  # fmt: skip
def test_statuses_are_read(text: str, expected: EnhancedStatus | None) -> None:
    assert EnhancedStatus.parse(text) == expected


def test_statuses_know_their_class() -> None:
    assert EnhancedStatus(5, 0, 0).is_permanent
    assert not EnhancedStatus(4, 0, 0).is_permanent
    assert (reply(250, "2.0.0", "x").is_success, reply(450, "4.0.0", "x").is_temporary) == (True, True)
    assert str(reply(550, "5.1.1", "No", "way")) == "550 5.1.1 No way"
