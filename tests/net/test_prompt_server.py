"""Connections that were accepted, over real sockets: prompt, and otherwise as the reactor's own."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.trial.unittest import TestCase

from mailstack.net.listeners import bind, serve
from mailstack.net.prompt import MOST_OCTETS, USUAL_OCTETS, PromptServer


class Served(Protocol):
    def __init__(self, factory):
        self.factory = factory

    def connectionMade(self):
        self.factory.made.callback(self)

    def connectionLost(self, reason=None):
        self.factory.reasons.append(reason.type)
        self.factory.lost.callback(None)


class Services(Factory):
    def __init__(self):
        self.reasons = []
        self.forget()

    def forget(self):
        self.made, self.lost = Deferred(), Deferred()

    def buildProtocol(self, addr):
        self.address = addr
        return Served(self)


@contextlib.contextmanager
def no_descriptors():
    """Have none left."""
    soft_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken, most = [], max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (most + 1, soft_hard[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, soft_hard)
        for each in taken:
            os.close(each)


def everything(client):
    octets = b""
    while piece := client.recv(1_000_000):
        octets += piece
    return octets


class PromptPortTests(TestCase):
    timeout = 20

    def serve(self, factory, host="127.0.0.1"):
        bound = bind(host, 0)
        self.port = serve(reactor, bound, factory)
        self.addCleanup(lambda: maybeDeferred(self.port.stopListening))
        self.to = (host, bound.port)

    def call(self):
        client = socket.create_connection(self.to, timeout=20)
        self.addCleanup(client.close)
        return client

    async def meet(self):
        self.factory = Services()
        self.serve(self.factory)
        client = self.call()
        return client, await self.factory.made

    async def test_what_is_written_has_left_when_write_returns(self):
        client, served = await self.meet()
        served.transport.write(b"one")
        self.assertEqual(client.recv(10), b"one")
        self.assertNotIn(served.transport, reactor.getWriters())

    async def test_the_end_comes_after_what_was_written_and_not_from_within_the_call(self):
        client, served = await self.meet()
        served.transport.write(b"bye")
        served.transport.loseConnection()
        served.transport.loseConnection()
        self.assertEqual(self.factory.reasons, [])
        self.assertNotIn(served.transport, reactor.getReaders())
        served.transport.write(b"too late")
        await self.factory.lost
        self.assertEqual(self.factory.reasons, [ConnectionDone])
        self.assertEqual(await deferToThread(everything, client), b"bye")

    async def test_what_the_peer_does_not_take_yet_follows_before_the_end(self):
        client, served = await self.meet()
        lines = [b"%06d\r\n" % number * 400 for number in range(4_000)]
        for line in lines:
            served.transport.write(line)
        served.transport.loseConnection()
        self.assertEqual(await deferToThread(everything, client), b"".join(lines))
        await self.factory.lost

    async def test_a_producer_is_waited_for(self):
        client, served = await self.meet()
        served.transport.registerProducer(self, streaming=True)
        served.transport.loseConnection()
        served.transport.write(b"more")
        served.transport.unregisterProducer()
        self.assertEqual(await deferToThread(everything, client), b"more")
        await self.factory.lost

    def stopProducing(self):
        """As a producer: nothing to do."""

    async def test_who_aborts_a_connection_that_is_closing_ends_it_once(self):
        _, served = await self.meet()
        served.transport.loseConnection()
        served.transport.abortConnection()
        await self.factory.lost
        self.assertEqual(len(self.factory.reasons), 1)
        self.assertIn(self.factory.reasons[0], (ConnectionDone, ConnectionAborted))

    async def test_a_peer_that_is_gone_is_found_by_the_reactor(self):
        client, served = await self.meet()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # an RST, at once
        client.close()
        served.transport.write(b"one")
        served.transport.write(b"two")
        self.assertEqual(self.factory.reasons, [])
        await self.factory.lost

    async def test_ipv6(self):
        factory = Services()
        self.serve(factory, "::1")
        self.call().sendall(b"x")
        served = await factory.made
        self.assertEqual(served.transport.getPeer().host, "::1")
        self.assertEqual(factory.address.host, "::1")
        served.transport.loseConnection()
        await factory.lost

    async def test_a_factory_that_fails_or_refuses_costs_that_connection_only(self):
        factory = Services()
        answers = [RuntimeError("broken factory"), None]
        build = factory.buildProtocol

        def answer(addr):
            if not answers:
                return build(addr)
            answered = answers.pop(0)
            if answered is not None:
                raise answered
            return None

        factory.buildProtocol = answer
        self.serve(factory)
        clients = [self.call() for _ in range(3)]
        await factory.made
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        for refused in clients[:2]:
            self.assertEqual(await deferToThread(everything, refused), b"")
        clients[2].close()
        await factory.lost

    async def test_a_protocol_that_fails_at_once_is_ended(self):
        class Fails(Served):
            def connectionMade(self):
                raise RuntimeError("broken protocol")

        factory = Services()
        factory.buildProtocol = lambda addr: Fails(factory)
        self.serve(factory)
        self.call()
        await factory.lost
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_without_descriptors_a_connection_is_refused_and_the_next_is_served(self):
        factory = Services()
        self.serve(factory)
        said = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        refused = self.call()
        with no_descriptors():
            self.port.doRead()
        self.assertEqual(refused.recv(10), b"")
        self.assertTrue([event for event in said if "EMFILE" in str(event.get("log_format", "")) + str(event)])
        client = self.call()
        await factory.made
        client.close()
        await factory.lost


class TestReads:
    """How much is read at once."""

    def sizes(self, kind: type[Protocol]) -> list[int]:
        transport = PromptServer.__new__(PromptServer)
        transport.protocol = kind.__new__(kind)
        transport.protocol.dataReceived = lambda data: None
        seen = []
        for octets in (USUAL_OCTETS, MOST_OCTETS, USUAL_OCTETS // 2, USUAL_OCTETS // 2 - 1, 1):
            transport._dataReceived(bytes(octets))
            seen.append(transport.bufferSize)
        return seen

    def test_who_sends_much_is_given_more_for_as_long_as_he_does(self):
        assert self.sizes(Protocol) == [MOST_OCTETS, MOST_OCTETS, MOST_OCTETS, USUAL_OCTETS, USUAL_OCTETS]

    def test_but_not_who_may_send_a_record_for_each_octet(self):
        assert self.sizes(TLSMemoryBIOProtocol) == [USUAL_OCTETS] * 5
