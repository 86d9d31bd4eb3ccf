"""
Delivery into maildirs: many messages at once, each whole and on stable storage before it is reported, none twice.

A round of deliveries goes in steps, each for all of its items before the next begins, so that the flushes stand together:

    1. write tmp/NAME, created exclusively         3. move tmp/NAME to new/NAME, where nothing is replaced
    2. flush the files                             4. flush each new/ and tmp/        5. report

A flush is one syncfs(2) for all: twice as many messages a second as with an fsync for each file, for less work. It also waits
for what others have written to that file system; when it takes SLOW_SECONDS, files are flushed singly for BY_FILE_SECONDS.

States on disk that a crash can leave, and what a repeated delivery does then. NAME is made of the delivery alone, so that it is
the same again (`names.delivery_name`); KEY is what another program cannot change of it.

    tmp/NAME        in new/ or cur/   tmp/KEY.deleted   what happened               a repeated delivery
    nothing         no                no                died before 1, or in 4      delivers
    of any length   no                no                died in 1 to 4              removes it and delivers
    nothing/whole   yes               no                died in 3 to 5              flushes new/ and cur/, removes tmp/NAME
    nothing/whole   no                yes               the user deleted it since   removes tmp/NAME

What an item's failure left in tmp/ or new/ is removed at once; what a crash left in tmp/ goes when it is old (`clean_tmp`).

Source:  https://cr.yp.to/proto/maildir.html, but for the flush of new/, without which a delivery may be undone by a power cut.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mailstack.mail.envelope import Content
from mailstack.store.durable import FileSystem, OSFileSystem
from mailstack.store.folders import AccountFolder, MailFolder
from mailstack.store.names import delivery_key
from mailstack.store.open_maildirs import OpenMaildir, OpenMaildirs

ROUND_ITEMS: Final = 128
"""Descriptors are open for a whole round: three for a maildir, and one for a file that is flushed singly."""

SLOW_SECONDS: Final = 0.25
BY_FILE_SECONDS: Final = 30.0

TMP_SECONDS: Final = 36 * 3_600  # of the maildir format: no writer takes that long
TOMBSTONE_SECONDS: Final = 10 * 86_400  # longer than a spool tries to deliver, or is out of service
TOMBSTONE_SUFFIX: Final = ".deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaildirItem:
    """
    One file to deliver.

    Shape:  `name` comes from `names.delivery_name`; the file is `head` (fields of final delivery, with CRLF) and the content;
            `may_repeat` is False only when no earlier attempt can have happened, which saves a look at the folder.
    """

    folder: AccountFolder
    name: str
    head: bytes
    content: Content
    may_repeat: bool


@dataclass(frozen=True, slots=True)
class Shipment:
    """
    What one attempt delivers.

    Shape:  with `all_or_none` (at most ROUND_ITEMS items, and no `may_repeat`) none is delivered when one of them cannot be.
    """

    items: Sequence[MaildirItem]
    all_or_none: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """The file is in new/, on stable storage."""

    name: str


@dataclass(frozen=True, slots=True)
class AlreadyThere:
    """An earlier attempt delivered it; it is still there, on stable storage, or the user has deleted it since."""

    name: str


Outcome = Delivered | AlreadyThere | Exception


class Maildirs:
    """
    Delivers into the maildirs below one mail root.

    Shape:  `seconds` is a monotonic clock, by which a slow file system is noticed.

    Everything blocks. `deliver_many` is called in one thread at a time, `clean_tmp` in any.
    """

    def __init__(
        self, folders: MailFolder, file_system: FileSystem | None = None, *, seconds: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._root = str(folders.root)
        self._file_system = file_system or OSFileSystem()
        self._open = OpenMaildirs(self._file_system, self._root)
        self._seconds = seconds
        self._by_file_until = -1.0

    def deliver_many(self, shipments: Sequence[Shipment]) -> list[list[Outcome]]:
        """
        Deliver, and give one outcome for each item of each shipment, in order: Delivered or AlreadyThere, or why it failed.

        A failure concerns its own item only (or those of its shipment, or all that could not be flushed together), and leaves
        nothing of it behind.
        """
        everything = [_parcels(shipment) for shipment in shipments]
        for parcels in _rounds(everything):
            with self._open.round():
                self._round().run(parcels)
        return [[parcel.result for parcel in parcels] for parcels in everything]

    def _round(self) -> _Round:
        by_system = self._file_system.can_sync_system and self._seconds() >= self._by_file_until
        return _Round(self._file_system, self._open, self._sync_system if by_system else None)

    def close(self) -> None:
        """Let go of the folders that were kept open."""
        self._open.close()

    def _sync_system(self, handle: int) -> None:
        began = self._seconds()
        self._file_system.sync_system(handle)
        ended = self._seconds()
        if ended - began >= SLOW_SECONDS:
            self._by_file_until = ended + BY_FILE_SECONDS

    def clean_tmp(self, folder: AccountFolder, now_seconds: float) -> int:
        """
        Remove what crashes left in a maildir's tmp/, and tombstones, when they are old; return how many.

        Raises:  OSError: the folder cannot be listed. One that does not exist is clean.
        """
        files, handles, removed = self._file_system, list[int](), 0
        try:
            handles.append(files.open_root(self._root))
            for name in (folder.domain, folder.local_part, "tmp"):
                handles.append(files.open_folder(name, handles[-1]))
            for name in files.names(handles[-1]):
                limit_seconds = TOMBSTONE_SECONDS if name.endswith(TOMBSTONE_SUFFIX) else TMP_SECONDS
                with suppress(OSError):  # somebody else was faster, or it is a folder
                    if now_seconds - files.modified_at(name, handles[-1]) > limit_seconds:
                        files.unlink(name, handles[-1])
                        removed += 1
        except FileNotFoundError:
            return removed
        finally:
            for handle in handles:
                files.close(handle)
        return removed


@dataclass(slots=True, eq=False)
class _Parcel:
    """
    An item on its way, and what of it is on disk by our doing.

    Shape:  `fellows` are the parcels with which it stands and falls, itself among them.
    """

    item: MaildirItem
    fellows: Sequence[_Parcel] = ()
    outcome: Outcome | None = None
    maildir: OpenMaildir | None = None
    handle: int | None = None
    is_in_tmp: bool = False
    is_in_new: bool = False

    @property
    def result(self) -> Outcome:
        """What became of it, at the end."""
        return Delivered(self.item.name) if self.outcome is None else self.outcome


@dataclass(slots=True)
class _Round:
    """
    One pass through the steps.

    Shape:  `sync_system` flushes the file system of a folder; None: files and folders are flushed one by one. `present` maps,
            for a maildir that was looked into, the keys of what is in new/ and cur/ to file names.
    """

    files: FileSystem
    maildirs: OpenMaildirs
    sync_system: Callable[[int], None] | None
    present: dict[AccountFolder, dict[str, str]] = field(default_factory=dict)

    def run(self, parcels: list[_Parcel]) -> None:
        try:
            self._each(parcels, self._write)
            self._flush_files(parcels)
            self._each(parcels, self._publish)
            self._flush_folders(parcels)
        finally:
            for parcel in parcels:
                self._close(parcel)

    # Steps

    def _each(self, parcels: list[_Parcel], step: Callable[[_Parcel], None]) -> None:
        for parcel in parcels:
            if parcel.outcome is None:
                try:
                    step(parcel)
                except Exception as error:  # a bulkhead: one item's failure is not its neighbours'
                    self._fail(parcel, error)

    def _write(self, parcel: _Parcel) -> None:
        item = parcel.item
        parcel.maildir = maildir = self.maildirs.get(item.folder)
        if item.may_repeat and self._recognise(parcel, maildir):
            return
        written = self._adopted(parcel, maildir) if self.sync_system is not None else None
        if written is None:
            written = self._copied(parcel, maildir)
        expected = len(item.head) + item.content.octets
        if written != expected:  # the name says how long it is, and a short message is a damaged one
            raise OSError(errno.EIO, f"the content is {written} octets, not {expected}")
        if self.sync_system is not None:
            self._close(parcel)

    def _adopted(self, parcel: _Parcel, maildir: OpenMaildir) -> int | None:
        """Take the file in which the content came as it is, if it has our head; return how long it is."""
        path = parcel.item.content.file_with(parcel.item.head)
        if path is None:
            return None
        written = self.files.adopt(path, parcel.item.name, maildir.tmp)
        parcel.is_in_tmp = written is not None
        return written

    def _copied(self, parcel: _Parcel, maildir: OpenMaildir) -> int:
        item = parcel.item
        parcel.handle = self.files.create(item.name, maildir.tmp)
        parcel.is_in_tmp = True
        written = 0
        for octets in _with_head(item.head, item.content):
            self.files.write(parcel.handle, octets)
            written += len(octets)
        return written

    def _flush_files(self, parcels: list[_Parcel]) -> None:
        if self.sync_system is not None:
            self._flush_systems(parcels, self.sync_system)
            return
        waiting = [(parcel, parcel.handle) for parcel in parcels if parcel.outcome is None and parcel.handle is not None]
        if not waiting:
            return
        errors = self.files.sync_files([handle for _, handle in waiting])
        for (parcel, _), error in zip(waiting, errors, strict=True):
            self._close(parcel)
            if error is not None:
                self._fail(parcel, error)

    def _publish(self, parcel: _Parcel) -> None:
        name, maildir = parcel.item.name, parcel.maildir
        assert maildir is not None
        self.files.move(name, maildir.tmp, maildir.new)
        parcel.is_in_tmp, parcel.is_in_new = False, True

    def _flush_folders(self, parcels: list[_Parcel]) -> None:
        if self.sync_system is not None:
            self._flush_systems(parcels, self.sync_system)
            return
        folders: dict[int, list[_Parcel]] = {}
        for parcel in parcels:
            if parcel.outcome is None and parcel.maildir is not None:
                folders.setdefault(parcel.maildir.new, []).append(parcel)
        for new, here in folders.items():
            try:
                self.files.sync_folder(new)
            except OSError as error:
                for parcel in here:
                    self._fail(parcel, error)

    def _flush_systems(self, parcels: list[_Parcel], sync: Callable[[int], None]) -> None:
        """Flush each file system that a waiting parcel is on; there is hardly ever more than one."""
        systems: dict[int, list[_Parcel]] = {}
        for parcel in parcels:
            if parcel.outcome is None and parcel.maildir is not None:
                systems.setdefault(parcel.maildir.system, []).append(parcel)
        for here in systems.values():
            assert here[0].maildir is not None
            try:
                sync(here[0].maildir.new)
            except OSError as error:
                for parcel in here:
                    self._fail(parcel, error)

    # What is there already

    def _recognise(self, parcel: _Parcel, maildir: OpenMaildir) -> bool:
        """Find what an earlier attempt delivered; remove what it left unfinished."""
        key = delivery_key(parcel.item.name)
        if key is None:
            raise ValueError(f"{parcel.item.name!r} does not name a delivery")
        folder = parcel.item.folder
        cur = self.maildirs.enter((folder.domain, folder.local_part, "cur"))
        present = self.present.get(folder)
        if present is None:  # new/ first: a file that is moved meanwhile is seen twice, not never
            present = self.present[folder] = _keys(self.files.names(maildir.new)) | _keys(self.files.names(cur))
        found = present.get(key)
        if found is not None:
            self.files.sync_folder(maildir.new)
            self.files.sync_folder(cur)
        elif self.files.exists(key + TOMBSTONE_SUFFIX, maildir.tmp):  # asked last: it is there before the message is not
            found = key + TOMBSTONE_SUFFIX
        with suppress(OSError):  # mostly because there is nothing; else `create` will say what is wrong
            self.files.unlink(parcel.item.name, maildir.tmp)
        if found is not None:
            parcel.outcome = AlreadyThere(found)
        return found is not None

    # Failure

    def _fail(self, parcel: _Parcel, error: Exception) -> None:
        """Remove what there is of an item: it will be delivered anew, from the spool."""
        self._close(parcel)
        parcel.outcome = error
        if parcel.maildir is not None:
            for is_there, folder in ((parcel.is_in_tmp, parcel.maildir.tmp), (parcel.is_in_new, parcel.maildir.new)):
                if is_there:
                    with suppress(OSError):
                        self.files.unlink(parcel.item.name, folder)
        for fellow in parcel.fellows:
            if fellow.outcome is None:
                self._fail(fellow, error)

    def _close(self, parcel: _Parcel) -> None:
        if parcel.handle is not None:
            self.files.close(parcel.handle)
            parcel.handle = None


def _parcels(shipment: Shipment) -> list[_Parcel]:
    parcels = [_Parcel(item) for item in shipment.items]
    if shipment.all_or_none and len(parcels) > 1:
        for parcel in parcels:
            parcel.fellows = parcels
    return parcels


def _rounds(everything: list[list[_Parcel]]) -> Iterator[list[_Parcel]]:
    """Yield parcels in groups of at most ROUND_ITEMS; what stands and falls together is in one."""
    group: list[_Parcel] = []
    for parcels in everything:
        if group and len(group) + len(parcels) > ROUND_ITEMS:
            yield group
            group = []
        group = group + parcels
        while len(group) > ROUND_ITEMS:
            yield group[:ROUND_ITEMS]
            group = group[ROUND_ITEMS:]
    if group:
        yield group


def _keys(names: list[str]) -> dict[str, str]:
    return {key: name for name in names if (key := delivery_key(name)) is not None}


def _with_head(head: bytes, content: Content) -> Iterator[bytes]:
    """Yield the octets of the file, the head together with what comes first, to save a write."""
    whole = content.in_memory
    chunks = iter((whole,)) if whole is not None else content.chunks()
    first = next(chunks, b"")
    return itertools.chain((head + first,), chunks)
