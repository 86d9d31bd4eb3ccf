"""Memory of the hosts with which TLS worked: alone, and in the courier over real sockets."""

from __future__ import annotations

from relay_house import CLOSE, delivery
from test_relay_trust import CLEAR, LEAF, OFFER, Case
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.disposition import Action
from mailstack.mail.requests import Requests
from mailstack.relay.memory import MAX_KNOWN, REMEMBERED_SECONDS, TLSMemory
from mailstack.relay.settings import NextHop, TLSPolicy

HOUR = 3_600


class Memory(dict):
    def read(self, key):
        return self.get(key)

    def write(self, key, octets):
        self[key] = octets


class MemoryTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.kept = Memory()
        self.memory = self.make()

    def make(self):
        def start(coroutine, what):
            return Deferred.fromCoroutine(coroutine)

        return TLSMemory(2 * HOUR, self.clock, start, maybeDeferred, self.kept)

    def insists(self, host="mx.test"):
        return self.successResultOf(Deferred.fromCoroutine(self.memory.insists(host)))

    def test_a_host_that_never_had_it(self):
        self.memory.missed("mx.test")
        self.assertFalse(self.insists())
        self.assertEqual(self.kept, {})

    def test_a_host_that_had_it_is_waited_for_and_then_no_longer(self):
        self.memory.worked("mx.test")
        self.assertTrue(self.insists())
        self.clock.advance(10 * 24 * HOUR)
        self.memory.missed("mx.test")
        self.clock.advance(HOUR)
        self.memory.missed("mx.test")
        self.clock.advance(HOUR - 1)
        self.assertTrue(self.insists())
        self.clock.advance(1)
        self.assertFalse(self.insists())
        self.memory.missed("mx.test")
        self.assertFalse(self.insists(), "once it is given up, other mail need not wait again")

    def test_it_comes_back(self):
        self.memory.worked("mx.test")
        self.memory.missed("mx.test")
        self.clock.advance(HOUR)
        self.memory.worked("mx.test")
        self.clock.advance(HOUR)
        self.memory.missed("mx.test")
        self.clock.advance(HOUR)
        self.assertTrue(self.insists())

    def test_after_a_month_it_is_forgotten(self):
        self.memory.worked("mx.test")
        self.clock.advance(REMEMBERED_SECONDS)
        self.assertFalse(self.insists())

    def test_it_outlives_us_and_the_time_of_waiting_does_not_begin_anew(self):
        self.memory.worked("mx.test")
        self.memory.missed("mx.test")
        self.clock.advance(HOUR)
        self.memory = self.make()
        self.assertTrue(self.insists())
        self.memory.missed("mx.test")
        self.clock.advance(HOUR)
        self.assertFalse(self.insists())
        self.memory = self.make()
        self.assertFalse(self.insists())

    def test_what_is_kept_and_makes_no_sense(self):
        for octets in (b"", b"[]", b"{}", b"[" * 100_000, b'{"host": "other", "worked_at": 1e6, "missing_since": 0}'):
            self.kept["mx.test"] = octets
            self.memory = self.make()
            self.assertFalse(self.insists())

    def test_little_is_written(self):
        written = []
        self.kept.write = lambda host, octets: written.append(host)
        for _ in range(1_000):
            self.memory.worked("mx.test")
            self.clock.advance(HOUR / 10)
        self.assertEqual(len(written), 5)  # of 100 hours, once a day

    def test_it_is_bounded(self):
        for number in range(MAX_KNOWN + 500):
            self.memory.worked(f"{number}.test")
        self.assertEqual(len(self.memory._known), MAX_KNOWN)


