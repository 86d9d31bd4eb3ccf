"""Who the peer is: LMTP, who may connect, and clients for whom a trusted peer speaks."""

from __future__ import annotations

from typing import Any

from receive_fakes import FakeRealm, House, Session, a_portal, certificates
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver, StringTransportWithDisconnection
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.envelope import Origin, Service
from mailstack.mail.verdict import defer, reject
from mailstack.wire.limits import Limits

PROXY, CLIENT = "198.51.100.9", "192.0.2.7"


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def house(self, service: Service = Service.SMTP, **more: Any) -> House:
        house = House(service, **more)
        house.factory.trusts = lambda peer: peer == PROXY
        return house

    def begin(self, house: House, *lines: str) -> Session:
        session = house.connect(PROXY)
        session.say(*lines)
        return session

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.log if each.get("event") == event]

    def deliver(self, session: Session, *before: str) -> Origin:
        """Hand in a message, and return what is known of its origin."""
        self.assertEqual(
            ["250", "250", "354", "250"],
            session.say(*before, "MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>", "DATA", "x\r\n.")[-4:],
        )
        envelope, self.content = session.house.intake.accepted[-1]
        origin: Origin = envelope.origin
        return origin


class XClientTests(Case):
    def test_the_client_is_the_peer_for_all_that_follows(self) -> None:
        house = self.house()
        session = self.begin(house, "EHLO filter")
        self.assertEqual(["220"], session.say(f"XCLIENT ADDR={CLIENT} NAME=spike.example PORT=4711 HELO=spike PROTO=SMTP"))
        self.assertEqual(["503"], session.say("MAIL FROM:<a@example.com>"))
        origin = self.deliver(session, "EHLO filter")
        self.assertEqual((CLIENT, "spike.example", "spike", False), (origin.peer, origin.name, origin.hello, origin.extended))
        self.assertTrue(self.content.startswith(b"Received: from spike (spike.example [192.0.2.7])\r\n\tby mx"), self.content)
        asked = [(stage, facts[0]) for stage, facts in house.judge.asked]
        self.assertEqual(
            [("connect", PROXY), ("hello", PROXY), ("connect", CLIENT), ("hello", CLIENT)],
            [(stage, origin.peer) for stage, origin in asked if stage in ("connect", "hello")],
        )
        self.assertEqual([CLIENT] * 2, [facts.origin.peer for stage, facts in asked if stage in ("mail", "rcpt")])
        (event,) = self.logged("speaks_for")
        self.assertEqual("addr=192.0.2.7 name=spike.example port=4711 helo=spike proto=SMTP", event["client"])

    def test_where_the_client_came_to_is_in_the_log_and_stays_his(self) -> None:
        session = self.begin(self.house(), f"XCLIENT ADDR={CLIENT} DESTADDR=198.51.100.1 DESTPORT=25")
        session.say("XCLIENT HELO=spike")
        session.say(f"XCLIENT ADDR={CLIENT}")
        self.assertEqual(
            [
                "addr=192.0.2.7 destaddr=198.51.100.1 destport=25",
                "addr=192.0.2.7 destaddr=198.51.100.1 destport=25 helo=spike",
                "addr=192.0.2.7",
            ],
            [each["client"] for each in self.logged("speaks_for")],
        )

    def test_without_helo_and_proto_the_peer_greets_for_him(self) -> None:
        origin = self.deliver(self.begin(self.house(), "EHLO filter", f"XCLIENT ADDR={CLIENT}"), "EHLO spike")
        self.assertEqual((CLIENT, "spike", True), (origin.peer, origin.hello, origin.extended))

    def test_another_address_is_another_client(self) -> None:
        session = self.begin(self.house(), f"XCLIENT ADDR={CLIENT} NAME=spike.example HELO=spike LOGIN=Alice@Example.org")
        origin = self.deliver(session, "EHLO f")
        self.assertEqual(("spike.example", "spike", "alice@example.org"), (origin.name, origin.hello, origin.account))
        self.assertIn(b"with ESMTPA", self.content)
        session.say("XCLIENT NAME=spike2.example")
        origin = self.deliver(session, "EHLO f")
        self.assertEqual((CLIENT, "spike2.example", "f", None), (origin.peer, origin.name, origin.hello, origin.account))
        session.say("XCLIENT ADDR=192.0.2.8")
        origin = self.deliver(session, "EHLO f")
        self.assertEqual(("192.0.2.8", "", "f", None), (origin.peer, origin.name, origin.hello, origin.account))
        session.say("XCLIENT ADDR=[UNAVAILABLE] HELO=[UNAVAILABLE] NAME=[UNAVAILABLE] LOGIN=[UNAVAILABLE]")
        origin = self.deliver(session, "EHLO f")
        self.assertEqual(("", "", "f", None), (origin.peer, origin.name, origin.hello, origin.account))
        self.assertIn(b"from f (unknown)", self.content)

    def test_starttls_forgets_what_was_said_but_not_for_whom(self) -> None:
        house = self.house(certificates=certificates())
        session = self.begin(
            house, "EHLO f", f"XCLIENT ADDR={CLIENT} NAME=spike.example HELO=spike PROTO=SMTP LOGIN=a@example.org"
        )
        session.transport.startTLS = lambda contexts: None  # type: ignore[attr-defined]  # a StringTransport has none
        self.assertEqual(["220"], session.say("STARTTLS"))
        session.protocol.handshakeCompleted()
        origin = self.deliver(session, "EHLO f")
        self.assertEqual((CLIENT, "spike.example"), (origin.peer, origin.name))
        self.assertEqual(("f", True, None), (origin.hello, origin.extended, origin.account))

    def test_a_policy_that_refuses_the_client_ends_the_session(self) -> None:
        for verdict, code in ((reject("no"), "554"), (defer("later"), "421"), (RuntimeError("a bug"), "421")):
            house = self.house()
            session = self.begin(house, "EHLO f")
            house.judge.answers = {"connect": verdict}
            self.assertEqual([code], session.say(f"XCLIENT ADDR={CLIENT}", "NOOP"))
            self.assertFalse(session.is_connected)
            self.assertEqual(0, len(house.factory))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_a_policy_may_refuse_a_login(self) -> None:
        house = self.house()
        session = self.begin(house)
        house.judge.answers = {"auth": reject("no")}
        self.assertEqual(["554"], session.say("XCLIENT LOGIN=alice@example.org"))
        self.assertFalse(session.is_connected)

    def test_what_was_a_login_before_is_over(self) -> None:
        realm = FakeRealm()
        users = InMemoryUsernamePasswordDatabaseDontUse(**{"alice@example.org": b"secret"})
        house = self.house(Service.SUBMISSIONS, portal=a_portal(realm, users))
        session = house.connect(PROXY)
        session.protocol.handshakeCompleted()
        session.say("EHLO c")
        self.assertEqual(["235"], session.say("AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldA=="))
        self.assertEqual(["220"], session.say(f"XCLIENT ADDR={CLIENT}"))
        self.assertEqual(1, realm.logouts)
        self.assertEqual(["250", "530"], session.say("EHLO c", "MAIL FROM:<a@example.com>"))
        session.lose()
        self.assertEqual(1, realm.logouts)

    def test_clients_count_each_for_himself(self) -> None:
        house = self.house(limits=Limits(sessions_per_peer=2))
        sessions = [self.begin(house), self.begin(house)]
        self.assertIn("421", house.connect(PROXY).take())
        for session in sessions:
            self.assertEqual(["220"], session.say(f"XCLIENT ADDR={CLIENT}"))
            self.assertEqual(["220"], session.say("XCLIENT NAME=x"), "the same is no other")
        third = self.begin(house)
        self.assertEqual(["421"], third.say(f"XCLIENT ADDR={CLIENT}"))
        self.assertFalse(third.is_connected)
        self.assertIn("421", house.connect(CLIENT).take())
        sessions[0].lose()
        self.assertIn("220", house.connect(CLIENT).take())
        self.assertEqual(["220"], self.begin(house).say("XCLIENT ADDR=192.0.2.8"))
        self.assertEqual(3, len(house.factory))

    def test_a_peer_that_vanishes_while_a_policy_thinks(self) -> None:
        house = self.house()
        session = self.begin(house, "EHLO f")
        waiting: Deferred[None] = Deferred()
        house.judge.answers = {"connect": waiting}
        session.say(f"XCLIENT ADDR={CLIENT}")
        session.lose()
        waiting.callback(None)
        self.assertEqual(0, len(house.factory))
        self.assertEqual([], house.start.failures)

    def test_who_does_nothing_else_is_sent_away(self) -> None:
        session = self.begin(self.house(limits=Limits(idle_commands=3)))
        self.assertEqual(["220"] * 3 + ["421"], session.say(*["XCLIENT PORT=1"] * 5))

    def test_nobody_is_trusted_who_is_not_named(self) -> None:
        house = self.house()
        session = house.connect(CLIENT)
        session.say("EHLO c")
        self.assertEqual(
            ["550", "550"], session.say("XCLIENT ADDR=127.0.0.1 LOGIN=alice@example.org", "XFORWARD ADDR=127.0.0.1")
        )
        self.assertEqual(CLIENT, self.deliver(session).peer)
        house.factory.trusts = House().factory.trusts
        self.assertEqual(["550"], self.begin(house).say("XCLIENT ADDR=127.0.0.1"), "without a word nobody is")


