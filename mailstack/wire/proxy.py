"""
The PROXY header: what a load balancer writes in front of a connection, so that we know for whom it speaks.

Version 1 is one line of text, version 2 is binary. Both are bounded, and both are known for what they are, or are not, by
their first octets: so whatever is no header is found out at once, and nothing is waited for that cannot come.

    PROXY TCP4 192.0.2.1 198.51.100.1 50000 25\\r\\n           at most 107 octets
    signature, version and command, family, length, addresses and TLVs

TLVs are passed over, the checksum among them: a header that was damaged on its way over TCP does not occur.

Source:  HAProxy, "The PROXY protocol", 2020/03/05, §2.1 and §2.2.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

LINE_OCTETS: Final = 107  # §2.1, with CRLF
BLOCK_OCTETS: Final = 4_096  # of version 2; §2.2 wants 216 to be enough without TLVs, and certificates come in TLVs

_WORD: Final = b"PROXY "
_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_OCTETS: Final = 16
_LOCAL, _PROXY = 0, 1
_STREAM: Final = 1
_ADDRESS_OCTETS: Final = {1: 4, 2: 16}  # by family: IPv4, IPv6
_UNIX_FAMILY: Final = 3
_UNIX_OCTETS: Final = 216

_LINE: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})")
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)


class ProxyHeaderError(ValueError):
    """It is no PROXY header; the text says why, in printable ASCII."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """
    A header.

    Shape:   `octets` is its length; `host` and `port` are of whom the proxy speaks for, `host` an IP address, or "" where the
             one who connected is to be taken for himself (LOCAL, UNKNOWN, or an address that is not of TCP).
    """

    octets: int
    host: str = ""
    port: int = 0


def parse_proxy_header(octets: bytes) -> ProxyHeader | None:
    """
    Read the header with which a connection begins; None: it is not complete yet.

    Raises:  ProxyHeaderError.
    """
    if octets.startswith(_WORD):
        return _parse_line(octets)
    if octets.startswith(_SIGNATURE):
        return _parse_block(octets)
    if _WORD.startswith(octets) or _SIGNATURE.startswith(octets):
        return None
    raise ProxyHeaderError("the connection begins with something else")


def _parse_line(octets: bytes) -> ProxyHeader | None:
    end = octets.find(b"\r\n", 0, LINE_OCTETS)
    if end < 0:
        if len(octets) >= LINE_OCTETS:
            raise ProxyHeaderError(f"its line is longer than {LINE_OCTETS} octets")
        return None
    line, length = octets[:end], end + 2
    if _UNKNOWN.fullmatch(line):
        return ProxyHeader(length)
    found = _LINE.fullmatch(line)
    if found is None:
        raise ProxyHeaderError("its line is malformed")
    version = 4 if found[1] == b"TCP4" else 6
    host, _ = _address(found[2], version), _address(found[3], version)
    port, _ = _port(found[4]), _port(found[5])
    return ProxyHeader(length, host, port)


def _address(text: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        raise ProxyHeaderError("an address in it is none") from None
    if address.version != version:
        raise ProxyHeaderError("an address in it is of another family")
    return str(address)


def _port(text: bytes) -> int:
    port = int(text)
    if port > 65_535 or (text.startswith(b"0") and len(text) > 1):
        raise ProxyHeaderError("a port in it is none")
    return port


def _parse_block(octets: bytes) -> ProxyHeader | None:
    if len(octets) < _FIXED_OCTETS:
        return None
    version, command = octets[12] >> 4, octets[12] & 15
    family, transport = octets[13] >> 4, octets[13] & 15
    length = _FIXED_OCTETS + int.from_bytes(octets[14:16], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("its version or command is unknown")
    if length > BLOCK_OCTETS:
        raise ProxyHeaderError(f"it is longer than {BLOCK_OCTETS} octets")
    if len(octets) < length:
        return None
    width = _ADDRESS_OCTETS.get(family)
    wanted = _UNIX_OCTETS if family == _UNIX_FAMILY else 0 if width is None else 2 * width + 4
    if command == _PROXY and length - _FIXED_OCTETS < wanted:
        raise ProxyHeaderError("it is too short for its addresses")
    if command == _LOCAL or width is None or transport != _STREAM:
        return ProxyHeader(length)
    start = _FIXED_OCTETS + 2 * width
    host = str(ipaddress.ip_address(octets[_FIXED_OCTETS : _FIXED_OCTETS + width]))
    return ProxyHeader(length, host, int.from_bytes(octets[start : start + 2], "big"))
