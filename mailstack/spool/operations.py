"""
Operations: everything that is ever done to the rows, one class each; here what enters an entry, and its outcomes.

    operations    accept an entry, record outcomes, count
    loading       read back what is due, and set aside what cannot be read
    moves         change the time, or the lane, of many rows
    queries, sums, reading, hands     what the operator wants to know, and to be done

Those that write are safe to repeat: `Record` sets states without asking for the old ones, since the lease that the runner
holds makes it the only writer of those recipients. So it may be tried until it succeeds, even when a failed commit turns
out to have happened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Final

from mailstack.mail.disposition import Action
from mailstack.spool.entry import Entry
from mailstack.spool.ledger import DIAGNOSTIC_CHARACTERS, Change
from mailstack.spool.record import format_envelope

ROW_OCTETS: Final = 4_096  # what a change of rows adds to the WAL, about
TRACES: Final = 20
"""So many are kept of what was done for a recipient."""
TRACE_CHARACTERS: Final = 400
"""Of what the other side said, each time."""

OPEN: Final = 1
_OPEN: Final = f"SELECT {OPEN} FROM recipient WHERE entry = ? AND (due_at IS NOT NULL OR held_at IS NOT NULL)"  # noqa: S608 (ours)
TRACED: Final = "SELECT 2 FROM attempt WHERE entry = ?"

PUT_OFF: Final = "Its destination is down: "
"""What stands before the reason of a recipient that was not attempted, since another was in vain."""


@dataclass(frozen=True, slots=True)
class Accept:
    """
    Insert an entry whose content, when it is in a file, is already on stable storage.

    Shape:  a lane for each of its recipients.
    """

    entry: Entry
    lanes: tuple[str, ...]
    frees: ClassVar[bool] = False

    @property
    def creates(self) -> int | None:
        """The entry."""
        return self.entry.number

    @property
    def octets(self) -> int:
        """Content and rows."""
        content = self.entry.content.in_memory
        return 2 * ROW_OCTETS + (len(content) if content is not None else 0)

    def apply(self, connection: sqlite3.Connection) -> None:
        """Insert it and its recipients, due at once or when the sender wants."""
        entry, envelope, content = self.entry, self.entry.envelope, self.entry.content
        connection.execute(
            "INSERT INTO entry (number, state, accepted_at, expires_at, envelope, content_octets, content)"
            " VALUES (?, 'active', ?, ?, ?, ?, ?)",
            (
                entry.number,
                envelope.accepted_at,
                entry.expires_at,
                format_envelope(envelope),
                content.octets,
                content.in_memory,
            ),
        )
        connection.executemany(
            "INSERT INTO recipient (entry, ordinal, lane, state, attempts, due_at) VALUES (?, ?, ?, 'waiting', 0, ?)",
            [(entry.number, ordinal, lane, envelope.due_at) for ordinal, lane in enumerate(self.lanes)],
        )


@dataclass(frozen=True, slots=True)
class Record:
    """
    Enter changes of recipients, with the DSN that tells of the failed ones. True: the entry was finished, and removed.

    Shape:  `is_all` says that the changes finish every recipient of the entry, so that its rows need not be looked at;
            `is_first` that nothing was tried before, so that there is no trace of it to be removed. `at` is when those in
            `tried` were attempted: what is not over by that leaves a trace.
    """

    number: int
    changes: tuple[Change, ...]
    report: Accept | None = None
    is_all: bool = False
    is_first: bool = False
    at: float = 0.0
    tried: Set[int] = frozenset()
    frees: ClassVar[bool] = True

    @property
    def creates(self) -> int | None:
        """The DSN."""
        return self.report.creates if self.report else None

    @property
    def octets(self) -> int:
        """Rows, and the DSN."""
        return 2 * ROW_OCTETS + (self.report.octets if self.report else 0)

    def apply(self, connection: sqlite3.Connection) -> bool:
        """Do it."""
        if self.report:
            self.report.apply(connection)
        if self.is_all and self._remove(connection, has_traces=not self.is_first):
            return True
        for change in self.changes:
            disposition = change.disposition
            connection.execute(
                "UPDATE recipient SET state = ?, attempts = ?, due_at = ?, held_at = ?, status = ?, diagnostic = ?,"
                " remote_mta = ? WHERE entry = ? AND ordinal = ?",
                (
                    change.state.value,
                    change.attempts,
                    None if change.is_held else change.due_at,
                    self.at if change.is_held else None,
                    str(disposition.status),
                    disposition.diagnostic[:DIAGNOSTIC_CHARACTERS],
                    disposition.remote_mta,
                    self.number,
                    disposition.ordinal,
                ),
            )
        first = connection.execute(f"{_OPEN} UNION ALL {TRACED} LIMIT 1", (self.number, self.number)).fetchone()
        if first == (OPEN,):
            self._leave_traces(connection)
            return False
        if self._remove(connection, has_traces=first is not None):
            return True
        # Either this was done before, by a commit that seemed to fail, or the entry was set aside and must be kept.
        return connection.execute("SELECT 1 FROM entry WHERE number = ?", (self.number,)).fetchone() is None

    def _remove(self, connection: sqlite3.Connection, *, has_traces: bool) -> bool:
        if not connection.execute("DELETE FROM entry WHERE number = ? AND state = 'active'", (self.number,)).rowcount:
            return False
        connection.execute("DELETE FROM recipient WHERE entry = ?", (self.number,))
        if has_traces:
            connection.execute("DELETE FROM attempt WHERE entry = ?", (self.number,))
        return True

    def _leave_traces(self, connection: sqlite3.Connection) -> None:
        """Keep what was tried, but of what worked at once: the row of the recipient says all of that."""
        for change in self.changes:
            disposition = change.disposition
            if disposition.ordinal not in self.tried or (
                change.attempts == 1 and disposition.action in (Action.DELIVERED, Action.RELAYED)
            ):
                continue
            leave_trace(
                connection,
                (self.number, disposition.ordinal, self.at),
                disposition.action.value,
                disposition.diagnostic,
                status=str(disposition.status),
                remote_mta=disposition.remote_mta,
                address=disposition.address,
                tls=disposition.tls,
            )


def is_open(connection: sqlite3.Connection, number: int) -> bool:
    """Say whether an entry has a recipient for whom something is to be done, or who is held."""
    return connection.execute(f"{_OPEN} LIMIT 1", (number,)).fetchone() is not None


def leave_trace(
    connection: sqlite3.Connection,
    key: tuple[int, int, float],
    action: str,
    diagnostic: str,
    *,
    status: str = "",
    remote_mta: str | None = None,
    address: str = "",
    tls: str = "",
) -> None:
    """Note what was done for a recipient, by its entry, ordinal and time; of very many the oldest are forgotten."""
    connection.execute(
        "INSERT OR REPLACE INTO attempt (entry, ordinal, at, action, status, remote_mta, address, tls, diagnostic)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, action, status, remote_mta, address, tls, diagnostic[:TRACE_CHARACTERS]),
    )
    connection.execute(
        "DELETE FROM attempt WHERE entry = ? AND ordinal = ? AND at <="
        " (SELECT at FROM attempt WHERE entry = ? AND ordinal = ? ORDER BY at DESC LIMIT 1 OFFSET ?)",
        (*key[:2], *key[:2], TRACES),
    )


class Reads:
    """What operations that only read, or change rows in place, have in common."""

    creates: ClassVar[int | None] = None
    octets: ClassVar[int] = 0
    frees: ClassVar[bool] = True  # they need no space


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What waits: entries and recipients in all, recipients due by now, and entries set aside."""

    entries: int
    waiting_recipients: int
    due_recipients: int
    corrupt_entries: int


@dataclass(frozen=True, slots=True)
class Count(Reads):
    """Count what waits, in indexes only."""

    now: float

    def apply(self, connection: sqlite3.Connection) -> RowCounts:
        """Do it."""
        return RowCounts(
            *(
                connection.execute(query, parameters).fetchone()[0]
                for query, parameters in (
                    ("SELECT count(DISTINCT entry) FROM recipient WHERE due_at IS NOT NULL", ()),
                    ("SELECT count(*) FROM recipient WHERE due_at IS NOT NULL", ()),
                    ("SELECT count(*) FROM recipient WHERE due_at <= ?", (self.now,)),
                    ("SELECT count(*) FROM entry WHERE state = 'corrupt'", ()),
                )
            )
        )
