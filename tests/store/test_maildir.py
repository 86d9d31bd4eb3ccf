"""Delivery into maildirs: one contract for the real file system and that in memory, and what only the real one can show."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_below
from shipping import deliver_each
from sim_file_system import FailingFileSystem, SimFile, SimFileSystem, SimFolder

from mailstack.store import maildir
from mailstack.store.durable import OSFileSystem
from mailstack.store.folders import MailFolder, prepare_root
from mailstack.store.maildir import (
    BY_FILE_SECONDS,
    ROUND_ITEMS,
    SLOW_SECONDS,
    AlreadyThere,
    Delivered,
    MaildirItem,
    Maildirs,
    Shipment,
)
from mailstack.store.names import delivery_key, delivery_name
from mailstack.store.open_maildirs import KEPT, MailRootError

ALICE = "alice@example.org"
BOB = "bob@example.org"
HEAD = b"Return-Path: <>\r\nDelivered-To: alice@example.org\r\n"
BODY = b"Subject: a\r\n\r\ntext\r\n"


class MemoryContent:
    def __init__(self, octets: bytes) -> None:
        self.in_memory = octets
        self.octets = len(octets)

    def chunks(self, size_octets: int = 0) -> Iterator[bytes]:
        raise AssertionError("it is in memory")

    def file_with(self, head: bytes) -> None:
        return None


class ChunkedContent:
    in_memory = None

    def __init__(self, *chunks: bytes, octets: int | None = None, error: Exception | None = None) -> None:
        self._chunks = chunks
        self._error = error
        self.octets = sum(map(len, chunks)) if octets is None else octets

    def chunks(self, size_octets: int = 0) -> Iterator[bytes]:
        yield from self._chunks
        if self._error is not None:
            raise self._error

    def file_with(self, head: bytes) -> None:
        return None


def item_of(
    entry: int, account: str = ALICE, *, body: bytes = BODY, content: Any = None, may_repeat: bool = False
) -> MaildirItem:
    content = content or MemoryContent(body)
    name = delivery_name(f"{entry:013d}", 0, 1000.5, "mx.example", len(HEAD) + content.octets)
    return MaildirItem(folder=MailFolder("/").folder_of(account), name=name, head=HEAD, content=content, may_repeat=may_repeat)


def repeated(items: list[MaildirItem]) -> list[MaildirItem]:
    return [
        MaildirItem(folder=item.folder, name=item.name, head=item.head, content=item.content, may_repeat=True) for item in items
    ]


class FileByFile(OSFileSystem):
    """Knows no syncfs."""

    can_sync_system = False


class RealWorld:
    """A mail root in a temporary folder."""

    def __init__(self, path: Path, by_system: bool = True) -> None:
        self.root = path / "mail"
        prepare_root(self.root)
        self.file_system: Any = OSFileSystem() if by_system else FileByFile()
        self.restart()

    def restart(self) -> None:
        self.maildirs = Maildirs(MailFolder(self.root), self.file_system)

    def files(self, path: str = "") -> dict[str, bytes]:
        base = self.root / path
        return {
            str(file.relative_to(base)): file.read_bytes()
            for file in base.rglob("*")
            if file.is_file() and file.name != ".mailstack"
        }

    def put(self, path: str, octets: bytes, modified_at: float = 0.0) -> None:
        (self.root / path).write_bytes(octets)
        os.utime(self.root / path, (modified_at, modified_at))

    def move(self, path: str, to: str) -> None:
        (self.root / path).rename(self.root / to)

    def put_folder(self, path: str) -> None:
        (self.root / path).mkdir()

    def open_handles(self) -> int:
        return open_below(self.root)


class SimWorld:
    """The same in memory."""

    def __init__(self, by_system: bool = True) -> None:
        self.root = Path("/mail")
        self.file_system: Any = SimFileSystem(can_sync_system=by_system)
        self.sim = self.file_system
        self.restart()

    def restart(self) -> None:
        self.maildirs = Maildirs(MailFolder(self.root), self.file_system)

    def files(self, path: str = "") -> dict[str, bytes]:
        return {name: octets for name, octets in self.sim.tree(path).items() if name != ".mailstack"}

    def _split(self, path: str) -> tuple[SimFolder, str]:
        folder, _, name = path.rpartition("/")
        return self.sim.folder(folder), name

    def put(self, path: str, octets: bytes, modified_at: float = 0.0) -> None:
        folder, name = self._split(path)
        folder.put(name, SimFile(octets, octets, modified_at))

    def move(self, path: str, to: str) -> None:
        folder, name = self._split(path)
        node = folder.names[name]
        folder.remove(name)
        folder, name = self._split(to)
        folder.put(name, node)

    def put_folder(self, path: str) -> None:
        folder, name = self._split(path)
        folder.put(name, SimFolder())

    def open_handles(self) -> int:
        return self.sim.open_handles


@pytest.fixture(params=["real", "sim", "real file by file", "sim file by file"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> RealWorld | SimWorld:
    by_system = "file by file" not in request.param
    return RealWorld(tmp_path, by_system) if "real" in request.param else SimWorld(by_system)


@pytest.fixture
def real(tmp_path: Path) -> RealWorld:
    return RealWorld(tmp_path)


World = RealWorld | SimWorld
ALICES = "example.org/alice"


class TestContract:
    """What holds on any file system."""

    def test_writes_head_and_content(self, world: World) -> None:
        item = item_of(1)
        assert deliver_each(world.maildirs, [item]) == [Delivered(item.name)]
        assert world.files() == {f"{ALICES}/new/{item.name}": HEAD + BODY}

    def test_nothing_to_do(self, world: World) -> None:
        assert deliver_each(world.maildirs, []) == []

    def test_name_tells_the_size(self, world: World) -> None:
        item = item_of(1)
        deliver_each(world.maildirs, [item])
        assert f",S={len(HEAD + BODY)}," in item.name

    def test_content_in_chunks(self, world: World) -> None:
        item = item_of(1, content=ChunkedContent(b"a" * 70_000, b"b" * 70_000, b"\r\n"))
        assert deliver_each(world.maildirs, [item]) == [Delivered(item.name)]
        assert world.files(f"{ALICES}/new") == {item.name: HEAD + b"a" * 70_000 + b"b" * 70_000 + b"\r\n"}

    def test_empty_content(self, world: World) -> None:
        items = [item_of(1, body=b""), item_of(2, content=ChunkedContent())]
        deliver_each(world.maildirs, items)
        assert world.files(f"{ALICES}/new") == {item.name: HEAD for item in items}

    def test_many_folders_at_once(self, world: World) -> None:
        items = [item_of(1), item_of(2, BOB), item_of(3, "alice@other.example"), item_of(4)]
        assert deliver_each(world.maildirs, items) == [Delivered(item.name) for item in items]
        assert sorted(world.files()) == sorted(
            [
                f"{ALICES}/new/{items[0].name}",
                f"example.org/bob/new/{items[1].name}",
                f"other.example/alice/new/{items[2].name}",
                f"{ALICES}/new/{items[3].name}",
            ]
        )

    def test_more_than_a_round(self, world: World) -> None:
        items = [item_of(number, f"user{number % 7}@example.org") for number in range(2 * maildir.ROUND_ITEMS + 1)]
        assert deliver_each(world.maildirs, items) == [Delivered(item.name) for item in items]
        assert len(world.files()) == len(items)

    def test_existing_maildir(self, world: World) -> None:
        first, second = item_of(1), item_of(2)
        deliver_each(world.maildirs, [first])
        world.restart()
        deliver_each(world.maildirs, [second])
        assert sorted(world.files(f"{ALICES}/new")) == sorted([first.name, second.name])

    def test_lets_go_of_everything(self, world: World) -> None:
        before = world.open_handles()
        item = item_of(1)
        deliver_each(world.maildirs, [item, item_of(2, BOB), item])
        deliver_each(world.maildirs, [item_of(1, may_repeat=True)])
        world.maildirs.clean_tmp(item.folder, 0.0)
        assert world.open_handles() == before + 2 * 2, "tmp and new of two maildirs stay open"
        world.maildirs.close()
        assert world.open_handles() == before

    def test_keeps_no_more_open_than_it_may(self, world: World) -> None:
        before = world.open_handles()
        items = [item_of(number, f"user{number}@example.org") for number in range(KEPT + 3)]
        assert deliver_each(world.maildirs, items) == [Delivered(item.name) for item in items]
        assert world.open_handles() == before + 2 * KEPT
        again = [item_of(1_000 + number, f"user{number}@example.org") for number in (0, KEPT + 2)]
        assert deliver_each(world.maildirs, again) == [Delivered(item.name) for item in again]
        assert world.open_handles() == before + 2 * KEPT
        world.maildirs.close()
        assert world.open_handles() == before

    def test_fresh_name_that_exists_in_new_is_an_error_and_stays(self, world: World) -> None:
        item = item_of(1)
        deliver_each(world.maildirs, [item])
        (outcome,) = deliver_each(world.maildirs, [item])
        assert isinstance(outcome, FileExistsError)
        assert world.files() == {f"{ALICES}/new/{item.name}": HEAD + BODY}

    def test_same_name_twice_in_a_round(self, world: World) -> None:
        item = item_of(1)
        first, second = deliver_each(world.maildirs, [item, item])
        assert first == Delivered(item.name)
        assert isinstance(second, FileExistsError)
        assert world.files() == {f"{ALICES}/new/{item.name}": HEAD + BODY}

    def test_fresh_name_that_exists_in_tmp_is_an_error_and_stays(self, world: World) -> None:
        item = item_of(1)
        deliver_each(world.maildirs, [item_of(2)])
        world.put(f"{ALICES}/tmp/{item.name}", b"another's")
        (outcome,) = deliver_each(world.maildirs, [item])
        assert isinstance(outcome, FileExistsError)
        assert world.files(f"{ALICES}/tmp") == {item.name: b"another's"}


class TestRepetition:
    """May an earlier attempt have happened, then what it did counts."""

    def test_nothing_there(self, world: World) -> None:
        item = item_of(1, may_repeat=True)
        assert deliver_each(world.maildirs, [item]) == [Delivered(item.name)]

    @pytest.mark.parametrize(
        "place",
        ["new/{0}", "cur/{0}", "cur/{0}:2,", "cur/{0}:2,FRS", "cur/{1}:2,S", "cur/{1},S=7:2,S", "new/{1}", "cur/{0},X=1:2,"],
    )
    def test_delivered_and_perhaps_moved(self, world: World, place: str) -> None:
        item = item_of(1)
        deliver_each(world.maildirs, [item])
        now = f"{ALICES}/" + place.format(item.name, delivery_key(item.name))
        if now != f"{ALICES}/new/{item.name}":
            world.move(f"{ALICES}/new/{item.name}", now)
        assert deliver_each(world.maildirs, repeated([item])) == [AlreadyThere(now.rpartition("/")[2])]
        assert list(world.files()) == [now]

    def test_deleted_since(self, world: World) -> None:
        item = item_of(1)
        deliver_each(world.maildirs, [item])
        tombstone = f"{delivery_key(item.name)}.deleted"
        world.move(f"{ALICES}/new/{item.name}", f"{ALICES}/tmp/{tombstone}")
        assert deliver_each(world.maildirs, repeated([item])) == [AlreadyThere(tombstone)]
        assert list(world.files()) == [f"{ALICES}/tmp/{tombstone}"]

    @pytest.mark.parametrize("leftover", [b"", HEAD[:10], HEAD + BODY, HEAD + BODY + BODY])
    def test_died_while_writing(self, world: World, leftover: bytes) -> None:
        item = item_of(1, may_repeat=True)
        deliver_each(world.maildirs, [item_of(2)])
        world.put(f"{ALICES}/tmp/{item.name}", leftover)
        assert deliver_each(world.maildirs, [item]) == [Delivered(item.name)]
        assert world.files(f"{ALICES}/tmp") == {}
        assert world.files(f"{ALICES}/new")[item.name] == HEAD + BODY

    def test_died_between_link_and_unlink(self, world: World) -> None:
        item = item_of(1)
        deliver_each(world.maildirs, [item])
        world.put(f"{ALICES}/tmp/{item.name}", HEAD + BODY)
        assert deliver_each(world.maildirs, repeated([item])) == [AlreadyThere(item.name)]
        assert world.files() == {f"{ALICES}/new/{item.name}": HEAD + BODY}

    def test_others_do_not_count(self, world: World) -> None:
        items = [item_of(1), item_of(11, BOB)]
        deliver_each(world.maildirs, items)
        world.put(f"{ALICES}/cur/1000.M500000E0000000000002R0.mx.examples:2,S", b"another host's")
        world.put(f"{ALICES}/cur/1000.M500000E0000000000002R01.mx.example:2,S", b"another recipient's")
        again = [item_of(2, may_repeat=True), item_of(1, BOB, may_repeat=True)]
        assert deliver_each(world.maildirs, again) == [Delivered(item.name) for item in again]

    def test_a_round_of_both(self, world: World) -> None:
        old, new = [item_of(number) for number in range(5)], [item_of(number) for number in range(5, 10)]
        deliver_each(world.maildirs, old)
        outcomes = deliver_each(world.maildirs, repeated(list(itertools.chain(*zip(old, new, strict=True)))))
        assert [type(outcome) for outcome in outcomes] == [AlreadyThere, Delivered] * 5
        assert len(world.files()) == 10

    def test_name_that_is_not_of_a_delivery(self, world: World) -> None:
        item = item_of(1)
        odd = MaildirItem(folder=item.folder, name="odd", head=HEAD, content=item.content, may_repeat=True)
        (outcome,) = deliver_each(world.maildirs, [odd])
        assert isinstance(outcome, ValueError)
        assert world.files() == {}


class TestFailure:
    """One item's failure is its own, and leaves nothing."""

    @pytest.mark.parametrize(
        "content",
        [
            ChunkedContent(b"abc", error=OSError(errno.EIO, "spool")),
            ChunkedContent(error=RuntimeError("spool")),
            ChunkedContent(b"abc", octets=4),
            ChunkedContent(b"abc", octets=2),
            ChunkedContent(octets=1),
        ],
    )
    def test_content_that_cannot_be_read_or_is_not_what_it_says(self, world: World, content: ChunkedContent) -> None:
        good, bad, last = item_of(1), item_of(2, content=content), item_of(3)
        outcomes = deliver_each(world.maildirs, [good, bad, last])
        assert isinstance(outcomes[1], OSError | RuntimeError)
        assert [outcomes[0], outcomes[2]] == [Delivered(good.name), Delivered(last.name)]
        assert sorted(world.files()) == [f"{ALICES}/new/{good.name}", f"{ALICES}/new/{last.name}"]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    @pytest.mark.parametrize("may_repeat", [False, True])
    @pytest.mark.parametrize("by_system", [False, True])
    def test_every_call_that_can_fail(self, tmp_path: Path, number: int, may_repeat: bool, by_system: bool) -> None:
        fail_everywhere(lambda step: RealWorld(tmp_path / str(step), by_system), number, may_repeat)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOENT, errno.EEXIST, errno.EROFS])
    @pytest.mark.parametrize("may_repeat", [False, True])
    @pytest.mark.parametrize("by_system", [False, True])
    def test_every_call_that_can_fail_in_memory(self, number: int, may_repeat: bool, by_system: bool) -> None:
        fail_everywhere(lambda step: SimWorld(by_system), number, may_repeat)

    def test_a_folder_that_cannot_be_flushed_concerns_its_own_items(self) -> None:
        world = SimWorld(by_system=False)
        items = [item_of(1), item_of(2, BOB), item_of(3)]
        deliver_each(world.maildirs, [item_of(8), item_of(9, BOB)])  # so that the folders are settled
        world.file_system = OneFolderFails(world.sim, world.sim.folder(f"{ALICES}/new"))
        world.maildirs._file_system = world.file_system
        outcomes = deliver_each(world.maildirs, items)
        assert [type(outcome) for outcome in outcomes] == [OSError, Delivered, OSError]
        assert items[0].name not in world.files(f"{ALICES}/new")
        assert items[2].name not in world.files(f"{ALICES}/new")
        assert items[1].name in world.files("example.org/bob/new")


