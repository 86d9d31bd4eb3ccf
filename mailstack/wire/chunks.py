"""
Contents that come by BDAT (RFC 3030): as many octets as were announced, in which a dot is nothing but a dot.

What a content by DATA cannot be otherwise, this one is made: each CR and LF is judged, or made part of a CRLF, and the last
line is ended. Of one that was announced as BINARYMIME the binary parts are encoded first.
"""

from __future__ import annotations

from mailstack.mail.binary import BinaryConverter
from mailstack.mail.crlf import has_bare_newline, normalise_newlines


class ChunkReader:
    """
    Judges the line ends of a content that is cut anywhere.

    Shape:   `feed` returns the next octets of the content, `finish` the last, by which it ends with CRLF or is empty.
             `has_bare_newline` says that a bare CR or LF was seen; with `normalise` each became CRLF.
    Source:  RFC 3030 §2; RFC 5321 §2.3.8.
    """

    __slots__ = ("_ends_line", "_held", "_normalise", "has_bare_newline")

    def __init__(self, *, normalise: bool = False) -> None:
        self.has_bare_newline = False
        self._normalise = normalise
        self._held = b""  # a CR, of which the next octet decides
        self._ends_line = True

    def feed(self, octets: bytes) -> bytes:
        """Take octets from the wire and return octets of the content."""
        octets = self._held + octets if self._held else octets
        self._held = b""
        if octets.endswith(b"\r"):
            self._held, octets = b"\r", octets[:-1]
        if not octets:
            return b""
        if has_bare_newline(octets):
            self.has_bare_newline = True
            if self._normalise:
                octets = normalise_newlines(octets)
        self._ends_line = octets.endswith(b"\n")
        return octets

    def finish(self) -> bytes:
        """End the content; said again, it adds nothing."""
        if self._held:
            self._held, self.has_bare_newline, self._ends_line = b"", True, False
        if self._ends_line:
            return b""
        self._ends_line = True
        return b"\r\n"


class BinaryReader(ChunkReader):
    """
    Encodes the binary parts of a content, and judges the line ends of all the rest.

    Shape:   as its base; `problem` says why the content cannot be taken, else it is empty; `octets` counts those that came.
             No bare CR or LF is ever mended here: it could make a delimiter of what was none, and so move the end of a part.
    Source:  RFC 3030 §3.
    """

    __slots__ = ("_converter", "octets", "problem")

    def __init__(self) -> None:
        super().__init__()
        self.octets = 0
        self.problem = ""
        self._converter = BinaryConverter()

    def feed(self, octets: bytes) -> bytes:
        """Take octets from the wire and return octets of the content."""
        self.octets += len(octets)
        return self._converted(self._converter.feed(octets))

    def finish(self) -> bytes:
        """End the content; said again, it adds nothing."""
        return self._converted(self._converter.finish()) + super().finish()

    def _converted(self, octets: bytes) -> bytes:
        self.problem = self._converter.problem
        return super().feed(octets) if octets else b""
