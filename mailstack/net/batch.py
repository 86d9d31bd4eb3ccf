"""
Batches: one thread that takes whatever gathered while it was busy and does it in one go.

Group commit in one picture: while a batch runs (a transaction, a round of fsyncs), further items queue; when it ends, all of
them are the next batch. So the cost of a flush is shared exactly when there is something to share, without a timer.

A batch that gathers begins only when the reactor has nothing else to do: then all who could join have joined, nobody has
waited for nothing, and thread and reactor do not take the interpreter's lock from each other all the time.

One call from the thread fires the Deferreds of a whole batch, since each such call wakes the reactor; of a large batch some in
each turn of the reactor, since each may be followed by whatever a session does next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

T = TypeVar("T")
R = TypeVar("R")

MAX_ITEMS: Final = 256
"""Enough that a flush costs nothing per item; small enough that the first of a batch does not wait long for the last."""

FIRED_AT_ONCE: Final = 32
"""What follows from an outcome takes some 0.2 ms; so many hold up everybody else for no longer than a few."""


GATHER_ITEMS: Final = 16
"""So many are worth a flush; nobody waits for more."""

GATHER_SECONDS: Final = 0.008
"""How long the first of a batch waits for others at most, when the reactor always has something to do."""

Gather = Callable[[Callable[[], None], float], Any]
"""Calls a function when nothing else is to be done, or after so many seconds at the latest (`lean_reactor.when_idle`)."""


class BatchStopped(Exception):  # noqa: N818 (it is a state, named as such)
    """The batch takes no more items; what was submitted before is still done."""


class BatchThread(Generic[T, R]):
    """
    Runs batches in a thread of its own.

    Shape:   `run` is called in the thread with 1 to `max_items` items and returns one outcome for each, in order; an outcome
             that is an Exception fails the Deferred of its item. If `run` itself raises, every item of the batch fails.
             `from_thread` is reactor.callFromThread or alike. Everything else is called in the reactor's thread. With `gather`
             a batch begins when that says so, or with GATHER_ITEMS; without, as soon as the thread is free.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R | Exception]],
        *,
        name: str,
        from_thread: Callable[..., Any],
        max_items: int = MAX_ITEMS,
        gather: Gather | None = None,
    ) -> None:
        if max_items < 1:
            raise ValueError("max_items must be 1 or more")
        self._run = run
        self._from_thread = from_thread
        self._gather = gather
        self._is_gathering = False  # as the reactor's thread sees it: `gather` was asked, and has not called yet
        self._is_running = False  # likewise: the thread was let go, and has not given its outcomes yet
        self._may_begin = gather is None  # as the thread sees it
        self._max_items = max_items
        self._waiting: deque[tuple[T, Deferred[R]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._ended: Deferred[None] = Deferred()
        self._done: deque[tuple[Deferred[Any], Any]] = deque()  # batches that ran, their Deferreds not fired yet
        self._is_giving = False
        # A daemon: a process that dies without stop() must not hang, and all that runs here survives a crash by design.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._started = False

    def start(self) -> None:
        """Start the thread; items submitted before are its first batch."""
        self._thread.start()
        self._started = True

    def __len__(self) -> int:
        """Say how many items wait (those of the running batch not counted)."""
        return len(self._waiting)

    def submit(self, item: T) -> Deferred[R]:
        """
        Queue an item.

        Shape:   cancelling the Deferred only stops the waiting for it: the item is still done.
        Raises:  BatchStopped, by the Deferred.
        """
        outcome: Deferred[R] = Deferred()
        with self._changed:
            if self._stopping:
                return fail(BatchStopped(self._thread.name))
            self._waiting.append((item, outcome))
            if self._gather is None:
                self._changed.notify()
        self._gather_on()
        return outcome

    async def stop(self) -> None:
        """Take no more items, do those that wait, and end the thread. May be called again."""
        with self._changed:
            first, self._stopping = not self._stopping, True
            self._changed.notify()
        if not self._started:
            return
        if first:
            await self._ended
            self._thread.join()  # it has made its last call; nothing is left in it that could block
        elif not self._ended.called:
            again: Deferred[None] = Deferred()
            self._ended.addCallback(again.callback)
            await again

    # In the reactor's thread

    def _give(self, waiting: list[Deferred[Any]], outcomes: Sequence[Any]) -> None:
        """Fire the Deferreds of a batch, after those of the batches before, some at a time."""
        self._is_running = False
        self._gather_on()
        self._done.extend(zip(waiting, outcomes, strict=True))
        if not self._is_giving:
            self._give_on()

    def _gather_on(self) -> None:
        """See to it that what waits will be done."""
        if self._gather is None or self._is_running or not self._waiting:
            return
        if len(self._waiting) >= GATHER_ITEMS:
            self._begin()
        elif not self._is_gathering:
            self._is_gathering = True
            self._gather(self._gathered, GATHER_SECONDS)

    def _gathered(self) -> None:
        self._is_gathering = False
        if self._waiting and not self._is_running:  # else enough had come before
            self._begin()

    def _begin(self) -> None:
        self._is_running = True
        with self._changed:
            self._may_begin = True
            self._changed.notify()

    def _give_on(self) -> None:
        now = [self._done.popleft() for _ in range(min(FIRED_AT_ONCE, len(self._done)))]
        self._is_giving = bool(self._done)
        if self._is_giving:
            self._from_thread(self._give_on)  # in the next turn of the reactor
        for deferred, outcome in now:
            _fire(deferred, outcome)

    # In the thread

    def _work(self) -> None:
        while batch := self._take():
            outcomes = _outcomes(self._run, [item for item, _ in batch])
            self._from_thread(self._give, [outcome for _, outcome in batch], outcomes)
            del batch, outcomes  # or their octets stay in memory while nothing happens
        self._from_thread(self._give, [self._ended], [None])

    def _take(self) -> list[tuple[T, Deferred[R]]]:
        with self._changed:
            while not (self._stopping or (self._waiting and self._may_begin)):
                self._changed.wait()
            self._may_begin = self._gather is None
            return [self._waiting.popleft() for _ in range(min(self._max_items, len(self._waiting)))]


class InlineBatch(Generic[T, R]):
    """
    The same interface without a thread: an item is done before `submit` returns. For tests, which so need no waiting.

    Shape:  after `hold()` items gather until `release()` does them as one batch.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R | Exception]],
        *,
        name: str = "inline",
        from_thread: Callable[..., Any] | None = None,
        max_items: int = MAX_ITEMS,
    ) -> None:
        self._run = run
        self._name = name
        self._max_items = max_items
        self._waiting: list[tuple[T, Deferred[R]]] = []
        self._held = False
        self._stopping = False

    def start(self) -> None:
        """Do nothing; there is no thread."""

    def __len__(self) -> int:
        """Say how many items wait."""
        return len(self._waiting)

    def submit(self, item: T) -> Deferred[R]:
        """Do the item at once, unless held."""
        if self._stopping:
            return fail(BatchStopped(self._name))
        outcome: Deferred[R] = Deferred()
        self._waiting.append((item, outcome))
        if not self._held:
            self._drain()
        return outcome

    def hold(self) -> None:
        """Let items gather from now on."""
        self._held = True

    def release(self) -> None:
        """Do what gathered, in batches of at most `max_items`, and no longer hold."""
        self._held = False
        self._drain()

    async def stop(self) -> None:
        """Take no more items and do those that wait."""
        self._stopping = True
        self._drain()

    def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._max_items], self._waiting[self._max_items :]
            for (_, deferred), outcome in zip(batch, _outcomes(self._run, [item for item, _ in batch]), strict=True):
                _fire(deferred, outcome)


def _outcomes(run: Callable[[list[T]], Sequence[R | Exception]], items: list[T]) -> Sequence[R | Exception]:
    """Run a batch; a failure of the whole becomes the outcome of each."""
    try:
        outcomes = run(items)
        if len(outcomes) != len(items):
            raise RuntimeError(f"{len(items)} items, but {len(outcomes)} outcomes")
    except Exception as error:  # a bulkhead: the thread must outlive it
        return [error] * len(items)
    return outcomes


def _fire(deferred: Deferred[Any], outcome: Any) -> None:
    if isinstance(outcome, Exception):
        deferred.errback(Failure(outcome))
    else:
        deferred.callback(outcome)
