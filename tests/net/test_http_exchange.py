"""One request and its response, against a server on loopback that says what it was told to; TLS is shown in `test_https`."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http_headers import Headers

from mailstack.net.http_exchange import HTTPExchange, LateError, NoResponseError, body_of, cause_of, within

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
WITHOUT_LENGTH = b"HTTP/1.0 200 OK\r\n\r\nhello"


class Saying(Protocol):
    """Says what its factory has to say once a head has come."""

    def connectionMade(self) -> None:
        self.factory.open.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.factory.heard += data
        if b"\r\n\r\n" in self.factory.heard:
            self.transport.write(self.factory.said)
            if self.factory.closes:
                self.transport.loseConnection()
            self.factory.has_asked.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.open.remove(self)


class HTTPExchangeTests(TestCase):
    timeout = 20

    def exchange(self, said: bytes, most_octets: int = 1_000, *, closes: bool = False) -> HTTPExchange:
        self.server: Any = Factory.forProtocol(Saying)
        self.server.noisy = False
        self.server.said, self.server.closes = said, closes
        self.server.heard, self.server.open, self.server.has_asked = b"", [], Deferred()
        port: Any = reactor.listenTCP(0, self.server, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        return HTTPExchange(reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), most_octets)

    async def heard(self, said: bytes, most_octets: int = 1_000, body_octets: int = 100, **more: Any) -> bytes:
        with self.exchange(said, most_octets, closes=more.pop("closes", False)) as exchange:
            return await body_of(await exchange.ask(b"GET", "http://elsewhere.test/a"), body_octets, **more)

    async def why_not(self, *arguments: Any, **more: Any) -> str:
        with self.assertRaises(NoResponseError) as caught:
            await self.heard(*arguments, **more)
        self.assertFalse(caught.exception.is_certificate)
        await self.until_dropped()
        return str(caught.exception)

    async def until_dropped(self) -> None:
        while self.server.open:
            over: Deferred[None] = Deferred()
            reactor.callLater(0.005, over.callback, None)  # type: ignore[attr-defined]
            await over

    async def test_it_goes_to_the_endpoint_whatever_the_url(self) -> None:
        with self.exchange(OK) as exchange:
            response = await exchange.ask(b"POST", "http://elsewhere.test/a?b", Headers({"X-More": ["of this"]}), b"octets")
            self.assertEqual((response.code, await body_of(response, 5)), (200, b"hello"))
        head, _, sent = self.server.heard.partition(b"\r\n\r\n")
        self.assertEqual((head[:19], sent), (b"POST /a?b HTTP/1.1\r", b"octets"))
        self.assertIn(b"\r\nHost: elsewhere.test", head)
        self.assertIn(b"\r\nX-More: of this", head)
        await self.until_dropped()

    async def test_no_more_is_read_than_was_said(self) -> None:
        self.assertEqual(await self.heard(OK, len(OK), 5), b"hello")
        self.assertIn("more than 4 octets", await self.why_not(OK, len(OK), 4))
        for said in (OK[:-1] + b"." * 996, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 999):
            await self.why_not(said.replace(b"5\r\n", b"1000\r\n"), 1_000, 10_000)

    async def test_a_body_without_a_length_is_whole_only_for_who_sees_that_it_is(self) -> None:
        self.assertIn("PotentialDataLoss", await self.why_not(WITHOUT_LENGTH, closes=True))
        self.assertEqual(await self.heard(WITHOUT_LENGTH, closes=True, ends_by_itself=True), b"hello")
        cut = OK.replace(b"5\r\n", b"6\r\n")
        await self.why_not(cut, closes=True, ends_by_itself=True)

    async def test_the_head_is_enough_for_who_wants_no_more(self) -> None:
        with self.exchange(b"HTTP/1.1 503 Busy\r\nContent-Length: 999999\r\n\r\n") as exchange:
            self.assertEqual((await exchange.ask(b"GET", "http://a.test/")).code, 503)
        await self.until_dropped()

    async def test_a_url_that_is_none_is_not_asked_for(self) -> None:
        with self.exchange(OK) as exchange:
            for url in ("http://a.test/\r\nX: y", "http://bücher.test/"):
                with self.assertRaises(ValueError):
                    await exchange.ask(b"GET", url)
        self.assertEqual(self.server.heard, b"")

    async def test_who_is_cancelled_is_cancelled_in_every_part_of_it(self) -> None:
        for said in (b"", b"HTTP/1.1 200 OK\r\n", OK[:-1]):
            asking = Deferred.fromCoroutine(self.heard(said))
            await self.server.has_asked
            asking.cancel()
            with self.assertRaises(CancelledError):
                await asking
            await self.until_dropped()


class WithinTests(SynchronousTestCase):
    def test_in_time_and_late(self) -> None:
        for seconds, is_late in ((2.4, False), (2.5, True)):
            clock, answer = Clock(), Deferred[int]()
            waiting = Deferred.fromCoroutine(within(clock, 2.5, self.wait_for(answer)))
            clock.advance(seconds)
            if is_late:
                self.assertEqual(str(self.failureResultOf(waiting, LateError).value), "no answer within 2.5 s")
            else:
                answer.callback(5)
                self.assertEqual(self.successResultOf(waiting), 5)
            self.assertEqual(clock.getDelayedCalls(), [])

    def test_what_it_raises_comes_through_and_who_is_cancelled_is_not_late(self) -> None:
        answer: Deferred[int] = Deferred()
        waiting = Deferred.fromCoroutine(within(Clock(), 1, self.wait_for(answer)))
        answer.errback(ConnectionDone())
        self.failureResultOf(waiting, ConnectionDone)
        waiting = Deferred.fromCoroutine(within(Clock(), 1, self.wait_for(Deferred())))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def test_a_cause_has_an_end(self) -> None:
        self.assertEqual(cause_of(ValueError("no")), "ValueError: no")
        self.assertEqual(len(cause_of(ValueError("x" * 999))), 200)

    @staticmethod
    async def wait_for(answer: Deferred[int]) -> int:
        return await answer
