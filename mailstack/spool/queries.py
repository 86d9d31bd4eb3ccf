"""
Queries: what the operator wants to know of the spool, read a page at a time.

Each is one operation among those of the mail. It looks at a bounded number of rows, so that a commit behind it waits for some
milliseconds at most, and says where the next goes on. Nothing is kept between two pages, here or anywhere.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mailstack.mail.envelope import Envelope
from mailstack.spool.entry import paused_as, waits_as
from mailstack.spool.loading import is_only_put_off
from mailstack.spool.operations import Reads
from mailstack.spool.record import RecordError, parse_envelope
from mailstack.spool.selection import CORRUPT, HELD, Row, Selection

SCAN_ENTRIES: Final = 500
"""So many entries are looked at for a page."""
SCAN_ROWS: Final = 3_000
"""And so many recipients, or one more entry with them."""
SHOW_ROWS: Final = 50

PAUSED: Final = "SELECT lane, since FROM paused ORDER BY lane"
UNREPORTED: Final = "SELECT DISTINCT entry, lane FROM recipient WHERE state = 'unreported'"
_ROW: Final = "ordinal, lane, state, attempts, due_at, status, diagnostic, remote_mta, held_at, via"
_ENTRY: Final = "number, state, accepted_at, expires_at, content_octets, content IS NULL"


@dataclass(frozen=True, slots=True)
class Found:
    """
    An entry, and recipients of it.

    Shape:   `envelope` is None when its record cannot be read; `rows` are those that were asked for, of `recipients` in all.
    """

    number: int
    is_corrupt: bool
    accepted_at: float
    expires_at: float
    octets: int
    is_in_file: bool
    envelope: Envelope | None
    rows: list[Row]
    recipients: int


@dataclass(frozen=True, slots=True)
class FoundPage:
    """Entries in the order of their numbers; the next page goes on after `to`, and there is none when that is None."""

    found: list[Found]
    to: int | None


@dataclass(frozen=True, slots=True)
class Select(Reads):
    """Find what is selected, after a number; at most `limit` entries."""

    selection: Selection
    after: int
    limit: int

    def apply(self, connection: sqlite3.Connection) -> FoundPage:
        """Do it."""
        found: list[Found] = []
        looked_at, number = 0, self.after
        rows = self._entries(connection)
        for number, *about, record in rows:
            if record is not None and (entry := self._look(connection, number, about, record)) is not None:
                looked_at += entry.recipients
                if entry.rows:
                    found.append(entry)
            if len(found) >= self.limit or looked_at >= SCAN_ROWS:
                return FoundPage(found, number)
        return FoundPage(found, number if len(rows) == SCAN_ENTRIES else None)

    def _entries(self, connection: sqlite3.Connection) -> list[tuple[int, str, float, float, int, bool, str | None]]:
        """Read the next entries; of one that lacks what the selection wants, the record is None."""
        selection = self.selection
        hints = " AND ".join("instr(envelope, ?)" for _ in selection.hints) or "1"
        columns = f"{_ENTRY}, CASE WHEN {hints} THEN envelope END"
        first = max(self.after, selection.first_number)
        if selection.numbers:
            numbers = [each for each in selection.numbers if first < each <= selection.last_number][:SCAN_ENTRIES]
            where, parameters = f"number IN ({', '.join('?' * len(numbers))})", list[object](numbers)
        else:
            where, parameters = "number > ? AND number <= ?", [first, selection.last_number]
            if selection.states == {CORRUPT}:
                where += " AND state = 'corrupt'"
            elif selection.states == {HELD}:
                held = "SELECT DISTINCT entry FROM recipient WHERE held_at IS NOT NULL AND entry > ? ORDER BY entry LIMIT ?"
                where, parameters = f"{where} AND number IN ({held})", [*parameters, first, SCAN_ENTRIES]
        query = f"SELECT {columns} FROM entry WHERE {where} ORDER BY number LIMIT ?"  # noqa: S608 (nothing in it is a value)
        return connection.execute(query, (*selection.hints, *parameters, SCAN_ENTRIES)).fetchall()

    def _look(self, connection: sqlite3.Connection, number: int, about: list[object], record: object) -> Found | None:
        state, accepted_at, expires_at, octets, is_in_file = about
        envelope = _envelope(record)
        if not self.selection.takes(envelope, _float(accepted_at), _int(octets)):
            return None
        rows = list(_rows(connection, number, f"SELECT {_ROW} FROM recipient WHERE entry = ?", number))  # noqa: S608 (as above)
        is_corrupt = state == "corrupt"
        chosen = self.selection.selected(envelope, rows, is_corrupt=is_corrupt)
        return Found(
            number,
            is_corrupt,
            _float(accepted_at),
            _float(expires_at),
            _int(octets),
            bool(is_in_file),
            envelope,
            chosen,
            len(rows),
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """What was done once for a recipient."""

    at: float
    action: str
    status: str
    remote_mta: str | None
    address: str
    tls: str
    diagnostic: str


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry with a page of its recipients, and what was tried for each; `to` is the last of them, or None at the end."""

    found: Found
    traces: dict[int, list[Trace]]
    to: int | None


