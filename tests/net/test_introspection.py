"""Whose is a token? Asked of a real HTTP server on loopback, with and without TLS."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mailstack.console.certificates import make_authority, make_server
from mailstack.credentials import TokensUnavailable
from mailstack.net import introspection
from mailstack.net.introspection import (
    ANSWER_OCTETS,
    BELIEVED_SECONDS,
    NAME_LETTERS,
    REFUSED_SECONDS,
    Authority,
    Introspection,
    judge,
)

NOW = 1_800_000_000.0
KEY = bytes(range(32))
ALICE = "alice@example.org"
GOOD = {"active": True, "username": ALICE}


def authority(**more: Any) -> Authority:
    arguments: dict[str, Any] = {"url": "http://127.0.0.1:1/", "client_id": "us", "client_secret": "hush"}
    return Authority(**(arguments | more))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"active": False},
        {"active": False, "username": ALICE},
        {"active": "true", "username": ALICE},
        {"active": 1, "username": ALICE},
        {"active": True},
        {"active": True, "sub": ALICE},
        {"active": True, "username": ""},
        {"active": True, "username": 5},
        {"active": True, "username": [ALICE]},
        {"active": True, "username": "x" * (NAME_LETTERS + 1)},
        GOOD | {"exp": NOW},
        GOOD | {"exp": NOW - 1},
        GOOD | {"exp": "later"},
        GOOD | {"exp": True},
        GOOD | {"token_type": "refresh_token"},
        GOOD | {"token_type": "DPoP"},
        GOOD | {"token_type": None},
        GOOD | {"token_use": "id"},
        GOOD | {"typ": "Refresh"},
        GOOD | {"cnf": {"jkt": "0ZcOCORZNYy"}},
    ],
)
def test_tokens_that_open_nothing(answer: dict[str, Any]) -> None:
    assert judge(answer, authority(), NOW) is None


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"exp": NOW + 1},
        {"exp": 10**400},
        {"exp": float("inf")},
        {"token_type": "Bearer", "token_use": "access_token", "typ": "at+JWT"},
        {"scope": "mail", "aud": "mail.example.org", "whatever": [None]},
    ],
)
def test_tokens_that_are_good(more: dict[str, Any]) -> None:
    assert judge(GOOD | more, authority(), NOW) == ALICE


@pytest.mark.parametrize(
    ("scope", "is_right"),
    [
        ("mail send", True),
        ("x send y mail", True),
        ("mail", False),
        ("mails send", False),
        ("", False),
        (["mail", "send"], True),
        (5, False),
        (None, False),
    ],
)
def test_all_scopes_are_wanted(scope: Any, is_right: bool) -> None:
    found = judge(GOOD | {"scope": scope}, authority(scopes=("mail", "send")), NOW)
    assert found == (ALICE if is_right else None)
    assert judge(GOOD, authority(scopes=("mail", "send")), NOW) is None


@pytest.mark.parametrize(
    ("audience", "is_right"),
    [
        ("mail.test", True),
        (["other", "mail.test"], True),
        ("other", False),
        ("xmail.test", False),
        ("other mail.test", False),
        ([], False),
        (None, False),
        ([["mail.test"]], False),
    ],
)
def test_a_token_for_another_service_is_none_for_us(audience: Any, is_right: bool) -> None:
    found = judge(GOOD | {"aud": audience}, authority(audience="mail.test"), NOW)
    assert found == (ALICE if is_right else None)
    assert judge(GOOD, authority(audience="mail.test"), NOW) is None


@pytest.mark.parametrize(("verified", "is_right"), [(True, True), (False, False), ("true", False), (None, False)])
def test_an_address_that_nobody_verified_is_nobodys(verified: Any, is_right: bool) -> None:
    answer = {"active": True, "email": ALICE, "email_verified": verified}
    assert judge(answer, authority(claim="email"), NOW) == (ALICE if is_right else None)
    assert judge({"active": True, "email": ALICE}, authority(claim="email"), NOW) == ALICE


class Endpoint(Resource):
    """An introspection endpoint that gives one answer, or none."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.code = 200
        self.answer: bytes | None = json.dumps(GOOD | {"exp": NOW + 3_600}).encode()
        self.waiting: list[Any] = []

    def render_POST(self, request: Any) -> Any:
        self.asked.append((request.args, request.getUser(), request.getPassword(), request.getHeader("accept")))
        request.setResponseCode(self.code)
        if self.answer is None:
            self.waiting.append(request)
            return NOT_DONE_YET
        return self.answer


