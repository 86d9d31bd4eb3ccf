"""The file system: one contract for the real one and for that in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from sim_file_system import SimFileSystem

from mailstack.store import durable
from mailstack.store.durable import FileSystem, OSFileSystem


@pytest.fixture(params=["real", "sim"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, str]:
    files: FileSystem = OSFileSystem() if request.param == "real" else SimFileSystem(str(tmp_path), marker=None)
    return files, str(tmp_path)


Place = tuple[FileSystem, str]


class TestContract:
    def test_make_write_flush_link_unlink(self, place: Place) -> None:
        files, path = place
        root = files.open_root(path)
        for name in ("a", "b"):
            files.make_folder(name, root)
        source, target = files.open_folder("a", root), files.open_folder("b", root)
        file = files.create("file", source)
        files.write(file, b"one")
        files.write(file, b"two")
        assert files.sync_files([file]) == [None]
        files.link("file", source, target)
        files.unlink("file", source)
        files.sync_folder(target)
        assert files.names(source) == []
        assert files.names(target) == ["file"]
        assert files.exists("file", target)
        assert not files.exists("file", source)
        assert isinstance(files.modified_at("file", target), float)
        for handle in (root, source, target, file):
            files.close(handle)

    def test_flushes_many(self, place: Place) -> None:
        files, path = place
        root = files.open_root(path)
        handles = [files.create(str(number), root) for number in range(5)]
        assert files.sync_files(handles) == [None] * 5
        assert files.sync_files([]) == []

    def test_move(self, place: Place) -> None:
        files, path = place
        root = files.open_root(path)
        files.make_folder("folder", root)
        folder = files.open_folder("folder", root)
        files.close(files.create("file", root))
        files.move("file", root, folder)
        assert files.names(root) == ["folder"]
        assert files.names(folder) == ["file"]
        files.create("file", root)
        with pytest.raises(FileExistsError):
            files.move("file", root, folder)
        assert sorted(files.names(root)) == ["file", "folder"]
        with pytest.raises(FileNotFoundError):
            files.move("nowhere", root, folder)

    def test_flushes_a_whole_system(self, place: Place) -> None:
        files, path = place
        root = files.open_root(path)
        files.make_folder("folder", root)
        folder = files.open_folder("folder", root)
        assert files.identity(root)[0] == files.identity(folder)[0]
        assert files.identity(root) != files.identity(folder) == files.identity_at(f"{path}/folder")
        assert files.identity_at(f"{path}/nowhere") is None
        files.close(files.create("file", root))
        assert files.can_sync_system
        files.sync_system(root)

    def test_names_that_exist_are_refused(self, place: Place) -> None:
        files, path = place
        root = files.open_root(path)
        files.make_folder("folder", root)
        folder = files.open_folder("folder", root)
        files.create("file", root)
        files.create("file", folder)
        with pytest.raises(FileExistsError):
            files.create("file", root)
        with pytest.raises(FileExistsError):
            files.make_folder("file", root)
        with pytest.raises(FileExistsError):
            files.link("file", root, folder)

    def test_names_that_do_not_exist(self, place: Place) -> None:
        files, path = place
        with pytest.raises(FileNotFoundError):
            files.open_root(path + "/nowhere")
        root = files.open_root(path)
        with pytest.raises(FileNotFoundError):
            files.open_folder("nowhere", root)
        with pytest.raises(FileNotFoundError):
            files.unlink("nowhere", root)
        with pytest.raises(FileNotFoundError):
            files.modified_at("nowhere", root)

    def test_a_file_is_no_folder(self, place: Place) -> None:
        files, path = place
        root = files.open_root(path)
        files.create("file", root)
        with pytest.raises(NotADirectoryError):
            files.open_folder("file", root)

    def test_a_folder_is_not_unlinked(self, place: Place) -> None:
        files, path = place
        root = files.open_root(path)
        files.make_folder("folder", root)
        with pytest.raises(IsADirectoryError):
            files.unlink("folder", root)


class TestReal:
    """What only the real one does."""

    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        files = OSFileSystem()
        root = files.open_root(str(tmp_path))
        files.make_folder("folder", root)
        (tmp_path / "link").symlink_to("folder")
        (tmp_path / "dangling").symlink_to("nowhere")
        with pytest.raises(OSError, match=r"ymbolic|directory"):
            files.open_folder("link", root)
        with pytest.raises(FileExistsError):
            files.create("dangling", root)
        assert files.exists("dangling", root)
        files.link("dangling", root, files.open_folder("folder", root))
        assert (tmp_path / "folder" / "dangling").is_symlink()

    def test_moves_by_link_where_nothing_else_is_to_be_had(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(durable, "_LIBC", object())
        files = OSFileSystem()
        root = files.open_root(str(tmp_path))
        files.make_folder("folder", root)
        folder = files.open_folder("folder", root)
        for _ in range(2):
            files.close(files.create("file", root))
            if not files.names(folder):
                files.move("file", root, folder)
        assert files.names(folder) == ["file"]
        with pytest.raises(FileExistsError):
            files.move("file", root, folder)

    def test_a_flush_of_nothing_is_an_error(self) -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            OSFileSystem().sync_system(-1)

    def test_descriptors_do_not_reach_other_programs(self, tmp_path: Path) -> None:
        files = OSFileSystem()
        root = files.open_root(str(tmp_path))
        assert not os.get_inheritable(root)
        assert not os.get_inheritable(files.create("file", root))

    def test_a_disk_that_takes_octets_in_parts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(durable.os, "write", lambda handle, octets: write(handle, bytes(octets[:3])))
        files = OSFileSystem()
        file = files.create("file", files.open_root(str(tmp_path)))
        files.write(file, b"0123456789")
        files.write(file, b"")
        assert (tmp_path / "file").read_bytes() == b"0123456789"

    def test_a_disk_that_is_full_in_the_middle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write, left = os.write, [3]

        def write_some(handle: int, octets: Any) -> int:
            if not left:
                raise OSError(errno.ENOSPC, "full")
            return write(handle, bytes(octets[: left.pop()]))

        monkeypatch.setattr(durable.os, "write", write_some)
        files = OSFileSystem()
        file = files.create("file", files.open_root(str(tmp_path)))
        with pytest.raises(OSError, match="full"):
            files.write(file, b"0123456789")

    def test_each_file_has_its_own_answer_and_one_flush(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = OSFileSystem()
        root = files.open_root(str(tmp_path))
        handles = [files.create(str(number), root) for number in range(3)]
        flushed = []

        def fsync(handle: int) -> None:
            flushed.append(handle)
            if handle == handles[1]:
                raise OSError(errno.EIO, "lost")

        monkeypatch.setattr(durable.os, "fsync", fsync)
        answers = files.sync_files(handles)
        assert flushed == handles
        assert [answers[0], answers[2]] == [None, None]
        assert isinstance(answers[1], OSError)
        assert answers[1].errno == errno.EIO

    @pytest.mark.parametrize("fate", ["refused", "missing"])
    def test_the_wish_to_start_early_is_only_a_wish(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str) -> None:
        def refuse(*_: int) -> None:
            raise OSError(errno.EINVAL, "not here")

        if fate == "refused":
            monkeypatch.setattr(durable.os, "posix_fadvise", refuse)
        else:
            monkeypatch.delattr(durable.os, "posix_fadvise")
        files = OSFileSystem()
        root = files.open_root(str(tmp_path))
        assert files.sync_files([files.create(name, root) for name in "ab"]) == [None, None]

    def test_closing_never_raises(self, tmp_path: Path) -> None:
        files = OSFileSystem()
        handle = files.open_root(str(tmp_path))
        files.close(handle)
        files.close(handle)
