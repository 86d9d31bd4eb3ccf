"""Deliveries written for `twisted.mail`, behind our factory."""

from __future__ import annotations

from typing import Any

from receive_fakes import FakeRealm, House, Session, a_portal
from twisted.cred.checkers import AllowAnonymousAccess
from twisted.internet.defer import Deferred, fail, succeed
from twisted.mail import smtp
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailstack.mail.envelope import Service

MESSAGE = "Subject: x\r\n\r\n..text\r\n."


@implementer(smtp.IMessage)
class Message:
    def __init__(self, outcome: Any = None) -> None:
        self.lines: list[bytes] = []
        self.outcome = outcome
        self.ended = self.lost = False

    def lineReceived(self, line: bytes) -> None:
        if line == b"BREAK":
            raise OSError("disk")
        if line == b"FULL":
            raise smtp.SMTPServerError(452, b"4.3.1 Full")
        self.lines.append(line)

    def eomReceived(self) -> Any:
        self.ended = True
        if isinstance(self.outcome, list):
            raise self.outcome[0]
        return self.outcome

    def connectionLost(self) -> None:
        self.lost = True


@implementer(smtp.IMessageDelivery)
class Delivery:
    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        self.shared = Message()
        self.seen: list[Any] = []
        self.received: Any = b"Received: from somewhere"
        self.raises: Exception | None = None

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> Any:
        self.seen.append(("header", helo, bytes(origin), [bytes(each) for each in recipients]))
        return self.received

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        self.seen.append(("from", helo, bytes(origin)))
        if origin.local == b"bad":
            raise smtp.SMTPBadSender(origin, 553, "5.1.8 No such sender")
        if origin.local == b"broken":
            return fail(RuntimeError("oh"))
        return succeed(origin)

    def validateTo(self, user: Any) -> Any:
        local = user.dest.local.decode()
        if local == "bad":
            return fail(smtp.SMTPBadRcpt(user))
        if local == "odd":
            raise smtp.SMTPServerError(999, b"what\xff\nnow")
        if local == "broken":
            raise RuntimeError("oh")
        if local == "notmade":
            return self._refuse
        if local.startswith("shared"):
            return lambda: self.shared
        return lambda: self.messages.setdefault(local, Message(self.raises))

    def _refuse(self) -> Any:
        raise smtp.SMTPServerError(450, "Not now")


@implementer(smtp.IMessageDeliveryFactory)
class Deliveries:
    def __init__(self) -> None:
        self.made: list[Delivery] = []

    def getMessageDelivery(self) -> Delivery:
        self.made.append(Delivery())
        return self.made[-1]


def begun(delivery: Any, *recipients: str, service: Service = Service.SMTP) -> tuple[House, Session]:
    house = House(service, delivery=delivery, intake=None, router=None)
    session = house.connect()
    hello = "LHLO c" if service is Service.LMTP else "EHLO c"
    session.say(hello, "MAIL FROM:<a@example.com>", *(f"RCPT TO:<{each}@example.org>" for each in recipients))
    session.protocol.dataReceived(b"DATA\r\n")
    return house, session


