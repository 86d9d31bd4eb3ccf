"""Loading: what is due is read back from disk, by pages and by entries; what cannot be read is set aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Content
from mailstack.mail.status import EnhancedStatus
from mailstack.spool.content import FileContent, MemoryContent
from mailstack.spool.entry import Entry, Pending, is_lane_of
from mailstack.spool.identifiers import format_number
from mailstack.spool.ledger import State
from mailstack.spool.operations import PUT_OFF, TRACED, Reads
from mailstack.spool.record import RecordError, parse_envelope

UNREADABLE_SECONDS: Final = 600.0

_OUTCOMES: Final = tuple(each.value for each in Action)
_TRIED: Final = f"{TRACED} AND ordinal = ? AND action IN ({', '.join('?' * len(_OUTCOMES))}) LIMIT 1"
"""Finds what was tried, and not what the operator did."""

_DONE: Final = "SELECT action FROM attempt WHERE entry = ? AND ordinal = ? ORDER BY at"
RELEASED: Final = "released"
"""What the operator did with what was held, in its trace."""

_UNFINISHED: Final = (State.WAITING.value, State.WARNED.value, State.UNREPORTED.value)
_IS_UNFINISHED: Final = f"state IN ({', '.join('?' * len(_UNFINISHED))})"

Position = tuple[float, int, int]
"""A place in the order of what is due: due_at, entry, ordinal."""


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
        is_released = attempts > 0 and _is_released(connection, (entry.number, ordinal))
        is_warned = state == State.WARNED.value
        lanes.setdefault(lane, {})[ordinal] = Pending(attempts, failure, is_warned, is_doubtful, via, is_released)
    return lanes


def is_only_put_off(connection: sqlite3.Connection, key: tuple[int, int], attempts: int, diagnostic: str | None) -> bool:
    """Say whether no attempt was made for a recipient, although one is counted, so that it could be put off."""
    if attempts != 1 or not (diagnostic or "").startswith(PUT_OFF):
        return False
    return connection.execute(_TRIED, (*key, *_OUTCOMES)).fetchone() is None


def _is_released(connection: sqlite3.Connection, key: tuple[int, int]) -> bool:
    """Say whether the operator has released what an attempt had held; what he had held himself has a trace of that between."""
    done = [action for (action,) in connection.execute(_DONE, key)]
    return (Action.DELAYED.value, RELEASED) in pairwise(done)


def _is_answer(status: str | None, diagnostic: str | None) -> bool:
    # RFC 3463 §3.5: X.4 is the network and the way, and with that it is not the host that speaks.
    return status is not None and not status.startswith("4.4.") and not (diagnostic or "").startswith(PUT_OFF)
