"""Connections that we make, over real sockets: prompt, and otherwise as the reactor's own."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from mailstack.net.prompt import PromptTCP


class Keeps(Protocol):
    def __init__(self):
        self.octets = b""
        self.ended = Deferred()

    def dataReceived(self, data):
        self.octets += data

    def connectionLost(self, reason=None):
        self.ended.callback(None)


class PromptTCPTests(TestCase):
    timeout = 20

    def setUp(self):
        self.served = Keeps()
        self.port = reactor.listenTCP(0, self.factory(self.served), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)

    def factory(self, protocol):
        made = Factory()
        made.noisy = False
        made.buildProtocol = lambda addr: protocol
        return made

    async def connect(self, port=None):
        endpoint = TCP4ClientEndpoint(PromptTCP(reactor), "127.0.0.1", port or self.port.getHost().port, timeout=5)
        return await endpoint.connect(self.factory(Keeps()))

    async def test_what_is_written_has_left_when_write_returns(self):
        client = await self.connect()
        client.transport.write(b"one")
        self.assertNotIn(client.transport, reactor.getWriters())
        client.transport.write(b"two")
        client.transport.loseConnection()
        await self.served.ended
        self.assertEqual(self.served.octets, b"onetwo")

    async def test_what_the_peer_does_not_take_yet_follows(self):
        whole = bytes(range(256)) * 40_000
        client = await self.connect()
        for start in range(0, len(whole), 1_000_000):
            client.transport.write(whole[start : start + 1_000_000])
        client.transport.loseConnection()
        await self.served.ended
        self.assertEqual(self.served.octets, whole)

    async def test_a_closed_port_is_an_error(self):
        number = self.port.getHost().port
        await self.port.stopListening()
        with self.assertRaises(Refused):
            await self.connect(number)
