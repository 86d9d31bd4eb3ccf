"""Binding raises at once and names what is taken; who shares a socket takes one connection at a time, and yields."""

from __future__ import annotations

import grp
import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailstack.net.listeners import PATIENCE_SECONDS, ListenError, bind, bind_unix, close, serve, serve_shared


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
        self.transport.setTcpNoDelay(True)  # as every protocol of ours does
        self.factory.addresses.append(self.transport.getPeer())  # type: ignore[attr-defined]  # the factory below
        self.transport.loseConnection()
        self.factory.met(self)  # type: ignore[attr-defined]  # the factory below


class Greeters(Factory):
    protocol = Greeter

    def __init__(self, wanted: int) -> None:
        self.count = 0
        self.wanted = wanted
        self.all_met: Deferred[None] = Deferred()
        self.addresses: list[Any] = []

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


class TestUNIX:
    def test_it_is_closed_to_others_whatever_the_umask(self, tmp_path: Path) -> None:
        mask = os.umask(0)
        try:
            bound = bind_unix(tmp_path / "s")
        finally:
            os.umask(mask)
        assert str(bound) == f"unix:{tmp_path}/s"
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        close(bound)
        assert list(tmp_path.iterdir()) == []

    def test_a_group_may_use_it(self, tmp_path: Path) -> None:
        group = grp.getgrgid(os.getgroups()[0] if os.getgroups() else os.getegid())
        bound = bind_unix(tmp_path / "s", group.gr_name)
        found = (tmp_path / "s").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, group.gr_gid)
        close(bound)

    def test_one_that_was_left_behind_is_replaced(self, tmp_path: Path) -> None:
        bind_unix(tmp_path / "s").socket.close()
        bound = bind_unix(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(bound.host)
        close(bound)

    def test_one_that_is_served_is_not(self, tmp_path: Path) -> None:
        bound = bind_unix(tmp_path / "s")
        with pytest.raises(ListenError, match=f"cannot listen on unix:{tmp_path}/s: another server listens there"):
            bind_unix(tmp_path / "s")
        assert (tmp_path / "s").lstat().st_ino == bound.inode
        close(bound)

    def test_one_that_is_busy_is_not(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
            busy.bind(str(tmp_path / "s"))
            busy.listen(0)
            first.connect(str(tmp_path / "s"))
            with pytest.raises(ListenError, match="another server listens there"):
                bind_unix(tmp_path / "s")

    def test_what_is_no_socket_stays(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("letters")
        (tmp_path / "link").symlink_to(tmp_path / "s")
        for name in ("s", "link"):
            with pytest.raises(ListenError, match=f"cannot listen on unix:{tmp_path}/{name}: there is something"):
                bind_unix(tmp_path / name)
        assert (tmp_path / "s").read_text() == "letters"

    def test_no_folder_and_no_group(self, tmp_path: Path) -> None:
        with pytest.raises(ListenError, match="s: No such file or directory"):
            bind_unix(tmp_path / "none" / "s")
        with pytest.raises(ListenError, match="s: there is no group nobody-is-in-it"):
            bind_unix(tmp_path / "s", "nobody-is-in-it")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_of_somebody_else_is_not_removed(self, tmp_path: Path) -> None:
        bound = bind_unix(tmp_path / "s")
        (tmp_path / "s").unlink()
        (tmp_path / "other").write_text("to keep the number of the file that is gone from being used again")
        other = bind_unix(tmp_path / "s")
        close(bound)
        assert (tmp_path / "s").exists()
        close(other)


class UNIXPortTests(TestCase):
    async def _greeted(self, serve: Any) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        bound, factory = bind_unix(Path(folder.name) / "s"), Greeters(3)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            self.addCleanup(client.close)
            client.connect(bound.host)
        port: Any = serve(bound, factory)
        self.addCleanup(port.stopListening)
        await factory.all_met
        self.assertEqual([UNIXAddress(None)] * 3, factory.addresses)
        self.assertEqual([b""] * 3, [await deferToThread(client.recv, 10) for client in clients])

    async def test_connections_have_no_address(self) -> None:
        from twisted.internet import reactor

        await self._greeted(lambda bound, factory: serve(reactor, bound, factory))  # type: ignore[arg-type]

    async def test_it_may_be_shared(self) -> None:
        from twisted.internet import reactor

        await self._greeted(lambda bound, factory: serve_shared(reactor, bound, factory, lambda: True))
