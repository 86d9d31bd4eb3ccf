"""
Coroutines that mostly need not wait: run to the first wait at once, and wrapped into a Deferred only if there is one.

`Deferred.fromCoroutine` costs 20 µs, most of them for a wait that does not happen.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def begin(coroutine: Coroutine[Any, Any, T]) -> T | Deferred[T]:
    """
    Run a coroutine to its end, or to where it waits.

    Shape:   what it returned; or a Deferred of that, which cancels the coroutine when it is cancelled.
    Raises:  what the coroutine raises before it waits.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        returned: T = end.value
        return returned
    return Deferred.fromCoroutine(_resumed(coroutine, awaited))


def _resumed(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
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
        except StopIteration as end:
            returned: T = end.value
            return returned
