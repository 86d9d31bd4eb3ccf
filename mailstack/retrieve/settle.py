"""Answers that may come at once or later."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def settled(answer: T | Awaitable[T]) -> T:
    """Return the answer, waiting for it if it is a Deferred or a coroutine."""
    if isinstance(answer, Awaitable):
        return await answer
    return answer
