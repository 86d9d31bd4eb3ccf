"""Maildrops that are opened again: what is remembered, and what must never be believed."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_below
from test_cached import WarmCache
from test_maildrop import FaultyDisk

from mailstack.mail.maildrop import MaildropLocked
from mailstack.store.cached import KernelCache
from mailstack.store.maildrop import SETTLED_COARSE_SECONDS, SETTLED_SECONDS, Maildrop, is_settled
from mailstack.store.maildrops import Maildrops

TICKS = itertools.count(1_700_000_000_000_000_001, 1_000_000_007)


def much_later() -> float:
    """Tell the time at which everything that happens in a test is long ago."""
    return time.time() + 3_600


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    for folder in ("new", "cur", "tmp"):
        (tmp_path / "box" / folder).mkdir(parents=True)
    for name in ("1.a.b", "2.a.b"):
        (tmp_path / "box" / "new" / name).write_bytes(b"x\n")
    pass_time(tmp_path / "box")
    return tmp_path / "box"


def pass_time(maildir: Path) -> None:
    """Give the folders times of their own, as if their file system's clock had ticked since whatever was done before."""
    for folder in ("new", "cur"):
        if (maildir / folder).is_dir():
            os.utime(maildir / folder, ns=(next(TICKS), next(TICKS)))


@pytest.fixture(autouse=True)
def no_leak(tmp_path: Path) -> Iterator[None]:
    before = open_below(tmp_path)
    yield
    assert open_below(tmp_path) == before


def house(**more: Any) -> Maildrops:
    return Maildrops(**({"now": much_later, "make_cache": WarmCache} | more))


def session(drops: Maildrops, maildir: Path) -> tuple[list[bytes], bool]:
    """Open a maildrop as the composed house does, and close it; return its ids, and whether it was opened at once."""
    drop = drops.open_at_once(str(maildir))
    at_once = drop is not None
    drop = drop or drops.remember(drops.opening(str(maildir))())
    ids = [uid for _, uid in drop.listing]
    drop.close()
    return ids, at_once


def test_what_is_as_it_was_is_opened_at_once(maildir: Path) -> None:
    drops = house()
    assert session(drops, maildir) == ([b"1.a.b", b"2.a.b"], False)
    assert session(drops, maildir) == ([b"1.a.b", b"2.a.b"], True)
    drop = drops.open_at_once(str(maildir))
    assert drop is not None
    assert drop.read(1) == drop.read_cached(1) == b"x\r\n"
    assert drop.commit({0}) == 0
    drop.close()
    pass_time(maildir)
    assert session(drops, maildir) == ([b"2.a.b"], False)


def deliver(maildir: Path) -> list[bytes]:
    (maildir / "new" / "3.a.b").write_bytes(b"y\n")
    return [b"1.a.b", b"2.a.b", b"3.a.b"]


def remove(maildir: Path) -> list[bytes]:
    (maildir / "new" / "1.a.b").unlink()
    return [b"2.a.b"]


def move_and_deliver_another(maildir: Path) -> list[bytes]:
    (maildir / "new" / "1.a.b").rename(maildir / "cur" / "1.a.b:2,S")
    (maildir / "new" / "0.a.b").write_bytes(b"y\n")
    return [b"0.a.b", b"1.a.b", b"2.a.b"]


def swap(maildir: Path) -> list[bytes]:
    """As many messages as before, but others."""
    (maildir / "new" / "1.a.b").rename(maildir / "new" / "9.a.b")
    return [b"2.a.b", b"9.a.b"]


def replace_folder(maildir: Path) -> list[bytes]:
    (maildir / "new").rename(maildir / "old")
    (maildir / "new").mkdir()
    return []


def restore_times(maildir: Path) -> list[bytes]:
    """What a restored backup or rsync does: other content, and the old time of the folder."""
    found = (maildir / "new").stat()
    ids = remove(maildir)
    os.utime(maildir / "new", ns=(found.st_atime_ns, found.st_mtime_ns))
    return ids


@pytest.mark.parametrize("change", [deliver, remove, move_and_deliver_another, swap, replace_folder])
def test_every_change_is_seen_by_the_next_session(change: Callable[[Path], list[bytes]], maildir: Path) -> None:
    drops = house()
    session(drops, maildir)
    expected = change(maildir)
    pass_time(maildir)
    assert session(drops, maildir) == (expected, False)
    assert session(drops, maildir) == (expected, True)


