"""
The race: the first of several addresses of a host to which a connection comes about.

They are tried in their order. When one fails the next is tried at once; when one has not answered after a moment, the next is
tried beside it. The first connection wins, and the others are given up. So a family of addresses that leads nowhere from here
costs a moment and not the time limit of a connection.

Source:  RFC 8305 §5 (Happy Eyeballs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mailstack.relay.ports import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finish(Generic[T]):
    """
    How a race ended.

    Shape:  `winner` is whom `protocol` is connected to, None when all failed; `failures` are in the order in which they came.
            Who is in neither was given up, or not tried.
    """

    winner: T | None
    protocol: Any
    failures: tuple[tuple[T, Exception], ...]


def race(runners: Sequence[T], connect: Callable[[T], Deferred[Any]], clock: Clock, wait_seconds: float) -> Deferred[Finish[T]]:
    """
    Connect to the first that can be had; cancelled, it gives up all.

    Shape:   `connect` begins a connection; its Deferred, when cancelled, leaves none behind. At least one runner.
    """
    return _Race(runners, connect, clock, wait_seconds).finish


class _Race(Generic[T]):
    def __init__(self, runners: Sequence[T], connect: Callable[[T], Deferred[Any]], clock: Clock, wait_seconds: float) -> None:
        self._waiting = list(runners)
        self._connect = connect
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._running: list[Deferred[Any]] = []
        self._failures: list[tuple[T, Exception]] = []
        self._timer: IDelayedCall | None = None
        self._is_over = False
        self.finish: Deferred[Finish[T]] = Deferred(lambda _: self._give_up())
        self._start_next()

    def _start_next(self) -> None:
        self._stop_timer()
        runner = self._waiting.pop(0)
        if self._waiting:
            self._timer = self._clock.callLater(self._wait_seconds, self._start_next)
        try:
            running = self._connect(runner)
        except Exception:  # a bulkhead: no address keeps us from the others
            self._failed(runner, Failure())
            return
        self._running.append(running)
        running.addCallbacks(partial(self._won, runner, running), partial(self._lost, runner, running))

    def _won(self, runner: T, running: Deferred[Any], protocol: Any) -> None:
        if self._is_over:  # it could not be cancelled any more
            protocol.abort()
            return
        self._running.remove(running)
        self._give_up()
        self.finish.callback(Finish(runner, protocol, tuple(self._failures)))

    def _lost(self, runner: T, running: Deferred[Any], failure: Failure) -> None:
        if not self._is_over:
            self._running.remove(running)
            self._failed(runner, failure)

    def _failed(self, runner: T, failure: Failure) -> None:
        error = failure.value
        self._failures.append((runner, error if isinstance(error, Exception) else RuntimeError(repr(error))))
        if self._waiting:
            self._start_next()
        elif not self._running:
            self._is_over = True
            self.finish.callback(Finish(None, None, tuple(self._failures)))

    def _give_up(self) -> None:
        self._is_over = True
        self._stop_timer()
        running, self._running = self._running, []
        for each in running:
            each.cancel()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
