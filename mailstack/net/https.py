"""
HTTPS as a client: one question to one host, and its answer, within bounds.

The host must show a certificate of an authority that this machine trusts. Its address comes from our own resolver, and may be
one of this machine or of a private network only where that is allowed: who names the host is a stranger. Redirections are not
followed. What is read is bounded, the head as well as the body, and so is the time in all.

Source:  RFC 8461 §3.3 (what MTA-STS wants of it).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from OpenSSL import SSL
from service_identity.exceptions import CertificateError, VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import TLSVersion, optionsForClientTLS
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from mailstack.mail.answers import Answer, Found
from mailstack.mail.pages import NoPage, Page

HEAD_OCTETS: Final = 32_768
CONNECT_SECONDS: Final = 15.0
MAX_ADDRESSES: Final = 4
_OF_CERTIFICATES: Final = (SSL.Error, VerificationError, CertificateError)


class Addresses(Protocol):
    """Asks the DNS for addresses."""

    async def ipv4(self, name: str) -> Answer[str]:
        """Return the IPv4 addresses of a host."""

    async def ipv6(self, name: str) -> Answer[str]:
        """Return the IPv6 addresses of a host."""


class TooLongError(Exception):
    """An answer is longer than it may be."""


class HTTPS:
    """
    Asks hosts; any number of times at once.

    Shape:  `is_allowed` says whether an address may be connected to; `trust` are the authorities (an IOpenSSLTrustRoot), None
            means those of this machine; `port` is that of URLs which name none.
    """

    def __init__(
        self,
        reactor: Any,
        addresses: Addresses,
        *,
        is_allowed: Callable[[str], bool],
        trust: Any = None,
        port: int = 443,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._reactor = reactor
        self._addresses = addresses
        self._is_allowed = is_allowed
        self._trust = trust
        self._port = port
        self._timeout_seconds = timeout_seconds

    async def get(self, host: str, path: str, most_octets: int) -> Page | NoPage:
        """Fetch a page; an answer that is longer is none."""
        return await self._in_time(self._ask(b"GET", host, self._port, path, most_octets, None, None))

    async def post(self, host: str, port: int | None, path: str, media_type: str, octets: bytes) -> Page | NoPage:
        """Hand over octets."""
        headers = Headers({b"Content-Type": [media_type.encode("ascii")]})
        asking = self._ask(b"POST", host, port or self._port, path, HEAD_OCTETS, headers, _Octets(octets))
        return await self._in_time(asking)

    async def _in_time(self, asking: Any) -> Page | NoPage:
        waiting: Deferred[Page | NoPage] = Deferred.fromCoroutine(asking)
        waiting.addTimeout(self._timeout_seconds, self._reactor)
        try:
            return await waiting
        except CancelledError:
            raise
        except DeferredTimeoutError:
            return NoPage("no answer in time")
        except Exception as error:  # a bulkhead: a name that nobody can have, for instance
            return NoPage(_why(error))

    async def _ask(
        self, method: bytes, host: str, port: int, path: str, most_octets: int, headers: Headers | None, body: Any
    ) -> Page | NoPage:
        addresses = await self._addresses_of(host)
        if not addresses:
            return NoPage(f"{host} has no address that may be used")
        page: Page | NoPage = NoPage("")
        for address in addresses[:MAX_ADDRESSES]:
            endpoint = _Bounded(self._endpoint(host, address, port), most_octets + HEAD_OCTETS)
            agent = Agent.usingEndpointFactory(
                self._reactor, _Only(endpoint), pool=HTTPConnectionPool(self._reactor, persistent=False)
            )
            place = host if port == self._port else f"{host}:{port}"
            try:
                asked = agent.request(method, f"https://{place}{path}".encode("ascii"), headers, body)
                page = await _answer(asked, most_octets)
            finally:
                endpoint.drop()
            if isinstance(page, Page) or page.is_certificate:
                break
        return page

    async def _addresses_of(self, host: str) -> list[str]:
        answers = [await self._addresses.ipv6(host), await self._addresses.ipv4(host)]
        found = [each for answer in answers if isinstance(answer, Found) for each in answer.records[:MAX_ADDRESSES]]
        return [each for each in found if self._is_allowed(each)]

    def _endpoint(self, host: str, address: str, port: int) -> IStreamClientEndpoint:
        more: dict[str, Any] = {} if self._trust is None else {"trustRoot": self._trust}
        options = optionsForClientTLS(host, extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2}, **more)
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        return wrapClientTLS(options, kind(self._reactor, address, port, timeout=CONNECT_SECONDS))


async def _answer(asked: Awaitable[Any], most_octets: int) -> Page | NoPage:
    try:
        response = await asked
        kind = b"".join(response.headers.getRawHeaders(b"content-type", [b""])[:1]).partition(b";")[0]
        body = _Body(most_octets)
        response.deliverBody(body)
        octets = await body.done
    except CancelledError:
        raise
    except Exception as error:  # a bulkhead: whatever keeps us from an answer, there is none
        if isinstance(error, ResponseFailed) and any(each.check(CancelledError) for each in error.reasons):
            raise CancelledError from error
        return NoPage(_why(error), is_certificate=_is_of_certificate(error))
    return Page(response.code, kind.strip(b" \t").decode("ascii", "replace").lower(), octets)


def _why(error: Exception) -> str:
    causes = [each.value for each in error.reasons] if isinstance(error, ResponseFailed) else [error]
    return "; ".join(f"{type(each).__name__}: {each}"[:200] for each in causes)[:500]


def _is_of_certificate(error: Exception) -> bool:
    return isinstance(error, ResponseFailed) and any(each.check(*_OF_CERTIFICATES) for each in error.reasons)


class _Body(TwistedProtocol):
    """Gathers a body."""

    def __init__(self, most_octets: int) -> None:
        self._most_octets = most_octets
        self._octets = bytearray()
        self.done: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        if len(self._octets) > self._most_octets and not self.done.called:
            self.done.errback(Failure(TooLongError(f"more than {self._most_octets} octets")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(bytes(self._octets))
        else:  # a body without length that was not ended as TLS ends may be half of it
            self.done.errback(reason)


@implementer(IAgentEndpointFactory)
class _Only:
    """Gives the one endpoint, whatever the URL."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self._endpoint


