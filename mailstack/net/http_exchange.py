"""
One request by HTTP and its response, within bounds: what `https` and `introspection` ask by.

It goes over a connection of its own, to the endpoint that is given, whatever the URL says; a redirection is a response like any
other. Of a response no more is read than was said, its head included. And the connection is dropped in the end, whatever the
other side does: one that has answered need not close it, nor end what it says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, Final, Self, TypeVar

from OpenSSL import SSL
from service_identity.exceptions import CertificateError, VerificationError
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import TLSVersion, optionsForClientTLS
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

_OF_CERTIFICATES: Final = (SSL.Error, VerificationError, CertificateError)

T = TypeVar("T")


class NoResponseError(Exception):
    """There is no response, or not all of it; `is_certificate`: since the host could not show that it is the one."""

    def __init__(self, why: str, *, is_certificate: bool = False) -> None:
        super().__init__(why)
        self.is_certificate = is_certificate


class TooLongError(Exception):
    """A body is longer than it may be."""


class LateError(Exception):
    """Something was not done in its time."""


class HTTPExchange:
    """
    A request and the head of its response; the connection ends with the `with`.

    Shape:  no more than `most_octets` are read of the response, its head included.
    """

    def __init__(self, reactor: Any, endpoint: IStreamClientEndpoint, most_octets: int) -> None:
        self._reactor = reactor
        self._endpoint = _Metered(endpoint, most_octets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._endpoint.drop()

    async def ask(self, method: bytes, url: str, headers: Headers | None = None, octets: bytes | None = None) -> IResponse:
        """
        Send a request, and return the response once its head is there.

        Raises:  NoResponseError; ValueError: the URL is none.
        """
        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent = Agent.usingEndpointFactory(self._reactor, self._endpoint, pool=pool)
        return await _certain(agent.request(method, url.encode("ascii"), headers, None if octets is None else _Octets(octets)))


async def body_of(response: IResponse, most_octets: int, *, ends_by_itself: bool = False) -> bytes:
    """
    Return the body of a response.

    Shape:   `ends_by_itself`: who reads the body sees whether it is whole, so that it needs no length.
    Raises:  NoResponseError.
    """
    body = _Body(most_octets, (ResponseDone, PotentialDataLoss) if ends_by_itself else (ResponseDone,))
    response.deliverBody(body)
    return await _certain(body.whole)


def with_tls(endpoint: IStreamClientEndpoint, host: str, trust: Any = None) -> IStreamClientEndpoint:
    """
    Return the endpoint of a host with TLS, whose certificate must be the host's.

    Shape:  `trust` are the authorities (an IOpenSSLTrustRoot), None: those of this machine.
    """
    more: dict[str, Any] = {} if trust is None else {"trustRoot": trust}
    options = optionsForClientTLS(host, extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2}, **more)
    return wrapClientTLS(options, endpoint)


async def within(reactor: Any, seconds: float, asking: Coroutine[Any, Any, T]) -> T:
    """
    Return what is asked for, if it is there in time.

    Raises:  LateError; and what `asking` raises.
    """
    waiting: Deferred[T] = Deferred.fromCoroutine(asking)
    waiting.addTimeout(seconds, reactor)
    try:
        return await waiting
    except DeferredTimeoutError:
        raise LateError(f"no answer within {seconds:g} s") from None


def cause_of(error: BaseException) -> str:
    """Return an error in a few words, for the log."""
    return f"{type(error).__name__}: {error}"[:200]


async def _certain(waiting: Awaitable[T]) -> T:
    try:
        return await waiting
    except CancelledError:
        raise
    except Exception as error:  # a bulkhead: whatever keeps us from a response, there is none
        causes = [each.value for each in getattr(error, "reasons", ())] or [error]  # as the Agent has it
        if any(isinstance(each, CancelledError) for each in causes):
            raise CancelledError from None
        is_certificate = any(isinstance(each, _OF_CERTIFICATES) for each in causes)
        raise NoResponseError("; ".join(map(cause_of, causes))[:500], is_certificate=is_certificate) from None


class _Body(Protocol):
    """Gathers a body, which is whole when one of `ends` has come."""

    def __init__(self, most_octets: int, ends: tuple[type[Exception], ...]) -> None:
        self._most_octets = most_octets
        self._ends = ends
        self._octets = bytearray()
        self.whole: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self._octets += data
        if len(self._octets) > self._most_octets:
            self.whole.errback(Failure(TooLongError(f"more than {self._most_octets} octets")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(*self._ends):
            self.whole.callback(bytes(self._octets))
        else:  # a body without length that was not ended as TLS ends may be half of it
            self.whole.errback(reason)


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Metered:
    """An endpoint, whatever the URL, whose connection ends when it brings too much, in whatever part of a response."""

    def __init__(self, endpoint: IStreamClientEndpoint, most_octets: int) -> None:
        self._endpoint = endpoint
        self._most_octets = most_octets
        self._connection: Any = None

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        factory = _MeteredFactory(protocolFactory)  # type: ignore[no-untyped-call]  # Twisted's is untyped
        factory.most_octets = self._most_octets
        protocolFactory.noisy = False
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(self._connected)

    def _connected(self, connection: Any) -> Any:
        self._connection = connection
        return connection.wrappedProtocol

    def drop(self) -> None:
        """End the connection, whatever the other side does."""
        if self._connection is not None:
            self._connection.abortConnection()


class _MeteredProtocol(ProtocolWrapper):
    _received = 0

    def dataReceived(self, data: bytes) -> None:
        factory: Any = self.factory
        self._received += len(data)
        if self._received > factory.most_octets:
            transport: Any = self.transport
            transport.abortConnection()
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # as above


class _MeteredFactory(WrappingFactory):
    noisy = False
    protocol = _MeteredProtocol
    most_octets = 0


@implementer(IBodyProducer)
class _Octets:
    """What is sent with a request, in one write."""

    def __init__(self, octets: bytes) -> None:
        self.length = len(octets)
        self._octets = octets

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing: it is all written."""

    resumeProducing = stopProducing = pauseProducing
