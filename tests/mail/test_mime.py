"""What a header section says of its body: the standard library agrees where it is clear, and nothing is guessed where not."""

from __future__ import annotations

import email
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.mail.mime import BASE64, EIGHT_BIT, Entity, Kind, MimeError, parse_entity, relabel

TEXT = Entity(Kind.LEAF)


def of_type(value: bytes, *more: bytes) -> Entity:
    return parse_entity(b"Content-Type: " + value + b"\r\n" + b"".join(more))


@pytest.mark.parametrize(
    ("value", "boundary"),
    [
        (b"multipart/mixed; boundary=b", b"b"),
        (b"MULTIPART/Mixed;BOUNDARY=B", b"B"),
        (b'multipart/mixed; boundary="a b;c"', b"a b;c"),
        (b'multipart/mixed;\r\n\tcharset="x;boundary=no";\r\n boundary="yes"', b"yes"),
        (b"multipart/mixed; boundary=----=_Part_1/2:3?; charset=utf-8", b"----=_Part_1/2:3?"),
        (b"multipart/mixed; boundary=b;", b"b"),
        (b"multipart/mixed (a comment; boundary=no); boundary=b (another \\) one)", b"b"),
        (b"multipart/mixed ; boundary = b ; boundary=b", b"b"),
        (b"multipart/mixed; boundary=" + b"b" * 200, b"b" * 200),
    ],
)
def test_a_multipart(value: bytes, boundary: bytes) -> None:
    assert of_type(value) == Entity(Kind.MULTIPART, boundary)


@pytest.mark.parametrize(
    "value",
    [
        b"multipart/mixed",
        b"multipart/mixed; boundary=",
        b'multipart/mixed; boundary=""',
        b'multipart/mixed; boundary="b "',
        b'multipart/mixed; boundary="b\\"c"',
        b'multipart/mixed; boundary="b',
        b"multipart/mixed; boundary=b c",
        b"multipart/mixed; boundary=b(c)d",
        b"multipart/mixed boundary=b",
        b"multipart/mixed; boundary=b; boundary=c",
        b"multipart/mixed; boundary*=us-ascii''b",
        b"multipart/mixed; boundary*0=b; boundary*1=c",
        b"multipart/mixed; boundary=" + b"b" * 201,
        b"multipart/mixed; boundary=b\xfcro",
        b"multipart/mixed; boundary=\x00",
        b"multipart; boundary=b",
        b"multipart/mixed/x; boundary=b",
        b"multipart/mixed (a (nested) comment); boundary=b",
        b"message / rfc822",
    ],
)
def test_nobody_can_say_where_its_parts_are(value: bytes) -> None:
    with pytest.raises(MimeError):
        of_type(value)


@pytest.mark.parametrize(
    "value", [b"text/plain; boundary=b", b"", b"text", b"image/png; x", b"application/x-multipart; boundary=b", b"a/b/c", b"@"]
)
def test_all_else_is_a_leaf(value: bytes) -> None:
    assert of_type(value) == TEXT


def test_messages() -> None:
    assert of_type(b"message/rfc822") == Entity(Kind.MESSAGE)
    assert of_type(b"Message/Global; x=y") == Entity(Kind.MESSAGE)
    assert of_type(b"message/delivery-status") == TEXT


def test_the_parts_of_a_digest_are_messages_unless_they_say_something_else() -> None:
    assert of_type(b"multipart/digest; boundary=b") == Entity(Kind.MULTIPART, b"b", is_digest=True)
    assert parse_entity(b"", is_in_digest=True) == Entity(Kind.MESSAGE)
    assert parse_entity(b"Content-Type: text/plain\r\n", is_in_digest=True) == TEXT
    assert parse_entity(b"Content-Type: no type\r\n", is_in_digest=True) == TEXT