class IntrospectionTests(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.endpoint = Endpoint()
        self.site = Site(self.endpoint)
        self.site.noisy = False
        self.counting = WrappingFactory(self.site)
        self.port = reactor.listenTCP(0, self.counting, interface="127.0.0.1")
        self.addCleanup(self.stop)
        self.now = NOW
        self.introspection = self.make()

    async def stop(self) -> None:
        await maybeDeferred(self.port.stopListening)
        await self.until_dropped()

    @staticmethod
    async def turn(seconds: float = 0.005) -> None:
        over: Deferred[None] = Deferred()
        reactor.callLater(seconds, over.callback, None)
        await over

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port.getHost().port}/introspect"

    def make(self, url: str = "", trust: Any = None, **more: Any) -> Introspection:
        asked = authority(url=url or self.url, client_id="mail stack", client_secret="s:cret%", **more)
        return Introspection(reactor, asked, key=KEY, now=lambda: self.now, trust=trust)

    async def failure(self, of: Introspection | None = None) -> str:
        with self.assertRaises(TokensUnavailable) as caught:
            await (of or self.introspection).owner(b"sesame")
        self.assertIsNone(caught.exception.__cause__)
        for secret in ("sesame", "cret"):
            self.assertNotIn(secret, str(caught.exception))
            self.assertNotIn(secret, repr(caught.exception))
        return str(caught.exception)

    async def test_a_good_token(self) -> None:
        self.assertEqual(await self.introspection.owner(b"abc.def=="), ALICE)
        [(args, user, password, accept)] = self.endpoint.asked
        self.assertEqual(args, {b"token": [b"abc.def=="], b"token_type_hint": [b"access_token"]})
        self.assertEqual((user, password), (b"mail%20stack", b"s%3Acret%25"))
        self.assertEqual(accept, "application/json")

    async def test_it_is_believed_for_a_while(self) -> None:
        for _ in range(3):
            await self.introspection.owner(b"abc")
        self.assertEqual(len(self.endpoint.asked), 1)
        await self.introspection.owner(b"other")
        self.assertEqual(len(self.endpoint.asked), 2)
        self.now += BELIEVED_SECONDS + 1
        self.endpoint.answer = b'{"active": false}'
        self.assertIsNone(await self.introspection.owner(b"abc"))

    async def test_not_for_longer_than_it_is_good(self) -> None:
        self.endpoint.answer = json.dumps(GOOD | {"exp": NOW + 5}).encode()
        self.assertEqual(await self.introspection.owner(b"abc"), ALICE)
        self.now += 5
        self.assertIsNone(await self.introspection.owner(b"abc"))
        self.assertEqual(len(self.endpoint.asked), 2)

    async def test_a_no_is_believed_for_a_while_too_and_not_for_ever(self) -> None:
        self.endpoint.answer = b'{"active": false}'
        for _ in range(3):
            self.assertIsNone(await self.introspection.owner(b"abc"))
        self.assertEqual(len(self.endpoint.asked), 1)
        self.endpoint.answer = json.dumps(GOOD).encode()
        self.now += REFUSED_SECONDS - 1
        self.assertIsNone(await self.introspection.owner(b"abc"))
        self.now += 1
        self.assertEqual(await self.introspection.owner(b"abc"), ALICE)
        self.endpoint.answer = b'{"active": false}'
        self.assertEqual(await self.introspection.owner(b"abc"), ALICE)
        self.assertEqual(len(self.endpoint.asked), 2)

    async def test_that_nobody_could_be_asked_is_no_answer_that_is_kept(self) -> None:
        self.endpoint.code = 500
        await self.failure()
        self.endpoint.code = 200
        self.assertEqual(await self.introspection.owner(b"sesame"), ALICE)

    async def test_one_that_many_show_at_once_is_asked_about_once(self) -> None:
        self.endpoint.answer = None
        asking = [Deferred.fromCoroutine(self.introspection.owner(b"abc")) for _ in range(500)]
        asking[1].cancel()
        while not self.endpoint.waiting:
            await self.turn()
        self.say('{"active": false}')
        with self.assertRaises(CancelledError):
            await asking.pop(1)
        self.assertEqual({await each for each in asking}, {None})
        self.assertEqual(len(self.endpoint.asked), 1)

    async def test_when_who_asked_for_all_has_gone_another_asks(self) -> None:
        self.endpoint.answer = None
        asking = [Deferred.fromCoroutine(self.introspection.owner(b"abc")) for _ in range(3)]
        for number, each in enumerate(asking[:2]):
            while len(self.endpoint.waiting) <= number:
                await self.turn()
            each.cancel()
            with self.assertRaises(CancelledError):
                await each
        while len(self.endpoint.waiting) < 3:
            await self.turn()
        self.say(json.dumps(GOOD))
        self.assertEqual(await asking[2], ALICE)
        self.assertEqual(self.introspection._asking, {})

    def say(self, answer: str) -> None:
        """Give the last one who asked an answer."""
        request = self.endpoint.waiting[-1]
        request.write(answer.encode())
        request.finish()

    async def test_bad_ones_without_number_fill_no_memory_and_push_out_no_good_one(self) -> None:
        self.patch(introspection, "REFUSED_TOKENS", 2)
        self.assertEqual(await self.introspection.owner(b"good"), ALICE)
        self.endpoint.answer = b'{"active": false}'
        for token in (b"bad1", b"bad2", b"bad3", b"bad3", b"bad1"):
            self.assertIsNone(await self.introspection.owner(token))
        self.assertEqual(len(self.introspection._refused), 2)
        self.assertEqual(await self.introspection.owner(b"good"), ALICE)
        self.assertEqual(len(self.endpoint.asked), 5)

    async def test_what_is_kept_is_bounded_and_holds_no_token(self) -> None:
        self.patch(introspection, "BELIEVED_TOKENS", 2)
        for token in (b"sesame1", b"sesame2", b"sesame3", b"sesame1"):
            await self.introspection.owner(token)
        self.assertEqual(len(self.endpoint.asked), 4)
        self.assertNotIn("sesame", repr(vars(self.introspection)))
        self.assertNotIn("cret", repr(self.introspection._authority))

    async def test_what_is_no_answer(self) -> None:
        for code, answer, why in (
            (401, b"", "answers 401"),
            (302, b"{}", "answers 302"),
            (500, b"{}", "answers 500"),
            (200, b"<html>", "JSONDecodeError"),
            (200, b"[]", "no object"),
            (200, b"\xff", "UnicodeDecodeError"),
            (200, b'{"active": true, "username": "alice", "exp": NaN}', "ValueError"),
            (200, b"[" * 60_000, "RecursionError"),
            (200, b'{"exp": ' + b"9" * 60_000 + b"}", "ValueError"),
        ):
            self.endpoint.code, self.endpoint.answer = code, answer
            self.assertIn(why, await self.failure())

    async def test_an_answer_that_is_too_long(self) -> None:
        self.endpoint.answer = b'{"active": true, "username": "' + b"x" * ANSWER_OCTETS + b'"}'
        self.assertIn(self.url, await self.failure())

    async def test_a_header_section_that_is_too_long(self) -> None:
        await self.serve(b"HTTP/1.1 200 OK\r\n" + b"X-More: of this\r\n" * 8_000)
        await self.failure()

    async def test_an_answer_without_a_length(self) -> None:
        await self.serve(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(GOOD).encode())
        self.assertEqual(await self.introspection.owner(b"abc"), ALICE)
        await self.serve(b'HTTP/1.0 200 OK\r\n\r\n{"active": tr')
        await self.failure()

    async def test_an_answer_that_is_cut_short(self) -> None:
        await self.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + json.dumps(GOOD).encode())
        await self.failure()

    async def test_what_is_no_http(self) -> None:
        for octets in (b"", b"220 mail ESMTP\r\n", b"\0" * 70_000):
            await self.serve(octets)
            await self.failure()

    async def serve(self, octets: bytes) -> None:
        """Answer all that asks with these octets, and close."""

        class Canned(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(octets)
                self.transport.loseConnection()

        factory = Factory.forProtocol(Canned)
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.introspection = self.make(f"http://127.0.0.1:{port.getHost().port}/")

    async def test_nobody_there(self) -> None:
        url = self.url
        await self.port.stopListening()
        self.assertIn("refused", await self.failure(self.make(url)))

    async def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_said(self) -> None:
        self.endpoint.answer = None
        self.assertIn("no answer within 0.05 s", await self.failure(self.make(timeout_seconds=0.05)))
        await self.until_dropped()

    async def test_nor_one_that_answers_bit_by_bit(self) -> None:
        self.endpoint.answer = None
        asking = Deferred.fromCoroutine(self.make(timeout_seconds=0.2).owner(b"sesame"))
        while not self.endpoint.waiting:
            await self.turn()
        for _ in range(10):
            self.endpoint.waiting[0].write(b" ")
            await self.turn(0.03)
        with self.assertRaises(TokensUnavailable):
            await asking
        await self.until_dropped()

    async def until_dropped(self) -> None:
        """Wait until the server sees that we are gone; its own patience is longer than a test's."""
        while self.counting.protocols:
            await self.turn()

    async def test_no_more_than_some_are_asked_at_once_and_waiting_counts(self) -> None:
        self.patch(introspection, "ASKED_AT_ONCE", 2)
        self.endpoint.answer = None
        some = self.make(timeout_seconds=0.3)
        asking = [Deferred.fromCoroutine(some.owner(b"token%d" % number)) for number in range(4)]
        while len(self.endpoint.waiting) < 2:
            await self.turn()
        await self.turn(0.02)
        self.assertEqual(len(self.endpoint.asked), 2)
        self.endpoint.waiting[0].write(json.dumps(GOOD).encode())
        self.endpoint.waiting[0].finish()
        while len(self.endpoint.asked) < 3:
            await self.turn()
        outcomes = []
        for each in asking:
            try:
                outcomes.append(await each)
            except TokensUnavailable:
                outcomes.append("late")
        self.assertEqual(sorted(outcomes), [ALICE, "late", "late", "late"])
        self.endpoint.answer = json.dumps(GOOD).encode()
        self.assertEqual(await some.owner(b"one more"), ALICE)

    async def test_who_is_cancelled_gives_the_place_back(self) -> None:
        self.patch(introspection, "ASKED_AT_ONCE", 1)
        self.endpoint.answer = None
        some = self.make()
        asking = Deferred.fromCoroutine(some.owner(b"sesame"))
        while not self.endpoint.waiting:
            await self.turn()
        asking.cancel()
        with self.assertRaises(CancelledError):
            await asking
        self.endpoint.answer = json.dumps(GOOD).encode()
        self.assertEqual(await some.owner(b"abc"), ALICE)

    async def test_with_tls_the_certificate_must_be_right(self) -> None:
        ours = make_authority("ours.test", time.time())
        pair = make_server(ours, "localhost", time.time())
        trust = trustRootFromCertificates([Certificate.loadPEM(ours.certificate_pem())])
        options = CertificateOptions(privateKey=pair.key, certificate=pair.certificate)
        wrapped = TLSMemoryBIOFactory(options, False, self.counting)
        port, elsewhere = (reactor.listenTCP(0, wrapped, interface=address) for address in ("127.0.0.1", "127.0.0.2"))
        self.addCleanup(port.stopListening)
        self.addCleanup(elsewhere.stopListening)
        url = f"https://localhost:{port.getHost().port}/introspect"
        self.assertEqual(await self.make(url, trust).owner(b"abc"), ALICE)
        self.assertEqual(len(self.endpoint.asked), 1)
        self.assertIn("certificate verify failed", await self.failure(self.make(url)))
        url = f"https://127.0.0.2:{elsewhere.getHost().port}/introspect"
        self.assertIn("VerificationError", await self.failure(self.make(url, trust)))
        self.assertEqual(len(self.endpoint.asked), 1, "nobody else gets a token or the secret")
