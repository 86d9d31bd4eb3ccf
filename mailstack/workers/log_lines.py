"""
Log lines: how a worker process writes what it logs.

Either to the log itself, which it has from its parent, as the parent does (`loglines`): each write is of whole lines, so that
those of several processes do not mix. Or, where only one process can write the log (a file that is rotated, syslog), as records
to the parent, which logs them in its own way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from twisted.logger import ILogObserver, InvalidLogLevelError, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

Write = Callable[[bytes], None]

MOST_OCTETS: Final = 65_536
_RECORD_END: Final = "\0"


@implementer(ILogObserver)
class RecordObserver:
    """Writes each event as a record for the parent."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def __call__(self, event: LogEvent) -> None:
        """Write an event."""
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        if text:
            level = getattr(event.get("log_level"), "name", "info")
            record = f"{level} {text.replace(_RECORD_END, '')[:MOST_OCTETS]}{_RECORD_END}"
            self._write(record.encode(errors="backslashreplace"))


class Records:
    """Takes the octets that a worker wrote as records, and whatever else it wrote. Pure."""

    def __init__(self) -> None:
        self._octets = b""

    def feed(self, octets: bytes) -> Sequence[tuple[LogLevel, str]]:
        """Return the records that are whole now."""
        *whole, self._octets = (self._octets + octets).split(_RECORD_END.encode())
        if len(self._octets) > 4 * MOST_OCTETS:
            whole.append(self._octets)
            self._octets = b""
        return [_record(each) for each in whole]

    def end(self) -> Sequence[tuple[LogLevel, str]]:
        """Return what is left when nothing more can come: last words that were no record."""
        rest, self._octets = self._octets.strip(), b""
        return [_record(rest)] if rest else []


def _record(octets: bytes) -> tuple[LogLevel, str]:
    """Read a record; what Python itself writes when it dies is none, and is an error."""
    text = octets.decode(errors="replace")
    name, _, rest = text.partition(" ")
    try:
        return LogLevel.levelWithName(name), rest
    except InvalidLogLevelError:
        return LogLevel.error, text


def write_all(descriptor: int) -> Write:
    """Return what writes octets to a descriptor, in one write unless the system takes less; what it does not take is lost."""

    def write(octets: bytes) -> None:
        with suppress(OSError):  # the disk is full, or nobody reads any more: to whom should we complain?
            while octets:
                octets = octets[os.write(descriptor, octets) :]

    return write
