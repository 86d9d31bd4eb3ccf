"""Trace fields say where a message came from and can carry nothing else."""

import re

import pytest

from mailstack.mail.address import Address
from mailstack.mail.envelope import Origin, Service
from mailstack.mail.trace import delivered_to_field, format_date, received_field, return_path_field, with_protocol


def _field(recipient: Address | None = None, **origin: object) -> str:
    made = Origin(**{"service": Service.SMTP, "peer": "192.0.2.1", "hello": "client.test", **origin})  # type: ignore[arg-type]
    return received_field(made, hostname="mx.test", entry="0123456789abc", accepted_at=86_400.9, recipient=recipient).decode()


def test_a_received_field() -> None:
    assert _field(Address("bob", "x.test"), tls="TLSv1.3 X") == (
        "Received: from client.test ([192.0.2.1])\r\n\tby mx.test with ESMTPS (TLSv1.3 X) id 0123456789abc\r\n"
        "\tfor <bob@x.test>; Fri, 02 Jan 1970 00:00:00 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin(service=Service.SMTP, extended=False), "SMTP"),
        (Origin(service=Service.SMTP), "ESMTP"),
        (Origin(service=Service.SMTP, tls="x"), "ESMTPS"),
        (Origin(service=Service.SUBMISSION, tls="x", account="a"), "ESMTPSA"),
        (Origin(service=Service.LMTP), "LMTP"),
        (Origin(service=Service.LMTP, tls="x"), "LMTPS"),
    ],
)
def test_the_with_keyword(origin: Origin, expected: str) -> None:
    assert with_protocol(origin) == expected


def test_nothing_from_outside_can_make_a_second_field_or_close_the_comment() -> None:
    text = _field(hello="evil\r\nX-Injected: 1 (a) \\ ü", tls="x) \r\ny")
    assert re.fullmatch(r"Received: from [^\s()]+ \(\[192\.0\.2\.1\]\)\r\n\tby .*; .*\r\n", text)


def test_nothing_from_outside_begins_a_quoted_string_or_the_date() -> None:
    assert _field(hello='evil";x').startswith("Received: from evil??x ([192.0.2.1])")


def test_long_and_missing_names() -> None:
    assert "from unknown ([" in _field(hello="")
    assert len(_field(hello="x" * 3000)) < 500
    assert "([IPv6:2001:db8::1])" in _field(peer="2001:db8::1")
    assert "(local)" in _field(peer="", service=Service.LMTP), "through a UNIX socket"
    assert "(unknown)" in _field(peer="")


def test_a_host_name_that_somebody_vouches_for() -> None:
    assert "from client.test (host.example [192.0.2.1])\r\n" in _field(name="host.example")
    assert "(a?b??c [192.0.2.1])\r\n" in _field(name="a b\r)c".replace("\r", "("))


def test_fields_of_final_delivery() -> None:
    assert return_path_field(None) == b"Return-Path: <>\r\n"
    assert return_path_field(Address("a b", "x.test")) == b'Return-Path: <"a b"@x.test>\r\n'
    assert delivered_to_field(Address("ü", "x.test")) == "Delivered-To: ü@x.test\r\n".encode()
    assert format_date(0) == "Thu, 01 Jan 1970 00:00:00 +0000"
