"""
A file system in memory that knows what a crash may take away.

Each file and folder has a volatile state, which programs see, and a durable one. `kill` ends the program only: the volatile
state stays. `cut` ends the power: of what was not synced anything may be there, in any combination that the given chance picks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any


class Crash(BaseException):
    """The program ends here."""


@dataclass
class SimFile:
    octets: bytes = b""
    durable: bytes | None = None
    modified_at: float = 0.0


@dataclass
class SimFolder:
    names: dict[str, SimFile | SimFolder] = field(default_factory=dict)
    durable: dict[str, SimFile | SimFolder] = field(default_factory=dict)
    pending: list[tuple[str, SimFile | SimFolder | None]] = field(default_factory=list)
    modified_at: float = 0.0

    def put(self, name: str, node: SimFile | SimFolder) -> None:
        if name in self.names:
            raise FileExistsError(errno.EEXIST, "exists", name)
        self.names[name] = node
        self.pending.append((name, node))

    def remove(self, name: str) -> None:
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such name", name)
        del self.names[name]
        self.pending.append((name, None))

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.pending = []


class SimFileSystem:
    """
    Obeys the FileSystem protocol.

    Shape:  `crash_at` n ends the program instead of its n-th call, from 1; `calls` counts them.
    """

    system_syncs = 0

    def __init__(self, root: str = "/mail", marker: str | None = ".mailstack", can_sync_system: bool = True) -> None:
        self._root_path = root
        self.can_sync_system = can_sync_system
        self._root = SimFolder()
        if marker:
            self._root.put(marker, SimFile(b"", b""))
            self._root.sync()
        self._handles: dict[int, SimFile | SimFolder] = {}
        self._next_handle = 3
        self._is_dead = False
        self.calls = 0
        self.crash_at: int | None = None
        self.now = 0.0

    # What happens to it

    def kill(self) -> None:
        self._handles.clear()
        self._is_dead, self.crash_at, self.calls = False, None, 0

    def cut(self, stays: Callable[[], bool]) -> None:
        self.kill()
        self._cut_folder(self._root, stays)

    def _cut_folder(self, folder: SimFolder, stays: Callable[[], bool]) -> None:
        names = dict(folder.durable)
        for name, node in folder.pending:
            if stays():
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
        folder.names = names
        folder.sync()
        for node in names.values():
            if isinstance(node, SimFolder):
                self._cut_folder(node, stays)
            elif node.durable is None:
                torn = node.octets if stays() else node.octets[: len(node.octets) // 2] if stays() else b""
                node.octets = node.durable = torn
            else:
                node.octets = node.durable

    def copy(self) -> SimFileSystem:
        """Return another with the same in it, after a crash."""
        assert not self._handles, "no program has anything open"
        other = SimFileSystem(self._root_path, None, self.can_sync_system)
        root = _copied(self._root, {})
        assert isinstance(root, SimFolder)
        other._root, other._next_handle, other.now = root, self._next_handle, self.now
        return other

    def state(self) -> Hashable:
        """All that can make a difference to a program that is started now."""
        return _state(self._root, {})

    def tree(self, path: str = "") -> dict[str, bytes]:
        """Every file by its path below the root."""
        return dict(_walk(self.folder(path)))

    def folder(self, path: str) -> SimFolder:
        node: SimFile | SimFolder = self._root
        for part in filter(None, path.split("/")):
            assert isinstance(node, SimFolder)
            node = node.names[part]
        assert isinstance(node, SimFolder)
        return node

    @property
    def open_handles(self) -> int:
        return len(self._handles)

    # The protocol

    def _step(self) -> None:
        self.calls += 1
        if self.calls == self.crash_at:
            self._is_dead = True
        if self._is_dead:
            raise Crash

    def _open(self, node: SimFile | SimFolder) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = node
        return self._next_handle

    def _folder(self, handle: int) -> SimFolder:
        node = self._handles[handle]
        if not isinstance(node, SimFolder):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder")
        return node

    def _file(self, handle: int) -> SimFile:
        node = self._handles[handle]
        assert isinstance(node, SimFile)
        return node

    def open_root(self, path: str) -> int:
        self._step()
        if path != self._root_path:
            raise FileNotFoundError(errno.ENOENT, "no such folder", path)
        return self._open(self._root)

    def open_folder(self, name: str, within: int) -> int:
        self._step()
        node = self._folder(within).names.get(name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such folder", name)
        if not isinstance(node, SimFolder):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", name)
        return self._open(node)

    def make_folder(self, name: str, within: int) -> None:
        self._step()
        self._folder(within).put(name, SimFolder(modified_at=self.now))

    def create(self, name: str, within: int) -> int:
        self._step()
        file = SimFile(modified_at=self.now)
        self._folder(within).put(name, file)
        return self._open(file)

    def write(self, handle: int, octets: bytes) -> None:
        self._step()
        file = self._file(handle)
        file.octets += octets
        file.durable = None

    def sync_files(self, handles: Sequence[int]) -> list[OSError | None]:
        for handle in handles:
            self._step()
            self._file(handle).durable = self._file(handle).octets
        return [None] * len(handles)

    def sync_folder(self, handle: int) -> None:
        self._step()
        self._folder(handle).sync()

    def sync_system(self, handle: int) -> None:
        self._step()
        self.system_syncs += 1
        _sync_all(self._root)

    def identity(self, handle: int) -> tuple[int, int]:
        self._step()
        return 1, id(self._folder(handle))

    def identity_at(self, path: str) -> tuple[int, int] | None:
        self._step()
        try:
            return 1, id(self.folder(path.removeprefix(self._root_path)))
        except KeyError:
            return None

    def move(self, name: str, source: int, target: int) -> None:
        self._step()
        if name not in self._folder(source).names:
            raise FileNotFoundError(errno.ENOENT, "no such name", name)
        self._folder(target).put(name, self._folder(source).names[name])
        self._folder(source).remove(name)

    def link(self, name: str, source: int, target: int) -> None:
        self._step()
        self._folder(target).put(name, self._folder(source).names[name])

    def unlink(self, name: str, within: int) -> None:
        self._step()
        if isinstance(self._folder(within).names.get(name), SimFolder):
            raise IsADirectoryError(errno.EISDIR, "a folder", name)
        self._folder(within).remove(name)

    def exists(self, name: str, within: int) -> bool:
        self._step()
        return name in self._folder(within).names

    def names(self, within: int) -> list[str]:
        self._step()
        return list(self._folder(within).names)

    def modified_at(self, name: str, within: int) -> float:
        self._step()
        node = self._folder(within).names.get(name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such name", name)
        return node.modified_at

    def close(self, handle: int) -> None:
        if not self._is_dead:
            del self._handles[handle]


class FailingFileSystem:
    """
    Another file system, whose n-th call fails with an error, and whose later ones do not.

    Shape:  `fail_at` counts from 1; closing is not counted, and of `sync_files` each file is.
    """

    def __init__(self, inner: object, fail_at: int, number: int) -> None:
        self._inner = inner
        self._fail_at = fail_at
        self._number = number
        self.calls = 0
        self.failed = ""

    def heal(self) -> None:
        self._fail_at = 0

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)
        if not callable(act):
            return act  # what the file system is able to do

        def maybe(*args: object) -> object:
            self._step(name)
            return act(*args)

        return act if name == "close" else maybe

    def _step(self, name: str) -> None:
        self.calls += 1
        if self.calls == self._fail_at:
            self.failed = name
            raise OSError(self._number, os.strerror(self._number))

    def sync_files(self, handles: Sequence[int]) -> list[OSError | None]:
        errors: list[OSError | None] = []
        for handle in handles:
            try:
                self._step("sync_files")
                errors += self._inner.sync_files([handle])  # type: ignore[attr-defined] # any file system
            except OSError as error:
                errors.append(error)
        return errors


def _copied(node: SimFile | SimFolder, known: dict[int, SimFile | SimFolder]) -> SimFile | SimFolder:
    """Copy what is below a node, in both its states; what has two names is still one."""
    other = known.get(id(node))
    if other is None:
        if isinstance(node, SimFile):
            other = known[id(node)] = SimFile(node.octets, node.durable, node.modified_at)
        else:
            other = known[id(node)] = SimFolder(modified_at=node.modified_at)
            other.names = {name: _copied(each, known) for name, each in node.names.items()}
            other.durable = {name: _copied(each, known) for name, each in node.durable.items()}
            other.pending = [(name, None if each is None else _copied(each, known)) for name, each in node.pending]
    return other


def _state(node: SimFile | SimFolder | None, known: dict[int, int]) -> Hashable:
    """Describe a node in both its states; what has two names, or has been described, is a number."""
    if node is None or id(node) in known:
        return None if node is None else known[id(node)]
    known[id(node)] = len(known)
    if isinstance(node, SimFile):
        return node.octets, node.durable, node.modified_at
    parts = (node.names.items(), node.durable.items(), node.pending)
    return node.modified_at, *(tuple((name, _state(each, known)) for name, each in part) for part in parts)


def _sync_all(folder: SimFolder) -> None:
    folder.sync()
    for node in folder.names.values():
        if isinstance(node, SimFolder):
            _sync_all(node)
        else:
            node.durable = node.octets


def _walk(folder: SimFolder, before: str = "") -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for name, node in folder.names.items():
        if isinstance(node, SimFolder):
            found += _walk(node, f"{before}{name}/")
        else:
            found.append((f"{before}{name}", node.octets))
    return found
