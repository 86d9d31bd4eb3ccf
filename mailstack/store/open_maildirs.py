"""
Maildirs that are open: folders are entered step by step, made where they are missing, and kept open from one round to the next.

To enter a maildir takes eleven system calls, and to see that the path still leads to what is open takes one. So the last KEPT
are kept, and each is looked at once in a round: where another folder is now at its place, or none (removed, renamed, another
file system mounted or unmounted), it is entered anew, from the root and its marker.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from mailstack.store.durable import FileSystem
from mailstack.store.folders import MARKER_NAME, AccountFolder

KEPT: Final = 128
"""Two descriptors each."""


class MailRootError(OSError):
    """The mail root has no marker: it is not mounted, or was never made. Nothing is delivered and nothing is made there."""


@dataclass(frozen=True, slots=True)
class OpenMaildir:
    """
    A maildir whose folders are open.

    Shape:  `identity` tells `new` from every other folder, and its first number the file system that it is on.
    """

    tmp: int
    new: int
    identity: tuple[int, int]

    @property
    def system(self) -> int:
        """The file system that it is on."""
        return self.identity[0]


class OpenMaildirs:
    """The maildirs below one mail root. Everything blocks, is called in one thread at a time, and within a round."""

    def __init__(self, files: FileSystem, root: str) -> None:
        self._files = files
        self._root = root
        self._settled: set[AccountFolder] = set()
        self._kept: OrderedDict[AccountFolder, OpenMaildir] = OrderedDict()  # the least recently used first
        self._checked: set[AccountFolder] = set()  # in this round
        self._passing: dict[tuple[str, ...], int] = {}  # open for this round

    @contextmanager
    def round(self) -> Iterator[None]:
        """Begin and end a round, within which what is open stays open."""
        try:
            yield
        finally:
            self._checked.clear()
            for handle in self._passing.values():
                self._files.close(handle)
            self._passing.clear()
            while len(self._kept) > KEPT:
                self._let_go(next(iter(self._kept)))

    def close(self) -> None:
        """Let go of all."""
        for folder in list(self._kept):
            self._let_go(folder)

    def get(self, folder: AccountFolder) -> OpenMaildir:
        """
        Open a maildir, and make what is missing of it, but never the root.

        Raises:  MailRootError. OSError: it cannot be entered or made.
        """
        kept = self._kept.get(folder)
        if kept is not None and (folder in self._checked or self._is_in_place(folder, kept)):
            self._kept.move_to_end(folder)
        else:
            if kept is not None:
                self._let_go(folder)
            kept = self._kept[folder] = self._opened(folder)
        self._checked.add(folder)
        return kept

    def enter(self, path: tuple[str, ...]) -> int:
        """
        Open a folder below the root, step by step, once in a round.

        Raises:  as `get`.
        """
        handle = self._passing.get(path)
        if handle is None:
            handle = self._files.open_folder(path[-1], self.enter(path[:-1])) if path else self._open_root()
            self._passing[path] = handle
        return handle

    def _is_in_place(self, folder: AccountFolder, maildir: OpenMaildir) -> bool:
        place = f"{self._root}/{folder.domain}/{folder.local_part}/new"
        return self._files.identity_at(place) == maildir.identity

    def _let_go(self, folder: AccountFolder) -> None:
        maildir = self._kept.pop(folder)
        self._files.close(maildir.tmp)
        self._files.close(maildir.new)

    def _opened(self, folder: AccountFolder) -> OpenMaildir:
        if folder not in self._settled:
            self._settle(folder)
        try:
            return self._entered(folder)
        except FileNotFoundError:  # it was there once
            self._settle(folder)
            return self._entered(folder)

    def _entered(self, folder: AccountFolder) -> OpenMaildir:
        handles: list[int] = []
        try:
            within = self.enter((folder.domain, folder.local_part))
            for name in ("tmp", "new"):
                handles.append(self._files.open_folder(name, within))
            tmp, new = handles
            return OpenMaildir(tmp, new, self._files.identity(new))
        except BaseException:
            for handle in handles:
                self._files.close(handle)
            raise

    def _settle(self, folder: AccountFolder) -> None:
        """
        See to it that a maildir exists, durably.

        The flushes are not only for what is made here: a process that died may have made it and not flushed it.
        """
        self._settled.discard(folder)
        path: tuple[str, ...] = (folder.domain, folder.local_part)
        for part in (path[:1], path, (*path, "tmp"), (*path, "cur"), (*path, "new")):
            try:
                self.enter(part)
            except FileNotFoundError:
                with suppress(FileExistsError):  # another process is at it, too
                    self._files.make_folder(part[-1], self.enter(part[:-1]))
                self.enter(part)
        for part in (path, path[:1], ()):
            self._files.sync_folder(self.enter(part))
        self._settled.add(folder)

    def _open_root(self) -> int:
        try:
            handle = self._files.open_root(self._root)
        except FileNotFoundError as error:
            raise MailRootError(errno.ENOENT, "there is no mail root", self._root) from error
        try:
            if not self._files.exists(MARKER_NAME, handle):
                raise MailRootError(errno.ENOENT, f"the mail root has no {MARKER_NAME}; is it mounted?", self._root)
        except BaseException:
            self._files.close(handle)
            raise
        return handle
