"""One attempt, whatever the hosts do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import relay_house
from relay_house import CLOSE, HANG, Host, Memory, OnDisk, Stranger, World, delivery, maybe_later
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.mail.smtp import ESMTPSenderFactory
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.address import Address
from mailstack.mail.disposition import Action, Standing
from mailstack.mail.envelope import Account
from mailstack.mail.reply import Reply
from mailstack.mail.requests import DeliverBy, Requests
from mailstack.relay import courier
from mailstack.relay.attempt import Attempt, BrokenOffError
from mailstack.relay.courier import HUNG_SECONDS
from mailstack.relay.factory import SenderFactory
from mailstack.relay.protocol import Sender, Surroundings
from mailstack.relay.settings import TIMEOUTS_SECONDS, IdleLimits, NextHop, TLSPolicy, smarthost
from mailstack.route.hosts import Hop
from mailstack.route.trust import Security
from mailstack.wire.errors import LocalProtocolError
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_mailing import Login, Phase, Result

ZONE = """
    example.test  MX 10 mx1.example.test
    example.test  MX 20 mx2.example.test
    mx1.example.test A 192.0.2.1
    mx2.example.test A 192.0.2.2
    smart.test A 192.0.2.9
    single.test A 192.0.2.1
"""


CONTENT = Memory(b"Subject: x\r\n\r\nNOOP\r\nNOOP\r\nNOOP\r\n")


def brief(dispositions):
    return [(each.action.value, str(each.status)) for each in dispositions]


def unreachable():
    raise ConnectionRefusedError


class Case(SynchronousTestCase):
    settings: dict = {}

    def setUp(self):
        self.world = World(ZONE, **self.settings)
        self.good = Host()
        self.world.at("192.0.2.1", Host)
        self.world.at("192.0.2.2", Host)

    def outcome(self, value=None):
        return self.successResultOf(self.world.attempt(value or delivery()))

    def host(self, number=0):
        return self.world.opened[number]

    def at_first(self, **script):
        self.world.courier.forget_hosts()
        self.world.at("192.0.2.1", lambda: Host(**script))


class Success(Case):
    def test_relayed(self):
        (only,) = self.outcome()
        self.assertEqual((only.ordinal, only.action, str(only.status)), (0, Action.RELAYED, "2.0.0"))
        self.assertEqual(only.remote_mta, "mx1.example.test")
        self.assertEqual(only.diagnostic, "250 2.0.0 queued")
        self.assertIn("192.0.2.1", only.cause)
        self.assertEqual(self.host().contents, [b"Subject: x\r\n\r\n..hello\r\n"])
        self.assertEqual(
            self.host().lines,
            ["EHLO us.test", "MAIL FROM:<alice@us.test> SIZE=22", "RCPT TO:<bob@example.test>", "DATA", "QUIT"],
        )
        self.assertEqual(self.world.met, [("192.0.2.1", 25)])
        self.assertTrue(self.host().lost)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_without_mx_the_domain_itself(self):
        (only,) = self.outcome(delivery("bob@single.test", domain="single.test"))
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "single.test"))

    def test_address_literal(self):
        self.assertEqual(brief(self.outcome(delivery(domain="[192.0.2.1]"))), [("relayed", "2.0.0")])
        self.assertEqual(self.world.resolver.asked, [])

    def test_null_reverse_path(self):
        self.outcome(delivery(sender=None))
        self.assertEqual(self.host().lines[1], "MAIL FROM:<> SIZE=22")

    def test_ordinals_are_kept(self):
        outcome = self.outcome(delivery("a@example.test", "b@example.test", "c@example.test"))
        self.assertEqual([each.ordinal for each in outcome], [0, 2, 4])

    def test_content_on_disk(self):
        whole = b"".join(b"line %d\r\n" % n for n in range(40_000))
        self.assertEqual(brief(self.outcome(delivery(content=OnDisk(whole)))), [("relayed", "2.0.0")])
        self.assertEqual(self.host().contents, [whole])

    def test_large_content_in_memory(self):
        whole = b".\r\n" * 100_000
        self.assertEqual(brief(self.outcome(delivery(content=Memory(whole)))), [("relayed", "2.0.0")])
        self.assertEqual(self.host().contents, [b"..\r\n" * 100_000])

    def test_empty_content(self):
        self.assertEqual(brief(self.outcome(delivery(content=Memory(b"")))), [("relayed", "2.0.0")])
        self.assertEqual(self.host().contents, [b""])

    def test_many_recipients_go_in_several_transactions_of_one_session(self):
        outcome = self.outcome(delivery(*(f"u{n}@example.test" for n in range(250))))
        self.assertEqual({each.action for each in outcome}, {Action.RELAYED})
        self.assertEqual(len(self.host().contents), 3)
        self.assertEqual(len(self.world.opened), 1)

    def test_no_more_recipients_in_one_than_the_host_says(self):
        self.at_first(EHLO=b"250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=2 RCPTDOMAINMAX=1 MAILMAX=0 RCPTMAX=x\r\n")
        outcome = self.outcome(delivery("a@example.test", "b@example.test", "c@example.test"))
        self.assertEqual({each.action for each in outcome}, {Action.RELAYED})
        self.assertEqual([line for line in self.host().lines if line.startswith("RCPT")][2:], ["RCPT TO:<c@example.test>"])
        self.assertEqual(len(self.host().contents), 2)

    def test_no_more_transactions_in_one_session_than_the_host_says(self):
        for kept in (0, 3.0):
            self.world = World(ZONE, idle=IdleLimits(seconds=kept))
            self.at_first(EHLO=b"250-mx\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=2 RCPTMAX=1\r\n")
            afterwards = []
            five = replace(delivery(*(f"u{n}@example.test" for n in range(5))), afterwards=afterwards)
            self.assertEqual(brief(self.outcome(five)), [("relayed", "2.0.0")] * 5)
            self.assertEqual([len(host.contents) for host in self.world.opened], [2, 2, 1])
            self.assertEqual([host.lines[-1] for host in self.world.opened[:2]], ["QUIT"] * 2, "none waits for the disk")
            self.assertEqual(len(afterwards), 1)
            afterwards.pop()()
            self.assertEqual(len(self.world.courier.sessions), bool(kept))

    def test_a_host_that_takes_one_transaction_and_no_other_connection(self):
        self.world.at("192.0.2.1", lambda: Host(EHLO=b"250-mx\r\n250 LIMITS MAILMAX=1 RCPTMAX=1\r\n"), *[unreachable] * 2)
        found = self.outcome(delivery("a@example.test", "b@example.test"))
        self.assertEqual(brief(found), [("relayed", "2.0.0")] * 2)
        self.assertEqual([each.remote_mta for each in found], ["mx1.example.test", "mx2.example.test"])
        self.assertEqual([address for address, _ in self.world.met], ["192.0.2.1"] * 2 + ["192.0.2.2"])

    def test_a_content_goes_as_one_chunk_where_that_is_offered(self):
        self.at_first(EHLO=b"250-mx\r\n250 CHUNKING\r\n")
        whole = b"Subject: x\r\n\r\n.\r\n" + b"y\r\n" * 100_000
        for content in (Memory(b".\r\n"), OnDisk(whole)):
            self.assertEqual(brief(self.outcome(delivery(content=content))), [("relayed", "2.0.0")])
        self.assertEqual([host.contents for host in self.world.opened], [[b".\r\n"], [whole]])
        self.assertEqual(self.host(1).lines[3], f"BDAT {len(whole)} LAST")

    def test_a_host_that_answers_before_we_know_that_a_content_ends(self):
        held: list[Deferred] = []

        def knows_the_end_late(function, *arguments):
            found = function(*arguments)
            if found is not None:
                return succeed(found)
            held.append(Deferred())
            return held[-1]

        self.patch(relay_house, "maybe_later", knows_the_end_late)
        whole = b"Subject: x\r\n\r\n" + b"y\r\n" * 200_000
        for hello in (b"250-mx\r\n250 CHUNKING\r\n", b"250 mx\r\n"):
            self.setUp()
            self.at_first(EHLO=hello)
            outcome = self.world.attempt(delivery(content=OnDisk(whole)))
            self.assertNoResult(outcome)
            held.pop().callback(None)
            self.world.flush()
            self.assertEqual(brief(self.successResultOf(outcome)), [("relayed", "2.0.0")], hello)
            self.assertEqual([host.contents for host in self.world.opened], [[whole]])

    def test_hang_at_quit_is_delivered(self):
        self.at_first(QUIT=HANG)
        self.assertEqual(brief(self.outcome()), [("relayed", "2.0.0")])
        self.assertFalse(self.host().lost)
        self.world.advance(TIMEOUTS_SECONDS[Phase.QUIT])
        self.assertTrue(self.host().lost)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_nonsense_at_quit_is_delivered(self):
        self.at_first(QUIT=b"\xff\xff\r\n")
        self.assertEqual(brief(self.outcome()), [("relayed", "2.0.0")])
        self.assertTrue(self.host().lost)

    def test_eight_bit(self):
        self.at_first(EHLO=b"250-mx\r\n250 8BITMIME\r\n")
        self.outcome(delivery(content=Memory(b"\xe4\r\n")))
        self.assertEqual(self.host().lines[1], "MAIL FROM:<alice@us.test> BODY=8BITMIME")

    def test_eight_bit_without_8bitmime_is_sent_as_it_is(self):
        self.outcome(delivery(content=Memory(b"\xe4\r\n")))
        self.assertEqual(self.host().contents, [b"\xe4\r\n"])


class Recipients(Case):
    """What a host says of a recipient stands, and the others are not concerned."""

    THREE = "a@example.test", "b@example.test", "c@example.test"

    def refuse_b(self, reply, hello=b"250-mx\r\n250 PIPELINING\r\n"):
        self.at_first(EHLO=hello, RCPT=lambda argument: reply if "<b@" in argument else b"250 ok\r\n")
        return brief(self.outcome(delivery(*self.THREE)))

    def test_one_refused_for_good(self):
        for hello in (b"250-mx\r\n250 PIPELINING\r\n", b"250 mx\r\n"):
            found = self.refuse_b(b"550 5.1.1 no such user\r\n", hello)
            self.assertEqual(found, [("relayed", "2.0.0"), ("failed", "5.1.1"), ("relayed", "2.0.0")])

    def test_one_refused_for_now(self):
        found = self.refuse_b(b"450 4.2.0 greylisted\r\n")
        self.assertEqual(found, [("relayed", "2.0.0"), ("delayed", "4.2.0"), ("relayed", "2.0.0")])
        self.assertEqual(len(self.world.met), 1)

    def test_without_status(self):
        self.assertEqual(self.refuse_b(b"550 no\r\n")[1], ("failed", "5.0.0"))

    def test_552_at_rcpt_means_too_many(self):
        self.assertEqual(self.refuse_b(b"552 too many\r\n")[1], ("delayed", "4.0.0"))
        self.assertEqual(self.refuse_b(b"552 5.5.3 too many\r\n")[1], ("delayed", "4.5.3"))
        self.assertEqual(self.refuse_b(b"552 5.2.2 full\r\n")[1], ("failed", "5.2.2"))

    def test_all_refused(self):
        self.at_first(RCPT=b"550 5.7.1 no\r\n", DATA=b"503 none\r\n")
        self.assertEqual(brief(self.outcome(delivery(*self.THREE))), [("failed", "5.7.1")] * 3)
        self.assertEqual(self.host().contents, [])

    def test_all_refused_and_content_wanted(self):
        self.at_first(RCPT=b"550 5.7.1 no\r\n")
        self.assertEqual(brief(self.outcome(delivery(*self.THREE))), [("failed", "5.7.1")] * 3)
        self.assertEqual(self.host().contents, [b""])

    def test_diagnostic_is_printable_and_cut(self):
        self.at_first(RCPT=b"550 \x1b[2J\xff" + b"x" * 1500 + b"\r\n")
        (only,) = self.outcome()
        self.assertTrue(only.diagnostic.isascii() and only.diagnostic.isprintable())
        self.assertLessEqual(len(only.diagnostic), 400)

    def test_each_stage(self):
        for key in ("MAIL", "RCPT", "DATA", "dot"):
            for reply, expected in ((b"451 4.3.0 no\r\n", ("delayed", "4.3.0")), (b"554 5.6.0 no\r\n", ("failed", "5.6.0"))):
                if (key, expected[0]) == ("MAIL", "delayed"):
                    continue  # then the next host is tried
                self.at_first(**{key: reply})
                self.assertEqual(brief(self.outcome()), [expected], (key, reply))
        self.assertEqual({address for address, _ in self.world.met}, {"192.0.2.1"})

    def test_too_big_is_not_tried(self):
        self.at_first(EHLO=b"250-mx\r\n250 SIZE 5\r\n")
        self.world.at("192.0.2.2", lambda: Host(EHLO=b"250-mx\r\n250 SIZE 6\r\n"))
        self.assertEqual(brief(self.outcome()), [("failed", "5.3.4")])
        self.assertEqual([host.lines for host in self.world.opened], [["EHLO us.test", "QUIT"]] * 2)

    def test_addresses_that_are_not_ascii(self):
        found = brief(self.outcome(delivery("bob@example.test", "jürgen@example.test")))
        self.assertEqual(found, [("relayed", "2.0.0"), ("failed", "5.6.7")])


class Hosts(Case):
    """The next host is for those of whom the first said nothing."""

    def relayed_by_second(self):
        (only,) = self.outcome()
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx2.example.test"))

    def test_no_connection(self):
        self.world.at("192.0.2.1")
        self.relayed_by_second()

    def test_refused_at_the_beginning(self):
        for script in (
            {"greeting": b"421 busy\r\n"},
            {"greeting": b"554 go away\r\n"},
            {"greeting": CLOSE},
            {"greeting": b"garbage\r\n"},
            {"EHLO": b"421 x\r\n"},
            {"EHLO": CLOSE},
            {"EHLO": b"550 x\r\n", "HELO": b"550 x\r\n"},
            {"MAIL": b"421 x\r\n"},
            {"RCPT": b"421 x\r\n"},
            {"RCPT": CLOSE},
            {"DATA": b"421 x\r\n"},
        ):
            self.at_first(**script)
            self.relayed_by_second()

    def test_mail_refused_for_now(self):
        for hello in (b"250-mx\r\n250 PIPELINING\r\n", b"250 mx\r\n"):
            self.at_first(EHLO=hello, MAIL=b"452 4.3.1 disk full\r\n", RCPT=b"503 what?\r\n", DATA=b"503 what?\r\n")
            self.relayed_by_second()

    def test_mail_refused_for_now_by_all(self):
        self.at_first(MAIL=b"452 4.3.1 disk full\r\n")
        for others in ([lambda: Host(greeting=b"554 go away\r\n")], []):
            self.world.at("192.0.2.2", *others)
            (only,) = self.outcome()
            self.assertEqual(brief([only]), [("delayed", "4.3.1")])
            self.assertEqual((only.remote_mta, only.standing), ("mx1.example.test", Standing.UP))
        self.assertEqual(len(self.world.met), 4)

    def test_mail_refused_for_good(self):
        self.at_first(MAIL=b"550 5.7.1 blocked\r\n")
        self.assertEqual(brief(self.outcome()), [("failed", "5.7.1")])
        self.assertEqual(len(self.world.met), 1)

    def test_a_host_that_wants_tls_or_a_login_fails_nobodys_mail(self):
        for key, reply, standing in (
            ("MAIL", b"530 5.7.0 Must issue a STARTTLS command first\r\n", Standing.DOWN),
            ("MAIL", b"538 Encryption required\r\n", Standing.DOWN),
            ("RCPT", b"530 5.7.1 Authentication required\r\n", Standing.UP),
            ("RCPT", b"550 5.7.10 Encryption needed\r\n", Standing.UP),
            ("dot", b"554 5.7.10 Encryption needed\r\n", Standing.UP),
        ):
            self.at_first(**{key: reply})
            (only,) = self.outcome(delivery(domain="single.test"))
            self.assertEqual((only.action, only.diagnostic), (Action.DELAYED, reply.decode().strip()))
            self.assertEqual((only.standing, only.status.kind), (standing, 4), reply)

    def test_a_host_that_wants_tls_leads_to_the_next(self):
        self.at_first(MAIL=b"530 5.7.0 Must issue a STARTTLS command first\r\n")
        self.relayed_by_second()

    def test_mail_refused_in_clear_after_tls_was_refused(self):
        refusing = {"EHLO": b"250-mx\r\n250 STARTTLS\r\n", "STARTTLS": b"454 no\r\n", "MAIL": b"550 5.7.1 TLS needed\r\n"}
        for level, expected in ((TLSPolicy.MAY, ("delayed", "4.7.1")), (TLSPolicy.NONE, ("failed", "5.7.1"))):
            self.world = World(ZONE, tls=level)
            self.at_first(**refusing)
            (only,) = self.outcome(delivery(domain="single.test"))
            self.assertEqual(brief([only]), [expected])
            self.assertIs(only.standing, Standing.UP, "it may be about this sender")

    def test_mail_of_one_sender_refused_for_now_concerns_no_other(self):
        async def rewritten(reverse_path: Address) -> Address:
            return Address("srs", "us.test")

        self.world.courier = self.world.make_courier(return_path=rewritten)
        self.at_first(MAIL=lambda argument: b"450 4.1.8 unknown\r\n" if "alice" in argument else b"250 ok\r\n")
        whole = delivery("a@example.test", "b@example.test")
        whole.recipients[0] = replace(whole.recipients[0], original=Address("team", "us.test"))
        found = self.outcome(whole)
        self.assertEqual(brief(found), [("relayed", "2.0.0")] * 2)
        self.assertEqual([each.remote_mta for each in found], ["mx1.example.test", "mx2.example.test"])
        (only,) = self.outcome(delivery(sender="carol@us.test"))
        self.assertEqual(only.remote_mta, "mx1.example.test")

    ANYTHING = b"250-mx\r\n250-SMTPUTF8\r\n250-REQUIRETLS\r\n250-DELIVERBY\r\n250 SIZE 100\r\n"
    DEMANDING = (
        {"smtputf8": True},
        {"requests": Requests(requires_tls=True)},
        {"requests": Requests(deliver_by=DeliverBy(deadline=600.0, returns=True))},
        {"content": Memory(b"x\r\n" * 10)},
    )

    def test_what_one_lacks_another_may_have(self):
        async def trusted(*args, **more):
            return Security(level=TLSPolicy.MAY, is_trusted=True)

        self.world.courier._trust.security = trusted
        for demand in self.DEMANDING:
            for other, outcome in (
                ({"EHLO": self.ANYTHING}, Action.RELAYED),
                ({"EHLO": b"250-mx\r\n250 SIZE 6\r\n"}, Action.FAILED),
                ({"greeting": b"450 later\r\n"}, Action.DELAYED),
            ):
                self.at_first(EHLO=b"250-mx\r\n250 SIZE 5\r\n")
                self.world.at("192.0.2.2", lambda other=other: Host(**other))
                (only,) = self.outcome(delivery(**demand))
                self.assertEqual((only.action, only.remote_mta), (outcome, "mx2.example.test"), (demand, other))

    def test_for_others_it_is_up_then_though_the_next_is_down_and_remembered(self):
        self.world.at("192.0.2.2")
        for _ in range(2):
            for demand in ({"smtputf8": True}, {"content": Memory(b"x" * 2_000_000 + b"\r\n")}):
                (only,) = self.outcome(delivery(**demand))
                self.assertEqual(brief([only]), [("delayed", "4.4.1")])
                self.assertEqual((only.standing, only.wait_seconds), (Standing.UP, 0.0))

    def test_only_those_go_to_the_next_whom_the_first_cannot_take(self):
        self.world.at("192.0.2.2", lambda: Host(EHLO=self.ANYTHING))
        found = self.outcome(delivery("a@example.test", "jürgen@example.test"))
        self.assertEqual([each.remote_mta for each in found], ["mx1.example.test", "mx2.example.test"])
        self.assertEqual([len(host.contents) for host in self.world.opened], [1, 1])

    def test_that_it_is_too_late_is_the_same_everywhere(self):
        self.world.at("192.0.2.1", lambda: Host(EHLO=self.ANYTHING))
        late = Requests(deliver_by=DeliverBy(deadline=0.0, returns=True))
        self.assertEqual(brief(self.outcome(delivery(requests=late))), [("failed", "5.4.7")])
        self.assertEqual(len(self.world.met), 1)

    def test_what_was_said_before_a_421_stands(self):
        said = iter([b"550 5.1.1 no\r\n", b"421 4.3.2 bye\r\n"])
        self.at_first(EHLO=b"250 mx\r\n", RCPT=lambda argument: next(said))
        found = self.outcome(delivery("a@example.test", "b@example.test"))
        self.assertEqual(brief(found), [("failed", "5.1.1"), ("relayed", "2.0.0")])
        self.assertEqual(self.host(1).lines[2:4], ["RCPT TO:<b@example.test>", "DATA"])

    def test_a_session_that_ends_after_a_transaction_says_nothing_of_the_next_recipients(self):
        self.world.settings = replace(self.world.settings, max_recipients=2)
        self.world.courier = self.world.make_courier()
        rcpt = iter([b"550 5.1.1 no\r\n"])
        self.at_first(RCPT=lambda argument: next(rcpt, b"250 ok\r\n"), dot=b"421 4.3.2 bye\r\n")
        found = self.outcome(delivery(*(f"{name}@example.test" for name in "abcd")))
        self.assertEqual(brief(found), [("failed", "5.1.1"), ("delayed", "4.3.2"), ("relayed", "2.0.0"), ("relayed", "2.0.0")])

    def test_a_session_that_ends_before_the_next_message_begins_says_nothing_of_it(self):
        self.world.settings = replace(self.world.settings, idle=IdleLimits(seconds=3.0))
        waiting: list[Deferred[Address]] = []

        async def slow(reverse_path: Address) -> Address:
            waiting.append(Deferred())
            return await waiting[-1]

        self.world.courier = self.world.make_courier(return_path=slow)
        self.outcome()
        whole = delivery()
        whole = replace(whole, recipients={0: replace(whole.recipients[0], original=Address("team", "us.test"))})
        outcome = self.world.attempt(whole)
        self.world.opened[0].transport.loseConnection()
        self.world.flush()
        waiting.pop(0).callback(Address("team", "us.test"))
        self.world.flush()
        waiting.pop(0).callback(Address("team", "us.test"))
        self.world.flush()
        self.assertEqual(brief(self.successResultOf(outcome)), [("relayed", "2.0.0")])
        self.assertEqual([len(host.contents) for host in self.world.opened], [1, 1])

    def test_what_one_transaction_came_to_stands_when_the_next_goes_wrong(self):
        self.world.settings = replace(self.world.settings, max_recipients=1)

        async def broken(reverse_path: Address) -> Address:
            raise OSError("Input/output error")

        self.world.courier = self.world.make_courier(return_path=broken)
        whole = delivery("a@example.test", "b@example.test")
        theirs = {**whole.recipients, 2: replace(whole.recipients[2], original=Address("team", "us.test"))}
        found = self.outcome(replace(whole, recipients=theirs))
        self.flushLoggedErrors()
        self.assertEqual(brief(found), [("relayed", "2.0.0"), ("delayed", "4.3.0")])

    def test_what_one_transaction_came_to_stands_when_the_next_is_cancelled(self):
        self.world.settings = replace(self.world.settings, max_recipients=1)
        self.world.courier = self.world.make_courier()
        said = iter([b"250 ok\r\n"])
        self.at_first(EHLO=b"250 mx\r\n", MAIL=lambda argument: next(said, HANG))
        outcome = self.world.attempt(delivery("a@example.test", "b@example.test"))
        self.assertNoResult(outcome)
        outcome.cancel()
        self.world.flush()
        broken_off = self.failureResultOf(outcome, BrokenOffError).value
        self.assertEqual(brief(broken_off.outcomes), [("relayed", "2.0.0"), ("delayed", "4.3.0")])

    def test_a_host_that_wants_a_session_for_each_recipient_and_takes_none_is_left_alone(self):
        hello = b"250-mx\r\n250 LIMITS MAILMAX=1 RCPTMAX=1\r\n"
        self.at_first(EHLO=hello, MAIL=b"450 4.2.0 later\r\n")
        self.world.at("192.0.2.2", lambda: Host(greeting=b"554 5.7.1 go away\r\n"))
        found = self.outcome(delivery(*(f"{number}@example.test" for number in range(20))))
        self.assertEqual(len(self.world.met), 5 + 1)
        self.assertEqual(brief(found), [("delayed", "4.2.0")] * 5 + [("delayed", "4.3.0")] * 15)
        self.assertEqual({each.standing for each in found}, {Standing.UP, None})

    def test_whom_a_transaction_was_for_that_is_cancelled_between_its_answers_has_them(self):
        self.world.at("192.0.2.9", lambda: Host(LHLO=b"250 mx\r\n", dot=b"250 ok\r\n"))
        lmtp = NextHop(host="192.0.2.9", port=24, is_lmtp=True, allow_private=True)
        outcome = Deferred.fromCoroutine(self.world.courier.attempt(delivery("a@example.test", "b@example.test"), lmtp))
        self.world.flush()
        outcome.cancel()
        self.world.flush()
        broken_off = self.failureResultOf(outcome, BrokenOffError).value
        self.assertEqual(brief(broken_off.outcomes), [("delivered", "2.0.0"), ("delayed", "4.3.0")])

    def test_whoever_is_still_open_is_asked_for_once_of_each_host(self):
        self.patch(Attempt, "take", lambda *args, **more: None)
        for hello in (b"250 mx\r\n", b"250-mx\r\n250 LIMITS MAILMAX=1 RCPTMAX=1\r\n"):
            self.world.opened.clear()
            for address in ("192.0.2.1", "192.0.2.2"):
                self.world.at(address, lambda hello=hello: Host(EHLO=hello))
            self.assertEqual(brief(self.outcome(delivery("a@example.test", "b@example.test"))), [("delayed", "4.4.0")] * 2)
            asked = [line for host in self.world.opened for line in host.lines if line.startswith("RCPT")]
            self.assertEqual(asked, ["RCPT TO:<a@example.test>", "RCPT TO:<b@example.test>"] * 2)

    def test_all_down(self):
        self.world.at("192.0.2.1")
        self.world.at("192.0.2.2")
        (only,) = self.outcome()
        self.assertEqual(brief([only]), [("delayed", "4.4.1")])
        self.assertIn("ConnectionRefused", only.cause)

    def test_all_refuse_for_good(self):
        self.at_first(greeting=b"554 5.7.1 go away\r\n")
        self.world.at("192.0.2.2", lambda: Host(greeting=b"554 5.7.1 go away too\r\n"))
        self.assertEqual(brief(self.outcome()), [("failed", "5.7.1")])

    def test_one_refuses_for_good_and_one_is_down(self):
        for order in (0, 1):
            self.world.courier.forget_hosts()
            refuses = [lambda: Host(greeting=b"554 5.7.1 go away\r\n")]
            self.world.at("192.0.2.1", *(refuses if order else []))
            self.world.at("192.0.2.2", *([] if order else refuses))
            self.assertEqual(brief(self.outcome()), [("delayed", "4.4.1")])

    def test_lost_in_the_content_is_delayed_and_not_sent_elsewhere(self):
        for script in ({"content": CLOSE}, {"dot": CLOSE}, {"dot": b"garbage\r\n"}, {"content": b"250 taken\r\n"}):
            self.world.met.clear()
            self.at_first(**script)
            (only,) = self.outcome()
            self.assertIs(only.action, Action.DELAYED, script)
            self.assertEqual(len(self.world.met), 1, script)

    def test_421_to_the_content_is_delayed(self):
        self.at_first(dot=b"421 4.3.2 bye\r\n")
        self.assertEqual(brief(self.outcome()), [("delayed", "4.3.2")])

    def test_at_most_five_addresses(self):
        self.world.resolver.__init__("example.test MX 1 mx.test\n" + "".join(f"mx.test A 192.0.2.{n}\n" for n in range(10, 30)))
        self.assertEqual(brief(self.outcome()), [("delayed", "4.4.1")])
        self.assertEqual(len(self.world.met), 5)

    def test_at_most_five_addresses_of_many_hosts(self):
        zone = "".join(f"example.test MX {n} mx{n}.test\nmx{n}.test A 192.0.2.{n}\n" for n in range(10, 20))
        self.world.resolver.__init__(zone)
        self.assertEqual(brief(self.outcome()), [("delayed", "4.4.1")])
        self.assertEqual([address for address, _ in self.world.met], [f"192.0.2.{n}" for n in range(10, 15)])

    def refusing(self, *numbers):
        zone = "".join(f"example.test MX {n} mx{n}.test\nmx{n}.test A 192.0.2.{n}\n" for n in numbers)
        for number in numbers:
            self.world.at(f"192.0.2.{number}", lambda: Host(greeting=b"554 5.7.1 go away\r\n"))
        return zone

    def test_a_host_behind_many_that_refuse_is_not_hidden(self):
        for zone in (
            self.refusing(*range(10, 21)),
            "example.test MX 1 mx.test\n" + "".join(f"mx.test A 192.0.2.{n}\n" for n in range(10, 21)),
        ):
            self.world.resolver.__init__(zone)
            self.world.at("192.0.2.20", Host)
            self.world.met.clear()
            self.assertEqual(brief(self.outcome()), [("delayed", "4.7.1")])
            self.assertEqual(len(self.world.met), 5)
            self.assertEqual(brief(self.outcome(replace(delivery(), attempt=2))), [("delayed", "4.7.1")])
            self.assertEqual(brief(self.outcome(replace(delivery(), attempt=3))), [("relayed", "2.0.0")])

    def test_when_the_last_was_tried_it_is_final(self):
        self.world.resolver.__init__(self.refusing(*range(10, 15)))
        self.assertEqual(brief(self.outcome()), [("failed", "5.7.1")])
        self.world.resolver.__init__(self.refusing(*range(10, 50)))
        self.world.met.clear()
        self.assertEqual(brief(self.outcome(replace(delivery(), attempt=50))), [("delayed", "4.7.1")])
        self.assertEqual(len(self.world.met), courier.MOST_HOSTS)

    def test_an_address_with_many_names_is_met_once(self):
        zone = "".join(f"example.test MX {n} mx{n}.test\nmx{n}.test A 192.0.2.1\n" for n in range(10))
        for script in ({"greeting": b"554 5.7.1 go away\r\n"}, {"MAIL": CLOSE}, {"MAIL": b"451 4.3.0 later\r\n"}):
            self.world.met.clear()
            self.world.resolver.__init__(zone + "example.test MX 20 mx2.example.test\nmx2.example.test A 192.0.2.2\n")
            self.at_first(**script)
            self.relayed_by_second()
            self.assertEqual([address for address, _ in self.world.met], ["192.0.2.1", "192.0.2.2"])
        self.world.resolver.__init__(zone)
        self.at_first(greeting=b"554 5.7.1 go away\r\n")
        self.assertEqual(brief(self.outcome()), [("failed", "5.7.1")])

    def test_names_that_lead_nowhere_do_not_hide_a_host(self):
        nowhere = "".join(f"example.test MX 10 no{n}.test\n" for n in range(16))
        self.world.resolver.__init__(nowhere + "example.test MX 20 mx.test\nmx.test A 192.0.2.2\n")
        self.assertEqual(brief(self.outcome()), [("relayed", "2.0.0")])

    def test_a_thousand_names_cost_few_questions_and_are_not_final(self):
        for records, most in (("", courier.MOST_NAMES), ("no{0}.test SERVFAIL\n", courier.MOST_HOSTS)):
            zone = "".join(f"example.test MX {n} no{n}.test\n{records.format(n)}" for n in range(1_000))
            self.world.resolver.__init__(zone)
            self.assertEqual(self.outcome()[0].action, Action.DELAYED)
            self.assertEqual(len(self.world.resolver.asked), 1 + 2 * most)

    def test_a_mix_of_codes_in_one_reply(self):
        self.at_first(RCPT=b"250-ok\r\n550 no\r\n")
        self.relayed_by_second()

    def test_a_line_without_end(self):
        self.at_first(EHLO=b"250-" + b"x" * 1_000_000)
        self.relayed_by_second()
        self.assertTrue(self.host().lost)


class Chunkless(Case):
    """A host that offers CHUNKING and does not know it."""

    def at_stranger(self, code=b"500", **more):
        clock = self.world.clock
        self.world.at("192.0.2.1", lambda: Stranger(clock, code + b" what\r\n", **more))

    def slow_outcome(self, *recipients, content=CONTENT):
        outcome = self.world.attempt(delivery(*recipients, content=content))
        for _ in range(40):
            self.world.advance(1.0)
        return self.successResultOf(outcome)

    def test_the_mail_goes_once_more_at_once_by_data(self):
        for code in (b"500", b"502", b"503", b"504"):
            for content in (CONTENT, OnDisk(CONTENT.in_memory)):
                self.setUp()
                self.at_stranger(code)
                self.assertEqual(brief(self.slow_outcome(content=content)), [("relayed", "2.0.0")], code)
                self.assertEqual([host.contents for host in self.world.opened], [[], [CONTENT.in_memory]])
                self.assertEqual(self.world.met, [("192.0.2.1", 25)] * 2)

    def test_and_the_next_at_once(self):
        self.at_stranger()
        self.slow_outcome()
        self.assertEqual(brief(self.slow_outcome()), [("relayed", "2.0.0")])
        self.assertEqual([len(host.contents) for host in self.world.opened], [0, 1, 1])
        self.world.courier.forget_hosts()
        self.slow_outcome()
        self.assertEqual(len(self.world.opened), 4)

    def test_with_all_recipients_of_all_transactions_and_none_twice(self):
        rcpt = iter([b"550 5.1.1 no\r\n"])
        hello = b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 LIMITS RCPTMAX=2\r\n"

        def make():
            host = Stranger(self.world.clock, b"500 what\r\n", hello)
            host.script["RCPT"] = lambda argument: next(rcpt, b"250 ok\r\n")
            return host

        self.world.at("192.0.2.1", make)
        found = self.slow_outcome(*(f"{name}@example.test" for name in "abc"))
        self.assertEqual(brief(found), [("failed", "5.1.1"), ("relayed", "2.0.0"), ("relayed", "2.0.0")])
        self.assertEqual([len(host.contents) for host in self.world.opened], [0, 1])

    def test_it_waits_when_no_other_session_is_to_be_had(self):
        for other in (unreachable, lambda: Host(greeting=b"554 5.7.1 go away\r\n"), lambda: Host(EHLO=b"421 x\r\n")):
            self.setUp()
            clock = self.world.clock
            self.world.at("192.0.2.1", lambda clock=clock: Stranger(clock, b"500 what\r\n"), other)
            self.world.at("192.0.2.2", lambda: Host(greeting=b"554 5.7.1 go away\r\n"))
            (only,) = self.slow_outcome()
            self.assertIs(only.action, Action.DELAYED)
        self.setUp()
        clock = self.world.clock
        self.world.at("192.0.2.1", lambda: Stranger(clock, b"500 what\r\n"), unreachable)
        self.assertEqual([each.remote_mta for each in self.slow_outcome()], ["mx2.example.test"], "or goes elsewhere")

    def test_what_it_lacks_for_others_is_final(self):
        self.world.resolver.__init__("example.test A 192.0.2.1")
        self.at_stranger()
        found = self.slow_outcome("a@example.test", "jürgen@example.test")
        self.assertEqual(brief(found), [("relayed", "2.0.0"), ("failed", "5.6.7")])
        self.assertEqual(len([line for host in self.world.opened for line in host.lines if line.startswith("RCPT")]), 2)

    def test_what_it_says_to_the_content_by_data_is_its_answer(self):
        clock = self.world.clock

        def make():
            host = Stranger(clock, b"500 what\r\n")
            host.script["dot"] = b"554 5.6.0 no\r\n"
            return host

        self.world.at("192.0.2.1", make)
        self.assertEqual(brief(self.slow_outcome()), [("failed", "5.6.0")])
        self.assertEqual(len(self.world.opened), 2)

    def test_a_long_content_is_broken_off_when_it_has_said_so(self):
        self.world.throttled = True
        whole = b"x\r\n" * 200_000
        self.world.at("192.0.2.1", lambda: Host(EHLO=b"250-mx\r\n250 CHUNKING\r\n"), Host)
        outcome = self.world.attempt(delivery(content=OnDisk(whole)))
        self.host().transport.write(b"500 what\r\n" * 3)
        self.world.flush()
        self.assertTrue(self.host().lost)
        while not outcome.called:
            self.world.senders[1].resumeProducing()
            self.world.flush()
        self.assertEqual(brief(self.successResultOf(outcome)), [("relayed", "2.0.0")])
        self.assertEqual([host.contents for host in self.world.opened], [[], [whole]])

    def test_a_session_that_was_open_already_is_not_used_for_it_again(self):
        said = iter([b"250 ok\r\n"])
        self.world = World(ZONE, idle=IdleLimits(seconds=3.0))
        self.at_first(EHLO=b"250-mx\r\n250 CHUNKING\r\n", dot=lambda argument: next(said, b"503 not now\r\n"))
        self.outcome()
        self.world.at("192.0.2.1", lambda: Host(EHLO=b"250-mx\r\n250 CHUNKING\r\n"))
        self.assertEqual(brief(self.outcome()), [("relayed", "2.0.0")])
        self.assertEqual([host.lines[3][:4] for host in self.world.opened], ["BDAT", "DATA"])
        self.assertEqual(brief(self.outcome()), [("relayed", "2.0.0")])
        self.assertEqual(len(self.world.opened), 2)


class DNS(Case):
    def status(self, zone, **settings):
        self.world = World(zone, **settings)
        return brief(self.outcome())

    def test_outcomes(self):
        for zone, expected in (
            ("", ("failed", "5.1.2")),
            ("example.test MX 0 .", ("failed", "5.1.10")),
            ("example.test SERVFAIL", ("delayed", "4.4.3")),
            ("example.test DROP", ("delayed", "4.4.3")),
            ("example.test TXT x", ("failed", "5.4.4")),
            ("example.test MX 1 mx.test", ("failed", "5.4.4")),
            ("example.test MX 1 mx.test\nmx.test SERVFAIL", ("delayed", "4.4.3")),
            ("example.test MX 1 gone.test\nexample.test MX 2 mx.test\nmx.test SERVFAIL", ("delayed", "4.4.3")),
            ("example.test MX 1 us.test", ("failed", "5.4.6")),
        ):
            self.assertEqual(self.status(zone), [expected], zone)
            self.assertEqual(self.world.met, [])

    def test_a_host_without_address_is_passed_over(self):
        self.world = World("example.test MX 1 gone.test\nexample.test MX 2 mx.test\nmx.test A 192.0.2.1")
        self.world.at("192.0.2.1", Host)
        self.assertEqual(brief(self.outcome()), [("relayed", "2.0.0")])

    def test_private_addresses_are_refused_unless_allowed(self):
        zone = "example.test MX 1 mx.test\nmx.test A 127.0.0.1\nmx.test AAAA ::1"
        self.assertEqual(self.status(zone, allow_private=False), [("failed", "5.4.6")])
        self.assertEqual(self.world.met, [])
        self.assertEqual(brief(self.outcome(delivery(domain="[127.0.0.1]"))), [("failed", "5.4.6")])

    def test_mx_of_localhost(self):
        self.assertEqual(self.status("example.test MX 1 localhost", allow_private=False), [("failed", "5.4.6")])


class TimeLimits(Case):
    """A host that falls silent holds us so long and no longer, in every phase."""

    def silent_in(self, phase, **script):
        if phase is Phase.STARTTLS:  # where it may go in clear, it does then
            self.world = World(ZONE, tls=TLSPolicy.ENCRYPT)
        self.at_first(**script)
        self.world.at("192.0.2.2")
        outcome = self.world.attempt(delivery())
        self.world.advance(TIMEOUTS_SECONDS[phase] - 1)
        self.assertNoResult(outcome)
        self.world.advance(1)
        (only,) = self.successResultOf(outcome)
        self.assertIs(only.action, Action.DELAYED)
        self.assertTrue(self.host().lost)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
        return only

    def test_each_phase(self):
        for phase, script in (
            (Phase.GREETING, {"greeting": HANG}),
            (Phase.EHLO, {"EHLO": HANG}),
            (Phase.HELO, {"EHLO": b"500 x\r\n", "HELO": HANG}),
            (Phase.STARTTLS, {"EHLO": b"250-mx\r\n250 STARTTLS\r\n", "STARTTLS": HANG}),
            (Phase.MAIL, {"MAIL": HANG, "RCPT": HANG, "DATA": HANG}),
            (Phase.RCPT, {"RCPT": HANG, "DATA": HANG}),
            (Phase.DATA, {"DATA": HANG}),
            (Phase.CONTENT_END, {"dot": HANG}),
        ):
            self.setUp()
            only = self.silent_in(phase, **script)
            if phase is Phase.CONTENT_END:
                self.assertEqual(str(only.status), "4.4.2")
                self.assertEqual(self.world.met, [("192.0.2.1", 25)])

    def test_each_command_of_a_kind_has_its_own(self):
        many = [f"u{n}@example.test" for n in range(5)]
        for hello in (b"250 mx\r\n", b"250-mx\r\n250 PIPELINING\r\n"):
            self.setUp()
            self.at_first(EHLO=hello, RCPT=HANG, DATA=HANG)
            self.world.at("192.0.2.2")
            outcome = self.world.attempt(delivery(*many))
            for _ in many:
                self.world.advance(TIMEOUTS_SECONDS[Phase.RCPT] - 1)
                self.assertNoResult(outcome)
                self.host().transport.write(b"250 ok\r\n")
                self.world.flush()
            self.host().transport.write(b"354 go\r\n")
            self.host().in_content = True
            self.world.flush()
            self.assertEqual(brief(self.successResultOf(outcome)), [("relayed", "2.0.0")] * len(many), hello)

    def test_octets_that_trickle_within_one_reply_give_it_no_more(self):
        self.at_first(EHLO=b"250 mx\r\n", RCPT=HANG)
        self.world.at("192.0.2.2")
        outcome = self.world.attempt(delivery("a@example.test", "b@example.test"))
        self.world.advance(TIMEOUTS_SECONDS[Phase.RCPT] - 1)
        self.host().transport.write(b"250 ok\r\n")
        self.world.flush()
        for octets in (b"2", b"50-ok\r\n", b"250-still\r\n", b"250"):
            self.world.advance((TIMEOUTS_SECONDS[Phase.RCPT] - 1) / 4)
            self.assertNoResult(outcome)
            self.host().transport.write(octets)
            self.world.flush()
        self.world.advance(1)
        self.assertEqual(brief(self.successResultOf(outcome)), [("delayed", "4.4.1")] * 2)
        self.assertTrue(self.host().lost)

    def test_trickling_octets_are_no_progress(self):
        self.at_first(EHLO=b"250-mx\r\n")
        self.world.at("192.0.2.2")
        outcome = self.world.attempt(delivery())
        for _ in range(29):
            self.world.advance(10)
            self.host().transport.write(b"250-more\r\n")
            self.world.flush()
        self.assertNoResult(outcome)
        self.world.advance(10)
        self.assertEqual(brief(self.successResultOf(outcome)), [("delayed", "4.4.1")])

    def test_content_that_nobody_reads(self):
        for content in (OnDisk(b"x\r\n" * 200_000), Memory(b"x\r\n" * 200_000)):
            self.setUp()
            self.world.throttled = True
            outcome = self.world.attempt(delivery(content=content))
            for _ in range(3):
                self.world.advance(TIMEOUTS_SECONDS[Phase.CONTENT] - 1)
                self.assertNoResult(outcome)
                self.world.senders[0].resumeProducing()
            self.world.advance(TIMEOUTS_SECONDS[Phase.CONTENT])
            self.assertEqual(brief(self.successResultOf(outcome)), [("delayed", "4.4.2")])
            self.assertEqual(len(self.world.met), 1)
            self.assertEqual(self.host().contents, [])
            self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_lost_while_the_content_waits_for_room(self):
        self.world.throttled = True
        outcome = self.world.attempt(delivery(content=OnDisk(b"x\r\n" * 200_000)))
        self.assertFalse(self.world.started[0].called)
        self.host().transport.loseConnection()
        self.world.flush()
        self.assertEqual(brief(self.successResultOf(outcome)), [("delayed", "4.4.2")])
        self.assertTrue(self.world.started[0].called)

    def test_content_that_is_read_slowly(self):
        self.world.throttled = True
        whole = b"x\r\n" * 200_000
        outcome = self.world.attempt(delivery(content=OnDisk(whole)))
        while not outcome.called:
            self.world.advance(60)
            self.world.senders[0].resumeProducing()
            self.world.flush()
        self.assertEqual(brief(self.successResultOf(outcome)), [("relayed", "2.0.0")])
        self.assertEqual(self.host().contents, [whole])

    def test_cancelled(self):
        self.at_first(RCPT=HANG, DATA=HANG)
        outcome = self.world.attempt(delivery())
        outcome.cancel()
        self.failureResultOf(outcome, CancelledError)
        self.world.flush()
        self.assertTrue(self.host().lost)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])


class LocalFailures(Case):
    def test_a_content_that_cannot_be_read_is_never_ended(self):
        (only,) = self.outcome(delivery(content=OnDisk(b"x\r\n" * 100_000, breaks_at=2)))
        self.assertEqual(brief([only]), [("delayed", "4.3.0")])
        self.assertEqual(only.diagnostic, "Local error")
        self.assertIsNone(only.remote_mta)
        self.assertIn("Input/output", only.cause)
        self.world.flush()
        self.assertEqual(self.host().contents, [])
        self.assertTrue(self.host().lost)
        self.assertEqual(len(self.world.met), 1)

    def test_a_content_that_is_not_fit_for_a_chunk_is_never_ended(self):
        self.at_first(EHLO=b"250-mx\r\n250 CHUNKING\r\n")
        for number, content in enumerate((Memory(b"a\n.\n"), OnDisk(b"x\r\n" * 100_000 + b"\r"))):
            (only,) = self.outcome(delivery(content=content))
            self.assertEqual(brief([only]), [("delayed", "4.3.0")])
            self.world.flush()
            self.assertFalse(self.host(number).contents)
            self.assertTrue(self.host(number).lost)

    def test_what_nobody_expects_is_delayed(self):
        async def broken(domain):
            raise RuntimeError("a bug")

        self.world.resolver.mx = broken
        found = self.outcome(delivery("a@example.test", "b@example.test"))
        self.assertEqual(brief(found), [("delayed", "4.3.0")] * 2)
        self.assertNotIn("bug", found[0].diagnostic)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_an_address_that_cannot_be_written(self):
        value = delivery()
        for ordinal, each in value.recipients.items():
            value.recipients[ordinal] = replace(each, address=Address("a\r\nRCPT TO:<b@c.test>", "example.test"))
        self.assertEqual(brief(self.outcome(value)), [("delayed", "4.3.0")])
        self.assertEqual(len(self.flushLoggedErrors(LocalProtocolError)), 1)
        self.world.flush()
        self.assertEqual(self.host().lines, ["EHLO us.test"])
        self.assertTrue(self.host().lost)

    def test_a_delivery_that_is_not_for_here(self):
        value = delivery()
        for ordinal, each in value.recipients.items():
            value.recipients[ordinal] = type(each)(address=each.address, original=each.original, destination=Account("x"))
        self.assertEqual(brief(self.outcome(value)), [("delayed", "4.3.0")])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


def test_everybody_has_a_disposition_whatever_was_said_of_others():
    refused = Result(Phase.MAIL, Reply(451, ("later",)))
    attempt = Attempt(delivery("a@example.test", "b@example.test").recipients)
    attempt.take(Hop("mx.test", "192.0.2.1"), (0,), [refused])
    assert brief(attempt.conclude()) == [("delayed", "4.0.0"), ("delayed", "4.4.0")]


class NoTLS(Case):
    """A host that offers TLS, and at STARTTLS does not answer, closes, or says 421."""

    settings = {"tls": TLSPolicy.MAY}
    FAILURES = CLOSE, HANG, b"421 4.7.0 no TLS now\r\n"

    def after(self, failure):
        failing = Host(EHLO=b"250-mx\r\n250 STARTTLS\r\n", STARTTLS=failure)
        self.world.at("192.0.2.1", lambda: failing, lambda: Host(EHLO=b"250-mx\r\n250 STARTTLS\r\n"))
        outcome = self.world.attempt(delivery(domain="single.test"))
        if failure is HANG:
            self.assertNoResult(outcome)
            self.world.advance(TIMEOUTS_SECONDS[Phase.STARTTLS])
        (only,) = self.successResultOf(outcome)
        return only

    def test_it_goes_in_clear_by_a_session_of_its_own(self):
        for failure in self.FAILURES:
            self.setUp()
            only = self.after(failure)
            self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"), failure)
            self.assertEqual([len(host.contents) for host in self.world.opened], [0, 1])
            self.assertNotIn("STARTTLS", self.host(1).lines)

    def test_the_next_messages_do_not_wait_for_it_to_hang_again(self):
        self.after(HANG)
        offering = {"EHLO": b"250-mx\r\n250 STARTTLS\r\n"}
        self.world.at("192.0.2.1", lambda: Host(**offering))
        (only,) = self.outcome(delivery(domain="single.test"))
        self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"))
        self.assertNotIn("STARTTLS", self.host(-1).lines)
        self.world.advance(HUNG_SECONDS[0])
        hanging = Host(**offering, STARTTLS=HANG)
        self.world.at("192.0.2.1", lambda: hanging, lambda: Host(**offering), lambda: Host(**offering))
        outcome = self.world.attempt(delivery(domain="single.test"))
        self.assertIn("STARTTLS", hanging.lines, "it is looked again whether that is still so")
        (only,) = self.outcome(delivery(domain="single.test"))
        self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"), "by one message, and not by all")
        self.world.advance(TIMEOUTS_SECONDS[Phase.STARTTLS])
        self.assertIs(self.successResultOf(outcome)[0].action, Action.RELAYED)
        self.assertTrue(len(self.world.courier._hung))
        self.world.courier.forget_hosts()
        self.assertFalse(len(self.world.courier._hung))

    def test_unless_it_takes_nothing_in_clear(self):
        self.after(HANG)
        for said in (b"530 5.7.0 Must issue a STARTTLS command first\r\n", b"550 5.7.10 encryption needed\r\n"):
            wanting = {"EHLO": b"250-mx\r\n250 STARTTLS\r\n", "STARTTLS": HANG, "MAIL": said}
            self.world.at("192.0.2.1", lambda wanting=wanting: Host(**wanting))
            (only,) = self.outcome(delivery(domain="single.test"))
            self.assertEqual((only.action, self.host(-1).lines.count("STARTTLS")), (Action.DELAYED, 0))
            outcome = self.world.attempt(delivery(domain="single.test"))
            self.assertEqual(self.host(-1).lines.count("STARTTLS"), 1)
            self.world.at("192.0.2.1", Host)
            self.world.advance(TIMEOUTS_SECONDS[Phase.STARTTLS])
            self.assertIs(self.successResultOf(outcome)[0].action, Action.RELAYED)

    def test_not_where_it_must_be_encrypted(self):
        for failure in self.FAILURES:
            self.world = World(ZONE, tls=TLSPolicy.ENCRYPT)
            only = self.after(failure)
            self.assertEqual(
                (only.action, only.standing),
                (Action.DELAYED, Standing.CROWDED if isinstance(failure, bytes) else Standing.DOWN),
            )
            self.assertEqual(self.host().lines[:2], ["EHLO us.test", "STARTTLS"])
            self.assertEqual(len(self.world.met), 1)


class RefusedTLS(Case):
    """A host that has no TLS for the moment, so that the session is in clear: what it lacks there is not the last word."""

    def after_454(self, asked, **script):
        script = {"EHLO": b"250-mx\r\n250 STARTTLS\r\n", "STARTTLS": b"454 4.7.0 not now\r\n", **script}
        self.world.at("192.0.2.1", lambda: Host(**script))
        (only,) = self.outcome(asked)
        return only

    def test_what_it_may_offer_within_tls_is_not_missing_for_good(self):
        in_time = Requests(deliver_by=DeliverBy(deadline=600.0, returns=True))
        for more in ({"smtputf8": True}, {"requests": in_time}):
            self.assertIs(self.after_454(delivery(domain="single.test", **more)).action, Action.DELAYED, more)

    def test_recipients_that_it_refuses_for_want_of_tls(self):
        for text, action in (
            (b"554 5.7.1 TLS is required for this recipient\r\n", Action.DELAYED),
            (b"550 5.7.1 Please use STARTTLS\r\n", Action.DELAYED),
            (b"550 5.1.1 no such user\r\n", Action.FAILED),
            (b"550 5.7.1 go away\r\n", Action.FAILED),
        ):
            only = self.after_454(delivery(domain="single.test"), RCPT=text)
            self.assertIs(only.action, action, text)
        self.world.at("192.0.2.1", lambda: Host(RCPT=b"554 5.7.1 TLS is required for this recipient\r\n"))
        (only,) = self.outcome(delivery(domain="single.test"))
        self.assertIs(only.action, Action.FAILED, "it has none")


class RequireTLS(Case):
    def test_a_name_from_the_dns_is_not_trusted(self):
        asked = delivery(requests=Requests(requires_tls=True))
        self.assertEqual(brief(self.outcome(asked)), [("failed", "5.7.30")])
        self.world = World(ZONE, tls=TLSPolicy.VERIFY)
        self.assertEqual(brief(self.outcome(asked)), [("failed", "5.7.30")])
        self.assertEqual(self.world.met, [])

    def test_a_smarthost_must_be_verified(self):
        asked = delivery(requests=Requests(requires_tls=True))
        for policy, met in ((TLSPolicy.MAY, False), (TLSPolicy.ENCRYPT, False), (TLSPolicy.VERIFY, True)):
            self.world = World(ZONE, smarthost=smarthost("smart.test", tls=policy))
            self.outcome(asked)
            self.assertEqual(bool(self.world.met), met, policy)


class SmarthostCase(Case):
    settings = {"smarthost": smarthost("smart.test", tls=TLSPolicy.MAY)}

    def test_everything_goes_there(self):
        self.world.at("192.0.2.9", Host)
        (only,) = self.outcome(delivery(domain="nowhere.test"))
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "smart.test"))
        self.assertEqual(self.world.met, [("192.0.2.9", 587)])

    def test_a_wrong_name_fails_nobody(self):
        self.world.resolver.__init__("")
        self.assertEqual(brief(self.outcome()), [("delayed", "4.4.4")])

    def test_a_password_is_not_sent_in_clear(self):
        self.world = World(ZONE, smarthost=smarthost("192.0.2.9", login=Login("a", "secret"), tls=TLSPolicy.MAY))
        self.world.at("192.0.2.9", lambda: Host(EHLO=b"250-mx\r\n250 AUTH PLAIN LOGIN\r\n"))
        self.assertEqual(brief(self.outcome()), [("delayed", "4.7.10")])
        self.assertEqual(self.host().lines, ["EHLO us.test", "QUIT"])

    def test_tls_must_be_offered(self):
        for policy in (TLSPolicy.ENCRYPT, TLSPolicy.VERIFY):
            self.world = World(ZONE, smarthost=smarthost("localhost", 2525, tls=policy))
            self.world.at("127.0.0.1", Host)
            self.assertEqual(brief(self.outcome()), [("delayed", "4.7.10")])
            self.assertEqual(self.world.met, [("::1", 2525), ("127.0.0.1", 2525)])


def test_cancelling_wins_over_a_transport_that_closes_at_once():
    world = World("")
    around = Surroundings(clock=world.clock, start=world.start, run_in_thread=maybe_later, timeouts_seconds=TIMEOUTS_SECONDS)
    sender = Sender(SMTPClientCore("us.test"), around, None)
    transport = StringTransportWithDisconnection()
    transport.protocol = sender
    transport.abortConnection = transport.loseConnection
    transport.setTcpNoDelay = lambda enabled: None
    sender.makeConnection(transport)
    opened = Deferred.fromCoroutine(sender.open())
    failures = []
    opened.addErrback(failures.append)
    opened.cancel()
    assert not transport.connected
    assert failures[0].check(CancelledError)
    assert world.clock.getDelayedCalls() == []


def test_the_factory_is_twisteds_and_knows_no_envelope():
    sender = Host()
    factory = SenderFactory(lambda: sender)
    assert isinstance(factory, ESMTPSenderFactory)
    assert factory.toEmail == []
    assert factory.retries == 0
    assert factory.buildProtocol(None) is sender
    assert sender.factory is factory


@pytest.mark.parametrize("policy", list(TLSPolicy))
def test_defaults_are_safe(policy):
    assert smarthost("x").tls is TLSPolicy.VERIFY
    assert smarthost("x", 465, tls=policy).is_implicit_tls
