"""Sessions that are used again: when, how long, and what happens when the host has ended them."""

from __future__ import annotations

from dataclasses import replace

from relay_house import CLOSE, HANG, Host, Memory, Stranger, World, delivery
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.disposition import Action
from mailstack.relay.idle import CLOSE_SECONDS
from mailstack.relay.leaving import MOST_LEAVING
from mailstack.relay.settings import TIMEOUTS_SECONDS, IdleLimits
from mailstack.wire.smtp_mailing import Phase

ZONE = """
    example.test  MX 10 mx1.example.test
    example.test  MX 20 mx2.example.test
    mx1.example.test A 192.0.2.1
    mx2.example.test A 192.0.2.2
    other.test    MX 10 mx1.example.test
    back.test     MX 10 mx2.example.test
    back.test     MX 20 mx1.example.test
    third.test    MX 10 mx3.test
    mx3.test      A 192.0.2.3
"""
ENVELOPE = ["MAIL FROM:<alice@us.test> SIZE=22", "RCPT TO:<bob@example.test>", "DATA"]


def on_second(reply, first=b"250 ok\r\n"):
    """Answer the first time as it should be, then so."""
    replies = iter([first])
    return lambda argument: next(replies, reply)


class Case(SynchronousTestCase):
    def setUp(self):
        self.world = self.make()

    def make(self, **limits):
        world = World(ZONE, idle=IdleLimits(**{"seconds": 3.0, **limits}))
        for number in (1, 2, 3):
            world.at(f"192.0.2.{number}", Host)
        return world

    def outcome(self, *recipients, **more):
        return self.successResultOf(self.world.attempt(delivery(*recipients, **more)))

    def relayed(self, *recipients, **more):
        found = self.outcome(*recipients, **more)
        self.assertEqual({each.action for each in found}, {Action.RELAYED})

    def at_first(self, *scripts):
        self.world.at("192.0.2.1", *((lambda script=script: Host(**script)) for script in scripts))

    @property
    def met(self):
        return [address for address, _ in self.world.met]

    def settled(self):
        """Let what waits end; no timer may be left then."""
        self.world.advance(3.0)
        self.world.flush()
        self.assertTrue(all(host.lost for host in self.world.opened))
        self.assertEqual(self.world.clock.getDelayedCalls(), [])


class WhenItIsOnDisk(Case):
    """A session goes on when the outcome of its last mailing is on disk."""

    def begin(self, *recipients, **more):
        afterwards = []
        return afterwards, self.world.attempt(replace(delivery(*recipients, **more), afterwards=afterwards))

    def test_it_is_kept_then(self):
        afterwards, attempt = self.begin()
        self.assertEqual(self.successResultOf(attempt)[0].action, Action.RELAYED)
        self.assertEqual((len(afterwards), len(self.world.courier.sessions)), (1, 0))
        afterwards.pop()()
        self.assertEqual(len(self.world.courier.sessions), 1)
        self.settled()

    def test_the_next_message_waits_for_it_and_opens_no_other(self):
        first, attempt = self.begin()
        self.successResultOf(attempt)
        second, attempt = self.begin()
        self.assertNoResult(attempt)
        third, another = self.begin(domain="other.test")
        self.successResultOf(another)
        self.assertEqual(self.met, ["192.0.2.1"] * 2, "there is one to wait for, and one only")
        first.pop()()
        self.world.flush()
        self.successResultOf(attempt)
        self.assertEqual([len(host.contents) for host in self.world.opened], [2, 1])
        for each in (second, third):
            each.pop()()
        self.settled()

    def test_one_that_has_ended_meanwhile_is_not_waited_for_longer(self):
        first, attempt = self.begin()
        self.successResultOf(attempt)
        second, attempt = self.begin()
        self.world.opened[0].transport.loseConnection()
        self.world.flush()
        first.pop()()
        self.world.flush()
        self.successResultOf(attempt)
        self.assertEqual(len(self.met), 2)
        second.pop()()
        self.settled()

    def test_who_is_cancelled_waits_no_more(self):
        first, attempt = self.begin()
        self.successResultOf(attempt)
        _, attempt = self.begin()
        attempt.cancel()
        self.failureResultOf(attempt, CancelledError)
        first.pop()()
        self.assertEqual(len(self.world.courier.sessions), 1)
        self.settled()

    def test_two_that_go_on_to_the_next_host_do_not_wait_for_each_other(self):
        """Each has asked one host, and next the other's."""
        for address in ("192.0.2.1", "192.0.2.2"):
            self.world.at(address, lambda: Host(EHLO=b"250 mx\r\n", MAIL=on_second(b"250 ok\r\n", HANG)), Host)
        first, attempt = self.begin()
        second, other = self.begin(domain="back.test")
        lookups, ask = [], self.world.resolver.ipv6

        async def slow(name):
            lookups.append(Deferred())
            await lookups[-1]
            return await ask(name)

        self.world.resolver.ipv6 = slow
        for host in self.world.opened[:2]:
            host.transport.write(b"452 4.3.1 full\r\n")
        self.world.flush()
        for each in lookups:
            each.callback(None)
        self.world.flush()
        for each in (attempt, other):
            self.assertEqual([found.action for found in self.successResultOf(each)], [Action.RELAYED])
        for each in (*first, *second):
            each()
        self.settled()

    def test_nobody_waits_for_one_whose_message_goes_on_to_the_next_host(self):
        self.world.at("192.0.2.2", lambda: Host(greeting=HANG))
        _, attempt = self.begin("bob@example.test", "jürgen@example.test")
        self.assertNoResult(attempt)
        _, other = self.begin()
        self.successResultOf(other)

    def test_one_that_has_taken_nothing_goes_on_at_once(self):
        self.at_first({"RCPT": on_second(b"250 ok\r\n", b"550 5.1.1 no\r\n")})
        first, attempt = self.begin()
        self.assertEqual(self.successResultOf(attempt)[0].action, Action.FAILED)
        self.assertEqual((len(first), len(self.world.courier.sessions)), (0, 1))
        self.settled()

    def test_what_is_free_when_all_is_closed_is_ended(self):
        first, attempt = self.begin()
        self.successResultOf(attempt)
        self.successResultOf(Deferred.fromCoroutine(self.world.courier.close()))
        first.pop()()
        self.settled()


