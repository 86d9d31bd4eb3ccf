from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from mailstack.directory import database
from mailstack.directory.database import Watch, create
from mailstack.directory.editing import (
    Removed,
    add_account,
    add_alias,
    add_domain,
    check_new_account,
    find_account,
    list_accounts,
    list_aliases,
    list_domains,
    remove_account,
    remove_alias,
    remove_domain,
    set_enabled,
    set_password,
)
from mailstack.directory.records import DirectoryError
from mailstack.directory.snapshot import Snapshot, read_snapshot

FIRST_FORMAT = f"""
PRAGMA application_id = {database.APPLICATION_ID};
PRAGMA user_version = 1;
CREATE TABLE domains (name TEXT PRIMARY KEY NOT NULL, created_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE accounts (
    name TEXT PRIMARY KEY NOT NULL,
    domain TEXT NOT NULL REFERENCES domains (name),
    password TEXT NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE aliases (name TEXT PRIMARY KEY NOT NULL, domain TEXT NOT NULL REFERENCES domains (name)) WITHOUT ROWID;
CREATE TABLE targets (
    alias TEXT NOT NULL REFERENCES aliases (name) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (alias, ordinal)
) WITHOUT ROWID;
INSERT INTO domains VALUES ('x.test', 1.0);
INSERT INTO accounts VALUES ('alice@x.test', 'x.test', 'h', 1, 2.0);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "directory.db"
    create(path)
    add_domain(path, "x.test", 1.0)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Make a directory of the first format."""
    path = tmp_path / "old.db"
    path.touch(0o600)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_FORMAT)
    return path


def targets_of(path: Path, alias: str) -> list[str]:
    return [str(each) for found in list_aliases(path) if found.name == alias for each in found.targets]


