"""
Maildrops: a maildir as one POP3 session sees it, locked, numbered and unchanging (RFC 1939 §3, §4, §6).

States on disk of a message that a session deletes:

    where it is found                          what it means                              what a repeated delivery does
    new/ or cur/                               not deleted, or the commit failed          finds it, does nothing
    tmp/{delivery key}.deleted, any length     deleted within an hour of its delivery     finds it, does nothing
    nowhere                                    deleted later than that, or by others      delivers it

The second row is a *tombstone*. A spool may note a delivery some milliseconds after the file is there; if the user fetches
and deletes the message in between and the machine then dies, the repeated delivery must not bring it back. Whoever delivers
removes old tombstones with everything else that is old in tmp.

The lock is flock(2) on `.pop3.lock`: it holds across processes and between sessions of one process, and ends with its owner.

A stamp is what the folders of a maildir show from outside; why it can be trusted, and when, is told in `maildrops`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from mailstack.mail.crlf import CRLFNormaliser, with_crlf
from mailstack.mail.maildrop import MaildropLocked
from mailstack.store.cached import Cache, KernelCache
from mailstack.store.folders import MARKER_NAME
from mailstack.store.inventory import CHUNK_OCTETS, FOLDERS, Disk, Inventory, read_inventory, scan
from mailstack.store.names import delivery_key, parse_name

AHEAD_MESSAGES: Final = 32
AHEAD_OCTETS: Final = 262_144
PAGE_OCTETS: Final = 4_096  # the least of them: others are its multiples
LOCK_NAME: Final = ".pop3.lock"
SMALL_OCTETS: Final = 65_536  # up to here a message is read whole, in one call
TOMBSTONE_FOLDER: Final = "tmp"
TOMBSTONE_SECONDS: Final = 3_600
SETTLED_SECONDS: Final = 0.05  # the clock of a file system ticks every 10 ms at the slowest,
SETTLED_COARSE_SECONDS: Final = 2.5  # but for those that know whole seconds only, or even ones

_WILL_NEED: Final[int | None] = getattr(os, "POSIX_FADV_WILLNEED", None)  # not on every system
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


Stamp = tuple[tuple[int, int, int, int], ...]
"""Device, inode, and times of change and status change in nanoseconds, of each folder."""


@dataclass(frozen=True, slots=True)
class Known:
    """
    What was seen of a maildir.

    Shape:   `stamp` is None when it cannot be used to recognise the same state again; `is_cacheable`: its file system can tell
             what it has in memory.
    """

    inventory: Inventory
    stamp: Stamp | None = None
    is_cacheable: bool = False


_NOTHING: Final = Known(Inventory([], [], [], []))


def stamp_of(path: str, look: Callable[[str], os.stat_result | None]) -> Stamp | None:
    """Take the stamp of a maildir; None when one of its folders cannot be looked at."""
    stamps = []
    for folder in FOLDERS:
        found = look(f"{path}/{folder}")
        if found is None:
            return None
        stamps.append((found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns))
    return tuple(stamps)


def is_settled(stamp: Stamp, now: float) -> bool:
    """Say whether whatever happens from now on, in seconds since 1970, makes another stamp."""
    newest = max(max(modified_ns, changed_ns) for _, _, modified_ns, changed_ns in stamp)
    is_coarse = any(modified_ns % 1_000_000_000 == 0 for _, _, modified_ns, _ in stamp)
    return newest / 1e9 + (SETTLED_COARSE_SECONDS if is_coarse else SETTLED_SECONDS) <= now


class MessageReader:
    """
    Reads a large message in chunks with CRLF line ends; `read` blocks, `read_cached` and `close` do not.

    Shape:   `seen` is called with the octets of a message that had CRLF all by itself, at its end, if that was not known.
    """

    def __init__(
        self, disk: Disk, cache: Cache, descriptor: int, first: bytes, *, has_crlf: bool, seen: Callable[[int], None]
    ) -> None:
        self._disk = disk
        self._cache = cache
        self._descriptor: int | None = descriptor
        self._first = first
        self._offset = len(first)
        self._normaliser = None if has_crlf else CRLFNormaliser()
        self._given = 0
        self._seen = seen

    def read(self) -> bytes:
        """Return the next chunk, or nothing at the end."""
        while self._descriptor is not None:
            chunk = self._first or self._disk.pread(self._descriptor, CHUNK_OCTETS, self._offset)
            octets = self._taken(chunk)
            if octets or not chunk:
                return octets
        return b""

    def read_cached(self) -> bytes | None:
        """Return what `read` would, if that is in memory, or None: then `read` must be asked."""
        while self._descriptor is not None:
            chunk = self._first or self._cache.read(self._descriptor, CHUNK_OCTETS, self._offset)
            if chunk is None:
                return None
            octets = self._taken(chunk)
            if octets or not chunk:
                return octets
        return b""

    def _taken(self, chunk: bytes) -> bytes:
        """Take note of what was read, and return what goes out of it."""
        if self._first:
            self._first = b""
        else:
            self._offset += len(chunk)
        if not chunk:
            self.close()
        if self._normaliser is None:
            return chunk
        octets = self._normaliser.feed(chunk) if chunk else self._normaliser.finish()
        self._given += len(octets)
        if not chunk and self._given == self._offset:  # nothing was added, and nothing is ever taken away
            self._seen(self._given)
        return octets

    def close(self) -> None:
        """Read no more."""
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None


class Maildrop:
    """
    An open maildrop. Messages are called by index, from 0, in the order of their delivery.

    `open`, `read`, `commit` and a reader's `read` block; `listing`, `read_cached` and `close` do not. One call at a time.
    """

    def __init__(
        self, path: str, lock: int | None, known: Known, now: Callable[[], float], *, disk: Disk = os, cache: Cache
    ) -> None:
        self.path = path
        self.known = known
        self.listing = known.inventory
        """Octets and unique id of each message."""
        self._lock = lock
        self._now = now
        self._disk = disk
        self._cache = cache
        self._gone: set[int] = set()
        self._next = -1  # behind the message that was read last
        self._ahead = 0  # up to here the kernel was asked to read

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        now: Callable[[], float],
        disk: Disk = os,
        cache: Cache | None = None,
        known: Known | None = None,
    ) -> Self:
        """
        Lock a maildir and read its inventory, unless it is as it was. One that no delivery has made yet is an empty maildrop.

        Shape:   `now` tells seconds since 1970; `known` is what an earlier maildrop of this maildir has in `known`.
        Raises:  MaildropLocked: another session has it. OSError: it, or the folder that holds all of them, cannot be read.
        """
        place, cache = str(path), cache or KernelCache()
        lock = _take_lock(place, disk)
        drop = cls(place, lock, known or _NOTHING, now, disk=disk, cache=cache)
        if lock is None:
            drop._know(_NOTHING)
            return drop
        try:
            drop._know(drop._seen(cache.works_on(lock)))
        except BaseException:
            disk.close(lock)
            raise
        return drop

    def _know(self, known: Known) -> None:
        self.known, self.listing = known, known.inventory

    def _seen(self, is_cacheable: bool) -> Known:
        """Look at the maildir, as far as it is not as it was."""
        started = self._now()
        stamp = stamp_of(self.path, self._look)
        if stamp is not None and stamp == self.known.stamp:
            return self.known
        inventory = read_inventory(self._disk, self.path)
        if (
            stamp is None
            or not inventory.is_certain
            or not is_settled(stamp, started)
            or stamp != stamp_of(self.path, self._look)
        ):
            stamp = None
        return Known(inventory, stamp, is_cacheable)

    def _look(self, path: str) -> os.stat_result | None:
        try:
            return self._disk.lstat(path)
        except OSError:  # it is not there; or it is, and then reading it says what is wrong
            return None

    def look_cached(self, path: str) -> os.stat_result | None:
        """Look at a file of the maildir if that does not block."""
        descriptor = self._cache.open(path)
        if descriptor is None:
            return None
        try:
            return self._disk.fstat(descriptor)
        finally:
            self._disk.close(descriptor)

    def read(self, index: int) -> bytes | MessageReader | None:
        """
        Read a message with CRLF line ends: whole when it is small, else by a reader; None when another program removed it.

        Raises:  OSError: it cannot be read.
        """
        descriptor = self._opened(index)
        if index == self._next:
            self._read_ahead(index + 1)
        self._next = index + 1
        if descriptor is None:
            return None
        try:
            first = self._disk.pread(descriptor, SMALL_OCTETS + 1, 0)
            has_crlf, octets = self.listing.has_crlf(index), self.listing.octets(index)
            if has_crlf and len(first) == octets:
                self._disk.close(descriptor)
                return first
            has_crlf = has_crlf and self._disk.fstat(descriptor).st_size == octets
            reader = self._reader(index, descriptor, first, has_crlf=has_crlf)
        except BaseException:
            self._disk.close(descriptor)
            raise
        return reader if len(first) > SMALL_OCTETS else _drained(reader)

    def read_cached(self, index: int) -> bytes | MessageReader | None:
        """Return what `read` would, if it or the start of a large message is in memory, or None: then `read` must be asked."""
        descriptor = self._cache.open(f"{self.path}/{self.listing.place(index)}")
        if descriptor is None:
            return None
        try:
            said, has_crlf = self.listing.octets(index), self.listing.has_crlf(index)
            if has_crlf and said <= SMALL_OCTETS and (said % PAGE_OCTETS or self.listing.is_seen(index)):
                content = self._cache.read(descriptor, said + 1, 0)
                if content is not None and len(content) == said:
                    self._next = index + 1
                    return content  # to its end: what ends within a page does not end for want of the next one
            octets = self._disk.fstat(descriptor).st_size
            content = self._cache.read(descriptor, min(octets, SMALL_OCTETS) + 1, 0)
            if content is None:
                return None
            has_crlf = has_crlf and octets == said
            if octets > SMALL_OCTETS and content:
                self._next = index + 1
                reader = self._reader(index, descriptor, content, has_crlf=has_crlf)
                descriptor = None
                return reader
            if len(content) != octets:  # the rest of it is not in memory, or it is no regular file
                return None
            self._next = index + 1
            normalised = content if has_crlf else with_crlf(content)
            if len(normalised) == octets:  # nothing was added, and nothing is ever taken away
                self.listing.seen(index, octets)
            return normalised
        finally:
            if descriptor is not None:
                self._disk.close(descriptor)

    def commit(self, deleted: Collection[int]) -> int:
        """
        Remove messages, and return how many of them are not certain to be removed. One that is gone already counts as removed.

        Shape:   when it returns, what it did is on stable storage.
        """
        failed = 0
        removed: dict[str, int] = {}
        missing: list[int] = []
        for index in sorted(deleted):
            try:
                self._remove(index, removed)
            except FileNotFoundError:
                missing.append(index)
            except OSError:
                failed += 1
        if missing:
            failed += self._remove_moved(missing, removed)
        for folder, count in removed.items():
            failed += 0 if self._flushed(folder) else count
        return min(failed, len(deleted))

    def close(self) -> None:
        """Let go of the lock. May be called again."""
        if self._lock is not None:
            self._disk.close(self._lock)
            self._lock = None

    def _reader(self, index: int, descriptor: int, first: bytes, *, has_crlf: bool) -> MessageReader:
        seen = partial(self.listing.seen, index)
        return MessageReader(self._disk, self._cache, descriptor, first, has_crlf=has_crlf, seen=seen)

    def _read_ahead(self, index: int) -> None:
        """
        Have the kernel fetch the next messages for a client that takes one after the other.

        It keeps them, not we; and whoever finds them there needs no thread.
        """
        if _WILL_NEED is None:
            return
        last = min(index + AHEAD_MESSAGES, len(self.listing))
        octets = 0
        for each in range(max(index, self._ahead), last):
            octets += self.listing.octets(each)
            if octets > AHEAD_OCTETS:
                break
            with contextlib.suppress(OSError):
                descriptor = self._disk.open(f"{self.path}/{self.listing.place(each)}", _READ)
                try:
                    self._disk.posix_fadvise(descriptor, 0, 0, _WILL_NEED)
                finally:
                    self._disk.close(descriptor)
            self._ahead = each + 1

    def _opened(self, index: int) -> int | None:
        """Open a message's file, wherever another program moved it; None when it is gone."""
        if index in self._gone:
            return None
        lost: set[int] | None = None  # most messages are where they were, and that must cost nothing for the others
        for _ in range(3):  # a folder that changes while it is listed can hide a file once
            try:
                return self._disk.open(f"{self.path}/{self.listing.place(index)}", _READ)
            except FileNotFoundError:
                missing = self._find_moved()
                lost = missing if lost is None else lost & missing
        self._gone |= lost or set()
        return None

    def _find_moved(self) -> set[int]:
        """Learn where all messages are now, and return those that were not found."""
        places: dict[str | tuple[str, int], str] = {}
        for folder, name, inode in scan(self._disk, self.path):
            base = parse_name(name).base
            places[base] = places[base, inode] = f"{folder}/{name}"
        lost = set()
        for index in range(len(self.listing)):
            base = self.listing.base(index)
            place = places.get((base, self.listing.inode(index)))
            if place is None and index not in self.listing.twins:
                place = places.get(base)
            if place is None:
                lost.add(index)
            else:
                self.listing.move(index, place)
        return lost

    def _remove(self, index: int, removed: dict[str, int]) -> None:
        place = self.listing.place(index)
        path = f"{self.path}/{place}"
        key = delivery_key(self.listing.name(index))
        if key is None or not self._buried(path, key):
            self._disk.unlink(path)
        else:
            removed.setdefault(TOMBSTONE_FOLDER, 0)
        folder = place.partition("/")[0]
        removed[folder] = removed.get(folder, 0) + 1

    def _buried(self, path: str, key: str) -> bool:
        """Turn a young delivery of ours into its tombstone; say whether that was done."""
        found = self._disk.lstat(path)
        if not stat.S_ISREG(found.st_mode) or self._now() - found.st_mtime >= TOMBSTONE_SECONDS:
            return False  # what is no file was put there by another program, and is no delivery
        tombstone = f"{self.path}/{TOMBSTONE_FOLDER}/{key}.deleted"
        try:
            self._disk.rename(path, tombstone)
        except FileNotFoundError:
            return False  # the file went away, or there is no tmp
        with contextlib.suppress(OSError):  # its length does not matter
            self._empty(tombstone)
        return True

    def _empty(self, tombstone: str) -> None:
        """Give back the space of a tombstone, unless its octets are also another file's: an IMAP server's copy, a snapshot."""
        descriptor = self._disk.open(tombstone, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if self._disk.fstat(descriptor).st_nlink == 1:
                self._disk.truncate(descriptor, 0)
        finally:
            self._disk.close(descriptor)

    def _remove_moved(self, missing: list[int], removed: dict[str, int]) -> int:
        self._find_moved()
        failed = 0
        for index in missing:
            try:
                self._remove(index, removed)
            except FileNotFoundError:
                pass  # it is gone, which is what was wanted
            except OSError:
                failed += 1
        return failed

    def _flushed(self, folder: str) -> bool:
        try:
            descriptor = self._disk.open(f"{self.path}/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            self._disk.fsync(descriptor)
        except OSError:
            return False
        finally:
            self._disk.close(descriptor)
        return True


def _take_lock(path: str, disk: Disk) -> int | None:
    """
    Lock a maildir; None when there is none yet, neither for the account nor perhaps for anybody in its domain.

    Raises:  OSError: the disk with all of them is not there; else everything that is on it would look like deleted.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        lock = disk.open(f"{path}/{LOCK_NAME}", flags, 0o600)
    except FileNotFoundError:
        of_domain = Path(path).parent
        try:
            disk.lstat(str(of_domain))
        except FileNotFoundError:
            disk.lstat(str(of_domain.parent / MARKER_NAME))
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        disk.close(lock)
        raise MaildropLocked(path) from None
    except BaseException:
        disk.close(lock)
        raise
    return lock


def _drained(reader: MessageReader) -> bytes:
    try:
        return b"".join(iter(reader.read, b""))
    finally:
        reader.close()
