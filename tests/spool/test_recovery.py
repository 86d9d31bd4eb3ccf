"""The folder, the database file, and each row of the table in recovery.py."""

from __future__ import annotations

import os
import sqlite3
import stat

import pytest
from spool_house import CONTENT, House, all_are, connect_fast, envelope, local, now, remote
from test_intake import BIG, FailingConnection
from twisted.internet.defer import Deferred

from mailstack.mail.disposition import Action
from mailstack.mail.reply import LOCAL_ERROR
from mailstack.mail.verdict import defer
from mailstack.spool import database
from mailstack.spool.failures import SpoolError
from mailstack.spool.hands import Act, Order
from mailstack.spool.identifiers import parse_name
from mailstack.spool.loading import Due
from mailstack.spool.moves import MakeDue
from mailstack.spool.queries import UNREPORTED


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "spool").open()


def change(house: House, sql: str, *parameters: object) -> None:
    """Change a row of a spool that nobody has open."""
    connection = sqlite3.connect(house.folder / "spool.db")
    assert connection.execute(sql, parameters).rowcount
    connection.commit()
    connection.close()


def rows(house: House, sql: str) -> list[tuple[object, ...]]:
    return house.spool._database._connected().execute(sql).fetchall()


class TestFolder:
    def test_is_private(self, house):
        house.accept(content=BIG)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in house.folder.rglob("*")}
        assert modes.pop("content") == 0o700
        assert stat.S_IMODE(house.folder.stat().st_mode) == 0o700
        assert set(modes) >= {"spool.db", "spool.db-wal", "lock"}
        assert set(modes.values()) == {0o600}

    def test_has_one_process(self, house):
        other = House(house.folder)
        with pytest.raises(SpoolError, match="another process is using this spool"):
            other.open()
        now(house.spool.close())
        other.open()

    def test_can_be_opened_again_after_a_start_that_failed(self, house):
        now(house.spool.close())
        database_path = house.folder / "spool.db"
        whole = database_path.read_bytes()
        database_path.write_bytes(b"no database" * 1_000)
        house.spool = house.make()
        with pytest.raises(SpoolError, match=r"spool\.db: SQLITE_NOTADB"):
            house.open()
        database_path.write_bytes(whole)
        house.spool = house.make()
        house.open()

    def test_must_be_a_folder(self, tmp_path):
        (tmp_path / "spool").write_text("")
        with pytest.raises(SpoolError, match="spool"):
            House(tmp_path / "spool").open()

    @pytest.mark.parametrize(("pragma", "why"), [("user_version = 99", "version 99"), ("application_id = 1", "is not a spool")])
    def test_refuses_what_it_cannot_read(self, house, pragma, why):
        now(house.spool.close())
        connection = sqlite3.connect(house.folder / "spool.db")
        connection.execute(f"PRAGMA {pragma}")
        connection.close()
        house.spool = house.make()
        with pytest.raises(SpoolError, match=why):
            house.open()

    def test_refuses_somebody_elses_database(self, tmp_path):
        (tmp_path / "spool").mkdir()
        connection = sqlite3.connect(tmp_path / "spool" / "spool.db")
        connection.execute("CREATE TABLE songs (title)")
        connection.close()
        with pytest.raises(SpoolError, match="is not a spool"):
            House(tmp_path / "spool").open()

    def test_commits_are_durable(self, tmp_path):
        connection = database.connect(tmp_path / "x.db")
        settings = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "locking_mode", "secure_delete")
        }
        connection.close()
        assert settings == {
            "journal_mode": "wal",
            "synchronous": 2,
            "wal_autocheckpoint": 0,
            "locking_mode": "normal",
            "secure_delete": 0,
        }


