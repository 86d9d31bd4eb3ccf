"""The spool's folder on disk, and the lock by which one process at a time has it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mailstack.spool.failures import SpoolError, describe


class SpoolFolder:
    """A folder with a lock, a database and a folder of contents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "spool.db"
        self.content = path / "content"
        self._lock: int | None = None

    def lock(self) -> None:
        """
        Make the folder if there is none, and take it.

        Raises:  SpoolError: it cannot be used, or another process has it.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # of a shard it is a spool, too
            for folder in (self.path, self.content):
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.path / "lock", flags, 0o600)
        except OSError as error:
            raise SpoolError(f"{self.path}: {describe(error)}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise SpoolError(f"{self.path}: another process is using this spool; stop it first") from error
        self._lock = lock

    def unlock(self) -> None:
        """Give the folder back."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