class TestFile:
    def test_only_its_owner_may_read_it_whatever_the_umask(self, tmp_path: Path) -> None:
        old = os.umask(0)
        try:
            create(tmp_path / "d")
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o600

    def test_it_is_made_once(self, path: Path) -> None:
        with pytest.raises(DirectoryError, match="File exists"):
            create(path)
        assert [each.name for each in list_domains(path)] == ["x.test"]

    def test_it_cannot_be_made_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DirectoryError):
            create(tmp_path / "link")
        assert not (tmp_path / "elsewhere").exists()

    def test_a_missing_file_is_not_made_by_a_change(self, tmp_path: Path) -> None:
        with pytest.raises(DirectoryError, match="mailstack init"):
            add_domain(tmp_path / "none.db", "x.test", 1.0)
        assert not (tmp_path / "none.db").exists()

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(DirectoryError, match="is not a file"):
            list_domains(tmp_path)

    @pytest.mark.parametrize("octets", [b"", b"hello, this is not a database" * 100])
    def test_another_file_in_its_place(self, tmp_path: Path, octets: bytes) -> None:
        (tmp_path / "d").write_bytes(octets)
        with pytest.raises(DirectoryError, match=r"not a directory of mailstack|is damaged"):
            list_domains(tmp_path / "d")

    def test_another_format(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(DirectoryError, match="format 99"):
            list_domains(path)

    def test_one_of_the_first_format_is_left_as_it_is_by_who_only_looks(self, old: Path) -> None:
        before = old.read_bytes()
        found = find_account(old, "alice@x.test")
        assert (found.password, found.enabled, found.created_at, found.scram) == ("h", True, 2.0, None)
        assert list_accounts(old) == [found]
        assert list_domains(old)[0].accounts == 1
        assert old.read_bytes() == before

    def test_one_of_the_first_format_is_brought_to_the_present_one_by_a_change(self, old: Path) -> None:
        set_password(old, "alice@x.test", "h2", "keys")
        assert find_account(old, "alice@x.test").scram == "keys"
        with database.reading(old) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (database.SCHEMA_VERSION,)
            ((secret,),) = connection.execute("SELECT secret FROM decoy").fetchall()
        assert len(secret) == database.DECOY_OCTETS
        assert stat.S_IMODE(old.stat().st_mode) == 0o600

    def test_and_by_who_serves(self, old: Path) -> None:
        (one, _), (other, _) = read_snapshot(old, Watch(old)), read_snapshot(old, Watch(old))
        assert one == other
        assert one.accounts["alice@x.test"].scram is None
        assert len(one.decoy_secret) == database.DECOY_OCTETS

    def test_several_who_serve_make_one_secret(self, old: Path) -> None:
        snapshots: list[Snapshot] = []
        threads = [Thread(target=lambda: snapshots.append(read_snapshot(old, Watch(old))[0])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(snapshots) == 4
        assert len({each.decoy_secret for each in snapshots}) == 1

    def test_the_first_format_becomes_what_is_made_new(self, path: Path, old: Path) -> None:
        columns = []
        for each in (path, old):
            with database.reading(each, upgrade=True) as connection:
                tables = [
                    name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")
                ]
                columns.append([(name, connection.execute(f"PRAGMA table_info({name})").fetchall()) for name in tables])
        assert columns[0] == columns[1]

    def test_an_upgrade_that_fails_in_the_middle_changes_nothing(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = old.read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(database, "_add_decoy", lambda connection: connection.execute("no SQL"))
            with pytest.raises(DirectoryError):
                set_password(old, "alice@x.test", "h2")
        assert old.read_bytes() == before
        set_password(old, "alice@x.test", "h2")

    def test_a_journal_mode_in_which_changes_go_unseen_is_refused(self, path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        with pytest.raises(DirectoryError, match="journal mode wal"):
            list_domains(path)

    def test_a_busy_file_is_not_changed(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DirectoryError, match="somebody else; nothing was done"):
            add_domain(path, "y.test", 1.0)
        other.close()
        assert [each.name for each in list_domains(path)] == ["x.test"]

    def test_a_change_that_fails_in_the_middle_changes_nothing(self, path: Path) -> None:
        with pytest.raises(RuntimeError), database.changing(path) as connection:  # noqa: PT012 (the statement and the failure)
            connection.execute("DELETE FROM domains")
            raise RuntimeError
        assert [each.name for each in list_domains(path)] == ["x.test"]

    def test_reading_cannot_write(self, path: Path) -> None:
        with pytest.raises(DirectoryError), database.reading(path) as connection:
            connection.execute("DELETE FROM domains")
        assert list_domains(path)


class TestWatch:
    def test_the_stamp_changes_with_every_commit_and_not_otherwise(self, path: Path) -> None:
        watch = Watch(path)
        seen = [watch.stamp()]
        list_domains(path)
        assert watch.stamp() == seen[0]
        for number in range(5):
            add_domain(path, f"d{number}.test", 1.0)
            seen.append(watch.stamp())
        assert len({stamp.counter for stamp in seen}) == 6
        watch.close()

    def test_another_file_in_its_place_has_another_stamp(self, path: Path, tmp_path: Path) -> None:
        watch = Watch(path)
        before = watch.stamp()
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
        assert watch.stamp().inode != before.inode
        watch.close()

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Watch(tmp_path / "none").stamp()


class TestDomains:
    def test_add_and_list(self, path: Path) -> None:
        assert add_domain(path, "A.Test.", 2.0) == "a.test"
        add_account(path, "alice@x.test", "h", 3.0)
        add_alias(path, "sales@x.test", ["alice@x.test"])
        found = [(each.name, each.created_at, each.accounts, each.aliases) for each in list_domains(path)]
        assert found == [("a.test", 2.0, 0, 0), ("x.test", 1.0, 1, 1)]

    def test_twice(self, path: Path) -> None:
        with pytest.raises(DirectoryError, match="already"):
            add_domain(path, "X.TEST", 1.0)

    def test_remove(self, path: Path) -> None:
        assert remove_domain(path, "x.test") == Removed()
        assert list_domains(path) == []

    def test_remove_an_unknown_one(self, path: Path) -> None:
        with pytest.raises(DirectoryError, match=r"no domain y.test"):
            remove_domain(path, "y.test")

    def test_one_with_accounts_stays_unless_forced(self, path: Path) -> None:
        add_domain(path, "y.test", 1.0)
        add_account(path, "alice@x.test", "h", 1.0)
        add_alias(path, "sales@x.test", ["alice@x.test"])
        add_alias(path, "sales@y.test", ["alice@x.test"])
        with pytest.raises(DirectoryError, match=r"1 account and 1 alias.*--force"):
            remove_domain(path, "x.test")
        assert len(list_accounts(path)) == 1
        assert remove_domain(path, "x.test", force=True) == Removed(("alice@x.test",), ("sales@x.test",))
        assert list_accounts(path) == []
        assert targets_of(path, "sales@y.test") == ["alice@x.test"]


class TestAccounts:
    def test_add_find_and_list(self, path: Path) -> None:
        assert check_new_account(path, "Alice@X.test") == "alice@x.test"
        assert add_account(path, "Alice@X.test", "hash", 5.0) == "alice@x.test"
        found = find_account(path, "ALICE@x.test")
        assert (found.password, found.enabled, found.created_at) == ("hash", True, 5.0)
        assert list_accounts(path) == [found]

    @pytest.mark.parametrize("function", [check_new_account, lambda path, name: add_account(path, name, "h", 1.0)])
    def test_what_is_in_the_way(self, path: Path, function: object) -> None:
        assert callable(function)
        add_account(path, "alice@x.test", "h", 1.0)
        add_alias(path, "sales@x.test", ["alice@x.test"])
        for name, reason in [
            ("alice@x.test", "already there"),
            ("sales@x.test", "is an alias"),
            ("bob@y.test", "not a domain of ours. Add it first: mailstack domain add y.test"),
            ("../x@x.test", "is not an address|cannot be the name"),
        ]:
            with pytest.raises(DirectoryError, match=reason):
                function(path, name)
        assert len(list_accounts(path)) == 1

    def test_password_and_enabled(self, path: Path) -> None:
        add_account(path, "alice@x.test", "h", 1.0)
        set_password(path, "Alice@x.test", "h2")
        assert find_account(path, "alice@x.test").password == "h2"
        set_enabled(path, "alice@x.test", False)
        assert not find_account(path, "alice@x.test").enabled
        set_enabled(path, "alice@x.test", True)
        assert find_account(path, "alice@x.test").enabled

    def test_nobody(self, path: Path) -> None:
        for change in (
            lambda: set_password(path, "bob@x.test", "h"),
            lambda: set_enabled(path, "bob@x.test", True),
            lambda: remove_account(path, "bob@x.test"),
            lambda: find_account(path, "bob@x.test"),
        ):
            with pytest.raises(DirectoryError, match=r"no account bob@x.test"):
                change()

    def test_remove(self, path: Path) -> None:
        add_account(path, "alice@x.test", "h", 1.0)
        assert remove_account(path, "alice@x.test") == Removed()
        assert list_accounts(path) == []

    def test_one_to_which_aliases_lead_stays_unless_forced(self, path: Path) -> None:
        add_account(path, "alice@x.test", "h", 1.0)
        add_account(path, "bob@x.test", "h", 1.0)
        add_alias(path, "one@x.test", ["Alice@x.test", "alice+tag@x.test"])
        add_alias(path, "two@x.test", ["alice@x.test", "bob@x.test"])
        with pytest.raises(DirectoryError, match=r"one@x\.test, two@x\.test.*--force"):
            remove_account(path, "alice@x.test")
        assert remove_account(path, "alice@x.test", force=True) == Removed((), ("one@x.test",), ("two@x.test",))
        assert targets_of(path, "two@x.test") == ["bob@x.test"]
        assert targets_of(path, "one@x.test") == []


class TestAliases:
    def test_add_and_list_in_order(self, path: Path) -> None:
        add_account(path, "alice@x.test", "h", 1.0)
        add_alias(path, "Sales@x.test", ["z@other.test", "alice@x.test", "a@other.test", "z@other.test"])
        assert targets_of(path, "sales@x.test") == ["z@other.test", "alice@x.test", "a@other.test"]

    def test_replace(self, path: Path) -> None:
        add_alias(path, "sales@x.test", ["a@other.test", "b@other.test"])
        with pytest.raises(DirectoryError, match="--replace"):
            add_alias(path, "sales@x.test", ["c@other.test"])
        add_alias(path, "sales@x.test", ["c@other.test"], replace=True)
        assert targets_of(path, "sales@x.test") == ["c@other.test"]

    def test_a_replacement_that_is_refused_leaves_the_old(self, path: Path) -> None:
        add_alias(path, "sales@x.test", ["a@other.test"])
        with pytest.raises(DirectoryError, match="does not exist here"):
            add_alias(path, "sales@x.test", ["nobody@x.test"], replace=True)
        assert targets_of(path, "sales@x.test") == ["a@other.test"]

    @pytest.mark.parametrize(
        ("alias", "targets", "reason"),
        [
            ("alice@x.test", ["a@other.test"], "is an account"),
            ("sales@y.test", ["a@other.test"], "no domain y.test"),
            ("sales@x.test", [], "1 to 1000"),
            ("sales@x.test", [f"a{n}@o.test" for n in range(1001)], "1 to 1000"),
            ("sales@x.test", ["nonsense"], "is not an address"),
            ("sales@x.test", ["nobody@x.test"], "lead nowhere"),
            ("sales@x.test", ["sales@x.test"], "back to itself"),
            ("loop@x.test", ["first@x.test"], "back to itself"),
            ("nonsense", ["a@other.test"], "is not an address"),
        ],
    )
    def test_refused(self, path: Path, alias: str, targets: list[str], reason: str) -> None:
        add_account(path, "alice@x.test", "h", 1.0)
        add_alias(path, "loop@x.test", ["a@other.test"])
        add_alias(path, "first@x.test", ["loop@x.test"])
        with pytest.raises(DirectoryError, match=reason):
            add_alias(path, alias, targets, replace=True)
        assert targets_of(path, "loop@x.test") == ["a@other.test"]

    @pytest.mark.parametrize("target", ["alice@x.test", "ALICE+tag@x.test", "list@x.test", "list+tag@x.test", "any@y.test"])
    def test_targets_that_exist(self, path: Path, target: str) -> None:
        add_domain(path, "y.test", 1.0)
        add_account(path, "alice@x.test", "h", 1.0)
        add_alias(path, "list@x.test", ["alice@x.test"])
        add_alias(path, "*@y.test", ["alice@x.test"])
        add_alias(path, "sales@x.test", [target])
        assert targets_of(path, "sales@x.test") == [target]

    def test_remove(self, path: Path) -> None:
        add_alias(path, "sales@x.test", ["a@other.test"])
        add_alias(path, "*@x.test", ["sales@x.test"])
        with pytest.raises(DirectoryError, match=r"lead to sales@x\.test: \*@x\.test"):
            remove_alias(path, "sales@x.test")
        assert remove_alias(path, "*@x.test") == "*@x.test"
        assert remove_alias(path, "SALES@x.test") == "sales@x.test"
        assert list_aliases(path) == []
        with pytest.raises(DirectoryError, match="no alias"):
            remove_alias(path, "sales@x.test")
