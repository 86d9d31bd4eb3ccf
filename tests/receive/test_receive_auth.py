"""Submission: TLS in memory, and authentication against a portal."""

from __future__ import annotations

import base64
from typing import Any

from receive_fakes import FakeRealm, House, a_portal, certificates
from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailstack.mail.envelope import Service
from mailstack.mail.verdict import reject
from mailstack.wire.limits import Limits

CERTIFICATES = certificates()
PLAIN = "AUTH PLAIN " + base64.b64encode(b"\0alice@example.org\0secret").decode()
WRONG = "AUTH PLAIN " + base64.b64encode(b"\0alice@example.org\0wrong").decode()
OTHER = "AUTH PLAIN " + base64.b64encode(b"admin\0alice@example.org\0secret").decode()


def users() -> InMemoryUsernamePasswordDatabaseDontUse:
    return InMemoryUsernamePasswordDatabaseDontUse(**{"alice@example.org": b"secret"})


class Peer(Protocol):
    """A client that says lines and keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""

    def dataReceived(self, data: bytes) -> None:
        self.heard += data


class TLSTransport(iosim.FakeTransport):
    """Does real TLS, as the transports of a reactor do."""

    def startTLS(self, contextFactory: Any, beNormal: bool = True) -> None:
        original: Any = self.protocol
        producer = self.producer
        if producer is not None:
            self.unregisterProducer()
        factory = TLSMemoryBIOFactory(contextFactory, not self.isServer, None)
        self.protocol = TLSMemoryBIOProtocol(factory, original, False)
        original.transport = self.protocol
        self.protocol.makeConnection(self)
        if producer is not None:
            original.transport.registerProducer(producer, True)


class Wire:
    """A client and a session, joined in memory."""

    def __init__(self, house: House, *, implicit: bool = False) -> None:
        self.house = house
        self.peer: Any = Peer()
        session: Any = house.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1025))
        server: Any = session
        client: Any = self.peer
        if implicit:
            server = TLSMemoryBIOProtocol(TLSMemoryBIOFactory(CERTIFICATES, False, None), session)
            client = TLSMemoryBIOProtocol(TLSMemoryBIOFactory(CertificateOptions(), True, None), self.peer)
        self.client_transport = TLSTransport(client, isServer=False)
        self.server_transport = TLSTransport(server, isServer=True)
        self.pump = iosim.connect(server, self.server_transport, client, self.client_transport)
        self.flush()

    def flush(self) -> None:
        for _ in range(50):
            if not self.pump.pump():
                return

    def say(self, *lines: str) -> list[str]:
        self.peer.heard = b""
        self.peer.transport.write(b"".join(line.encode() + b"\r\n" for line in lines))
        self.flush()
        return self.codes()

    def codes(self) -> list[str]:
        return [line[:3].decode() for line in self.peer.heard.split(b"\r\n") if line and line[3:4] == b" "]

    def start_tls(self) -> None:
        assert self.say("STARTTLS") == ["220"]
        self.peer.transport.startTLS(CertificateOptions())
        self.flush()


def submission(realm: FakeRealm | None = None, *checkers: Any, **more: Any) -> tuple[House, Wire]:
    portal = a_portal(realm or FakeRealm(), *(checkers or (users(),)))
    house = House(Service.SUBMISSION, portal=portal, certificates=CERTIFICATES, **more)
    wire = Wire(house)
    wire.say("EHLO c")
    wire.start_tls()
    assert wire.say("EHLO c") == ["250"]
    return house, wire


class TLSTests(SynchronousTestCase):
    def test_starttls(self) -> None:
        house = House(certificates=CERTIFICATES)
        wire = Wire(house)
        wire.say("EHLO before")
        self.assertIn(b"STARTTLS", wire.peer.heard)
        wire.start_tls()
        self.assertEqual(["503"], wire.say("MAIL FROM:<a@example.com>"))
        self.assertEqual(["250"], wire.say("EHLO inside"))
        self.assertNotIn(b"STARTTLS", wire.peer.heard)
        self.assertEqual(["250", "250", "354"], wire.say("MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>", "DATA"))
        self.assertEqual(["250"], wire.say("Subject: x", "", "."))
        [(envelope, content)] = house.intake.accepted
        self.assertTrue(envelope.origin.tls and envelope.origin.tls.startswith("TLSv1."))
        self.assertEqual("inside", envelope.origin.hello)
        self.assertIn(b"with ESMTPS (TLSv1.", content)
        self.assertEqual(["221"], wire.say("QUIT"))

    def test_octets_behind_starttls_are_refused(self) -> None:
        house = House(certificates=CERTIFICATES)
        wire = Wire(house)
        self.assertEqual(["250", "503"], wire.say("EHLO c", "STARTTLS", "MAIL FROM:<evil@example.com>"))
        self.assertEqual(0, len(house.factory))
        self.assertNotIn("mail", [stage for stage, _ in house.judge.asked])

    def test_a_handshake_that_does_not_come(self) -> None:
        house = House(certificates=CERTIFICATES)
        wire = Wire(house)
        wire.say("STARTTLS")
        house.clock.advance(31)
        wire.flush()
        self.assertEqual(0, len(house.factory))

    def test_drain_in_a_handshake(self) -> None:
        house = House(certificates=CERTIFICATES)
        wire = Wire(house)
        wire.say("STARTTLS")
        drained = house.factory.drain()
        wire.flush()
        self.successResultOf(drained)

    def test_nothing_is_said_before_the_handshake_of_implicit_tls(self) -> None:
        house = House(Service.SUBMISSIONS, portal=a_portal(FakeRealm(), users()), certificates=CERTIFICATES)
        wire = Wire(house, implicit=True)
        self.assertTrue(wire.peer.heard.startswith(b"220 "))
        self.assertEqual(["250"], wire.say("EHLO c"))
        self.assertNotIn(b"STARTTLS", wire.peer.heard)
        self.assertIn(b"AUTH PLAIN LOGIN", wire.peer.heard)
        self.assertEqual(["235"], wire.say(PLAIN))

    def test_plain_octets_at_implicit_tls(self) -> None:
        house = House(Service.SUBMISSIONS, certificates=CERTIFICATES)
        session: Any = house.factory.buildProtocol(None)
        server = TLSMemoryBIOProtocol(TLSMemoryBIOFactory(CERTIFICATES, False, None), session)
        peer = Peer()
        server_transport = iosim.FakeTransport(server, isServer=True)
        pump = iosim.connect(server, server_transport, peer, iosim.FakeTransport(peer, isServer=False))
        assert peer.transport is not None
        peer.transport.write(b"EHLO c\r\n")
        for _ in range(5):
            pump.pump()
        self.assertNotIn(b"220", peer.heard)
        self.assertEqual(0, len(house.factory))


class AuthTests(SynchronousTestCase):
    def test_a_submission(self) -> None:
        realm = FakeRealm()
        house, wire = submission(realm)
        self.assertEqual(["530"], wire.say("MAIL FROM:<alice@example.org>"))
        self.assertEqual(["235"], wire.say(PLAIN))
        self.assertEqual(["250", "250", "354"], wire.say("MAIL FROM:<alice@example.org>", "RCPT TO:<x@remote.example>", "DATA"))
        self.assertEqual(["250"], wire.say("Subject: x", "", "y", "."))
        [(envelope, content)] = house.intake.accepted
        self.assertEqual("alice@example.org", envelope.origin.account)
        head, _, rest = content.partition(b"Subject: x\r\n")
        self.assertIn(b"with ESMTPSA", head)
        self.assertIn(b"\r\nDate: Sun, 09 Sep 2001 01:46:40 +0000\r\n", head)
        self.assertIn(b"\r\nMessage-ID: <0000000000000@mx.example.org>\r\n", head)
        self.assertEqual(b"\r\ny\r\n", rest)
        self.assertEqual(0, realm.logouts)
        wire.say("QUIT")
        self.assertEqual(1, realm.logouts)
        self.assertEqual([], house.start.failures)

    def test_what_is_there_is_not_added(self) -> None:
        house, wire = submission()
        wire.say(PLAIN, "MAIL FROM:<alice@example.org>", "RCPT TO:<x@remote.example>", "DATA")
        wire.say("DATE: today", "message-id : <x@y>", "", "y", ".")
        content = house.intake.accepted[0][1]
        self.assertEqual(1, content.lower().count(b"date:"))
        self.assertEqual(1, content.lower().count(b"message-id"))

    def test_wrong_passwords_are_slow_and_few(self) -> None:
        house, wire = submission(limits=Limits(authentication_failures=3, failure_delay_seconds=2))
        for seconds, code in ((2, "535"), (4, "535"), (6, "421")):
            self.assertEqual([], wire.say(WRONG))
            house.clock.advance(seconds - 1)
            wire.flush()
            self.assertEqual([], wire.codes())
            house.clock.advance(1)
            wire.flush()
            self.assertEqual([code], wire.codes())
        self.assertEqual(0, len(house.factory))

    def test_acting_for_another_is_refused_like_a_wrong_password(self) -> None:
        house, wire = submission()
        wire.say(OTHER)
        house.clock.advance(1)
        wire.flush()
        self.assertEqual(["535"], wire.codes())
        self.assertEqual(["530"], wire.say("MAIL FROM:<alice@example.org>"))

    def test_what_is_pipelined_behind_auth_waits_for_it(self) -> None:
        slow = SlowChecker()
        _, wire = submission(None, slow)
        self.assertEqual([], wire.say(PLAIN, "MAIL FROM:<alice@example.org>"))
        slow.answer.callback(b"alice@example.org")
        wire.flush()
        self.assertEqual(["235", "250"], wire.codes())

    def test_a_directory_that_cannot_be_read_is_temporary(self) -> None:
        slow = SlowChecker()
        _, wire = submission(None, slow)
        slow.answer.errback(OSError("disk"))
        self.assertEqual(["454"], wire.say(PLAIN))
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        self.assertEqual(["530"], wire.say("MAIL FROM:<alice@example.org>"))

    def test_no_portal(self) -> None:
        house = House(Service.SUBMISSION, certificates=CERTIFICATES)
        wire = Wire(house)
        wire.start_tls()
        wire.say("EHLO c")
        self.assertEqual(["454"], wire.say(PLAIN))

    def test_a_policy_may_refuse_an_account(self) -> None:
        realm = FakeRealm()
        house, wire = submission(realm)
        house.judge.answers = {"auth": reject("not from there", code=535, enhanced="5.7.8")}
        self.assertEqual(["535"], wire.say(PLAIN))
        self.assertEqual(1, realm.logouts)
        self.assertEqual(["530"], wire.say("MAIL FROM:<alice@example.org>"))

    def test_lost_while_the_password_is_checked(self) -> None:
        slow = SlowChecker()
        realm = FakeRealm()
        house, wire = submission(realm, slow)
        wire.say(PLAIN)
        wire.peer.transport.abortConnection()
        wire.flush()
        slow.answer.callback(b"alice@example.org")
        self.assertEqual(1, realm.logouts)
        self.assertEqual(0, len(house.factory))

    def test_in_the_clear(self) -> None:
        house = House(Service.SUBMISSION, portal=a_portal(FakeRealm(), users()), certificates=CERTIFICATES)
        wire = Wire(house)
        wire.say("EHLO c")
        self.assertNotIn(b"AUTH", wire.peer.heard)
        self.assertEqual(["538", "530"], wire.say(PLAIN, "MAIL FROM:<alice@example.org>"))


@implementer(ICredentialsChecker)
class SlowChecker:
    credentialInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        self.answer: Deferred[bytes] = Deferred()

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes]:
        return self.answer