class UsedAgain(Case):
    def test_the_next_message_goes_by_the_same_session(self):
        for _ in range(3):
            self.relayed()
        self.assertEqual(self.met, ["192.0.2.1"])
        self.settled()
        self.assertEqual(self.world.opened[0].lines, ["EHLO us.test", *ENVELOPE * 3, "QUIT"])
        self.assertEqual(len(self.world.opened[0].contents), 3)

    def test_as_often_as_the_host_allows(self):
        self.at_first({"EHLO": b"250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=9 MAILMAX=2\r\n"})
        for _ in range(3):
            self.relayed()
        self.assertEqual([len(host.contents) for host in self.world.opened], [2, 1])

    def test_one_that_can_take_some_of_a_message_takes_no_more(self):
        self.at_first({"EHLO": b"250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1 MAILMAX=3\r\n"})
        self.relayed()
        self.relayed(*(f"u{n}@example.test" for n in range(4)))
        self.assertEqual([len(host.contents) for host in self.world.opened], [3, 2])
        self.settled()

    def test_for_another_domain_with_the_same_host(self):
        self.relayed()
        self.relayed("eva@other.test", domain="other.test")
        self.assertEqual(self.met, ["192.0.2.1"])

    def test_not_where_the_host_bounds_the_domains_of_a_session(self):
        def script():
            seen = []

            def rcpt(argument):
                domain = argument.partition("@")[2]
                seen[:] = seen or [domain]
                return b"250 ok\r\n" if seen == [domain] else b"550 5.7.1 not here\r\n"

            return {"EHLO": b"250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTDOMAINMAX=1\r\n", "RCPT": rcpt}

        self.at_first(script(), script())
        self.relayed("a@example.test", "b@example.test")
        self.relayed("eva@other.test", domain="other.test")
        self.assertEqual(self.met, ["192.0.2.1"] * 2)

    def test_not_for_another_host(self):
        self.relayed()
        self.relayed("eva@third.test", domain="third.test")
        self.assertEqual(self.met, ["192.0.2.1", "192.0.2.3"])
        self.settled()

    def test_not_after_a_chunk_that_was_refused_since_answers_to_its_lines_may_come(self):
        self.world.at("192.0.2.1", lambda: Stranger(self.world.clock, b"550 5.7.1 no\r\n"))
        for content in (b"NOOP\r\n" * 8, b"Subject: x\r\n\r\nhello\r\n"):
            outcome = self.world.attempt(delivery(content=Memory(content)))
            while not outcome.called:
                self.world.advance(1.0)
            (only,) = self.successResultOf(outcome)
            self.assertEqual((only.action, str(only.status)), (Action.FAILED, "5.7.1"))
        self.assertEqual(self.met, ["192.0.2.1"] * 2)
        self.world.advance(1.0)
        self.assertTrue(all(host.lost for host in self.world.opened))

    def test_what_is_left_of_a_message_of_which_a_chunk_was_refused_goes_by_another(self):
        self.at_first({"EHLO": b"250-mx\r\n250-CHUNKING\r\n250 LIMITS RCPTMAX=1\r\n", "dot": b"552 5.2.2 full\r\n"}, {})
        found = self.outcome("a@example.test", "b@example.test")
        self.assertEqual([each.action for each in found], [Action.FAILED, Action.RELAYED])
        self.assertEqual(self.met, ["192.0.2.1"] * 2)
        self.assertEqual(self.world.opened[0].lines[-1], "QUIT")

    def test_two_at_once_have_two_sessions(self):
        self.at_first({"dot": HANG})
        first, second = self.world.attempt(delivery()), self.world.attempt(delivery())
        self.assertEqual(self.met, ["192.0.2.1"] * 2)
        for host in self.world.opened:
            host.transport.write(b"250 ok\r\n")
        self.world.flush()
        for each in (first, second):
            self.assertIs(self.successResultOf(each)[0].action, Action.RELAYED)
        self.settled()

    def test_a_transaction_that_was_refused_leaves_nothing_behind(self):
        self.at_first(
            {"RCPT": lambda argument: b"550 5.1.1 no\r\n" if "bad" in argument else b"250 ok\r\n", "DATA": b"503 x\r\n"}
        )
        (only,) = self.outcome("bad@example.test")
        self.assertIs(only.action, Action.FAILED)
        self.world.opened[0].script["DATA"] = b"354 go\r\n"
        self.relayed()
        self.assertEqual(self.met, ["192.0.2.1"])
        self.assertEqual(self.world.opened[0].lines[4:], ["RSET", *ENVELOPE])

    def test_a_transaction_is_two_writes(self):
        self.relayed()
        writes = []
        transport = self.world.senders[0].transport
        write = transport.write
        transport.write = lambda octets: (writes.append(octets), write(octets))
        self.relayed()
        self.assertEqual(writes, ["\r\n".join([*ENVELOPE, ""]).encode(), b"Subject: x\r\n\r\n..hello\r\n.\r\n"])

    def test_the_content_is_forgotten(self):
        self.relayed(content=Memory(b"x" * 1_000 + b"\r\n"))
        self.assertIsNone(self.world.senders[0]._content)

    def test_a_broken_attempt_is_not_used_again(self):
        self.at_first({"MAIL": on_second(HANG), "RCPT": on_second(HANG), "DATA": on_second(HANG, b"354 go\r\n")}, {})
        self.relayed()
        second = self.world.attempt(delivery())
        second.cancel()
        self.world.flush()
        self.failureResultOf(second, CancelledError)
        self.assertTrue(self.world.opened[0].lost)
        self.relayed()
        self.assertEqual(self.met, ["192.0.2.1"] * 2)
        self.settled()


