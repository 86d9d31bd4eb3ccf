"""Binding raises at once and names what is taken; who shares a socket takes one connection at a time, and yields."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from mailstack.net.listeners import PATIENCE_SECONDS, ListenError, bind, serve_shared


def test_a_taken_port_is_named() -> None:
    first = bind("127.0.0.1", 0)
    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1 port {first.port}: Address already in use"):
        bind("127.0.0.1", first.port)
    assert str(first) == f"127.0.0.1:{first.port}"
    first.socket.close()


def test_an_address_of_somebody_else() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1 port 2525"):
        bind("192.0.2.1", 2525)


def test_both_families_share_a_port() -> None:
    six = bind("::1", 0)
    four = bind("127.0.0.1", six.port)
    assert str(six) == f"[::1]:{six.port}"
    six.socket.close()
    four.socket.close()


class Greeter(Protocol):
    """Counts connections with its factory, and ends them."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        assert self.factory is not None
        self.transport.loseConnection()
        self.factory.met(self)  # type: ignore[attr-defined]  # the factory below


class Greeters(Factory):
    protocol = Greeter

    def __init__(self, wanted: int) -> None:
        self.count = 0
        self.wanted = wanted
        self.all_met: Deferred[None] = Deferred()

    def met(self, _: Greeter) -> None:
        self.count += 1
        if self.count == self.wanted:
            self.all_met.callback(None)


class SharedPortTests(TestCase):
    def serve(self, wanted: int, *, has_more: bool) -> tuple[Greeters, Any]:
        from twisted.internet import reactor

        self.asked = 0

        def ask() -> bool:
            self.asked += 1
            return has_more

        bound, factory = bind("127.0.0.1", 0), Greeters(wanted)
        self.addCleanup(lambda: [client.close() for client in self.clients])
        self.clients = [socket.create_connection(("127.0.0.1", bound.port)) for _ in range(wanted)]  # they wait in the backlog
        port: Any = serve_shared(reactor, bound, factory, ask)
        self.addCleanup(port.stopListening)
        return factory, port

    async def test_each_turn_takes_one_connection_however_many_wait(self) -> None:
        factory, port = self.serve(5, has_more=False)
        for count in range(1, 5):
            port.doRead()
            self.assertEqual(count, factory.count)
        await factory.all_met
        self.assertEqual(5, self.asked, "asked before each")

    async def test_who_has_more_takes_it_all_the_same_when_nobody_else_does(self) -> None:
        factory, port = self.serve(3, has_more=True)
        port.doRead()
        self.assertEqual(0, factory.count, "not at once")
        await factory.all_met
        self.assertEqual(3, self.asked)

    async def test_a_stop_while_it_waits_for_others_leaves_nothing_behind(self) -> None:
        factory, port = self.serve(1, has_more=True)
        port.doRead()
        (waiting,) = [call for call in self._calls() if call.func == port._accept]
        await port.stopListening()
        self.assertFalse(waiting.active())
        self.assertEqual(0, factory.count)

    def _calls(self) -> list[Any]:
        from twisted.internet import reactor

        clock: Any = reactor
        return list(clock.getDelayedCalls())

    def test_patience_is_short(self) -> None:
        self.assertLess(PATIENCE_SECONDS, 0.01)
