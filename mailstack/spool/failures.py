"""Failures of the disk, and the reply that each gives."""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

from mailstack.mail.reply import LOCAL_ERROR, NO_SPACE
from mailstack.mail.verdict import Refuse

DAMAGED_ADVICE: Final = "it may hold accepted mail: restore it, or try `.recover` of sqlite3; without it the spool is empty"
FOREIGN_ADVICE: Final = "move it away, or name another folder"
VERSION_ADVICE: Final = "start the mailstack that wrote it"

_FULL_ERRNOS: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class SpoolError(Exception):
    """The spool cannot be opened; the message names the folder and says why."""


class StorageError(Exception):
    """A batch could not be written; nothing of it is on disk."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(describe(cause))
        self.is_full = is_full(cause)


def sqlite_code(error: BaseException) -> int:
    """Return the primary result code of an SQLite error, or 0."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF if isinstance(error, sqlite3.Error) else 0


def is_full(error: BaseException) -> bool:
    """Say whether the disk, or a quota on it, is full."""
    if isinstance(error, StorageError):
        return error.is_full
    if isinstance(error, OSError):
        return error.errno in _FULL_ERRNOS
    return sqlite_code(error) == sqlite3.SQLITE_FULL


def describe(error: BaseException) -> str:
    """Say for the log what happened."""
    name = getattr(error, "sqlite_errorname", None)
    return f"{name or type(error).__name__}: {error}"


def advice(error: BaseException) -> str:
    """Say what the operator can do about a spool that cannot be opened, or nothing."""
    if sqlite_code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return f"; {DAMAGED_ADVICE}"
    return f"; {FOREIGN_ADVICE}" if isinstance(error, IsADirectoryError) else ""


def refusal(error: BaseException) -> Refuse:
    """Return what the peer is told: 452 when there is no space, else 451. Never anything final."""
    return Refuse(NO_SPACE if is_full(error) else LOCAL_ERROR, describe(error))
