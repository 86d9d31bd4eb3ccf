"""Peers without manners: who speaks before he is greeted, errs and errs, comes too often, or guesses passwords."""

from __future__ import annotations

import base64
import smtplib
import ssl
from typing import Any

from receive_fakes import FakeRealm, House, Session, a_portal, certificates
from test_receive_auth import PLAIN, WRONG, submission
from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, inlineCallbacks
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from mailstack.lockout import Lockout, LockoutLimits
from mailstack.mail.envelope import Service
from mailstack.net.tallies import Tally
from mailstack.wire.limits import Limits

REACTOR: Any = reactor
PAUSE = Limits(greeting_pause_seconds=2)


def a_lockout(clock: Any, failures: int = 3, failures_per_network: int = 5) -> Lockout:
    limits = LockoutLimits(failures=failures, failures_per_network=failures_per_network, window_seconds=600)
    return Lockout(Tally.alone(bytes(32), clock.seconds), Tally.alone(bytes(32), clock.seconds), limits)


class Recorded(SynchronousTestCase):
    """Keeps the names of the events."""

    def setUp(self) -> None:
        self.events: list[str] = []
        globalLogPublisher.addObserver(self._record)
        self.addCleanup(globalLogPublisher.removeObserver, self._record)

    def _record(self, event: Any) -> None:
        self.events.append(str(event.get("event")))


class GreetingPauseTests(Recorded):
    def test_who_waits_is_greeted(self) -> None:
        house = House(limits=PAUSE)
        session = house.connect()
        house.clock.advance(1.9)
        self.assertEqual("", session.take())
        house.clock.advance(0.1)
        self.assertEqual(["220"], session.codes())
        self.assertEqual(["250"], session.say("EHLO c"))
        self.assertEqual([], house.start.failures)

    def test_who_does_not_is_refused_and_nobody_is_asked_about_him(self) -> None:
        house = House(limits=PAUSE)
        session = house.connect()
        house.clock.advance(1)
        self.assertEqual([], session.say("EHLO c", "MAIL FROM:<a@example.com>"))
        house.clock.advance(1)
        self.assertEqual("554 5.5.1 You must wait for the greeting\r\n", session.take())
        self.assertFalse(session.is_connected)
        self.assertEqual([], house.judge.asked)
        self.assertEqual(0, len(house.factory))
        self.assertIn("early_talker", self.events)
        self.assertEqual([], house.clock.getDelayedCalls())

    def test_who_leaves_meanwhile_is_forgotten(self) -> None:
        house = House(limits=PAUSE)
        house.connect().lose()
        house.clock.advance(2)
        self.assertEqual(0, len(house.factory))
        self.assertEqual([], house.judge.asked)
        self.assertEqual([], house.start.failures)
        self.assertEqual([], house.clock.getDelayedCalls())

    def test_we_may_be_told_to_stop_meanwhile(self) -> None:
        house = House(limits=PAUSE)
        session = house.connect()
        drained = house.factory.drain()
        house.clock.advance(2)
        self.assertEqual("421", session.codes()[-1])
        self.successResultOf(drained)

    def test_users_and_neighbours_need_not_wait(self) -> None:
        for service in (Service.SUBMISSION, Service.LMTP):
            self.assertEqual(["220"], House(service, limits=PAUSE).connect().codes())

    def test_without_a_pause_nothing_is_refused(self) -> None:
        house = House()
        house.judge.answers = {"connect": (waiting := Deferred())}
        session = house.connect()
        session.say("EHLO c")
        waiting.callback(None)
        self.assertEqual(["220", "250"], session.codes())


class PaceTests(Recorded):
    def erring(self, mistakes: int, **more: Any) -> tuple[House, Session]:
        house = House(limits=Limits(free_errors=2, error_delay_seconds=1, **more))
        session = house.connect()
        session.take()
        session.say("EHLO c", *["XYZZY"] * mistakes)
        return house, session

    def test_a_few_errors_cost_nothing(self) -> None:
        _, session = self.erring(2)
        self.assertEqual(["250"], session.say("NOOP"))

    def test_then_each_reply_waits_and_the_others_are_served_meanwhile(self) -> None:
        house, session = self.erring(2)
        self.assertEqual([], session.say("XYZZY", "NOOP"))
        other = house.connect()
        self.assertEqual(["220", "250"], other.codes() + other.say("EHLO c"))
        house.clock.advance(1)
        self.assertEqual(["500"], session.codes())
        self.assertEqual(1, self.events.count("session_slowed"))
        house.clock.advance(0.9)
        self.assertEqual([], session.codes())
        house.clock.advance(0.1)
        self.assertEqual(["250"], session.codes())

    def test_it_does_not_go_on_for_ever(self) -> None:
        house, session = self.erring(2, errors=5)
        session.say(*["XYZZY"] * 100)
        codes = []
        for _ in range(3):
            house.clock.advance(1)
            codes += session.codes()
        self.assertEqual(["500", "500", "421"], codes)
        self.assertFalse(session.is_connected)
        self.assertEqual([], house.clock.getDelayedCalls())

    def test_who_leaves_meanwhile_is_forgotten(self) -> None:
        house, session = self.erring(2)
        session.say("XYZZY", "NOOP")
        session.lose()
        house.clock.advance(1)
        self.assertEqual(0, len(house.factory))
        self.assertEqual([], house.start.failures)
        self.assertEqual([], house.clock.getDelayedCalls())

    def test_a_message_that_is_taken_makes_it_good(self) -> None:
        house, session = self.erring(3)
        house.clock.advance(1)
        session.take()
        session.say("MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>", "DATA", "Subject: x\r\n\r\ntext\r\n.", "NOOP")
        house.clock.pump([1, 1, 1])
        self.assertEqual(["250", "250", "354", "250", "250"], session.codes())

    def test_it_can_be_switched_off(self) -> None:
        house = House(limits=Limits(free_errors=2, error_delay_seconds=0))
        session = house.connect()
        self.assertEqual(["220", *["500"] * 9], session.codes() + session.say(*["XYZZY"] * 9))


