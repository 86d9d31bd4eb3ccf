"""HTTPS against a real server on loopback."""

from __future__ import annotations

import time

from OpenSSL import crypto
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from mailstack.console.certificates import make_authority, make_server
from mailstack.mail.answers import Empty, Found
from mailstack.mail.pages import NoPage, Page
from mailstack.net.https import HTTPS
from mailstack.testing.dns import FakeResolver

AUTHORITY = make_authority("www.test", time.time())
TRUST = ssl.trustRootFromCertificates([ssl.Certificate(crypto.X509.from_cryptography(AUTHORITY.certificate))])
OK = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"


class EveryName:
    async def ipv4(self, name):
        return Found(("127.0.0.1",))

    async def ipv6(self, name):
        return Empty()


class Answering(Protocol):
    """Says what it was told to when a request has come; None: nothing."""

    def connectionMade(self):
        self.factory.connections.append(self)
        self.ended = Deferred()
        self.octets = b""

    def dataReceived(self, data):
        self.octets += data
        head, found, body = self.octets.partition(b"\r\n\r\n")
        if found and (b"POST" not in head or body) and self.factory.said is not None:
            self.factory.requests.append(self.octets)
            self.transport.write(self.factory.said)
            if self.factory.closes:
                self.transport.loseConnection()

    def connectionLost(self, reason=None):
        self.ended.callback(None)


class HTTPSTests(TestCase):
    timeout = 20

    def serve(self, said, *, name="www.test", authority=AUTHORITY, closes=False):
        pair = make_server(authority, name, time.time())
        factory = Factory.forProtocol(Answering)
        factory.noisy = False
        factory.said, factory.closes, factory.requests, factory.connections = said, closes, [], []
        options = ssl.CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(pair.key), certificate=crypto.X509.from_cryptography(pair.certificate)
        )
        self.port = port = reactor.listenSSL(0, factory, options, interface="127.0.0.1")

        async def stop():
            await port.stopListening()
            for connection in factory.connections:
                await connection.ended

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return factory

    def https(self, *, is_allowed=lambda address: True, zone="www.test A 127.0.0.1", trust=TRUST, **more):
        number = self.port.getHost().port
        return HTTPS(reactor, FakeResolver(zone), is_allowed=is_allowed, trust=trust, port=number, **more)

    async def get(self, most_octets=100, **more):
        return await self.https(**more).get("www.test", "/a/b.txt", most_octets)

    async def test_a_page(self):
        factory = self.serve(OK)
        self.assertEqual(await self.get(), Page(200, "text/plain", b"hello"))
        head = factory.requests[0].split(b"\r\n")
        self.assertEqual(head[0], b"GET /a/b.txt HTTP/1.1")
        self.assertIn(b"Host: www.test", head)

    async def test_in_chunks_and_up_to_the_end_of_the_connection(self):
        self.serve(CHUNKED)
        self.assertEqual(await self.get(), Page(200, "", b"hello"))

    async def test_another_status_is_an_answer_too_and_a_redirection_is_not_followed(self):
        factory = self.serve(b"HTTP/1.1 302 Found\r\nLocation: https://www.test/other\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(await self.get(), Page(302, "", b""))
        self.assertEqual(len(factory.requests), 1)

    async def test_too_long(self):
        for said in (
            OK.replace(b"5\r\n\r\nhello", b"101\r\n\r\n" + b"x" * 101),
            CHUNKED.replace(b"3\r\nhel", b"80\r\n" + b"x" * 128),
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
            b"x" * 100_000,
        ):
            self.serve(said)
            self.assertIsInstance(await self.get(), NoPage, said[:80])

    async def test_cut(self):
        self.serve(OK.replace(b"5\r\n", b"50\r\n"), closes=True)
        self.assertIsInstance(await self.get(), NoPage)

    async def test_no_answer_in_time(self):
        self.serve(None)
        self.assertEqual(await self.get(timeout_seconds=0.2), NoPage("no answer within 0.2 s"))

    async def test_a_body_that_does_not_end_in_time(self):
        factory = self.serve(OK.replace(b"5\r\n", b"50\r\n"))
        self.assertEqual(await self.get(timeout_seconds=0.5), NoPage("no answer within 0.5 s"))
        await factory.connections[0].ended

    async def test_a_body_that_goes_on_for_ever(self):
        factory = self.serve(OK.replace(b"5\r\n\r\nhello", b"1000\r\n\r\n" + b"x" * 101))
        self.assertIn("more than 100 octets", (await self.get()).cause)
        await factory.connections[0].ended

    async def test_certificates(self):
        other = make_authority("www.test", time.time())
        for more, trust in (({"name": "other.test"}, TRUST), ({"authority": other}, TRUST), ({}, None)):
            factory = self.serve(OK, **more)
            page = await self.get(trust=trust)
            self.assertTrue(page.is_certificate, page)
            self.assertEqual(factory.requests, [])

    async def test_addresses(self):
        self.serve(OK)
        page = await self.get(zone="www.test A 127.0.0.66\nwww.test A 127.0.0.1")
        self.assertIsInstance(page, Page)
        for zone in ("", "www.test SERVFAIL", "www.test MX 10 x"):
            self.assertIsInstance(await self.get(zone=zone), NoPage)

    async def test_an_address_that_is_not_allowed_is_not_connected_to(self):
        factory = self.serve(OK)
        self.assertIsInstance(await self.get(is_allowed=lambda address: address != "127.0.0.1"), NoPage)
        self.assertEqual(factory.connections, [])

    async def test_names_that_nobody_can_have(self):
        self.serve(OK)
        for name in ("a_b.test", "*.test", "bücher.test", "-.test", "a b.test", "x" * 300):
            https = self.https(zone="")
            https._addresses = EveryName()
            self.assertIsInstance(await https.get(name, "/", 100), NoPage, name)

    async def test_a_post(self):
        factory = self.serve(OK)
        page = await self.https().post("www.test", None, "/in", "application/tlsrpt+gzip", b"octets")
        self.assertEqual(page.status, 200)
        (request,) = factory.requests
        self.assertTrue(request.startswith(b"POST /in HTTP/1.1\r\n"))
        self.assertTrue(request.endswith(b"\r\n\r\noctets"))
        self.assertIn(b"Content-Type: application/tlsrpt+gzip\r\n", request)