class XForwardTests(Case):
    def test_it_is_in_the_log_with_the_message_and_nowhere_else(self) -> None:
        session = self.begin(
            self.house(), "EHLO f", f"XFORWARD ADDR={CLIENT} NAME=spike", "XFORWARD NAME=spike.example IDENT=7"
        )
        self.assertEqual([], self.logged("forwards"))
        origin = self.deliver(session)
        self.assertEqual((PROXY, "", "f"), (origin.peer, origin.name, origin.hello))
        (event,) = self.logged("forwards")
        self.assertEqual("addr=192.0.2.7 name=spike.example ident=7", event["client"])
        self.deliver(session)
        self.assertEqual(1, len(self.logged("forwards")), "it was about one message")

    def test_what_ends_a_transaction_ends_it(self) -> None:
        for line in ("RSET", "EHLO f", "XCLIENT NAME=x"):
            session = self.begin(self.house(), "EHLO f", f"XFORWARD ADDR={CLIENT}", line)
            self.deliver(session, "EHLO f")
        self.assertEqual([], self.logged("forwards"))


class LMTPTests(Case):
    def test_who_is_not_welcome_is_told_so(self) -> None:
        house = self.house(Service.LMTP)
        house.factory.admits = lambda peer: peer == PROXY
        self.assertTrue(house.connect(PROXY).take().startswith("220 mx.example.org LMTP"))
        stranger = house.connect(CLIENT)
        self.assertEqual("554 5.7.1 No mail is taken from this address\r\n", stranger.take())
        self.assertFalse(stranger.is_connected)
        self.assertEqual(
            [(Service.LMTP.value, CLIENT)], [(each["service"], each["peer"]) for each in self.logged("peer_refused")]
        )
        self.assertEqual(1, len(house.factory))

    def test_it_relays_nothing(self) -> None:
        house = self.house(Service.LMTP)
        session = house.connect(PROXY)
        session.say("LHLO c", "MAIL FROM:<a@example.com>")
        self.assertEqual(["550"], session.say("RCPT TO:<x@remote.example>"))
        self.assertEqual(
            ["220", "250", "250"], session.say("RSET", "XCLIENT LOGIN=bob@example.org", "LHLO c", "MAIL FROM:<>")[1:]
        )
        self.assertEqual(["550", "250"], session.say("RCPT TO:<x@remote.example>", "RCPT TO:<bob@example.org>"))

    def test_each_recipient_has_his_reply_and_they_say_the_same(self) -> None:
        house = self.house(Service.LMTP)
        session = house.connect(PROXY)
        session.say("LHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<alice@example.org>", "RCPT TO:<unknown@example.org>")
        self.assertEqual(["250", "354", "250", "250"], session.say("RCPT TO:<bob@example.org>", "DATA", "x\r\n."))
        [(envelope, _)] = house.intake.accepted
        self.assertEqual(2, len(envelope.recipients))

    def through_a_unix_socket(self, house: House) -> Any:
        protocol: Any = house.factory.buildProtocol(UNIXAddress(None))
        transport = StringTransportWithDisconnection(peerAddress=UNIXAddress(None))
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return protocol

    def test_a_filter_beside_a_unix_socket_may_say_who_its_client_is(self) -> None:
        house = House(Service.LMTP, limits=Limits(sessions_per_peer=1))
        for is_trusted in (False, True):
            house.factory.trusts = lambda peer, is_trusted=is_trusted: is_trusted and not peer
            protocol = self.through_a_unix_socket(house)
            protocol.transport.clear()
            protocol.dataReceived(f"XCLIENT ADDR={CLIENT} HELO=spike\r\n".encode())
            self.assertEqual(b"220" if is_trusted else b"550", protocol.transport.value()[:3])
            protocol.dataReceived(b"LHLO f\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nx\r\n.\r\n")
        self.assertEqual(["", CLIENT], [envelope.origin.peer for envelope, _ in house.intake.accepted])
        self.assertIn("421", house.connect(CLIENT).take(), "it counts for the client now")

    def test_through_a_unix_socket_there_is_no_address(self) -> None:
        house = self.house(Service.LMTP)
        protocol = self.through_a_unix_socket(house)
        protocol.dataReceived(b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nx\r\n.\r\n")
        [(envelope, content)] = house.intake.accepted
        self.assertEqual("", envelope.origin.peer)
        self.assertIn(b"from c (local)\r\n\tby mx.example.org with LMTP id", content)
        self.assertEqual(["a UNIX socket"], [each["peer"] for each in self.logged("session_opened")])
