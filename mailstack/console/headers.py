"""
What is shown of a header section: a subject in letters, a Message-ID, and the section itself on lines. Pure.

All of it was written by others, in any length and any charset, and is shown as far as it makes sense.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final

from mailstack.mail.headers import field_values

RAW_OCTETS: Final = 2_000
"""So much of a value is looked at."""
CHARACTERS: Final = 400


def subject_of(section: bytes) -> str | None:
    """Return the subject in letters (RFC 2047), or as it stands there; None: there is none."""
    raw = _first(section, b"subject")
    if raw is None:
        return None
    try:
        text = "".join(_in_letters(octets, charset) for octets, charset in decode_header(raw))
    except (HeaderParseError, LookupError, ValueError):
        text = ""
    return (text or raw)[:CHARACTERS]


def message_id_of(section: bytes) -> str | None:
    """Return the Message-ID; None: there is none."""
    raw = _first(section, b"message-id")
    return None if raw is None else raw[:CHARACTERS]


def lines_of(section: bytes) -> Iterator[str]:
    """Yield the lines of a section, printable."""
    for line in section.removesuffix(b"\r\n").split(b"\r\n"):
        text = line.decode("utf-8", "replace").expandtabs()
        yield "".join(c if c.isprintable() else "?" for c in text)


def _first(section: bytes, name: bytes) -> str | None:
    values = field_values(section, name)
    if not values:
        return None
    return values[0][:RAW_OCTETS].decode("utf-8", "replace").replace("\r\n", "").strip()


def _in_letters(octets: bytes | str, charset: str | None) -> str:
    if isinstance(octets, str):
        return octets
    # Without a charset it is what decode_header has itself made octets of, in the charset of Python's literals.
    return octets.decode(charset, "replace") if charset else octets.decode("raw-unicode-escape", "replace")
