"""What a session sees of its maildrop: message numbers, marks of deletion, and the lists (RFC 1939 §5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mailstack.wire.pop3_commands import IS_DELETED, NO_SUCH_MESSAGE, POP3Reply

LINES_AT_ONCE: Final = 2_000  # of LIST or UIDL: some 30 to 100 KB, a millisecond


class MaildropView:
    """
    The messages by number, from 1, and those marked as deleted.

    Shape:  `listing` has octets and unique id of each.
    """

    def __init__(self, listing: Sequence[tuple[int, bytes]]) -> None:
        self._listing = listing
        self._octets = sum(octets for octets, _ in listing)
        self._deleted: set[int] = set()

    @property
    def deleted(self) -> frozenset[int]:
        """The indexes of the marked messages."""
        return frozenset(self._deleted)

    @property
    def count(self) -> int:
        """How many messages are not marked."""
        return len(self._listing) - len(self._deleted)

    @property
    def octets(self) -> int:
        """How long they are together."""
        return self._octets

    def find(self, number: int) -> int | POP3Reply:
        """Return the index of a message, or the reply that refuses its number."""
        index = number - 1
        if not 0 <= index < len(self._listing):
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
        self._octets += sum(self._listing[index][0] for index in self._deleted)
        self._deleted.clear()

    def size_lines(self) -> Iterator[bytes]:
        """Yield the lines of LIST, many at once."""
        for start in range(0, len(self._listing), LINES_AT_ONCE):
            part = enumerate(self._listing[start : start + LINES_AT_ONCE], start)
            yield b"".join([b"%d %d\r\n" % (index + 1, octets) for index, (octets, _) in part if index not in self._deleted])

    def uid_lines(self) -> Iterator[bytes]:
        """Yield the lines of UIDL, many at once."""
        for start in range(0, len(self._listing), LINES_AT_ONCE):
            part = enumerate(self._listing[start : start + LINES_AT_ONCE], start)
            yield b"".join([b"%d %b\r\n" % (index + 1, uid) for index, (_, uid) in part if index not in self._deleted])
