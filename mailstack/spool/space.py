"""Free space: whether the disk has room for one more message, in octets and in inodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mailstack import events
from mailstack.mail.reply import LOCAL_ERROR, NO_SPACE, Reply
from mailstack.spool.ports import Clock

CACHED_SECONDS: Final = 1.0


class FreeSpace:
    """
    Knows the free space, at most CACHED_SECONDS old.

    Shape:   what is kept free is the room that the ledger and deliveries need to finish what was accepted.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        min_free_octets: int,
        min_free_inodes: int,
        statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._path = path
        self._clock = clock
        self._min_free_octets = min_free_octets
        self._min_free_inodes = min_free_inodes
        self._statvfs = statvfs
        self._looked_at: float | None = None
        self._octets = 0
        self._has_inodes = True
        self._failed = False
        self._is_short = False

    def refusal(self, octets: int) -> Reply | None:
        """Return the reply for a message of that length when there is no room for it, else None."""
        now = self._clock.seconds()
        if self._looked_at is None or not 0 <= now - self._looked_at <= CACHED_SECONDS:
            self._look()
            self._looked_at = now
        if self._failed:
            return LOCAL_ERROR
        if not self._has_inodes or self._octets - octets < self._min_free_octets:
            return NO_SPACE
        return None

    def _look(self) -> None:
        try:
            found = self._statvfs(self._path)
        except OSError:
            self._failed = True
            return
        self._failed = False
        self._octets = found.f_bavail * found.f_frsize
        # Some file systems make inodes as needed and say that they have 0 of them.
        self._has_inodes = not found.f_files or found.f_favail >= self._min_free_inodes
        is_short = not self._has_inodes or self._octets < self._min_free_octets
        if is_short and not self._is_short:
            events.no_space(self._path.name, self._octets, self._min_free_octets)
        elif self._is_short and not is_short:
            events.space_again(self._path.name, self._octets)
        self._is_short = is_short
