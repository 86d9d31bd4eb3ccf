"""What a session says goes out by turns."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mailstack.retrieve.flow import GATHERED_OCTETS, Flow


class Transport(StringTransport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[int] = []

    def write(self, data: bytes) -> None:
        self.writes.append(len(data))
        super().write(data)


def started() -> tuple[Flow, Transport]:
    flow, transport = Flow(Clock(), 300.0, resumed=lambda: None, stalled=lambda: None), Transport()
    flow.start(transport)
    return flow, transport


def test_one_turn_is_one_write() -> None:
    flow, transport = started()
    flow.begin_turn()
    flow.write(b"one ")
    flow.write(b"two ")
    assert transport.writes == []
    flow.end_turn()
    flow.write(b"three")
    assert transport.writes == [8, 5]
    assert transport.value() == b"one two three"


def test_what_is_long_does_not_wait_for_the_end_of_the_turn() -> None:
    flow, transport = started()
    flow.begin_turn()
    flow.write(b"c" * (GATHERED_OCTETS - 1))
    flow.write(b"d")
    assert transport.writes == [GATHERED_OCTETS]
    flow.write(b"e")
    flow.write(b"f")
    assert transport.writes == [GATHERED_OCTETS]
    flow.end_turn()
    assert transport.writes == [GATHERED_OCTETS, 2]


def test_a_turn_in_which_nothing_is_said_writes_nothing() -> None:
    flow, transport = started()
    flow.begin_turn()
    flow.end_turn()
    assert transport.writes == []


def test_the_last_word_is_written_before_the_transport_may_close() -> None:
    flow, transport = started()
    flow.begin_turn()
    flow.write(b"last word")
    flow.stop()
    assert transport.value() == b"last word"
    assert transport.producer is None
