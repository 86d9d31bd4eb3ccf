"""TOP: the header section of a message and the first lines of its body (RFC 1939 §7)."""

from __future__ import annotations


class TopCut:
    """
    Lets the header section, the empty line and a number of body lines pass; takes chunks with CRLF, split anywhere.

    Shape:  a message without an empty line is all header section. After `is_done` nothing more passes.
    """

    __slots__ = ("_before", "_lines", "is_done")

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._before: bytes | None = b"\r\n"  # the last octets of the header section, as far as an empty line may begin in them
        self.is_done = False

    def feed(self, octets: bytes) -> bytes:
        """Return what of the octets passes."""
        if self.is_done:
            return b""
        if self._before is None:
            return octets[: self._body_end(octets, 0)]
        joined = self._before + octets
        found = joined.find(b"\r\n\r\n")
        if found < 0:
            self._before = joined[-3:]
            return octets
        body = found + 4 - len(self._before)
        self._before = None
        return octets[: self._body_end(octets, body)]

    def _body_end(self, octets: bytes, position: int) -> int:
        """Count lines from a position on, and return where those that pass end."""
        lines = octets.count(b"\n", position)
        if lines < self._lines:
            self._lines -= lines
            return len(octets)
        for _ in range(self._lines):
            position = octets.find(b"\n", position) + 1
        self.is_done = True
        return position