class DeliveryTests(SynchronousTestCase):
    def test_a_message_for_two(self) -> None:
        delivery = Delivery()
        _, session = begun(delivery, "one", "two")
        self.assertEqual(["354", "250"], session.say(MESSAGE)[-2:])
        for each in ("one", "two"):
            message = delivery.messages[each]
            self.assertEqual([b"Received: from somewhere", b"Subject: x", b"", b".text"], message.lines)
            self.assertTrue(message.ended)
            self.assertFalse(message.lost)
        helo = (b"c", b"192.0.2.1")
        self.assertEqual(("from", helo, b"a@example.com"), delivery.seen[0])
        self.assertEqual(("header", helo, b"a@example.com", [b"one@example.org", b"two@example.org"]), delivery.seen[1])

    def test_a_shared_message_gets_the_content_once(self) -> None:
        delivery = Delivery()
        delivery.received = "Received: as str"
        _, session = begun(delivery, "shared1", "shared2")
        self.assertEqual(["354", "250"], session.say(MESSAGE)[-2:])
        self.assertEqual([b"Received: as str", b"Subject: x", b"", b".text"], delivery.shared.lines)

    def test_lines_are_whole_whatever_the_pieces(self) -> None:
        delivery = Delivery()
        delivery.received = None
        _, session = begun(delivery, "one")
        for octet in MESSAGE.encode() + b"\r\n":
            session.protocol.dataReceived(bytes([octet]))
        self.assertEqual([b"Subject: x", b"", b".text"], delivery.messages["one"].lines)

    def test_a_factory_makes_one_for_each_transaction(self) -> None:
        deliveries = Deliveries()
        _, session = begun(deliveries, "one")
        session.say(MESSAGE)
        session.say("MAIL FROM:<b@example.com>", "RCPT TO:<two@example.org>", "DATA", MESSAGE)
        self.assertEqual([["one"], ["two"]], [list(each.messages) for each in deliveries.made])

    def test_odd_addresses(self) -> None:
        delivery = Delivery()
        house = House(delivery=delivery, intake=None, router=None)
        session = house.connect()
        session.say("EHLO c", "MAIL FROM:<>", 'RCPT TO:<"a b"@[192.0.2.9]>', "RCPT TO:<postmaster>", "DATA", MESSAGE)
        self.assertEqual(b"", delivery.seen[0][2])
        self.assertEqual([b'"a b"@[192.0.2.9]', b"postmaster@mx.example.org"], delivery.seen[1][3])

    def test_codes_are_kept(self) -> None:
        house = House(delivery=Delivery(), intake=None, router=None)
        session = house.connect()
        session.say("EHLO c")
        session.take()
        session.protocol.dataReceived(b"MAIL FROM:<bad@example.com>\r\n")
        self.assertEqual("553 5.1.8 No such sender\r\n", session.take())
        self.assertEqual(["451", "250"], session.say("MAIL FROM:<broken@example.com>", "MAIL FROM:<a@example.com>"))
        session.protocol.dataReceived(b"RCPT TO:<bad@example.org>\r\n")
        self.assertEqual("550 5.0.0 Cannot receive for specified address\r\n", session.take())
        session.protocol.dataReceived(b"RCPT TO:<odd@example.org>\r\n")
        self.assertEqual("451-4.0.0 what?\r\n451 4.0.0 now\r\n", session.take())
        self.assertEqual(["451"], session.say("RCPT TO:<broken@example.org>"))
        self.assertEqual(2, len(self.flushLoggedErrors(RuntimeError)))

    def test_a_message_that_is_not_made(self) -> None:
        delivery = Delivery()
        _, session = begun(delivery, "one", "notmade")
        self.assertEqual(["450"], session.codes()[-1:])
        self.assertTrue(delivery.messages["one"].lost)

    def test_a_failure_in_a_line_waits_for_the_end(self) -> None:
        for line, code in (("BREAK", "451"), ("FULL", "452")):
            delivery = Delivery()
            _, session = begun(delivery, "one")
            session.take()
            self.assertEqual([], session.say("Subject: x", "", line, "MAIL FROM:<evil@example.com>"))
            self.assertEqual([code], session.say("more", "."))
            self.assertTrue(delivery.messages["one"].lost)
            self.assertFalse(delivery.messages["one"].ended)
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))

    def test_failures_at_the_end(self) -> None:
        for outcome, code in (
            (fail(smtp.SMTPServerError(552, "5.2.2 Over quota")), "552"),
            ([smtp.SMTPServerError(452, "later")], "452"),
            (fail(RuntimeError("oh")), "451"),
            ([RuntimeError("oh")], "451"),
            (succeed(b"delivered"), "250"),
        ):
            delivery = Delivery()
            delivery.raises = outcome  # type: ignore[assignment]
            _, session = begun(delivery, "one")
            self.assertEqual([code], session.say(MESSAGE)[-1:])
        self.assertEqual(2, len(self.flushLoggedErrors(RuntimeError)))

    def test_mixed_outcomes_are_temporary_or_for_lmtp_each_its_own(self) -> None:
        for service, codes in ((Service.SMTP, ["552"]), (Service.LMTP, ["250", "552", "250"])):
            delivery = Delivery()
            _, session = begun(delivery, "shared1", "one", "shared2", service=service)
            delivery.messages["one"].outcome = fail(smtp.SMTPServerError(552, "Over quota"))
            session.take()
            self.assertEqual(codes, session.say(MESSAGE))

    def test_a_slow_end_keeps_the_order(self) -> None:
        delivery = Delivery()
        _, session = begun(delivery, "one")
        session.take()
        delivery.messages["one"].outcome = waiting = Deferred()
        self.assertEqual([], session.say(MESSAGE, "NOOP"))
        waiting.callback(None)
        self.assertEqual(["250", "250"], session.codes())

    def test_lost_before_the_dot(self) -> None:
        delivery = Delivery()
        _, session = begun(delivery, "one")
        session.say("half")
        session.lose()
        self.assertTrue(delivery.messages["one"].lost)

    def test_lost_after_the_dot_is_not_lost(self) -> None:
        delivery = Delivery()
        house, session = begun(delivery, "one")
        delivery.messages["one"].outcome = waiting = Deferred()
        session.say(MESSAGE)
        session.lose()
        self.assertFalse(delivery.messages["one"].lost)
        waiting.callback(None)
        self.assertEqual(0, len(house.factory))

    def test_a_content_that_the_core_refused(self) -> None:
        delivery = Delivery()
        _, session = begun(delivery, "one")
        self.assertEqual(["550"], session.say("bare\nlf", ".")[-1:])
        self.assertTrue(delivery.messages["one"].lost)


class PortalTests(SynchronousTestCase):
    def house(self, realm: FakeRealm, *checkers: Any) -> Session:
        house = House(portal=a_portal(realm, *checkers), intake=None, router=None)
        session = house.connect()
        session.say("EHLO c")
        return session

    def test_anonymous(self) -> None:
        delivery = Delivery()
        realm = FakeRealm(smtp.IMessageDelivery, lambda avatar_id: delivery)
        session = self.house(realm, AllowAnonymousAccess())
        self.assertEqual(["250", "250", "354"], session.say("MAIL FROM:<a@example.com>", "RCPT TO:<one@example.org>", "DATA"))
        self.assertEqual(["250"], session.say(MESSAGE))
        session.say("QUIT")
        self.assertEqual(1, realm.logouts)

    def test_no_strangers(self) -> None:
        session = self.house(FakeRealm(smtp.IMessageDelivery, lambda avatar_id: Delivery()))
        self.assertEqual(["530"], session.say("MAIL FROM:<a@example.com>"))

    def test_a_realm_that_has_no_delivery_is_temporary(self) -> None:
        session = self.house(FakeRealm(), AllowAnonymousAccess())
        self.assertEqual(["451"], session.say("MAIL FROM:<a@example.com>"))
        self.assertEqual(1, len(self.flushLoggedErrors(NotImplementedError)))