@pytest.mark.parametrize(
    ("value", "is_binary"),
    [(b" binary", True), (b"BINARY", True), (b"\r\n\tBinary ", True), (b" binary (so it is)", True), (b" (x) binary", True)]
    + [(each, False) for each in (b"", b" 8bit", b" binary;", b' "binary"', b" binary x", b" x-binary", b" base64", b" b\x00")],
)
def test_what_is_binary(value: bytes, is_binary: bool) -> None:
    field = b"Content-Transfer-Encoding:" + value + b"\r\n"
    assert parse_entity(field) == Entity(Kind.LEAF, encoding=BASE64 if is_binary else None)
    composite = of_type(b"multipart/x; boundary=b", field)
    if is_binary:
        assert composite == Entity(Kind.MULTIPART, b"b", encoding=EIGHT_BIT)
        assert of_type(b"message/rfc822", field) == Entity(Kind.MESSAGE, encoding=EIGHT_BIT)
        assert of_type(b"message/delivery-status", field) == Entity(Kind.LEAF, encoding=EIGHT_BIT)
    else:
        # What is encoded, in whatever way, cannot be looked into.
        assert composite.kind is (Kind.MULTIPART if value == b" 8bit" else Kind.LEAF)
        assert of_type(b"message/rfc822", field).kind is (Kind.MESSAGE if value == b" 8bit" else Kind.LEAF)


def test_fields_that_come_twice() -> None:
    mixed, other, text = (b"Content-Type: %b\r\n" % each for each in (b"multipart/x; boundary=b", b"message/rfc822", b"a/b"))
    binary, eight = b"Content-Transfer-Encoding: binary\r\n", b"content-transfer-encoding : 8bit\r\n"
    assert parse_entity(mixed + mixed) == Entity(Kind.MULTIPART, b"b")
    assert parse_entity(text + b"Content-Type: c/d\r\n") == TEXT
    assert parse_entity(binary + binary) == Entity(Kind.LEAF, encoding=BASE64)
    assert parse_entity(eight + b"Content-Transfer-Encoding: 7bit\r\n") == TEXT
    for section in (mixed + text, text + other, mixed + other, binary + eight, eight + binary):
        with pytest.raises(MimeError):
            parse_entity(section)


def test_only_the_encoding_is_written_anew() -> None:
    section = (
        b"Subject: Content-Transfer-Encoding: binary\r\n Content-Transfer-Encoding: binary\r\n"
        b"X-Content-Transfer-Encoding: binary\r\ncontent-TRANSFER-encoding :\r\n\tbinary (x)\r\nContent-Type: a/b; c=binary\r\n"
    )
    changed = section.replace(b"encoding :\r\n\tbinary (x)", b"encoding : base64")
    assert relabel(section, BASE64) == changed
    assert email.message_from_bytes(changed.replace(b"g :", b"g:") + b"\r\nAAA=").get_payload(decode=True) == b"\0\0"


PARAMETERS = st.lists(
    st.sampled_from(
        [b";", b" ", b"boundary", b"=", b"b", b'"', b"\\", b"(", b")", b"\t", b"*", b"charset", b"c d", b"'", b":"]
    ),
    max_size=12,
).map(b"".join)


@given(PARAMETERS)
@settings(max_examples=500)
def test_a_boundary_that_is_read_is_the_one_that_the_standard_library_reads(parameters: bytes) -> None:
    value = b"multipart/mixed; " + parameters
    try:
        entity = of_type(value)
    except MimeError:
        return
    if b"(" not in parameters:
        assert email.message_from_bytes(b"Content-Type: " + value + b"\r\n\r\n").get_boundary("").encode() == entity.boundary


@pytest.mark.parametrize(
    "section",
    [
        b"Content-Type: multipart/x" + b"; a=b" * 50_000 + b"\r\n",
        b"Content-Type: multipart/x; " + b"(" * 250_000 + b"\r\n",
        b"Content-Type: multipart/x; a=" + b'"' * 250_001 + b"\r\n",
        b"Content-Type: multipart/x; a=" + b"\\" * 250_000 + b"\r\n",
        b"Content-Type:" + b"\r\n " * 80_000 + b"\r\n",
        b"Content-Transfer-Encoding: binary\r\n" * 7_000,
        b"Content-Type" * 20_000 + b":\r\n",
        b"\r\nContent-T" * 20_000,
    ],
    ids=range(8),
)
def test_time_is_linear(section: bytes) -> None:
    began = time.process_time()
    with suppress(MimeError):
        parse_entity(section)
    relabel(section, BASE64)
    assert time.process_time() - began < 1  # takes 0.03 s