class Leaving(SynchronousTestCase):
    """Hosts that do not answer to QUIT, and of which we want many sessions."""

    def left_open(self, world, **script):
        world.at("192.0.2.1", lambda: Host(QUIT=HANG, **script))
        recipients = [f"u{number}@other.test" for number in range(MOST_LEAVING + 50)]
        outcome = world.attempt(delivery(*recipients, domain="other.test"))
        while not outcome.called:
            world.flush()
        world.flush()
        return sum(not host.lost for host in world.opened)

    def test_are_cut_beyond_a_number(self):
        world = World(ZONE, idle=IdleLimits())
        self.assertEqual(self.left_open(world, EHLO=b"250-mx\r\n250 LIMITS RCPTMAX=1 MAILMAX=1\r\n"), MOST_LEAVING)
        world.advance(TIMEOUTS_SECONDS[Phase.QUIT])
        self.assertEqual(sum(not host.lost for host in world.opened), 0)
        self.assertEqual(len(world.courier.sessions._leaving), 0)

    def test_also_those_that_refuse_us(self):
        world = World(ZONE, idle=IdleLimits())
        world.at("192.0.2.1", lambda: Host(greeting=b"450 not now\r\n", QUIT=HANG))
        for _ in range(MOST_LEAVING + 5):
            world.courier.forget_hosts()
            self.successResultOf(world.attempt(delivery(domain="other.test")))
        world.flush()
        self.assertEqual(sum(not host.lost for host in world.opened), MOST_LEAVING)


