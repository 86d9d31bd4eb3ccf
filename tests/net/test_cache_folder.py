from __future__ import annotations

import os
from pathlib import Path

from mailstack.net.cache_folder import CacheFolder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "kept")
    for key in ("example.test", "../../etc/passwd", "a" * 1_000, ""):
        assert folder.read(key) is None
        folder.write(key, b"one")
        folder.write(key, key.encode())
        assert CacheFolder(tmp_path / "kept").read(key) == key.encode()
    assert {path.parent for path in tmp_path.rglob("*.kept")} == {tmp_path / "kept"}
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_the_oldest_go(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, most_files=3)
    for number in range(6):
        folder.write(str(number), b"x")
        os.utime(max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime), (number, number))
    CacheFolder(tmp_path, most_files=3).write("6", b"x")
    assert [folder.read(str(number)) for number in range(7)] == [None, None, None, None, b"x", b"x", b"x"]


def test_so_do_those_above_so_many_octets(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, most_octets=250)
    for number in range(4):
        folder.write(str(number), b"x" * 100)
        os.utime(max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime), (number, number))
    CacheFolder(tmp_path, most_octets=250).write("4", b"x" * 50)
    assert [len(folder.read(str(number)) or b"") for number in range(5)] == [0, 0, 100, 100, 50]


def test_a_folder_that_cannot_be_used_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = CacheFolder(tmp_path / "file")
    folder.write("a", b"x")
    assert folder.read("a") is None
