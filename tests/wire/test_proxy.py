"""The PROXY header: what is one, what is none, and that neither depends on the pieces in which it comes."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailstack.wire.proxy import BLOCK_OCTETS, LINE_OCTETS, ProxyHeader, ProxyHeaderError, parse_proxy_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 25\r\n"
PORTS = st.integers(0, 65_535)


def block(kind: int = 0x21, family: int = 0x11, rest: bytes = bytes(12), length: int | None = None) -> bytes:
    return SIGNATURE + bytes((kind, family)) + (len(rest) if length is None else length).to_bytes(2, "big") + rest


def tcp(source: str, port: int, *, tlvs: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    packed = address.packed + bytes(len(address.packed)) + port.to_bytes(2, "big") + b"\0\x19"
    return block(family=0x11 if address.version == 4 else 0x21, rest=packed + tlvs)


TCP6 = tcp("2001:db8::7", 4711, tlvs=b"\x03\0\4abcd\x04\0\1x")


@pytest.mark.parametrize(
    ("octets", "host", "port"),
    [
        (LINE, "192.0.2.1", 50_000),
        (b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n", "2001:db8::1", 0),
        (b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", "ffff:" * 7 + "ffff", 65_535),
        (b"PROXY UNKNOWN\r\n", "", 0),
        (b"PROXY UNKNOWN whatever \xff\0 it says\r\n", "", 0),
        (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", "", 0),
        (tcp("192.0.2.1", 50_000), "192.0.2.1", 50_000),
        (TCP6, "2001:db8::7", 4711),
        (tcp("192.0.2.1", 1, tlvs=bytes(BLOCK_OCTETS - 28)), "192.0.2.1", 1),
        (block(0x20, 0x00, b""), "", 0),
        (block(0x20, 0x11, b""), "", 0),
        (block(0x20, 0x21, bytes(36)), "", 0),
        (block(0x21, 0x00, b""), "", 0),
        (block(0x21, 0x12, bytes(12)), "", 0),
        (block(0x21, 0x31, bytes(216)), "", 0),
        (block(0x21, 0xF1, b"anything"), "", 0),
    ],
)
def test_headers_in_every_cut(octets: bytes, host: str, port: int) -> None:
    assert parse_proxy_header(octets) == ProxyHeader(len(octets), host, port)
    assert parse_proxy_header(octets + b"EHLO c\r\n") == ProxyHeader(len(octets), host, port), "what follows is not its"
    for end in range(len(octets)):
        assert parse_proxy_header(octets[:end]) is None


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"EHLO c\r\n", "something else"),
        (b"P-", "something else"),
        (b"proxy TCP4 192.0.2.1 198.51.100.1 50000 25\r\n", "something else"),
        (b"\r\n\r\n\1", "something else"),
        (b"\x16\x03\x01", "something else"),
        (b"PROXY \r\n", "malformed"),
        (b"PROXY TCP5 192.0.2.1 198.51.100.1 50000 25\r\n", "malformed"),
        (b"PROXY  TCP4 192.0.2.1 198.51.100.1 50000 25\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 25 \r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 50000\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1\n198.51.100.1 50000 25\r\n", "malformed"),
        (b"PROXY UNKNOWNX\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.256 198.51.100.1 50000 25\r\n", "address in it is none"),
        (b"PROXY TCP4 192.0.2.1 198.51.100 50000 25\r\n", "address in it is none"),
        (b"PROXY TCP4 ::1 ::1 50000 25\r\n", "of another family"),
        (b"PROXY TCP6 ::1 192.0.2.1 50000 25\r\n", "of another family"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n", "port in it is none"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 025\r\n", "port in it is none"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", f"longer than {LINE_OCTETS}"),
        (b"PROXY TCP4" + b" " * 97, f"longer than {LINE_OCTETS}"),
        (block(0x11), "version or command"),
        (block(0x31), "version or command"),
        (block(0x22), "version or command"),
        (block(0x21, 0x11, b"", length=0xFFFF), f"longer than {BLOCK_OCTETS}"),
        (block(0x21, 0x11, b"", length=BLOCK_OCTETS - 15), f"longer than {BLOCK_OCTETS}"),
        (block(0x21, 0x11, bytes(11)), "too short for its addresses"),
        (block(0x21, 0x21, bytes(35)), "too short for its addresses"),
        (block(0x21, 0x31, bytes(215)), "too short for its addresses"),
    ],
)
def test_what_is_none_is_refused_as_soon_as_it_is_known(octets: bytes, why: str) -> None:
    with pytest.raises(ProxyHeaderError, match=why) as caught:
        parse_proxy_header(octets)
    assert str(caught.value).isascii()
    with pytest.raises(ProxyHeaderError, match=why):
        parse_proxy_header(octets + b"more")


@given(st.ip_addresses(), st.integers(0, 65_535), st.binary(max_size=60))
def test_what_a_proxy_says_is_what_is_read(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, rest: bytes
) -> None:
    line = f"PROXY TCP{address.version} {address.exploded} {address} {port} 25\r\n".encode()
    for header in (line, tcp(str(address), port, tlvs=rest)):
        read = parse_proxy_header(header + rest)
        assert read is not None
        assert (read.octets, ipaddress.ip_address(read.host), read.port) == (len(header), address, port)


HEADS = st.sampled_from((b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", SIGNATURE, SIGNATURE + b"\x21\x11\0"))


@given(HEADS, st.binary(max_size=200))
@example(b"PROXY TCP6 ", b"::1%1 ::1 1 1\r\n")
def test_garbage_is_a_header_or_refused_or_too_short_and_more_of_it_changes_no_answer(head: bytes, octets: bytes) -> None:
    decided: list[ProxyHeader | str] = []
    whole = head + octets
    for end in range(len(whole) + 1):
        try:
            found: ProxyHeader | str | None = parse_proxy_header(whole[:end])
        except ProxyHeaderError as error:
            found = str(error)
        if found is not None:
            decided.append(found)
            assert not isinstance(found, ProxyHeader) or found.octets <= end
        else:
            assert not decided, "an answer is not taken back"
            assert end < BLOCK_OCTETS
    assert len(set(decided)) <= 1