class Dead(Case):
    """What became of a session while it waited says nothing of whether the host takes the message."""

    def fresh_one_relays(self, **script):
        self.at_first(script, {})
        self.relayed()
        self.relayed()
        self.assertEqual(self.met, ["192.0.2.1"] * 2, script)
        self.assertEqual([len(host.contents) for host in self.world.opened], [1, 1], script)
        self.settled()

    def test_ended_by_the_host_before_the_content(self):
        for script in (
            {"MAIL": on_second(CLOSE)},
            {"MAIL": on_second(b"421 4.4.2 idle for too long\r\n")},
            {"MAIL": on_second(b"garbage\r\n")},
            {"RCPT": on_second(CLOSE)},
            {"RCPT": on_second(b"421 x\r\n")},
            {"DATA": on_second(CLOSE, b"354 go\r\n")},
            {"DATA": on_second(b"421 x\r\n", b"354 go\r\n")},
        ):
            self.setUp()
            self.fresh_one_relays(**script)

    def test_silent(self):
        self.at_first({"MAIL": on_second(HANG), "RCPT": on_second(HANG), "DATA": on_second(HANG, b"354 go\r\n")}, {})
        self.relayed()
        outcome = self.world.attempt(delivery())
        self.world.advance(TIMEOUTS_SECONDS[Phase.MAIL])
        self.assertIs(self.successResultOf(outcome)[0].action, Action.RELAYED)
        self.assertEqual(self.met, ["192.0.2.1"] * 2)

    def test_ended_says_nothing_to_other_messages(self):
        for reply in (b"421 4.4.2 idle for too long\r\n", b"421 4.3.0 that were enough\r\n"):
            self.setUp()
            self.at_first({"MAIL": on_second(reply)}, {"greeting": HANG}, {})
            self.relayed()
            self.world.attempt(delivery())
            self.relayed(domain="other.test")
            self.assertEqual(self.met, ["192.0.2.1"] * 3)

    def test_ended_while_it_waits(self):
        for end in (
            lambda host: host.transport.loseConnection(),
            lambda host: host.transport.write(b"421 4.4.2 idle\r\n"),
            lambda host: host.transport.write(b"250 what\r\n"),
        ):
            self.setUp()
            self.relayed()
            end(self.world.opened[0])
            self.world.flush()
            self.assertTrue(self.world.opened[0].lost)
            self.assertEqual(len(self.world.courier.sessions), 0)
            self.relayed()
            self.assertEqual(self.met, ["192.0.2.1"] * 2)
            self.assertEqual(self.world.opened[1].lines[1:], ENVELOPE)
            self.settled()

    def test_half_a_line_while_it_waits(self):
        for octets in (b"42", b"250-", b"250-mx\r\n", b"\r"):
            self.setUp()
            self.relayed()
            self.world.opened[0].transport.write(octets)
            self.world.flush()
            self.relayed()
            self.assertEqual(self.world.opened[0].lines[1:], ENVELOPE, octets)
            self.assertTrue(self.world.opened[0].lost)
            self.assertEqual(self.world.opened[1].lines[1:], ENVELOPE, octets)
            self.settled()

    def test_within_the_content_it_is_not_sent_again(self):
        for script in ({"content": on_second(CLOSE, HANG)}, {"dot": on_second(CLOSE)}, {"dot": on_second(b"421 x\r\n")}):
            self.setUp()
            self.at_first(script, {})
            self.relayed()
            self.assertIs(self.outcome()[0].action, Action.DELAYED)
            self.assertEqual(self.met, ["192.0.2.1"])

    def test_what_it_refuses_is_refused(self):
        self.at_first({"MAIL": on_second(b"550 5.7.1 no\r\n"), "RCPT": b"250 ok\r\n"}, {})
        self.relayed()
        (only,) = self.outcome()
        self.assertEqual((only.action, str(only.status)), (Action.FAILED, "5.7.1"))
        self.assertEqual(self.met, ["192.0.2.1"])

    def test_one_that_is_not_where_it_should_be_fails_no_mail(self):
        self.at_first({"MAIL": on_second(b"503 5.5.1 nested MAIL\r\n"), "dot": b"554 5.7.1 spam\r\n"})
        self.world.at("192.0.2.2")
        self.assertIs(self.outcome()[0].action, Action.FAILED)
        self.assertIs(self.outcome()[0].action, Action.DELAYED)
        self.assertEqual(self.met, ["192.0.2.1", "192.0.2.2"])

    def test_the_fresh_one_decides_about_the_host(self):
        self.at_first({"MAIL": on_second(CLOSE)}, {"greeting": b"554 5.7.1 go away\r\n"})
        self.relayed()
        (only,) = self.outcome()
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx2.example.test"))
        self.assertEqual(self.met, ["192.0.2.1", "192.0.2.1", "192.0.2.2"])

    def test_recipients_that_were_answered_are_not_asked_again(self):
        said = iter([b"250 ok\r\n", b"550 5.1.1 no\r\n", b"421 x\r\n"])
        self.at_first({"RCPT": lambda argument: next(said)}, {})
        self.relayed()
        found = self.outcome("a@example.test", "b@example.test")
        self.assertEqual([each.action for each in found], [Action.FAILED, Action.RELAYED])
        self.assertEqual(self.world.opened[1].lines[2:4], ["RCPT TO:<b@example.test>", "DATA"])


