"""
Operations: everything that is ever done to the rows, one class each.

Those that write are safe to repeat: `Record` sets states without asking for the old ones, since the lease that the runner
holds makes it the only writer of those recipients. So it may be tried until it succeeds, even when a failed commit turns
out to have happened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Content
from mailstack.mail.status import EnhancedStatus
from mailstack.spool.content import FileContent, MemoryContent
from mailstack.spool.entry import Entry, Pending, is_lane_of, lanes_by_way
from mailstack.spool.identifiers import format_number
from mailstack.spool.ledger import DIAGNOSTIC_CHARACTERS, Change, State
from mailstack.spool.record import RecordError, format_envelope, parse_envelope

UNREADABLE_SECONDS: Final = 600.0
ROW_OCTETS: Final = 4_096  # what a change of rows adds to the WAL, about
TRACES: Final = 20
"""So many are kept of what was done for a recipient."""
TRACE_CHARACTERS: Final = 400
"""Of what the other side said, each time."""

OPEN: Final = 1
_OPEN: Final = f"SELECT {OPEN} FROM recipient WHERE entry = ? AND (due_at IS NOT NULL OR held_at IS NOT NULL)"  # noqa: S608 (ours)
_TRACED: Final = "SELECT 2 FROM attempt WHERE entry = ?"

_OUTCOMES: Final = tuple(each.value for each in Action)
_TRIED: Final = f"{_TRACED} AND ordinal = ? AND action IN ({', '.join('?' * len(_OUTCOMES))}) LIMIT 1"
"""Finds what was tried, and not what the operator did."""

_UNFINISHED: Final = (State.WAITING.value, State.WARNED.value, State.UNREPORTED.value)
_IS_UNFINISHED: Final = f"state IN ({', '.join('?' * len(_UNFINISHED))})"

PUT_OFF: Final = "Its destination is down: "
"""What stands before the reason of a recipient that was not attempted, since another was in vain."""

Position = tuple[float, int, int]
"""A place in the order of what is due: due_at, entry, ordinal."""


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
        first = connection.execute(f"{_OPEN} UNION ALL {_TRACED} LIMIT 1", (self.number, self.number)).fetchone()
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
class DuePage:
    """A page of what is due; `next_due_at` is known when it is the last."""

    rows: list[tuple[float, int, int, str]]
    is_last: bool
    next_due_at: float | None


@dataclass(frozen=True, slots=True)
class Due(Reads):
    """Read the next page of what is due."""

    now: float
    after: Position | None
    limit: int

    def apply(self, connection: sqlite3.Connection) -> DuePage:
        """Do it."""
        rows = connection.execute(
            "SELECT due_at, entry, ordinal, lane FROM recipient WHERE due_at <= ? AND (due_at, entry, ordinal) > (?, ?, ?)"
            " ORDER BY due_at, entry, ordinal LIMIT ?",
            (self.now, *(self.after or (-1.0, 0, 0)), self.limit),
        ).fetchall()
        if len(rows) == self.limit:
            return DuePage(rows, False, None)
        later = connection.execute(
            "SELECT due_at FROM recipient WHERE due_at > ? ORDER BY due_at LIMIT 1", (self.now,)
        ).fetchone()
        return DuePage(rows, True, later[0] if later else None)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Entries with those of their recipients that are due, by lane; those that were set aside or put off, with the reason."""

    entries: list[tuple[Entry, dict[str, dict[int, Pending]]]]
    set_aside: list[tuple[int, str]]
    unreadable: list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Load(Reads):
    """Read entries back from disk; set aside those that cannot be read."""

    numbers: Sequence[int]
    now: float
    folder: Path

    def apply(self, connection: sqlite3.Connection) -> Loaded:
        """Do it."""
        loaded = Loaded([], [], [])
        for number in self.numbers:
            try:
                entry = _read_entry(connection, number, self.folder)
                if entry is None:
                    connection.execute("DELETE FROM recipient WHERE entry = ?", (number,))
                    connection.execute("DELETE FROM attempt WHERE entry = ?", (number,))
                    continue
                lanes = _read_pending(connection, entry, self.now)
            except (ValueError, TypeError) as error:
                set_aside(connection, number)
                loaded.set_aside.append((number, str(error)))
            except OSError as error:  # the disk may be better another time
                connection.execute(
                    "UPDATE recipient SET due_at = ? WHERE entry = ? AND due_at <= ?",
                    (self.now + UNREADABLE_SECONDS, number, self.now),
                )
                loaded.unreadable.append((number, str(error)))
            else:
                if lanes:
                    loaded.entries.append((entry, lanes))
        return loaded


