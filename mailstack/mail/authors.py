"""
Authors: the mailboxes that a From or Sender field names (RFC 5322 §3.4, §3.6.2; with groups, as RFC 6854 allows them in both).

Read to be judged, so strictly: what programs may read in different ways is refused. Linear and bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from mailstack.mail.address import Address, AddressError, parse_address

FIELD_OCTETS: Final = 16_384
MAILBOXES: Final = 100

# A quoted string, an address literal, an atom with the dots and at signs in it, a special, white space, a comment's beginning.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\[\]\\]*\]|[^\s"()<>,:;\[\]]+|[<>,:;(]|\s+', re.DOTALL)
_IN_COMMENT: Final = re.compile(r"[^()\\]+|\\.|[()]", re.DOTALL)
_SEPARATORS: Final = frozenset(",:;")


def parse_mailboxes(value: bytes) -> tuple[Address, ...]:
    """
    Parse the value of a field that lists mailboxes and groups; folds may be in it.

    Shape:   the addresses, in order, those in groups too. An address that stands unquoted in a display name is one of them,
             since some programs show or take that one.
    Raises:  AddressError: it is no such list, or has more than FIELD_OCTETS or MAILBOXES.
    """
    if len(value) > FIELD_OCTETS:
        raise AddressError("too long")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise AddressError("not UTF-8") from None
    found: list[Address] = []
    part: list[str] = []
    is_in_group = False
    for piece in [*_pieces(text), ","]:
        if piece not in _SEPARATORS:
            part.append(piece)
            continue
        if piece == ":":
            if is_in_group or "<" in part or not "".join(part).strip():
                raise AddressError("a colon out of place")
            found += _shown_in(part)
            is_in_group = True
        else:
            found += _mailbox(part)
            if piece == ";" and not is_in_group:
                raise AddressError("a semicolon out of place")
            is_in_group = is_in_group and piece == ","
        part = []
        if len(found) > MAILBOXES:
            raise AddressError("too many mailboxes")
    if is_in_group:
        raise AddressError("a group without end")
    return tuple(found)


def _mailbox(part: Sequence[str]) -> list[Address]:
    """Parse what stands between two separators: an address, a name and an address in brackets, or nothing (§4.4)."""
    text = "".join(part).strip()
    if not text or "<" not in part:
        return [parse_address(text)] if text else []
    begin = part.index("<")
    end = part.index(">", begin) if ">" in part[begin:] else 0
    if not end or "".join(part[end + 1 :]).strip():
        raise AddressError("brackets out of place")
    return [*_shown_in(part[:begin]), parse_address("".join(part[begin + 1 : end]).strip())]


def _shown_in(name: Sequence[str]) -> list[Address]:
    return [parse_address(word) for word in name if not word.startswith('"') and "@" in word.strip("@")]


def _pieces(text: str) -> Iterator[str]:
    """Cut into tokens; a comment is white space (RFC 5322 §3.2.2)."""
    position, depth = 0, 0
    while position < len(text):
        found = (_IN_COMMENT if depth else _TOKEN).match(text, position)
        if found is None:
            raise AddressError("unbalanced")
        piece, position = found.group(), found.end()
        if piece in ("(", ")"):
            depth += 1 if piece == "(" else -1
            piece = " "
        if not depth:
            yield piece
    if depth:
        raise AddressError("a comment without end")
