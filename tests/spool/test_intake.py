"""The intake, by one contract: over a real folder with batches at once, and with batches in threads."""

from __future__ import annotations

import errno
import os
import queue
import sqlite3
import stat
from pathlib import Path

import pytest
from spool_house import CONTENT, House, connect_fast, envelope, local, now, remote
from twisted.internet.defer import CancelledError, Deferred

from mailstack.mail.disposition import Action
from mailstack.mail.reply import LOCAL_ERROR, NO_SPACE
from mailstack.net.batch import BatchThread
from mailstack.spool.content import INLINE_OCTETS, FileContent, MemoryContent
from mailstack.spool.intake import UNWRITTEN_OCTETS
from mailstack.spool.space import FreeSpace

BIG = b"x" * 998 + b"\r\n"
BIG *= INLINE_OCTETS // len(BIG) + 2


class FailingSystem:
    """The module `os`, some of whose calls fail."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.calls: list[str] = []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if name in self.failing and not (name == "fsync" and self.failing.get("only_folder") and not is_folder(arguments)):
                raise OSError(self.failing[name], os.strerror(self.failing[name]))
            return getattr(os, name)(*arguments)

        return call


def is_folder(arguments) -> bool:
    return stat.S_ISDIR(os.fstat(arguments[0]).st_mode)


class FailingConnection:
    """A connection whose COMMIT fails on demand."""

    def __init__(self, connection: sqlite3.Connection, script: list[int]) -> None:
        self._connection = connection
        self._script = script

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *parameters):
        if sql == "COMMIT" and self._script and self._connection.total_changes and (code := self._script.pop(0)):
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = code
            raise error
        return self._connection.execute(sql, *parameters)


class Threaded(House):
    """A house whose batches are threads; `wait` runs what they call."""

    def make(self):
        self.calls: queue.Queue = queue.Queue()
        self.options["batch_factory"] = lambda run, *, name: BatchThread(
            run, name=name, from_thread=lambda function, *arguments: self.calls.put((function, arguments))
        )
        return super().make()

    def wait(self, deferred):
        outcomes: list = []
        deferred.addBoth(outcomes.append)
        while not outcomes:
            function, arguments = self.calls.get(timeout=20)
            function(*arguments)
        return outcomes[0]

    def commit(self, draft, about):
        return self.wait(Deferred.fromCoroutine(draft.commit(about)))

    def counts(self):
        return self.wait(Deferred.fromCoroutine(self.spool.counts()))


@pytest.fixture(params=[House, Threaded])
def house(request, tmp_path):
    made = request.param(tmp_path / "spool").open()
    yield made
    closing = Deferred.fromCoroutine(made.spool.close(0))
    made.clock.advance(0)
    if isinstance(made, Threaded):
        made.wait(closing)


class TestContract:
    def test_a_small_message(self, house):
        draft = house.spool.intake.begin()
        assert draft.write(CONTENT[:10]) is None
        assert draft.write(CONTENT[10:]) is None
        assert draft.content().in_memory == CONTENT
        assert house.commit(draft, envelope()) is None
        [(delivery, _)] = house.courier.waiting
        assert (delivery.entry, delivery.content.in_memory) == (draft.entry, CONTENT)
        assert house.counts().entries == 1
        assert house.files() == []

    def test_a_large_message_is_in_a_private_file(self, house):
        draft = house.spool.intake.begin()
        for start in range(0, len(BIG), 10_000):
            draft.write(BIG[start : start + 10_000])
        assert b"".join(draft.content().chunks()) == BIG
        assert house.commit(draft, envelope()) is None
        [(delivery, _)] = house.courier.waiting
        assert (delivery.content.in_memory, delivery.content.octets) == (None, len(BIG))
        assert b"".join(delivery.content.chunks()) == BIG
        path = house.folder / "content" / draft.entry
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.parametrize("length", [0, 1, INLINE_OCTETS - 1, INLINE_OCTETS, INLINE_OCTETS + 1])
    def test_lengths_around_the_limit(self, house, length):
        draft = house.spool.intake.begin()
        draft.write(b"y" * length)
        assert b"".join(draft.content().chunks()) == b"y" * length
        assert house.commit(draft, envelope()) is None
        assert house.files() == ([draft.entry] if length > INLINE_OCTETS else [])
        assert b"".join(house.courier.deliveries[0].content.chunks()) == b"y" * length

    def test_abort_leaves_nothing(self, house):
        for octets in (CONTENT, BIG):
            draft = house.spool.intake.begin()
            draft.write(octets)
            draft.abort()
            draft.abort()
            assert draft.write(octets) is None
        assert house.counts().entries == 0
        assert house.courier.deliveries == []

    def test_commit_only_once_and_only_with_recipients(self, house):
        draft = house.spool.intake.begin()
        about = envelope()
        with pytest.raises(ValueError, match="recipients"):
            now(draft.commit(envelope().__class__(**{n: getattr(about, n) for n in about.__slots__} | {"recipients": ()})))
        assert house.commit(draft, about) is None
        with pytest.raises(RuntimeError):
            now(draft.commit(about))
        draft.abort()
        assert house.counts().entries == 1

    def test_entries_are_distinct_and_in_order(self, house):
        names = [house.spool.intake.begin().entry for _ in range(100)]
        assert names == sorted(set(names))


class TestThreads:
    @pytest.fixture
    def threaded(self, tmp_path):
        made = Threaded(tmp_path / "spool").open()
        yield made
        closing = Deferred.fromCoroutine(made.spool.close(0))
        made.clock.advance(0)
        made.wait(closing)

    def test_the_writer_waits_when_too_much_is_unwritten(self, threaded):
        draft = threaded.spool.intake.begin()
        written, waits = 0, 0
        for _ in range(100):
            waiting = draft.write(b"z" * 100_000)
            written += 100_000
            assert draft._unwritten_octets <= UNWRITTEN_OCTETS + 100_000
            if waiting is not None:
                waits += 1
                assert threaded.wait(waiting) is None
                assert draft._unwritten_octets <= UNWRITTEN_OCTETS
        assert waits
        assert threaded.commit(draft, envelope()) is None
        assert (threaded.folder / "content" / draft.entry).stat().st_size == written

    def test_content_is_whole_while_the_thread_still_writes(self, threaded):
        draft = threaded.spool.intake.begin()
        expected = bytearray()
        for number in range(50):
            draft.write(bytes([number]) * 20_000)
            expected += bytes([number]) * 20_000
            assert b"".join(draft.content().chunks()) == expected
        draft.abort()

    def test_many_commits_share_batches(self, threaded):
        drafts = [threaded.spool.intake.begin() for _ in range(100)]
        for draft in drafts:
            draft.write(CONTENT)
        outcomes = [Deferred.fromCoroutine(draft.commit(envelope(local("a@x.org")))) for draft in drafts]
        assert [threaded.wait(outcome) for outcome in outcomes] == [None] * 100
        assert [delivery.entry for delivery in threaded.courier.deliveries] == [draft.entry for draft in drafts]

    @pytest.mark.parametrize("content", [CONTENT, BIG])
    def test_a_caller_that_goes_away_during_commit_changes_nothing(self, threaded, content):
        draft = threaded.spool.intake.begin()
        draft.write(content)
        outcome = Deferred.fromCoroutine(draft.commit(envelope()))
        outcome.cancel()
        draft.abort()
        assert threaded.wait(outcome).check(CancelledError)
        while not threaded.courier.deliveries:
            function, arguments = threaded.calls.get(timeout=20)
            function(*arguments)
        threaded.counts()
        assert [delivery.entry for delivery in threaded.courier.deliveries] == [draft.entry]


class TestFailures:
    def make(self, tmp_path, **options) -> House:
        return House(tmp_path / "spool", **options).open()

    @pytest.mark.parametrize(
        ("call", "number", "reply"),
        [
            ("open", errno.EACCES, LOCAL_ERROR),
            ("open", errno.ENOSPC, NO_SPACE),
            ("write", errno.ENOSPC, NO_SPACE),
            ("write", errno.EDQUOT, NO_SPACE),
            ("write", errno.EIO, LOCAL_ERROR),
            ("fsync", errno.EIO, LOCAL_ERROR),
            ("fsync", errno.ENOSPC, NO_SPACE),
            ("close", errno.EIO, LOCAL_ERROR),
        ],
    )
    def test_of_the_file_are_remembered_until_commit_and_leave_nothing(self, tmp_path, call, number, reply):
        system = FailingSystem()
        house = self.make(tmp_path, system=system)
        system.failing[call] = number
        draft = house.spool.intake.begin()
        for _ in range(3):
            assert draft.write(BIG) is None
        refused = house.commit(draft, envelope())
        assert refused.reply is reply
        assert refused.cause
        assert house.files() == []
        assert house.counts().entries == 0
        system.failing.clear()
        assert house.accept(content=BIG)

    def test_of_the_folders_fsync(self, tmp_path):
        system = FailingSystem()
        house = self.make(tmp_path, system=system)
        system.failing |= {"fsync": errno.EIO, "only_folder": 1}
        draft = house.spool.intake.begin()
        draft.write(BIG)
        assert house.commit(draft, envelope()).reply is LOCAL_ERROR
        assert house.files() == []
        assert system.calls.count("fsync") == 2

    def test_a_failed_fsync_is_never_repeated(self, tmp_path):
        system = FailingSystem()
        house = self.make(tmp_path, system=system)
        system.failing["fsync"] = errno.EIO
        draft = house.spool.intake.begin()
        draft.write(BIG)
        house.commit(draft, envelope())
        assert system.calls.count("fsync") == 1

    def test_file_and_folder_are_durable_before_the_row(self, tmp_path):
        system = FailingSystem()
        house = self.make(tmp_path, system=system)
        order: list[str] = []
        system.calls = order
        run = house.batches["spool"]._run
        house.batches["spool"]._run = lambda operations: (order.append("row"), run(operations))[1]
        house.accept(content=BIG)
        assert [call for call in order if call in ("fsync", "row")][:3] == ["fsync", "fsync", "row"]

    @pytest.mark.parametrize(
        ("code", "reply"),
        [(sqlite3.SQLITE_FULL, NO_SPACE), (sqlite3.SQLITE_IOERR_FSYNC, LOCAL_ERROR), (sqlite3.SQLITE_CORRUPT, LOCAL_ERROR)],
    )
    @pytest.mark.parametrize("content", [CONTENT, BIG])
    def test_of_the_commit_leave_nothing_and_the_next_is_on_a_new_connection(self, tmp_path, code, reply, content):
        connections: list[FailingConnection] = []
        script: list[int] = []

        def connect(path):
            connections.append(FailingConnection(connect_fast(path), script))
            return connections[-1]

        house = self.make(tmp_path, connect=connect)
        script.append(code)
        draft = house.spool.intake.begin()
        draft.write(content)
        assert house.commit(draft, envelope()).reply is reply
        assert house.files() == []
        assert house.counts().entries == 0
        assert house.courier.deliveries == []
        entry = house.accept()
        assert len(connections) == 2
        assert [delivery.entry for delivery in house.courier.deliveries] == [entry]
        house.crash().open()
        assert [delivery.entry for delivery in house.courier.deliveries] == [entry]

    def test_a_full_database_refuses_while_the_ledger_goes_on(self, tmp_path):
        def connect(path):
            connection = connect_fast(path)
            connection.execute("PRAGMA max_page_count = 40")
            return connection

        house = self.make(tmp_path, connect=connect)
        accepted = 0
        for _ in range(100):
            draft = house.spool.intake.begin()
            draft.write(b"x" * 8_000)
            refused = house.commit(draft, envelope())
            if refused is not None:
                break
            accepted += 1
        assert refused.reply is NO_SPACE
        assert 5 < accepted < 40
        batch = house.batches["spool"]
        batch.hold()
        draft = house.spool.intake.begin()
        draft.write(b"x" * 80_000)
        outcome = Deferred.fromCoroutine(draft.commit(envelope()))
        for _ in range(5):
            house.courier.finish(Action.RELAYED)
        batch.release()
        assert outcome.result.reply is NO_SPACE
        assert house.counts().entries == accepted - 5
        assert house.accept()

    def test_one_bad_operation_fails_alone(self, tmp_path):
        house = self.make(tmp_path)
        batch = house.batches["spool"]
        drafts = [house.spool.intake.begin() for _ in range(3)]
        drafts[1]._number = drafts[0]._number
        batch.hold()
        outcomes = [Deferred.fromCoroutine(draft.commit(envelope())) for draft in drafts]
        batch.release()
        replies = [outcome.result.reply if outcome.result else None for outcome in outcomes]
        assert replies == [None, LOCAL_ERROR, None]
        assert house.counts().entries == 2
        assert len(house.courier.deliveries) == 2

    def test_an_outcome_that_cannot_be_recorded_is_tried_until_it_can(self, tmp_path):
        script: list[int] = []
        house = self.make(tmp_path, connect=lambda path: FailingConnection(connect_fast(path), script))
        house.accept(remote("a@x.net"))
        script += [sqlite3.SQLITE_IOERR] * 3
        house.courier.finish(Action.FAILED)
        assert script == [sqlite3.SQLITE_IOERR] * 2
        house.clock.pump([10] * 2)
        assert house.counts().entries == 1
        house.clock.advance(10)
        [(report, _)] = house.courier.waiting
        assert report.envelope.reverse_path is None
        assert house.counts().entries == 1
        house.crash().open()
        assert len(house.courier.deliveries) == 1


class Statistics:
    f_frsize = 1_000
    f_files = 100
    f_bavail = 50
    f_favail = 50


class TestFreeSpace:
    def make(self, clock, statvfs) -> FreeSpace:
        return FreeSpace(Path("/var/spool/0"), clock, min_free_octets=10_000, min_free_inodes=10, statvfs=statvfs)

    def test_octets_inodes_and_the_size_of_the_message(self, tmp_path):
        clock = House(tmp_path / "unused").clock
        found = Statistics()
        space = self.make(clock, lambda path: found)
        assert space.refusal(0) is None
        assert space.refusal(40_000) is None
        assert space.refusal(40_001) is NO_SPACE
        found.f_favail = 9
        assert space.refusal(0) is None  # it looks once a second
        clock.advance(1.1)
        assert space.refusal(0) is NO_SPACE
        found.f_files = 0
        clock.advance(1.1)
        assert space.refusal(0) is None

    def test_that_there_is_none_and_that_there_is_again_is_logged_once(self, tmp_path, logged):
        clock = House(tmp_path / "unused").clock
        found = Statistics()
        space = self.make(clock, lambda path: found)
        for octets in (50_000, 1_000, 1_000, 500, 50_000, 50_000):
            found.f_bavail, found.f_frsize = octets, 1
            clock.advance(1.1)
            space.refusal(0)
        assert [(each["event"], each["free"]) for each in logged] == [("no_space", 1_000), ("space_again", 50_000)]

    def test_a_disk_that_does_not_answer(self, tmp_path):
        clock = House(tmp_path / "unused").clock

        def statvfs(path):
            raise OSError(errno.EIO, "gone")

        assert self.make(clock, statvfs).refusal(0) is LOCAL_ERROR

    def test_the_intake_asks(self, tmp_path):
        house = House(tmp_path / "spool", min_free_octets=1 << 60).open()
        assert house.spool.intake.refusal(0) is NO_SPACE
        house = House(tmp_path / "other").open()
        assert house.spool.intake.refusal(1_000) is None


class TestContents:
    def test_memory_in_chunks(self):
        assert list(MemoryContent(b"abcde").chunks(2)) == [b"ab", b"cd", b"e"]
        assert list(MemoryContent(b"").chunks()) == []

    def test_a_file_that_is_too_short_is_an_error(self, tmp_path):
        path = tmp_path / "short"
        path.write_bytes(b"abc")
        content = FileContent(path, 5)
        with pytest.raises(OSError, match="2 octets too short"):
            list(content.chunks())
