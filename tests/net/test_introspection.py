"""Whose is a token? Asked of a real HTTP server on loopback."""

from __future__ import annotations

import json

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mailstack.net.introspection import ANSWER_OCTETS, REMEMBERED_SECONDS, Introspection, IntrospectionError

NOW = 1_800_000_000.0


class Endpoint(Resource):
    isLeaf = True

    def __init__(self):
        super().__init__()
        self.asked = []
        self.code = 200
        self.answer = json.dumps({"active": True, "username": "alice@example.org", "exp": NOW + 3_600}).encode()

    def render_POST(self, request):
        self.asked.append((request.args, request.getUser(), request.getPassword(), request.getHeader("accept")))
        request.setResponseCode(self.code)
        if self.answer is None:
            return NOT_DONE_YET
        return self.answer


class IntrospectionTests(TestCase):
    timeout = 20

    def setUp(self):
        self.endpoint = Endpoint()
        site = Site(self.endpoint)
        site.noisy = False
        self.port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.now = NOW
        self.introspection = self.make(f"http://127.0.0.1:{self.port.getHost().port}/introspect")

    def make(self, url):
        return Introspection(reactor, url, client="mail stack", secret="s:cret%", claim="username", now=lambda: self.now)

    async def test_a_good_token(self):
        self.assertEqual(await self.introspection.owner(b"abc.def=="), "alice@example.org")
        [(args, user, password, accept)] = self.endpoint.asked
        self.assertEqual(args, {b"token": [b"abc.def=="], b"token_type_hint": [b"access_token"]})
        self.assertEqual((user, password), (b"mail%20stack", b"s%3Acret%25"))
        self.assertEqual(accept, "application/json")

    async def test_it_is_believed_for_a_while(self):
        for _ in range(3):
            await self.introspection.owner(b"abc")
        self.assertEqual(len(self.endpoint.asked), 1)
        await self.introspection.owner(b"other")
        self.assertEqual(len(self.endpoint.asked), 2)
        self.now += REMEMBERED_SECONDS + 1
        self.endpoint.answer = b'{"active": false}'
        self.assertIsNone(await self.introspection.owner(b"abc"))

    async def test_not_for_longer_than_it_is_good(self):
        self.endpoint.answer = json.dumps({"active": True, "username": "alice@example.org", "exp": NOW + 5}).encode()
        self.assertEqual(await self.introspection.owner(b"abc"), "alice@example.org")
        self.now += 6
        self.assertIsNone(await self.introspection.owner(b"abc"))

    async def test_tokens_of_nobody(self):
        for answer in (
            {"active": False},
            {"active": False, "username": "alice@example.org"},
            {"active": "true", "username": "alice@example.org"},
            {"active": True},
            {"active": True, "username": ""},
            {"active": True, "username": 5},
            {"active": True, "username": "alice@example.org", "exp": NOW - 1},
            {"active": True, "username": "alice@example.org", "exp": "later"},
            {},
        ):
            self.endpoint.answer = json.dumps(answer).encode()
            self.assertIsNone(await self.introspection.owner(b"abc"), answer)

    async def test_what_is_no_answer(self):
        for code, answer in (
            (401, b""),
            (500, b"{}"),
            (200, b"<html>"),
            (200, b"[]"),
            (200, b"\xff"),
            (200, b'{"active": true, "username": "' + b"x" * ANSWER_OCTETS + b'"}'),
        ):
            self.endpoint.code, self.endpoint.answer = code, answer
            with self.assertRaises(IntrospectionError) as caught:
                await self.introspection.owner(b"sesame")
            self.assertNotIn("sesame", str(caught.exception))
            self.assertNotIn("cret", str(caught.exception))

    async def test_nobody_there(self):
        number = self.port.getHost().port
        await self.port.stopListening()
        with self.assertRaises(IntrospectionError):
            await self.make(f"http://127.0.0.1:{number}/introspect").owner(b"abc")

    async def test_a_server_that_does_not_answer(self):
        self.patch(__import__("mailstack.net.introspection", fromlist=["x"]), "ANSWER_SECONDS", 0.05)
        self.endpoint.answer = None
        with self.assertRaises(IntrospectionError):
            await self.introspection.owner(b"abc")
        closed = Deferred()
        reactor.callLater(0.05, closed.callback, None)
        await closed
