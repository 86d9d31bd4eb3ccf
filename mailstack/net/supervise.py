"""
Supervision: the one way to start a coroutine.

Names it, logs its failure, and can wait for or cancel all that were started. Nothing else in the house calls
Deferred.fromCoroutine, so that no failure of anything in the background is lost.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from mailstack import events
from mailstack.coroutines import begin


class Supervisor:
    """Starts coroutines and knows those that run."""

    def __init__(self) -> None:
        self._running: set[Deferred[None]] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any], what: str) -> Deferred[None]:
        """
        Start a coroutine.

        Shape:   the Deferred fires with None when it has ended, however it ended; cancelling it cancels the coroutine.
        """
        try:
            running = begin(coroutine)
        except CancelledError:
            return succeed(None)
        except Exception:  # a bulkhead: whoever starts a coroutine does not fail with it
            events.unexpected(what, Failure())
            return succeed(None)
        if not isinstance(running, Deferred):
            return succeed(None)
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
