"""Peers that flood a session with commands, or write a content that would grow into our trace fields."""

from __future__ import annotations

from typing import Any

from receive_fakes import House, Session
from twisted.mail import smtp
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailstack.mail.envelope import Service
from mailstack.receive.protocol import COMMANDS_AT_ONCE
from mailstack.wire.limits import Limits

RCPT = "RCPT TO:<bob@example.org>"


def in_transaction(**more: Any) -> tuple[House, Session]:
    house = House(**more)
    session = house.connect()
    session.say("EHLO c", "MAIL FROM:<a@example.com>")
    return house, session


class FloodTests(SynchronousTestCase):
    def test_one_session_does_not_keep_the_others_waiting(self) -> None:
        house, session = in_transaction()
        flooded = COMMANDS_AT_ONCE * 2 + 1
        first = session.say(*[RCPT] * flooded)
        self.assertEqual(COMMANDS_AT_ONCE, len(first))
        house.clock.advance(0)
        self.assertEqual(flooded - COMMANDS_AT_ONCE, len(session.codes()))
        self.assertEqual(["250"], session.say("NOOP"))

    def test_a_flooding_peer_that_leaves_is_forgotten(self) -> None:
        house, session = in_transaction()
        session.say(*[RCPT] * (COMMANDS_AT_ONCE + 1))
        session.lose()
        house.clock.advance(0)
        self.assertEqual(0, len(house.factory))
        self.assertEqual([], house.start.failures)
        self.assertEqual([], house.clock.getDelayedCalls())

    def test_a_peer_may_find_the_limit_of_recipients_but_not_for_ever(self) -> None:
        _, session = in_transaction(limits=Limits(recipients=3, errors=2))
        self.assertEqual(["250"] * 3 + ["452"] * 3, session.say(*[RCPT] * 6))
        self.assertEqual(["452", "421"], session.say(RCPT, RCPT, RCPT))
        self.assertFalse(session.is_connected)

    def test_a_message_that_is_taken_clears_the_surplus(self) -> None:
        _, session = in_transaction(limits=Limits(recipients=3, errors=2))
        session.say(*[RCPT] * 7)
        self.assertEqual(["354", "250"], session.say("DATA", "Subject: x\r\n\r\ntext\r\n."))
        self.assertEqual(["250"] * 4 + ["452"] * 3, session.say("MAIL FROM:<a@example.com>", *[RCPT] * 6))

    def test_refused_contents_do_not_go_on_for_ever(self) -> None:
        _, session = in_transaction(limits=Limits(errors=3))
        for _ in range(3):
            self.assertEqual(["250", "354", "550"], session.say(RCPT, "DATA", "bare\nnewline\r\n.", "MAIL FROM:<>")[:3])
        self.assertFalse(session.is_connected)


@implementer(smtp.IMessage)
class Lines:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self.lines.append(line)

    def eomReceived(self) -> None:
        return None

    def connectionLost(self) -> None:
        return None


@implementer(smtp.IMessageDelivery)
class OneMessage:
    def __init__(self) -> None:
        self.message = Lines()

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        return origin

    def validateTo(self, user: Any) -> Any:
        return lambda: self.message

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b"Received: by us"


class FoldTests(SynchronousTestCase):
    """A content whose first line begins with white space would be the end of the field that we write before it."""

    def test_it_does_not_continue_our_received_field(self) -> None:
        for white in " \t":
            house, session = in_transaction()
            self.assertEqual(
                ["250", "354", "250"], session.say(RCPT, "DATA", f"{white}by evil; today\r\nSubject: x\r\n\r\nb\r\n.")
            )
            [(_, content)] = house.intake.accepted
            head, _, body = content.partition(b"\r\n\r\n")
            self.assertNotIn(b"evil", head)
            self.assertEqual(f"{white}by evil; today\r\nSubject: x\r\n\r\nb\r\n".encode(), body)

    def test_it_does_not_when_it_comes_in_pieces(self) -> None:
        house, session = in_transaction()
        session.say(RCPT, "DATA")
        for octet in b" by evil\r\n\r\nb\r\n.\r\n":
            session.protocol.dataReceived(bytes([octet]))
        [(_, content)] = house.intake.accepted
        self.assertTrue(content.endswith(b"\r\n\r\n by evil\r\n\r\nb\r\n"))

    def test_a_bare_text_is_not_taken_for_a_header_section(self) -> None:
        for text in ("Hello world", "", "first\r\nsecond line: no field"):
            house, session = in_transaction()
            session.say(RCPT, "DATA", f"{text}\r\n." if text else ".")
            [(_, content)] = house.intake.accepted
            head, _, body = content.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"Received: "))
            self.assertEqual(f"{text}\r\n".encode() if text else b"", body)

    def test_a_header_section_behind_a_line_of_a_mailbox_file_stays_one(self) -> None:
        house, session = in_transaction()
        session.say(RCPT, "DATA", "From a@b.c Mon Jan 1\r\nSubject: x\r\n\r\nbody\r\n.")
        [(_, content)] = house.intake.accepted
        self.assertIn(b"\r\nFrom a@b.c Mon Jan 1\r\nSubject: x\r\n\r\nbody\r\n", content)
        self.assertEqual(b"body\r\n", content.partition(b"\r\n\r\n")[2])

    def test_it_does_not_continue_the_field_of_a_delivery(self) -> None:
        delivery = OneMessage()
        _, session = in_transaction(service=Service.SMTP, intake=None, router=None, delivery=delivery)
        self.assertEqual(["250", "354", "250"], session.say(RCPT, "DATA", " by evil\r\n\r\nb\r\n."))
        self.assertEqual([b"Received: by us", b"", b" by evil", b"", b"b"], delivery.message.lines)
