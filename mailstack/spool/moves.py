"""
Moves: operations that change the time, or the lane, of many rows, a part at a time so that commits in between do not wait.

    MakeDue      everything                                        due now
    PutOff       what is due in a lane whose destination is down   due when it is asked again, and one before: the probe
    WakeLane     what was put off in a lane                        due now
    WakeDomain   what was attempted before, of a domain            due now
    Relane       recipients whose way has changed                  in the lane of that
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mailstack.mail.disposition import Disposition
from mailstack.spool.entry import lanes_by_way
from mailstack.spool.ledger import DIAGNOSTIC_CHARACTERS
from mailstack.spool.operations import PUT_OFF, ROW_OCTETS, Reads


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
