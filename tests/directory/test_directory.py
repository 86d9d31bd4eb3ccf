from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mailstack.directory import database
from mailstack.directory.database import create
from mailstack.directory.directory import FRESH_SECONDS, RETRY_SECONDS, STALE_SECONDS, Directory
from mailstack.directory.editing import (
    add_account,
    add_alias,
    add_domain,
    remove_account,
    remove_alias,
    remove_domain,
    set_enabled,
    set_password,
)
from mailstack.directory.passwords import Verifier
from mailstack.directory.records import DirectoryError, DirectoryUnavailable
from mailstack.mail.address import Address, parse_address
from mailstack.mail.envelope import Account
from mailstack.mail.scram import ITERATIONS, SALT_OCTETS, ScramKeys, ScramProof, client_proof, make_keys, salted_password

KEYS = make_keys(b"secret", b"salt of sixteen ", 4096)


class CountingHasher:
    dummy = "dummy"

    def __init__(self) -> None:
        self.verified: list[str] = []

    def hash(self, password: bytes) -> str:
        return "h:" + password.decode("latin-1")

    def verify(self, encoded: str, password: bytes) -> bool:
        self.verified.append(encoded)
        return encoded == self.hash(password)


class Thread:
    """Runs calls at once, or, while `holds`, step by step when told to."""

    def __init__(self) -> None:
        self.holds = False
        self.calls = 0
        self._queued: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self._worked: list[tuple[Any, Deferred[Any]]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        self.calls += 1
        if not self.holds:
            return maybeDeferred(function, *arguments)
        waiting: Deferred[Any] = Deferred()
        self._queued.append((lambda: function(*arguments), waiting))
        return waiting

    def work(self) -> None:
        call, waiting = self._queued.pop(0)
        self._worked.append((call(), waiting))

    def deliver(self) -> None:
        result, waiting = self._worked.pop(0)
        waiting.callback(result)

    def run_next(self) -> None:
        self.work()
        self.deliver()


class House:
    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.thread, self.hasher = path, Clock(), Thread(), CountingHasher()
        verifier = Verifier(self.hasher, maybeDeferred, seconds=self.clock.seconds, cache_key=b"k" * 32)
        # Every question comes at another moment, so that it is not taken for a part of the one before.
        moments = itertools.count()
        self.directory = Directory(
            path, self.thread, verifier=verifier, seconds=lambda: self.clock.seconds() + next(moments) * FRESH_SECONDS
        )

    def is_local(self, domain: str) -> Any:
        return now(self.directory.is_local_domain(domain))

    def resolve(self, address: str) -> Any:
        return now(self.directory.resolve(parse_address(address)))

    def owns(self, account: str, address: str) -> Any:
        return now(self.directory.owns(account, parse_address(address)))

    def verify(self, username: bytes | str, password: bytes | str) -> Any:
        return now(self.directory.verify(username, password))


def begin(coroutine: Coroutine[Any, Any, Any]) -> tuple[list[Any], Deferred[None]]:
    results: list[Any] = []
    return results, Deferred.fromCoroutine(coroutine).addBoth(results.append)


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    results, _ = begin(coroutine)
    assert results, "it waits"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "directory.db"
    create(path)
    add_domain(path, "x.test", 1.0)
    add_account(path, "alice@x.test", "h:secret", 1.0)
    return path


@pytest.fixture
def house(path: Path) -> Iterator[House]:
    house = House(path)
    yield house
    house.directory.close()


class TestQuestions:
    def test_domains(self, house: House) -> None:
        assert house.is_local("x.test")
        assert not house.is_local("y.test")
        assert not house.is_local("")

    def test_resolve(self, house: House, path: Path) -> None:
        add_alias(path, "Sales@x.test", ["Bob@Other.test", "alice@x.test"])
        add_alias(path, "*@x.test", ["alice@x.test"])
        assert house.resolve("ALICE@X.test") == Account("alice@x.test")
        assert house.resolve("sales@x.test") == (Address("Bob", "other.test"), Address("alice", "x.test"))
        assert house.resolve("*@x.test") == (Address("alice", "x.test"),)
        assert house.resolve("alice+tag@x.test") is None
        assert house.resolve("nobody@x.test") is None
        assert now(house.directory.resolve(Address("postmaster", ""))) is None

    def test_a_quoted_address_is_the_same_account(self, house: House) -> None:
        assert house.resolve('"alice"@x.test') == Account("alice@x.test")

    @pytest.mark.parametrize(
        ("account", "address", "owned"),
        [
            ("alice@x.test", "alice@x.test", True),
            ("alice@x.test", "Alice@X.Test", True),
            ("alice@x.test", "alice+tag@x.test", True),
            ("alice@x.test", "bob@x.test", False),
            ("alice@x.test", "bob+alice@x.test", False),
            ("alice@x.test", "alice@y.test", True),  # catch-all of y.test
            ("bob@x.test", "any@y.test", False),
            ("alice@x.test", "alice@other.test", False),
            ("alice@x.test", "sales@x.test", True),
            ("bob@x.test", "sales@x.test", True),
            ("alice@x.test", "sales+tag@x.test", True),
            ("alice@x.test", "tagged@x.test", True),
            ("alice@x.test", "outer@x.test", False),  # not directly
            ("alice@x.test", "any@y.test", True),
            ("alice@x.test", "bob@y.test", False),  # an account of its own
            ("alice@x.test", "other@y.test", False),  # an alias of its own
            ("alice@x.test", "alice+x+y@x.test", True),
            ("alice@x.test", "+alice@x.test", False),
            ("alice+odd@x.test", "alice+odd@x.test", True),
            ("alice@x.test", "alice+odd@x.test", False),  # an account of its own
            ("nobody@x.test", "nobody@x.test", False),
            ("nobody@x.test", "alice@x.test", False),
            ("", "alice@x.test", False),
        ],
    )
    def test_owns(self, house: House, path: Path, account: str, address: str, owned: bool) -> None:
        add_domain(path, "y.test", 1.0)
        for name in ("bob@x.test", "bob@y.test", "alice+odd@x.test"):
            add_account(path, name, "h", 1.0)
        add_alias(path, "sales@x.test", ["ALICE@x.test", "bob@x.test"])
        add_alias(path, "tagged@x.test", ["alice+lists@x.test"])
        add_alias(path, "outer@x.test", ["sales@x.test"])
        add_alias(path, "*@y.test", ["alice@x.test"])
        add_alias(path, "other@y.test", ["bob@x.test"])
        assert house.owns(account, address) is owned

    def test_a_disabled_account_owns_nothing_but_still_gets_its_mail(self, house: House, path: Path) -> None:
        set_enabled(path, "alice@x.test", False)
        assert not house.owns("alice@x.test", "alice@x.test")
        assert house.resolve("alice@x.test") == Account("alice@x.test")
        assert now(house.directory.has_account("alice@x.test"))

    def test_has_account(self, house: House) -> None:
        assert now(house.directory.has_account("alice@x.test"))
        assert not now(house.directory.has_account("nobody@x.test"))


class TestVerify:
    @pytest.mark.parametrize("username", ["alice@x.test", b"alice@x.test", "Alice@X.TEST"])
    @pytest.mark.parametrize("password", ["secret", b"secret"])
    def test_right(self, house: House, username: bytes | str, password: bytes | str) -> None:
        assert house.verify(username, password) == "alice@x.test"

    @pytest.mark.parametrize(
        ("username", "costs"),
        [
            (b"alice@x.test", "h:secret"),
            (b"bob@x.test", "dummy"),
            (b"alice", "dummy"),
            (b"", "dummy"),
            (b"\xff", "dummy"),
            (b"alice@x.test\0", "dummy"),
            (b"../alice@x.test", "dummy"),
            (b"a" * 10_000, "dummy"),
        ],
    )
    def test_a_wrong_one_costs_one_verification_whoever_it_is(self, house: House, username: bytes, costs: str) -> None:
        assert house.verify(username, b"wrong") is None
        assert house.hasher.verified == [costs]

    def test_a_disabled_account_costs_the_same(self, house: House, path: Path) -> None:
        set_enabled(path, "alice@x.test", False)
        assert house.verify("alice@x.test", "secret") is None
        assert house.hasher.verified == ["h:secret"]

    def test_an_account_that_is_disabled_while_its_password_is_remembered(self, house: House, path: Path) -> None:
        assert house.verify("alice@x.test", "secret")
        set_enabled(path, "alice@x.test", False)
        assert house.verify("alice@x.test", "secret") is None

    def test_empty(self, house: House) -> None:
        assert house.verify("alice@x.test", "") is None

    def test_a_password_that_is_no_utf8(self, house: House) -> None:
        assert house.verify("alice@x.test", b"\xff\xfe") is None
        assert house.verify("alice@x.test", "\udcff") is None


class TestScram:
    def keys(self, house: House, username: bytes) -> ScramKeys:
        keys = now(house.directory.scram_keys(username))
        assert isinstance(keys, ScramKeys)
        return keys

    def proof(self, house: House, username: bytes, password: bytes, other: bytes = b"") -> Any:
        """Prove a password with the salt that the directory tells."""
        keys = self.keys(house, username)
        shown = client_proof(salted_password(password, keys.salt, keys.iterations), b"message")
        return now(house.directory.verify_proof(ScramProof(username, b"message", shown, other)))

    @pytest.fixture(autouse=True)
    def with_keys(self, path: Path) -> None:
        set_password(path, "alice@x.test", "h:secret", KEYS.to_text())
        add_account(path, "old@x.test", "h:secret", 1.0)

    def test_right(self, house: House) -> None:
        assert self.keys(house, b"Alice@X.test") == KEYS
        assert self.proof(house, b"Alice@X.test", b"secret") == "alice@x.test"
        assert self.proof(house, b"alice@x.test", b"secret", b"alice@x.test") == "alice@x.test"

    def test_wrong(self, house: House) -> None:
        assert self.proof(house, b"alice@x.test", b"wrong") is None
        assert self.proof(house, b"alice@x.test", b"secret", b"bob@x.test") is None

    @pytest.mark.parametrize(
        "username", [b"nobody@x.test", b"old@x.test", b"nobody", b"\xff", b"../alice@x.test", b"a" * 10_000]
    )
    def test_who_does_not_exist_or_has_no_keys_has_a_salt_like_others(self, house: House, username: bytes) -> None:
        keys = self.keys(house, username)
        assert (len(keys.salt), keys.iterations) == (SALT_OCTETS, ITERATIONS)
        assert keys == self.keys(house, username)
        assert keys.salt != self.keys(house, b"other@x.test").salt
        assert self.proof(house, username, b"secret") is None

    def test_a_false_salt_does_not_depend_on_case_either(self, house: House) -> None:
        assert self.keys(house, b"Nobody@x.test") == self.keys(house, b"nobody@X.test")

    def test_a_false_salt_is_the_same_after_a_restart_and_another_elsewhere(
        self, house: House, path: Path, tmp_path: Path
    ) -> None:
        keys = self.keys(house, b"nobody@x.test")
        assert self.keys(House(path), b"nobody@x.test") == keys
        create(tmp_path / "other.db")
        assert self.keys(House(tmp_path / "other.db"), b"nobody@x.test") != keys

    def test_a_disabled_account_keeps_its_salt_and_is_nobodys(self, house: House, path: Path) -> None:
        set_enabled(path, "alice@x.test", False)
        keys = self.keys(house, b"alice@x.test")
        assert (keys.salt, keys.iterations) == (KEYS.salt, KEYS.iterations)
        assert keys.stored_key != KEYS.stored_key, "else the exchange would say that the password is right"
        assert keys.server_key != KEYS.server_key
        assert self.proof(house, b"alice@x.test", b"secret") is None

    def test_a_password_that_is_set_without_keys_takes_the_old_ones_away(self, house: House, path: Path) -> None:
        set_password(path, "alice@x.test", "h:new")
        assert self.keys(house, b"alice@x.test") != KEYS
        assert self.proof(house, b"alice@x.test", b"secret") is None

    def test_keys_that_are_none(self, house: House, path: Path) -> None:
        set_password(path, "alice@x.test", "h:new", "SCRAM-SHA-1$nonsense")
        assert self.proof(house, b"alice@x.test", b"secret") is None

    def test_a_directory_that_cannot_be_read_is_not_a_wrong_password(self, house: House, path: Path) -> None:
        path.unlink()
        with pytest.raises(DirectoryUnavailable):
            self.keys(house, b"alice@x.test")


class TestCertified:
    @pytest.mark.parametrize(
        ("names", "wanted", "found"),
        [
            (["alice@x.test"], b"", "alice@x.test"),
            (["Alice@X.test"], b"", "alice@x.test"),
            (["alice@x.test", "nobody@x.test"], b"", "alice@x.test"),
            (["alice@x.test", "bob@x.test"], b"bob@x.test", "bob@x.test"),
            (["alice@x.test", "bob@x.test"], b"Alice@x.test", "alice@x.test"),
            (["alice@x.test", "bob@x.test"], b"", None),
            (["alice@x.test"], b"bob@x.test", None),
            (["alice@x.test"], b"\xff", None),
            (["nobody@x.test"], b"", None),
            (["not an address"], b"", None),
            (["not an address"], b"not one either", None),
            ([], b"", None),
            ([], b"alice@x.test", None),
        ],
    )
    def test_whom_a_certificate_lets_in(
        self, house: House, path: Path, names: list[str], wanted: bytes, found: str | None
    ) -> None:
        add_account(path, "bob@x.test", "h:1", 1.0)
        assert now(house.directory.find_certified(names, wanted)) == found

    def test_a_disabled_account(self, house: House, path: Path) -> None:
        set_enabled(path, "alice@x.test", False)
        assert now(house.directory.find_certified(["alice@x.test"], b"")) is None


class TestFresh:
    def test_the_file_is_not_looked_at_for_each_question_of_one_moment(self, path: Path) -> None:
        clock, looks = Clock(), []
        verifier = Verifier(CountingHasher(), maybeDeferred, seconds=clock.seconds, cache_key=b"k" * 32)
        directory = Directory(path, Thread(), verifier=verifier, seconds=clock.seconds)
        directory.load()
        watch = directory._watch
        stamp = watch.stamp
        watch.stamp = lambda: looks.append(1) or stamp()  # type: ignore[method-assign, func-returns-value]  # counts
        for _ in range(3):
            assert now(directory.is_local_domain("x.test"))
        assert len(looks) == 1
        add_domain(path, "y.test", 2.0)
        clock.advance(FRESH_SECONDS)
        assert now(directory.is_local_domain("y.test"))
        directory.close()


class TestChanges:
    """Each change of the file is in force with the next question."""

    def test_all_kinds(self, house: House, path: Path) -> None:
        assert house.resolve("bob@x.test") is None
        add_account(path, "bob@x.test", "h:1", 1.0)
        assert house.resolve("bob@x.test") == Account("bob@x.test")
        assert house.verify("bob@x.test", "1")
        set_password(path, "bob@x.test", "h:2")
        assert house.verify("bob@x.test", "1") is None
        assert house.verify("bob@x.test", "2")
        add_alias(path, "sales@x.test", ["bob@x.test"])
        assert house.resolve("sales@x.test")
        remove_alias(path, "sales@x.test")
        assert house.resolve("sales@x.test") is None
        remove_account(path, "bob@x.test")
        assert house.verify("bob@x.test", "2") is None
        remove_domain(path, "x.test", force=True)
        assert not house.is_local("x.test")

    def test_without_a_change_nothing_is_read(self, house: House) -> None:
        for _ in range(10):
            house.is_local("x.test")
        assert house.thread.calls == 1

    def test_a_restored_backup_is_seen(self, house: House, path: Path, tmp_path: Path) -> None:
        backup = tmp_path / "backup"
        backup.write_bytes(path.read_bytes())
        add_domain(path, "y.test", 1.0)
        assert house.is_local("y.test")
        backup.replace(path)
        assert not house.is_local("y.test")
        add_domain(path, "z.test", 1.0)
        assert house.is_local("z.test")

    def test_a_change_that_is_not_committed_is_not_seen(
        self, house: House, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
        assert house.is_local("x.test")
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM targets")
        writer.execute("DELETE FROM accounts")
        assert house.resolve("alice@x.test")
        writer.execute("ROLLBACK")
        writer.close()
        assert house.resolve("alice@x.test")

    def test_a_writer_that_died_in_the_middle_is_rolled_back(self, house: House, path: Path, tmp_path: Path) -> None:
        # The file and its journal as a crash leaves them, after SQLite wrote both and before it committed.
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN EXCLUSIVE")
        writer.executemany("INSERT INTO domains VALUES (?, 1.0)", [(f"{n:0200}.test",) for n in range(2000)])
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for name in ("directory.db", "directory.db-journal"):
            (crashed / name).write_bytes((tmp_path / name).read_bytes())
        writer.execute("ROLLBACK")
        writer.close()
        after = House(crashed / "directory.db")
        assert after.resolve("alice@x.test") == Account("alice@x.test")
        assert not after.is_local(f"{1999:0200}.test")
        assert not (crashed / "directory.db-journal").exists()
        after.directory.close()


class TestConcurrency:
    def test_who_asks_together_shares_one_read(self, house: House) -> None:
        house.thread.holds = True
        asked = [begin(house.directory.is_local_domain("x.test"))[0] for _ in range(20)]
        assert house.thread.calls == 1
        assert not any(asked)
        house.thread.run_next()
        assert asked == [[True]] * 20
        assert house.thread.calls == 1

    def test_a_read_that_began_before_the_change_is_not_enough(self, house: House, path: Path) -> None:
        house.thread.holds = True
        first, _ = begin(house.directory.is_local_domain("x.test"))
        house.thread.work()
        # What was read is still on its way from the thread when the operator commits and somebody asks.
        add_domain(path, "y.test", 1.0)
        second, _ = begin(house.directory.is_local_domain("y.test"))
        assert house.thread.calls == 1
        house.thread.deliver()
        assert house.thread.calls == 2
        house.thread.run_next()
        assert (first, second) == ([True], [True])

    def test_who_gives_up_does_not_disturb_the_others(self, house: House) -> None:
        house.thread.holds = True
        one, waiting = begin(house.directory.is_local_domain("x.test"))
        two, _ = begin(house.directory.is_local_domain("x.test"))
        waiting.cancel()
        assert one[0].check(CancelledError)
        house.thread.run_next()
        assert two == [True]

    def test_reading_while_another_process_writes(self, house: House, path: Path) -> None:
        """Every answer is of one whole state, both accounts of a pair or none, and every change is seen."""
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE)
        assert writer.stdin is not None
        for number in range(20):
            writer.stdin.write(b"go on\n")
            writer.stdin.flush()
            count = 0
            while count < 1 + 2 * (number + 1):
                assert writer.poll() is None
                count = len(now(house.directory._current()).accounts)
                assert count in (1 + 2 * number, 1 + 2 * (number + 1))  # alice and pairs
        writer.stdin.close()
        assert writer.wait(30) == 0
        assert house.resolve("b19@x.test")


WRITER = """
import sys
from pathlib import Path
from mailstack.directory.database import changing

for number, _ in enumerate(sys.stdin):
    with changing(Path(sys.argv[1])) as connection:
        for half in "ab":
            connection.execute("INSERT INTO accounts VALUES (?, 'x.test', 'h', 1, 1.0, NULL)", (f"{half}{number}@x.test",))
"""


class TestFailure:
    def test_no_file_at_the_start(self, tmp_path: Path) -> None:
        house = House(tmp_path / "none.db")
        with pytest.raises(DirectoryUnavailable, match="No such file"):
            house.is_local("x.test")
        create(house.path)
        house.clock.advance(RETRY_SECONDS)
        assert not house.is_local("x.test")
        house.directory.close()

    def test_the_last_state_serves_for_a_while_and_then_everything_is_temporary(self, house: House, path: Path) -> None:
        assert house.is_local("x.test")
        path.rename(path.with_name("away"))
        assert house.is_local("x.test")
        house.clock.advance(STALE_SECONDS - 0.1)
        assert house.is_local("x.test")
        house.clock.advance(0.1)
        for question in (
            lambda: house.is_local("x.test"),
            lambda: house.resolve("alice@x.test"),
            lambda: house.owns("alice@x.test", "alice@x.test"),
            lambda: house.verify("alice@x.test", "secret"),
        ):
            with pytest.raises(DirectoryUnavailable):
                question()
        path.with_name("away").rename(path)
        assert house.is_local("x.test")  # the very file that was read: nothing to wait for

    def test_after_a_recovery_the_patience_begins_anew(self, house: House, path: Path) -> None:
        assert house.is_local("x.test")
        path.rename(path.with_name("away"))
        assert house.is_local("x.test")
        path.with_name("away").rename(path)
        assert house.is_local("x.test")
        house.clock.advance(STALE_SECONDS * 10)
        path.rename(path.with_name("away"))
        assert house.is_local("x.test")

    def test_a_broken_file_is_not_read_for_every_question(self, house: House, path: Path) -> None:
        assert house.is_local("x.test")
        path.write_bytes(b"not a database" * 1000)
        for _ in range(10):
            assert house.is_local("x.test")
        assert house.thread.calls == 2
        house.clock.advance(RETRY_SECONDS)
        house.is_local("x.test")
        assert house.thread.calls == 3

    def test_a_locked_file(self, house: House, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
        house.is_local("x.test")
        os.utime(path)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN EXCLUSIVE")
        assert house.is_local("x.test")
        writer.execute("ROLLBACK")
        writer.close()
        add_domain(path, "y.test", 1.0)
        house.clock.advance(RETRY_SECONDS)
        assert house.is_local("y.test")

    def test_a_file_that_is_replaced_while_it_is_read(self, house: House, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        from mailstack.directory import snapshot

        original = snapshot._read

        def replace(connection: sqlite3.Connection) -> Any:
            found = original(connection)
            if copy.exists():
                copy.replace(path)
            return found

        monkeypatch.setattr(snapshot, "_read", replace)
        with pytest.raises(DirectoryError, match="replaced"):
            snapshot.read_snapshot(path, house.directory._watch)
        assert house.is_local("x.test")
