"""
Lines of the wire: a bounded buffer that knows CRLF and nothing else.

Every octet is looked at once, whatever the pieces in which they come, and an over-long line is dropped as it comes in.
"""

from __future__ import annotations

import enum
from typing import Final


class Overlong(enum.Enum):
    """Stands for a line that was longer than the limit."""

    TOO_LONG = "too long"


TOO_LONG: Final = Overlong.TOO_LONG
BEGINNING_OCTETS: Final = 4


class LineBuffer:
    """
    Keeps octets and gives them back as lines.

    Units:   `limit_octets` is the longest line, without its CRLF; it may be changed between lines.
    Shape:   `pending` counts the octets that were received and not yet given; `discarded` those dropped of the over-long line
             that has not ended yet; `overlong` is how the last over-long line began.
    Source:  RFC 5321 §2.3.8: a bare CR or LF ends no line, so it stays in the line, where the grammar refuses it.
    """

    __slots__ = ("_dropping", "_octets", "_searched", "discarded", "limit_octets", "overlong")

    def __init__(self, limit_octets: int) -> None:
        self.limit_octets = limit_octets
        self.discarded = 0
        self.overlong = b""
        self._octets = bytearray()
        self._searched = 0
        self._dropping = False

    def __len__(self) -> int:
        return len(self._octets)

    @property
    def pending(self) -> int:
        """The octets that were received and not yet given."""
        return len(self._octets)

    @property
    def is_between_lines(self) -> bool:
        """Whether nothing is pending, nor anything to come that belongs to an over-long line."""
        return not self._octets and not self._dropping

    def receive(self, octets: bytes) -> None:
        """Keep octets."""
        self._octets += octets
        if self._dropping:
            self._drop()

    def has_line(self) -> bool:
        """Say whether `next_line` has something to return, so that octets that come one by one need not be asked about."""
        if self._dropping:
            return False
        if len(self._octets) > self.limit_octets + 1 or self._octets.find(b"\r\n", self._searched) >= 0:
            return True
        self._searched = max(0, len(self._octets) - 1)
        return False

    def next_line(self) -> bytes | Overlong | None:
        """
        Return the next line without its CRLF, None when it is not complete, or TOO_LONG: once for each over-long line, as soon
        as it is known to be one.
        """
        if self._dropping:
            return None
        end = self._octets.find(b"\r\n", self._searched)
        if 0 <= end <= self.limit_octets:
            line = bytes(self._octets[:end])
            del self._octets[: end + 2]
            self._searched = 0
            return line
        if end > self.limit_octets:
            self.overlong = bytes(self._octets[:BEGINNING_OCTETS])
            del self._octets[: end + 2]
            self._searched = 0
            return TOO_LONG
        self._searched = max(0, len(self._octets) - 1)
        if len(self._octets) > self.limit_octets + 1:
            self._dropping = True
            self.overlong = bytes(self._octets[:BEGINNING_OCTETS])
            self._drop()
            return TOO_LONG
        return None

    def begins_with(self, octets: bytes) -> bool:
        """Say whether what is pending begins so."""
        return self._octets.startswith(octets)

    def peek(self) -> bytes:
        """Return everything that is pending."""
        return bytes(self._octets)

    def take(self) -> bytes:
        """Return everything that is pending, which then is no longer; what follows is not a line."""
        octets = bytes(self._octets)
        self.clear()
        return octets

    def clear(self) -> None:
        """Forget everything."""
        self._octets.clear()
        self._searched = 0
        self._dropping = False
        self.discarded = 0

    def _drop(self) -> None:
        end = self._octets.find(b"\r\n")
        if end >= 0:
            del self._octets[: end + 2]
            self._dropping = False
            self.discarded = 0
        else:
            keep = 1 if self._octets.endswith(b"\r") else 0
            self.discarded += len(self._octets) - keep
            del self._octets[: len(self._octets) - keep]
        self._searched = 0
