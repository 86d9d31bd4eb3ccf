"""What one connection can make us keep, in each phase, by the worst that a peer can send there."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from receive_fakes import FakeDraft, FakeIntake, House, Session
from twisted.internet.defer import Deferred

from mailstack.mail.headers import HEADER_OCTETS
from mailstack.wire.limits import RECIPIENTS, Limits

READ_OCTETS = 65_536
SENT_OCTETS = 4_194_304
OBJECTS_OCTETS = 40_000
"""Of a session, its core, its duties and its timers."""
WINDOW_OCTETS = Limits().window_octets + READ_OCTETS

Begin = Callable[[], tuple[House, Session]]


class Sink(FakeDraft):
    """Writes to a disk that is never full, or, if it is slow, never done."""

    def write(self, octets: bytes) -> Any:
        return self.intake.slow


class SinkIntake(FakeIntake):
    def begin(self, reverse_path: Any = None, recipients: Any = ()) -> FakeDraft:
        return Sink(self, "0000000000000")


def a_house(**more: Any) -> House:
    intake = SinkIntake()
    house = House(intake=intake, **more)
    house.intake = intake
    return house


def greeted(*lines: str, **more: Any) -> tuple[House, Session]:
    house = a_house(**more)
    session = house.connect()
    session.say(*lines)
    return house, session


def not_greeted() -> tuple[House, Session]:
    house = a_house()
    house.judge.answers = {"connect": Deferred()}
    return house, house.connect()


def in_content(**more: Any) -> tuple[House, Session]:
    return greeted("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>", "DATA", **more)


def in_slow_content() -> tuple[House, Session]:
    house, session = in_content()
    house.intake.slow = Deferred()
    return house, session


def in_chunk() -> tuple[House, Session]:
    house, session = greeted("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>", f"BDAT {SENT_OCTETS * 2}")
    house.intake.slow = Deferred()
    return house, session


def in_binary(begin: bytes) -> tuple[House, Session]:
    mail = "MAIL FROM:<a@example.com> BODY=BINARYMIME"
    house, session = greeted("EHLO c", mail, "RCPT TO:<bob@example.org>", f"BDAT {SENT_OCTETS * 2}")
    session.protocol.dataReceived(begin)
    return house, session


def in_binary_part() -> tuple[House, Session]:
    """Begin what takes long while memory is traced: every five octets are looked at by themselves."""
    return in_binary(b"Content-Transfer-Encoding: binary\r\n\r\n")


def with_slow_judge() -> tuple[House, Session]:
    house, session = greeted("EHLO c")
    house.judge.answers = {"mail": Deferred()}
    session.say("MAIL FROM:<a@example.com>")
    return house, session


def with_full_outlet() -> tuple[House, Session]:
    house, session = greeted("EHLO c")
    session.transport.producer.pauseProducing()
    return house, session


@contextmanager
def kept() -> Iterator[Callable[[], int]]:
    """Yield what says how much more is kept than at the beginning."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def flood(session: Session, octets: bytes, sent_octets: int) -> None:
    """Send the same again and again, as fast as a transport that obeys would read it."""
    piece = (octets * (READ_OCTETS // len(octets) + 1))[:READ_OCTETS]
    for _ in range(sent_octets // READ_OCTETS):
        if session.transport.producerState != "producing" or not session.is_connected:
            return
        session.protocol.dataReceived(piece)
        session.take()


@pytest.mark.parametrize(
    ("begin", "octets", "most_octets"),
    [
        (not_greeted, b"x", WINDOW_OCTETS),
        (not_greeted, b"NOOP\r\n", WINDOW_OCTETS),
        (greeted, b"x", READ_OCTETS),
        (greeted, b"\0", READ_OCTETS),
        (greeted, b"EHLO " + b"x" * 2_043 + b"\r\n", WINDOW_OCTETS),
        (lambda: greeted("EHLO c"), b"MAIL FROM:<a@example.com>" + b" X=y" * 500 + b"\r\n", WINDOW_OCTETS),
        (lambda: greeted("EHLO c"), b"RSET\r\nMAIL FROM:<> ENVID=" + b"x" * 90 + b"\r\n", WINDOW_OCTETS),
        (with_slow_judge, b"NOOP\r\n", WINDOW_OCTETS),
        (with_slow_judge, b"x", WINDOW_OCTETS),
        (with_full_outlet, b"NOOP\r\n", WINDOW_OCTETS),
        (in_content, b"x", HEADER_OCTETS * 2),
        (in_content, b"X: y\r\n", HEADER_OCTETS * 2),
        (in_content, b"X: y\r\n\r\n.\r", HEADER_OCTETS * 2),
        (lambda: in_content(limits=Limits(message_octets=100_000)), b"\r\n", HEADER_OCTETS),
        (in_slow_content, b"\r\nx", WINDOW_OCTETS * 2),
        (in_chunk, b"\r\nx", WINDOW_OCTETS * 2),
        (lambda: in_binary(b""), b"X: y\r\n", HEADER_OCTETS * 2),
        (lambda: in_binary(b"X: "), b"x", HEADER_OCTETS * 2),
        (in_binary_part, b"\r\n--x", WINDOW_OCTETS),
        (lambda: in_binary(b"Content-Type: multipart/x; boundary=b\r\n\r\n"), b"--b\r\nX: y\r\n", HEADER_OCTETS),
        (lambda: in_binary(b""), b"Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\n", WINDOW_OCTETS),
    ],
)
def test_what_waits_is_bounded(begin: Begin, octets: bytes, most_octets: int) -> None:
    begin()  # what is made once, for all
    with kept() as octets_kept:
        _, session = begin()
        flood(session, octets, SENT_OCTETS // 4 if begin is in_binary_part else SENT_OCTETS)
        assert octets_kept() < OBJECTS_OCTETS + most_octets, f"{octets_kept()} octets"


def test_recipients_cost_little_each() -> None:
    local_part, label = "x" * 60, "y" * 62
    limits = Limits(idle_commands=10_000)
    greeted(limits=limits)
    with kept() as octets_kept:
        house, session = greeted("EHLO c", "MAIL FROM:<a@example.com>", limits=limits)
        for number in range(RECIPIENTS + 50):
            session.say(f"RCPT TO:<{number:04}{local_part}@{label}.{label}.{label}.example>")
            house.judge.asked.clear()
        assert session.is_connected
        assert octets_kept() < OBJECTS_OCTETS + RECIPIENTS * 3_000, f"{octets_kept()} octets"
        session.say("RSET")
        house.start.running.clear()
        assert octets_kept() < OBJECTS_OCTETS + READ_OCTETS, f"{octets_kept()} octets are left"


def test_octets_that_come_one_by_one_do_not_each_cost_a_turn() -> None:
    """So a peer does who puts each of them into a TLS record of its own."""
    for begin, octets, most in ((greeted, b"x" * 5_000, 10), (in_content, b"\r\n" * 5_000, 10), (in_content, b"x" * 5_000, 10)):
        house, session = begin()
        before = len(house.start.running)
        for octet in octets:
            session.protocol.dataReceived(bytes([octet]))
        assert len(house.start.running) - before <= most
    assert session.say("", ".") == ["250"]
    assert len(house.intake.accepted) == 1
