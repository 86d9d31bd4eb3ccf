"""
Supervision: the one way to start a coroutine.

Names it, logs its failure, and can wait for or cancel all that were started. Nothing else in the house calls
Deferred.fromCoroutine, so that no failure of anything in the background is lost.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from mailstack import events


class Supervisor:
    """Starts coroutines and knows those that run."""

    def __init__(self) -> None:
        self._running: set[Deferred[None]] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any], what: str) -> Deferred[None]:
        """
        Start a coroutine.

        Shape:   the Deferred fires with None when it has ended, however it ended; cancelling it cancels the coroutine.
        """
        # Most have nothing to wait for. They are over here, at a quarter of what a Deferred around them costs.
        try:
            awaited = coroutine.send(None)
        except (StopIteration, CancelledError):
            return succeed(None)
        except Exception:  # a bulkhead: whoever starts a coroutine does not fail with it
            events.unexpected(what, Failure())
            return succeed(None)
        running: Deferred[None] = Deferred.fromCoroutine(_resumed(coroutine, awaited))
        self._running.add(running)

        def ended(outcome: object) -> None:
            self._running.discard(running)
            if isinstance(outcome, Failure) and not outcome.check(CancelledError):
                events.unexpected(what, outcome)

        running.addBoth(ended)
        return running

    def __len__(self) -> int:
        return len(self._running)

    async def stop(self) -> None:
        """Cancel all that still run and wait until they have ended."""
        running = list(self._running)
        for each in running:
            each.cancel()
        await DeferredList(running)


def _resumed(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that waits for something, as `yield from` does with one that has not begun."""
    while True:
        thrown: BaseException | None = None
        try:
            result = yield awaited
        except GeneratorExit:  # nobody will ever go on with it
            coroutine.close()
            raise
        except BaseException as error:  # the coroutine decides about it, whatever it is
            thrown = error
        try:
            awaited = coroutine.send(result) if thrown is None else coroutine.throw(thrown)
        except StopIteration:
            return
