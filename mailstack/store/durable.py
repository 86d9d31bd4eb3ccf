"""
Durable files: the few operations on folders and files from which a delivery is made, in one place.

What they promise, and what they do not (POSIX, and what ext4 was seen to do when the power was cut):

    create, write       may be lost, empty or torn                  until the file is synced
    link, make_folder   may be lost, whatever was synced in it      until the folder that holds the name is synced
    unlink              may come back                               until the folder that held the name is synced
    move                may be undone, or the name be in neither    until both folders are synced

`sync_system` does all of that for everything on a file system in one go: syncfs(2), whose cost hardly grows with the files,
while each fsync is a commit of the journal. It also waits for what others wrote there.

A sync that failed is never tried again on the same handle: the kernel has marked the pages clean, and a second fsync would
succeed with the octets lost ("Can Applications Recover from fsync Failures?", USENIX ATC 2020).

All names are single components within an open folder, so that nothing on the way to them can be exchanged for a symbolic link.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE: Final = 1
_KERNEL_THAT_TELLS: Final = (5, 8)  # the first Linux whose syncfs says that writing back failed


class FileSystem(Protocol):
    """
    Folders and files by handle, and names within open folders.

    Raises:  OSError, from every method but `close` and `sync_files`.
    """

    def open_root(self, path: str) -> int:
        """Open a folder by its path; the path is the operator's, and may lead over symbolic links."""
        ...

    def open_folder(self, name: str, within: int) -> int:
        """Open a folder; a symbolic link is refused."""
        ...

    def make_folder(self, name: str, within: int) -> None:
        """Make a folder that only its owner may enter."""

    def create(self, name: str, within: int) -> int:
        """Create a file that only its owner may read, and open it for writing; a name that exists, even a link, is refused."""
        ...

    def write(self, handle: int, octets: bytes) -> None:
        """Write all of the octets."""

    def sync_files(self, handles: Sequence[int]) -> list[OSError | None]:
        """Bring files to stable storage; answer for each of them, in order."""
        ...

    def sync_folder(self, handle: int) -> None:
        """Bring the names in a folder to stable storage."""

    def adopt(self, path: str, name: str, within: int) -> int | None:
        """
        Give a file that lies elsewhere a name here, in addition, and return its length; a name that exists is refused.

        Shape:   None: that cannot be had, since it lies on another file system for instance; nothing was done.
        """

    @property
    def can_sync_system(self) -> bool:
        """Whether there is `sync_system`."""

    def sync_system(self, handle: int) -> None:
        """Bring everything on the file system of a folder to stable storage: files, closed ones too, and names."""

    def identity(self, handle: int) -> tuple[int, int]:
        """Return what an open folder and no other has: the number of its file system, and its own there."""
        ...

    def identity_at(self, path: str) -> tuple[int, int] | None:
        """Return the identity of what is at a path, or None."""

    def move(self, name: str, source: int, target: int) -> None:
        """Move a file to another folder of the same file system; a name that exists there is refused."""

    def link(self, name: str, source: int, target: int) -> None:
        """Give a file of one folder the same name in another; a name that exists is refused."""

    def unlink(self, name: str, within: int) -> None:
        """Remove a name."""

    def exists(self, name: str, within: int) -> bool:
        """Say whether there is such a name, be it a link to nowhere."""
        ...

    def names(self, within: int) -> list[str]:
        """List a folder."""
        ...

    def modified_at(self, name: str, within: int) -> float:
        """Say when a file was changed last, in seconds since 1970; a symbolic link is not followed."""
        ...

    def close(self, handle: int) -> None:
        """Let go of a file or folder."""


