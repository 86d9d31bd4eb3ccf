"""Next hops that are named, programs that deliver, where we connect from, and which address is met."""

from __future__ import annotations

from relay_house import HANG, Host, World, delivery
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.answers import Empty, Failed, Found
from mailstack.mail.disposition import Action, Standing
from mailstack.relay.settings import IdleLimits, NextHop, SourceAddresses, TLSPolicy, smarthost

ZONE = """
    example.test     MX 10 mx1.example.test
    example.test     MX 20 mx2.example.test
    mx1.example.test A 192.0.2.1
    mx2.example.test A 192.0.2.2
    gate.test        MX 10 mx2.example.test
    alias.test       CNAME example.test
    aliased.test     MX 10 www.test
    www.test         CNAME mx1.example.test
    dual.test        MX 10 mx.dual.test
    dual.test        MX 20 mx2.example.test
    mx.dual.test     AAAA 2001:db8::1
    mx.dual.test     A 192.0.2.1
"""
LMTP = NextHop(host="/run/lmtp", is_lmtp=True)
LHLO = b"250-mail\r\n250 PIPELINING\r\n"


def brief(dispositions):
    return [(each.action.value, str(each.status)) for each in dispositions]


class Case(SynchronousTestCase):
    settings: dict = {}

    def setUp(self):
        self.world = World(ZONE, **self.settings)
        for number in (1, 2):
            self.world.at(f"192.0.2.{number}", Host)

    def begin(self, next_hop=None, *recipients, **more):
        outcome = Deferred.fromCoroutine(self.world.courier.attempt(delivery(*recipients, **more), next_hop))
        self.world.flush()
        return outcome

    def outcome(self, next_hop=None, *recipients, **more):
        return self.successResultOf(self.begin(next_hop, *recipients, **more))

    @property
    def met(self):
        return [address for address, _ in self.world.met]


class Named(Case):
    def test_the_mx_of_another_domain(self):
        found = self.outcome(NextHop(domain="gate.test", port=26, allow_private=True), domain="nowhere.test")
        self.assertEqual((brief(found), found[0].remote_mta), ([("relayed", "2.0.0")], "mx2.example.test"))
        self.assertEqual(self.world.met, [("192.0.2.2", 26)])

    def test_for_recipients_of_several_domains_at_once(self):
        for next_hop in (NextHop(domain="gate.test", allow_private=True), smarthost("192.0.2.2", tls=TLSPolicy.MAY)):
            made = delivery("a@example.test", "b@example.test")
            other = delivery("b@gate.test", domain="gate.test").recipients[0]
            made.recipients[2] = other
            outcome = Deferred.fromCoroutine(self.world.courier.attempt(made, next_hop))
            self.world.flush()
            self.assertEqual(brief(self.successResultOf(outcome)), [("relayed", "2.0.0")] * 2)

    def test_a_wrong_name_fails_nobody(self):
        for host in ("gone.test", "", "[192.0.2.99"):
            self.assertEqual(brief(self.outcome(NextHop(domain=host))), [("delayed", "4.4.4")], host)
        self.assertEqual(brief(self.outcome(NextHop(host="gone.test"))), [("delayed", "4.4.4")])
        self.assertEqual(self.met, [])

    def test_one_that_wants_nothing_of_us_fails_nobody(self):
        for script in ({"greeting": b"554 5.7.1 go away\r\n"}, {"EHLO": b"550 5.7.1 no\r\n", "HELO": b"550 5.7.1 no\r\n"}):
            self.world.at("192.0.2.2", lambda script=script: Host(**script))
            named = NextHop(host="192.0.2.2", allow_private=True)
            self.assertEqual(brief(self.outcome(named)), [("delayed", "4.7.1")])

    def test_one_that_wants_a_login_fails_nobody(self):
        self.world.at("192.0.2.2", lambda: Host(MAIL=b"530 5.7.0 Authentication required\r\n"))
        found = self.outcome(NextHop(host="192.0.2.2", allow_private=True))
        self.assertEqual((brief(found), found[0].standing), ([("delayed", "4.7.0")], Standing.DOWN))

    def test_one_usual_way_does_not_hinder_another(self):
        self.outcome(NextHop(host="192.0.2.2", allow_private=True))
        self.outcome()
        self.assertEqual(self.met, ["192.0.2.2", "192.0.2.1"])


