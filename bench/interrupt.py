"""
Ctrl-C and SIGTERM: the bench ends as an exception does, and so stops what it started and removes its folders.

A signal in the midst of starting or stopping something would leave a process that nobody knows of yet. `uninterrupted`
puts it off to the end of that.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_put_off = 0
_waiting: list[int] = []


class Interrupted(BaseException):
    """Somebody wants us to end; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def obey_signals() -> None:
    """End in good order at SIGINT, SIGTERM and SIGHUP, also where whoever started us has told us to ignore them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put signals off to the end."""
    global _put_off
    _put_off += 1
    try:
        yield
    finally:
        _put_off -= 1
    if not _put_off and _waiting:
        raise Interrupted(_waiting.pop())


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _put_off:
        _waiting.append(number)
        return
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the end is on its way, and must not be cut short
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)
