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
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Self

from mailstack.mail.crlf import CRLFNormaliser, with_crlf
from mailstack.mail.maildrop import MaildropLocked
from mailstack.store.cached import Cache, KernelCache
from mailstack.store.inventory import CHUNK_OCTETS, Disk, Message, read_inventory, scan
from mailstack.store.names import delivery_key, parse_name

LOCK_NAME: Final = ".pop3.lock"
SMALL_OCTETS: Final = 65_536  # up to here a message is read whole, in one call
TOMBSTONE_FOLDER: Final = "tmp"
TOMBSTONE_SECONDS: Final = 3_600

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class MessageReader:
    """Reads a large message in chunks with CRLF line ends; `read` blocks, `read_cached` and `close` do not."""

    def __init__(self, disk: Disk, cache: Cache, descriptor: int, first: bytes, *, has_crlf: bool) -> None:
        self._disk = disk
        self._cache = cache
        self._descriptor: int | None = descriptor
        self._first = first
        self._offset = len(first)
        self._normaliser = None if has_crlf else CRLFNormaliser()

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
            return self._normaliser.finish() if self._normaliser else b""
        return self._normaliser.feed(chunk) if self._normaliser else chunk

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
        self, path: str, lock: int | None, messages: list[Message], now: Callable[[], float], disk: Disk, cache: Cache
    ) -> None:
        self._path = path
        self._lock = lock
        self._messages = messages
        self.listing = [(message.octets, message.uid) for message in messages]
        """Octets and unique id of each message."""
        self._now = now
        self._disk = disk
        self._cache = cache
        self._gone: set[int] = set()

    @classmethod
    def open(cls, path: Path | str, *, now: Callable[[], float], disk: Disk = os, cache: Cache | None = None) -> Self:
        """
        Lock a maildir and read its inventory. A maildir that no delivery has made yet is an empty maildrop.

        Shape:   `now` tells seconds since 1970.
        Raises:  MaildropLocked: another session has it. OSError: it, or the folder that holds all of them, cannot be read.
        """
        place, cache = str(path), cache or KernelCache()
        lock = _take_lock(place, disk)
        if lock is None:
            return cls(place, None, [], now, disk, cache)
        try:
            return cls(place, lock, read_inventory(disk, place), now, disk, cache)
        except BaseException:
            disk.close(lock)
            raise

    def read(self, index: int) -> bytes | MessageReader | None:
        """
        Read a message with CRLF line ends: whole when it is small, else by a reader; None when another program removed it.

        Raises:  OSError: it cannot be read.
        """
        message = self._messages[index]
        descriptor = self._opened(index, message)
        if descriptor is None:
            return None
        try:
            first = self._disk.pread(descriptor, SMALL_OCTETS + 1, 0)
            if message.is_ours and len(first) == message.octets:
                self._disk.close(descriptor)
                return first
            has_crlf = message.is_ours and self._disk.fstat(descriptor).st_size == message.octets
            reader = MessageReader(self._disk, self._cache, descriptor, first, has_crlf=has_crlf)
        except BaseException:
            self._disk.close(descriptor)
            raise
        return reader if len(first) > SMALL_OCTETS else _drained(reader)

    def read_cached(self, index: int) -> bytes | MessageReader | None:
        """Return what `read` would, if it or the start of a large message is in memory, or None: then `read` must be asked."""
        message = self._messages[index]
        descriptor = self._cache.open(f"{self._path}/{message.folder}/{message.name}")
        if descriptor is None:
            return None
        try:
            octets = self._disk.fstat(descriptor).st_size
            content = self._cache.read(descriptor, min(octets, SMALL_OCTETS) + 1, 0)
            if content is None:
                return None
            has_crlf = message.is_ours and octets == message.octets
            if octets > SMALL_OCTETS and content:
                reader = MessageReader(self._disk, self._cache, descriptor, content, has_crlf=has_crlf)
                descriptor = None
                return reader
            if len(content) != octets:  # the rest of it is not in memory, or it is no regular file
                return None
            return content if has_crlf else with_crlf(content)
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
        missing: list[Message] = []
        for index in sorted(deleted):
            message = self._messages[index]
            try:
                self._remove(message, removed)
            except FileNotFoundError:
                missing.append(message)
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

    def _opened(self, index: int, message: Message) -> int | None:
        """Open a message's file, wherever another program moved it; None when it is gone."""
        if index in self._gone:
            return None
        lost: set[int] | None = None  # most messages are where they were, and that must cost nothing for the others
        for _ in range(3):  # a folder that changes while it is listed can hide a file once
            try:
                return self._disk.open(f"{self._path}/{message.folder}/{message.name}", _READ)
            except FileNotFoundError:
                missing = self._find_moved()
                lost = missing if lost is None else lost & missing
        self._gone |= lost or set()
        return None

    def _find_moved(self) -> set[int]:
        """Learn where all messages are now, and return those that were not found."""
        places: dict[str | tuple[str, int], tuple[str, str]] = {}
        for folder, name, inode in scan(self._disk, self._path):
            base = parse_name(name).base
            places[base] = places[base, inode] = folder, name
        lost = set()
        for index, message in enumerate(self._messages):
            place = places.get((message.base, message.inode))
            if place is None and not message.is_twin:
                place = places.get(message.base)
            if place is None:
                lost.add(index)
            else:
                message.folder, message.name = place
        return lost

    def _remove(self, message: Message, removed: dict[str, int]) -> None:
        path = f"{self._path}/{message.folder}/{message.name}"
        key = delivery_key(message.name)
        if key is None or not self._buried(path, key):
            self._disk.unlink(path)
        else:
            removed.setdefault(TOMBSTONE_FOLDER, 0)
        removed[message.folder] = removed.get(message.folder, 0) + 1

    def _buried(self, path: str, key: str) -> bool:
        """Turn a young delivery of ours into its tombstone; say whether that was done."""
        found = self._disk.lstat(path)
        if not stat.S_ISREG(found.st_mode) or self._now() - found.st_mtime >= TOMBSTONE_SECONDS:
            return False  # what is no file was put there by another program, and is no delivery
        tombstone = f"{self._path}/{TOMBSTONE_FOLDER}/{key}.deleted"
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

    def _remove_moved(self, missing: list[Message], removed: dict[str, int]) -> int:
        self._find_moved()
        failed = 0
        for message in missing:
            try:
                self._remove(message, removed)
            except FileNotFoundError:
                pass  # it is gone, which is what was wanted
            except OSError:
                failed += 1
        return failed

    def _flushed(self, folder: str) -> bool:
        try:
            descriptor = self._disk.open(f"{self._path}/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
    """Lock a maildir; None when there is no such folder, but one in which it could be."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        lock = disk.open(f"{path}/{LOCK_NAME}", flags, 0o600)
    except FileNotFoundError:
        disk.lstat(str(Path(path).parent))  # or the disk with all of them is not there, and nothing must look empty
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
