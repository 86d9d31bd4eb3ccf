"""
Flow: what a session does while its client does not read.

The transport calls `pauseProducing` when its buffer is full and `resumeProducing` when it is empty. In between a session
writes nothing and looks at no further command, so that what waits is bounded; a client that takes too long is disconnected.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer


@implementer(IPushProducer)
class Flow:
    """
    The state of a transport's output.

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
        self.is_paused = False

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
