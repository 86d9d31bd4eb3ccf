"""
Counts of sessions by what became of TLS: gathered in memory, added to a file once a minute.

A file for each worker, which alone writes it; whoever reports reads them all. Days are those of UTC.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Final

from mailstack.mail.tls_reports import Line
from mailstack.mail.tls_results import AppliedPolicy, TLSFailure

MAX_IN_MEMORY: Final = 5_000
MAX_ROWS_A_DAY: Final = 100_000
MAX_LINES: Final = 10_000
"""Of one report. Whoever changes his policy with every message could have a report of any length."""
POLICY_CHARACTERS: Final = 2_000
"""Of one policy, which strangers write."""
KEPT_DAYS: Final = 3
DAY_SECONDS: Final = 86_400
WHY_CHARACTERS: Final = 200

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS counted (
    day TEXT NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,           -- JSON: kind, strings, hosts
    failure TEXT NOT NULL,          -- '' for a success
    host TEXT NOT NULL,
    address TEXT NOT NULL,
    own_address TEXT NOT NULL,
    why TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (day, domain, policy, failure, host, address, own_address, why)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settled (day TEXT NOT NULL, domain TEXT NOT NULL, PRIMARY KEY (day, domain)) WITHOUT ROWID;
"""
_ADD: Final = """
INSERT INTO counted VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions
"""

Key = tuple[str, Line]
"""A day and a line of it, whose number of sessions is 0."""


def day_of(seconds: float) -> str:
    """Return the day of a time, `2026-11-26`."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _cut(applied: AppliedPolicy) -> AppliedPolicy:
    return replace(applied, strings=_cut_texts(applied.strings), hosts=_cut_texts(applied.hosts))


def _cut_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    sums = accumulate(map(len, texts))
    return tuple(text for text, so_far in zip(texts, sums, strict=True) if so_far <= POLICY_CHARACTERS)


class Counted:
    """What is counted in memory."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}

    def add(self, seconds: float, line: Line) -> None:
        """Count one session; of very much that differs the hosts are no longer told apart. A long policy is cut."""
        key = (day_of(seconds), replace(line, applied=_cut(line.applied)))
        if key not in self._counts and len(self._counts) >= MAX_IN_MEMORY:
            key = (key[0], Line(AppliedPolicy(line.applied.kind, line.applied.domain), line.failure, 0))
            if key not in self._counts and len(self._counts) >= 2 * MAX_IN_MEMORY:
                return
        self._counts[key] = self._counts.get(key, 0) + 1

    def take(self) -> Mapping[Key, int]:
        """Return what there is, and begin anew."""
        taken, self._counts = self._counts, {}
        return taken


class CountsFile:
    """A worker's file; its methods block, and raise OSError or sqlite3.Error."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, counts: Mapping[Key, int]) -> None:
        """Add counts, and forget the days that are over."""
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        rows = [
            (day, line.applied.domain, _policy(line.applied), line.failure.value if line.failure else "", line.host,
             line.address, line.own_address, line.why, sessions)
            for (day, line), sessions in counts.items()
        ]  # fmt: skip
        with _opened(self._file) as database, database:
            newest = max(row[0] for row in rows)
            (held,) = database.execute("SELECT count(*) FROM counted WHERE day = ?", (newest,)).fetchone()
            database.executemany(_ADD, rows[: max(0, MAX_ROWS_A_DAY - held)])
            _forget(database, newest)

    def settle(self, day: str, domain: str) -> None:
        """Note that a domain needs to be told no more about a day."""
        with _opened(self._file) as database, database:
            database.execute("INSERT OR IGNORE INTO settled VALUES (?, ?)", (day, domain))

    def is_settled(self, day: str, domain: str) -> bool:
        """Say whether a domain was told, or does not want to be."""
        with _opened(self._file) as database:
            found = database.execute("SELECT 1 FROM settled WHERE day = ? AND domain = ?", (day, domain)).fetchone()
        return found is not None


def domains_of(folder: Path, day: str) -> list[str]:
    """Return the domains of which something was counted that day, by any worker."""
    found: set[str] = set()
    for database in _every(folder):
        found |= {domain for (domain,) in database.execute("SELECT DISTINCT domain FROM counted WHERE day = ?", (day,))}
    return sorted(found)


def lines_of(folder: Path, day: str, domain: str) -> Sequence[Line]:
    """Return what was counted of a domain that day, by all workers together, up to MAX_LINES."""
    found: dict[Line, int] = {}
    for database in _every(folder):
        rows = database.execute(
            "SELECT policy, failure, host, address, own_address, why, sessions FROM counted WHERE day = ? AND domain = ?",
            (day, domain),
        )
        for policy, failure, host, address, own_address, why, sessions in rows:
            kind, strings, hosts = json.loads(policy)
            applied = AppliedPolicy(kind, domain, tuple(strings), tuple(hosts))
            line = Line(applied, TLSFailure(failure) if failure else None, 0, host, address, own_address, why)
            if line in found or len(found) < MAX_LINES:
                found[line] = found.get(line, 0) + sessions
    return [
        Line(each.applied, each.failure, sessions, each.host, each.address, each.own_address, each.why)
        for each, sessions in found.items()
    ]


def _every(folder: Path) -> Iterator[sqlite3.Connection]:
    for file in sorted(folder.glob("*.db")):
        with _opened(file) as database:
            yield database


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    # A rollback journal: several processes may read a file while one writes it, and WAL of older versions has its troubles.
    with closing(sqlite3.connect(file, timeout=10)) as database:
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        yield database


def _forget(database: sqlite3.Connection, newest: str) -> None:
    since = (newest, f"-{KEPT_DAYS} days")
    database.execute("DELETE FROM counted WHERE day < date(?, ?)", since)
    database.execute("DELETE FROM settled WHERE day < date(?, ?)", since)


def _policy(applied: AppliedPolicy) -> str:
    return json.dumps([applied.kind, applied.strings, applied.hosts])
