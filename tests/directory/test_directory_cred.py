from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.cred.checkers import ANONYMOUS, ICredentialsChecker
from twisted.cred.credentials import Anonymous, IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin, UnhandledCredentials
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface
from zope.interface.verify import verifyObject

from mailstack.credentials import (
    BearerCredentials,
    CertificateCredentials,
    IBearer,
    ICertified,
    IScramProof,
    ScramCredentials,
    TokensUnavailable,
)
from mailstack.directory.cred import BearerChecker, CertificateChecker, DirectoryChecker, ProofChecker, Realm
from mailstack.directory.records import DirectoryUnavailable
from mailstack.mail.scram import ScramProof

PROOF = ScramProof(b"alice", b"message", bytes(32))


class IDrop(Interface):
    pass


class ISend(Interface):
    pass


class IOther(Interface):
    pass


class FakeDirectory:
    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.wait: Deferred[None] | None = None

    async def verify(self, username: bytes | str, password: bytes | str) -> str | None:
        if self.wait is not None:
            await self.wait
        if self.failure is not None:
            raise self.failure
        return "älice@x.test" if (username, password) == (b"alice", b"secret") else None

    async def verify_proof(self, proof: ScramProof) -> str | None:
        if self.failure is not None:
            raise self.failure
        return "älice@x.test" if proof == PROOF else None

    async def find_certified(self, names: Sequence[str], authorization_id: bytes) -> str | None:
        if self.failure is not None:
            raise self.failure
        return "älice@x.test" if tuple(names) == ("alice",) and authorization_id in (b"", b"alice") else None


