"""
Reads that never wait: what the kernel has in memory, or nothing at all.

A hop into a thread costs more than a small message that is in the page cache. Linux can be asked for exactly that: openat2(2)
with RESOLVE_CACHED opens a file only if its whole path is in the lookup cache (since Linux 5.12), and preadv2(2) with
RWF_NOWAIT reads only what is in the page cache. Both say EAGAIN where they would have to wait for a disk. To note the time of
the access could wait for the journal, so that is not done (O_NOATIME, which only the owner of a file may ask for). So the
reactor may call them; whatever they do not give is fetched in a thread, and is then in the cache for the next who asks.

Where the kernel, its sandbox (a seccomp filter) or the file system knows none of this, nothing is ever cached.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol

_ENCODING: Final = sys.getfilesystemencoding()  # os.fsencode looks them up each time
_ERRORS: Final = sys.getfilesystemencodeerrors()
_OPENAT2: Final = 437  # on every architecture of Linux but Alpha
_AT_FDCWD: Final = -100
_RESOLVE_CACHED: Final = 0x20
_RWF_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
# For now, or for this file; the thread that tries again finds out which, and says what is wrong.
_PASSING: Final = frozenset(
    {errno.EAGAIN, errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOTDIR}
)


class Cache(Protocol):
    """What a maildrop needs. None of it blocks, where it works."""

    def works_on(self, descriptor: int) -> bool:
        """Find out, in a thread, whether there is such a cache for the file system of a file; where not, nothing is given."""
        ...

    def open(self, path: str) -> int | None:
        """Open a file for reading; None when that could take time, or cannot be done."""
        ...

    def read(self, descriptor: int, octets: int, offset: int) -> bytes | None:
        """Read up to so many octets; fewer at the end of the file, or where the cache ends; None when nothing is there now."""
        ...


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2_cached() -> Callable[[bytes], int] | None:
    """
    Return what opens a file out of the cache: it gives a descriptor, or the negative errno; None where there is no such thing.

    The call keeps the interpreter's lock, since it does not wait: giving it to a busy thread would cost up to 5 ms.
    """
    if sys.platform != "linux" or not _RWF_NOWAIT:
        return None
    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
    how = _OpenHow(os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME, 0, _RESOLVE_CACHED)
    address, size, last_error = ctypes.addressof(how), ctypes.sizeof(how), ctypes.get_errno

    def call(path: bytes, _keep: _OpenHow = how) -> int:
        descriptor: int = syscall(_OPENAT2, _AT_FDCWD, path, address, size)
        return descriptor if descriptor >= 0 else -last_error()

    return call


_open_cached: Final = openat2_cached()


class KernelCache:
    """
    The kernel's cache, for one maildrop.

    Shape:  `open_cached` is as what `openat2_cached` returns; after the first answer that means "never" it is not asked again.
    """

    __slots__ = ("_open_cached",)

    def __init__(self, open_cached: Callable[[bytes], int] | None = _open_cached) -> None:
        self._open_cached = open_cached

    def works_on(self, descriptor: int) -> bool:
        """
        Find out whether the file system can tell what it has in memory.

        A file system on the network or in user space cannot, and with it even to open a file can take long.
        """
        self.read(descriptor, 1, 0)
        return self._open_cached is not None

    def open(self, path: str) -> int | None:
        """Open a file for reading if its whole path is in the lookup cache; a link at its end is not followed."""
        if self._open_cached is None:
            return None
        descriptor = self._open_cached(path.encode(_ENCODING, _ERRORS))
        if descriptor >= 0:
            return descriptor
        if -descriptor not in _PASSING:
            self._open_cached = None
        return None

    def read(self, descriptor: int, octets: int, offset: int) -> bytes | None:
        """Read what is in the page cache."""
        buffer = bytearray(octets)
        try:
            count = os.preadv(descriptor, [buffer], offset, _RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                self._open_cached = None
            return None
        return bytes(memoryview(buffer)[:count])
