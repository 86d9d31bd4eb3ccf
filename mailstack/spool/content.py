"""
Contents: the octets of messages, in memory or in a file of the folder `content`.

Files are written by a few threads. Each file keeps to one of them, so that its writes, its fsync and its removal happen in
order; several, so that the fsync of one large message does not hold up another. A batch of one thread fsyncs its files and
then the folder once. After a failed fsync a file is removed, never fsynced again: the kernel has already forgotten that it
is dirty.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred

from mailstack.mail.envelope import Content
from mailstack.spool.ports import Batch, BatchFactory, System

INLINE_OCTETS: Final = 131_072  # up to this, a row is faster than a file with its two fsyncs
THREADS: Final = 3
BEHEAD_OCTETS: Final = 262_144


@dataclass(frozen=True, slots=True)
class MemoryContent:
    """A content that is in memory."""

    in_memory: bytes

    @property
    def octets(self) -> int:
        """The length."""
        return len(self.in_memory)

    def chunks(self, size_octets: int = 262_144) -> Iterator[bytes]:
        """Yield it in pieces."""
        for start in range(0, len(self.in_memory), size_octets):
            yield self.in_memory[start : start + size_octets]

    def file_with(self, head: bytes) -> None:
        """Return None."""
        return


@dataclass(frozen=True, slots=True)
class FileContent:
    """
    A content that is in a file; `chunks` blocks.

    Shape:  `tail` are the last octets of a draft, which are not in the file yet; `head` stands in the file in front of it.
    """

    path: Path
    octets: int
    tail: tuple[bytes, ...] = ()
    head: bytes = b""

    @property
    def in_memory(self) -> None:
        """It is not in memory."""
        return

    def chunks(self, size_octets: int = 262_144) -> Iterator[bytes]:
        """
        Yield it in pieces.

        Raises:  OSError: the file is gone, cannot be read, or is too short.
        """
        left = self.octets - sum(map(len, self.tail))
        if left:
            with self.path.open("rb", buffering=0) as file:
                file.seek(len(self.head))
                while left:
                    octets = file.read(min(size_octets, left))
                    if not octets:
                        raise OSError(f"{self.path} is {left} octets too short")
                    left -= len(octets)
                    yield octets
        yield from self.tail

    def file_with(self, head: bytes) -> str | None:
        """Return the path, if the file has exactly this head."""
        return str(self.path) if head == self.head and not self.tail else None


@dataclass(frozen=True, slots=True)
class _Task:
    call: Callable[[], Any]
    needs_folder: bool = False


class ContentFile:
    """A file that is being written. Its methods only queue; the outcomes come by the Deferreds, in order."""

    def __init__(self, path: Path, system: System, batch: Batch[_Task, Any]) -> None:
        self.path = path
        self._system = system
        self._batch = batch
        self._descriptor: int | None = None  # this and the next are the thread's
        self._failure: Exception | None = None

    def append(self, chunks: Sequence[bytes]) -> Deferred[None]:
        """Write octets at the end."""
        return self._batch.submit(_Task(lambda: self._append(chunks)))

    def behead(self, octets: int) -> Deferred[None]:
        """Remove the first octets."""
        return self._batch.submit(_Task(lambda: self._behead(octets)))

    def seal(self) -> Deferred[None]:
        """Put file and folder on stable storage, or remove the file and fail if that, or any `append`, failed."""
        return self._batch.submit(_Task(self._seal, needs_folder=True))

    def discard(self) -> Deferred[None]:
        """Remove the file."""
        return self._batch.submit(_Task(self._discard))

    def _append(self, chunks: Sequence[bytes]) -> None:
        if self._failure:
            raise self._failure
        try:
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = self._system.open(self.path, flags, 0o600)
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[self._system.write(self._descriptor, view) :]
        except OSError as error:
            self._failure = error
            self._discard()
            raise

    def _behead(self, octets: int) -> None:
        if self._failure or self._descriptor is None:
            raise self._failure or OSError("nothing was written")
        try:
            to = 0
            with self.path.open("r+b", buffering=0) as file:
                while chunk := os.pread(file.fileno(), BEHEAD_OCTETS, to + octets):
                    to += os.pwrite(file.fileno(), chunk, to)
                file.truncate(to)
        except OSError as error:
            self._failure = error
            self._discard()
            raise

    def _seal(self) -> None:
        if self._failure or self._descriptor is None:
            raise self._failure or OSError("nothing was written")
        try:
            self._system.fsync(self._descriptor)
            descriptor, self._descriptor = self._descriptor, None
            self._system.close(descriptor)
        except OSError as error:
            self._failure = error
            self._discard()
            raise

    def _discard(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                self._system.close(descriptor)
        with suppress(FileNotFoundError):
            self._system.unlink(self.path)


class ContentFolder:
    """The folder `content`."""

    def __init__(self, path: Path, batch_factory: BatchFactory, system: System = os) -> None:
        self.path = path
        self._system = system
        self._batches: list[Batch[_Task, Any]] = [
            batch_factory(self._run, name=f"spool-content-{number}") for number in range(THREADS)
        ]
        self._next = itertools.cycle(self._batches)

    def start(self) -> None:
        """Start the threads."""
        for batch in self._batches:
            batch.start()

    async def stop(self) -> None:
        """End the threads when all is written."""
        for batch in self._batches:
            await batch.stop()

    def create(self, name: str) -> ContentFile:
        """Make a file that will be written; nothing is on disk before its first `append`."""
        return ContentFile(self.path / name, self._system, next(self._next))

    def head(self, content: Content, octets: int) -> Deferred[bytes]:
        """Read the first octets of a content."""
        return next(self._next).submit(_Task(lambda: next(content.chunks(octets), b"")))

    def read(self, name: str, after: int, octets: int) -> Deferred[bytes]:
        """Read octets of a file, after so many; fewer at its end."""
        return next(self._next).submit(_Task(lambda: _read(self.path / name, after, octets)))

    def remove(self, path: Path) -> Deferred[None]:
        """Remove the file of a finished entry; should that fail, the next start removes it."""
        return next(self._next).submit(_Task(lambda: self._system.unlink(path)))

    def _run(self, tasks: list[_Task]) -> list[Any]:
        outcomes = [_guarded(task.call) for task in tasks]
        sealed = [n for n, task in enumerate(tasks) if task.needs_folder and not isinstance(outcomes[n], Exception)]
        if sealed:
            failure = _guarded(self._sync_folder)
            if isinstance(failure, Exception):
                for number in sealed:
                    outcomes[number] = failure
        return outcomes

    def _sync_folder(self) -> None:
        descriptor = self._system.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._system.fsync(descriptor)
        finally:
            self._system.close(descriptor)


def _read(path: Path, after: int, octets: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return os.pread(descriptor, octets, after)
    finally:
        os.close(descriptor)


def _guarded(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # one file's trouble is not another's
        return error