class TestRows:
    """One test for each row of the table."""

    def test_nothing(self, house):
        house.spool.intake.begin().write(CONTENT)
        house.crash().open()
        assert house.counts().entries == 0

    def test_a_file_without_a_row_is_removed_others_stay(self, house):
        house.spool.intake.begin().write(BIG)
        entry = house.accept(content=BIG)
        (house.folder / "content" / "README").write_text("not ours")
        (house.folder / "content" / ("0" * 13)).mkdir()
        assert len(house.files()) == 4
        house.crash().open()
        assert house.files() == ["0" * 13, entry, "README"]

    def test_fresh(self, house):
        entries = [house.accept(content=content) for content in (CONTENT, BIG)]
        house.crash().open()
        assert [(each.entry, each.attempt, each.may_repeat) for each in house.courier.deliveries] == [
            (entry, 1, True) for entry in entries
        ]
        assert [b"".join(each.content.chunks()) for each in house.courier.deliveries] == [CONTENT, BIG]
        assert house.counts().entries == 2

    def test_waiting(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        house.accept(content=BIG)
        house.crash().open()
        assert house.courier.deliveries == []
        house.clock.advance(300)
        assert house.courier.deliveries[0].attempt == 2

    def test_held(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        entry = house.accept(content=BIG)
        hold, release = (Order(act=act, by="root") for act in (Act.HOLD, Act.RELEASE))
        targets = [(parse_name(entry), (0,))]
        now(house.spool.queue.obey(hold, targets))
        house.crash().open()
        house.clock.advance(1_000_000)
        assert (house.courier.deliveries, house.files()) == ([], [entry])
        now(house.spool.queue.obey(release, targets))
        assert house.courier.deliveries[0].attempt == 2

    def test_held_without_its_whole_content_is_set_aside(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        entry = house.accept(content=BIG)
        targets = [(parse_name(entry), (0,))]
        now(house.spool.queue.obey(Order(act=Act.HOLD, by="root"), targets))
        house.crash()
        (house.folder / "content" / entry).unlink()
        house.open()
        now(house.spool.queue.obey(Order(act=Act.RELEASE, by="root"), targets))
        assert (house.counts().corrupt_entries, house.courier.deliveries) == (1, [])

    def test_unreported(self, house):
        house.route = lambda address: defer("not now")
        house.courier.answer = all_are(Action.FAILED)
        house.accept(remote("a@x.net"), local("b@x.org"))
        house.crash().open()
        assert house.counts().waiting_recipients == 2
        house.route = lambda address: (local("alice@example.org"),)
        house.clock.advance(300)
        assert all(delivery.envelope.reverse_path is None for delivery in house.courier.deliveries)
        assert len(house.courier.deliveries) == 2

    @pytest.mark.parametrize("octets", [None, b"", BIG[:-1], BIG + b"x"])
    def test_a_row_without_its_whole_content_is_set_aside(self, house, octets):
        damaged = house.accept(content=BIG)
        whole = house.accept(content=BIG)
        house.crash()
        path = house.folder / "content" / damaged
        path.unlink()
        if octets is not None:
            path.write_bytes(octets)
        house.open()
        assert [delivery.entry for delivery in house.courier.deliveries] == [whole]
        counts = house.counts()
        assert (counts.entries, counts.corrupt_entries, counts.waiting_recipients) == (1, 1, 1)
        assert path.exists() == (octets is not None)  # what is left is kept, now and later
        house.crash().open()
        assert house.counts().corrupt_entries == 1
        assert (house.folder / "content" / damaged).exists() == (octets is not None)

    @pytest.mark.parametrize(
        ("table", "column", "value"),
        [
            ("entry", "envelope", "{"),
            ("entry", "envelope", ""),
            ("entry", "envelope", b"\xff\xfe"),
            ("entry", "content", b"short"),
            ("entry", "expires_at", "never"),
            ("recipient", "state", "delivered"),
            ("recipient", "lane", "elsewhere"),
            ("recipient", "ordinal", 7),
            ("recipient", "attempts", "many"),
        ],
    )
    def test_a_row_that_cannot_be_read_is_set_aside_when_it_is_loaded(self, house, table, column, value):
        damaged = house.accept()
        whole = house.accept()
        house.crash()
        key = "number" if table == "entry" else "entry"
        change(house, f"UPDATE {table} SET {column} = ? WHERE {key} = ?", value, parse_name(damaged))
        house.open()
        assert [delivery.entry for delivery in house.courier.deliveries] == [whole]
        counts = house.counts()
        assert (counts.entries, counts.corrupt_entries, counts.waiting_recipients) == (1, 1, 1)
        house.courier.finish(Action.RELAYED)
        assert house.counts().corrupt_entries == 1

    def test_all_contents_are_missing(self, house):
        """Their file system is not mounted, as a rule: nothing is set aside for that."""
        house.courier.answer = all_are(Action.DELAYED)
        entries = [house.accept(content=BIG) for _ in range(3)]
        house.accept()
        house.crash()
        content, away = house.folder / "content", house.folder / "away"
        content.rename(away)
        with pytest.raises(SpoolError, match=r"3 messages have their contents in .*/content, and nothing is there"):
            house.open()
        assert house.courier.deliveries == []
        content.rmdir()
        away.rename(content)
        house.spool = house.make()
        house.open()
        house.clock.advance(300)
        assert [each.entry for each in house.courier.deliveries][:3] == entries
        assert house.counts().corrupt_entries == 0

    def test_all_contents_are_lost_and_the_operator_says_so(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        entries = [house.accept(content=BIG) for _ in range(2)]
        house.crash()
        for entry in entries:
            (house.folder / "content" / entry).unlink()
        (house.folder / "content" / "lost").touch()
        house.open()
        assert (house.counts().corrupt_entries, house.files()) == (2, []), "and it is said of no others"
        house.crash().open()
        assert house.counts().corrupt_entries == 2

    def test_text_that_is_no_utf8_is_set_aside(self, house):
        damaged = house.accept()
        whole = house.accept()
        house.crash()
        change(house, "UPDATE entry SET envelope = CAST(x'7bff' || envelope AS TEXT) WHERE number = ?", parse_name(damaged))
        house.open()
        assert [delivery.entry for delivery in house.courier.deliveries] == [whole]
        assert house.counts().corrupt_entries == 1

    @pytest.mark.parametrize("recipients", [("a@x.net",), ("a@x.net", "b@y.net")])
    def test_an_entry_set_aside_during_an_attempt_is_kept_at_its_end(self, house, recipients):
        entry = house.accept(*map(remote, recipients))
        rows(house, f"UPDATE entry SET state = 'corrupt' WHERE number = {parse_name(entry)} RETURNING 1")
        for _ in recipients:
            house.courier.finish(Action.RELAYED)
        assert rows(house, "SELECT count(*) FROM entry") == [(1,)]
        assert rows(house, "SELECT state FROM recipient") == [("relayed",)] * len(recipients)

    def test_recipients_without_an_entry_are_removed(self, house):
        entry = house.accept()
        house.crash()
        change(house, "DELETE FROM entry WHERE number = ?", parse_name(entry))
        house.open()
        assert house.courier.deliveries == []
        assert house.counts().waiting_recipients == 0

    def test_a_content_that_cannot_be_read_now_is_tried_later(self, house, monkeypatch):
        entry = house.accept(content=BIG)
        other = house.accept(remote("bob@other.example"))
        house.crash()
        house.open(run=False)
        real = os.stat

        def failing(path, *arguments, **options):
            if str(path).endswith(entry):
                raise PermissionError(13, "not now")
            return real(path, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", failing)
            house.spool.runner.start()
        assert [delivery.entry for delivery in house.courier.deliveries] == [other]
        house.clock.advance(600)
        assert [delivery.entry for delivery in house.courier.deliveries] == [other, entry]

    def test_identifiers_go_on_after_the_last_row(self, house):
        first = house.accept()
        house.crash()
        house.clock.rightNow -= 1_000_000
        house.open()
        assert house.spool.intake.begin().entry > first


class TestDatabase:
    def test_a_commit_that_happened_though_it_seemed_to_fail_is_undone(self, tmp_path):
        class Treacherous(FailingConnection):
            def execute(self, sql, *parameters):
                cursor = self._connection.execute(sql, *parameters)
                if sql == "COMMIT" and self._script:
                    error = sqlite3.OperationalError("injected")
                    error.sqlite_errorcode = self._script.pop()
                    raise error
                return cursor

        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: Treacherous(connect_fast(path), script)).open()
        script.append(sqlite3.SQLITE_IOERR_FSYNC)
        draft = house.spool.intake.begin()
        draft.write(CONTENT)
        assert house.commit(draft, envelope()).reply is LOCAL_ERROR
        assert house.counts().waiting_recipients == 0
        entry = house.accept()
        script.append(sqlite3.SQLITE_IOERR_FSYNC)
        house.courier.finish(Action.FAILED)
        house.clock.advance(10)
        assert rows(house, "SELECT count(*) FROM entry") == [(1,)]  # the DSN, once
        [(report, _)] = house.courier.waiting
        assert report.entry > entry
        house.crash().open()
        assert [delivery.entry for delivery in house.courier.deliveries] == [report.entry]

    def test_a_connection_that_cannot_be_opened_again_refuses_until_it_can(self, tmp_path):
        script: list[int] = []
        broken = []

        def connect(path):
            if broken:
                raise sqlite3.OperationalError("unable to open database file")
            return FailingConnection(connect_fast(path), script)

        house = House(tmp_path / "spool", connect=connect).open()
        house.accept()
        script.append(sqlite3.SQLITE_IOERR)
        broken.append(True)
        for _ in range(2):
            draft = house.spool.intake.begin()
            draft.write(CONTENT)
            assert house.commit(draft, envelope()).reply is LOCAL_ERROR
        broken.clear()
        house.accept()
        assert house.counts().entries == 2
        assert house.counts().waiting_recipients == 2

    def test_the_wal_is_checkpointed_and_used_again(self, house, monkeypatch):
        monkeypatch.setattr(database, "CHECKPOINT_OCTETS", 1_000_000)
        house.courier.answer = all_are(Action.RELAYED)
        for _ in range(100):
            house.accept(content=b"x" * 100_000)
        assert (house.folder / "spool.db-wal").stat().st_size < 3_000_000
        assert (house.folder / "spool.db").stat().st_size < 3_000_000

    def test_a_checkpoint_that_fails_costs_no_message(self, tmp_path, monkeypatch):
        monkeypatch.setattr(database, "CHECKPOINT_OCTETS", 10_000)
        failed = []

        class NoCheckpoint(FailingConnection):
            def execute(self, sql, *parameters):
                if "wal_checkpoint" in sql:
                    failed.append(sql)
                    raise sqlite3.OperationalError("disk I/O error")
                return self._connection.execute(sql, *parameters)

        house = House(tmp_path / "spool", connect=lambda path: NoCheckpoint(connect_fast(path), [])).open()
        entries = [house.accept(local("a@x.org")) for _ in range(20)]
        assert failed
        house.crash().open()
        assert [delivery.entry for delivery in house.courier.deliveries] == entries

    def test_a_closed_spool_has_no_wal_left(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        house.accept()
        now(house.spool.close())
        assert sorted(path.name for path in house.folder.iterdir()) == ["content", "lock", "reserve", "spool.db"]

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT due_at, entry, ordinal, lane FROM recipient WHERE due_at <= 1 AND (due_at, entry, ordinal) > (1, 1, 1)"
            " ORDER BY due_at, entry, ordinal LIMIT 5",
            "SELECT due_at FROM recipient WHERE due_at > 1 ORDER BY due_at LIMIT 1",
            "SELECT count(*) FROM recipient WHERE due_at <= 1",
            "SELECT number, content_octets, state FROM entry WHERE content IS NULL",
            "SELECT count(*) FROM entry WHERE state = 'corrupt'",
            UNREPORTED,
        ],
    )
    def test_no_query_walks_through_all_rows(self, house, sql):
        plan = " ".join(str(row) for row in rows(house, f"EXPLAIN QUERY PLAN {sql}"))
        assert "INDEX" in plan
        assert "TEMP B-TREE" not in plan

    def test_what_is_due_comes_in_pages(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        for _ in range(7):
            house.accept()
        do = house.spool._database.do
        found, position = [], None
        while True:
            page = do(Due(house.clock.seconds() + 300, position, 3)).result
            found += page.rows
            if page.is_last:
                break
            position = page.rows[-1][:3]
        assert len({row[1] for row in found}) == len(found) == 7
        early = do(Due(house.clock.seconds(), None, 3)).result
        assert (early.rows, early.is_last, early.next_due_at) == ([], True, house.clock.seconds() + 300)
        assert do(MakeDue(house.clock.seconds(), 5)).result == 5
        assert do(MakeDue(house.clock.seconds(), 5)).result == 2

    def test_close_does_what_waits_first(self, house):
        draft = house.spool.intake.begin()
        draft.write(CONTENT)
        house.batches["spool"].hold()
        outcome = Deferred.fromCoroutine(draft.commit(envelope()))
        now(house.spool.close())
        assert outcome.result is None
        house.spool = house.make()
        house.open()
        assert [delivery.entry for delivery in house.courier.deliveries] == [draft.entry]