def test_a_change_whose_traces_were_covered_is_seen(maildir: Path) -> None:
    drops = house()
    session(drops, maildir)
    before = (maildir / "new").stat().st_ctime_ns
    ids = restore_times(maildir)
    while (maildir / "new").stat().st_ctime_ns == before:  # until the file system's clock has ticked
        os.utime(maildir / "new", ns=(0, next(TICKS)))
        found = (maildir / "new").stat()
        os.utime(maildir / "new", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert session(drops, maildir) == (ids, False)


def test_messages_moved_by_another_program_are_found_in_a_session_that_was_opened_at_once(maildir: Path) -> None:
    drops = house()
    session(drops, maildir)
    drop = drops.open_at_once(str(maildir))
    assert drop is not None
    (maildir / "new" / "1.a.b").rename(maildir / "cur" / "1.a.b:2,S")
    pass_time(maildir)
    assert drop.read_cached(0) is None
    assert drop.read(0) == b"x\r\n"
    drop.close()
    assert session(drops, maildir) == ([b"1.a.b", b"2.a.b"], False)


def test_twins_stay_apart(maildir: Path) -> None:
    (maildir / "cur" / "1.a.b:2,S").write_bytes(b"the other\n")
    pass_time(maildir)
    drops = house()
    first, _ = session(drops, maildir)
    assert len(set(first)) == 3
    assert session(drops, maildir) == (first, True)
    (maildir / "cur" / "1.a.b:2,S").rename(maildir / "cur" / "1.a.b:2,FS")
    pass_time(maildir)
    assert session(drops, maildir) == (first, False)


@pytest.mark.parametrize("lost", ["box", "box/cur", "box/.pop3.lock"])
def test_what_went_away_is_not_taken_from_memory(lost: str, maildir: Path, tmp_path: Path) -> None:
    drops = house()
    session(drops, maildir)
    shutil.move(tmp_path / lost, tmp_path / "away")
    ids = [] if lost == "box" else [b"1.a.b", b"2.a.b"]
    assert session(drops, maildir) == (ids, False)


def test_a_maildir_that_is_not_there_yet_is_not_remembered(tmp_path: Path) -> None:
    drops = house()
    assert session(drops, tmp_path / "nobody") == ([], False)
    assert session(drops, tmp_path / "nobody") == ([], False)


def test_a_maildrop_that_is_open_is_not_opened_again(maildir: Path) -> None:
    drops = house()
    session(drops, maildir)
    drop = drops.open_at_once(str(maildir))
    assert drop is not None
    with pytest.raises(MaildropLocked):
        drops.open_at_once(str(maildir))
    with pytest.raises(MaildropLocked):
        drops.opening(str(maildir))()
    drop.close()
    assert session(drops, maildir)[1]


def test_a_lock_that_cannot_be_had_without_writing_is_left_to_the_thread(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = house()
    session(drops, maildir)
    flock = fcntl.flock

    def strict(descriptor: int, operation: int) -> None:
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR:
            raise OSError(errno.EBADF, "not open for writing")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", strict)
    assert session(drops, maildir) == ([b"1.a.b", b"2.a.b"], False)


def test_where_the_kernel_has_nothing_in_memory_the_inventory_is_still_used_again(maildir: Path) -> None:
    drops = house(make_cache=lambda: KernelCache(None))
    first = drops.remember(drops.opening(str(maildir))())
    first.close()
    assert drops.open_at_once(str(maildir)) is None
    second = drops.opening(str(maildir))()
    second.close()
    assert second.listing is first.listing
    deliver(maildir)
    pass_time(maildir)
    assert len(session(drops, maildir)[0]) == 3


@pytest.mark.parametrize("seconds", [-10.0, 0.0, SETTLED_SECONDS / 2])
def test_what_changed_a_moment_ago_is_not_remembered(seconds: float, maildir: Path) -> None:
    newest = max((maildir / folder).stat().st_ctime_ns for folder in ("new", "cur")) / 1e9
    drops = house(now=lambda: newest + seconds)
    assert session(drops, maildir) == session(drops, maildir) == ([b"1.a.b", b"2.a.b"], False)
    assert len(drops) == 0


@pytest.mark.parametrize(
    ("modified_ns", "settled_seconds"),
    [(1_000_000_001, SETTLED_SECONDS), (1_000_000_000, SETTLED_COARSE_SECONDS), (999_999_999, SETTLED_SECONDS)],
)
def test_a_stamp_is_settled_when_the_clock_of_the_file_system_has_ticked(modified_ns: int, settled_seconds: float) -> None:
    stamp = ((1, 2, 5, 5), (1, 3, modified_ns, modified_ns))
    assert not is_settled(stamp, modified_ns / 1e9 + settled_seconds - 0.001)
    assert is_settled(stamp, modified_ns / 1e9 + settled_seconds + 0.001)
    assert not is_settled(((1, 2, 5, 5), (1, 3, 5, modified_ns)), modified_ns / 1e9 + SETTLED_SECONDS / 2)


def test_what_changes_while_it_is_looked_at_is_not_remembered(maildir: Path) -> None:
    disk = FaultyDisk()

    def change(folder: str) -> None:
        if folder.endswith("/cur"):
            deliver(maildir)
            pass_time(maildir)

    disk.before["scandir"] = change
    drop = Maildrop.open(maildir, now=much_later, disk=disk)
    drop.close()
    assert len(drop.listing) == 2
    assert drop.known.stamp is None


def test_a_file_that_could_not_be_measured_is_measured_again(maildir: Path) -> None:
    disk = FaultyDisk()
    disk.faults["open"] = lambda name, *_: OSError(errno.EIO, "bad disk") if name.endswith("/1.a.b") else None
    drop = Maildrop.open(maildir, now=much_later, disk=disk)
    drop.close()
    assert [octets for octets, _ in drop.listing] == [0, 3]
    assert drop.known.stamp is None


def test_no_more_is_remembered_than_was_said_and_the_oldest_goes_first(tmp_path: Path) -> None:
    boxes = []
    for number, count in enumerate((2, 3, 2, 6)):
        boxes.append(tmp_path / f"box{number}")
        for folder in ("new", "cur"):
            (boxes[-1] / folder).mkdir(parents=True)
        for message in range(count):
            (boxes[-1] / "new" / f"{message}.a.b").write_bytes(b"x\n")
        pass_time(boxes[-1])
    drops = house(remembered_messages=5)
    assert [session(drops, box)[1] for box in (*boxes[:2], *boxes[:2])] == [False, False, True, True]
    assert len(drops) == 5
    session(drops, boxes[0])
    session(drops, boxes[2])
    assert len(drops) == 4
    assert [session(drops, box)[1] for box in (boxes[0], boxes[2])] == [True, True]
    session(drops, boxes[3])  # more than can be remembered at all
    assert len(drops) == 4
    assert not session(drops, boxes[3])[1]
    assert session(drops, boxes[0])[1]
