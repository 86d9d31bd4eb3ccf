"""A session on a transport in memory: order, times, back-pressure, caps, and the end."""

from __future__ import annotations

from typing import Any

import pytest
from receive_fakes import House, Session
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.mail import smtp
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail import reply as replies
from mailstack.mail.envelope import Service
from mailstack.mail.verdict import Refuse, defer, reject
from mailstack.wire.limits import LAST_WORD_SECONDS, BareNewline, Limits

TO_DATA = ("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>", "DATA")
MESSAGE = "Subject: x\r\n\r\ntext\r\n."


def at(stage: int, **more: Any) -> tuple[House, Session]:
    house = House(**more)
    session = house.connect()
    session.take()
    for line in TO_DATA[:stage]:
        session.say(line)
    return house, session


class OrderTests(SynchronousTestCase):
    def test_a_message(self) -> None:
        house = House()
        session = house.connect()
        self.assertEqual("220 mx.example.org ESMTP\r\n", session.take())
        self.assertEqual(["250", "250", "250", "354"], session.say(*TO_DATA))
        self.assertEqual(["250"], session.say(MESSAGE))
        self.assertEqual(["221"], session.say("QUIT"))
        self.assertFalse(session.is_connected)
        self.assertEqual(0, len(house.factory))
        self.assertEqual([], house.start.failures)
        [(envelope, content)] = house.intake.accepted
        self.assertEqual("a@example.com", str(envelope.reverse_path))
        self.assertTrue(content.startswith(b"Received: from c ([192.0.2.1])\r\n\tby mx.example.org with ESMTP id 000"))
        self.assertTrue(content.endswith(b"Subject: x\r\n\r\ntext\r\n"))

    def test_pipelined_commands_wait_for_a_slow_judge(self) -> None:
        house, session = at(1)
        first: Deferred[None] = Deferred()
        second: Deferred[None] = Deferred()
        house.judge.answers = {"mail": first, "rcpt": [second, None]}
        self.assertEqual(
            [], session.say(TO_DATA[1], "RCPT TO:<bob@example.org>", "RCPT TO:<eve@example.org>", "DATA", MESSAGE, "NOOP")
        )
        first.callback(None)
        self.assertEqual(["250"], session.codes())
        self.assertEqual(1, len([1 for stage, _ in house.judge.asked if stage == "rcpt"]))
        second.callback(reject("no"))  # type: ignore[arg-type]
        self.assertEqual(["550", "250", "354", "250", "250"], session.codes())
        [(envelope, _)] = house.intake.accepted
        self.assertEqual(["eve@example.org"], [str(each.address) for each in envelope.recipients])

    def test_rset_behind_a_slow_rcpt_ends_the_transaction_of_that_rcpt(self) -> None:
        house, session = at(2)
        waiting: Deferred[None] = Deferred()
        house.judge.answers = {"rcpt": [waiting]}
        session.say(
            "RCPT TO:<r1@example.org>", "RSET", "MAIL FROM:<b@example.com>", "RCPT TO:<r2@example.org>", "DATA", MESSAGE
        )
        waiting.callback(None)
        self.assertEqual(["250"] * 4 + ["354", "250"], session.codes())
        [(envelope, _)] = house.intake.accepted
        self.assertEqual(["r2@example.org"], [str(each.address) for each in envelope.recipients])

    def test_quit_behind_the_dot_waits_for_the_commit(self) -> None:
        house, session = at(4)
        house.intake.commit_waits = Deferred()
        self.assertEqual([], session.say(MESSAGE, "QUIT"))
        self.assertTrue(session.is_connected)
        house.intake.commit_waits.callback(None)
        self.assertEqual(["250", "221"], session.codes())
        self.assertFalse(session.is_connected)

    def test_octets_before_the_greeting_wait_for_it(self) -> None:
        house = House()
        waiting: Deferred[None] = Deferred()
        house.judge.answers = {"connect": waiting}
        session = house.connect()
        self.assertEqual([], session.say("EHLO c"))
        waiting.callback(None)
        self.assertEqual(["220", "250"], session.codes())