class OSFileSystem:
    """The real file system."""

    def open_root(self, path: str) -> int:
        """Open a folder by its path."""
        return os.open(path, _FOLDER)

    def open_folder(self, name: str, within: int) -> int:
        """Open a folder; a symbolic link is refused with ELOOP or ENOTDIR."""
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=within)

    def make_folder(self, name: str, within: int) -> None:
        """Make a folder of mode 0700."""
        os.mkdir(name, 0o700, dir_fd=within)

    def create(self, name: str, within: int) -> int:
        """Create a file of mode 0600."""
        return os.open(name, _CREATE, 0o600, dir_fd=within)

    def write(self, handle: int, octets: bytes) -> None:
        """Write all of the octets; a nearly full disk takes them in parts."""
        written = os.write(handle, octets)
        if written < len(octets):
            rest = memoryview(octets)[written:]
            while rest:
                rest = rest[os.write(handle, rest) :]

    def sync_files(self, handles: Sequence[int]) -> list[OSError | None]:
        """
        Flush files, each with an fsync of its own.

        The writing of all is started before the first is waited for: their blocks are then allocated in one transaction of the
        file system, which the first fsync commits for all (a third faster for a batch of 20 on ext4).
        """
        if len(handles) > 1 and hasattr(os, "posix_fadvise"):
            for handle in handles:
                with suppress(OSError):  # it is only a wish
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # Linux starts to write back what is dirty
        return [_fsync(handle) for handle in handles]

    def sync_folder(self, handle: int) -> None:
        """Flush the names in a folder."""
        os.fsync(handle)

    def adopt(self, path: str, name: str, within: int) -> int | None:
        """Make a hard link."""
        try:
            os.link(path, name, dst_dir_fd=within, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            return None
        return os.stat(name, dir_fd=within, follow_symlinks=False).st_size

    @property
    def can_sync_system(self) -> bool:
        """Whether there is a syncfs that reports errors."""
        return _CAN_SYNC_SYSTEM

    def sync_system(self, handle: int) -> None:
        """Call syncfs(2), without the interpreter's lock."""
        if _LIBC.syncfs(handle):
            raise _os_error()

    def identity(self, handle: int) -> tuple[int, int]:
        """Return st_dev and st_ino."""
        found = os.fstat(handle)
        return found.st_dev, found.st_ino

    def identity_at(self, path: str) -> tuple[int, int] | None:
        """Return st_dev and st_ino."""
        try:
            found = os.stat(path)  # noqa: PTH116 (for each message; Path.stat costs more)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def move(self, name: str, source: int, target: int) -> None:
        """Rename without replacing; where the kernel or the file system cannot, link and unlink."""
        octets = os.fsencode(name)
        if not hasattr(_LIBC, "renameat2") or _LIBC.renameat2(source, octets, target, octets, _RENAME_NOREPLACE):
            error = _os_error() if hasattr(_LIBC, "renameat2") else OSError(errno.ENOSYS, "")
            if error.errno not in (errno.ENOSYS, errno.EINVAL):
                raise error
            self.link(name, source, target)
            with suppress(OSError):  # a second name harms nobody, and goes when it is old
                self.unlink(name, source)

    def link(self, name: str, source: int, target: int) -> None:
        """Make a hard link; unlike rename, it never replaces anything."""
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

    def unlink(self, name: str, within: int) -> None:
        """Remove a name."""
        os.unlink(name, dir_fd=within)

    def exists(self, name: str, within: int) -> bool:
        """Say whether there is such a name."""
        try:
            os.stat(name, dir_fd=within, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def names(self, within: int) -> list[str]:
        """List a folder."""
        return os.listdir(within)

    def modified_at(self, name: str, within: int) -> float:
        """Say when a file was changed last."""
        return os.stat(name, dir_fd=within, follow_symlinks=False).st_mtime

    def close(self, handle: int) -> None:
        """Close a descriptor; what mattered was synced before, so an error says nothing more."""
        with suppress(OSError):
            os.close(handle)


def _has_telling_syncfs() -> bool:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2] if part.isdigit())
    return os.uname().sysname == "Linux" and release >= _KERNEL_THAT_TELLS and hasattr(_LIBC, "syncfs")


_CAN_SYNC_SYSTEM: Final = _has_telling_syncfs()


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _fsync(handle: int) -> OSError | None:
    try:
        os.fsync(handle)
    except OSError as error:
        return error
    return None
