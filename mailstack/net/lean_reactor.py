"""
The reactor of a mail server: epoll, one call for each event, and word of when there is nothing to do.

Twisted's own makes a logging context around each call, with the name of the connection's protocol, for programs that log by
`twisted.python.log`. Our events name their session themselves, and to a short reply that context adds a quarter of its cost.

Nothing to do means more than that no event is there: those who will make the next ones, clients on the same machine or other
workers, may wait for the processor that we hold. So others are let in first, and then it is looked once more.

And a signal is only noted when it comes: Twisted's own logs it at once, wherever we were just then. If that was in the middle
of writing a line of the log, with its lock held, we would wait for ourselves for ever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any, Final

from twisted.python import log

LOOKS: Final = 6
"""How often others are let in before we believe that there is nothing to do."""

WhenIdle = Callable[[Callable[[], None], float], Any]
"""Calls a function when the reactor has nothing else to do, or after so many seconds at the latest."""


def install() -> None:
    """
    Install this reactor where there is epoll; elsewhere leave the choice to Twisted.

    Raises:  ReactorAlreadyInstalledError.
    """
    if sys.platform == "linux":
        from twisted.internet.main import installReactor

        installReactor(_lean()())


def make_lean(reactor: Any) -> None:
    """Turn the reactor that twistd has installed into this one, if it is its usual one."""
    if sys.platform == "linux":
        from twisted.internet.epollreactor import EPollReactor

        if type(reactor) is EPollReactor:
            reactor.__class__ = _lean()


def when_idle(reactor: Any) -> WhenIdle:
    """Return a reactor's way to wait until there is nothing to do; of another one, until it has done what is ready now."""
    own: WhenIdle = getattr(reactor, "when_idle", lambda function, within_seconds: reactor.callLater(0, function))
    return own


def _lean() -> type[Any]:
    from twisted.internet.epollreactor import EPollReactor

    class LeanReactor(EPollReactor):
        _waiting: tuple[Callable[[], None], ...] = ()
        _until = 0.0
        _is_ending = False

        def when_idle(self, function: Callable[[], None], within_seconds: float) -> None:
            until = monotonic() + within_seconds
            self._until = min(self._until, until) if self._waiting else until
            self._waiting = (*self._waiting, function)

        def doPoll(self, timeout: float | None) -> None:
            waits = bool(self._waiting)
            events = self._poller.poll(0 if waits else -1 if timeout is None else timeout, len(self._selectables))
            if waits:
                events = events or self._look_again()
                if not events or monotonic() >= self._until:
                    self._be_idle()
            for descriptor, event in events:
                selectable = self._selectables.get(descriptor)
                if selectable is not None:  # what came before it may have closed it
                    self._doReadOrWrite(selectable, descriptor, event)  # type: ignore[no-untyped-call]  # Twisted's is untyped

        doIteration = doPoll

        def _look_again(self) -> list[tuple[int, int]]:
            events: list[tuple[int, int]] = []
            for _ in range(LOOKS):
                os.sched_yield()
                events = self._poller.poll(0, len(self._selectables))
                if events:
                    break
            return events

        def sigTerm(self, number: int, frame: FrameType | None = None) -> None:
            self.callFromThread(self._end, super().sigTerm, number)

        def sigInt(self, number: int, frame: FrameType | None = None) -> None:
            self.callFromThread(self._end, super().sigInt, number)

        def _end(self, handle: Callable[[int], None], number: int) -> None:
            if not self._is_ending and not self._stopped:  # who says it again is impatient
                self._is_ending = True
                handle(number)

        def _be_idle(self) -> None:
            functions, self._waiting = self._waiting, ()
            for function in functions:
                try:
                    function()
                except Exception:  # a bulkhead: the reactor must outlive it
                    log.err()

    return LeanReactor
