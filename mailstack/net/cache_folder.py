"""
A folder that keeps small texts for a time, for all processes of a server: what is lost of it can be had again.

A file for each key, written whole or not at all; its name is a digest, since keys come from strangers. What is above the
bounds, of files and of octets, goes, the oldest first.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

FILE_OCTETS: Final = 262_144
_SUFFIX: Final = ".kept"


class CacheFolder:
    """Reads and writes, from any thread; every method blocks, and none raises: a cache that fails is empty."""

    def __init__(self, folder: Path, most_files: int = 10_000, most_octets: int = 67_108_864) -> None:
        self._folder = folder
        self._most_files = most_files
        self._most_octets = most_octets
        self._written = 0
        self._lock = threading.Lock()

    def read(self, key: str) -> bytes | None:
        """Return what is kept under a key."""
        try:
            with self._path(key).open("rb") as file:
                return file.read(FILE_OCTETS)
        except OSError:
            return None

    def write(self, key: str, octets: bytes) -> None:
        """Keep octets under a key, in the place of what was there."""
        with self._lock:
            self._write(key, octets)

    def _write(self, key: str, octets: bytes) -> None:
        path = self._path(key)
        new = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with new.open("wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            return
        if self._written % 100 == 0:
            self._thin_out()
        self._written += 1

    def _path(self, key: str) -> Path:
        return self._folder / (hashlib.sha256(key.encode()).hexdigest()[:40] + _SUFFIX)

    def _thin_out(self) -> None:
        with suppress(OSError):  # another process may do the same
            found = [
                (status.st_mtime, entry.path, status.st_size) for entry in os.scandir(self._folder) if (status := entry.stat())
            ]
            octets = 0
            for number, (_, path, size) in enumerate(sorted(found, reverse=True)):
                octets += size
                if number >= self._most_files or octets > self._most_octets:
                    Path(path).unlink(missing_ok=True)