def set_aside(connection: sqlite3.Connection, number: int) -> None:
    """Mark an entry corrupt: its rows are kept for the operator, and nothing of it is ever due again."""
    connection.execute("UPDATE entry SET state = 'corrupt' WHERE number = ?", (number,))
    connection.execute("UPDATE recipient SET due_at = NULL, held_at = NULL WHERE entry = ?", (number,))


def unfinished(connection: sqlite3.Connection, number: int) -> tuple[int, ...]:
    """Return the recipients of an entry, be it set aside, of whom nothing final is known."""
    query = f"SELECT ordinal FROM recipient WHERE entry = ? AND {_IS_UNFINISHED} ORDER BY ordinal"  # noqa: S608 (ours)
    return tuple(ordinal for (ordinal,) in connection.execute(query, (number, *_UNFINISHED)))


def take_back(connection: sqlite3.Connection, number: int, folder: Path, due_at: float) -> tuple[int, ...]:
    """
    Make an entry that was set aside active again, if it is whole now; return its recipients that wait, and are due then.

    Raises:  ValueError, TypeError: it is damaged. OSError: its content cannot be looked at. It is left as it was.
    """
    entry = _read_entry(connection, number, folder)
    if entry is None:
        return ()
    connection.execute(
        f"UPDATE recipient SET due_at = ? WHERE entry = ? AND {_IS_UNFINISHED}",  # noqa: S608 (ours)
        (due_at, number, *_UNFINISHED),
    )
    try:
        lanes = _read_pending(connection, entry, due_at)
        if not lanes:
            raise RecordError("it has no recipient who waits")
    except (ValueError, TypeError):
        set_aside(connection, number)
        raise
    connection.execute("UPDATE entry SET state = 'active' WHERE number = ?", (number,))
    return tuple(sorted(ordinal for pending in lanes.values() for ordinal in pending))


def _read_entry(connection: sqlite3.Connection, number: int, folder: Path) -> Entry | None:
    row = connection.execute(
        "SELECT envelope, expires_at, content_octets, content FROM entry WHERE number = ?", (number,)
    ).fetchone()
    if row is None:
        return None  # finished since it was seen to be due
    envelope, expires_at, octets, inline = row
    content: Content
    if inline is None:
        content = FileContent(folder / format_number(number), octets)
        found = content.path.stat().st_size if content.path.is_file() else None
    else:
        content = MemoryContent(bytes(inline))
        found = len(inline)
    if found != octets:
        raise RecordError("the content is missing" if found is None else f"the content has {found} of {octets} octets")
    return Entry(number=number, envelope=parse_envelope(envelope), content=content, expires_at=float(expires_at))


def _read_pending(connection: sqlite3.Connection, entry: Entry, now: float) -> dict[str, dict[int, Pending]]:
    lanes: dict[str, dict[int, Pending]] = {}
    recipients = entry.envelope.recipients
    for ordinal, lane, state, attempts, status, diagnostic, remote_mta, via in connection.execute(
        "SELECT ordinal, lane, state, attempts, status, diagnostic, remote_mta, via FROM recipient"
        " WHERE entry = ? AND due_at <= ? ORDER BY ordinal",
        (entry.number, now),
    ):
        if (
            not isinstance(attempts, int)
            or not 0 <= ordinal < len(recipients)
            or not is_lane_of(lane, replace(recipients[ordinal], via=via))
        ):
            raise RecordError(f"recipient {ordinal} does not go with the envelope")
        failure = None
        if state == State.UNREPORTED.value:
            failure = Disposition(
                ordinal=ordinal,
                action=Action.FAILED,
                status=EnhancedStatus.parse(status or "") or EnhancedStatus(5, 0, 0),
                diagnostic=diagnostic or "",
                remote_mta=remote_mta,
            )
        elif state not in (State.WAITING.value, State.WARNED.value):
            raise RecordError(f"recipient {ordinal} is due, but {state!r}")
        is_doubtful = attempts > 0 and not _is_answer(status, diagnostic)
        if is_only_put_off(connection, (entry.number, ordinal), attempts, diagnostic):
            attempts = 0
        lanes.setdefault(lane, {})[ordinal] = Pending(attempts, failure, state == State.WARNED.value, is_doubtful, via)
    return lanes