class CapTests(Recorded):
    def test_a_network_and_a_peer_that_comes_often(self) -> None:
        clock = Clock()
        limits = Limits(sessions_per_network=2, sessions_per_minute=3)
        house = House(limits=limits, arrivals=Tally.alone(bytes(32), clock.seconds))
        first, _ = house.connect("192.0.2.1"), house.connect("192.0.2.2")
        third = house.connect("192.0.2.3")
        self.assertEqual("421 4.7.0 Too many connections, try again later\r\n", third.take())
        self.assertFalse(third.is_connected)
        self.assertIn("connection_refused", self.events)
        first.lose()
        for code in ("220", "220", "421"):
            session = house.connect("192.0.2.1")
            self.assertEqual([code], session.codes())
            session.lose() if code == "220" else None
        clock.advance(60)
        self.assertEqual(["220"], house.connect("192.0.2.1").codes())

    def test_listeners_that_count_together(self) -> None:
        from mailstack.sessions import OwnCounts

        counts = OwnCounts()
        one, other = (House(limits=Limits(sessions_per_peer=1), counts=counts) for _ in range(2))
        session = one.connect()
        self.assertEqual(["421"], other.connect().codes())
        session.lose()
        self.assertEqual(["220"], other.connect().codes())


@implementer(ICredentialsChecker)
class CountingChecker:
    """Knows that alice's password is `secret`, and how often it was asked."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        self.asked = 0

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked += 1
        return b"alice@example.org" if credentials.password == b"secret" else fail(UnauthorizedLogin())


class LockoutTests(Recorded):
    def test_after_some_failures_the_directory_is_not_asked_and_nobody_sees_a_difference(self) -> None:
        clock, checker = Clock(), CountingChecker()
        lockout = a_lockout(clock)
        for number in range(3):
            guess = base64.b64encode(f"\0alice@example.org\0guess {number}".encode()).decode()
            self.assertEqual(["535"], self.try_once(checker, lockout, f"AUTH PLAIN {guess}"))
        self.assertEqual(3, checker.asked)
        self.assertNotIn("login_locked_out", self.events)
        for credentials in (WRONG, PLAIN):
            self.assertEqual(["535"], self.try_once(checker, lockout, credentials))
        self.assertEqual(3, checker.asked)
        self.assertIn("login_locked_out", self.events)
        clock.advance(600)
        self.assertEqual(["235"], self.try_once(checker, lockout, PLAIN, seconds=0))

    def try_once(self, checker: CountingChecker, lockout: Lockout, credentials: str, seconds: float = 1) -> list[str]:
        house, wire = submission(None, checker, lockout=lockout)
        codes = wire.say(credentials)
        if seconds:
            self.assertEqual([], codes)
            house.clock.advance(seconds - 0.01)
            wire.flush()
            self.assertEqual([], wire.codes())
            house.clock.advance(0.01)
            wire.flush()
            codes = wire.codes()
        wire.peer.transport.loseConnection()
        wire.flush()
        return codes

    def test_a_failure_of_the_directory_is_none_of_the_peer_s(self) -> None:
        lockout = a_lockout(Clock(), failures=1)

        class Broken(CountingChecker):
            def requestAvatarId(self, credentials: Any) -> Any:
                return fail(OSError("disk"))

        for _ in range(3):
            _, wire = submission(None, Broken(), lockout=lockout)
            self.assertEqual(["454"], wire.say(PLAIN))
        self.assertEqual(3, len(self.flushLoggedErrors(OSError)))

    def test_the_time_that_the_password_took_is_part_of_the_wait(self) -> None:
        class Slow(CountingChecker):
            def requestAvatarId(self, credentials: Any) -> Any:
                self.answer: Deferred[bytes] = Deferred()
                return self.answer

        checker = Slow()
        house, wire = submission(None, checker, lockout=a_lockout(Clock()))
        wire.say(WRONG)
        house.clock.advance(0.75)
        checker.answer.errback(UnauthorizedLogin())
        wire.flush()
        self.assertEqual([], wire.codes())
        house.clock.advance(0.25)
        wire.flush()
        self.assertEqual(["535"], wire.codes())


class SocketTests(TestCase):
    timeout = 20

    @inlineCallbacks
    def test_a_client_that_guesses(self) -> Any:
        users = InMemoryUsernamePasswordDatabaseDontUse(**{"alice@example.org": b"secret"})
        house = House(
            Service.SUBMISSION,
            portal=a_portal(FakeRealm(), users),
            certificates=certificates(),
            clock=REACTOR,
            limits=Limits(failure_delay_seconds=0.01),
            lockout=a_lockout(REACTOR, failures=2),
        )
        port = REACTOR.listenTCP(0, house.factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def log_in(password: str) -> int:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with smtplib.SMTP("127.0.0.1", port.getHost().port, timeout=10) as session:
                session.starttls(context=context)
                session.ehlo()
                credentials = base64.b64encode(f"\0alice@example.org\0{password}".encode()).decode()
                return session.docmd("AUTH", f"PLAIN {credentials}")[0]

        codes = []
        for password in ("secret", "guess", "another", "secret"):
            codes.append((yield deferToThread(log_in, password)))
        self.assertEqual([235, 535, 535, 535], codes)
        yield house.factory.drain()