class Bounds(Case):
    def test_ended_with_quit_after_its_time(self):
        self.relayed()
        self.world.advance(2.0)
        self.relayed()
        self.world.advance(2.9)
        self.assertFalse(self.world.opened[0].lost)
        self.world.advance(0.1)
        self.assertEqual(self.world.opened[0].lines[-1], "QUIT")
        self.settled()

    def test_a_number_of_mailings(self):
        self.world = self.make(mailings=2)
        for _ in range(3):
            self.relayed()
        self.assertEqual([len(host.contents) for host in self.world.opened], [2, 1])
        self.assertTrue(self.world.opened[0].lost)

    def test_an_age(self):
        self.world = self.make(age_seconds=5.0)
        for _ in range(4):
            self.relayed()
            self.world.advance(2.0)
        self.assertEqual([len(host.contents) for host in self.world.opened], [4])
        self.relayed()
        self.assertEqual([len(host.contents) for host in self.world.opened], [4, 1])

    def many_at_once(self, count, *deliveries):
        self.world.at("192.0.2.1", lambda: Host(dot=HANG))
        self.world.at("192.0.2.3", lambda: Host(dot=HANG))
        outcomes = [self.world.attempt(each) for _ in range(count) for each in deliveries]
        for host in self.world.opened:
            host.transport.write(b"250 ok\r\n")
        self.world.flush()
        for each in outcomes:
            self.assertIs(self.successResultOf(each)[0].action, Action.RELAYED)
        return len(self.world.courier.sessions)

    def test_sessions_of_a_way(self):
        self.world = self.make(sessions_per_way=2)
        self.assertEqual(self.many_at_once(5, delivery()), 2)
        self.assertEqual(sum(host.lost for host in self.world.opened), 3)
        self.settled()

    def test_sessions_in_all(self):
        self.world = self.make(sessions=3)
        self.assertEqual(self.many_at_once(2, delivery(), delivery(domain="third.test")), 3)
        self.settled()

    def test_surplus_sessions_end_while_one_is_used(self):
        self.assertEqual(self.many_at_once(3, delivery()), 3)
        for host in self.world.opened:
            host.script["dot"] = b"250 ok\r\n"
        for _ in range(4):
            self.world.advance(1.0)
            self.relayed()
        self.assertEqual(sum(host.lost for host in self.world.opened), 2)
        self.settled()


class Closing(Case):
    def close(self):
        closing = Deferred.fromCoroutine(self.world.courier.close())
        self.world.flush()
        return closing

    def test_all_are_ended(self):
        self.relayed()
        self.relayed("eva@third.test", domain="third.test")
        closing = self.close()
        self.assertIsNone(self.successResultOf(closing))
        self.assertEqual({host.lines[-1] for host in self.world.opened}, {"QUIT"})
        self.settled()

    def test_a_host_that_does_not_answer_is_cut_off(self):
        self.at_first({"QUIT": HANG})
        self.relayed()
        closing = self.close()
        self.assertNoResult(closing)
        self.world.advance(CLOSE_SECONDS)
        self.assertIsNone(self.successResultOf(closing))
        self.settled()

    def test_nothing_is_kept_afterwards(self):
        self.successResultOf(self.close())
        self.relayed()
        self.assertTrue(self.world.opened[0].lost)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