class Aliases(Case):
    def test_of_a_domain_and_of_an_exchange(self):
        for domain in ("alias.test", "aliased.test"):
            (only,) = self.outcome(domain=domain)
            self.assertIs(only.action, Action.RELAYED, domain)
        self.assertEqual(self.met, ["192.0.2.1"] * 2)


class Hosts(Case):
    settings = {"max_hosts": 1}

    def test_at_most_so_many_as_the_settings_say(self):
        self.world.at("192.0.2.1")
        self.assertEqual(brief(self.outcome()), [("delayed", "4.4.1")])
        self.assertEqual(self.met, ["192.0.2.1"])


class Delivers(Case):
    """A program that speaks LMTP: each recipient has an answer of its own, and that is the end of its way."""

    def hand_over(self, *recipients, **script):
        self.world.at("/run/lmtp", lambda: Host(**{"LHLO": LHLO, **script}))
        return self.outcome(LMTP, *recipients)

    def test_one_after_the_other(self):
        dot = b"250 2.0.0 saved\r\n552 5.2.2 full\r\n451 4.3.0 later\r\n250 saved\r\n"
        found = self.hand_over(*(f"{name}@example.test" for name in "abcd"), dot=dot)
        outcomes = [("delivered", "2.0.0"), ("failed", "5.2.2"), ("delayed", "4.3.0"), ("delivered", "2.0.0")]
        self.assertEqual(brief(found), outcomes)
        self.assertEqual({each.remote_mta for each in found}, {"localhost"}, "no path for the sender's eyes")
        self.assertIn("address=/run/lmtp", found[0].cause)
        self.assertEqual(self.world.opened[0].lines[0], "LHLO us.test")

    def test_who_is_refused_before_has_no_answer_then(self):
        def rcpt(argument):
            return b"550 5.1.1 no\r\n" if "<b@" in argument else b"250 ok\r\n"

        found = self.hand_over(*(f"{name}@example.test" for name in "abc"), RCPT=rcpt, dot=b"250 saved\r\n452 4.2.2 full\r\n")
        self.assertEqual(brief(found), [("delivered", "2.0.0"), ("failed", "5.1.1"), ("delayed", "4.2.2")])

    def test_one_that_will_tell_the_sender_itself_relays(self):
        found = self.hand_over("a@example.test", LHLO=b"250-mail\r\n250 DSN\r\n")
        self.assertEqual(brief(found), [("relayed", "2.0.0")])
        self.assertEqual(found[0].honours, frozenset({"DSN"}))

    def test_lost_between_the_answers(self):
        def dot(argument):
            self.world.opened[0].transport.write(b"250 saved\r\n")
            self.world.opened[0].transport.loseConnection()
            return b""

        self.assertEqual(
            brief(self.hand_over("a@example.test", "b@example.test", dot=dot)), [("delivered", "2.0.0"), ("delayed", "4.4.2")]
        )

    def test_nobody_there(self):
        self.world.at("/run/lmtp")
        self.assertEqual(brief(self.outcome(LMTP)), [("delayed", "4.4.1")])

    def test_one_that_knows_no_lhlo_is_not_greeted_otherwise(self):
        found = self.hand_over("a@example.test", LHLO=b"500 5.5.1 what\r\n")
        self.assertEqual(brief(found), [("delayed", "4.5.1")])
        self.assertNotIn("HELO us.test", self.world.opened[0].lines)
        self.assertEqual(self.world.opened[0].contents, [])

    def test_no_tls_through_a_file(self):
        self.hand_over("a@example.test", LHLO=b"250-mail\r\n250 STARTTLS\r\n")
        self.assertNotIn("STARTTLS", self.world.opened[0].lines)


class Families(Case):
    """Addresses of both families are asked for at once."""

    def setUp(self):
        super().setUp()
        self.asked = {}
        self.world.resolver.ipv4 = lambda host: self.ask("ipv4")
        self.world.resolver.ipv6 = lambda host: self.ask("ipv6")

    async def ask(self, kind):
        self.asked[kind] = Deferred()
        return await self.asked[kind]

    def test_whichever_comes_first(self):
        for kinds in (("ipv4", "ipv6"), ("ipv6", "ipv4")):
            outcome = self.begin()
            self.assertEqual(set(self.asked), {"ipv4", "ipv6"})
            for kind in kinds:
                self.assertNoResult(outcome)
                self.asked.pop(kind).callback(Found(("192.0.2.1",)) if kind == "ipv4" else Failed("timeout"))
            self.world.flush()
            self.assertEqual(brief(self.successResultOf(outcome)), [("relayed", "2.0.0")])

    def test_cancelled(self):
        for there in ("", "ipv4", "ipv6"):
            outcome = self.begin()
            if there:
                self.asked[there].callback(Empty())
            outcome.cancel()
            self.failureResultOf(outcome, CancelledError)
            self.assertTrue(all(each.called for each in self.asked.values()), "nobody asks on")


