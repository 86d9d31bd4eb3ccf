"""Which files this process has open: those of one folder, since what other tests have left is closed at any time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def open_below(folder: Path) -> int:
    """Count the descriptors of files, and of folders, below a folder; also of those that were removed."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one by which this is read
            found += each.readlink().is_relative_to(folder)
    return found
