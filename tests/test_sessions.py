"""Sessions: counted for each peer, kept within caps, and ended together."""

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailstack.net.tallies import Tally
from mailstack.sessions import ARRIVAL_SECONDS, Caps, Full, Sessions, peer_address, peer_key, peer_network


class Recorded:
    def __init__(self) -> None:
        self.told: list[str] = []

    def drain(self) -> None:
        self.told.append("drain")

    def abort(self) -> None:
        self.told.append("abort")


def caps(most: int = 9, per_peer: int = 9, per_network: int = 9, per_minute: int = 9) -> Caps:
    return Caps(all=most, per_peer=per_peer, per_network=per_network, per_minute=per_minute)


class SessionsTests(SynchronousTestCase):
    def begin(self, sessions: Sessions[Recorded], peer: str, most: int = 9, most_per_peer: int = 9) -> Recorded | None:
        begun = sessions.begin(Recorded, peer, caps(most, most_per_peer))
        return None if isinstance(begun, Full) else begun

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
        self.assertTrue(sessions.move(first, "192.0.2.2", caps(2, 1)))
        self.assertTrue(sessions.move(first, "192.0.2.2", caps(2, 1)))
        self.assertFalse(sessions.move(second, "192.0.2.2", caps(2, 1)))
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

    def test_a_network_has_a_cap_besides(self) -> None:
        for peers, elsewhere in (
            (["192.0.2.1", "192.0.2.2", "192.0.2.3"], "192.0.3.1"),
            (["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1"], "2001:db8:1::1"),
        ):
            sessions: Sessions[Recorded] = Sessions()
            begun = [sessions.begin(Recorded, peer, caps(per_network=2)) for peer in peers]
            self.assertIs(Full.NETWORK, begun[2])
            assert isinstance(begun[0], Recorded)
            self.assertIsInstance(sessions.begin(Recorded, elsewhere, caps(per_network=2)), Recorded)
            sessions.remove(begun[0])
            self.assertIsInstance(sessions.begin(Recorded, peers[2], caps(per_network=2)), Recorded)
            self.assertIs(Full.NETWORK, sessions.begin(Recorded, peers[0], caps(per_network=2)))
            self.assertIs(Full.PEER, sessions.begin(Recorded, peers[1], caps(per_peer=1)))
            self.assertIs(Full.ALL, sessions.begin(Recorded, elsewhere, caps(most=3)))

    def test_a_peer_may_begin_so_many_in_a_minute(self) -> None:
        clock = Clock()
        sessions: Sessions[Recorded] = Sessions(None, Tally.alone(bytes(32), clock.seconds))
        begun = [sessions.begin(Recorded, "192.0.2.1", caps(per_minute=2)) for _ in range(2)]
        for each in begun:
            assert isinstance(each, Recorded)
            sessions.remove(each)
        self.assertIs(Full.ARRIVALS, sessions.begin(Recorded, "192.0.2.1", caps(per_minute=2)))
        self.assertIsInstance(sessions.begin(Recorded, "192.0.2.2", caps(per_minute=2)), Recorded)
        clock.advance(ARRIVAL_SECONDS)
        self.assertIsInstance(sessions.begin(Recorded, "192.0.2.1", caps(per_minute=2)), Recorded)

    def test_this_machine_is_no_network_and_may_begin_as_many_as_it_likes(self) -> None:
        for peer in ("127.0.0.1", "::1", ""):
            sessions: Sessions[Recorded] = Sessions(None, Tally.alone(bytes(32), Clock().seconds))
            for _ in range(3):
                begun = sessions.begin(Recorded, peer, caps(per_network=1, per_minute=1))
                self.assertIsInstance(begun, Recorded)

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
            sessions.begin(fail, "192.0.2.1", caps(1, 1))
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

    def test_networks(self) -> None:
        assert peer_network("192.0.2.77") == "192.0.2.0/24"
        assert peer_network("2001:db8:1:2::1") == "2001:db8:1::/48"
        for peer in ("127.0.0.1", "127.9.9.9", "::1", "", "no:address", "name"):
            assert peer_network(peer) == ""
