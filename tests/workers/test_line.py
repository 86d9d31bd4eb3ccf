"""The line: messages however they are cut, and the end of either side."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from twisted.internet.testing import StringTransport

from mailstack.workers import line
from mailstack.workers.line import Line, LineError, Message, Messages, encode, read_first

TWO: list[Message] = [{"ready": True}, {"refused": "line\nbreak \u2028 ü"}]
OCTETS = b"".join(encode(each) for each in TWO)


class Heard:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.losses = 0

    def said(self, message: Message) -> None:
        self.messages.append(message)

    def lost(self) -> None:
        self.losses += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def open_line(heard: Heard) -> Line:
    made = Line(heard, Messages())
    made.makeConnection(StringTransport())
    return made


def test_whole() -> None:
    assert Messages().feed(OCTETS) == TWO


def test_octet_by_octet() -> None:
    messages = Messages()
    assert [each for octet in OCTETS for each in messages.feed(bytes([octet]))] == TWO


@pytest.mark.parametrize("octets", [b"no JSON\n", b"[1]\n", b"1\n", b'"x"\n', b"\xff\n"])
def test_what_is_no_message(octets: bytes) -> None:
    with pytest.raises(LineError):
        Messages().feed(octets)


def test_a_message_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MOST_OCTETS", 10)
    messages = Messages()
    messages.feed(b'"' * 10)
    with pytest.raises(LineError, match="too long"):
        messages.feed(b'"')


def test_it_passes_on(open_line: Line, heard: Heard) -> None:
    open_line.dataReceived(OCTETS)
    assert heard.messages == TWO
    open_line.connectionLost()
    assert heard.losses == 1


def test_nonsense_ends_it(open_line: Line) -> None:
    open_line.dataReceived(b"nonsense\n")
    assert isinstance(open_line.transport, StringTransport)
    assert open_line.transport.disconnecting


def test_it_says_nothing_to_nobody(open_line: Line) -> None:
    open_line.send({"stop": True})
    open_line.connectionLost()
    open_line.send({"stop": True})
    assert isinstance(open_line.transport, StringTransport)
    assert open_line.transport.value() == b'{"stop": true}\n'


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    yield pair
    for each in pair:
        each.close()


def test_the_first_message_and_what_came_behind_it(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    messages = Messages()
    theirs.sendall(OCTETS + b'{"st')
    assert read_first(ours, messages) == TWO
    assert messages.feed(b'op": 1}\n') == [{"stop": 1}]


def test_no_first_message(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(b'{"st')
    theirs.close()
    with pytest.raises(LineError, match="gone"):
        read_first(ours, Messages())
