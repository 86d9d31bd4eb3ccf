"""
The inventory of a maildir: which messages it holds, in which order, how long, and under which unique ids.

One pass over `new` and `cur`, no system call per message whose name tells its size. `new` comes first: a file that another
program moves to `cur` meanwhile is then seen once or twice, never not at all, and the second sight replaces the first.

A message is known by the base of its name, which outlives changes of flags. Two files with one base (a copy, a restored
backup) are *twins*: they are told apart by inode, which outlives them too.

Theory of operation. A maildrop may hold 100,000 messages, and several may be remembered: so an inventory has columns and no
object for each message, the unique id is made of the name when it is asked for, and what is long (the sort) is done in pieces
short enough for the other threads.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, overload

from mailstack.mail.crlf import CRLFNormaliser
from mailstack.store.names import parse_name

FOLDERS: Final = ("new", "cur")
_NAME_AT: Final = 4  # in a place
UID_OCTETS: Final = 70  # RFC 1939 §7
CHUNK_OCTETS: Final = 262_144
SORTED_AT_ONCE: Final = 4_096  # a sort of 100,000 holds the interpreter for 60 ms, the merge of sorted pieces for 20

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_UID: Final = re.compile(rf"[!-~]{{1,{UID_OCTETS}}}")
# A name as we write it, whole, so that one look at it tells all.
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

    def posix_fadvise(self, descriptor: int, offset: int, octets: int, advice: int, /) -> None:
        """Say what will be read."""

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


class Inventory(Sequence[tuple[int, bytes]]):
    """
    The messages of a maildir in the order of their delivery. As a sequence it has the octets and the unique id of each.

    Shape:  octets are with CRLF line ends, `total_octets` those of all messages; ids are as in UIDL. A place is `folder/name`,
            and may be out of date until `move` is told the new one; that changes neither order nor ids. `is_certain` is False
            when a file could not be measured.
    """

    __slots__ = (
        "__weakref__",
        "_crlf",
        "_inodes",
        "_octets",
        "_ours",
        "_places",
        "_uids",
        "is_certain",
        "total_octets",
        "twins",
    )

    def __init__(
        self, places: list[str], octets: Sequence[int], inodes: Sequence[int], ours: Sequence[int], *, is_certain: bool = True
    ) -> None:
        self._places = places
        self._octets = array("Q", octets)
        self.total_octets = sum(octets)
        self._inodes = array("Q", inodes)
        self._ours = bytes(ours)
        self._crlf = bytearray(ours)
        self._uids: dict[int, bytes] = {}
        self.twins: frozenset[int] = frozenset()
        self.is_certain = is_certain

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> tuple[int, bytes]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, bytes]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, bytes] | list[tuple[int, bytes]]:
        if isinstance(index, slice):
            return [(self._octets[each], self.uid(each)) for each in range(*index.indices(len(self)))]
        return self._octets[index], self.uid(range(len(self))[index])

    def octets(self, index: int) -> int:
        """Return the octets of a message."""
        return self._octets[index]

    def place(self, index: int) -> str:
        """Return where a message is, within the maildir."""
        return self._places[index]

    def name(self, index: int) -> str:
        """Return the name of its file."""
        return self._places[index][_NAME_AT:]

    def inode(self, index: int) -> int:
        """Return the inode of its file."""
        return self._inodes[index]

    def has_crlf(self, index: int) -> bool:
        """Say whether a message, if it has the octets it should, has CRLF line ends: we wrote it, or looked it through."""
        return self._crlf[index] > 0

    def is_seen(self, index: int) -> bool:
        """Say whether a message was seen whole, with CRLF line ends and as long as it should be."""
        return self._crlf[index] > 1

    def seen(self, index: int, octets: int) -> None:
        """Take note that a message was seen whole, so long and with CRLF line ends; a file in a maildir never changes."""
        if octets == self._octets[index]:
            self._crlf[index] = 2

    def base(self, index: int) -> str:
        """Return the base of its name."""
        name = self._places[index][_NAME_AT:]
        return name.partition(",")[0].partition(":")[0] if self._ours[index] else parse_name(name).base

    def uid(self, index: int) -> bytes:
        """Return its unique id: the base, where that can be one and is not a twin's."""
        if index in self._uids:
            return self._uids[index]
        base = self.base(index)
        is_one = len(base) <= UID_OCTETS if self._ours[index] else _UID.fullmatch(base)
        return base.encode("ascii") if is_one else _hashed(base)

    def move(self, index: int, place: str) -> None:
        """Take note of where a message is now."""
        self._places[index] = place

    def tell_apart(self, group: Sequence[int]) -> None:
        """Make messages known as twins of each other, and give all but the one with the lowest inode an id of its own."""
        self.twins |= frozenset(group)
        for index in sorted(group, key=self._inodes.__getitem__)[1:]:
            self._uids[index] = _hashed(self.base(index), self._inodes[index])


