"""The attributes of XCLIENT and XFORWARD: what each may say, and that nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.reply import BAD_ARGUMENTS, Reply
from mailstack.wire.grammar import encode_xtext
from mailstack.wire.smtp_clients import XCLIENT, XFORWARD, parse_attributes


@pytest.mark.parametrize(
    ("argument", "attributes"),
    [
        (b"ADDR=192.0.2.1", {"ADDR": "192.0.2.1"}),
        (b"addr=IPV6:2001:DB8:0::1", {"ADDR": "2001:db8::1"}),
        (b"ADDR=ipv6:::ffff:192.0.2.1", {"ADDR": "192.0.2.1"}),
        (b"ADDR=[UNAVAILABLE] NAME=[TEMPUNAVAIL]", {"ADDR": "", "NAME": ""}),
        (b"ADDR=[unavailable]", {"ADDR": ""}),
        (b"NAME=spike.example  PORT=0", {"NAME": "spike.example", "PORT": "0"}),
        (b"PORT=65535 PROTO=smtp", {"PORT": "65535", "PROTO": "SMTP"}),
        (b"HELO=[192.0.2.1] PROTO=ESMTP", {"HELO": "[192.0.2.1]", "PROTO": "ESMTP"}),
        (b"HELO=a+2Bb+3Dc", {"HELO": "a+b=c"}),
        (b"NAME=" + b"x" * 255, {"NAME": "x" * 255}),
    ],
)
def test_of_both(argument: bytes, attributes: dict[str, str]) -> None:
    assert parse_attributes(argument, XCLIENT) == attributes
    assert parse_attributes(argument, XFORWARD) == attributes


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b" ",
        b"ADDR",
        b"ADDR=",
        b"=x",
        b"ADDR=x",
        b"ADDR=192.0.2.1 ADDR=192.0.2.1",
        b"ADDR=192.0.2.1 addr=192.0.2.2",
        b"ADDR=2001:db8::1",
        b"ADDR=IPV6:192.0.2.1",
        b"ADDR=IPV6:fe80::1%eth0",
        b"ADDR=[192.0.2.1]",
        b"ADDR=192.0.2.1/32",
        b"ADDR=192.000.002.001",
        b"PORT=65536",
        b"PORT=-1",
        b"PORT=123456",
        b"NAME=a+20b",
        b"NAME=a+0D+0Ab",
        b"NAME=a(b)",
        b"NAME=" + b"x" * 256,
        b"HELO=a+20b",
        b"HELO=a+0Ab",
        b"HELO=a+zz",
        b"HELO=a=b",
        b"HELO=+FF",
        b"PROTO=HTTP",
        b"DESTADDR=mx",
        b"DESTADDR=2001:db8::1",
        b"DESTPORT=x",
        b"DESTPORT=65536",
        b"X" * 17 + b"=1",
        b"NAME=\xc3\xa9",
        b"SOURCE=LOCAL LOGIN=x",
    ],
)
def test_what_is_malformed_or_unknown(argument: bytes) -> None:
    assert parse_attributes(argument, XCLIENT) is BAD_ARGUMENTS
    assert parse_attributes(argument, XFORWARD) is BAD_ARGUMENTS


def test_of_one_only() -> None:
    assert parse_attributes(b"LOGIN=alice@example.org", XCLIENT) == {"LOGIN": "alice@example.org"}
    assert parse_attributes(b"LOGIN=+C3+A9", XCLIENT) == {"LOGIN": "é"}
    where = {"DESTADDR": "2001:db8::25", "DESTPORT": "25"}
    assert parse_attributes(b"DESTADDR=IPV6:2001:db8::25 DESTPORT=25", XCLIENT) == where
    assert parse_attributes(b"DESTADDR=[UNAVAILABLE]", XCLIENT) == {"DESTADDR": ""}
    assert parse_attributes(b"DESTADDR=192.0.2.1", XFORWARD) is BAD_ARGUMENTS
    assert parse_attributes(b"DESTPORT=25", XFORWARD) is BAD_ARGUMENTS
    assert parse_attributes(b"LOGIN=alice@example.org", XFORWARD) is BAD_ARGUMENTS
    assert parse_attributes(b"IDENT=4NcT1 SOURCE=local", XFORWARD) == {"IDENT": "4NcT1", "SOURCE": "LOCAL"}
    for argument in (b"IDENT=4NcT1", b"LOGIN=a+20b", b"LOGIN=a+E2+80+A8b"):
        assert parse_attributes(argument, XCLIENT) is BAD_ARGUMENTS
    assert parse_attributes(b"SOURCE=elsewhere", XFORWARD) is BAD_ARGUMENTS


@given(st.binary(max_size=80), st.text(max_size=40))
def test_no_value_can_carry_more_than_it_should(octets: bytes, text: str) -> None:
    for argument in (
        octets,
        b"NAME=" + octets,
        b"HELO=" + octets,
        f"LOGIN={encode_xtext(text)} HELO={encode_xtext(text)}".encode(),
    ):
        attributes = parse_attributes(argument, XCLIENT)
        if not isinstance(attributes, Reply):
            assert all(value.isprintable() and " " not in value and len(value) <= 255 for value in attributes.values())
