"""
What a session sees of its maildrop: message numbers, marks of deletion, and the lists (RFC 1939 §5).

Most sessions mark nothing, and ask for the lists of a maildrop that is as it was. So the lists of an unmarked maildrop are
written once and kept for as long as its listing lives, which is longer than a session where whoever opens the maildrop
remembers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final
from weakref import WeakKeyDictionary

from mailstack.wire.pop3_commands import IS_DELETED, NO_SUCH_MESSAGE, POP3Reply

LINES_AT_ONCE: Final = 2_000  # of LIST or UIDL: some 30 to 100 KB, a millisecond

Listing = Sequence[tuple[int, bytes]]
"""Octets and unique id of each message."""


class Lists:
    """
    The lists of a maildrop of which no message is marked, in parts of LINES_AT_ONCE lines.

    Shape:  `octets` is how long its messages are together.
    """

    __slots__ = ("_sizes", "_uids", "octets")

    def __init__(self, listing: Listing) -> None:
        total: int | None = getattr(listing, "total_octets", None)
        self.octets = sum(octets for octets, _ in listing) if total is None else total
        self._sizes: list[bytes] = []
        self._uids: list[bytes] = []

    def sizes(self, listing: Listing) -> Iterator[bytes]:
        """Yield the lines of LIST."""
        return _kept(self._sizes, listing, _size_lines)

    def uids(self, listing: Listing) -> Iterator[bytes]:
        """Yield the lines of UIDL."""
        return _kept(self._uids, listing, _uid_lines)


class ListsInUse:
    """The lists of the listings that somebody still has."""

    def __init__(self) -> None:
        self._lists: WeakKeyDictionary[Listing, Lists] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._lists)

    def of(self, listing: Listing) -> Lists:
        """Return the lists of a listing: the same for the same object, if it is one that can be watched, as a list cannot."""
        try:
            lists = self._lists.get(listing)
            if lists is None:
                lists = self._lists[listing] = Lists(listing)
        except TypeError:
            return Lists(listing)
        return lists


class MaildropView:
    """The messages by number, from 1, and those marked as deleted."""

    def __init__(self, listing: Listing, lists: Lists | None = None) -> None:
        self._listing = listing
        self._lists = lists or Lists(listing)
        self._octets = self._lists.octets
        self._count = len(listing)
        self._deleted: set[int] = set()

    @property
    def deleted(self) -> frozenset[int]:
        """The indexes of the marked messages."""
        return frozenset(self._deleted)

    @property
    def count(self) -> int:
        """How many messages are not marked."""
        return self._count - len(self._deleted)

    @property
    def octets(self) -> int:
        """How long they are together."""
        return self._octets

    def find(self, number: int) -> int | POP3Reply:
        """Return the index of a message, or the reply that refuses its number."""
        index = number - 1
        if not 0 <= index < self._count:
            return NO_SUCH_MESSAGE
        return IS_DELETED if index in self._deleted else index

    def size(self, index: int) -> int:
        """Return the octets of a message."""
        return self._listing[index][0]

    def uid(self, index: int) -> bytes:
        """Return the unique id of a message."""
        return self._listing[index][1]

    def mark(self, index: int) -> None:
        """Mark a message that is not marked."""
        self._deleted.add(index)
        self._octets -= self._listing[index][0]

    def unmark_all(self) -> None:
        """Take all marks away."""
        self._octets = self._lists.octets
        self._deleted.clear()

    def size_lines(self) -> Iterator[bytes]:
        """Yield the lines of LIST, many at once."""
        return self._unmarked(_size_lines) if self._deleted else self._lists.sizes(self._listing)

    def uid_lines(self) -> Iterator[bytes]:
        """Yield the lines of UIDL, many at once."""
        return self._unmarked(_uid_lines) if self._deleted else self._lists.uids(self._listing)

    def _unmarked(self, written: Callable[[Listing, int], list[bytes]]) -> Iterator[bytes]:
        for start in range(0, self._count, LINES_AT_ONCE):
            lines = enumerate(written(self._listing, start), start)
            yield b"".join([line for index, line in lines if index not in self._deleted])


def _kept(parts: list[bytes], listing: Listing, written: Callable[[Listing, int], list[bytes]]) -> Iterator[bytes]:
    """Yield the parts of a list, and write those that were not yet."""
    for number, start in enumerate(range(0, len(listing), LINES_AT_ONCE)):
        if number == len(parts):
            parts.append(b"".join(written(listing, start)))
        yield parts[number]


def _size_lines(listing: Listing, start: int) -> list[bytes]:
    part = listing[start : start + LINES_AT_ONCE]
    return [b"%d %d\r\n" % (number, octets) for number, (octets, _) in enumerate(part, start + 1)]


def _uid_lines(listing: Listing, start: int) -> list[bytes]:
    part = listing[start : start + LINES_AT_ONCE]
    return [b"%d %b\r\n" % (number, uid) for number, (_, uid) in enumerate(part, start + 1)]
