"""
Crashes at every step of a delivery: after each, what was reported is there, and a repetition makes every message be there once.

The table of states in `mailstack.store.maildir` is what these tests walk through.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache

import pytest
from shipping import deliver_each
from sim_file_system import Crash, SimFileSystem

from mailstack.store.folders import MailFolder
from mailstack.store.maildir import Delivered, MaildirItem, Maildirs
from mailstack.store.names import delivery_key, delivery_name

FOLDERS = MailFolder("/mail")
ACCOUNTS = ("alice@example.org", "bob@example.org", "alice@example.org")
HEAD = b"Return-Path: <>\r\n"

After = Callable[[SimFileSystem], None]


class Chunks:
    in_memory = None

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.octets = len(body)

    def chunks(self, size_octets: int = 0) -> Iterator[bytes]:
        yield self._body[:5]
        yield self._body[5:]

    def file_with(self, head: bytes) -> None:
        return None


@cache
def items_of(first: int = 0, *, may_repeat: bool = False) -> Sequence[MaildirItem]:
    items = []
    for number, account in enumerate(ACCOUNTS, first):
        body = f"Subject: {number}\r\n\r\ntext of {number}\r\n".encode()
        name = delivery_name(f"{number:013d}", 0, 1000.5, "mx", len(HEAD) + len(body))
        folder = FOLDERS.folder_of(account)
        items.append(MaildirItem(folder=folder, name=name, head=HEAD, content=Chunks(body), may_repeat=may_repeat))
    return tuple(items)


def expected(items: Sequence[MaildirItem]) -> dict[str, bytes]:
    return {
        f"{item.folder.domain}/{item.folder.local_part}/new/{item.name}": HEAD + b"".join(item.content.chunks())
        for item in items
    }


def messages(sim: SimFileSystem) -> dict[str, bytes]:
    return {path: octets for path, octets in sim.tree().items() if "/new/" in path or "/cur/" in path}


def deliver(sim: SimFileSystem, items: Sequence[MaildirItem], crash_at: int | None = None) -> bool:
    """Deliver by a program that has just been started; say whether it survived."""
    sim.calls, sim.crash_at = 0, crash_at
    try:
        outcomes = deliver_each(Maildirs(FOLDERS, sim), items)
    except Crash:
        return False
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    return True


def lose_all(sim: SimFileSystem) -> None:
    sim.cut(lambda: False)


def keep_all(sim: SimFileSystem) -> None:
    sim.cut(lambda: True)


def by_chance(seed: int) -> After:
    def cut(sim: SimFileSystem) -> None:
        chance = random.Random(seed)
        sim.cut(lambda: chance.random() < 0.5)

    return cut


KILL: After = SimFileSystem.kill
AFTERS: list[After] = [KILL, lose_all, keep_all, *map(by_chance, range(20))]


def steps(prepare: Callable[[], SimFileSystem], items: Sequence[MaildirItem]) -> range:
    """Every step at which the program can die, and one more, at which it does not."""
    sim = prepare()
    assert deliver(sim, items)
    return range(1, sim.calls + 2)


def by_file() -> SimFileSystem:
    """A system without syncfs."""
    return SimFileSystem(can_sync_system=False)


def with_neighbours() -> SimFileSystem:
    """A mail root in which one account has mail already."""
    sim = SimFileSystem()
    assert deliver(sim, items_of(100)[:1])
    return sim


def is_known(sim: SimFileSystem, seen: set[Hashable]) -> bool:
    """Say whether a crash has left this before: what follows is the same again. Of some steps nothing is left."""
    state = sim.state()
    if state in seen:
        return True
    seen.add(state)
    return False


@pytest.mark.parametrize("prepare", [SimFileSystem, by_file, with_neighbours])
@pytest.mark.parametrize("after", AFTERS)
def test_once_and_whole_after_a_crash_anywhere(prepare: Callable[[], SimFileSystem], after: After) -> None:
    items = items_of()
    before = expected(items_of(100)[:1]) if prepare is with_neighbours else {}
    all_steps = steps(prepare, items)
    seen: set[Hashable] = set()
    for step in all_steps:
        sim = prepare()
        survived = deliver(sim, items, crash_at=step)
        assert survived is (step == all_steps[-1])
        after(sim)
        if not survived and is_known(sim, seen):
            continue
        wanted = expected(items) | before
        there = messages(sim)
        assert there == {path: wanted[path] for path in there}, f"something half-written after step {step}"
        assert before.keys() <= there.keys()
        if survived:
            assert there == wanted
        assert deliver(sim, items_of(may_repeat=True))
        assert messages(sim) == wanted, f"not once each after step {step}"
        left_in_tmp = {path.rpartition("/")[2] for path in sim.tree() if "/tmp/" in path}
        assert not left_in_tmp & {item.name for item in items}  # of others, a name that was unlinked may come back
        lose_all(sim)
        assert messages(sim) == wanted, f"reported after step {step}, and lost"


@pytest.mark.parametrize("first", [KILL, lose_all, by_chance(1)])
@pytest.mark.parametrize("second", [KILL, lose_all, by_chance(2)])
def test_once_and_whole_after_two_crashes_anywhere(first: After, second: After) -> None:
    items = items_of()
    wanted = expected(items)
    seen: set[Hashable] = set()
    for step in steps(SimFileSystem, items):
        crashed = SimFileSystem()
        deliver(crashed, items, crash_at=step)
        first(crashed)
        if is_known(crashed, seen):
            continue
        seen_again: set[Hashable] = set()
        for again in range(1, 1000):
            sim = crashed.copy()
            survived = deliver(sim, items_of(may_repeat=True), crash_at=again)
            second(sim)
            if survived:
                assert messages(sim) == wanted
                break
            if is_known(sim, seen_again):
                continue
            assert messages(sim).items() <= wanted.items()
            assert deliver(sim, items_of(may_repeat=True))
            assert messages(sim) == wanted


@pytest.mark.parametrize("after", AFTERS)
def test_what_was_reported_before_survives_a_later_crash(after: After) -> None:
    for step in steps(SimFileSystem, items_of()):
        sim = SimFileSystem()
        maildirs = Maildirs(FOLDERS, sim)  # one program, which knows the folders from the first time
        assert deliver_each(maildirs, items_of()) == [Delivered(item.name) for item in items_of()]
        sim.calls, sim.crash_at = 0, step
        try:
            deliver_each(maildirs, items_of(10))
        except Crash:
            after(sim)
        assert messages(sim).items() >= expected(items_of()).items()


def test_deleted_by_its_user_and_then_the_power_went() -> None:
    """The spool had not noted the delivery yet; the message must not come back."""
    items = items_of()
    sim = SimFileSystem()
    assert deliver(sim, items)
    new, tmp = sim.folder("example.org/alice/new"), sim.folder("example.org/alice/tmp")
    tombstone = f"{delivery_key(items[0].name)}.deleted"
    tmp.put(tombstone, new.names[items[0].name])
    new.remove(items[0].name)
    tmp.sync()
    new.sync()
    lose_all(sim)
    assert deliver(sim, items_of(may_repeat=True))
    assert messages(sim) == expected(items[1:])


class ForgetfulFolders(SimFileSystem):
    """Does not flush folders, as several mail systems do not."""

    def sync_folder(self, handle: int) -> None:
        self._step()


class ForgetfulFiles(SimFileSystem):
    """Does not flush files."""

    def sync_files(self, handles: object) -> list[OSError | None]:
        self._step()
        return [None] * len(handles)  # type: ignore[arg-type] # the size is all that it looks at


class ForgetfulSystem(SimFileSystem):
    """Says that everything was flushed, at once."""

    def sync_system(self, handle: int) -> None:
        self._step()


class ForgetfulRoot(SimFileSystem):
    """Flushes the maildirs' own folders, but not those above them."""

    def sync_folder(self, handle: int) -> None:
        if handle in self._handles and set(self._folder(handle).names) & {"alice", "example.org"}:
            self._step()
        else:
            super().sync_folder(handle)


@pytest.mark.parametrize("forgetful", [ForgetfulFolders, ForgetfulFiles, ForgetfulRoot, ForgetfulSystem])
def test_these_tests_would_notice_a_missing_flush(forgetful: type[SimFileSystem]) -> None:
    sim = forgetful(can_sync_system=forgetful is ForgetfulSystem)
    assert deliver(sim, items_of())
    assert messages(sim) == expected(items_of())
    lose_all(sim)
    assert messages(sim) != expected(items_of())