@implementer(IStreamClientEndpoint)
class _Bounded:
    """An endpoint whose connections end when they bring too much, in whatever part of an answer."""

    def __init__(self, endpoint: IStreamClientEndpoint, most_octets: int) -> None:
        self._endpoint = endpoint
        self._most_octets = most_octets
        self._connection: Any = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        factory = _BoundedFactory(protocolFactory)  # type: ignore[no-untyped-call]  # Twisted's is untyped
        factory.most_octets = self._most_octets
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(self._connected)

    def _connected(self, connection: Any) -> Any:
        self._connection = connection
        return connection.wrappedProtocol

    def drop(self) -> None:
        """End the connection, whatever the other side does: one that has answered need not close it, nor end its answer."""
        if self._connection is not None:
            self._connection.abortConnection()


class _BoundedProtocol(ProtocolWrapper):
    received = 0

    def dataReceived(self, data: bytes) -> None:
        factory: Any = self.factory
        self.received += len(data)
        if self.received > factory.most_octets:
            transport: Any = self.transport
            transport.abortConnection()
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # as below


class _BoundedFactory(WrappingFactory):
    noisy = False
    protocol = _BoundedProtocol
    most_octets = 0


@implementer(IBodyProducer)
class _Octets:
    """A body that is there."""

    def __init__(self, octets: bytes) -> None:
        self.length = len(octets)
        self._octets = octets

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._octets)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """Do nothing: it is all written."""

    resumeProducing = stopProducing = pauseProducing