class TestCred(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = FakeDirectory()
        self.ended: list[str] = []

        async def drop(account: str) -> tuple[str, Any]:
            return f"drop of {account}", lambda: self.ended.append(account)

        self.realm = Realm({IDrop: drop, ISend: lambda account: f"sender {account}"})
        self.checker = DirectoryChecker(self.directory)
        self.owners: dict[bytes, Any] = {b"alices": "alice", b"nobodys": None, b"strangers": "stranger", b"": "alice"}
        tokens = BearerChecker(self.directory, self.owner)
        checkers = [self.checker, ProofChecker(self.directory), CertificateChecker(self.directory), tokens]
        self.portal = Portal(self.realm, checkers)

    async def owner(self, token: bytes) -> str | None:
        found = self.owners[token]
        if isinstance(found, Exception):
            raise found
        assert found is None or isinstance(found, str)
        return found

    def login(self, *interfaces: Any, password: bytes = b"secret") -> Deferred[Any]:
        return self.portal.login(UsernamePassword(b"alice", password), None, *interfaces)

    def test_interfaces(self) -> None:
        verifyObject(ICredentialsChecker, self.checker)
        verifyObject(IRealm, self.realm)
        self.assertEqual(list(self.portal.listCredentialsInterfaces()), [IUsernamePassword, IScramProof, ICertified, IBearer])
        verifyObject(ICredentialsChecker, BearerChecker(self.directory, self.owner))
        verifyObject(IBearer, BearerCredentials(b"token"))
        verifyObject(ICredentialsChecker, CertificateChecker(self.directory))
        verifyObject(ICertified, CertificateCredentials(("alice",)))
        verifyObject(ICredentialsChecker, ProofChecker(self.directory))
        verifyObject(IScramProof, ScramCredentials(PROOF))

    def test_an_avatar_that_is_made_at_once(self) -> None:
        interface, avatar, logout = self.successResultOf(self.login(ISend))
        self.assertEqual((interface, avatar), (ISend, "sender älice@x.test"))
        logout()

    def test_an_avatar_that_takes_a_while_has_its_own_logout(self) -> None:
        interface, avatar, logout = self.successResultOf(self.login(IDrop))
        self.assertEqual((interface, avatar), (IDrop, "drop of älice@x.test"))
        self.assertEqual(self.ended, [])
        logout()
        self.assertEqual(self.ended, ["älice@x.test"])

    def test_an_avatar_may_come_by_a_deferred(self) -> None:
        waiting: Deferred[Any] = Deferred()
        result = Realm({IDrop: lambda account: waiting}).requestAvatar(b"a", None, IDrop)
        self.assertNoResult(result)
        waiting.callback(("avatar", print))
        self.assertEqual(self.successResultOf(result), (IDrop, "avatar", print))

    def test_the_first_interface_that_there_is(self) -> None:
        self.assertEqual(self.successResultOf(self.login(IOther, ISend, IDrop))[0], ISend)
        self.assertEqual(self.successResultOf(self.login(IDrop, ISend))[0], IDrop)

    def test_no_such_interface(self) -> None:
        self.failureResultOf(self.login(IOther), NotImplementedError)

    def test_wrong_password(self) -> None:
        self.failureResultOf(self.login(ISend, password=b"wrong"), UnauthorizedLogin)

    def test_a_proof(self) -> None:
        right = self.portal.login(ScramCredentials(PROOF), None, ISend)
        self.assertEqual(self.successResultOf(right)[1], "sender älice@x.test")
        wrong = self.portal.login(ScramCredentials(replace(PROOF, username=b"bob")), None, ISend)
        self.failureResultOf(wrong, UnauthorizedLogin)

    def test_a_certificate(self) -> None:
        right = self.portal.login(CertificateCredentials(("alice",), b"alice"), None, ISend)
        self.assertEqual(self.successResultOf(right)[1], "sender älice@x.test")
        for wrong in (CertificateCredentials(("alice",), b"bob"), CertificateCredentials(())):
            self.failureResultOf(self.portal.login(wrong, None, ISend), UnauthorizedLogin)

    def test_a_token(self) -> None:
        for name in (b"", b"alice"):
            right = self.portal.login(BearerCredentials(b"alices", name), None, ISend)
            self.assertEqual(self.successResultOf(right)[1], "sender älice@x.test")
        for wrong in (
            BearerCredentials(b"alices", b"bob"),
            BearerCredentials(b"nobodys"),
            BearerCredentials(b"nobodys", b"alice"),
            BearerCredentials(b"strangers"),
            BearerCredentials(b"strangers", b"stranger"),
        ):
            self.failureResultOf(self.portal.login(wrong, None, ISend), UnauthorizedLogin)

    def test_a_token_that_cannot_be_checked_is_not_a_wrong_one(self) -> None:
        self.owners[b"late"] = TokensUnavailable("no answer")
        found = self.failureResultOf(self.portal.login(BearerCredentials(b"late"), None, ISend), TokensUnavailable)
        self.assertFalse(found.check(UnauthorizedLogin))

    def test_no_token_is_in_a_repr(self) -> None:
        self.assertNotIn("sesame", repr(BearerCredentials(b"sesame", b"alice")))

    def test_a_wait_for_the_directory(self) -> None:
        self.directory.wait = Deferred()
        result = self.login(ISend)
        self.assertNoResult(result)
        self.directory.wait.callback(None)
        self.successResultOf(result)

    def test_a_directory_that_cannot_be_read_is_not_a_wrong_password(self) -> None:
        for failure in (DirectoryUnavailable("busy"), RuntimeError("bug")):
            self.directory.failure = failure
            found = self.failureResultOf(self.login(ISend), type(failure))
            self.assertFalse(found.check(UnauthorizedLogin))
            for other in (ScramCredentials(PROOF), CertificateCredentials(("alice",)), BearerCredentials(b"alices")):
                self.failureResultOf(self.portal.login(other, None, ISend), type(failure))

    def test_an_avatar_that_fails_passes_through(self) -> None:
        def fail(account: str) -> None:
            raise OSError("maildrop")

        self.failureResultOf(Realm({IDrop: fail}).requestAvatar(b"a", None, IDrop), OSError)

    def test_nobody_is_anonymous(self) -> None:
        self.failureResultOf(self.portal.login(Anonymous(), None, ISend), UnhandledCredentials)
        self.failureResultOf(self.realm.requestAvatar(ANONYMOUS, None, ISend), UnauthorizedLogin)
