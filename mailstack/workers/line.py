"""
The line between the parent and a worker process: JSON, a message on each line, over a socketpair.

Nothing secret stands in a command line, and the end of either side is seen by the other at once: a line that is lost means that
who was there is gone, however it went.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorSocket
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

Message = dict[str, Any]

MOST_OCTETS: Final = 16_777_216
_CHUNK_OCTETS: Final = 65_536


class LineError(Exception):
    """What came over the line is no message."""


class Messages:
    """Takes octets and gives messages. Pure."""

    def __init__(self) -> None:
        self._octets = b""

    def feed(self, octets: bytes) -> list[Message]:
        """
        Return the messages that are whole now.

        Raises:  LineError.
        """
        *whole, self._octets = (self._octets + octets).split(b"\n")
        if len(self._octets) > MOST_OCTETS:
            raise LineError("a message is too long")
        try:
            found = [json.loads(each) for each in whole]
        except ValueError as error:
            raise LineError(f"a message is not JSON: {error}") from error
        if not all(isinstance(each, dict) for each in found):
            raise LineError("a message is not an object")
        return found


def encode(message: Message) -> bytes:
    """Write a message."""
    return json.dumps(message).encode() + b"\n"


class Listener(Protocol):
    """Who has an end of the line."""

    def said(self, message: Message) -> None:
        """Take a message of the other side."""

    def lost(self) -> None:
        """Take note that the other side is gone, or has said what makes no sense."""


class Line(TwistedProtocol):
    """One end, served by the reactor."""

    def __init__(self, listener: Listener, messages: Messages) -> None:
        self._listener = listener
        self._messages = messages
        self._is_lost = False

    def send(self, message: Message) -> None:
        """Send a message; to nobody, if the other side is gone."""
        if self.transport is not None and not self._is_lost:
            self.transport.write(encode(message))

    def close(self) -> None:
        """Close this end: the other side sees it as lost, and so do we."""
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Pass on what is whole."""
        try:
            for message in self._messages.feed(data):
                self._listener.said(message)
        except LineError:
            self.close()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Say so, once."""
        self._is_lost = True
        self._listener.lost()


def adopt(reactor: IReactorSocket, end: socket.socket, listener: Listener, messages: Messages | None = None) -> Line:
    """Give an end to the reactor; `messages` may have read something of it already. Ours is closed."""
    line = Line(listener, messages or Messages())
    _adopt(reactor, end, line)
    return line


class _Reader(TwistedProtocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def dataReceived(self, data: bytes) -> None:
        self._take(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._take(b"")


def adopt_reader(reactor: IReactorSocket, end: socket.socket, take: Callable[[bytes], None]) -> None:
    """Give an end to the reactor that is only read from; `take` gets the octets, and b"" at the end. Ours is closed."""
    _adopt(reactor, end, _Reader(take))


def _adopt(reactor: IReactorSocket, end: socket.socket, protocol: TwistedProtocol) -> None:
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), end.family, Factory.forProtocol(lambda: protocol))  # type: ignore[arg-type]  # any
    end.close()


def read_first(end: socket.socket, messages: Messages) -> list[Message]:
    """
    Wait for the first message, and return it with what came behind it; blocks.

    Raises:  LineError: the other side is gone; OSError.
    """
    while True:
        octets = end.recv(_CHUNK_OCTETS)
        if not octets:
            raise LineError("the other side is gone")
        if found := messages.feed(octets):
            return found
