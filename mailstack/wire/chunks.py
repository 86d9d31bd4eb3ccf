"""
Contents that come and go by BDAT (RFC 3030): as many octets as were announced, in which a dot is nothing but a dot.

What a content by DATA cannot be otherwise, one that comes is made: each CR and LF is judged, or made part of a CRLF, and the
last line is ended; of one that was announced as BINARYMIME the binary parts are encoded first. What goes is so already, and is
sent as it is.
"""

from __future__ import annotations

from mailstack.mail.binary import BinaryConverter
from mailstack.mail.crlf import has_bare_newline, normalise_newlines
from mailstack.wire.errors import LocalProtocolError


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


class ChunkWriter:
    """
    Writes a content as one chunk, which is the last.

    Shape:   any cut; together `octets` octets, with CRLF line ends only.
    Raises:  LocalProtocolError: there are more or fewer, or a CR or LF stands alone. Its beginning may be on its way by then:
             cut the connection, so that the host does not take what is missing from what comes next.
    Source:  RFC 3030 §2.
    """

    __slots__ = ("_after_cr", "_begun", "_left")

    def __init__(self, octets: int) -> None:
        self._left = octets
        self._begun = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> bytes:
        """Return what to write for the next octets."""
        if not chunk:
            return b""
        octets = b"\r" + chunk if self._after_cr else chunk
        self._after_cr = chunk.endswith(b"\r")
        if has_bare_newline(octets[:-1] if self._after_cr else octets):
            raise LocalProtocolError("a CR or LF that stands alone")
        head = b"" if self._begun else self._command()
        self._left -= len(chunk)
        if self._left < 0:
            raise LocalProtocolError("more octets than were announced")
        if self._after_cr and not self._left:
            raise LocalProtocolError("a CR that stands alone, at the end")
        return head + chunk

    def finish(self) -> bytes:
        """Return what ends the content."""
        if self._left:
            raise LocalProtocolError("fewer octets than were announced")
        return b"" if self._begun else self._command()

    def _command(self) -> bytes:
        self._begun = True
        return b"BDAT %d LAST\r\n" % self._left
