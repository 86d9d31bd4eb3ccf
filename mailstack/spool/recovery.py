"""
Recovery: what the start does with what it finds on disk.

All states in which an entry can be, whatever was killed and whenever:

    row       recipients       content    what it is                                          what the start does
    -         -                -          a draft in memory, or nothing                       nothing
    -         -                file       a draft that was not committed, or a finished       removes the file
                                          entry whose file was not removed yet
    active    all waiting,     whole      fresh: committed, perhaps with its 250              nothing; it is due at once
              no attempts
    active    some due         whole      waiting                                             nothing; due when it says
    active    some unreported  whole      failed, its DSN not queued yet                      nothing; reported when due
    active    some held        whole      waiting for the operator                            nothing; kept until released
    active    any              no file    damaged: the file was lost outside of us            sets it aside
    several   any              no file    there is no file at all: another file system is     refuses, and changes nothing,
                               of any     missing, as a rule                                  until the operator says so
    active    any              too short  damaged, as above                                   sets it aside
    active    any              whole      damaged: the envelope cannot be read                nothing; set aside when loaded, so
                                                                                              that a million rows start at once
    corrupt   none due         any        set aside before                                    nothing; kept for the operator,
                                                                                              who deletes it, or releases it
                                                                                              when it is whole again

An active entry without anything due or held cannot be: the transaction that finishes its last recipient removes it. A row
without its file cannot come from a crash: the file and its name are on stable storage before the row. A partly written row is
SQLite's matter: a transaction is there or not. Files whose names are no identifiers are not ours and stay.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mailstack.spool.entry import paused_as
from mailstack.spool.failures import SpoolError
from mailstack.spool.identifiers import format_number, parse_name
from mailstack.spool.loading import set_aside
from mailstack.spool.queries import PAUSED, UNREPORTED

COUNTED_ROWS: Final = 10_000

LOST_NAME: Final = "lost"
"""The file by which the operator says that all contents are lost."""

WANTED: Final = "SELECT count(*) FROM entry WHERE content IS NULL AND state = 'active'"
IN_FILES: Final = "SELECT number, content_octets, state FROM entry WHERE content IS NULL"
WAITING: Final = (
    "SELECT count(DISTINCT entry), count(*) FROM (SELECT entry FROM recipient WHERE due_at IS NOT NULL ORDER BY due_at LIMIT ?)"
)
LAST_NUMBER: Final = "SELECT max(number) FROM entry"


@dataclass(frozen=True, slots=True)
class Recovered:
    """
    What the spool held: entries in it, those set aside just now, files removed, the highest identifier, and paused domains.

    Shape:  with `is_counted` False there are more entries than said: to count a million takes longer than all else here.
            `unreported` are entries, and their lanes, with failures that are to be told although the domain is paused.
    """

    entries: int
    is_counted: bool
    set_aside: list[tuple[int, str]]
    removed_files: int
    last_number: int
    paused: frozenset[str]
    unreported: list[tuple[int, str]]


def recover(connection: sqlite3.Connection, folder: Path) -> Recovered:
    """
    Bring rows and files in line. Blocks; nobody else may use the spool meanwhile.

    Raises:  sqlite3.Error, OSError: the disk failed; a damaged entry is no reason. SpoolError: all contents are missing.
    """
    with os.scandir(folder) as listing:  # numbers, not paths: there may be very many
        found = {number for each in listing if (number := parse_name(each.name)) is not None}
    lost = folder / LOST_NAME
    if not found and not lost.exists():
        _refuse_to_lose(connection, folder)
    damaged: list[tuple[int, str]] = []
    for number, octets, state in connection.execute(IN_FILES):
        is_there = number in found
        found.discard(number)
        if state == "corrupt":
            continue
        path = folder / format_number(number)
        size = path.stat().st_size if is_there and path.is_file() else None
        if size != octets:
            damaged.append((number, "the content is missing" if size is None else f"the content has {size} of {octets} octets"))
    connection.execute("BEGIN IMMEDIATE")
    for number, _ in damaged:
        set_aside(connection, number)
    connection.execute("COMMIT")
    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        lost.unlink()  # it was said of these, and not of what is lost another time
    removed = 0
    for number in found:
        with suppress(IsADirectoryError, PermissionError):
            (folder / format_number(number)).unlink()
            removed += 1
    entries, rows = connection.execute(WAITING, (COUNTED_ROWS,)).fetchone()
    last_number = connection.execute(LAST_NUMBER).fetchone()[0] or 0
    paused = frozenset(domain for domain, _since in connection.execute(PAUSED))
    unreported = (
        [(number, lane) for number, lane in connection.execute(UNREPORTED) if paused_as(lane, paused) is not None]
        if paused
        else []
    )
    return Recovered(entries, rows < COUNTED_ROWS, damaged, removed, last_number, paused, unreported)


def _refuse_to_lose(connection: sqlite3.Connection, folder: Path) -> None:
    """
    Have the start refused when several contents are wanted and there is none: each of them damaged is not what has happened.

    One alone may have been lost, and must not keep all other mail from going.
    """
    (wanted,) = connection.execute(WANTED).fetchone()
    if wanted > 1:
        raise SpoolError(
            f"{wanted} messages have their contents in {folder}, and nothing is there; if that is a file system of its own, "
            f"mount it. Should they be lost for good, say so by touch {folder / LOST_NAME}, and they are set aside"
        )