class CourierTests(Case):
    async def test_a_host_that_had_tls_and_has_none(self):
        clock = Clock()
        clock.advance(1_000_000)
        served = self.serve(tls=LEAF.options())
        memory = TLSMemory(2 * HOUR, clock, lambda coroutine, what: Deferred.fromCoroutine(coroutine), maybeDeferred)
        courier = self.relaying(served, level=TLSPolicy.MAY, more={"memory": memory})
        garbage = {"EHLO": OFFER, "STARTTLS": b"220 go\r\n", "handshake": b"what?\r\n" * 20}
        for script, hours, action in (
            ({"EHLO": CLEAR}, 0, Action.RELAYED),  # not known yet
            (None, 0, Action.RELAYED),
            ({"EHLO": CLEAR}, 0, Action.DELAYED),
            (garbage, 1, Action.DELAYED),
            ({"EHLO": CLEAR}, 1, Action.RELAYED),
            ({"EHLO": CLEAR}, 0, Action.RELAYED),
        ):
            clock.advance(hours * HOUR)
            served.scripts[:] = [] if script is None else [script]
            before = len(served.peers)
            (only,) = await courier.attempt(delivery())
            self.assertEqual((only.action, len(served.peers) - before), (action, 1), (script, hours))
            if action is Action.DELAYED:
                self.assertIn(str(only.status), ("4.7.10", "4.7.5"))

    async def test_a_host_that_had_tls_and_breaks_off_at_starttls(self):
        for said in (CLOSE, b"421 4.3.2 no TLS now\r\n"):
            clock = Clock()
            clock.advance(1_000_000)
            served = self.serve(tls=LEAF.options())
            memory = TLSMemory(2 * HOUR, clock, lambda coroutine, what: Deferred.fromCoroutine(coroutine), maybeDeferred)
            courier = self.relaying(served, level=TLSPolicy.MAY, more={"memory": memory})
            breaking = {"EHLO": OFFER, "STARTTLS": said}
            for scripts, hours, action in (
                ((), 0, Action.RELAYED),
                ((breaking,), 0, Action.DELAYED),
                ((breaking, {}), 2, Action.RELAYED),
            ):
                clock.advance(hours * HOUR)
                courier.forget_hosts()
                served.scripts[:] = scripts
                (only,) = await courier.attempt(delivery())
                self.assertEqual((only.action, served.scripts), (action, []), (said, hours))

    async def test_what_is_to_go_whatever_becomes_of_tls_does_not_wait_for_it(self):
        clock = Clock()
        clock.advance(1_000_000)
        served = self.serve(tls=LEAF.options())
        memory = TLSMemory(2 * HOUR, clock, lambda coroutine, what: Deferred.fromCoroutine(coroutine), maybeDeferred)
        courier = self.relaying(served, authenticated=False, more={"memory": memory})
        for script, is_optional, action in (
            (None, False, Action.RELAYED),
            ({"EHLO": CLEAR}, False, Action.DELAYED),
            ({"EHLO": CLEAR}, True, Action.RELAYED),
        ):
            served.scripts[:] = [] if script is None else [script]
            (only,) = await courier.attempt(delivery(requests=Requests(tls_optional=is_optional)))
            self.assertIs(only.action, action, only.diagnostic)

    async def after_tls_in_clear(self, host, port, other):
        """Attempt a message by TLS at one port of a host, and one in clear at another; return what becomes of that."""
        served = self.serve(tls=LEAF.options())
        memory = TLSMemory(2 * HOUR, Clock(), lambda coroutine, what: Deferred.fromCoroutine(coroutine), maybeDeferred)
        memory._clock.advance(1_000_000)
        courier = self.relaying(served, level=TLSPolicy.MAY, more={"memory": memory})
        (first,) = await courier.attempt(delivery(), NextHop(host=host, port=port, allow_private=True))
        self.assertIn("TLSv1", first.tls)
        served.scripts.append({"EHLO": CLEAR})
        (second,) = await courier.attempt(delivery(), NextHop(host=host, port=other, allow_private=True))
        return second.action

    async def test_another_port_of_a_host_is_another_program(self):
        self.assertIs(await self.after_tls_in_clear("mx.test", 25, 25), Action.DELAYED)
        self.assertIs(await self.after_tls_in_clear("mx.test", 24, 25), Action.RELAYED)
        self.assertIs(await self.after_tls_in_clear("mx.test", 25, 2525), Action.RELAYED)

    async def test_this_machine_is_not_waited_for(self):
        self.assertIs(await self.after_tls_in_clear("127.0.0.1", 25, 25), Action.RELAYED)

    async def test_what_must_have_tls_needs_no_memory(self):
        served = self.serve(tls=LEAF.options())
        courier = self.relaying(served, level=TLSPolicy.ENCRYPT, more={"memory": None})
        (only,) = await courier.attempt(delivery())
        self.assertIs(only.action, Action.RELAYED)
