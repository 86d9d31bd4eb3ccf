"""Reads that never wait: the kernel's own cache, and maildrops over caches that have all, nothing, or a part."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_below
from test_maildrop import FaultyDisk

from mailstack.mail.crlf import with_crlf
from mailstack.store.cached import KernelCache
from mailstack.store.maildrop import AHEAD_MESSAGES, AHEAD_OCTETS, SMALL_OCTETS, Maildrop, MessageReader
from mailstack.store.names import delivery_name


class WarmCache:
    """Has everything in memory; `most` is where its pages end, `missing` the reads that it does not have, counted from 1."""

    def __init__(self, *, most: int | None = None, missing: Callable[[int], bool] = lambda number: False) -> None:
        self.most = most
        self.missing = missing
        self.reads = 0
        self.is_empty = False

    def works_on(self, descriptor: int) -> bool:
        return True

    def open(self, path: str) -> int | None:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None

    def read(self, descriptor: int, octets: int, offset: int) -> bytes | None:
        self.reads += 1
        if self.missing(self.reads):
            return None
        if self.most is not None:
            octets = min(octets, self.most - offset)
            if octets <= 0:
                return None
        return os.pread(descriptor, octets, offset)


@pytest.fixture(autouse=True)
def no_leak(tmp_path: Path) -> Iterator[None]:
    before = open_below(tmp_path)
    yield
    assert open_below(tmp_path) == before


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path


def ours(maildir: Path, content: bytes, *, said: int | None = None) -> Path:
    octets = len(content) if said is None else said
    path = maildir / "new" / delivery_name("0123456789abc", 0, 1_700_000_000.5, "mx.test", octets)
    path.write_bytes(content)
    return path


def cached(maildir: Path, cache: Any) -> bytes | None:
    """Read the only message without waiting: whole, as far as it is in memory, or not at all."""
    drop = Maildrop.open(maildir, now=lambda: 0.0, cache=cache)
    try:
        found = drop.read_cached(0)
        if not isinstance(found, MessageReader):
            return found
        chunks = []
        while chunk := found.read_cached():
            chunks.append(chunk)
        rest = b"".join(iter(found.read, b"")) if chunk is None else b""
        assert found.read_cached() == b""
        found.close()
        return b"".join(chunks) + rest
    finally:
        drop.close()


SIZES = [0, 2, 4_096, SMALL_OCTETS - 1, SMALL_OCTETS, SMALL_OCTETS + 1, 262_144 + SMALL_OCTETS + 1, 1_000_000]


@pytest.mark.parametrize("octets", SIZES)
@pytest.mark.parametrize("name", ["ours", "1.other.host", "1.other.host,S=7,W=7"])
def test_what_is_in_memory_is_read_whole(octets: int, name: str, maildir: Path) -> None:
    content = (b"0123456\r\n" if name == "ours" else b"012345\r\n\n") * (octets // 9 + 1)
    content = content[: octets - 2] + b"\r\n" if octets else b""
    if name == "ours":
        ours(maildir, content)
    else:
        (maildir / "new" / name).write_bytes(content)
    assert cached(maildir, WarmCache()) == (content if name == "ours" else with_crlf(content))


@pytest.mark.parametrize("octets", SIZES)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_is_in_memory_in_part_is_read_in_both_ways(octets: int, every: int, maildir: Path) -> None:
    content = b"x" * (octets - 2) + b"\r\n" if octets else b""
    ours(maildir, content)
    cache = WarmCache(missing=lambda number: number % every == 0)
    assert cached(maildir, cache) in ((content,) if every > 1 else (None,))
    assert cache.reads


@pytest.mark.parametrize("most", [4_096, 8_192])
def test_a_message_of_which_the_last_pages_are_missing_is_not_taken_for_whole(most: int, maildir: Path) -> None:
    content = b"x" * 10_000 + b"\r\n"
    ours(maildir, content)
    assert cached(maildir, WarmCache(most=most)) is None


@pytest.mark.parametrize("said", [4_096, 8_192])
def test_a_file_longer_than_its_name_says_is_sent_whole(said: int, maildir: Path) -> None:
    content = b"a\n" * 5_000
    ours(maildir, content, said=said)
    assert cached(maildir, WarmCache(most=said)) is None
    assert cached(maildir, WarmCache()) == with_crlf(content)


def test_nothing_in_memory_is_nothing_read(maildir: Path) -> None:
    ours(maildir, b"x\r\n")
    assert cached(maildir, KernelCache(None)) is None


def test_a_message_that_is_gone_is_not_read(maildir: Path) -> None:
    path = ours(maildir, b"x\r\n")
    drop = Maildrop.open(maildir, now=lambda: 0.0, cache=WarmCache())
    path.unlink()
    assert drop.read_cached(0) is None
    assert drop.read(0) is None
    drop.close()


def test_the_kernel_gives_the_file_or_nothing(maildir: Path) -> None:
    content = os.urandom(5_000)
    path = maildir / "new" / "file"
    path.write_bytes(content)
    cache = KernelCache()
    descriptor = cache.open(str(path))
    if descriptor is not None:
        assert not os.get_inheritable(descriptor)
        assert cache.read(descriptor, 10_000, 0) in (content, None)
        assert cache.read(descriptor, 10, 4_990) in (content[4_990:], None)
        assert cache.read(descriptor, 10, 5_000) in (b"", None)
        os.close(descriptor)


def test_the_kernel_follows_no_link_and_waits_for_no_writer(maildir: Path) -> None:
    (maildir / "link").symlink_to("/etc/passwd")
    os.mkfifo(maildir / "fifo")
    cache = KernelCache()
    assert cache.open(str(maildir / "link")) is None
    assert cache.open(str(maildir / "none")) is None
    for name in ("fifo", "new"):
        descriptor = cache.open(str(maildir / name))
        if descriptor is not None:
            assert cache.read(descriptor, 10, 0) is None
            os.close(descriptor)


@pytest.mark.parametrize(
    ("error", "asked"), [(errno.ENOSYS, 1), (errno.EPERM, 3), (errno.EINVAL, 1), (errno.EAGAIN, 3), (errno.ENOENT, 3)]
)
def test_who_says_never_is_not_asked_again(error: int, asked: int) -> None:
    asking: list[bytes] = []

    def open_cached(path: bytes) -> int:
        asking.append(path)
        return -error

    cache = KernelCache(open_cached)
    assert [cache.open(path) for path in ("/a", "/b", "/\udcff")] == [None] * 3
    assert asking == [b"/a", b"/b", b"/\xff"][:asked]


@pytest.mark.parametrize(("error", "again"), [(errno.EOPNOTSUPP, False), (errno.EIO, True), (errno.EAGAIN, True)])
def test_a_file_system_that_cannot_tell_is_not_asked_again(
    error: int, again: bool, maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ours(maildir, b"x\r\n")

    def preadv(*arguments: Any) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "preadv", preadv)
    cache = KernelCache(lambda name: os.open(name, os.O_RDONLY))
    assert cached(maildir, cache) is None
    descriptor = cache.open(str(path))
    assert (descriptor is not None) == again
    if descriptor is not None:
        os.close(descriptor)


def many(maildir: Path, count: int, octets: int, disk: FaultyDisk) -> Maildrop:
    for number in range(count):
        name = delivery_name("0123456789abc", 0, 1_700_000_000.5 + number, "mx.test", octets)
        (maildir / "new" / name).write_bytes(b"x" * (octets - 2) + b"\r\n")
    drop = Maildrop.open(maildir, now=lambda: 0.0, cache=KernelCache(None), disk=disk)
    disk.calls.clear()
    return drop


def advised(disk: FaultyDisk) -> int:
    return sum(1 for call, _ in disk.calls if call == "posix_fadvise")


def test_who_reads_one_message_after_the_other_has_the_next_ones_fetched_once_and_no_more_than_that(maildir: Path) -> None:
    disk = FaultyDisk()
    drop = many(maildir, 100, 1_000, disk)
    drop.read(3)
    assert advised(disk) == 0
    drop.read(4)
    assert advised(disk) == AHEAD_MESSAGES
    drop.read(5)
    assert advised(disk) == AHEAD_MESSAGES + 1
    for index in range(6, 100):
        assert drop.read(index) == b"x" * 998 + b"\r\n"
    assert advised(disk) == 95
    drop.close()


def test_what_is_fetched_ahead_is_bounded_in_octets(maildir: Path) -> None:
    disk = FaultyDisk()
    drop = many(maildir, 10, AHEAD_OCTETS // 3, disk)
    for index in (0, 1):
        found = drop.read(index)
        assert isinstance(found, MessageReader)
        found.close()
    assert advised(disk) == 3
    drop.close()


def test_who_picks_messages_has_none_fetched_ahead(maildir: Path) -> None:
    disk = FaultyDisk()
    drop = many(maildir, 10, 1_000, disk)
    for index in (9, 3, 3, 7, 5):
        drop.read(index)
    assert advised(disk) == 0
    drop.close()


def test_what_cannot_be_fetched_ahead_keeps_nothing_from_being_read(maildir: Path) -> None:
    disk = FaultyDisk()
    drop = many(maildir, 4, 1_000, disk)
    disk.faults["posix_fadvise"] = lambda *_: OSError(errno.EIO, "bad disk")
    path = maildir / drop.listing.place(2)
    path.unlink()
    assert [drop.read(index) is not None for index in range(4)] == [True, True, False, True]
    drop.close()


def test_a_message_that_was_in_memory_counts_as_read(maildir: Path) -> None:
    disk = FaultyDisk()
    many(maildir, 10, 1_000, disk).close()
    cache = WarmCache(missing=lambda number: cache.is_empty)
    drop = Maildrop.open(maildir, now=lambda: 0.0, cache=cache, disk=disk)
    assert drop.read_cached(0) is not None
    cache.is_empty = True
    assert drop.read_cached(1) is None
    drop.read(1)
    assert advised(disk) == 8
    drop.close()


def foreign(maildir: Path, content: bytes) -> None:
    (maildir / "new" / f"1.other.host,S={len(content)},W={len(content)}").write_bytes(content)


@pytest.mark.parametrize("octets", [1_000, 4_096, SMALL_OCTETS, 300_000])
@pytest.mark.parametrize("cache", [WarmCache(), KernelCache(None)])
def test_anothers_message_is_looked_through_once(octets: int, cache: Any, maildir: Path) -> None:
    content = b"0123456\r\n" * (octets // 9)
    foreign(maildir, content)
    drop = Maildrop.open(maildir, now=lambda: 0.0, cache=cache)
    assert not drop.listing.has_crlf(0)
    for _ in range(2):
        found = drop.read_cached(0) or drop.read(0)
        assert (b"".join(iter(found.read, b"")) if isinstance(found, MessageReader) else found) == content
        assert drop.listing.has_crlf(0)
    drop.close()


@pytest.mark.parametrize("octets", [1_000, 300_000])
@pytest.mark.parametrize("flaw", [b"\n", b"\r", b"\n\r", b"\r\r\n"])
@pytest.mark.parametrize("cache", [WarmCache(), KernelCache(None)])
def test_anothers_message_that_has_other_line_ends_is_never_believed_to_have_crlf(
    octets: int, flaw: bytes, cache: Any, maildir: Path
) -> None:
    for content in (b"x" * octets + flaw + b"x\r\n", b"x\r\n" * (octets // 3) + b"x" + flaw):
        foreign(maildir, content)
        drop = Maildrop.open(maildir, now=lambda: 0.0, cache=cache)
        for _ in range(2):
            found = drop.read_cached(0) or drop.read(0)
            sent = b"".join(iter(found.read, b"")) if isinstance(found, MessageReader) else found
            assert sent == with_crlf(content)
            assert not drop.listing.has_crlf(0)
        drop.close()
        next((maildir / "new").iterdir()).unlink()


def test_a_reader_that_was_not_read_to_its_end_believes_nothing(maildir: Path) -> None:
    foreign(maildir, b"0123456\r\n" * 40_000 + b"\n")
    drop = Maildrop.open(maildir, now=lambda: 0.0, cache=WarmCache())
    found = drop.read_cached(0)
    assert isinstance(found, MessageReader)
    found.read_cached()
    found.close()
    assert not drop.listing.has_crlf(0)
    drop.close()
