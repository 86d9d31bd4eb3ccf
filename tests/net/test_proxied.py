"""A connection from a proxy is nothing until its header is there; then it is the client's, and all others pass."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase

from mailstack.net.proxied import HEADER_SECONDS, MOST_WAITING, ProxiedFactory
from mailstack.wire.proxy import parse_proxy_header

PROXY, STRANGER = IPv4Address("TCP", "10.0.0.9", 4000), IPv4Address("TCP", "192.0.2.66", 4000)
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 25\r\n"
BLOCK6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + bytes(15) + b"\x07" + bytes(16) + b"\x12\x34\0\x19"


class Echo(Protocol):
    """Greets, and keeps what it gets."""

    transport: Any

    def __init__(self, address: Any) -> None:
        self.address = address
        self.got = b""
        self.is_lost = False

    def connectionMade(self) -> None:
        self.transport.write(b"220\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.is_lost = True


class Echoes(Factory):
    def __init__(self) -> None:
        self.made: list[Echo] = []
        self.is_full = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self.is_full:
            return None
        self.made.append(Echo(addr))
        return self.made[-1]


class Transport(StringTransportWithDisconnection):
    """As that of a socket: whoever is its protocol gets what comes."""

    aborted = False
    protocol: Any

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()

    def feed(self, octets: bytes) -> None:
        if self.connected:
            self.protocol.dataReceived(octets)


class ProxiedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.inner = Echoes()
        self.dropped: list[tuple[Any, str]] = []
        self.factory = ProxiedFactory(
            self.inner,
            is_proxy=lambda address: getattr(address, "host", "").startswith("10."),
            parse=parse_proxy_header,
            dropped=lambda address, why: self.dropped.append((address, why)),
            clock=self.clock,
        )

    def connect(self, address: Any = PROXY) -> Transport:
        transport = Transport(peerAddress=address)
        transport.protocol = self.factory.buildProtocol(address)
        transport.protocol.makeConnection(transport)
        return transport

    def nothing_is_left(self) -> None:
        self.assertEqual(set(), self.factory.waiting)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_in_every_cut(self) -> None:
        for header, client in (
            (LINE, IPv4Address("TCP", "192.0.2.1", 50_000)),
            (BLOCK6, IPv6Address("TCP", "::7", 0x1234)),
            (b"PROXY UNKNOWN\r\n", PROXY),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", PROXY),
        ):
            octets = header + b"EHLO c\r\n"
            for cut in range(len(octets) + 1):
                transport = self.connect()
                self.assertEqual(b"", transport.value(), "no greeting before the header")
                made = len(self.inner.made)
                for piece in (octets[:cut], octets[cut:]):
                    transport.feed(piece)
                    self.assertLessEqual(len(self.inner.made), made + 1)
                self.assertEqual((client, b"EHLO c\r\n"), (self.inner.made[-1].address, self.inner.made[-1].got))
                self.assertEqual(b"220\r\n", transport.value())
        self.assertEqual([], self.dropped)
        self.nothing_is_left()

    def test_octet_by_octet_and_the_session_has_its_end(self) -> None:
        transport = self.connect()
        for octet in LINE + b"QUIT":
            transport.feed(bytes((octet,)))
        (session,) = self.inner.made
        transport.loseConnection()
        self.assertEqual((b"QUIT", True), (session.got, session.is_lost))

    def test_what_is_no_header_is_dropped_at_once(self) -> None:
        for octets, why in (
            (b"EHLO c\r\n", "the connection begins with something else"),
            (b"\x16\x03\x01", "the connection begins with something else"),
            (LINE.replace(b"TCP4", b"TCP6"), "an address in it is of another family"),
            (b"PROXY TCP4 " + b"1" * 100_000, "its line is longer than 107 octets"),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "it is longer than 4096 octets"),
        ):
            transport = self.connect()
            transport.feed(octets)
            self.assertTrue(transport.aborted)
            self.assertEqual((PROXY, why), self.dropped.pop())
        self.assertEqual([], self.inner.made)
        self.nothing_is_left()

    def test_however_slowly_it_comes_there_is_so_much_time_for_it(self) -> None:
        transport = self.connect()
        for octet in LINE[:9]:
            transport.feed(bytes((octet,)))
            self.clock.advance(HEADER_SECONDS / 10)
        self.assertFalse(transport.aborted)
        self.clock.advance(HEADER_SECONDS / 10)
        self.assertTrue(transport.aborted)
        self.assertEqual([(PROXY, "none after 5 s")], self.dropped)
        transport.protocol.dataReceived(LINE[9:])
        self.assertEqual([], self.inner.made, "too late")
        self.nothing_is_left()

    def test_who_goes_without_a_word_is_not_worth_one(self) -> None:
        self.connect().loseConnection()
        self.assertEqual([], self.dropped)
        transport = self.connect()
        transport.feed(b"PROXY TCP")
        transport.loseConnection()
        self.assertEqual([(PROXY, "it is not complete")], self.dropped)
        self.nothing_is_left()

    def test_others_pass_and_their_header_is_nothing_special(self) -> None:
        transport = self.connect(STRANGER)
        transport.feed(LINE)
        (session,) = self.inner.made
        self.assertEqual((STRANGER, LINE), (session.address, session.got))
        self.assertEqual(b"220\r\n", transport.value())

    def test_no_session_no_connection(self) -> None:
        self.inner.is_full = True
        transport = self.connect()
        transport.feed(LINE + b"x")
        self.assertTrue(transport.aborted)
        self.nothing_is_left()

    def test_not_too_many_wait(self) -> None:
        waiting = [self.connect() for _ in range(MOST_WAITING)]
        self.assertIsNone(self.factory.buildProtocol(PROXY))
        self.assertEqual([(PROXY, "too many wait for theirs")], self.dropped)
        waiting[0].feed(LINE)
        self.assertIsNotNone(self.factory.buildProtocol(PROXY))

    def test_with_the_port_they_go(self) -> None:
        self.factory.doStart()
        self.assertEqual(1, self.inner.numPorts)
        waiting, served = self.connect(), self.connect()
        served.feed(LINE)
        self.factory.doStop()
        self.assertEqual((True, False), (waiting.aborted, served.aborted))
        self.assertEqual(0, self.inner.numPorts)
        self.nothing_is_left()
