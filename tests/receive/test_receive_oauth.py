"""Tokens in submission: with real TLS in memory, against the checker of a portal; what is late, counted, logged, and is not."""

from __future__ import annotations

import base64
import json
from typing import Any

from receive_fakes import FakeRealm, House, a_portal
from test_receive_auth import CERTIFICATES, PLAIN, Wire, users
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailstack.credentials import IBearer, TokensUnavailable
from mailstack.lockout import Lockout, LockoutLimits
from mailstack.mail.envelope import Service
from mailstack.mail.verdict import reject
from mailstack.net.tallies import Tally
from mailstack.wire.limits import Limits

ALICE = "alice@example.org"


@implementer(ICredentialsChecker)
class Tokens:
    """Knows whose the token "good" is."""

    credentialInterfaces = (IBearer,)

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.failure: Exception | None = None
        self.waits: Deferred[bytes] | None = None

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        self.asked.append(credentials)
        if self.failure is not None:
            return fail(self.failure)
        if self.waits is not None:
            return self.waits
        right = credentials.token == b"good" and credentials.authorization_id in (b"", ALICE.encode())
        return succeed(ALICE.encode()) if right else fail(UnauthorizedLogin())


def shown(token: str, name: str = ALICE) -> str:
    header = f"n,a={name}," if name else "n,,"
    return "AUTH OAUTHBEARER " + base64.b64encode(f"{header}\1auth=Bearer {token}\1\1".encode()).decode()


def submission(
    tokens: Tokens, *, service: Service = Service.SUBMISSION, scope: str | None = "mail", **more: Any
) -> tuple[House, Wire]:
    house = House(service, portal=a_portal(FakeRealm(), users(), tokens), certificates=CERTIFICATES, **more)
    house.factory.token_scope = scope
    wire = Wire(house, implicit=service is Service.SUBMISSIONS)
    if service is Service.SUBMISSION:
        wire.start_tls()
    wire.say("EHLO c")
    return house, wire


def later(house: House, wire: Wire, seconds: float = 1) -> list[str]:
    wire.peer.heard = b""
    house.clock.advance(seconds)
    wire.flush()
    return wire.codes()


class TokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.logged: list[Any] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    @property
    def events(self) -> list[str]:
        return [each["event"] for each in self.logged if "event" in each]

    def test_a_submission(self) -> None:
        for service in (Service.SUBMISSION, Service.SUBMISSIONS):
            for name in (ALICE, ""):
                house, wire = submission(Tokens(), service=service)
                self.assertIn(b"AUTH PLAIN LOGIN OAUTHBEARER XOAUTH2\r\n", wire.peer.heard)
                self.assertEqual(["235"], wire.say(shown("good", name)))
                wire.say(f"MAIL FROM:<{ALICE}>", "RCPT TO:<x@remote.example>", "DATA")
                self.assertEqual(["250"], wire.say("Subject: x", "", "y", "."))
                [(envelope, _)] = house.intake.accepted
                self.assertEqual(ALICE, envelope.origin.account)
                self.assertEqual([], house.start.failures)

    def test_where_none_are_taken_they_are_not_offered(self) -> None:
        tokens = Tokens()
        _, wire = submission(tokens, scope=None)
        self.assertIn(b"AUTH PLAIN LOGIN\r\n", wire.peer.heard)
        self.assertEqual(["504"], wire.say(shown("good")))
        self.assertEqual([], tokens.asked)

    def test_nothing_of_it_in_the_clear(self) -> None:
        tokens = Tokens()
        house = House(Service.SUBMISSION, portal=a_portal(FakeRealm(), tokens), certificates=CERTIFICATES)
        house.factory.token_scope = ""
        wire = Wire(house)
        wire.say("EHLO c")
        self.assertNotIn(b"AUTH", wire.peer.heard)
        self.assertEqual(["538"], wire.say(shown("good")))
        self.assertEqual([], tokens.asked)

    def test_a_refusal_is_late_and_says_why_before_it_is_one(self) -> None:
        house, wire = submission(Tokens())
        self.assertEqual([], wire.say(shown("bad")))
        self.assertEqual([], later(house, wire, 0.9))
        self.assertEqual(["334"], later(house, wire, 0.1))
        told = json.loads(base64.b64decode(wire.peer.heard[4:-2]))
        self.assertEqual({"status": "invalid_token", "scope": "mail"}, told)
        self.assertEqual(["535"], wire.say("AQ=="))
        self.assertEqual(["530"], wire.say(f"MAIL FROM:<{ALICE}>"))
        self.assertEqual(["235"], wire.say(shown("good")))

    def test_for_another_is_refused_like_a_bad_one(self) -> None:
        house, wire = submission(Tokens())
        self.assertEqual([], wire.say(shown("good", "admin@example.org")))
        self.assertEqual(["334"], later(house, wire))
        self.assertEqual(["535"], wire.say("AQ=="))

    def test_the_third_ends_the_session_at_once(self) -> None:
        house, wire = submission(Tokens())
        for number in (1, 2):
            self.assertEqual([], wire.say(shown(f"bad{number}")))
            self.assertEqual(["334"], later(house, wire, number))
            self.assertEqual(["535"], wire.say("AQ=="))
        self.assertEqual([], wire.say(shown("bad3")))
        self.assertEqual(["421"], later(house, wire, 3))
        self.assertEqual(0, len(house.factory))

    def test_each_is_one_error_of_the_session_and_so_is_asking_what_is_wanted(self) -> None:
        house, wire = submission(Tokens(), limits=Limits(errors=3, authentication_failures=9))
        wire.say(shown("bad"))
        self.assertEqual(["334"], later(house, wire))
        self.assertEqual(["535"], wire.say("AQ=="))
        without = "AUTH OAUTHBEARER " + base64.b64encode(b"n,,\1auth=\1\1").decode()
        self.assertEqual(["334"], wire.say(without))
        self.assertEqual(["535"], wire.say("AQ=="))
        self.assertEqual(["334"], wire.say(without))
        self.assertEqual(["421"], wire.say("AQ=="))

    def test_one_that_cannot_be_checked_now_is_temporary_and_late_and_counts_nothing(self) -> None:
        lockout = a_lockout(failures=1)
        tokens = Tokens()
        house, wire = submission(tokens, lockout=lockout)
        tokens.failure = TokensUnavailable("http://127.0.0.1/: no answer within 5 s")
        for _ in range(5):
            self.assertEqual([], wire.say(shown("sesame")))
            self.assertEqual(["454"], later(house, wire))
        self.assertEqual(5, self.events.count("token_unchecked"))
        self.assertEqual([], self.flushLoggedErrors())
        tokens.failure = None
        self.assertEqual(["235"], wire.say(shown("good")))

    def test_what_nobody_expected_is_temporary_too(self) -> None:
        tokens = Tokens()
        _, wire = submission(tokens)
        tokens.failure = OSError("disk")
        self.assertEqual(["454"], wire.say(shown("good")))
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))

    def test_what_is_pipelined_waits(self) -> None:
        tokens = Tokens()
        tokens.waits = Deferred()
        house, wire = submission(tokens)
        self.assertEqual([], wire.say(shown("bad"), "AQ==", "NOOP"))
        tokens.waits.errback(UnauthorizedLogin())
        self.assertEqual(["334", "535", "250"], later(house, wire))

    def test_lost_while_it_is_checked(self) -> None:
        tokens = Tokens()
        tokens.waits = Deferred()
        house, wire = submission(tokens)
        wire.say(shown("good"))
        wire.peer.transport.abortConnection()
        wire.flush()
        tokens.waits.callback(ALICE.encode())
        self.assertEqual(0, len(house.factory))
        self.assertEqual([], house.start.failures)

    def test_a_policy_that_does_not_want_the_account(self) -> None:
        house, wire = submission(Tokens())
        house.judge.answers["auth"] = reject("Not now")
        self.assertEqual(["334"], wire.say(shown("good")))
        self.assertEqual(["550"], wire.say("AQ=="))
        self.assertEqual(["530"], wire.say(f"MAIL FROM:<{ALICE}>"))

    def test_a_portal_without_a_checker_for_tokens(self) -> None:
        house = House(Service.SUBMISSION, portal=a_portal(FakeRealm(), users()), certificates=CERTIFICATES)
        house.factory.token_scope = ""
        wire = Wire(house)
        wire.start_tls()
        wire.say("EHLO c")
        self.assertEqual([], wire.say(shown("good")))
        self.assertEqual(["334"], later(house, wire))

    def test_the_log_knows_no_token(self) -> None:
        tokens = Tokens()
        house, wire = submission(tokens)
        wire.say(shown("sesame"))
        later(house, wire)
        wire.say("AQ==")
        wire.say(shown("sesame", ""))
        later(house, wire, 2)
        tokens.failure = RuntimeError("bug")
        wire.say("AQ==", shown("sesame"))
        self.flushLoggedErrors(RuntimeError)
        self.assertIn("authentication_failed", self.events)
        self.assertNotIn("sesame", repr(self.logged))
        self.assertNotIn(base64.b64encode(b"Bearer sesame").decode()[4:-4], repr(self.logged))
        self.assertEqual(3, len(tokens.asked))
        self.assertNotIn("sesame", repr(tokens.asked))