@dataclass(frozen=True, slots=True)
class Show(Reads):
    """Read all that is known of an entry, its recipients behind an ordinal; None: there is none."""

    number: int
    after: int = -1

    def apply(self, connection: sqlite3.Connection) -> Shown | None:
        """Do it."""
        query = f"SELECT {_ENTRY}, envelope FROM entry WHERE number = ?"  # noqa: S608 (nothing in it is a value)
        row = connection.execute(query, (self.number,)).fetchone()
        if row is None:
            return None
        number, state, accepted_at, expires_at, octets, is_in_file, record = row
        query = f"SELECT {_ROW} FROM recipient WHERE entry = ? AND ordinal > ? ORDER BY ordinal LIMIT ?"  # noqa: S608 (as above)
        rows = list(_rows(connection, number, query, number, self.after, SHOW_ROWS))
        (count,) = connection.execute("SELECT count(*) FROM recipient WHERE entry = ?", (number,)).fetchone()
        traces = {each.ordinal: list(_traces(connection, number, each.ordinal)) for each in rows}
        found = Found(
            number,
            state == "corrupt",
            _float(accepted_at),
            _float(expires_at),
            _int(octets),
            bool(is_in_file),
            _envelope(record),
            rows,
            count,
        )
        return Shown(found, traces, rows[-1].ordinal if len(rows) == SHOW_ROWS else None)


def _rows(connection: sqlite3.Connection, number: int, query: str, *values: int) -> Iterator[Row]:
    """Read recipients of an entry; an attempt that was only counted, to put somebody off, is none."""
    for each in connection.execute(query, values):
        row = Row(*_texts(each))
        is_new = is_only_put_off(connection, (number, row.ordinal), row.attempts, row.diagnostic)
        yield replace(row, attempts=0) if is_new else row


def _traces(connection: sqlite3.Connection, number: int, ordinal: int) -> Iterator[Trace]:
    for row in connection.execute(
        "SELECT at, action, status, remote_mta, address, tls, diagnostic FROM attempt"
        " WHERE entry = ? AND ordinal = ? ORDER BY at, action",
        (number, ordinal),
    ):
        yield Trace(*_texts(row))


def _texts(values: Iterable[Any]) -> list[Any]:
    """Return what a row has; where its damage has made octets of a text they are a text again."""
    return [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in values]


@dataclass(frozen=True, slots=True)
class Lanes(Reads):
    """Return in which lanes the recipients of entries are, and their ordinals."""

    numbers: tuple[int, ...]

    def apply(self, connection: sqlite3.Connection) -> list[tuple[int, str, list[int]]]:
        """Do it."""
        found: dict[tuple[int, str], list[int]] = {}
        for number in self.numbers:
            for ordinal, lane in connection.execute("SELECT ordinal, lane FROM recipient WHERE entry = ?", (number,)):
                found.setdefault((number, lane), []).append(ordinal)
        return [(number, lane, ordinals) for (number, lane), ordinals in found.items()]


@dataclass(frozen=True, slots=True)
class Unreported(Reads):
    """Return entries, and their lanes, of a domain, or of ALL_DOMAINS, with failures that are still to be told."""

    domain: str

    def apply(self, connection: sqlite3.Connection) -> list[tuple[int, str]]:
        """Do it."""
        return [(number, lane) for number, lane in connection.execute(UNREPORTED) if paused_as(lane, (self.domain,))]


@dataclass(frozen=True, slots=True)
class PausedDomains(Reads):
    """Return the domains of which nothing is to be attempted, and since when."""

    def apply(self, connection: sqlite3.Connection) -> dict[str, float]:
        """Do it."""
        return dict(connection.execute(PAUSED).fetchall())


@dataclass(frozen=True, slots=True)
class Span(Reads):
    """Return the first and the last number, by which progress can be told; None: there is nothing."""

    def apply(self, connection: sqlite3.Connection) -> tuple[int, int] | None:
        """Do it."""
        (first,) = connection.execute("SELECT min(number) FROM entry").fetchone()
        (last,) = connection.execute("SELECT max(number) FROM entry").fetchone()
        return None if first is None else (first, last)


def _envelope(record: object) -> Envelope | None:
    try:
        return parse_envelope(record)
    except RecordError:
        return None


def _float(value: object) -> float:
    """Return a number, whatever a damaged row has instead of one."""
    return float(value) if isinstance(value, int | float) else 0.0


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def count_paused(
    connection: sqlite3.Connection, targets: Sequence[tuple[int, Sequence[int]]], paused: Container[str]
) -> Counter[str]:
    """Count those of recipients, by entry and ordinal, that wait since something is paused, by what that is."""
    counted: Counter[str] = Counter()
    for number, ordinals in targets:
        entry = connection.execute("SELECT envelope FROM entry WHERE number = ?", (number,)).fetchone()
        envelope = _envelope(entry[0]) if entry is not None else None
        known = envelope.recipients if envelope is not None else ()
        for ordinal, lane in connection.execute(
            "SELECT ordinal, lane FROM recipient WHERE entry = ? AND due_at IS NOT NULL AND state != 'unreported'", (number,)
        ):
            recipient = known[ordinal] if 0 <= ordinal < len(known) else None
            if ordinal in ordinals and (name := waits_as(lane, recipient, paused)) is not None:
                counted[name] += 1
    return counted
