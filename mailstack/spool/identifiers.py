"""
Entry identifiers: a number that grows, is never used again, and sorts by time.

    bit 62 ... 10   microseconds since 1970 (enough until the year 2255)
    bit  9 ...  5   the shard: which spool of this machine made it
    bit  4 ...  0   chance

The number is the row's key, so new rows are always appended. Written, it has 13 characters of Crockford's base32 in lower
case. The shard is part of it because local delivery takes the same entry in the same maildir for a repetition: two spools
that share the maildirs must never make the same identifier.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
NAME_LENGTH: Final = 13
SHARDS: Final = 32

_SHARD_BITS: Final = 5
_CHANCE_BITS: Final = 5
_LOW_BITS: Final = _SHARD_BITS + _CHANCE_BITS
_VALUES: Final = {character: value for value, character in enumerate(ALPHABET)}
_PAIRS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)


@lru_cache(maxsize=1024)  # an entry is named several times on its road
def format_number(number: int) -> str:
    """Write an identifier."""
    pairs = _PAIRS  # two characters at a time: this is done for every message
    return (
        ALPHABET[number >> 60 & 31]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
    )


def parse_name(name: str) -> int | None:
    """Return the number of an identifier as written by `format_number`, or None."""
    if len(name) != NAME_LENGTH:
        return None
    number = 0
    for character in name:
        value = _VALUES.get(character)
        if value is None:
            return None
        number = number << 5 | value
    return number if number < 1 << 63 else None


class Identifiers:
    """Makes identifiers, each larger than the last, even when the clock stands still or goes back."""

    def __init__(self, seconds: Callable[[], float], chance: Callable[[], float], shard: int = 0) -> None:
        if not 0 <= shard < SHARDS:
            raise ValueError(f"a shard is a number from 0 to {SHARDS - 1}")
        self._seconds = seconds
        self._chance = chance
        self._shard = shard
        self._last_moment = 0

    def start_after(self, number: int) -> None:
        """Make no identifier at or before the moment of this one."""
        self._last_moment = max(self._last_moment, number >> _LOW_BITS)

    def make(self) -> int:
        """Make one."""
        self._last_moment = moment = max(int(self._seconds() * 1_000_000), self._last_moment + 1)
        return moment << _LOW_BITS | self._shard << _CHANCE_BITS | int(self._chance() * (1 << _CHANCE_BITS))
