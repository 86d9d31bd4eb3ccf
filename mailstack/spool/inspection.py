"""
Inspection: what would keep a spool from being opened, found without opening it.

The database is looked at as a file, not through SQLite: a running server has the only connection there may be (see the
charter), and a look must change nothing.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from mailstack.spool.database import APPLICATION_ID, SCHEMA_VERSION, UPGRADES
from mailstack.spool.failures import DAMAGED_ADVICE, FOREIGN_ADVICE, VERSION_ADVICE

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_OCTETS: Final = 100
_VERSION: Final = slice(60, 64)
_APPLICATION: Final = slice(68, 72)


def find_problem(folder: Path) -> str | None:
    """
    Say why a spool cannot be opened and what to do, or None; damage behind the first octets of its database is not found.

    Source:  https://www.sqlite.org/fileformat2.html §1.3.
    Raises:  OSError: it cannot be looked at.
    """
    if folder.exists() and not folder.is_dir():
        return f"{folder}: is no directory; {FOREIGN_ADVICE}"
    for name, is_right in (("content", stat.S_ISDIR), ("lock", stat.S_ISREG), ("spool.db", stat.S_ISREG)):
        path = folder / name
        if not path.exists() and not path.is_symlink():
            continue
        mode = path.lstat().st_mode
        if not is_right(mode):
            there = "a directory" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "no directory"
            return f"{path}: the spool has something else of this name, and there is {there}; {FOREIGN_ADVICE}"
    database = folder / "spool.db"
    if not database.exists() or not (header := _header(database)):
        return None
    if not header.startswith(_MAGIC):
        return f"{database}: file is not a database; {DAMAGED_ADVICE}"
    application, version = (int.from_bytes(header[part], "big") for part in (_APPLICATION, _VERSION))
    if not application and not version and (folder / "spool.db-wal").exists():
        return None  # all that was ever written to it is in the other file
    if application != APPLICATION_ID:
        return f"{database}: is not a spool; {FOREIGN_ADVICE}"
    if version != SCHEMA_VERSION and version not in UPGRADES:
        return f"{database}: has version {version}; this mailstack reads version {SCHEMA_VERSION}; {VERSION_ADVICE}"
    return None


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_OCTETS)
