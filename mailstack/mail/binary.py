"""
Binary MIME made fit for every mailbox and every host: each binary part is encoded in base64, while it comes in.

A content that was sent as BINARYMIME (RFC 3030 §3) may hold any octets in those parts whose Content-Transfer-Encoding is
binary. Here these become base64, and the field says so; a composite that is labelled binary, whose encoding nobody may change,
is labelled 8bit (RFC 2045 §6.4). Every other octet stays as it is, and in its place.

Theory of operation. A content is read once, from left to right, as one of two things. A *header section* is kept until its end
is known, since a field at its end may say what to do about one at its beginning; then it is read by `mime`. A *body* is passed
on, as it is or encoded, and searched for the delimiter lines of the multiparts that it stands in; so what is held back of it is
no longer than such a line. As RFC 2046 §5.1.2 wants, the delimiter of an outer multipart ends all that is within. Only CRLF
ends a line, and a delimiter is the whole of its line, so nothing that looks like one in binary octets ends them. What is passed
on depends on the octets that came, and not on the pieces in which they came.

Bounded: the length of a header section, the depth, the number of entities. What is beyond that, or has no certain structure, is
a problem: then nothing more is passed on, and the content must be refused. A CR or LF outside of binary parts that is not part
of a CRLF is passed on, too; whoever wants none looks for them in what comes out.

Deviates: RFC 2046 §5.1.1 is content with a line that begins with a delimiter. Readers of mail want the whole of it, and in
binary octets anything may stand behind.
"""

from __future__ import annotations

import binascii
import re
import struct
from functools import lru_cache
from typing import Final

from mailstack.mail.headers import HEADER_OCTETS
from mailstack.mail.mime import BASE64, BOUNDARY_OCTETS, Kind, MimeError, parse_entity, relabel

DEPTH: Final = 32
ENTITIES: Final = 10_000
PADDING_OCTETS: Final = 100  # white space behind a delimiter (RFC 2046 §5.1.1); with more of it a line is none
LINE_OCTETS: Final = BOUNDARY_OCTETS + len(b"--") + PADDING_OCTETS

# A delimiter line, perhaps, behind the CRLF of the line before or at the start of a line; and what may become one.
_CANDIDATE: Final = re.compile(rb"\r\n--([^\r\n]{1,%d}+)\r\n" % LINE_OCTETS)
_HALF_CANDIDATE: Final = re.compile(rb"\r(?:\n(?:-(?:-[^\r\n]{0,%d}+\r?)?)?)?\Z" % LINE_OCTETS)
_HALF_CANDIDATE_OCTETS: Final = LINE_OCTETS + len(b"\r\n--\r")
_FIRST_LINE: Final = re.compile(rb"--([^\r\n]{1,%d}+)\r\n" % LINE_OCTETS)
_HALF_FIRST_LINE: Final = re.compile(rb"(?:-(?:-[^\r\n]{0,%d}+\r?)?)?\Z" % LINE_OCTETS)

# Whole lines of a header section, but for those that could be delimiters; the beginning of a field; what may become one.
_FIELD_LINES: Final = re.compile(rb"(?:(?:(?!--)[!-9;-~]{1,900}+[ \t]{0,50}+:|[ \t])[^\r\n]*+\r\n)*+")
_FIELD: Final = re.compile(rb"[!-9;-~]{1,900}+[ \t]{0,50}+:")
_HALF_FIELD: Final = re.compile(rb"(?:\r|[!-9;-~]{0,900}+[ \t]{0,50}+)\Z")
_FOLD: Final = (b" ", b"\t")

_GROUP_OCTETS: Final = 57  # become a line of 76 (RFC 2045 §6.8)


def encoded_octets(octets: int) -> int:
    """Return about how long so many octets become, if they are one binary part."""
    return octets * 78 // _GROUP_OCTETS


