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
    def begin(self, sessions: Sessions[Recorded], peer: str, most: int = 9, most_per_peer: int = 9) -> Recorded | None:
        return sessions.begin(Recorded, peer, most=most, most_per_peer=most_per_peer)

    def test_caps(self) -> None:
        sessions: Sessions[Recorded] = Sessions()
        first = self.begin(sessions, "192.0.2.1")
        assert first is not None
        self.assertIsNone(self.begin(sessions, "192.0.2.1", most_per_peer=1))
        self.assertIsNone(self.begin(sessions, "192.0.2.2", most=1))
        self.assertEqual(1, len(sessions), "who is refused does not count")
        self.assertIsNotNone(self.begin(sessions, "192.0.2.2", most_per_peer=1))
        sessions.remove(first)
        sessions.remove(first)
        self.assertIsNotNone(self.begin(sessions, "192.0.2.1", most_per_peer=1))
        self.assertEqual(2, len(sessions))

    def test_a_session_may_become_another_peer_s(self) -> None:
        sessions: Sessions[Recorded] = Sessions()
        first, second = self.begin(sessions, "192.0.2.1"), self.begin(sessions, "192.0.2.1")
        assert first is not None
        assert second is not None
        self.assertTrue(sessions.move(first, "192.0.2.2", most=2, most_per_peer=1))
        self.assertTrue(sessions.move(first, "192.0.2.2", most=2, most_per_peer=1))
        self.assertFalse(sessions.move(second, "192.0.2.2", most=2, most_per_peer=1))
        self.assertIsNone(self.begin(sessions, "192.0.2.1", most_per_peer=1), "it still counts where it was")
        sessions.remove(second)
        self.assertIsNotNone(self.begin(sessions, "192.0.2.1", most_per_peer=1))
        sessions.remove(first)
        self.assertIsNotNone(self.begin(sessions, "192.0.2.2", most_per_peer=1))
        self.assertEqual(2, len(sessions))

    def test_one_customer_s_network_is_one_peer(self) -> None:
        sessions: Sessions[Recorded] = Sessions()
        self.assertIsNotNone(self.begin(sessions, "2001:db8::1", most_per_peer=1))
        self.assertIsNone(self.begin(sessions, "2001:db8::2", most_per_peer=1))

    def test_who_has_no_address_has_no_cap_of_his_own(self) -> None:
        sessions: Sessions[Recorded] = Sessions()
        self.assertIsNotNone(self.begin(sessions, "", most_per_peer=1))
        self.assertIsNotNone(self.begin(sessions, "", most_per_peer=1))
        self.assertIsNone(self.begin(sessions, "", most=2))

    def test_a_session_that_cannot_be_made_takes_no_place(self) -> None:
        sessions: Sessions[Recorded] = Sessions()

        def fail() -> Recorded:
            raise MemoryError

        with self.assertRaises(MemoryError):
            sessions.begin(fail, "192.0.2.1", most=1, most_per_peer=1)
        self.assertIsNotNone(self.begin(sessions, "192.0.2.1", most=1, most_per_peer=1))

    def test_all_end_together(self) -> None:
        sessions: Sessions[Recorded] = Sessions()
        first, second = self.begin(sessions, "192.0.2.1"), self.begin(sessions, "192.0.2.1")
        assert first is not None
        assert second is not None
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
