"""
The inventory of a maildir: which messages it holds, in which order, how long, and under which unique ids.

One pass over `new` and `cur`, no system call per message whose name tells its size. `new` comes first: a file that another
program moves to `cur` meanwhile is then seen once or twice, never not at all, and the second sight replaces the first.

A message is known by the base of its name, which outlives changes of flags. Two files with one base (a copy, a restored
backup) are *twins*: they are told apart by inode, which outlives them too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mailstack.mail.crlf import CRLFNormaliser
from mailstack.store.names import parse_name

FOLDERS: Final = ("new", "cur")
UID_OCTETS: Final = 70  # RFC 1939 §7
CHUNK_OCTETS: Final = 262_144

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_UID: Final = re.compile(rf"[!-~]{{1,{UID_OCTETS}}}")
# A name as we write it, whole, so that one look at it tells all: a maildrop may hold 100,000 of them.
_OURS: Final = re.compile(
    r"(([0-9]{1,12})\.M([0-9]{1,6})E[0-9a-z]{13}R[0-9]{1,6}\.[A-Za-z0-9._-]{1,100}),S=([0-9]{1,18}),W=\4(?::2,[A-Za-z]*)?"
)
_MOMENT: Final = re.compile(r"([0-9]{1,12})\.(?:M([0-9]{1,6}))?")


class Disk(Protocol):
    """What a maildrop needs of the module `os`."""

    def scandir(self, path: str, /) -> Any:
        """List a folder."""

    def open(self, path: str, flags: int, mode: int = 0o777, /) -> int:
        """Open a file."""
        ...

    def read(self, descriptor: int, octets: int, /) -> bytes:
        """Read on."""
        ...

    def pread(self, descriptor: int, octets: int, offset: int, /) -> bytes:
        """Read from there."""
        ...

    def close(self, descriptor: int, /) -> None:
        """Close a file."""

    def fstat(self, descriptor: int, /) -> os.stat_result:
        """Look at an open file."""
        ...

    def lstat(self, path: str, /) -> os.stat_result:
        """Look at a file."""
        ...

    def unlink(self, path: str, /) -> None:
        """Remove a file."""

    def rename(self, path: str, to: str, /) -> None:
        """Move a file."""

    def truncate(self, descriptor: int, octets: int, /) -> None:
        """Cut an open file; by its name it could be another's behind a link."""

    def fsync(self, descriptor: int, /) -> None:
        """Put what was done on stable storage."""


@dataclass(slots=True)
class Message:
    """
    A message of a maildir.

    Shape:  `octets` with CRLF line ends, `uid` as in UIDL; `is_ours` when we wrote the file, so that it has CRLF; `folder` and
            `name` may be out of date. `seconds` and `microseconds` are the moment of delivery that the name tells, or 0.
    """

    folder: str
    name: str
    base: str
    inode: int
    octets: int
    uid: bytes
    is_ours: bool
    seconds: int
    microseconds: int
    is_twin: bool = False


def read_inventory(disk: Disk, maildir: str) -> list[Message]:
    """
    List the messages of a maildir in the order of their delivery.

    Shape:   a file whose name tells no size is read for it; one that vanishes meanwhile is left out.
    Raises:  OSError: a folder is there and cannot be read.
    """
    singles: dict[str, Message] = {}
    twins: dict[str, dict[int, Message]] = {}
    for folder, name, inode in scan(disk, maildir):
        message = _message(folder, name, inode)
        base = message.base
        other = singles.setdefault(base, message)
        if other is message:
            continue
        if base in twins:
            twins[base][inode] = message
        elif other.inode == inode:  # seen before and after it was moved
            singles[base] = message
        else:
            twins[base] = {other.inode: other, inode: message}
    for base, group in twins.items():
        del singles[base]
        _tell_apart(group)
    messages = [*singles.values(), *(message for group in twins.values() for message in group.values())]
    messages = [message for message in messages if message.octets >= 0 or _measured(disk, maildir, message)]
    messages.sort(key=_order)
    return messages


def scan(disk: Disk, maildir: str) -> Iterator[tuple[str, str, int]]:
    """Yield folder, name and inode of each message file: regular, not hidden, without control characters in its name."""
    for folder in FOLDERS:
        try:
            entries = disk.scandir(f"{maildir}/{folder}")
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if (
                    name[0] != "."
                    and entry.is_file(follow_symlinks=False)
                    and (name.isprintable() or not _CONTROL.search(name))
                ):
                    yield folder, name, entry.inode()


def _message(folder: str, name: str, inode: int) -> Message:
    ours = _OURS.fullmatch(name)
    if ours is not None:
        base, seconds, microseconds, size = ours.groups()
        uid = base.encode("ascii") if len(base) <= UID_OCTETS else _hashed(base)
        return Message(folder, name, base, inode, int(size), uid, True, int(seconds), int(microseconds))
    parsed = parse_name(name)
    base = parsed.base
    uid = base.encode("ascii") if _UID.fullmatch(base) else _hashed(base)
    octets = -1 if parsed.crlf_octets is None else parsed.crlf_octets
    moment = _MOMENT.match(base)
    seconds, microseconds = moment.groups(default="0") if moment else ("0", "0")
    return Message(folder, name, base, inode, octets, uid, False, int(seconds), int(microseconds))


def _order(message: Message) -> str:
    # One text sorts several times faster than a tuple.
    return f"{message.seconds:012d}{message.microseconds:06d}{message.base} {message.inode}"


def _hashed(base: str, inode: int | None = None) -> bytes:
    """Make a unique id of a name that cannot be one itself."""
    text = os.fsencode(base) + (b"" if inode is None else b"\0%d" % inode)
    return hashlib.sha256(text).hexdigest()[:32].encode("ascii")


def _tell_apart(group: dict[int, Message]) -> None:
    """Give all twins but the one with the lowest inode an id of their own."""
    for message in group.values():
        message.is_twin = True
    for inode in sorted(group)[1:]:
        group[inode].uid = _hashed(group[inode].base, inode)


def _measured(disk: Disk, maildir: str, message: Message) -> bool:
    """Find the size by reading the file; say whether it is still there."""
    path = f"{maildir}/{message.folder}/{message.name}"
    try:
        message.octets = _measure(disk, path)
    except FileNotFoundError:
        return False
    except OSError:
        message.octets = 0  # it is there but cannot be read; RETR will say so
    return True


def _measure(disk: Disk, path: str) -> int:
    """Return the octets that a file has with CRLF line ends."""
    descriptor = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        normaliser, octets = CRLFNormaliser(), 0
        while chunk := disk.read(descriptor, CHUNK_OCTETS):
            octets += len(normaliser.feed(chunk))
        return octets + len(normaliser.finish())
    finally:
        disk.close(descriptor)
