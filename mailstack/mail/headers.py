"""
The header section of a message, read without parsing or changing the message (RFC 5322 §2.2).

Works on octets with CRLF line ends. Bounded: it looks at the first HEADER_OCTETS only, and at MAX_FIELDS fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

HEADER_OCTETS: Final = 262_144  # more than the 100 kB at which Postfix cuts; what lies behind it is treated as body
MAX_FIELDS: Final = 2_000
_FIELD_START: Final = re.compile(rb"(?:\A|\r\n)[!-9;-~]{1,200}[ \t]{0,10}:")

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


def count_fields(section: bytes, name: bytes) -> int:
    """Count the fields of that name (in lower case)."""
    return sum(1 for found, _ in fields(section) if found == name)


def has_field(section: bytes) -> bool:
    """Say whether any line looks like the start of a field; a text that somebody sends without a header section has none."""
    return _FIELD_START.search(section) is not None
