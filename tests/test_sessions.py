"""Sessions: counted for each peer, kept within caps, and ended together."""

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from mailstack.sessions import Sessions, peer_address, peer_key


class Recorded:
    def __init__(self) -> None:
        self.told: list[str] = []

    def drain(self) -> None:
        self.told.append("drain")

    def abort(self) -> None:
        self.told.append("abort")


class SessionsTests(SynchronousTestCase):
    def test_caps(self) -> None:
        sessions: Sessions[Recorded] = Sessions()
        first, second = Recorded(), Recorded()
        sessions.add(first, "192.0.2.1")
        self.assertFalse(sessions.has_room("192.0.2.1", most=9, most_per_peer=1))
        self.assertTrue(sessions.has_room("192.0.2.2", most=9, most_per_peer=1))
        self.assertFalse(sessions.has_room("192.0.2.2", most=1, most_per_peer=9))
        sessions.add(second, "")
        self.assertTrue(sessions.has_room("", most=9, most_per_peer=1))
        sessions.remove(first)
        sessions.remove(first)
        self.assertTrue(sessions.has_room("192.0.2.1", most=9, most_per_peer=1))
        self.assertEqual(1, len(sessions))

    def test_all_end_together(self) -> None:
        sessions: Sessions[Recorded] = Sessions()
        first, second = Recorded(), Recorded()
        for each in (first, second):
            sessions.add(each, "192.0.2.1")
        over, again = sessions.drain(), sessions.drain()
        sessions.remove(first)
        self.assertNoResult(over)
        sessions.abort_all()
        sessions.remove(second)
        self.successResultOf(over)
        self.successResultOf(again)
        self.assertEqual((["drain", "drain"], ["drain", "drain", "abort"]), (first.told, second.told))
        self.successResultOf(Sessions[Recorded]().drain())


class TestPeers:
    def test_addresses(self) -> None:
        assert peer_address(IPv6Address("TCP", "::ffff:192.0.2.1", 1)) == "192.0.2.1"
        assert peer_address(IPv6Address("TCP", "fe80::1%eth0", 1)) == "fe80::1"
        assert peer_address(IPv4Address("TCP", "192.0.2.1", 1)) == "192.0.2.1"
        assert peer_address(UNIXAddress(b"/run/x")) == ""
        assert peer_address(None) == ""

    def test_keys(self) -> None:
        assert peer_key("2001:db8::1") == peer_key("2001:db8::ffff:1")
        assert peer_key("2001:db8::1") != peer_key("2001:db8:0:1::1")
        assert peer_key("192.0.2.1") == "192.0.2.1"
        assert peer_key("no:address") == "no:address"
