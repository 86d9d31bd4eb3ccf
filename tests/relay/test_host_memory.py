"""Hosts that could not be used: who is asked again, when, and by how many."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from relay_house import CLOSE, HANG, Host, World, delivery
from twisted.internet.defer import fail
from twisted.internet.error import ConnectBindError, ConnectError
from twisted.internet.error import TimeoutError as Late
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.disposition import Action, Standing
from mailstack.mail.reply import Reply
from mailstack.mail.status import EnhancedStatus
from mailstack.relay import host_memory
from mailstack.relay.connect import is_our_fault
from mailstack.relay.host_memory import PROBE_SECONDS, HostMemory
from mailstack.relay.protocol import Trouble
from mailstack.relay.settings import TIMEOUTS_SECONDS, IdleLimits, RelaySettings, SourceAddresses, TLSPolicy, smarthost
from mailstack.relay.standing import concerns_host, is_crowded, standing_of_reply
from mailstack.wire.smtp_mailing import Phase

ZONE = """
    example.test  MX 10 mx1.example.test
    example.test  MX 20 mx2.example.test
    other.test    MX 10 mx1.example.test
    third.test    MX 10 mx1.example.test
    mx1.example.test A 192.0.2.1
    mx2.example.test A 192.0.2.2
"""
FIRST_SECONDS, MOST_SECONDS = RelaySettings().remembered_seconds
HOST = ("192.0.2.1", 25)
TROUBLE = Trouble(EnhancedStatus(4, 4, 1), "No connection to mx", "refused")


class TestMemory:
    def setup_method(self):
        self.now = 1_000.0
        self.memory = HostMemory(lambda: self.now, FIRST_SECONDS, MOST_SECONDS)

    def test_is_for_a_minute_and_then_one_is_let_through(self):
        assert self.memory.obstacle(HOST) is None
        self.memory.failed(HOST, TROUBLE)
        self.now += 20
        known = self.memory.obstacle(HOST)
        assert (known.status, known.text, known.wait_seconds) == (TROUBLE.status, TROUBLE.text, FIRST_SECONDS - 20)
        assert known.cause == "remembered, 20 s ago: refused"
        assert self.memory.obstacle(("192.0.2.1", 587)) is None
        self.now += FIRST_SECONDS - 20
        assert self.memory.obstacle(HOST) is None
        assert self.memory.obstacle(HOST) is None, "whoever may ask it need not do so"
        self.memory.asked(HOST)
        assert self.memory.obstacle(HOST) is not None, "the others wait for what the probe finds"
        self.now += PROBE_SECONDS
        assert self.memory.obstacle(HOST) is None, "and not for ever"

    def test_doubles_up_to_a_bound(self):
        waits = []
        for _ in range(8):
            assert self.memory.obstacle(HOST) is None
            self.memory.failed(HOST, TROUBLE)
            waits.append(self.memory.obstacle(HOST).wait_seconds)
            self.now += waits[-1]
        assert waits == [60, 120, 240, 480, 960, MOST_SECONDS, MOST_SECONDS, MOST_SECONDS]

    def test_what_fails_together_counts_once(self):
        for _ in range(20):
            self.memory.failed(HOST, TROUBLE)
            self.now += 1
        assert self.memory.obstacle(HOST).wait_seconds < FIRST_SECONDS

    def test_begins_anew_after_a_long_time(self):
        for _ in range(5):
            self.memory.failed(HOST, TROUBLE)
            self.now += MOST_SECONDS
        self.now += 86_400
        self.memory.failed(HOST, TROUBLE)
        assert self.memory.obstacle(HOST).wait_seconds == FIRST_SECONDS

    def test_success_forgets(self):
        self.memory.failed(HOST, TROUBLE)
        self.memory.worked(HOST)
        assert self.memory.obstacle(HOST) is None
        assert len(self.memory) == 0

    def test_is_bounded(self, monkeypatch):
        monkeypatch.setattr(host_memory, "MOST_HOSTS", 3)
        for number in range(5):
            self.memory.failed((f"192.0.2.{number}", 25), TROUBLE)
        assert len(self.memory) == 3
        assert self.memory.obstacle(("192.0.2.1", 25)) is None
        assert self.memory.obstacle(("192.0.2.4", 25)) is not None

    def test_so_is_what_a_host_says(self):
        self.memory.failed(HOST, replace(TROUBLE, text="421 " + "x" * 200_000))
        assert len(self.memory.obstacle(HOST).text) < 1_000

    def test_hosts_without_chunking_are_bounded_too_and_are_no_failures(self, monkeypatch):
        monkeypatch.setattr(host_memory, "MOST_HOSTS", 3)
        for port in range(5):
            assert self.memory.takes_chunks(("192.0.2.1", port))
            self.memory.refused_chunks(("192.0.2.1", port))
        assert [self.memory.takes_chunks(("192.0.2.1", port)) for port in range(5)] == [True] * 2 + [False] * 3
        assert self.memory.obstacle(("192.0.2.1", 4)) is None
        assert len(self.memory) == 0


class InAttempts(SynchronousTestCase):
    def setUp(self):
        self.world = World(ZONE)
        self.world.at("192.0.2.1", Host)
        self.world.at("192.0.2.2", Host)

    def outcome(self, *recipients, domain="example.test"):
        (only,) = self.successResultOf(self.world.attempt(delivery(*recipients, domain=domain)))
        return only

    def met(self):
        found = [address for address, _ in self.world.met]
        self.world.met.clear()
        return found

    def test_the_next_message_goes_to_the_other_host_at_once(self):
        self.world.at("192.0.2.1")
        self.assertIs(self.outcome().action, Action.RELAYED)
        self.assertEqual(self.met(), ["192.0.2.1", "192.0.2.2"])
        for _ in range(3):
            self.assertIs(self.outcome().action, Action.RELAYED)
        self.assertEqual(self.met(), ["192.0.2.2"] * 3)

    def test_a_host_that_is_back_is_used_again(self):
        self.world.at("192.0.2.1")
        self.outcome()
        self.world.at("192.0.2.1", Host)
        self.world.advance(FIRST_SECONDS)
        self.met()
        self.outcome()
        self.outcome()
        self.assertEqual(self.met(), ["192.0.2.1"] * 2)

    def test_a_domain_of_which_all_hosts_are_remembered_is_not_asked(self):
        self.world.at("192.0.2.1")
        self.world.at("192.0.2.2")
        first = self.outcome()
        self.assertEqual((first.standing, first.wait_seconds), (Standing.DOWN, 0))
        self.met()
        self.world.clock.advance(10)
        second = self.outcome()
        self.assertEqual(self.met(), [])
        self.assertEqual((second.action, second.standing), (Action.DELAYED, Standing.DOWN))
        self.assertEqual((second.status, second.diagnostic), (first.status, first.diagnostic))
        self.assertEqual(second.wait_seconds, FIRST_SECONDS - 10)
        self.assertIn("remembered, 10 s ago", second.cause)

    def test_another_domain_at_the_same_host_profits(self):
        self.world.at("192.0.2.1", lambda: Host(greeting=b"421 4.3.2 shutting down\r\n"))
        self.outcome()
        self.met()
        found = self.outcome(domain="other.test")
        self.assertEqual((self.met(), found.diagnostic), ([], "421 4.3.2 shutting down"))

    def test_one_probe_at_a_time(self):
        self.world.at("192.0.2.1")
        self.outcome(domain="other.test")
        self.world.advance(FIRST_SECONDS)
        self.world.at("192.0.2.1", lambda: Host(greeting=HANG))
        self.met()
        probe = self.world.attempt(delivery(domain="other.test"))
        self.assertEqual(self.outcome(domain="other.test").standing, Standing.DOWN)
        self.assertEqual(self.met(), ["192.0.2.1"])
        self.world.advance(TIMEOUTS_SECONDS[Phase.GREETING])
        (found,) = self.successResultOf(probe)
        self.assertEqual((found.standing, found.wait_seconds), (Standing.DOWN, 0))

    def test_whoever_does_not_ask_it_keeps_nobody_from_asking_it(self):
        self.world.resolver.__init__("pool.test A 192.0.2.1\npool.test A 192.0.2.2\nsingle.test A 192.0.2.2")
        self.world.at("192.0.2.2")
        self.assertIs(self.outcome(domain="single.test").action, Action.DELAYED)
        self.world.at("192.0.2.2", Host)
        self.world.advance(FIRST_SECONDS)
        self.assertEqual(self.outcome(domain="pool.test").address, "192.0.2.1")
        self.assertIs(self.outcome(domain="single.test").action, Action.RELAYED)

    def test_what_is_remembered_uses_up_no_attempt(self):
        self.world.resolver.__init__("example.test MX 1 mx.test\n" + "".join(f"mx.test A 192.0.2.{n}\n" for n in range(1, 8)))
        for number in range(1, 8):
            self.world.at(f"192.0.2.{number}")
        self.world.at("192.0.2.7", Host)
        self.assertIs(self.outcome().action, Action.DELAYED)
        self.assertIs(self.outcome().action, Action.RELAYED)

    def test_remembered_are_what_concerns_all_messages(self):
        for script, is_remembered in (
            ({"greeting": b"421 x\r\n"}, True),
            ({"greeting": CLOSE}, True),
            ({"EHLO": CLOSE}, True),
            ({"greeting": b"450 later\r\n"}, True),
            ({"MAIL": b"421 x\r\n"}, True),
            ({"greeting": b"421 4.7.0 too many connections from you\r\n"}, False),
            ({"greeting": b"554 5.7.1 go away\r\n"}, False),
            ({"MAIL": b"452 4.3.1 disk full\r\n"}, False),
            ({"RCPT": b"450 4.2.0 greylisted\r\n"}, False),
            ({"RCPT": b"550 5.1.1 no\r\n"}, False),
            ({"dot": CLOSE}, False),
        ):
            self.setUp()
            self.world.at("192.0.2.1", lambda script=script: Host(**script))
            self.outcome(domain="other.test")
            self.met()
            self.outcome(domain="other.test")
            self.assertEqual(not self.met(), is_remembered, script)

    def test_what_is_asked_of_tls_is_not_the_hosts_fault(self):
        self.world = World(ZONE, tls=TLSPolicy.ENCRYPT)
        self.world.at("192.0.2.1", Host)
        self.assertIs(self.outcome(domain="other.test").standing, Standing.DOWN)
        self.assertEqual(len(self.world.courier._hosts), 0)

    def test_nor_what_becomes_of_tls_where_it_is_a_must(self):
        for said, seconds in (
            (b"454 4.7.0 not now\r\n", 0),
            (b"421 4.3.2 not now\r\n", 0),
            (CLOSE, 0),
            (HANG, TIMEOUTS_SECONDS[Phase.STARTTLS]),
        ):
            self.world = World(ZONE, tls_levels={"other.test": TLSPolicy.ENCRYPT})
            script = {"EHLO": b"250-mx\r\n250 STARTTLS\r\n", "STARTTLS": said}
            self.world.at("192.0.2.1", lambda script=script: Host(**script))
            first = self.world.attempt(delivery(domain="other.test"))
            self.world.advance(seconds)
            self.assertIs(self.successResultOf(first)[0].action, Action.DELAYED)
            second = self.world.attempt(delivery(domain="third.test"))
            self.world.advance(seconds)
            (only,) = self.successResultOf(second)
            self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx1.example.test"), said)

    def test_what_is_wrong_with_this_machine_is_not_the_hosts_fault(self):
        for error in (
            ConnectBindError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
            ConnectBindError(errno.ENFILE, "x"),
            ConnectError(errno.ENOBUFS, "x"),
            OSError(errno.EMFILE, "x"),
        ):

            def broken(error=error):
                raise error

            self.setUp()
            self.world.at("192.0.2.1", broken)
            found = self.outcome(domain="other.test")
            self.assertEqual((found.action, found.diagnostic, found.standing), (Action.DELAYED, "Local error", None))
            self.assertIn("this machine cannot connect", found.cause)
            self.assertEqual(len(self.world.courier._hosts), 0)
        self.assertFalse(is_our_fault(ConnectBindError(errno.EAFNOSUPPORT, "no IPv6 here")))
        self.assertFalse(is_our_fault(ConnectError(errno.EHOSTUNREACH, "No route to host")))

    def test_a_source_that_is_missing_concerns_only_who_has_it(self):
        sources = SourceAddresses(("192.0.2.50",), {"gone.test": ("192.0.2.99",)})
        self.world = World(ZONE, sources=sources)
        self.world.at("192.0.2.1", Host)
        connect = self.world.connect

        def bind(hop, port, factory, source):
            return fail(ConnectBindError(99, "x")) if source == "192.0.2.99" else connect(hop, port, factory, source)

        self.world.connect = bind
        self.world.courier = self.world.make_courier()
        (gone,) = self.successResultOf(self.world.attempt(delivery(domain="other.test", sender="a@gone.test")))
        self.assertIn("from 192.0.2.99", gone.cause)
        self.assertIs(self.outcome(domain="other.test").action, Action.RELAYED)

    def test_a_connection_that_takes_too_long(self):
        def late():
            raise Late

        self.world.at("192.0.2.1", late)
        self.outcome(domain="other.test")
        self.met()
        self.outcome(domain="other.test")
        self.assertEqual(self.met(), [])

    def test_a_smarthost_is_asked_every_two_minutes(self):
        host = smarthost("192.0.2.1", tls=TLSPolicy.MAY)
        self.world = World(ZONE, smarthost=host, remembered_seconds=(60.0, 120.0))
        for _ in range(30):
            self.outcome()
            self.world.advance(60)
        self.assertIn(len(self.met()), range(14, 18))

    def test_forgotten_when_asked_to(self):
        self.world.at("192.0.2.1")
        self.outcome(domain="other.test")
        self.world.at("192.0.2.1", Host)
        forgotten = []
        self.world.resolver.forget_failures = lambda: forgotten.append(True)
        self.world.courier.forget_hosts()
        self.assertIs(self.outcome(domain="other.test").action, Action.RELAYED)
        self.assertEqual(forgotten, [True], "nor is it kept what the DNS did not say")

    def test_a_session_that_died_while_it_waited_says_nothing(self):
        self.world = World(ZONE, idle=IdleLimits())
        self.world.at("192.0.2.1", Host)
        self.outcome()
        self.world.opened[0].script["MAIL"] = CLOSE
        self.assertIs(self.outcome().action, Action.RELAYED)
        self.assertEqual(self.met(), ["192.0.2.1"] * 2)
        self.assertEqual(len(self.world.courier._hosts), 0)


class StandingOfOutcomes(SynchronousTestCase):
    """What the spool is told of the destination."""

    def standing(self, zone=ZONE, domain="other.test", **script):
        world = World(zone)
        world.at("192.0.2.1", lambda: Host(**script))
        (only,) = self.successResultOf(world.attempt(delivery(domain=domain)))
        return only.standing

    def test_an_answer_is_up(self):
        for script in (
            {},
            {"RCPT": b"450 4.2.0 greylisted\r\n"},
            {"RCPT": b"550 5.1.1 no\r\n"},
            {"MAIL": b"451 4.3.0 later\r\n"},
            {"dot": b"451 4.3.0 later\r\n"},
            {"dot": b"554 5.7.1 spam\r\n"},
            {"greeting": b"554 5.7.1 go away\r\n"},
        ):
            self.assertIs(self.standing(**script), Standing.UP, script)

    def test_what_cannot_be_used_is_down(self):
        for script in (
            {"greeting": CLOSE},
            {"greeting": b"421 x\r\n"},
            {"EHLO": CLOSE},
            {"RCPT": b"421 x\r\n"},
            {"dot": b"421 4.3.2 bye\r\n"},
        ):
            self.assertIs(self.standing(**script), Standing.DOWN, script)
        self.assertIs(self.standing("other.test MX 1 mx.test\nmx.test A 192.0.2.9"), Standing.DOWN)
        self.assertIs(self.standing("other.test SERVFAIL"), Standing.DOWN)

    def test_too_many_sessions(self):
        for script in (
            {"greeting": b"421 4.7.0 try later\r\n"},
            {"greeting": b"421 mx Too many concurrent SMTP connections\r\n"},
            {"MAIL": b"451 4.7.1 Too many simultaneous connections\r\n"},
        ):
            self.assertIs(self.standing(**script), Standing.CROWDED, script)

    def test_a_domain_that_does_not_exist_says_nothing(self):
        self.assertIsNone(self.standing(""))

    def test_nor_does_what_happens_in_a_content(self):
        for script in ({"content": CLOSE}, {"dot": CLOSE}):
            self.assertIsNone(self.standing(**script), script)

    def test_nor_a_content_that_cannot_be_read_nor_a_message_that_may_not_go_so(self):
        world = World(ZONE, smarthost=smarthost("192.0.2.1", tls=TLSPolicy.MAY))
        (only,) = self.successResultOf(world.attempt(delivery("bäb@example.test", smtputf8=True)))
        self.assertNotEqual(only.standing, Standing.UP)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("421 4.7.0 Connection rate limit exceeded", True),
        ("421 4.7.0 [192.0.2.1] unusual rate", True),
        ("450 4.7.1 too many connections from your host", True),
        ("452 4.3.2 Connection limit reached", True),
        ("452 4.5.3 Too many recipients", False),
        ("421 4.3.2 Service shutting down", False),
        ("550 5.7.1 too many connections", False),
    ],
)
def test_crowded(text, expected):
    assert is_crowded(text) is expected


def test_a_handshake_that_hangs_concerns_all_where_the_connection_begins_with_it():
    hanging = Trouble(EnhancedStatus(4, 4, 2), "The host did not answer in time", "in TLS handshake", is_tls=True)
    assert not concerns_host(hanging)
    assert concerns_host(hanging, is_implicit_tls=True)


def test_a_refusal_for_good_is_an_answer_whatever_it_says():
    assert standing_of_reply(Reply(550, ("too many connections",), EnhancedStatus(5, 7, 1))) is Standing.UP
