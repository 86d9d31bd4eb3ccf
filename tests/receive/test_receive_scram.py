"""SCRAM in submission: with real TLS in memory, bound to it or not, against the checker of a portal."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from receive_fakes import FakeRealm, House, a_portal
from test_receive_auth import CERTIFICATES, PLAIN, Wire, users
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailstack.channel import channel_bindings
from mailstack.credentials import IScramProof, ScramCredentials, ScramSource
from mailstack.mail.envelope import Service
from mailstack.mail.scram import ScramKeys, ScramProof, make_keys
from mailstack.wire.limits import Limits
from mailstack.wire.scram import Bindings, ScramClient

KEYS = make_keys(b"secret", b"salt of sixteen ", 4096)
NOBODYS = replace(KEYS, stored_key=bytes(32), server_key=bytes(32))
ALICE = "alice@example.org"


@implementer(ICredentialsChecker)
class Users:
    """Knows alice, unless she is disabled; is a checker and a source."""

    credentialInterfaces = (IScramProof,)

    def __init__(self) -> None:
        self.keys: ScramKeys | None = KEYS
        self.failure: Exception | None = None
        self.waits: Deferred[ScramKeys] | None = None

    async def find(self, username: bytes) -> ScramKeys:
        if self.failure is not None:
            raise self.failure
        if self.waits is not None:
            return await self.waits
        return self.keys if username == ALICE.encode() and self.keys else NOBODYS

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        if self.failure is not None:
            return fail(self.failure)
        proof: ScramProof = credentials.proof
        right = proof.username == ALICE.encode() and self.keys is not None and proof.is_by(self.keys)
        return succeed(proof.username) if right else fail(UnauthorizedLogin())


def submission(
    some: Users, *, service: Service = Service.SUBMISSION, nonces: Any = lambda: "of-the-server", **more: Any
) -> tuple[House, Wire]:
    portal = a_portal(FakeRealm(), users(), some)
    scram = ScramSource(some.find, nonces)
    house = House(service, portal=portal, certificates=CERTIFICATES, scram=scram, **more)
    wire = Wire(house, implicit=service is Service.SUBMISSIONS)
    if service is Service.SUBMISSION:
        wire.start_tls()
    wire.say("EHLO c")
    return house, wire


def encoded(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def challenge_of(wire: Wire) -> bytes:
    heard: bytes = wire.peer.heard
    assert heard.startswith(b"334 "), heard
    return base64.b64decode(heard[4:-2])


class Login:
    """What a client does, as far as it gets."""

    def __init__(self, wire: Wire, username: str = ALICE, password: str = "secret", bindings: Bindings | None = None) -> None:
        self.wire = wire
        self.client = ScramClient(username, password, "of-the-client", bindings)
        mechanism = "SCRAM-SHA-256-PLUS" if bindings else "SCRAM-SHA-256"
        self.codes = wire.say(f"AUTH {mechanism} {encoded(self.client.first())}")
        if self.codes == ["334"]:
            self.first = challenge_of(wire)
            self.codes = wire.say(encoded(self.client.final(self.first)))

    def end(self) -> list[str]:
        """Take the server's signature, and say no more."""
        self.client.verify(challenge_of(self.wire))
        return self.wire.say("")


def client_side(wire: Wire) -> Bindings:
    return channel_bindings(wire.peer.transport, is_client=True)


