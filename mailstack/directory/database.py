"""
The file: one SQLite database in rollback-journal mode, its schema, transactions for whoever changes it, and its change counter.

Why not WAL: several processes open the file, the operator's command as a writer among them, and in WAL mode the change counter
in the header stands still. In rollback mode every commit raises it (octets 24 to 27), so a reader finds out with one `pread`,
without any lock, that something changed. `synchronous=EXTRA` is FULL that also syncs the folder after the journal is gone:
what the command reported as done stays done.

    on disk                                   meaning                     the next who opens it
    ----------------------------------------  --------------------------  ---------------------------------------
    directory.db                              at rest                     reads
    directory.db and a -journal, locked       a change is being written   waits up to BUSY_SECONDS
    directory.db and a -journal, not locked   a writer died in the middle rolls the change back, then goes on
    no directory.db                           never made, or moved away   refuses; `mailstack init` makes it
    directory.db of an earlier format         made by an earlier version  brings it to the present format, then goes on

The present format is made of an earlier one in one transaction, step by step (`_UPGRADES`), by the first who writes or serves;
who only looks, sees an earlier one as if it were the present, and leaves it as it is (`_VIEWS`).
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mailstack.directory.records import DirectoryError

BUSY_SECONDS: Final = 5.0
APPLICATION_ID: Final = 0x6D737464  # "mstd"
SCHEMA_VERSION: Final = 2
DECOY_OCTETS: Final = 32
_COUNTER_OFFSET: Final = 24  # "File change counter" of the SQLite file format, §1.3.7
_COUNTER_OCTETS: Final = 4

_SCHEMA: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE domains (
    name TEXT PRIMARY KEY NOT NULL,
    created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE accounts (
    name TEXT PRIMARY KEY NOT NULL,
    domain TEXT NOT NULL REFERENCES domains (name),
    password TEXT NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at REAL NOT NULL,
    scram TEXT
) WITHOUT ROWID;
CREATE TABLE aliases (
    name TEXT PRIMARY KEY NOT NULL,
    domain TEXT NOT NULL REFERENCES domains (name)
) WITHOUT ROWID;
CREATE TABLE targets (
    alias TEXT NOT NULL REFERENCES aliases (name) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (alias, ordinal)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of the file from the next: which file it is, its times and size, and SQLite's change counter."""

    device: int
    inode: int
    octets: int
    modified_ns: int
    counter: bytes


def create(path: Path) -> None:
    """
    Make an empty directory, readable by its owner only.

    Raises:  DirectoryError: there is a file already, or it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise DirectoryError(f"{path} cannot be made: {error.strerror}.") from None
    with _explained(path), closing(_connect(path)) as connection:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
        _add_decoy(connection)
        connection.commit()


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    """
    Open one transaction that writes: all of it is committed at the end, or nothing.

    Raises:  DirectoryError: the file is missing, busy, damaged or not ours.
    """
    with _explained(path), closing(_connect(path)) as connection:
        _open(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


@contextmanager
def reading(path: Path, *, upgrade: bool = False) -> Iterator[sqlite3.Connection]:
    """
    Open one transaction that reads a single state of the file; `upgrade` brings it to the present format before.

    Nobody can write the file while it is open, so a stamp taken inside belongs to exactly what is read.

    Raises:  DirectoryError: the file is missing, busy, damaged or not ours.
    """
    with _explained(path), closing(_connect(path)) as connection:
        if upgrade:
            _open(connection, path)
        elif (version := _check(connection, path)) != SCHEMA_VERSION:
            connection.execute(_VIEWS[version])
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        _check(connection, path)
        yield connection


class Watch:
    """
    Tells the state of the file without a lock: one `stat` and one `pread`, some microseconds.

    It keeps a descriptor of its own and closes it only when the path leads to another file: closing any descriptor of a file
    drops all locks that this process holds on it (POSIX), SQLite's among them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None

    def stamp(self) -> Stamp:
        """
        Return the state of the file now.

        Raises:  OSError.
        """
        found = os.stat(self._path)  # noqa: PTH116 (on the road of every command; Path.stat costs more)
        if self._descriptor is None or (found.st_dev, found.st_ino) != self._identity:
            self._open()
            found = os.stat(self._path)  # noqa: PTH116 (as above)
        assert self._descriptor is not None
        counter = os.pread(self._descriptor, _COUNTER_OCTETS, _COUNTER_OFFSET)
        return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, counter)

    def close(self) -> None:
        """Let go of the file; a later `stamp` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = self._identity = None

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self.close()
        found = os.fstat(descriptor)
        self._descriptor, self._identity = descriptor, (found.st_dev, found.st_ino)


def _connect(path: Path) -> sqlite3.Connection:
    if not stat.S_ISREG(path.stat().st_mode):
        raise DirectoryError(f"{path} is not a file.")
    # mode=rw, for readers too: after a crash of a writer whoever comes next must roll its change back.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _open(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is ours, and bring it to the present format where it has an earlier one."""
    if _check(connection, path) != SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        version = _check(connection, path)  # somebody else may have been faster
        while version != SCHEMA_VERSION:
            _UPGRADES[version](connection)
            version += 1
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


def _add_scram(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE accounts ADD COLUMN scram TEXT")
    _add_decoy(connection)


def _add_decoy(connection: sqlite3.Connection) -> None:
    """Keep a secret of this installation, of which salts are made for users who do not exist, always the same."""
    connection.execute("CREATE TABLE decoy (secret BLOB NOT NULL)")
    connection.execute("INSERT INTO decoy (secret) VALUES (?)", (secrets.token_bytes(DECOY_OCTETS),))


_UPGRADES: Final[Mapping[int, Callable[[sqlite3.Connection], None]]] = {1: _add_scram}
"""What makes of each earlier format the next one."""

_VIEWS: Final[Mapping[int, str]] = {
    1: "CREATE TEMP VIEW accounts AS SELECT name, domain, password, enabled, created_at, NULL AS scram FROM main.accounts"
}
"""What makes each earlier format look like the present one, to this connection alone."""


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Return the format of a file that is ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
    if application != APPLICATION_ID:
        raise DirectoryError(f"{path} is not a directory of mailstack.")
    if version != SCHEMA_VERSION and version not in _UPGRADES:
        raise DirectoryError(f"{path} has format {version}, this mailstack reads {SCHEMA_VERSION}.")
    if journal != "delete":
        raise DirectoryError(f"{path} is in journal mode {journal}, in which changes go unseen; set it back to delete.")
    return int(version)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DirectoryError(f"There is no directory at {path}. `mailstack init` makes one.") from None
    except OSError as error:
        raise DirectoryError(f"{path} cannot be used: {error.strerror}.") from error
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DirectoryError(f"{path} is being changed by somebody else; nothing was done. Try again.") from error
        raise DirectoryError(f"{path} cannot be used: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise DirectoryError(f"{path} is damaged ({error}). Restore it from a backup.") from error