def is_only_put_off(connection: sqlite3.Connection, key: tuple[int, int], attempts: int, diagnostic: str | None) -> bool:
    """Say whether no attempt was made for a recipient, although one is counted, so that it could be put off."""
    if attempts != 1 or not (diagnostic or "").startswith(PUT_OFF):
        return False
    return connection.execute(_TRIED, (*key, *_OUTCOMES)).fetchone() is None


def _is_answer(status: str | None, diagnostic: str | None) -> bool:
    # RFC 3463 §3.5: X.4 is the network and the way, and with that it is not the host that speaks.
    return status is not None and not status.startswith("4.4.") and not (diagnostic or "").startswith(PUT_OFF)


class _Moves(Reads):
    """What operations that change the time of many rows have in common: how much that writes is known when it is done."""

    rows = 0

    @property
    def octets(self) -> int:  # type: ignore[override]  # theirs is nothing, and known before
        """Pages of the table and of its indexes, of which each row has its own when they came at different times."""
        return 2 * ROW_OCTETS * self.rows


@dataclass
class MakeDue(_Moves):
    """Make what waits due now, a part at a time so that commits in between do not wait long; return how many."""

    now: float
    limit: int

    def apply(self, connection: sqlite3.Connection) -> int:
        """Do it."""
        self.rows = connection.execute(
            "UPDATE recipient SET due_at = ? WHERE (entry, ordinal) IN"
            " (SELECT entry, ordinal FROM recipient WHERE due_at > ? ORDER BY due_at LIMIT ?)",
            (self.now, self.now, self.limit),
        ).rowcount
        return self.rows


@dataclass(frozen=True, slots=True)
class Quiet:
    """
    A lane that is to be left alone, since its destination is down.

    Shape:  what waits for it is due again at `later`, and one recipient at `until`: the probe. `reason` is what the last
            attempt said. `fresh` are entries of it that were not attempted before, and so are not in the index of lanes.
    """

    lane: str
    until: float
    later: float
    reason: Disposition
    fresh: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class PutOffDone:
    """The lanes of which there may be more; and what is still due there: held, or to be looked at all the same."""

    unfinished: list[str]
    others: list[tuple[int, str]]


# In those that follow, `attempts > 0` and `lane <> ''` are what makes SQLite use the index of lanes.
ENTER: Final = "UPDATE recipient SET attempts = 1 WHERE entry = ? AND lane = ? AND attempts = 0 AND due_at <= ?"
MOVE: Final = """
UPDATE recipient SET due_at = :later, status = :status, diagnostic = :diagnostic, remote_mta = :mta
WHERE (entry, ordinal) IN (
    SELECT r.entry, r.ordinal FROM recipient r JOIN entry e ON e.number = r.entry
    WHERE r.lane = :lane AND r.lane <> '' AND r.attempts > 0 AND r.due_at <= :now AND r.state IN ('waiting', 'warned')
        AND e.state = 'active' AND e.expires_at > :later AND (r.state = 'warned' OR :warn = 0 OR e.accepted_at + :warn > :later)
        AND (instr(e.envelope, '"requests":null') OR instr(e.envelope, '"deliver_by":null'))
    LIMIT :limit
)"""
NAME_PROBE: Final = """
UPDATE recipient SET due_at = :until
WHERE (entry, ordinal) IN (
    SELECT entry, ordinal FROM recipient WHERE lane = :lane AND lane <> '' AND attempts > 0 AND due_at = :later LIMIT 1
) AND NOT EXISTS (
    SELECT 1 FROM recipient WHERE lane = :lane AND lane <> '' AND attempts > 0 AND due_at > :now AND due_at <= :until
)"""
STILL_DUE: Final = """
SELECT DISTINCT entry, lane FROM recipient WHERE lane = :lane AND lane <> '' AND attempts > 0 AND due_at <= :now LIMIT :limit"""
WAKE: Final = """
UPDATE recipient SET due_at = :now
WHERE (entry, ordinal) IN (
    SELECT entry, ordinal FROM recipient
    WHERE lane = :lane AND lane <> '' AND attempts > 0 AND due_at > :now
        AND (status LIKE '4.4._' OR substr(diagnostic, 1, :length) = :put_off)
    LIMIT :limit
)"""


