"""Maildrops on real folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_below
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.mail.crlf import with_crlf
from mailstack.mail.maildrop import MaildropLocked
from mailstack.store.folders import prepare_root
from mailstack.store.maildrop import SMALL_OCTETS, Maildrop, MessageReader
from mailstack.store.names import delivery_key, delivery_name

NOW = 1_800_000_000.0
ENTRY = "0123456789abc"


class FaultyDisk:
    """The module `os`, but for the calls that a test makes fail; records all calls."""

    def __init__(self) -> None:
        self.faults: dict[str, Callable[..., BaseException | None]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.before: dict[str, Callable[..., None]] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if name in self.before:
                self.before[name](*arguments)
            fault = self.faults.get(name, lambda *_: None)(*arguments)
            if fault is not None:
                raise fault
            return real(*arguments)

        return call


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    for folder in ("new", "cur", "tmp"):
        (tmp_path / "box" / folder).mkdir(parents=True)
    return tmp_path / "box"


@pytest.fixture
def opened(maildir: Path) -> Iterator[Callable[..., Maildrop]]:
    drops: list[Maildrop] = []

    def open_(**more: Any) -> Maildrop:
        for drop in drops:
            drop.close()
        drops.append(Maildrop.open(maildir, **({"now": lambda: NOW} | more)))
        return drops[-1]

    yield open_
    for drop in drops:
        drop.close()


def put(maildir: Path, name: str, content: bytes, folder: str = "new", mtime: float = NOW - 86_400) -> Path:
    path = maildir / folder / name
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))
    return path


def ours(maildir: Path, content: bytes, ordinal: int = 0, **more: Any) -> Path:
    return put(maildir, delivery_name(ENTRY, ordinal, 1_700_000_000.5, "mx.test", len(content)), content, **more)


def whole(drop: Maildrop, index: int) -> bytes | None:
    found = drop.read(index)
    if isinstance(found, MessageReader):
        return b"".join(iter(found.read, b""))
    return found


def uids(drop: Maildrop) -> list[str]:
    return [uid.decode() for _, uid in drop.listing]


FORMS: dict[str, bytes] = {
    "lf": b"Subject: a\n\nb\nc\n",
    "crlf": b"Subject: a\r\n\r\nb\r\n",
    "mixed": b"Subject: a\r\n\nb\r\nc\n",
    "bare cr": b"Subject: a\n\nb\rc\r\n",
    "cr at end": b"Subject: a\n\nb\r",
    "cr cr lf": b"a\r\r\n\n",
    "nul": b"Subject: a\n\n\x00\x00\n",
    "no final newline": b"Subject: a\n\nb",
    "no final newline, crlf": b"Subject: a\r\n\r\nb",
    "empty": b"",
    "no body": b"Subject: a\n",
    "no header": b"\nbody\n",
    "first octet a dot": b".Subject: a\n\nb\n",
    "lone dot": b"a: b\n\n.\n",
    "only newline": b"\n",
    "8-bit": bytes(range(256)) + b"\n",
    "300 kB line": b"a: b\n\n" + b"x" * 300_000 + b"\n",
    "300 kB line without end": b"a: b\n\n" + b"x" * 300_000,
} | {
    f"{what} at {border}{shift:+d}": b"a" * (border + shift) + octets
    for border in (4096, 8192, 16384, 65536, 65537, 262144)
    for shift in (-3, -2, -1, 0, 1)
    for what, octets in {"dot": b"\n.\nx\n", "crlf dot": b"\r\n.\r\nx", "cr": b"\rx\n", "final lf": b"\n"}.items()
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_another_program_is_sent_with_crlf_and_as_long_as_listed(
    form: str, maildir: Path, opened: Callable[..., Maildrop]
) -> None:
    put(maildir, "1700000000.V8I9.host", FORMS[form])
    drop = opened()
    sent = whole(drop, 0)
    assert sent == with_crlf(FORMS[form])
    assert drop.listing[0][0] == len(sent or b"")
    assert sent == b"" or (sent or b"").endswith(b"\r\n")


@pytest.mark.parametrize("octets", [0, 2, 100, SMALL_OCTETS - 1, SMALL_OCTETS, SMALL_OCTETS + 1, 300_000, 1_000_000])
def test_our_own_files_are_sent_as_they_are(octets: int, maildir: Path, opened: Callable[..., Maildrop]) -> None:
    content = os.urandom(octets // 2).hex().encode()
    content = content[:-2] + b"\r\n" if content else b""
    ours(maildir, content)
    drop = opened()
    assert drop.listing[0][0] == len(content)
    assert whole(drop, 0) == content
    assert isinstance(drop.read(0), MessageReader) == (len(content) > SMALL_OCTETS)


def test_a_file_in_our_name_that_is_not_whole_still_ends_with_crlf(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    for ordinal, size in enumerate((4_000, 200_000)):
        ours(maildir, b"x" * size + b"\r\n", ordinal=ordinal).write_bytes(b"x" * (size // 2) + b"\nx")
    drop = opened()
    for index, size in enumerate((4_000, 200_000)):
        assert whole(drop, index) == b"x" * (size // 2) + b"\r\nx\r\n"


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b".", b"abc", b"x" * 70_000]), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_file_is_sent_as_long_as_listed(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    maildir = tmp_path_factory.mktemp("box")
    (maildir / "new").mkdir()
    put(maildir, "1.a.b", b"".join(parts))
    drop = Maildrop.open(maildir, now=lambda: NOW)
    try:
        sent = whole(drop, 0)
        assert sent == with_crlf(b"".join(parts))
        assert drop.listing[0][0] == len(sent or b"")
    finally:
        drop.close()


def test_sizes_come_from_the_names_without_looking_at_the_files(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    ours(maildir, b"a: b\r\n")
    put(maildir, "1700000001.M1P2.host,S=5,W=77:2,S", b"a: b\n", "cur")
    disk = FaultyDisk()
    assert [octets for octets, _ in opened(disk=disk).listing] == [6, 77]
    assert {call for call, _ in disk.calls} == {"open", "scandir", "lstat"}
    assert {arguments[0] for call, arguments in disk.calls if call == "lstat"} == {f"{maildir}/new", f"{maildir}/cur"}
    assert [arguments[0] for call, arguments in disk.calls if call == "open"] == [f"{maildir}/.pop3.lock"]


def test_the_size_of_anothers_file_without_w_is_found_by_reading(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1700000001.M1P2.host,S=5", b"a: b\n")
    assert opened().listing[0][0] == 6


def test_order_is_that_of_delivery(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    names = ["900.z.h", "1700000000.M9P1.h", "1700000000.M10P1.h", "1700000000.M10P2.h", "1700000001.A.h", "20000000000.b.h"]
    for number, name in enumerate(reversed(names)):
        put(maildir, name + (":2,S" if number % 2 else ""), b"x\n", "cur" if number % 2 else "new")
    put(maildir, "zzz", b"x\n")
    assert uids(opened()) == ["zzz", *names]


def test_what_is_no_message_is_not_listed(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1.a.b", b"x\n")
    put(maildir, ".hidden", b"x\n")
    put(maildir, "1.a\nb.c", b"x\n")
    put(maildir, "1.a\x7fb.c", b"x\n")
    put(maildir, "1.tmp.b", b"x\n", "tmp")
    (maildir / "new" / "1.link.b").symlink_to("/etc/passwd")
    (maildir / "new" / "1.dir.b").mkdir()
    os.mkfifo(maildir / "new" / "1.fifo.b")
    assert uids(opened()) == ["1.a.b"]


def test_a_message_swapped_for_a_symlink_is_not_followed(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    path = ours(maildir, b"a: b\r\n")
    drop = opened()
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        drop.read(0)


def test_unique_ids_survive_flags_folders_and_sessions(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    path = ours(maildir, b"a: b\r\n")
    odd = put(maildir, "1.ü y.h", b"x\n")
    long = put(maildir, "1." + "l" * 100, b"x\n")
    raw = Path(os.fsdecode(os.fsencode(maildir) + b"/new/2.\xff.h"))
    raw.write_bytes(b"x\n")
    before = uids(opened())
    assert delivery_key(path.name) in before
    for file in (path, odd, long, raw):
        file.rename(maildir / "cur" / f"{file.name}:2,FS")
    after = uids(opened())
    assert before == after
    assert len(set(after)) == 4
    assert all(1 <= len(uid) <= 70 and all("!" <= c <= "~" for c in uid) for uid in after)


def test_a_base_of_seventy_characters_is_the_id_and_one_of_71_is_not(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1." + "a" * 68, b"")
    put(maildir, "2." + "a" * 69, b"")
    first, second = uids(opened())
    assert first == "1." + "a" * 68
    assert len(second) == 32


def test_twins_have_ids_of_their_own_that_flags_do_not_change(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1.a.b", b"first\n", "new")
    put(maildir, "1.a.b:2,S", b"the second\n", "cur")
    drop = opened()
    before = {uid: whole(drop, index) for index, uid in enumerate(uids(drop))}
    assert len(before) == 2
    assert "1.a.b" in before
    (maildir / "cur" / "1.a.b:2,S").rename(maildir / "cur" / "1.a.b:2,FS")
    (maildir / "new" / "1.a.b").rename(maildir / "cur" / "1.a.b:2,")
    assert {uid: whole(drop, index) for index, uid in enumerate(uids(drop))} == before
    again = opened()
    assert {uid: whole(again, index) for index, uid in enumerate(uids(again))} == before


def test_a_twin_is_never_taken_for_the_other(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1.a.b", b"first\n", "new")
    put(maildir, "1.a.b:2,S", b"the second\n", "cur")
    drop = opened()
    lost = next(index for index in (0, 1) if whole(drop, index) == b"first\r\n")
    (maildir / "new" / "1.a.b").unlink()
    assert whole(drop, lost) is None
    assert drop.commit({lost}) == 0
    assert (maildir / "cur" / "1.a.b:2,S").exists()


def test_a_file_moved_while_the_folders_are_listed_is_one_message(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    path = put(maildir, "1.a.b", b"x\n")
    disk = FaultyDisk()

    def move(folder: str) -> None:
        if folder.endswith("/cur") and path.exists():
            path.rename(maildir / "cur" / "1.a.b:2,S")

    disk.before["scandir"] = move
    drop = opened(disk=disk)
    assert uids(drop) == ["1.a.b"]
    assert whole(drop, 0) == b"x\r\n"


def test_a_file_that_vanishes_before_it_is_measured_is_not_listed(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    path = put(maildir, "1.a.b", b"x\n")
    put(maildir, "2.a.b", b"x\n")
    disk = FaultyDisk()
    disk.before["open"] = lambda name, *_: path.unlink(missing_ok=True) if name == str(path) else None
    assert uids(opened(disk=disk)) == ["2.a.b"]


def test_an_unreadable_file_is_listed_and_fails_alone(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1.a.b", b"x\n")
    put(maildir, "2.a.b", b"y\n")
    disk = FaultyDisk()
    disk.faults["open"] = lambda name, *_: PermissionError(errno.EACCES, "no") if name.endswith("/1.a.b") else None
    drop = opened(disk=disk)
    assert list(drop.listing) == [(0, b"1.a.b"), (3, b"2.a.b")]
    with pytest.raises(PermissionError):
        drop.read(0)
    assert whole(drop, 1) == b"y\r\n"


@pytest.mark.parametrize("fault", ["pread", "fstat"])
def test_a_failing_read_raises_and_leaks_nothing(fault: str, maildir: Path, opened: Callable[..., Maildrop]) -> None:
    ours(maildir, b"x" * 100_000 + b"\r\n")
    disk = FaultyDisk()
    drop = opened(disk=disk)
    disk.faults[fault] = lambda *_: OSError(errno.EIO, "bad disk")
    before = open_below(maildir)
    with pytest.raises(OSError, match="bad disk"):
        drop.read(0)
    assert open_below(maildir) == before


def test_a_reader_that_is_closed_reads_no_more(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    ours(maildir, b"x" * 100_000 + b"\r\n")
    drop = opened()
    before = open_below(maildir)
    reader = drop.read(0)
    assert isinstance(reader, MessageReader)
    assert reader.read()
    reader.close()
    reader.close()
    assert reader.read() == b""
    assert open_below(maildir) == before


def test_new_mail_is_not_seen_before_the_next_session(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "2.a.b", b"x\n")
    drop = opened()
    put(maildir, "1.a.b", b"y\n")
    assert uids(drop) == ["2.a.b"]
    assert drop.commit({0}) == 0
    assert uids(opened()) == ["1.a.b"]


def test_a_renamed_message_is_found_again(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    first, second = put(maildir, "1.a.b", b"x\n"), ours(maildir, b"y\r\n")
    drop = opened()
    first.rename(maildir / "cur" / "1.a.b:2,S")
    second.rename(maildir / "cur" / f"{delivery_key(second.name)}:2,RS")
    assert whole(drop, 0) == b"x\r\n"
    assert whole(drop, 1) == b"y\r\n"
    (maildir / "cur" / "1.a.b:2,S").rename(maildir / "cur" / "1.a.b:2,FS")
    assert drop.commit({0}) == 0
    assert not list((maildir / "cur").glob("1.a.b*"))


def test_a_vanished_message_fails_alone_and_costs_no_scan_each_time(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    paths = [put(maildir, f"{number}.a.b", b"x\n") for number in range(1, 6)]
    disk = FaultyDisk()
    drop = opened(disk=disk)
    for path in paths[:4]:
        path.unlink()
    assert [whole(drop, index) for index in range(5)] == [None] * 4 + [b"x\r\n"]
    scans = sum(1 for call, _ in disk.calls if call == "scandir")
    assert scans <= 2 + 6
    assert drop.commit({0, 1, 4}) == 0


def test_commit_removes_what_it_is_told_and_nothing_else(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    for number in range(1, 5):
        put(maildir, f"{number}.a.b", b"x\n", "new" if number % 2 else "cur")
    disk = FaultyDisk()
    drop = opened(disk=disk)
    assert drop.commit({0, 3}) == 0
    assert [call for call, _ in disk.calls][-2:] == ["fsync", "close"]
    assert uids(opened()) == ["2.a.b", "3.a.b"]
    flushed = [arguments[0] for call, arguments in disk.calls if call == "open" and arguments[1] & os.O_DIRECTORY]
    assert sorted(flushed) == [f"{maildir}/cur", f"{maildir}/new"]


def test_closing_without_commit_removes_nothing(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1.a.b", b"x\n")
    opened().close()
    assert uids(opened()) == ["1.a.b"]


def test_commit_of_nothing_touches_nothing(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1.a.b", b"x\n")
    disk = FaultyDisk()
    drop = opened(disk=disk)
    disk.calls.clear()
    assert drop.commit(set()) == 0
    assert disk.calls == []


def test_a_message_that_cannot_be_removed_is_counted_and_the_others_go(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    for number in range(1, 4):
        put(maildir, f"{number}.a.b", b"x\n")
    disk = FaultyDisk()
    disk.faults["unlink"] = lambda name: OSError(errno.EPERM, "immutable") if "/2.a.b" in name else None
    drop = opened(disk=disk)
    assert drop.commit({0, 1, 2}) == 1
    assert uids(opened()) == ["2.a.b"]


@pytest.mark.parametrize("fault", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_disk_that_removes_nothing_fails_for_all(fault: int, maildir: Path, opened: Callable[..., Maildrop]) -> None:
    put(maildir, "1.a.b", b"x\n")
    ours(maildir, b"x\r\n", mtime=NOW)
    disk = FaultyDisk()
    disk.faults["unlink"] = disk.faults["rename"] = lambda *_: OSError(fault, "no")
    assert opened(disk=disk).commit({0, 1}) == 2
    assert len(opened().listing) == 2


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_folder_that_cannot_be_flushed_fails_for_what_was_in_it(
    call: str, maildir: Path, opened: Callable[..., Maildrop]
) -> None:
    put(maildir, "1.a.b", b"x\n")
    put(maildir, "2.a.b", b"x\n", "cur")
    put(maildir, "3.a.b", b"x\n", "cur")
    disk = FaultyDisk()
    drop = opened(disk=disk)
    if call == "open":
        disk.faults["open"] = lambda name, *_: OSError(errno.EMFILE, "no") if name.endswith("/cur") else None
    else:
        disk.faults["fsync"] = lambda fd: (
            OSError(errno.EIO, "no") if Path(f"/proc/self/fd/{fd}").readlink().name == "cur" else None
        )
    assert drop.commit({0, 1, 2}) == 2


def test_a_message_moved_and_then_immovable_is_counted(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    path = put(maildir, "1.a.b", b"x\n")
    disk = FaultyDisk()
    drop = opened(disk=disk)
    path.rename(maildir / "cur" / "1.a.b:2,S")
    disk.faults["unlink"] = lambda name: OSError(errno.EPERM, "immutable") if name.endswith(":2,S") else None
    assert drop.commit({0}) == 1


def test_a_young_delivery_of_ours_leaves_a_tombstone(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    path = ours(maildir, b"a secret\r\n", mtime=NOW - 3_599)
    disk = FaultyDisk()
    assert opened(disk=disk).commit({0}) == 0
    tombstone = maildir / "tmp" / f"{delivery_key(path.name)}.deleted"
    assert tombstone.read_bytes() == b""
    assert not path.exists()
    flushed = [arguments[0] for call, arguments in disk.calls if call == "open" and arguments[1] & os.O_DIRECTORY]
    assert sorted(flushed) == [f"{maildir}/new", f"{maildir}/tmp"]
    assert list(opened().listing) == []


def test_an_old_delivery_and_anothers_file_leave_none(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    ours(maildir, b"x\r\n", mtime=NOW - 3_600)
    put(maildir, "1.a.b", b"x\n", mtime=NOW)
    assert opened().commit({0, 1}) == 0
    assert list((maildir / "tmp").iterdir()) == []


def test_without_a_tmp_folder_the_young_one_is_just_removed(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    ours(maildir, b"x\r\n", mtime=NOW)
    (maildir / "tmp").rmdir()
    assert opened().commit({0}) == 0
    assert list(opened().listing) == []


def test_a_tombstone_that_keeps_its_length_is_one_all_the_same(maildir: Path, opened: Callable[..., Maildrop]) -> None:
    path = ours(maildir, b"x\r\n", mtime=NOW)
    disk = FaultyDisk()
    disk.faults["truncate"] = lambda *_: OSError(errno.EIO, "no")
    assert opened(disk=disk).commit({0}) == 0
    assert (maildir / "tmp" / f"{delivery_key(path.name)}.deleted").exists()


def test_one_maildrop_is_open_once(maildir: Path) -> None:
    drop = Maildrop.open(maildir, now=lambda: NOW)
    with pytest.raises(MaildropLocked):
        Maildrop.open(maildir, now=lambda: NOW)
    drop.close()
    drop.close()
    Maildrop.open(maildir, now=lambda: NOW).close()
    assert (maildir / ".pop3.lock").stat().st_mode & 0o777 == 0o600


def test_the_lock_holds_across_processes_and_ends_with_its_owner(maildir: Path) -> None:
    program = (
        "import sys, time; from mailstack.store.maildrop import Maildrop; "
        "drop = Maildrop.open(sys.argv[1], now=time.time); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(maildir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(MaildropLocked):
            Maildrop.open(maildir, now=lambda: NOW)
    finally:
        other.kill()
        other.communicate()
    Maildrop.open(maildir, now=lambda: NOW).close()


def test_a_lock_that_is_a_symlink_is_refused(maildir: Path, tmp_path: Path) -> None:
    (maildir / ".pop3.lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        Maildrop.open(maildir, now=lambda: NOW)
    assert not (tmp_path / "target").exists()


def test_a_failing_open_gives_the_lock_back(maildir: Path) -> None:
    disk = FaultyDisk()
    disk.faults["scandir"] = lambda *_: PermissionError(errno.EACCES, "no")
    with pytest.raises(PermissionError):
        Maildrop.open(maildir, now=lambda: NOW, disk=disk)
    Maildrop.open(maildir, now=lambda: NOW).close()


def test_a_maildir_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    drop = Maildrop.open(tmp_path / "nobody", now=lambda: NOW)
    assert list(drop.listing) == []
    assert drop.commit(set()) == 0
    drop.close()
    assert not (tmp_path / "nobody").exists()


def test_when_all_maildirs_are_not_there_none_looks_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Maildrop.open(tmp_path / "not mounted" / "nobody", now=lambda: NOW)


def test_before_the_first_mail_of_a_domain_its_maildrops_are_empty(tmp_path: Path) -> None:
    prepare_root(tmp_path / "mail")
    drop = Maildrop.open(tmp_path / "mail" / "example.org" / "nobody", now=lambda: NOW)
    assert list(drop.listing) == []
    drop.close()


def test_a_maildir_without_cur_is_a_maildrop(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    put(tmp_path, "1.a.b", b"x\n")
    drop = Maildrop.open(tmp_path, now=lambda: NOW)
    assert drop.commit({0}) == 0
    drop.close()


def test_as_many_messages_open_as_make_a_hundred_thousand_in_two_seconds(
    maildir: Path, opened: Callable[..., Maildrop]
) -> None:
    """A quarter of both: what is not linear takes more than its part."""
    new = os.open(maildir / "new", os.O_RDONLY)
    for number in range(25_000):
        os.close(
            os.open(delivery_name(f"{number:013d}", 0, 1_700_000_000 + number, "mx.test", 4096), os.O_CREAT, 0o600, dir_fd=new)
        )
    os.close(new)
    times = []
    for _ in range(2):  # the better of two, and the processor's time: the machine has other things to do
        started = time.process_time()
        drop = opened()
        times.append(time.process_time() - started)
    assert len(drop.listing) == 25_000
    assert drop.listing[24_999] == (4096, b"1700024999.M0E0000000024999R0.mx.test")
    assert min(times) < 0.5