class OneFolderFails(FailingFileSystem):
    """Cannot flush one folder."""

    def __init__(self, inner: SimFileSystem, folder: SimFolder) -> None:
        super().__init__(inner, 0, errno.EIO)
        self._sim, self._folder = inner, folder

    def sync_folder(self, handle: int) -> None:
        if self._sim._handles[handle] is self._folder:
            raise OSError(errno.EIO, "cannot flush")
        self._sim.sync_folder(handle)


def fail_everywhere(make_world: Callable[[int], World], number: int, may_repeat: bool) -> None:
    """Let each call of a round fail, one after the other; then repeat without failure."""
    failed_calls = set()
    for step in itertools.count(1):
        world = make_world(step)
        before = world.open_handles()
        items = [item_of(1), item_of(2, BOB), item_of(3)]
        deliver_each(world.maildirs, [item_of(9, BOB)])  # one folder exists, one does not
        if may_repeat:
            items = repeated(items)
            deliver_each(world.maildirs, items[1:2])
        failing = FailingFileSystem(world.file_system, step, number)
        world.maildirs.close()
        world.maildirs = Maildirs(MailFolder(world.root), failing)
        outcomes = deliver_each(world.maildirs, items)
        failed_calls.add(failing.failed)
        failing.heal()
        there = {path.rpartition("/")[2]: octets for path, octets in world.files().items() if "/new/" in path}
        assert all(octets == HEAD + BODY for octets in there.values())
        for item, outcome in zip(items, outcomes, strict=True):
            was_there = may_repeat and item is items[1]
            assert isinstance(outcome, Exception) is (item.name not in there) or (was_there and item.name in there)
        if failing.failed != "unlink":
            assert not [path for path in world.files() if "/tmp/" in path]
        outcomes = deliver_each(world.maildirs, repeated(items))
        assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        everything = world.files()
        assert len(everything) == 4, (step, failing.failed, everything)
        assert all("/new/" in path and octets == HEAD + BODY for path, octets in everything.items())
        world.maildirs.close()
        assert world.open_handles() == before
        if not failing.failed:
            break
    expected = {
        "open_root",
        "exists",
        "open_folder",
        "make_folder",
        "create",
        "write",
        "move",
        "identity",
        "sync_folder",
        "",
    }
    expected |= {"sync_system"} if world.file_system.can_sync_system else {"sync_files"}
    assert failed_calls == expected | ({"names", "unlink"} if may_repeat else set())