class Sources(Case):
    """Where we connect from."""

    SOURCES = SourceAddresses(("192.0.2.100", "2001:db8::100"), {"a.test": ("192.0.2.101",), "b.test": ("2001:db8::102",)})
    settings = {"sources": SOURCES, "idle": IdleLimits(seconds=3.0)}

    def test_by_family_and_sender(self):
        for address, sender, source in (
            ("192.0.2.1", None, "192.0.2.100"),
            ("192.0.2.1", "other.test", "192.0.2.100"),
            ("192.0.2.1", "a.test", "192.0.2.101"),
            ("192.0.2.1", "b.test", "192.0.2.100"),
            ("2001:db8::1", "a.test", "2001:db8::100"),
            ("2001:db8::1", "b.test", "2001:db8::102"),
            ("/run/lmtp", "a.test", None),
        ):
            self.assertEqual(self.SOURCES.to(address, sender), source)
        self.assertIsNone(SourceAddresses(("192.0.2.100",)).to("::1", "a.test"))
        self.assertIsNone(SourceAddresses().to("192.0.2.1", None))

    def test_a_session_is_only_used_again_from_the_same(self):
        for sender in ("x@a.test", "y@a.test", "x@other.test", None, "z@a.test"):
            self.outcome(sender=sender)
        self.assertEqual(self.world.sources, ["192.0.2.101", "192.0.2.100"])


class Addresses(Case):
    """Of the addresses of a host the first that can be had is taken."""

    def setUp(self):
        super().setUp()
        self.cancelled = 0
        self.is_silent = True
        connect = self.world.connect
        self.world.courier.sessions._connect = lambda hop, *more: (
            Deferred(self.cancel) if hop.address == "2001:db8::1" and self.is_silent else connect(hop, *more)
        )

    def cancel(self, running):
        self.cancelled += 1

    def attempt(self):
        return self.begin(domain="dual.test")

    def test_a_silent_one_costs_a_moment(self):
        outcome = self.attempt()
        self.world.advance(0.24)
        self.assertNoResult(outcome)
        self.world.advance(0.01)
        (only,) = self.successResultOf(outcome)
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx.dual.test"))
        self.assertIn("address=192.0.2.1 ", only.cause)
        self.assertEqual(self.cancelled, 1)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_without_a_route_not_even_that(self):
        self.is_silent = False
        (only,) = self.successResultOf(self.attempt())
        self.assertIs(only.action, Action.RELAYED)
        self.assertEqual(self.met, ["2001:db8::1", "192.0.2.1"])

    def test_what_is_wrong_there_leaves_the_other_to_be_tried(self):
        self.world.at("192.0.2.1", lambda: Host(greeting=b"421 busy\r\n"))
        outcome = self.attempt()
        self.world.advance(0.25)
        self.assertNoResult(outcome)
        self.assertEqual((self.met, self.cancelled), (["192.0.2.1"], 1), "it is tried once more, alone")

    def test_all_of_them_and_the_next_host(self):
        self.is_silent = False
        self.world.at("192.0.2.1", lambda: Host(greeting=b"421 busy\r\n"))
        (only,) = self.successResultOf(self.attempt())
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx2.example.test"))
        self.assertEqual(self.met, ["2001:db8::1", "192.0.2.1", "192.0.2.2"])

    def test_an_open_session_needs_no_race(self):
        self.world.courier.sessions._idle._limits = IdleLimits(seconds=3.0)
        first = self.attempt()
        self.world.advance(0.25)
        self.assertIs(self.successResultOf(first)[0].action, Action.RELAYED)
        self.assertIs(self.successResultOf(self.attempt())[0].action, Action.RELAYED)
        self.assertEqual(self.met, ["192.0.2.1"])

    def test_cancelled(self):
        self.world.at("192.0.2.1", lambda: Host(greeting=HANG))
        outcome = self.attempt()
        outcome.cancel()
        self.failureResultOf(outcome, CancelledError)
        self.assertEqual(self.cancelled, 1)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
