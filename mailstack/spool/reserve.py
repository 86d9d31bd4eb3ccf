"""
The reserve: some room on the disk that is given up when the disk is full, so that what makes room can still be done.

To delete a message from a database, too, something must be written. New mail is refused long before the disk is full, but
others may fill it, and then nothing could be done without this.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

RESERVE_OCTETS: Final = 4_194_304


class Reserve:
    """A file that takes room, and has nothing in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_there = False

    def make(self) -> None:
        """Take the room, if it is there; where it is not we are no worse off than without."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_OCTETS)
            self.is_there = True
        except OSError:  # half of it would be in the way
            with suppress(OSError):
                self._path.unlink()
        finally:
            os.close(descriptor)

    def give_up(self) -> bool:
        """Give the room back, and say whether there was any."""
        self.is_there = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