class BulkheadTests(SynchronousTestCase):
    def test_an_exception_at_any_stage_is_temporary_and_logged(self) -> None:
        for stage, code, index in (("hello", "451", 0), ("mail", "451", 1), ("rcpt", "451", 2)):
            house, session = at(index)
            house.judge.answers = {stage: [RuntimeError("oh")]}
            self.assertEqual([code], session.say(TO_DATA[index]), stage)
            self.assertEqual(["250"], session.say(TO_DATA[index]), stage)
            self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_an_exception_at_the_content_is_temporary_and_the_draft_is_aborted(self) -> None:
        for answers, outcome in (({"content": RuntimeError("oh")}, None), ({}, RuntimeError("disk"))):
            house, session = at(4)
            house.judge.answers = answers
            house.intake.outcome = outcome
            self.assertEqual(["451"], session.say(MESSAGE))
            self.assertTrue(house.intake.drafts[0].aborted)
            self.assertEqual(["250"], session.say(TO_DATA[1]))
            self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_an_exception_while_taking_the_content_is_said_at_its_end(self) -> None:
        house, session = at(4)
        house.intake.drafts[0].write = lambda octets: 1 / 0  # type: ignore[assignment, return-value]
        self.assertEqual([], session.say("Subject: x", "", "MAIL FROM:<evil@example.com>"))
        self.assertEqual(["451"], session.say("."))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_a_greeting_that_fails(self) -> None:
        house = House()
        house.judge.answers = {"connect": RuntimeError("oh")}
        session = house.connect()
        self.assertEqual("421 4.3.0 Local error, try again later\r\n", session.take())
        self.assertFalse(session.is_connected)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_a_cancelled_session_is_dropped(self) -> None:
        house, session = at(4)
        house.intake.commit_waits = Deferred()
        session.say(MESSAGE)
        house.start.running[-1].cancel()
        self.assertTrue(session.transport.aborted)
        self.assertEqual("", session.take())
        self.assertEqual([], house.intake.accepted)

    def test_a_reply_421_of_a_policy_closes(self) -> None:
        house, session = at(1)
        house.judge.answers = {"mail": Refuse(replies.TOO_MANY_ERRORS)}
        self.assertEqual(["421"], session.say(TO_DATA[1], "NOOP"))
        self.assertFalse(session.is_connected)


class TestRefusedGreeting:
    @pytest.mark.parametrize(("refuse", "code"), [(reject("no"), "554"), (defer("later"), "421")])
    def test_it_is_421_or_554_and_the_end(self, refuse: Refuse, code: str) -> None:
        house = House()
        house.judge.answers = {"connect": refuse}
        session = house.connect()
        assert session.codes() == [code]
        assert not session.is_connected


class TimeTests(SynchronousTestCase):
    def test_a_command_must_be_complete_in_time_and_octets_do_not_help(self) -> None:
        house, session = at(1, limits=Limits(command_seconds=300))
        for _ in range(29):
            session.protocol.dataReceived(b"X")
            house.clock.advance(10)
        self.assertTrue(session.is_connected)
        house.clock.advance(10)
        self.assertEqual(["421"], session.codes())
        self.assertFalse(session.is_connected)
        self.assertEqual([], house.clock.getDelayedCalls())

    def test_each_command_begins_anew(self) -> None:
        house, session = at(1)
        for _ in range(20):
            house.clock.advance(290)
            self.assertEqual(["250"], session.say("NOOP"))

    def test_a_content_must_keep_its_pace(self) -> None:
        limits = Limits(content_seconds=100, content_octets_per_second=10)
        house, session = at(4, limits=limits)
        for _ in range(30):  # 20 octets a second
            session.say("x" * 198)
            house.clock.advance(10)
        self.assertTrue(session.is_connected)
        for _ in range(30):  # 2 octets a second
            if session.is_connected:
                session.say("x" * 18)
                house.clock.advance(10)
        self.assertFalse(session.is_connected)
        self.assertEqual("421 4.4.2 Timeout, closing connection\r\n", session.take())
        self.assertTrue(house.intake.drafts[0].aborted)

    def test_no_time_runs_against_the_peer_while_we_work(self) -> None:
        house, session = at(4)
        house.intake.commit_waits = Deferred()
        session.say(MESSAGE)
        for _ in range(50):
            house.clock.advance(100)
        self.assertEqual([], session.codes())
        house.intake.commit_waits.callback(None)
        self.assertEqual(["250"], session.codes())
        house.clock.advance(299)
        self.assertTrue(session.is_connected)
        house.clock.advance(2)
        self.assertFalse(session.is_connected)

    def test_a_session_has_an_end_but_not_within_a_transaction(self) -> None:
        house, session = at(2, limits=Limits(session_seconds=100))
        house.clock.advance(200)
        self.assertEqual(["250", "354"], session.say(*TO_DATA[2:]))
        self.assertEqual(["250", "421"], session.say(MESSAGE))
        self.assertFalse(session.is_connected)

    def test_a_transaction_does_not_last_for_ever_either_but_a_content_that_keeps_pace_may(self) -> None:
        limits = Limits(session_seconds=1_000, command_seconds=300, content_seconds=300, content_octets_per_second=1)
        for drip in ("RCPT TO:<bob@example.org>", "NOOP"):
            house, session = at(2, limits=limits)
            said: list[str] = []
            for _ in range(8):
                house.clock.advance(299)
                said += session.say(drip) if session.is_connected else []
            self.assertEqual(["250"] * 6 + ["421"], said, drip)
            self.assertFalse(session.is_connected)
        house, session = at(4, limits=limits)
        for _ in range(20):
            house.clock.advance(299)
            session.protocol.dataReceived(b"x" * 300)
        self.assertEqual(["250", "421"], session.say("", "."))

    def test_a_handshake_must_end_in_time(self) -> None:
        house = House(Service.SUBMISSIONS)
        session = house.connect()
        self.assertEqual("", session.take())
        house.clock.advance(31)
        self.assertTrue(session.transport.aborted)
        self.assertEqual("", session.take())