_WAKE_ALL: Final = """
UPDATE recipient SET due_at = :now
WHERE (entry, ordinal) IN (
    SELECT entry, ordinal FROM recipient INDEXED BY recipient_lane
    WHERE {lanes} AND lane <> '' AND attempts > 0 AND due_at > :now
    LIMIT :limit
)"""
WAKE_DOMAIN: Final = _WAKE_ALL.format(lanes="lane = :lane")
WAKE_WAYS: Final = _WAKE_ALL.format(lanes="lane > :by AND lane < :behind")


@dataclass
class PutOff(_Moves):
    """
    Put off what is due in lanes that are left alone, a part at a time: one statement for a lane.

    Not so what would miss something by it: recipients whose time is up, or whose sender is to be told of a delay, now or before
    they are due again, or has set a deadline.
    """

    lanes: Sequence[Quiet]
    now: float
    warning_seconds: float
    limit: int

    def apply(self, connection: sqlite3.Connection) -> PutOffDone:
        """Do it."""
        done, self.rows = PutOffDone([], []), 0
        for quiet in self.lanes:
            values = {
                "lane": quiet.lane,
                "now": self.now,
                "until": quiet.until,
                "later": quiet.later,
                "warn": self.warning_seconds,
                "status": str(quiet.reason.status),
                "diagnostic": (PUT_OFF + quiet.reason.diagnostic)[:DIAGNOSTIC_CHARACTERS],
                "mta": quiet.reason.remote_mta,
                "limit": self.limit,
            }
            connection.executemany(ENTER, [(number, quiet.lane, self.now) for number in quiet.fresh])
            moved = connection.execute(MOVE, values).rowcount
            self.rows += moved
            if moved == self.limit:
                done.unfinished.append(quiet.lane)
                continue
            connection.execute(NAME_PROBE, values)  # something must be due when the destination is to be asked again
            done.others.extend(connection.execute(STILL_DUE, values))
        return done


@dataclass
class WakeLane(_Moves):
    """Make due what waits because a destination was down, and nothing else of its lane; return how many, at most `limit`."""

    lane: str
    now: float
    limit: int

    def apply(self, connection: sqlite3.Connection) -> int:
        """Do it."""
        values = {"lane": self.lane, "now": self.now, "length": len(PUT_OFF), "put_off": PUT_OFF, "limit": self.limit}
        self.rows = connection.execute(WAKE, values).rowcount
        return self.rows


@dataclass
class WakeDomain(WakeLane):
    """Make due all that is to be attempted again in the lane of a domain, and in those where its mail has another way."""

    def apply(self, connection: sqlite3.Connection) -> int:
        """Do it; of each kind at most `limit`."""
        by, behind = lanes_by_way(self.lane)
        values = {"lane": self.lane, "by": by, "behind": behind, "now": self.now, "limit": self.limit}
        self.rows = sum(connection.execute(each, values).rowcount for each in (WAKE_DOMAIN, WAKE_WAYS))
        return self.rows


@dataclass(frozen=True, slots=True)
class Relane(Reads):
    """
    Put recipients into other lanes, since their way is another one.

    Shape:   `moves` are entry, ordinal, the lane of before and that of now. Who is not in the first one any more stays where he
             is: the operator has put him there.
    """

    moves: Sequence[tuple[int, int, str, str]]

    def apply(self, connection: sqlite3.Connection) -> None:
        """Do it."""
        connection.executemany(
            "UPDATE recipient SET lane = ? WHERE entry = ? AND ordinal = ? AND lane = ?",
            [(after, number, ordinal, before) for number, ordinal, before, after in self.moves],
        )


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
