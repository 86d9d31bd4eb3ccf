"""Addresses: what is one, what is not, and that none can carry anything else along."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.address import Address, AddressError, format_path, parse_address, parse_domain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bob@example.test", Address("bob", "example.test")),
        ("Bob.B+tag@EXAMPLE.Test.", Address("Bob.B+tag", "example.test")),
        ('"bob"@example.test', Address("bob", "example.test")),
        ('"a \\"quoted\\" b"@x.test', Address('a "quoted" b', "x.test")),
        ('"a@b"@x.test', Address("a@b", "x.test")),
        ("bob@[192.0.2.1]", Address("bob", "[192.0.2.1]")),
        ("bob@[ipv6:2001:DB8::1]", Address("bob", "[IPv6:2001:db8::1]")),
        ("jürgen@münchen.test", Address("jürgen", "xn--mnchen-3ya.test")),
        ("bob@localhost", Address("bob", "localhost")),
        ("remote!x@local.test", Address("remote!x", "local.test")),
        ("x" * 64 + "@y.test", Address("x" * 64, "y.test")),
    ],
)
def test_parses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "bob", "@x.test", "bob@", "a..b@x.test", ".a@x.test", "a.@x.test", "a b@x.test", "bob@x..test", "bob@-x.test",
        "bob@x-.test", "bob@1.2.3.4", "bob@[1.2.3]", "bob@[1.2.3.4", "bob@[IPv6:zz]", "bob@[x]", "x" * 65 + "@y.test",
        "bob@" + "a" * 64 + ".test", "bob@" + ".".join(["a" * 60] * 5), "bob@x.test\n", "bob\r@x.test", "b\0b@x.test",
        '"a\nb"@x.test', '"a\0b"@x.test', '"unclosed@x.test', '""@x.test', '"a"b@x.test', "<bob@x.test>", "bob@x@y.test",
        "a(comment)@x.test", "a@x.test ", "a\x85b@x.test", "a\u2028b@x.test", '"a\\\nb"@x.test', "bob@x.test,carol@x.test",
        "bob@x_.test-", "\\bob@x.test", "bob@[127.0.0.1]x",
        "bob@" + "İ" * 31 + ".test",  # in lower case each is an octet longer, and the label too long
    ],
)  # fmt: skip
def test_refuses(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in str(address))
    assert parse_address(str(address)) == address


@given(st.from_regex(r"[!-~ ]{1,30}", fullmatch=True))
def test_a_formatted_address_parses_to_itself(local_part: str) -> None:
    address = Address(local_part, "x.test")
    assert parse_address(str(address)) == address


def test_parsing_is_linear() -> None:
    with pytest.raises(AddressError):
        parse_address("a." * 500_000 + "@x.test")
    with pytest.raises(AddressError):
        parse_domain("a." * 500_000)


def test_paths() -> None:
    assert format_path(None) == "<>"
    assert format_path(Address("bob", "x.test")) == "<bob@x.test>"
    assert str(Address("postmaster", "")) == "postmaster"
    assert Address("a", "[192.0.2.1]").is_literal
    assert not Address("ü", "x.test").is_ascii


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example.", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("黒川.日本", "xn--5rtw95l.xn--wgv71a"),
        ("黒川\u3002日本", "xn--5rtw95l.xn--wgv71a"),
        ("\uff45xample.org", "example.org"),
    ],
)
def test_an_international_domain_has_one_form(text: str, domain: str) -> None:
    assert parse_domain(text) == domain
    assert parse_address(f"ü@{text}") == Address("ü", domain)


@pytest.mark.parametrize(
    "text",
    [
        "ü..example",
        "-ü.example",
        "ü-.example",
        "👍.example",
        "ü\u200f.example",
        "ü\u2028.example",
        "xn--ü.example",
        "ü" * 60 + ".x",
        "ü." * 100 + "x",
        "ü" * 100_000,
        "ü@x",
        "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
        "[ü]",
    ],
)
def test_what_is_no_international_domain(text: str) -> None:
    with pytest.raises(AddressError):
        parse_domain(text)
