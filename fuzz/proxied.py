"""
The PROXY header: what is one is told from what is none as a reader by hand tells it, however it comes, and the session behind
it gets the rest.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from fuzz.target import Choices, Target, kept, pieces
from mailstack.net.proxied import HeaderProtocol, ProxiedFactory
from mailstack.wire.proxy import BLOCK_OCTETS, ProxyHeader, ProxyHeaderError, parse_proxy_header

_PROXY: Final = IPv4Address("TCP", "192.0.2.99", 4_711)
_BINARY: Final = b"\r\n\r\n\0\r\nQUIT\n"
_DIGITS: Final = b"0123456789"

Told = tuple[int, bytes, int]
"""The length, the address in octets, or none, and the port."""


def slow_header(octets: bytes) -> Told | str | None:
    """Read a header octet by octet, as far as it goes; a text says that it is none."""
    for end in range(1, len(octets) + 1):
        found = _slow_of(octets[:end])
        if found is not None:
            return found
    return None


def _slow_of(octets: bytes) -> Told | str | None:
    if not (b"PROXY ".startswith(octets[:6]) or _BINARY.startswith(octets[:12])):
        return "neither"
    if octets[:1] == b"P":
        if octets.endswith(b"\r\n"):
            return _slow_line(octets[:-2])
        return "endless" if len(octets) == 107 else None
    if len(octets) < 16:
        return None
    if octets[12] not in (0x20, 0x21):
        return "of another kind"
    size = octets[14] * 256 + octets[15]
    if 16 + size > 4_096:
        return "too long"
    return _slow_block(octets) if len(octets) == 16 + size else None


def _slow_line(line: bytes) -> Told | str:
    length = len(line) + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return length, b"", 0
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        return "malformed"
    family = socket.AF_INET if words[1] == b"TCP4" else socket.AF_INET6
    try:
        source, _ = (socket.inet_pton(family, each.decode("ascii")) for each in words[2:4])
    except (OSError, ValueError):
        return "no address"
    for port in words[4:]:
        if not port or len(port) > 5 or port.strip(_DIGITS) or str(int(port)).encode() != port or int(port) >= 1 << 16:
            return "no port"
    return length, source, int(words[4])


def _slow_block(octets: bytes) -> Told | str:
    is_local, addresses = octets[12] == 0x20, octets[16:]
    width = {0x1: 4, 0x2: 16, 0x3: 108}.get(octets[13] >> 4, 0)
    ports = 4 if 0 < width < 108 else 0
    if is_local:
        return len(octets), b"", 0
    if len(addresses) < 2 * width + ports:
        return "cut short"
    if not ports or octets[13] & 0xF != 1:
        return len(octets), b"", 0
    return len(octets), addresses[:width], addresses[2 * width] * 256 + addresses[2 * width + 1]


class _Transport:
    """Takes note that it was dropped."""

    protocol: Any = None
    is_dropped = False

    def abortConnection(self) -> None:
        self.is_dropped = True


class _Session(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.octets = b""

    def dataReceived(self, data: bytes) -> None:
        assert data, "nothing came, and it was told"
        self.octets += data


class _Sessions(Factory):
    """Remembers for whom its last session was made."""

    noisy = False
    client: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        assert self.client is None, "two sessions"
        self.client = addr
        return _Session()


def run_proxy(octets: bytes) -> None:
    """Read the header of a connection: a choice of the cut, and what comes."""
    choices = Choices(octets)
    cut, wire = choices.number() % 40, choices.rest()
    told = slow_header(wire)
    _check_parsed(wire, told)
    for each in (0, cut):
        _check_handed_over(wire, told, each)


def _check_parsed(wire: bytes, told: Told | str | None) -> None:
    try:
        header = parse_proxy_header(wire)
    except ProxyHeaderError as error:
        assert str(error).isascii()
        assert str(error).isprintable()
        assert isinstance(told, str), "it is one"
        return
    assert header is None or isinstance(header, ProxyHeader)
    if header is None:
        assert told is None, f"it is complete: {told}"
        assert len(wire) < BLOCK_OCTETS
        return
    assert not isinstance(told, str), f"it is none: {told}"
    assert (header.octets, _packed(header.host), header.port) == told


def _check_handed_over(wire: bytes, told: Told | str | None, cut: int) -> None:
    sessions, why, clock, transport = _Sessions(), list[str](), Clock(), _Transport()
    factory = ProxiedFactory(
        sessions,
        is_proxy=lambda address: True,
        parse=parse_proxy_header,
        dropped=lambda address, reason: why.append(reason),
        clock=clock,
    )
    waiting = factory.buildProtocol(_PROXY)
    assert isinstance(waiting, HeaderProtocol)
    transport.protocol = waiting
    waiting.makeConnection(transport)  # type: ignore[no-untyped-call]  # Twisted's is untyped
    for piece in pieces(wire, cut):
        if piece and not transport.is_dropped:
            transport.protocol.dataReceived(piece)
            if transport.protocol is waiting and not transport.is_dropped:
                assert kept(waiting) < BLOCK_OCTETS
    assert transport.is_dropped is isinstance(told, str)
    assert len(why) == transport.is_dropped
    assert bool(factory.waiting) is bool(clock.getDelayedCalls()) is (told is None)
    if not isinstance(told, tuple):
        assert sessions.client is None
        return
    length, host, port = told
    session = transport.protocol
    assert isinstance(session, _Session)
    assert session.octets == wire[length:]
    if host:
        assert (_packed(sessions.client.host), sessions.client.port) == (host, port)
    else:
        assert sessions.client is _PROXY


def _packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed if host else b""


TARGET: Final = Target("proxy", "the PROXY header, versions 1 and 2, and who gets the rest", run_proxy, most_octets=300)
