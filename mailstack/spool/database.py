"""
The database: one SQLite connection, in one thread, whose batches are transactions.

All that gathered while the last commit waited for the disk is one transaction and one fsync. Operations go through the fast
road: one after the other, without savepoints. If one of them raises, the transaction is rolled back and the batch is done
again with a savepoint around each, so that only the bad one fails; operations therefore do nothing but SQL.

If the commit fails, every operation of the batch fails and nothing of it may stay. The connection is closed and another
opened for the next batch: after a failed fsync the kernel takes the pages for clean, so a second fsync of the same
descriptor proves nothing. Frames of the failed commit could still be found in the WAL by the next connection; it removes
what they created before it does anything else. When the disk is full, operations that free space are done again without
those that need it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred

from mailstack.spool.failures import (
    FOREIGN_ADVICE,
    VERSION_ADVICE,
    SpoolError,
    StorageError,
    advice,
    describe,
    is_full,
    sqlite_code,
)
from mailstack.spool.ports import Batch, BatchFactory
from mailstack.spool.reserve import Reserve

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

SCHEMA_VERSION: Final = 2
APPLICATION_ID: Final = 0x6D737031  # "msp1": file(1) and we can tell it from other databases
CHECKPOINT_OCTETS: Final = 16_777_216  # of WAL, estimated; it is then written to the database in some 30 ms
CACHE_KIB: Final = 16_384

_ADDED: Final = (
    "held_at REAL",  # NULL: not held; else due_at is NULL until the operator lets it go
    "via TEXT",  # where the operator has it go instead
)
_OPERATION: Final = """
CREATE INDEX recipient_held ON recipient (entry, ordinal) WHERE held_at IS NOT NULL;
-- What was tried: written for what stays in the spool only, and removed with its entry.
CREATE TABLE attempt (
    entry INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    at REAL NOT NULL,
    action TEXT NOT NULL,           -- of RFC 3464, or what the operator did
    status TEXT NOT NULL,
    remote_mta TEXT,
    address TEXT NOT NULL,
    tls TEXT NOT NULL,
    diagnostic TEXT NOT NULL,
    PRIMARY KEY (entry, ordinal, at, action)
) WITHOUT ROWID;
CREATE TABLE paused (
    lane TEXT PRIMARY KEY,
    since REAL NOT NULL
) WITHOUT ROWID;
"""
LATER_INDEXES: Final = """
-- Versions without these can use a database with them.
-- What waits for one domain, for when that goes down, and when it comes up. What goes at its first attempt is never in it.
CREATE INDEX IF NOT EXISTS recipient_lane ON recipient (lane, due_at) WHERE due_at IS NOT NULL AND attempts > 0 AND lane <> '';
-- What is to be told, for the start: also where the domain is paused.
CREATE INDEX IF NOT EXISTS recipient_unreported ON recipient (entry, lane) WHERE state = 'unreported';
"""
SCHEMA: Final = f"""
CREATE TABLE entry (
    number INTEGER PRIMARY KEY,
    state TEXT NOT NULL,            -- active | corrupt
    accepted_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    envelope TEXT NOT NULL,         -- see record.py
    content_octets INTEGER NOT NULL,
    content BLOB                    -- NULL: in the file content/NAME
);
CREATE INDEX entry_in_file ON entry (number) WHERE content IS NULL;
CREATE INDEX entry_corrupt ON entry (number) WHERE state = 'corrupt';
CREATE TABLE recipient (
    entry INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    lane TEXT NOT NULL,             -- domain, or '' for all accounts; see entry.py
    state TEXT NOT NULL,            -- see ledger.py
    attempts INTEGER NOT NULL,
    due_at REAL,                    -- NULL: nothing is to be done
    status TEXT,
    diagnostic TEXT,
    remote_mta TEXT,
    {", ".join(_ADDED)},
    PRIMARY KEY (entry, ordinal)
) WITHOUT ROWID;
-- What is due is a range of this index, and only of this: the lane is in it so that no row need be looked up.
CREATE INDEX recipient_due ON recipient (due_at, entry, ordinal, lane) WHERE due_at IS NOT NULL;
{LATER_INDEXES}
{_OPERATION}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_FROM_1: Final = "".join(f"ALTER TABLE recipient ADD COLUMN {each};" for each in _ADDED) + _OPERATION
UPGRADES: Final = {1: _FROM_1}
"""What makes of each older version, that can be read, the next."""