def read_inventory(disk: Disk, maildir: str) -> Inventory:
    """
    List the messages of a maildir.

    Shape:   a file whose name tells no size is read for it; one that vanishes meanwhile is left out.
    Raises:  OSError: a folder is there and cannot be read.
    """
    places: list[str] = []
    octets: list[int] = []
    inodes: list[int] = []
    ours = bytearray()
    keys: list[str] = []  # moment of delivery and base, as one text: that sorts several times faster than a tuple
    is_certain = True
    for folder, name, inode in scan(disk, maildir):
        found = _OURS.fullmatch(name)
        if found is not None:
            base, seconds, microseconds, size = found.groups()
            octets.append(int(size))
        else:
            base, seconds, microseconds, measured, is_known = _foreign(disk, f"{maildir}/{folder}/{name}", name)
            if measured is None:
                continue
            octets.append(measured)
            is_certain = is_certain and is_known
        places.append(f"{folder}/{name}")
        inodes.append(inode)
        ours.append(found is not None)
        keys.append(f"{seconds:0>12}{microseconds:0>6}{base}")
    order = _sorted(keys)
    groups: list[list[int]] = []
    if len(set(keys)) < len(keys):
        order, groups = _without_second_sights(order, keys, inodes)
    inventory = Inventory(
        [places[each] for each in order],
        [octets[each] for each in order],
        [inodes[each] for each in order],
        [ours[each] for each in order],
        is_certain=is_certain,
    )
    for group in groups:
        inventory.tell_apart(group)
    return inventory


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


def _foreign(disk: Disk, path: str, name: str) -> tuple[str, str, str, int | None, bool]:
    """
    Look at a file that another program named.

    Shape:   base, seconds and microseconds of the moment that the name tells; octets, None when the file is gone; whether these
             are known for certain.
    """
    parsed = parse_name(name)
    moment = _MOMENT.match(parsed.base)
    seconds, microseconds = moment.groups(default="0") if moment else ("0", "0")
    octets, is_known = parsed.crlf_octets, True
    if octets is None:
        try:
            octets = _measure(disk, path)
        except FileNotFoundError:
            pass
        except OSError:
            octets, is_known = 0, False  # it is there but cannot be read; RETR will say so
    return parsed.base, seconds, microseconds, octets, is_known


def _sorted(keys: list[str]) -> list[int]:
    """Return the indexes of the keys in their order; equal ones as they came."""
    key_of = keys.__getitem__
    order: list[int] = []
    for start in range(0, len(keys), SORTED_AT_ONCE):
        order += sorted(range(start, min(start + SORTED_AT_ONCE, len(keys))), key=key_of)
    order.sort(key=key_of)
    return order


def _without_second_sights(order: list[int], keys: list[str], inodes: list[int]) -> tuple[list[int], list[list[int]]]:
    """Leave out what was seen before it was moved; return the order, and the twins by their place in it."""
    kept: list[int] = []
    groups: list[list[int]] = []
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and keys[order[end]] == keys[order[start]]:
            end += 1
        sights = {inodes[each]: each for each in order[start:end]}
        if len(sights) > 1:
            groups.append(list(range(len(kept), len(kept) + len(sights))))
        kept += [sights[inode] for inode in sorted(sights)]
        start = end
    return kept, groups


def _hashed(base: str, inode: int | None = None) -> bytes:
    """Make a unique id of a name that cannot be one itself."""
    text = os.fsencode(base) + (b"" if inode is None else b"\0%d" % inode)
    return hashlib.sha256(text).hexdigest()[:32].encode("ascii")


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
