"""File names of a maildir."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.store.names import Name, delivery_key, delivery_name, parse_name

ENTRY = "0123456789abc"
BASE = f"1700000000.M250000E{ENTRY}R3.mx.example.org"


def test_a_delivery_is_named_by_itself_and_its_size() -> None:
    assert delivery_name(ENTRY, 3, 1700000000.25, "mx.example.org", 812) == f"{BASE},S=812,W=812"


def test_a_repeated_delivery_has_the_same_key() -> None:
    first = delivery_name(ENTRY, 3, 1700000000.123456, "mx.example.org", 812)
    again = delivery_name(ENTRY, 3, 1700000000.123456, "mx.example.org", 900)
    assert delivery_key(first) == delivery_key(again + ":2,S")
    assert delivery_key(first) != delivery_key(delivery_name(ENTRY, 4, 1700000000.123456, "mx.example.org", 812))


@pytest.mark.parametrize("host", ["[IPv6:2001:db8::1]", "a/b", "../../etc", "x,S=1", "ünï", "", "h" * 300, "a\nb"])
def test_a_host_cannot_break_the_name(host: str) -> None:
    name = delivery_name(ENTRY, 0, 1700000000.0, host, 5)
    assert "/" not in name
    assert len(name) < 200
    assert name.isprintable()
    assert name.isascii()
    assert parse_name(name) == Name(delivery_key(name) or "", 5, 5, "")


@pytest.mark.parametrize(
    "name",
    [
        "1700000000.V801I2M3.host",
        "1700000000.M250000P12.host,S=3",
        f"x{BASE}",
        f"1700000000.M250000E{ENTRY.upper()}R3.mx",
        f"1700000000.M250000E{ENTRY}R3.mx/x",
        "",
        "cur",
    ],
)
def test_names_of_others_have_no_delivery_key(name: str) -> None:
    assert delivery_key(name) is None


@pytest.mark.parametrize("tail", ["", ",S=1,W=1", ":2,", ":2,FS", ",S=1,W=1:2,RST"])
def test_the_key_is_the_base_whatever_follows(tail: str) -> None:
    assert delivery_key(BASE + tail) == BASE == parse_name(BASE + tail).base


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("a", Name("a", None, None, "")),
        ("a,S=1", Name("a", 1, None, "")),
        ("a,W=2", Name("a", None, 2, "")),
        ("a,S=1,W=2", Name("a", 1, 2, "")),
        ("a,W=2,S=1:2,S", Name("a", 1, 2, "S")),
        ("a:2,S", Name("a", None, None, "S")),
        ("a:2,", Name("a", None, None, "")),
        ("a:1,x", Name("a", None, None, "")),
        ("a:x", Name("a", None, None, "")),
        ("a,b=c,S=7:2,F", Name("a,b=c", 7, None, "F")),
        ("a,S=1,S=2", Name("a", 1, None, "")),
        ("a,S=x", Name("a,S=x", None, None, "")),
        ("a,S=-1", Name("a,S=-1", None, None, "")),
        ("a,S=" + "9" * 30, Name("a,S=" + "9" * 30, None, None, "")),
        ("a,S=٣", Name("a,S=٣", None, None, "")),
        ("a:2,S,S=99", Name("a", None, None, "S,S=99")),
        (",S=1", Name("", 1, None, "")),
        ("", Name("", None, None, "")),
    ],
)
def test_names_are_taken_apart(name: str, parsed: Name) -> None:
    assert parse_name(name) == parsed


@given(st.binary(max_size=80))
def test_any_octets_are_a_name(octets: bytes) -> None:
    name = os.fsdecode(octets)
    parsed = parse_name(name)
    assert name.startswith(parsed.base[:1])
    assert ":" not in parsed.base


@given(st.text(max_size=60), st.text(alphabet="DFPRST", max_size=4), st.text(alphabet="DFPRST", max_size=4))
def test_flags_never_change_the_base(base: str, flags: str, others: str) -> None:
    assert parse_name(f"{base}:2,{flags}").base == parse_name(f"{base}:2,{others}").base == parse_name(base).base
