"""
One question and its answer, over UDP or TCP.

A UDP answer counts only from the server that was asked, with our id and our question; anything else is ignored, and the wait
goes on, so that a forged datagram cannot end it. Each question has a socket, and so a random port, of its own (RFC 5452 §9.2).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any, Final

import dns.exception
import dns.message
import dns.rdatatype
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.python.failure import Failure

MESSAGE_OCTETS: Final = 65_535


class NoAnswerError(Exception):
    """A server gave no answer to a question; the message says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A nameserver by its IP address."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        return f"{self.address}#{self.port}"

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is an IPv6 one."""
        return ":" in self.address

    @property
    def is_loopback(self) -> bool:
        """Whether the path to it is within this machine."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback


class Exchanges:
    """Sends one query to one server and waits, at most `timeout_seconds`, for the response."""

    def __init__(self, reactor: Any, timeout_seconds: float) -> None:
        self._reactor = reactor
        self._timeout_seconds = timeout_seconds

    async def udp(self, server: Server, query: dns.message.Message) -> dns.message.QueryMessage:
        """
        Ask by UDP; the answer may be cut (TC).

        Raises:  NoAnswerError, OSError.
        """
        protocol = _Datagrams(server, query)
        try:
            port = self._reactor.listenUDP(0, protocol, interface="::" if server.is_ipv6 else "")
        except CannotListenError as error:  # which is no OSError, but carries one
            raise OSError(f"no socket: {error.socketError}") from error
        try:
            return await self._in_time(protocol.response)
        finally:
            port.stopListening()

    async def tcp(self, server: Server, query: dns.message.Message) -> dns.message.QueryMessage:
        """
        Ask by TCP.

        Raises:  NoAnswerError, DNSException, OSError.
        """
        kind = TCP6ClientEndpoint if server.is_ipv6 else TCP4ClientEndpoint
        endpoint = kind(self._reactor, server.address, server.port, timeout=self._timeout_seconds)
        protocol = _Stream(query)
        try:
            await endpoint.connect(_Once(protocol))
            return await self._in_time(protocol.response)
        except CancelledError:
            raise
        except (NoAnswerError, dns.exception.DNSException, OSError):
            raise
        except Exception as error:  # Twisted's own errors of connecting are no OSErrors
            raise NoAnswerError(f"TCP: {error or type(error).__name__}") from error
        finally:
            protocol.close()

    async def _in_time(self, response: Deferred[dns.message.QueryMessage]) -> dns.message.QueryMessage:
        response.addTimeout(self._timeout_seconds, self._reactor)
        try:
            return await response
        except DeferredTimeoutError:
            raise NoAnswerError("timeout") from None


class _Once(Factory):
    """Gives the one protocol that there is."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        return self._protocol


class _Datagrams(DatagramProtocol):
    noisy = False

    def __init__(self, server: Server, query: dns.message.Message) -> None:
        self._server = server
        self._query = query
        self.response: Deferred[dns.message.QueryMessage] = Deferred()

    def startProtocol(self) -> None:
        transport: Any = self.transport
        # Connected, the kernel drops what others send, and tells us of a port that is closed.
        transport.connect(self._server.address, self._server.port)
        transport.write(self._query.to_wire())

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        if self.response.called:
            return
        try:
            response: dns.message.Message | None = _parse(datagram, self._query)
        except (dns.exception.DNSException, ValueError):
            response = _cut(datagram, self._query)
        if isinstance(response, dns.message.QueryMessage) and self._query.is_response(response):
            self.response.callback(response)

    def connectionRefused(self) -> None:
        if not self.response.called:
            self.response.errback(Failure(NoAnswerError("port closed")))

    def stopProtocol(self) -> None:
        # The epoll reactor takes the error of a closed port for the end of our own socket, and calls this instead of the above.
        self.connectionRefused()


def _parse(octets: bytes, query: dns.message.Message) -> dns.message.Message:
    """
    Parse a response. TLSA records with a digest of a wrong length are only noted in its `errors`: dnspython refuses them, and
    that would hide the others, or that there are any.

    Raises:  DNSException, ValueError.
    """
    is_lenient = query.question[0].rdtype == dns.rdatatype.TLSA
    return dns.message.from_wire(octets, ignore_trailing=True, continue_on_error=is_lenient)


def _cut(datagram: bytes, query: dns.message.Message) -> dns.message.Message | None:
    """Return what can be read of a response that says itself that it is cut: some servers cut within a record."""
    try:
        response = dns.message.from_wire(datagram, ignore_trailing=True, question_only=True)
    except (dns.exception.DNSException, ValueError):
        return None
    return response if response.flags & dns.flags.TC and query.is_response(response) else None


class _Stream(Protocol):
    def __init__(self, query: dns.message.Message) -> None:
        self._query = query
        self._octets = bytearray()
        self.response: Deferred[dns.message.QueryMessage] = Deferred()

    def connectionMade(self) -> None:
        wire = self._query.to_wire()
        self._send(struct.pack("!H", len(wire)) + wire)

    def _send(self, octets: bytes) -> None:
        transport: Any = self.transport
        transport.write(octets)

    def dataReceived(self, data: bytes) -> None:
        if self.response.called:
            return
        self._octets += data
        if len(self._octets) < 2:
            return
        (length,) = struct.unpack_from("!H", self._octets)
        if len(self._octets) < 2 + length:
            return
        try:
            response = _parse(bytes(self._octets[2 : 2 + length]), self._query)
        except (dns.exception.DNSException, ValueError) as error:
            self.response.errback(Failure(NoAnswerError(f"bad response: {error}")))
            return
        if not isinstance(response, dns.message.QueryMessage) or not self._query.is_response(response):
            self.response.errback(Failure(NoAnswerError("an answer to another question")))
        elif response.flags & dns.flags.TC:
            self.response.errback(Failure(NoAnswerError("cut, by TCP")))
        else:
            self.response.callback(response)

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008 (Twisted's signature)
        if not self.response.called:
            self.response.errback(Failure(NoAnswerError("connection closed")))

    def close(self) -> None:
        """End the connection, at once."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()
