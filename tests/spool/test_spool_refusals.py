"""A spool that cannot be used: found before the start, and told so that the operator knows what to do."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from spool_house import envelope

from mailstack.net.batch import InlineBatch
from mailstack.spool.backoff import Schedule
from mailstack.spool.database import Database
from mailstack.spool.failures import SpoolError
from mailstack.spool.folder import SpoolFolder
from mailstack.spool.inspection import find_problem


def opened(folder: Path) -> Database:
    database = Database(folder / "spool.db", InlineBatch)
    database.open(lambda _: None)
    return database


def foreign(folder: Path) -> None:
    connection = sqlite3.connect(folder / "spool.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()


def newer(folder: Path) -> None:
    opened(folder)
    connection = sqlite3.connect(folder / "spool.db")
    connection.execute("PRAGMA user_version = 99")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "why", "advice"),
    [
        (lambda folder: (folder / "spool.db").write_bytes(b"garbage" * 100), "not a database", "restore it"),
        (lambda folder: (folder / "spool.db").mkdir(), "irectory", "move it away"),
        (foreign, "is not a spool", "move it away"),
        (newer, "version 99", "the mailstack that wrote it"),
    ],
)
def test_a_database_that_cannot_be_used_is_found_and_refused_with_advice(
    spoil: Callable[[Path], object], why: str, advice: str, tmp_path: Path
) -> None:
    spoil(tmp_path)

    found = find_problem(tmp_path)
    with pytest.raises(SpoolError) as refused:
        opened(tmp_path)

    for text in (str(found), str(refused.value)):
        assert str(tmp_path / "spool.db") in text
        assert why in text
        assert advice in text


@pytest.mark.parametrize("name", ["content", "lock"])
def test_what_is_in_the_place_of_a_part_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"")

    assert str(tmp_path / name) in str(find_problem(tmp_path))
    with pytest.raises(SpoolError):
        SpoolFolder(tmp_path).lock()


def test_a_spool_in_any_good_state_has_no_problem(tmp_path: Path) -> None:
    assert find_problem(tmp_path / "none") is None
    assert find_problem(tmp_path) is None
    (tmp_path / "spool.db").touch()  # died between making the file and filling it
    assert find_problem(tmp_path) is None
    database = opened(tmp_path)  # what is in it is in the WAL only
    assert find_problem(tmp_path) is None
    database._drop()
    (tmp_path / "content").mkdir()
    (tmp_path / "lock").touch()
    assert find_problem(tmp_path) is None


def test_looking_at_a_spool_changes_nothing_and_takes_no_lock(tmp_path: Path) -> None:
    database = opened(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    assert find_problem(tmp_path) is None
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    database._drop()


def test_a_second_process_is_told_to_stop_the_first(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(SpoolError, match="another process is using this spool; stop it first"):
        SpoolFolder(tmp_path).lock()
    os.close(lock)


def test_a_notification_is_never_tried_longer_than_a_message() -> None:
    schedule = Schedule(lifetime_seconds=3_600.0)
    assert schedule.expires_at(envelope(sender=None, accepted_at=1_000.0)) == 4_600.0
    assert Schedule().expires_at(envelope(sender=None, accepted_at=0.0)) == 2 * 86_400.0
