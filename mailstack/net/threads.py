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
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
R = TypeVar("R")


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