class FlowTests(SynchronousTestCase):
    def test_reading_stops_while_more_than_a_window_waits(self) -> None:
        house, session = at(1, limits=Limits(window_octets=1000, idle_commands=1000))
        waiting: Deferred[None] = Deferred()
        house.judge.answers = {"mail": [waiting]}
        session.say(TO_DATA[1])
        session.protocol.dataReceived(b"NOOP\r\n" * 160)
        self.assertEqual("producing", session.transport.producerState)
        session.protocol.dataReceived(b"NOOP\r\n" * 10)
        self.assertEqual("paused", session.transport.producerState)
        house.judge.answers = {}
        waiting.callback(None)
        self.assertEqual("producing", session.transport.producerState)

    def test_reading_stops_while_the_draft_is_slow(self) -> None:
        house, session = at(4, limits=Limits(window_octets=1000, idle_commands=1000))
        house.intake.slow = slow = Deferred()
        session.say("Subject: x", "", "y" * 100)
        session.protocol.dataReceived(b"x" * 2000)
        self.assertEqual("paused", session.transport.producerState)
        house.intake.slow = None
        slow.callback(None)
        self.assertEqual("producing", session.transport.producerState)
        self.assertEqual(["250"], session.say("", "."))

    def test_a_peer_that_does_not_read_gets_no_further_replies(self) -> None:
        _, session = at(1)
        outlet = session.transport.producer
        outlet.pauseProducing()
        session.protocol.dataReceived(b"NOOP\r\n" * 10)
        self.assertEqual("", session.take())
        self.assertEqual("paused", session.transport.producerState)
        outlet.resumeProducing()
        self.assertEqual(["250"] * 10, session.codes())
        self.assertEqual("producing", session.transport.producerState)

    def test_a_peer_that_does_not_read_for_long_is_dropped(self) -> None:
        house, session = at(1)
        session.transport.producer.pauseProducing()
        session.protocol.dataReceived(b"NOOP\r\n")
        house.clock.advance(301)
        self.assertTrue(session.transport.aborted)

    def test_a_reply_that_fills_the_outlet_stops_the_loop(self) -> None:
        _, session = at(1)
        write, outlet = session.transport.write, session.transport.producer

        def filling(octets: bytes) -> None:
            write(octets)
            outlet.pauseProducing()

        session.transport.write = filling  # type: ignore[method-assign]
        self.assertEqual(["250"], session.say("NOOP"))
        self.assertEqual([], session.say("NOOP"))
        outlet.resumeProducing()
        self.assertEqual(["250"], session.codes())
        outlet.stopProducing()

    def test_replies_to_commands_that_came_together_leave_together(self) -> None:
        _house, session = at(1)
        write, writes = session.transport.write, []

        def counting(octets: bytes) -> None:
            writes.append(octets)
            write(octets)

        session.transport.write = counting  # type: ignore[method-assign]
        codes = session.say(
            "MAIL FROM:<a@example.net>", *[f"RCPT TO:<user{number}@example.org>" for number in range(5)], "DATA"
        )
        self.assertEqual(["250"] * 6 + ["354"], codes)
        self.assertEqual(1, len(writes))

    def test_what_is_answered_does_not_wait_for_what_waits(self) -> None:
        house, session = at(1)
        waits: Deferred[None] = Deferred()
        house.judge.answers["rcpt"] = waits
        self.assertEqual(["250"], session.say("MAIL FROM:<a@example.net>", "RCPT TO:<alice@example.org>", "NOOP"))
        waits.callback(None)
        self.assertEqual(["250", "250"], session.codes())

    def test_octets_after_the_end_are_nothing(self) -> None:
        _, session = at(1)
        session.say("QUIT")
        session.protocol.dataReceived(b"NOOP\r\n")
        self.assertEqual("", session.take())