_BATCH_CODES: Final = frozenset(
    (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN,
     sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
)  # fmt: skip  # errors of the file, not of one operation


class Operation(Protocol[R_co]):
    """
    One thing to do in a transaction: SQL only, since it may be done twice.

    Shape:  `creates` is the number of the entry that it inserts, or None; `octets` is about what it adds to the WAL.
            `frees` says that it must be tried even when the disk is full.
    """

    @property
    def creates(self) -> int | None:
        """The entry to be removed should a failed commit come to light again."""

    @property
    def octets(self) -> int:
        """About what it writes."""

    @property
    def frees(self) -> bool:
        """Whether it may make space."""

    def apply(self, connection: sqlite3.Connection) -> R_co:
        """Do it."""
        ...


Connect = Callable[[Path], sqlite3.Connection]


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection with the pragmas that make a commit durable."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "wal_autocheckpoint = 0",
        "locking_mode = NORMAL",
        "secure_delete = OFF",  # some distributions turn it on; it writes every deleted content once more
        "temp_store = MEMORY",
        f"cache_size = -{CACHE_KIB}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    # A damaged text must not make the rows beside it unreadable; whoever reads it looks at what it says.
    connection.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
    return connection


class Database:
    """The spool's rows. Everything but `do` belongs to the start, the end, or the thread."""

    def __init__(self, path: Path, batch_factory: BatchFactory, connect: Connect = connect) -> None:
        self._path = path
        self._reserve = Reserve(path.with_name("reserve"))
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._batch: Batch[Operation[Any], Any] = batch_factory(self._run, name="spool")
        self._written_octets = 0
        self._ghosts: list[int] = []

    def open(self, prepare: Callable[[sqlite3.Connection], R]) -> R:
        """
        Open the file, make it if there is none, and prepare it for use; blocks.

        Raises:  SpoolError: any of that failed.
        """
        try:
            try:
                prepared = self._prepare(prepare)
            except (sqlite3.Error, OSError) as error:
                self._drop()
                if not is_full(error) or not self._reserve.give_up():
                    raise
                return self._prepare(prepare)
            self._reserve.make()
            return prepared
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise SpoolError(f"{self._path}: {describe(error)}{advice(error)}") from error
        except SpoolError as error:
            self._drop()
            raise SpoolError(f"{self._path}: {error}") from error

    def _prepare(self, prepare: Callable[[sqlite3.Connection], R]) -> R:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = self._connection = self._connect(self._path)
        _prepare_schema(connection)
        # A database that was just made must still have its name after a power cut.
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return prepare(connection)

    @property
    def has_ghosts(self) -> bool:
        """Whether a commit has failed whose entries the next batch must remove before they come to light."""
        return bool(self._ghosts)

    def start(self) -> None:
        """Start the thread."""
        self._batch.start()

    def do(self, operation: Operation[R]) -> Deferred[R]:
        """
        Queue an operation; the Deferred fires when it is on stable storage.

        Raises:  StorageError, by the Deferred: its batch failed. Any other: the operation alone failed. Neither left a trace.
        """
        return cast("Deferred[R]", self._batch.submit(operation))

    async def close(self) -> None:
        """Do what waits and close the file."""
        await self._batch.stop()
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._drop()

    def _run(self, operations: list[Operation[Any]]) -> list[Any]:
        self._checkpoint_when_due()
        try:
            outcomes = self._transaction(operations)
            if not self._reserve.is_there and any(each.creates is not None for each in operations):
                self._reserve.make()  # new mail is taken: there is room again
            return outcomes
        except Exception as error:  # whatever it was, nothing of the batch may stay
            self._fail(operations)
            if not is_full(error):
                raise StorageError(error) from error
            failure = StorageError(error)
        freeing = [each for each in operations if each.frees]
        if not freeing:
            raise failure
        freed: list[Any] | None = None
        if len(freeing) < len(operations):
            try:
                freed = self._free(freeing)
            except StorageError as error:
                if not error.is_full:
                    raise
        if freed is None:
            if not self._reserve.give_up():
                raise failure
            freed = self._free(freeing)
        outcomes_of_those = iter(freed)
        return [next(outcomes_of_those) if each.frees else failure for each in operations]

    def _free(self, operations: list[Operation[Any]]) -> list[Any]:
        """
        Do what may make room.

        Raises:  StorageError.
        """
        try:
            return self._transaction(operations)
        except Exception as error:
            self._fail(operations)
            raise StorageError(error) from error

    def _transaction(self, operations: list[Operation[Any]]) -> list[Any]:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [each.apply(connection) for each in operations]
        except Exception as error:
            if sqlite_code(error) in _BATCH_CODES:
                raise
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_apply_alone(connection, each) for each in operations]
        connection.execute("COMMIT")
        self._written_octets += sum(each.octets for each in operations)
        return outcomes

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect(self._path)
        if self._ghosts:
            self._connection.execute("BEGIN IMMEDIATE")
            rows = [(number,) for number in self._ghosts]
            self._connection.executemany("DELETE FROM recipient WHERE entry = ?", rows)
            self._connection.executemany("DELETE FROM entry WHERE number = ?", rows)
            self._connection.execute("COMMIT")
            self._ghosts.clear()
        return self._connection

    def _checkpoint_when_due(self) -> None:
        # At the start of a batch, not at its end, so that those whose commit has just succeeded do not wait for it.
        if self._written_octets < CHECKPOINT_OCTETS or self._connection is None:
            return
        self._written_octets = 0
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error:
            # The WAL has everything; only these descriptors are no longer to be trusted. Tried again after as much as now.
            self._drop()

    def _fail(self, operations: list[Operation[Any]]) -> None:
        self._ghosts += [each.creates for each in operations if each.creates is not None]
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.rollback()
            with suppress(sqlite3.Error):
                connection.close()


def _apply_alone(connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
    connection.execute("SAVEPOINT alone")
    try:
        outcome = operation.apply(connection)
    except Exception as error:
        if sqlite_code(error) in _BATCH_CODES:
            raise
        connection.execute("ROLLBACK TO alone")
        connection.execute("RELEASE alone")
        return error
    connection.execute("RELEASE alone")
    return outcome


def _prepare_schema(connection: sqlite3.Connection) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not application and not version and not tables:
        connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
    elif application != APPLICATION_ID:
        raise SpoolError(f"is not a spool; {FOREIGN_ADVICE}")
    elif version != SCHEMA_VERSION and version not in UPGRADES:
        raise SpoolError(f"has version {version}; this mailstack reads version {SCHEMA_VERSION}; {VERSION_ADVICE}")
    while version in UPGRADES:
        version += 1
        connection.executescript(f"BEGIN IMMEDIATE;{UPGRADES[version - 1]}PRAGMA user_version = {version};COMMIT;")
    connection.executescript(LATER_INDEXES)  # older databases have none