class ScramTests(SynchronousTestCase):
    def test_a_submission(self) -> None:
        house, wire = submission(Users())
        self.assertEqual(["235"], Login(wire).end())
        wire.say(f"MAIL FROM:<{ALICE}>", "RCPT TO:<x@remote.example>", "DATA")
        self.assertEqual(["250"], wire.say("Subject: x", "", "y", "."))
        [(envelope, _)] = house.intake.accepted
        self.assertEqual(ALICE, envelope.origin.account)
        self.assertEqual([], house.start.failures)

    def test_bound_to_the_session_in_both_ways(self) -> None:
        for service in (Service.SUBMISSION, Service.SUBMISSIONS):
            for kind in ("tls-exporter", "tls-server-end-point"):
                _, wire = submission(Users(), service=service)
                self.assertIn(b"AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n", wire.peer.heard)
                self.assertEqual(["235"], Login(wire, bindings={kind: client_side(wire)[kind]}).end())

    def test_what_was_said_in_another_session_counts_nothing_here(self) -> None:
        _, one = submission(Users())
        _, other = submission(Users())
        self.assertNotEqual(client_side(one)["tls-exporter"], client_side(other)["tls-exporter"])
        self.assertEqual(["535"], Login(one, bindings=client_side(other)).codes)
        self.assertEqual(["235"], Login(one, bindings=client_side(one)).end())

    def test_nothing_of_it_in_the_clear(self) -> None:
        some = Users()
        scram = ScramSource(some.find, lambda: "n")
        house = House(Service.SUBMISSION, portal=a_portal(FakeRealm(), some), certificates=CERTIFICATES, scram=scram)
        wire = Wire(house)
        wire.say("EHLO c")
        self.assertNotIn(b"AUTH", wire.peer.heard)
        self.assertEqual(["538"], wire.say(f"AUTH SCRAM-SHA-256 {encoded(ScramClient(ALICE, 'secret', 'n').first())}"))

    def test_where_no_keys_can_be_had_it_is_not_there(self) -> None:
        house = House(Service.SUBMISSION, portal=a_portal(FakeRealm(), users()), certificates=CERTIFICATES)
        wire = Wire(house)
        wire.start_tls()
        wire.say("EHLO c")
        self.assertIn(b"AUTH PLAIN LOGIN\r\n", wire.peer.heard)
        self.assertEqual(["504"], Login(wire).codes)

    def test_all_that_is_wrong_looks_the_same_and_is_late(self) -> None:
        disabled = Users()
        disabled.keys = None
        heard = []
        for some, username, password in (
            (Users(), ALICE, "wrong"),
            (Users(), "nobody@example.org", "secret"),
            (disabled, ALICE, "secret"),
        ):
            house, wire = submission(some)
            login = Login(wire, username, password)
            self.assertEqual([], login.codes)
            house.clock.advance(0.9)
            wire.flush()
            self.assertEqual([], wire.codes())
            house.clock.advance(0.1)
            wire.flush()
            self.assertEqual(["535"], wire.codes())
            heard.append((login.first, wire.peer.heard))
            self.assertEqual(["530"], wire.say(f"MAIL FROM:<{ALICE}>"))
        self.assertEqual(1, len(set(heard)))

    def test_wrong_ones_count_with_those_of_plain(self) -> None:
        house, wire = submission(Users(), limits=Limits(authentication_failures=2, failure_delay_seconds=1))
        wire.say("AUTH PLAIN " + encoded(b"\0alice@example.org\0wrong"))
        house.clock.advance(1)
        wire.flush()
        self.assertEqual(["535"], wire.codes())
        Login(wire, password="wrong")
        house.clock.advance(2)
        wire.flush()
        self.assertEqual(["421"], wire.codes())

    def test_a_password_that_is_changed_meanwhile(self) -> None:
        some = Users()
        house, wire = submission(some)
        login = Login(wire)
        some.keys = None
        self.assertEqual([], login.end())
        house.clock.advance(1)
        wire.flush()
        self.assertEqual(["535"], wire.codes())

    def test_a_directory_that_cannot_be_read_is_temporary(self) -> None:
        some = Users()
        _, wire = submission(some)
        some.failure = OSError("disk")
        self.assertEqual(["454"], Login(wire).codes)
        some.failure = None
        login = Login(wire)
        some.failure = OSError("disk")
        self.assertEqual(["454"], login.end())
        self.assertEqual(2, len(self.flushLoggedErrors(OSError)))
        some.failure = None
        self.assertEqual(["235"], Login(wire).end())

    def test_what_is_pipelined_waits_while_keys_are_looked_for(self) -> None:
        some = Users()
        some.waits = Deferred()
        _, wire = submission(some)
        first = ScramClient(ALICE, "secret", "of-the-client").first()
        self.assertEqual([], wire.say(f"AUTH SCRAM-SHA-256 {encoded(first)}", "*", "NOOP"))
        some.waits.callback(KEYS)
        wire.flush()
        self.assertEqual(["334", "501", "250"], wire.codes())

    def test_lost_while_keys_are_looked_for(self) -> None:
        some = Users()
        some.waits = Deferred()
        house, wire = submission(some)
        wire.say(f"AUTH SCRAM-SHA-256 {encoded(ScramClient(ALICE, 'secret', 'n').first())}")
        wire.peer.transport.abortConnection()
        wire.flush()
        some.waits.callback(KEYS)
        self.assertEqual(0, len(house.factory))
        self.assertEqual([], house.start.failures)

    def test_each_exchange_has_a_nonce_of_its_own(self) -> None:
        nonces = iter(("one", "two"))
        house, wire = submission(Users(), nonces=lambda: next(nonces))
        said = []
        for _ in range(2):
            said.append(Login(wire, password="wrong").first)
            house.clock.advance(2)
            wire.flush()
        self.assertTrue(said[0].startswith(b"r=of-the-clientone,"))
        self.assertTrue(said[1].startswith(b"r=of-the-clienttwo,"))

    def test_plain_is_as_it_was(self) -> None:
        _, wire = submission(Users())
        self.assertEqual(["235"], wire.say(PLAIN))

    def test_a_portal_without_a_checker_for_proofs(self) -> None:
        portal = a_portal(FakeRealm(), users())
        house = House(
            Service.SUBMISSION, portal=portal, certificates=CERTIFICATES, scram=ScramSource(Users().find, lambda: "n")
        )
        wire = Wire(house)
        wire.start_tls()
        wire.say("EHLO c")
        self.assertEqual([], Login(wire).end())
        house.clock.advance(1)
        wire.flush()
        self.assertEqual(["535"], wire.codes())

    def test_no_proof_is_in_a_repr(self) -> None:
        shown = repr(ScramCredentials(ScramProof(b"alice", b"all that was said", b"proof of 32")))
        self.assertNotIn("said", shown)
        self.assertNotIn("proof of", shown)