class FileOf:
    """A content that lies in a file, behind a head."""

    in_memory = None

    def __init__(self, path: Path, head: bytes, octets: int) -> None:
        self._path, self._head, self.octets = path, head, octets

    def chunks(self, size_octets: int = 0) -> Iterator[bytes]:
        yield self._path.read_bytes()[len(self._head) :]

    def file_with(self, head: bytes) -> str | None:
        return str(self._path) if head == self._head else None


class TestAdoption:
    """A file that has the head already is not copied."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "content"
        file.write_bytes(HEAD + BODY)
        return file

    def test_by_a_link(self, real: RealWorld, file: Path) -> None:
        item = item_of(1, content=FileOf(file, HEAD, len(BODY)))
        assert deliver_each(real.maildirs, [item]) == [Delivered(item.name)]
        (path,) = real.files()
        assert (real.root / path).stat().st_ino == file.stat().st_ino
        file.unlink()
        assert real.files() == {f"{ALICES}/new/{item.name}": HEAD + BODY}

    def test_only_with_the_same_head(self, real: RealWorld, file: Path) -> None:
        item = item_of(1, content=FileOf(file, HEAD[:-2], len(BODY) + 2))
        assert deliver_each(real.maildirs, [item]) == [Delivered(item.name)]
        (path,) = real.files()
        assert (real.root / path).stat().st_ino != file.stat().st_ino

    def test_of_another_length_is_damaged(self, real: RealWorld, file: Path) -> None:
        file.write_bytes(HEAD + BODY + b"x")
        (outcome,) = deliver_each(real.maildirs, [item_of(1, content=FileOf(file, HEAD, len(BODY)))])
        assert isinstance(outcome, OSError)
        assert real.files() == {}
        assert file.exists()

    def test_from_elsewhere_is_a_copy(self, real: RealWorld) -> None:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as other:
            other.write(HEAD + BODY)
            other.flush()
            item = item_of(1, content=FileOf(Path(other.name), HEAD, len(BODY)))
            assert deliver_each(real.maildirs, [item]) == [Delivered(item.name)]
        assert list(real.files().values()) == [HEAD + BODY]


class TestAllOrNone:
    """A shipment that stands and falls together."""

    def test_is_delivered(self, world: World) -> None:
        items = [item_of(1), item_of(1, BOB)]
        outcomes = world.maildirs.deliver_many([Shipment(items, all_or_none=True), Shipment([item_of(2)])])
        assert outcomes == [[Delivered(item.name) for item in items], [Delivered(item_of(2).name)]]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    @pytest.mark.parametrize("by_system", [False, True])
    def test_whatever_call_fails(self, number: int, by_system: bool) -> None:
        carol = "carol@example.org"
        items = [item_of(1), item_of(1, BOB), item_of(1, carol)]
        for step in itertools.count(1):
            world = SimWorld(by_system)
            world.maildirs.deliver_many([Shipment([item_of(9), item_of(9, BOB), item_of(9, carol)])])
            failing = FailingFileSystem(world.file_system, step, number)
            world.maildirs = Maildirs(MailFolder(world.root), failing)
            (outcomes,) = world.maildirs.deliver_many([Shipment(items, all_or_none=True)])
            failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            there = [path for path in world.files() if items[0].name in path]
            assert len(failures) in (0, 3), failing.failed
            assert len(there) == 3 - len(failures), failing.failed
            if not failing.failed:
                break
        assert step > 10

    def test_others_in_the_round_are_delivered(self, world: World) -> None:
        bad = item_of(1, BOB, content=ChunkedContent(b"abc", error=OSError(errno.EIO, "spool")))
        shipments = [Shipment([item_of(1), bad], all_or_none=True), Shipment([item_of(2)])]
        (first, second), (other,) = world.maildirs.deliver_many(shipments)
        assert isinstance(first, OSError)
        assert isinstance(second, OSError)
        assert other == Delivered(item_of(2).name)
        assert list(world.files()) == [f"{ALICES}/new/{item_of(2).name}"]

    def test_is_in_one_round_whatever_stands_before_it(self) -> None:
        world = SimWorld()
        before = [Shipment([item_of(number)]) for number in range(100, 100 + ROUND_ITEMS - 1)]
        together = [item_of(number) for number in range(10)]
        together[9] = item_of(9, content=ChunkedContent(error=OSError(errno.EIO, "spool")))
        outcomes = world.maildirs.deliver_many([*before, Shipment(together, all_or_none=True)])
        assert all(isinstance(outcome, OSError) for outcome in outcomes[-1])
        assert len(world.files()) == ROUND_ITEMS - 1

    def test_more_than_a_round(self, world: World) -> None:
        items = [item_of(number) for number in range(2 * ROUND_ITEMS + 5)]
        assert world.maildirs.deliver_many([Shipment(items)]) == [[Delivered(item.name) for item in items]]


class TestOneFlushForAll:
    def test_a_round_has_two_flushes_whatever_it_holds(self) -> None:
        world = SimWorld()
        deliver_each(world.maildirs, [item_of(90), item_of(91, BOB)])
        before = world.sim.system_syncs
        outcomes = deliver_each(world.maildirs, [item_of(number, (ALICE, BOB)[number % 2]) for number in range(50)])
        assert all(isinstance(outcome, Delivered) for outcome in outcomes)
        assert world.sim.system_syncs - before == 2

    def test_a_file_system_that_is_busy_with_others_is_left_alone_for_a_while(self) -> None:
        sim, now = SimFileSystem(), [0.0]

        def slow_sync(handle: int) -> None:
            SimFileSystem.sync_system(sim, handle)
            now[0] += SLOW_SECONDS

        sim.sync_system = slow_sync  # type: ignore[method-assign]  # as a backup would do
        maildirs = Maildirs(MailFolder("/mail"), sim, seconds=lambda: now[0])
        assert deliver_each(maildirs, [item_of(1)]) == [Delivered(item_of(1).name)]
        assert sim.system_syncs == 2, "a round goes on as it began"
        assert deliver_each(maildirs, [item_of(2)]) == [Delivered(item_of(2).name)]
        assert sim.system_syncs == 2
        now[0] += BY_FILE_SECONDS
        assert deliver_each(maildirs, [item_of(3)]) == [Delivered(item_of(3).name)]
        assert sim.system_syncs == 4


class TestRoot:
    """An unmounted mail root is left alone."""

    @pytest.mark.parametrize("exists", [True, False])
    def test_without_marker(self, real: RealWorld, exists: bool) -> None:
        (real.root / ".mailstack").unlink()
        if not exists:
            real.root.rmdir()
        outcomes = deliver_each(real.maildirs, [item_of(1), item_of(2, BOB, may_repeat=True)])
        assert [type(outcome) for outcome in outcomes] == [MailRootError] * 2
        assert real.root.exists() is exists
        assert not exists or list(real.root.iterdir()) == []

    def test_vanishes_and_comes_back(self, real: RealWorld) -> None:
        item = item_of(1)
        deliver_each(real.maildirs, [item])
        real.root.rename(real.root.with_name("elsewhere"))
        real.root.mkdir()
        (outcome,) = deliver_each(real.maildirs, [item_of(2)])
        assert isinstance(outcome, MailRootError)
        real.root.rmdir()
        real.root.with_name("elsewhere").rename(real.root)
        assert deliver_each(real.maildirs, [item_of(2)]) == [Delivered(item_of(2).name)]

    def test_root_may_be_a_link_of_the_operator(self, real: RealWorld) -> None:
        link = real.root.with_name("link")
        link.symlink_to(real.root)
        assert deliver_each(Maildirs(MailFolder(link)), [item_of(1)]) == [Delivered(item_of(1).name)]

    def test_root_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "mail").write_bytes(b"")
        (outcome,) = deliver_each(Maildirs(MailFolder(tmp_path / "mail")), [item_of(1)])
        assert isinstance(outcome, NotADirectoryError)

    @pytest.mark.parametrize("folder", ["example.org", ALICES, f"{ALICES}/new"])
    def test_a_folder_that_is_exchanged_while_running(self, real: RealWorld, folder: str) -> None:
        deliver_each(real.maildirs, [item_of(1)])
        (real.root / folder).rename(real.root.with_name("elsewhere"))
        assert deliver_each(real.maildirs, [item_of(2)]) == [Delivered(item_of(2).name)]
        assert list(real.files(f"{ALICES}/new")) == [item_of(2).name]

    def test_a_maildir_that_is_kept_open_is_looked_at_once(self, real: RealWorld) -> None:
        class Counting(OSFileSystem):
            calls: list[str] = []

            def open_folder(self, name: str, within: int) -> int:
                self.calls.append("open")
                return super().open_folder(name, within)

            def identity_at(self, path: str) -> tuple[int, int] | None:
                self.calls.append("look")
                return super().identity_at(path)

        maildirs = Maildirs(MailFolder(real.root), Counting())
        deliver_each(maildirs, [item_of(1)])
        Counting.calls.clear()
        deliver_each(maildirs, [item_of(2), item_of(3)])
        assert Counting.calls == ["look"]

    def test_account_folder_removed_while_running(self, real: RealWorld) -> None:
        deliver_each(real.maildirs, [item_of(1)])
        subprocess.run(["rm", "-r", real.root / "example.org"], check=True)
        assert deliver_each(real.maildirs, [item_of(2)]) == [Delivered(item_of(2).name)]

    def test_modes(self, real: RealWorld) -> None:
        item = item_of(1)
        before = os.umask(0)
        try:
            deliver_each(real.maildirs, [item])
        finally:
            os.umask(before)
        for path in (real.root / "example.org").rglob("*"):
            assert path.stat().st_mode & 0o7777 == (0o600 if path.is_file() else 0o700)
        assert (real.root / "example.org").stat().st_mode & 0o7777 == 0o700
        assert (real.root / ALICES / "cur").is_dir()


class TestHostileFolders:
    """Links and odd files on the way are refused, and nothing is written through them."""

    @pytest.mark.parametrize("part", ["example.org", ALICES, f"{ALICES}/tmp", f"{ALICES}/new", f"{ALICES}/cur"])
    @pytest.mark.parametrize("kind", ["link", "dangling", "file", "fifo"])
    def test_a_component_that_is_no_folder(self, real: RealWorld, part: str, kind: str) -> None:
        deliver_each(real.maildirs, [item_of(1)])
        place, outside = real.root / part, real.root.with_name("outside")
        place.rename(outside)
        before = sorted(outside.rglob("*"))
        if kind == "link":
            place.symlink_to(outside)
        elif kind == "dangling":
            place.symlink_to(real.root.with_name("nowhere"))
        elif kind == "file":
            place.write_bytes(b"")
        else:
            os.mkfifo(place)
        real.restart()
        outcomes = deliver_each(real.maildirs, [item_of(2), item_of(3, may_repeat=True)])
        assert all(isinstance(outcome, OSError) for outcome in outcomes), outcomes
        assert sorted(outside.rglob("*")) == before
        assert not real.root.with_name("nowhere").exists()

    def test_new_that_becomes_a_link_while_running(self, real: RealWorld) -> None:
        deliver_each(real.maildirs, [item_of(1)])
        outside = real.root.with_name("outside")
        outside.mkdir()
        (real.root / ALICES / "new").rename(real.root / ALICES / "old")
        (real.root / ALICES / "new").symlink_to(outside)
        (outcome,) = deliver_each(real.maildirs, [item_of(2)])
        assert isinstance(outcome, OSError)
        assert list(outside.iterdir()) == []
        assert list((real.root / ALICES / "tmp").iterdir()) == []

    @pytest.mark.parametrize("may_repeat", [False, True])
    def test_a_link_in_tmp_is_not_written_through(self, real: RealWorld, may_repeat: bool) -> None:
        deliver_each(real.maildirs, [item_of(1)])
        victim = real.root.with_name("victim")
        victim.write_bytes(b"precious")
        item = item_of(2, may_repeat=may_repeat)
        (real.root / ALICES / "tmp" / item.name).symlink_to(victim)
        (outcome,) = deliver_each(real.maildirs, [item])
        assert victim.read_bytes() == b"precious"
        assert isinstance(outcome, Delivered) is may_repeat

    def test_a_link_in_new_is_not_replaced(self, real: RealWorld) -> None:
        deliver_each(real.maildirs, [item_of(1)])
        item = item_of(2)
        (real.root / ALICES / "new" / item.name).symlink_to("/etc/passwd")
        (outcome,) = deliver_each(real.maildirs, [item])
        assert isinstance(outcome, FileExistsError)
        assert list((real.root / ALICES / "tmp").iterdir()) == []


class TestFullDisk:
    """A real file system that is too small."""

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[RealWorld]:
        place = tmp_path / "mail"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=128k,nr_inodes=16", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("cannot mount a tmpfs here")
        worlds = []
        try:
            worlds.append(RealWorld(tmp_path))
            yield worlds[0]
        finally:
            for world in worlds:
                world.maildirs.close()
            subprocess.run(["umount", str(place)], check=True)

    def test_no_space(self, small: RealWorld) -> None:
        items = [item_of(number, body=b"x" * 50_000) for number in range(4)]
        outcomes = deliver_each(small.maildirs, items)
        assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered, OSError, OSError]
        assert [outcome.errno for outcome in outcomes[2:] if isinstance(outcome, OSError)] == [errno.ENOSPC] * 2
        assert sorted(small.files()) == [f"{ALICES}/new/{item.name}" for item in items[:2]]
        (small.root / ALICES / "new" / items[0].name).unlink()
        assert deliver_each(small.maildirs, repeated(items[2:3])) == [Delivered(items[2].name)]

    def test_no_inodes(self, small: RealWorld) -> None:
        items = [item_of(number) for number in range(16)]
        outcomes = deliver_each(small.maildirs, items)
        failed = [outcome for outcome in outcomes if isinstance(outcome, OSError)]
        assert 0 < len(failed) < 16
        assert {outcome.errno for outcome in failed} == {errno.ENOSPC}
        assert len(small.files()) == 16 - len(failed)


class TestCleaning:
    """What crashes left behind goes when it is old."""

    def test_by_age(self, world: World) -> None:
        item = item_of(1)
        deliver_each(world.maildirs, [item])
        now = 100 * 86_400.0
        ages_seconds = {
            "young": 36 * 3_600,
            "old": 36 * 3_600 + 1,
            "future": -1_000_000,
            "young.deleted": 10 * 86_400,
            "old.deleted": 10 * 86_400 + 1,
        }
        for name, age_seconds in ages_seconds.items():
            world.put(f"{ALICES}/tmp/{name}", b"", now - age_seconds)
        world.put_folder(f"{ALICES}/tmp/folder")
        assert world.maildirs.clean_tmp(item.folder, now + 0.0) == 2
        assert sorted(world.files(f"{ALICES}/tmp")) == ["future", "young", "young.deleted"]
        assert list(world.files(f"{ALICES}/new")) == [item.name]

    def test_no_such_folder(self, world: World) -> None:
        assert world.maildirs.clean_tmp(item_of(1).folder, 0.0) == 0
        assert world.files() == {}

    def test_links_are_not_followed(self, real: RealWorld) -> None:
        item = item_of(1)
        deliver_each(real.maildirs, [item])
        outside = real.root.with_name("outside")
        outside.mkdir()
        (outside / "file").write_bytes(b"")
        (real.root / ALICES / "tmp").rmdir()
        (real.root / ALICES / "tmp").symlink_to(outside)
        with pytest.raises(OSError, match=r"ymbolic|directory"):
            real.maildirs.clean_tmp(item.folder, 1e12)
        assert (outside / "file").exists()
