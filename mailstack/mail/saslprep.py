"""
SASLprep: one form for names and passwords that look the same, so that both sides of a login hash the same octets.

Code points that Unicode 3.2 did not know are let through, as for queries (RFC 3454 §7): a password may hold an emoji.

Source:  RFC 4013; RFC 3454 for the tables.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable
from typing import Final

_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (  # RFC 4013 §2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str) -> str | None:
    """Return the form of a text in which it is compared, or None when it holds what it must not, such as control characters."""
    if text.isascii():
        return text if text.isprintable() else None
    mapped = "".join(
        " " if stringprep.in_table_c12(each) else each for each in text if not stringprep.in_table_b1(each)
    )  # RFC 4013 §2.1
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(is_in(each) for each in prepared for is_in in _PROHIBITED) or not _is_one_direction(prepared):
        return None
    return prepared


def _is_one_direction(text: str) -> bool:
    """Say whether text from right to left is that only, and begins and ends so (RFC 3454 §6)."""
    if not any(stringprep.in_table_d1(each) for each in text):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(stringprep.in_table_d2(each) for each in text)