def a_lockout(**more: Any) -> Lockout:
    limits: dict[str, Any] = {"failures": 3, "failures_per_network": 5, "window_seconds": 600}
    failed, good = (Tally.alone(bytes(32), Clock().seconds) for _ in range(2))
    return Lockout(failed, good, LockoutLimits(**(limits | more)))


class TokenLockoutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tokens, self.lockout = Tokens(), a_lockout()

    def once(self, command: str) -> list[str]:
        """Log in, in a session of its own; return what is said after the wait."""
        house, wire = submission(self.tokens, lockout=self.lockout)
        codes = wire.say(command) or later(house, wire)
        wire.peer.transport.loseConnection()
        wire.flush()
        return codes

    def test_after_some_bad_ones_the_portal_is_not_asked_and_nobody_sees_a_difference(self) -> None:
        for number in range(3):
            self.assertEqual(["334"], self.once(shown(f"bad{number}")))
        self.assertEqual(3, len(self.tokens.asked))
        for token in ("bad", "good"):
            self.assertEqual(["334"], self.once(shown(token)))
        self.assertEqual(3, len(self.tokens.asked))
        self.assertEqual(["235"], self.once(PLAIN), "the password is another matter")

    def test_an_old_one_again_and_again_is_one_failure(self) -> None:
        for _ in range(9):
            self.assertEqual(["334"], self.once(shown("expired")))
        self.assertEqual(["235"], self.once(shown("good")))

    def test_wrong_passwords_do_not_keep_a_token_out(self) -> None:
        for number in range(4):
            guess = base64.b64encode(f"\0{ALICE}\0guess{number}".encode()).decode()
            self.assertEqual(["535"], self.once(f"AUTH PLAIN {guess}"))
        self.assertEqual(["235"], self.once(shown("good")))

    def test_those_for_many_names_count_for_the_network(self) -> None:
        for number in range(5):
            self.assertEqual(["334"], self.once(shown(f"bad{number}", f"user{number}@example.org")))
        self.assertEqual(["334"], self.once(shown("good")))
        self.assertEqual(5, len(self.tokens.asked))

    def test_but_not_against_who_is_known(self) -> None:
        self.assertEqual(["235"], self.once(shown("good")))
        for number in range(5):
            self.once(shown(f"bad{number}", f"user{number}@example.org"))
        self.assertEqual(["235"], self.once(shown("good")))
        self.assertEqual(["535"], self.once(PLAIN), "by a password nobody is known")

    def test_those_without_a_name_count_together(self) -> None:
        for number in range(3):
            self.once(shown(f"bad{number}", ""))
        self.assertEqual(["334"], self.once(shown("good", "")))
        self.assertEqual(["235"], self.once(shown("good")))
