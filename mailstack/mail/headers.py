"""
The header section of a message, read without parsing or changing the message (RFC 5322 §2.2).

Works on octets with CRLF line ends. Bounded: it looks at the first HEADER_OCTETS only, and at MAX_FIELDS fields.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final

HEADER_OCTETS: Final = 262_144  # more than the 100 kB at which Postfix cuts; what lies behind it is treated as body
MAX_FIELDS: Final = 2_000
VALUES: Final = 20
_FIELD_START: Final = re.compile(rb"(?:\A|\r\n)[!-9;-~]{1,200}[ \t]{0,10}:")

# The last is a line of a mailbox file. All of it must fit into _FIRST_LINE_OCTETS, which is as far as is looked in any case.
_BEGINNING: Final = re.compile(rb"\r\n(?:\r\n|[!-9;-~]{1,900}[ \t]{0,50}:|>?From )")
_FIRST_LINE_OCTETS: Final = 1_000

# Where a field ends: the CRLF that is not of a fold. Both at the speed of the search, whatever a peer puts into a section.
_END_OF_FIELD: Final = re.compile(rb"\r\n(?![ \t])")
_NAME: Final = re.compile(rb"[!-~]++")


def header_section(content: bytes) -> bytes:
    """Return the header section of a message's first octets, with its last CRLF and without the empty line."""
    if content.startswith(b"\r\n"):
        return b""
    end = content.find(b"\r\n\r\n", 0, HEADER_OCTETS)
    return content[: end + 2] if end >= 0 else content[:HEADER_OCTETS]


def fields(section: bytes) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield (name in lower case, raw value) of each field; a value keeps its folds. Stops at the first line that is no field.

    Source:  RFC 5322 §2.2, and the white space before the colon of its obsolete §4.5.
    """
    position, seen = 0, 0
    while position < len(section) and seen < MAX_FIELDS:
        found = _END_OF_FIELD.search(section, position)
        end = found.start() if found else len(section)
        name, colon, value = section[position:end].partition(b":")
        name = name.rstrip(b" \t")
        if not colon or not _NAME.fullmatch(name):
            return
        yield name.lower(), value
        position, seen = end + 2, seen + 1


def field_values(section: bytes, name: bytes) -> list[bytes]:
    """
    Return the raw value of each field of that name, at most VALUES: more is not looked at, so more than one should not count.

    Shape:   also of those that stand behind a line that is no field, since many programs read on there.
    """
    begin = re.compile(rb"(?:\A|\r\n)" + re.escape(name) + rb"[ \t]*:", re.IGNORECASE)
    values = []
    for found in itertools.islice(begin.finditer(section), VALUES):
        end = _END_OF_FIELD.search(section, found.end())
        values.append(section[found.end() : end.start() if end else len(section)])
    return values


def count_fields(section: bytes, name: bytes) -> int:
    """Count the fields of that name (in lower case)."""
    return sum(1 for found, _ in fields(section) if found == name)


def has_field(section: bytes) -> bool:
    """Say whether any line looks like the start of a field; a text that somebody sends without a header section has none."""
    return _FIELD_START.search(section) is not None


class HeaderMeter:
    """
    Measures the header section of a content that comes in pieces, cut anywhere, and keeps none of it.

    Shape:   `octets` and `fields` count what certainly belongs to it, so they never sink: the last three octets wait for the
             next. Each line that is no fold is a field. `is_over` says that its end was seen, or that there is none, since a
             text whose first line is no field is all body.
    Source:  RFC 5322 §2.1, §2.2.
    """

    __slots__ = ("_begun", "_counted", "_tail", "fields", "is_over", "octets")

    def __init__(self) -> None:
        self.octets = -2
        self.fields = 0
        self.is_over = False
        self._begun = False
        self._tail = b"\r\n"  # as if a line came before the first
        self._counted = 0  # from there on the lines of the tail are not counted yet

    def feed(self, octets: bytes) -> None:
        """Take octets of the content."""
        if self.is_over:
            return
        octets = self._tail + octets
        if not self._begun:
            if octets.find(b"\r\n", 2) < 0 and len(octets) < _FIRST_LINE_OCTETS:
                self._tail = octets
                return
            self._begun = _BEGINNING.match(octets) is not None
            self.is_over = not self._begun
            if self.is_over:
                return
        end = octets.find(b"\r\n\r\n")
        self.is_over = end >= 0
        # A line counts when its first octet is there, since it may be a fold; and a CR there may be the end of the section.
        known = end if self.is_over else len(octets) - (3 if octets.endswith(b"\r\n\r") else 2)
        self.fields += octets.count(b"\r\n", self._counted, known + 1)
        self.fields -= octets.count(b"\r\n ", self._counted, known + 2) + octets.count(b"\r\n\t", self._counted, known + 2)
        self._tail = octets[-3:]
        self._counted = known - (len(octets) - len(self._tail))
        self.octets += end + 2 if self.is_over else len(octets) - len(self._tail)
