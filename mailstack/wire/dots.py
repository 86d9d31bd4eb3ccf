"""
Dot transparency and the end of a content (RFC 5321 §4.5.2).

Both directions work on chunks cut anywhere, with find, count and replace only, never line by line.

Theory of operation. Both hold back the few octets at the end of a chunk whose meaning the next chunk decides: a lone CR when
stuffing; when unstuffing the longest end that could begin CRLF.CRLF. What remains then never cuts a CRLF in two, so each chunk
can be judged alone: every CR and LF is part of a CRLF exactly if the chunk has as many CRLF as CR and as LF.

Only CRLF.CRLF ends a content. Every looser reading (LF.LF, CRLF.LF, CR.CR …) has let mail be smuggled past somebody.
"""

from __future__ import annotations

import re
from typing import Final

from mailstack.mail.crlf import has_bare_newline, normalise_newlines

_END: Final = b"\r\n.\r\n"
_LINE_WITH_DOT: Final = re.compile(rb"\n\.").search  # bytes.find takes half as long again


def dots_doubled(octets: bytes) -> bytes:
    """Double each dot behind a CRLF, in octets that have no other line end; cut anywhere, but for a dot at the very start."""
    if b"." in octets and _LINE_WITH_DOT(octets):  # what is encoded for mail has no dot at all, and that is known at once
        return octets.replace(b"\n.", b"\n..")
    return octets


class DotStuffer:
    """
    Makes a content fit to be sent: doubles the dot at the start of a line, and ends it.

    Shape:   any cut of the input. A bare CR or LF, which should not be there, becomes CRLF *before* dots are looked at, so that
             nothing that was ever stored can end the content early at a lenient receiver. `has_crlf` says that it has been made
             so already; it is then not looked for, which takes most of the time.
    Source:  RFC 5321 §4.5.2; RFC 1939 §3.
    """

    __slots__ = ("_at_line_start", "_has_crlf", "_held")

    def __init__(self, *, has_crlf: bool = False) -> None:
        self._at_line_start = True
        self._has_crlf = has_crlf
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Stuff a chunk."""
        if self._has_crlf:
            return self._doubled(chunk) if chunk else b""
        octets = self._held + chunk if self._held else chunk
        if octets.endswith(b"\r"):
            self._held, octets = b"\r", octets[:-1]
        else:
            self._held = b""
        if not octets:
            return b""
        if has_bare_newline(octets):
            octets = normalise_newlines(octets)
        return self._doubled(octets)

    def _doubled(self, octets: bytes) -> bytes:
        stuffed = dots_doubled(octets)
        if self._at_line_start and octets.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = octets.endswith(b"\n")
        return stuffed

    def finish(self) -> bytes:
        """Return what ends the content: the CRLF of its last line, if it lacks one, and the line with the dot."""
        complete = self._at_line_start and not self._held
        self._held, self._at_line_start = b"", True
        return b".\r\n" if complete else b"\r\n.\r\n"


class DotUnstuffer:
    """
    Finds the end of a content that comes in, and undoes its dot transparency.

    Shape:   `feed` returns the next octets of the content, whole or in part; when `ended`, they are the last, the content ends
             with CRLF or is empty, and `rest` holds the octets behind the end. `has_bare_newline` says that a bare CR or LF
             was seen; with `normalise` each became CRLF, which ends nothing: the end was found before that. A dot behind it
             is undone too, since who sends bare LF doubled it there.
    Source:  RFC 5321 §4.1.1.4, §4.5.2, §2.3.8.
    """

    __slots__ = ("_after_newline", "_held", "_normalise", "_skip", "ended", "has_bare_newline", "rest")

    def __init__(self, *, normalise: bool = False) -> None:
        self.ended = False
        self.rest = b""
        self.has_bare_newline = False
        self._normalise = normalise
        self._after_newline = False  # what was given last ended with a newline that was bare
        # The content starts at the start of a line: pretend that a CRLF came first, and leave it out again.
        self._held = b"\r\n"
        self._skip = 2

    def would_end_in(self, octets: bytes) -> bool:
        """Say whether the content would end in these octets, if they were fed next."""
        return _END in self._held + octets

    def feed(self, octets: bytes) -> bytes:
        """Take octets from the wire and return octets of the content."""
        octets = self._held + octets if self._held else octets
        end = octets.find(_END) if b"." in octets else -1  # an encoded attachment has no dots, and this look costs nothing
        if end >= 0:
            self.ended, self._held = True, b""
            self.rest = octets[end + len(_END) :]
            content = octets[: end + 2]
        else:
            self._held = _possible_end(octets)
            content = octets[: len(octets) - len(self._held)] if self._held else octets
        return self._unstuff(content) if content else b""

    def _unstuff(self, content: bytes) -> bytes:
        if has_bare_newline(content):
            self.has_bare_newline = True
            if self._normalise:
                content = normalise_newlines(content)
        if self._after_newline and content.startswith(b"."):
            content = content[1:]
        self._after_newline = self._normalise and content.endswith(b"\r\n")
        if b"." in content:
            content = content.replace(b"\r\n.", b"\r\n")
        if self._skip:
            content, self._skip = content[self._skip :], 0
        return content


def _possible_end(octets: bytes) -> bytes:
    """Return the longest end of the octets that is a proper beginning of CRLF.CRLF."""
    tail = octets[-4:]
    start = tail.find(b"\r")
    while start >= 0:
        if _END.startswith(tail[start:]):
            return tail[start:]
        start = tail.find(b"\r", start + 1)
    return b""
