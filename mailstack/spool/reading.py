"""
Reading: the message itself, a part at a time, for the operator's eyes.

Mail is private. Who reads is in the log, once for what is read from one end to the other.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from typing import Final

from mailstack import events
from mailstack.spool.content import ContentFolder
from mailstack.spool.database import Database
from mailstack.spool.identifiers import format_number
from mailstack.spool.operations import Reads

PART_OCTETS: Final = 262_144
MOST_OFFSET: Final = 1 << 30  # SQLite takes 32 bits of it, and no row has as much


class ReadingError(Exception):
    """A content is not to be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """Octets of a content of so many in all, none behind its end; None as long as they are in a file."""

    in_all: int
    octets: bytes | None


@dataclass(frozen=True, slots=True)
class ReadPart(Reads):
    """Read octets of a content that is in its row; None: there is no such entry."""

    number: int
    after: int

    def apply(self, connection: sqlite3.Connection) -> Part | None:
        """Do it."""
        row = connection.execute(
            "SELECT content_octets, substr(content, ?, ?) FROM entry WHERE number = ?",
            (min(self.after, MOST_OFFSET) + 1, PART_OCTETS, self.number),
        ).fetchone()
        if row is None:
            return None
        in_all, octets = row
        return Part(in_all if isinstance(in_all, int) else 0, None if octets is None else bytes(octets))


class Reading:
    """Reads contents."""

    def __init__(self, database: Database, contents: ContentFolder) -> None:
        self._database = database
        self._contents = contents
        self._goes_on: tuple[int, str, int] | None = None  # what the last who read would ask for next

    async def read(self, number: int, *, after: int, what: str, by: str) -> Part | None:
        """
        Return octets of an entry, after so many; `what` of it is read is for the log. None: there is no such entry.

        Raises:  ReadingError: its file is not there, or cannot be read.
        """
        name = format_number(number)
        part = await self._database.do(ReadPart(number, after))
        if part is None:
            return None
        if self._goes_on != (number, by, after):  # whoever begins in the middle is told of, too
            events.entry_read(name, what, by)
        if part.octets is None:
            try:
                part = replace(part, octets=await self._contents.read(name, after, PART_OCTETS))
            except OSError as error:
                raise ReadingError(f"the content of {name} cannot be read: {error.strerror or error}") from None
        self._goes_on = (number, by, after + len(part.octets or b"")) if part.octets else None
        return part
