"""Writing straight into the kernel, and waiting when it takes no more."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import Clock

from mailstack.retrieve.flow import GATHERED_OCTETS, RUN_OCTETS, Flow


class IdleReactor:
    """Lets a descriptor ask for whatever it likes; the test does what the reactor would."""

    def addWriter(self, writer: object) -> None: ...

    def removeWriter(self, writer: object) -> None: ...

    def removeReader(self, reader: object) -> None: ...


class Socket(FileDescriptor):
    """A transport whose kernel has room for so many octets, and takes at most `at_once` in one call."""

    def __init__(self, room: int, at_once: int = 131_072) -> None:
        super().__init__(IdleReactor())  # type: ignore[arg-type]  # as much of it as is needed
        self.connected = 1
        self.room = room
        self.at_once = at_once
        self.sent = bytearray()
        self.calls: list[int] = []
        self.is_broken = False

    def writeSomeData(self, data: bytes) -> Any:
        if self.is_broken:
            return CONNECTION_LOST
        taken = min(len(data), self.room, self.at_once)
        self.sent += bytes(data[:taken])
        self.room -= taken
        self.calls.append(taken)
        return taken


class House:
    def __init__(self, room: int, **more: int) -> None:
        self.clock = Clock()
        self.socket = Socket(room, **more)
        self.resumed = self.stalled = 0
        self.flow = Flow(self.clock, 300.0, resumed=self._resumed, stalled=self._stalled)
        self.flow.start(self.socket)

    def _resumed(self) -> None:
        self.resumed += 1

    def _stalled(self) -> None:
        self.stalled += 1

    def make_room(self, octets: int) -> None:
        self.socket.room += octets
        self.socket.doWrite()


def test_what_the_kernel_takes_never_waits() -> None:
    house = House(room=1_000_000)
    house.flow.write(b"x" * 300_000)
    assert len(house.socket.sent) == 300_000
    assert not house.flow.is_paused
    assert house.clock.getDelayedCalls() == []


def test_what_the_kernel_does_not_take_waits_in_order_and_the_session_too() -> None:
    house = House(room=100_000)
    octets = bytes(range(256)) * 1_000
    house.flow.write(octets)
    assert house.flow.is_paused
    house.flow.write(b"behind")  # a reply that must be given, paused or not
    assert house.socket.sent == octets[:100_000]
    house.make_room(50_000)
    assert house.flow.is_paused
    house.make_room(1_000_000)
    while house.flow.is_paused:
        house.make_room(0)
    assert house.socket.sent == octets + b"behind"
    assert house.resumed == 1
    assert house.clock.getDelayedCalls() == []
    house.flow.write(b"next")
    assert house.socket.sent.endswith(b"behindnext")


def test_who_does_not_read_for_long_stalls() -> None:
    house = House(room=0)
    house.flow.write(b"x")
    house.clock.advance(299)
    assert house.stalled == 0
    house.clock.advance(2)
    assert house.stalled == 1


def test_a_lost_connection_is_left_to_the_reactor() -> None:
    house = House(room=0)
    house.socket.is_broken = True
    house.flow.write(b"x")
    assert house.flow.is_paused
    assert house.socket.doWrite() is CONNECTION_LOST


def test_one_turn_is_one_write_but_for_what_is_long() -> None:
    house = House(room=10_000_000, at_once=10_000_000)
    house.flow.begin_turn()
    house.flow.write(b"a" * 10)
    house.flow.write(b"b" * 10)
    assert house.socket.calls == []
    house.flow.end_turn()
    assert house.socket.calls == [20]
    house.flow.begin_turn()
    house.flow.write(b"c" * (GATHERED_OCTETS - 1))
    house.flow.write(b"d")
    house.flow.write(b"e")
    assert house.socket.calls == [20, GATHERED_OCTETS]
    house.flow.end_turn()
    assert house.socket.calls == [20, GATHERED_OCTETS, 1]


def test_a_client_that_reads_as_fast_as_we_write_lets_others_have_their_turn() -> None:
    house = House(room=10_000_000)
    house.flow.write(b"x" * (RUN_OCTETS - 1))
    over: list[None] = []
    Deferred.fromCoroutine(house.flow.writable()).addCallback(over.append)
    assert over == [None]
    house.flow.write(b"x" * RUN_OCTETS)
    assert house.flow.is_run_over
    Deferred.fromCoroutine(house.flow.writable()).addCallback(over.append)
    assert over == [None]
    house.clock.advance(0)
    assert over == [None, None]
    assert not house.flow.is_run_over


def test_after_its_end_nothing_is_kept_and_the_transport_need_not_wait() -> None:
    house = House(room=5)
    house.flow.begin_turn()
    house.flow.write(b"last word")
    house.flow.stop()
    assert house.socket.producer is None
    house.make_room(100)
    assert house.socket.sent == b"last word"
    assert house.clock.getDelayedCalls() == []