class ErrorTests(SynchronousTestCase):
    def test_too_many_errors(self) -> None:
        _, session = at(1, limits=Limits(errors=3))
        self.assertEqual(["500", "500", "421"], session.say("X", "Y", "Z", "NOOP"))
        self.assertFalse(session.is_connected)

    def test_a_temporary_refusal_is_no_error_and_an_unknown_user_is(self) -> None:
        house, session = at(2, limits=Limits(errors=3))
        house.judge.answers = {"rcpt": [defer("later")] * 5}
        self.assertEqual(["451"] * 5, session.say(*["RCPT TO:<unknown@example.org>"] * 5))
        self.assertEqual(["550", "550", "421"], session.say(*["RCPT TO:<unknown@example.org>"] * 5))

    def test_too_many_idle_commands(self) -> None:
        _, session = at(1, limits=Limits(idle_commands=5))
        self.assertEqual(["250"] * 4 + ["421"], session.say(*["NOOP", "RSET"] * 3))

    def test_a_message_makes_up_for_it(self) -> None:
        _, session = at(1, limits=Limits(idle_commands=5, errors=3))
        for _ in range(5):
            self.assertEqual(["500", "500", "250", "250"], session.say("X", "X", "NOOP", "NOOP"))
            self.assertEqual(["250", "250", "354", "250"], session.say(*TO_DATA[1:], MESSAGE))

    def test_a_bare_newline_is_rejected_or_normalised(self) -> None:
        house, session = at(4)
        self.assertEqual(["550"], session.say("a\nb\n.\nMAIL FROM:<evil@example.com>\r\n."))
        self.assertTrue(house.intake.drafts[0].aborted)
        house, session = at(4, limits=Limits(bare_newline=BareNewline.NORMALISE))
        self.assertEqual(["250"], session.say("Subject: x\n\na\n.\nb\r\n."))
        self.assertTrue(house.intake.accepted[0][1].endswith(b"Subject: x\r\n\r\na\r\n\r\nb\r\n"))


class LostTests(SynchronousTestCase):
    def test_lost_at_every_point_before_the_dot_leaves_nothing(self) -> None:
        for index in range(5):
            house, session = at(index)
            if index == 4:
                session.say("Subject: x", "", "half a message")
            session.lose()
            self.assertEqual(0, len(house.factory))
            self.assertEqual([], house.intake.accepted)
            self.assertTrue(all(draft.aborted for draft in house.intake.drafts))
            self.assertEqual([], house.clock.getDelayedCalls())
            self.assertEqual([], house.start.failures)

    def test_lost_while_a_judge_thinks(self) -> None:
        for index, stage in ((0, "hello"), (1, "mail"), (2, "rcpt")):
            house, session = at(index)
            waiting: Deferred[None] = Deferred()
            house.judge.answers = {stage: waiting}
            session.say(TO_DATA[index], *TO_DATA[index + 1 :])
            session.lose()
            self.assertEqual(1, len(house.factory))
            waiting.callback(None)
            self.assertEqual(0, len(house.factory))
            self.assertEqual([], house.intake.drafts)

    def test_lost_while_the_draft_is_slow(self) -> None:
        house, session = at(4)
        house.intake.slow = Deferred()
        session.say("Subject: x", "", "text")
        session.lose()
        house.intake.slow.callback(None)
        self.assertTrue(house.intake.drafts[0].aborted)
        self.assertEqual(0, len(house.factory))

    def test_lost_after_the_dot_is_queued_once(self) -> None:
        for waits_for in ("content", "commit"):
            house, session = at(4)
            waiting: Deferred[None] = Deferred()
            if waits_for == "content":
                house.judge.answers = {"content": waiting}
            else:
                house.intake.commit_waits = waiting
            session.say(MESSAGE, "MAIL FROM:<second@example.com>")
            session.lose()
            self.assertEqual(1, len(house.factory))
            waiting.callback(None)
            self.assertEqual(1, len(house.intake.accepted))
            self.assertFalse(house.intake.drafts[0].aborted)
            self.assertEqual(0, len(house.factory))
            self.assertEqual(["mail"], [stage for stage, _ in house.judge.asked if stage == "mail"])