class Base64Lines:
    """
    Encodes octets that come in pieces.

    Shape:   `feed` and `finish` return lines of 76 octets with CRLF between them, and none behind the last.
    Source:  RFC 2045 §6.8.
    """

    __slots__ = ("_has_begun", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._has_begun = False

    def feed(self, octets: bytes) -> bytes:
        """Encode a piece; some octets wait for the next."""
        octets = self._rest + octets if self._rest else octets
        lines = len(octets) // _GROUP_OCTETS
        self._rest = octets[lines * _GROUP_OCTETS :]
        if not lines:
            return b""
        encoded = binascii.b2a_base64(octets[: lines * _GROUP_OCTETS], newline=False)
        return self._behind(b"\r\n".join(_lines_of_76(lines).unpack(encoded)))

    def finish(self) -> bytes:
        """Encode what is left."""
        rest, self._rest = self._rest, b""
        return self._behind(binascii.b2a_base64(rest, newline=False)) if rest else b""

    def _behind(self, encoded: bytes) -> bytes:
        has_begun, self._has_begun = self._has_begun, True
        return b"\r\n" + encoded if has_begun else encoded


@lru_cache(maxsize=16)  # pieces have few different lengths
def _lines_of_76(lines: int) -> struct.Struct:
    return struct.Struct("76s" * lines)


class BinaryConverter:
    """
    Encodes the binary parts of a content that is cut anywhere.

    Shape:   `feed` returns the next octets, `finish` the last. `problem` says why the content cannot be converted, else it is
             empty; from then on nothing is returned.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._held = b""  # of a body: what may be a delimiter; of a header section: the beginning of a line
        self._section: bytearray | None = bytearray()  # the lines of a header section; None in a body
        self._is_in_field = False  # the last of them goes on
        self._is_at_start = False  # of a body, where a delimiter needs no CRLF in front
        self._base64: Base64Lines | None = None
        self._entities = 1
        self._is_in_digest = False
        self._open: list[tuple[bytes, bool]] = []  # boundary and whether it is a digest; of a message within another b""
        self._places: dict[bytes, int] = {}  # of each boundary in it; the outermost, if one stands there twice

    def feed(self, octets: bytes) -> bytes:
        """Take octets of the content, and return octets of what it becomes."""
        if self.problem:
            return b""
        if self._held:
            octets, self._held = self._held + octets, b""
        given: list[bytes] = []
        position = 0
        try:
            while position >= 0:
                read = self._read_body if self._section is None else self._read_header
                position = read(octets, position, given)
        except MimeError as error:
            self.problem = str(error)
        return b"".join(given)

    def finish(self) -> bytes:
        """End the content; said again, it adds nothing."""
        given: list[bytes] = []
        try:
            while self._section is not None and not self.problem:
                self._finish_header(given)
        except MimeError as error:
            self.problem = str(error)
        if not self.problem:
            self._finish_body(given)
        return b"".join(given)

    # Header sections. What reads returns where to go on, or -1 when it needs more octets.

    def _read_header(self, octets: bytes, position: int, given: list[bytes]) -> int:
        while True:
            if self._is_in_field:
                end = octets.find(b"\r\n", position)
                if end < 0:
                    end = len(octets) - octets.endswith(b"\r")
                    self._keep(octets[position:end])
                    return self._wait(octets, end)
                self._keep(octets[position : end + 2])
                self._is_in_field, position = False, end + 2
            if self._section or not octets.startswith(_FOLD, position):
                lines = _FIELD_LINES.match(octets, position)
                assert lines is not None, "it may match nothing"
                self._keep(lines[0])
                position = lines.end()
            if octets.startswith(b"\r\n", position):
                self._end_header(b"\r\n", given)
                return position + 2
            if _HALF_FIELD.match(octets, position):
                return self._wait(octets, position)
            is_field = self._goes_on(octets, position)
            if is_field and octets.startswith(b"--", position) and _HALF_FIRST_LINE.match(octets, position):
                return self._wait(octets, position)
            if not is_field or self._place(_FIRST_LINE.match(octets, position)) is not None:
                self._end_header(b"", given)  # as for most readers: what is no field is body
                return position
            self._is_in_field = True

    def _goes_on(self, octets: bytes, position: int) -> bool:
        """Say whether a line begins a field, or goes on with one."""
        return _FIELD.match(octets, position) is not None or (bool(self._section) and octets.startswith(_FOLD, position))

    def _keep(self, octets: bytes) -> None:
        assert self._section is not None, "a header section is read"
        self._section += octets
        if len(self._section) > HEADER_OCTETS:
            raise MimeError("A header section of a binary message is too long")

    def _wait(self, octets: bytes, position: int) -> int:
        self._held = octets[position:]
        return -1

    def _end_header(self, end: bytes, given: list[bytes]) -> None:
        """Find out what the body is, and begin it."""
        section = bytes(self._section or b"")
        entity = parse_entity(section, is_in_digest=self._is_in_digest)
        given += (section if entity.encoding is None else relabel(section, entity.encoding), end)
        self._section, self._is_at_start, self._is_in_digest = None, True, False
        if entity.kind is Kind.LEAF:
            self._base64 = Base64Lines() if entity.encoding == BASE64 else None
            return
        if len(self._open) == DEPTH:
            raise MimeError("The parts of a binary message are nested too deep")
        self._now_open([*self._open, (entity.boundary, entity.is_digest)])
        if entity.kind is Kind.MESSAGE:
            self._begin_entity()

    def _begin_entity(self) -> None:
        self._entities += 1
        if self._entities > ENTITIES:
            raise MimeError("A binary message has too many parts")
        self._section = bytearray()

    def _finish_header(self, given: list[bytes]) -> None:
        held = self._held
        is_last = self._goes_on(held, 0) and self._place(_FIRST_LINE.match(held + b"\r\n")) is None
        if self._is_in_field or is_last:
            self._keep(held)
            self._held, self._is_in_field = b"", False
        self._end_header(b"", given)

    # Bodies

    def _read_body(self, octets: bytes, position: int, given: list[bytes]) -> int:
        if self._is_at_start:
            if _HALF_FIRST_LINE.match(octets, position):
                return self._wait(octets, position)
            self._is_at_start = False
            line = _FIRST_LINE.match(octets, position)
            if line is not None and (place := self._place(line)) is not None:
                return self._end_part(line, place, given)
        searched = position
        while line := _CANDIDATE.search(octets, searched):
            if (place := self._place(line)) is not None:
                self._give(octets[position : line.start()], given)
                return self._end_part(line, place, given)
            searched = line.end() - 2
        half = _HALF_CANDIDATE.search(octets, max(searched, len(octets) - _HALF_CANDIDATE_OCTETS))
        end = half.start() if half else len(octets)
        self._give(octets[position:end], given)
        return self._wait(octets, end)

    def _give(self, octets: bytes, given: list[bytes]) -> None:
        given.append(octets if self._base64 is None else self._base64.feed(octets))

    def _end_leaf(self, given: list[bytes]) -> None:
        if self._base64 is not None:
            given.append(self._base64.finish())
            self._base64 = None

    def _end_part(self, line: re.Match[bytes], place: tuple[int, bool], given: list[bytes]) -> int:
        """End what a delimiter ends, and begin what stands behind it: a part, or what follows the last."""
        self._end_leaf(given)
        given.append(line[0])
        multipart, is_last = place
        self._now_open(self._open[: multipart if is_last else multipart + 1])
        if is_last:
            self._is_at_start = True
        else:
            self._is_in_digest = self._open[multipart][1]
            self._begin_entity()
        return line.end()

    def _finish_body(self, given: list[bytes]) -> None:
        held, self._held = self._held, b""
        line = (_FIRST_LINE if self._is_at_start else _CANDIDATE).match(held + b"\r\n")
        self._is_at_start = False
        if self._place(line) is not None:  # the last line needs no CRLF
            self._end_leaf(given)
        self._give(held, given)
        self._end_leaf(given)

    # What is open

    def _place(self, line: re.Match[bytes] | None) -> tuple[int, bool] | None:
        """Return the place in `_open` of the multipart of which this is a delimiter, and whether it is the last one."""
        if line is None or not self._open:
            return None
        text = line[1].rstrip(b" \t")
        last = self._places.get(text[:-2]) if text.endswith(b"--") else None
        other = self._places.get(text)
        if last is not None and (other is None or last < other):
            return last, True
        return None if other is None else (other, False)

    def _now_open(self, multiparts: list[tuple[bytes, bool]]) -> None:
        self._open = multiparts
        self._places = {boundary: place for place, (boundary, _) in reversed(list(enumerate(multiparts))) if boundary}
