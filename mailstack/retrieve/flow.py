"""
Flow: how a session writes, and what it does while its client does not read.

What is said in one turn of the session goes out together, at the end of the turn. The transport calls `pauseProducing` when its
buffer is full and `resumeProducing` when it is empty. In between a session writes nothing and looks at no further command, so
that what waits is bounded; a client that takes too long is disconnected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

GATHERED_OCTETS: Final = 65_536
"""From here on what was said in one turn does not wait for its end."""


@implementer(IPushProducer)
class Flow:
    """
    The output of a session.

    Shape:  `resumed` is called when writing may go on, `stalled` when the client took longer than `stalled_seconds`.
    """

    def __init__(
        self, clock: IReactorTime, stalled_seconds: float, *, resumed: Callable[[], None], stalled: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._stalled_seconds = stalled_seconds
        self._resumed = resumed
        self._stalled = stalled
        self._timer: IDelayedCall | None = None
        self._waiting: Deferred[None] | None = None
        self._transport: Any = None
        self._turn: list[bytes] | None = None
        self._turn_octets = 0
        self.is_paused = False

    def start(self, transport: Any) -> None:
        """Write to this transport from now on."""
        self._transport = transport
        transport.registerProducer(self, True)

    def stop(self) -> None:
        """Write what is left and no more, so that the transport can be closed: it waits for its producer before it closes."""
        self.end_turn()
        self.release()
        self._transport.unregisterProducer()

    def begin_turn(self) -> None:
        """Keep what is written until the turn ends."""
        self._turn = []
        self._turn_octets = 0

    def end_turn(self) -> None:
        """Let go what was kept."""
        turn, self._turn = self._turn, None
        if turn:
            self._transport.write(turn[0] if len(turn) == 1 else b"".join(turn))

    def write(self, octets: bytes) -> None:
        """Write octets; the caller sees to it that the connection is not lost, and writes long content only when not paused."""
        if self._turn is None:
            self._transport.write(octets)
            return
        self._turn.append(octets)
        self._turn_octets += len(octets)
        if self._turn_octets >= GATHERED_OCTETS:
            self.end_turn()
            self.begin_turn()

    def pauseProducing(self) -> None:
        """Write no more for now."""
        if not self.is_paused:
            self.is_paused = True
            self._timer = self._clock.callLater(self._stalled_seconds, self._give_up)

    def resumeProducing(self) -> None:
        """Go on writing."""
        if self.is_paused:
            self._open()
            self._resumed()

    def stopProducing(self) -> None:
        """Do nothing: the protocol's connectionLost follows, and releases."""

    def release(self) -> None:
        """Let whoever waits go on, to see that the connection is closed or lost."""
        if self.is_paused:
            self._open()

    async def writable(self) -> None:
        """Wait until writing may go on or the connection is lost."""
        if self.is_paused:
            self._waiting = Deferred()
            await self._waiting

    def _open(self) -> None:
        self.is_paused = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _give_up(self) -> None:
        self._timer = None
        self._stalled()