class DrainTests(SynchronousTestCase):
    def test_nothing_to_drain(self) -> None:
        self.successResultOf(House().factory.drain())

    def test_the_idle_end_at_once_and_transactions_first_end(self) -> None:
        house = House()
        idle, greeted, busy = house.connect(), house.connect(), house.connect()
        greeted.say("EHLO c")
        busy.say(*TO_DATA)
        drained = house.factory.drain()
        self.assertEqual(["220", "421"], idle.codes())
        self.assertEqual(["421"], greeted.codes()[-1:])
        self.assertFalse(idle.is_connected)
        self.assertTrue(busy.is_connected)
        self.assertNoResult(drained)
        self.assertEqual(["250", "421"], busy.say(MESSAGE, TO_DATA[1])[-2:])
        self.successResultOf(drained)
        self.assertEqual(1, len(house.intake.accepted))

    def test_a_commit_is_waited_for_even_when_its_peer_has_gone(self) -> None:
        house, session = at(4)
        house.intake.commit_waits = Deferred()
        session.say(MESSAGE)
        session.lose()
        drained = house.factory.drain()
        house.factory.abort_all()
        self.assertNoResult(drained)
        house.intake.commit_waits.callback(None)
        self.successResultOf(drained)
        self.assertEqual(1, len(house.intake.accepted))

    def test_abort_all(self) -> None:
        house, session = at(4)
        drained = house.factory.drain()
        self.assertNoResult(drained)
        house.factory.abort_all()
        self.assertTrue(session.transport.aborted)
        self.successResultOf(drained)
        self.assertTrue(house.intake.drafts[0].aborted)

    def test_who_connects_meanwhile_is_told(self) -> None:
        house, _ = at(4)
        house.factory.drain()
        late = house.connect()
        self.assertEqual("421 4.3.2 Shutting down, try again later\r\n", late.take())
        self.assertFalse(late.is_connected)

    def test_a_handshake_is_dropped(self) -> None:
        house = House(Service.SUBMISSIONS)
        session = house.connect()
        self.successResultOf(house.factory.drain())
        self.assertTrue(session.transport.aborted)
        self.assertIsNone(house.factory.buildProtocol(None))

    def test_who_does_not_read_the_last_word_is_not_waited_for_long(self) -> None:
        house = House()
        session = house.connect()
        session.transport.loseConnection = lambda: None  # its buffers are full, or its TLS does not end
        drained = house.factory.drain()
        house.clock.advance(LAST_WORD_SECONDS - 0.1)
        self.assertNoResult(drained)
        house.clock.advance(0.2)
        self.assertTrue(session.transport.aborted)

    def test_who_has_said_quit_and_stays_is_not_waited_for_long_either(self) -> None:
        house = House()
        session = house.connect()
        session.transport.loseConnection = lambda: None
        session.say("QUIT")
        drained = house.factory.drain()
        house.clock.advance(LAST_WORD_SECONDS - 0.1)
        self.assertNoResult(drained)
        house.clock.advance(0.2)
        self.assertTrue(session.transport.aborted)

    def test_a_slow_command_ends_first(self) -> None:
        house, session = at(1)
        waiting: Deferred[None] = Deferred()
        house.judge.answers = {"mail": [waiting]}
        session.say(TO_DATA[1])
        drained = house.factory.drain()
        self.assertEqual("", session.take())
        waiting.callback(reject("no"))  # type: ignore[arg-type]
        self.assertEqual(["550", "421"], session.codes())
        self.successResultOf(drained)


class CapTests(SynchronousTestCase):
    def test_total_and_per_peer(self) -> None:
        house = House(limits=Limits(sessions=3, sessions_per_peer=2))
        first, _, third = house.connect(), house.connect(), house.connect()
        self.assertEqual(["421"], third.codes())
        self.assertFalse(third.is_connected)
        house.connect("192.0.2.9")
        self.assertEqual(["421"], house.connect("192.0.2.10").codes())
        first.lose()
        self.assertEqual(["220"], house.connect().codes())
        self.assertEqual(3, len(house.factory))

    def test_limits_may_be_replaced(self) -> None:
        house, session = at(1)
        house.factory.limits = Limits(sessions=1)
        self.assertEqual(["421"], house.connect("192.0.2.9").codes())
        self.assertEqual(["250"], session.say("NOOP"))

    def test_two_sockets_that_are_no_ip_sockets_are_not_one_peer(self) -> None:
        house = House(limits=Limits(sessions_per_peer=1))
        for _ in range(3):
            self.assertIsNotNone(house.factory.buildProtocol(UNIXAddress(b"/x")))
        self.assertEqual(3, len(house.factory))

    def test_what_smtp_factory_sets_is_set(self) -> None:
        house = House(portal=object())
        session = house.connect()
        assert session.protocol.host == b"mx.example.org"
        assert session.protocol.portal is house.factory.portal
        assert isinstance(house.factory, smtp.SMTPFactory)

    def test_wrong_arguments(self) -> None:
        self.assertRaises(ValueError, House, Service.POP3)
        self.assertRaises(ValueError, House, router=None)
