"""
Threads: the way into a thread for single calls that block.

Each kind of work has a small pool of its own, so that slow disks do not hold up password checks and neither holds up Twisted's
own pool. Work that comes in numbers goes through `net.batch` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
R = TypeVar("R")


def kept(making: Deferred[R], give_back: Callable[[R], object]) -> Deferred[R]:
    """
    Wait for something that must be given back, and give it back oneself when nobody waits for it any more.

    A call in a thread cannot be cancelled: who cancels the waiting would leave what comes of it, a lock for instance, without
    an owner.
    """

    def abandon(_: Deferred[R]) -> None:
        making.addCallbacks(give_back, lambda failure: None)  # the waiter has its CancelledError already

    waiting: Deferred[R] = Deferred(abandon)

    def hand_over(outcome: R | Failure) -> R | Failure | None:
        if waiting.called:
            return outcome
        waiting.callback(outcome)  # a Failure fails it
        return None

    making.addBoth(hand_over)
    return waiting


class Threads:
    """A pool of threads with a name."""

    def __init__(self, reactor: IReactorFromThreads, name: str, count: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=count, name=name)

    def start(self) -> None:
        """Make the pool ready; threads are started when there is work."""
        self._pool.start()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        """Call the function in a thread; the Deferred fires in the reactor."""
        waiting: Deferred[R] = deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)
        return waiting

    def stop(self) -> None:
        """Let what runs end, and end the threads; blocks until they have."""
        self._pool.stop()
