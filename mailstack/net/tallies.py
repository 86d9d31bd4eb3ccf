"""
Tallies: how often something has happened within a while, by name, over all worker processes, in memory of a fixed size.

A tally is a table of BUCKETS buckets with WAYS places each; a place holds a fingerprint of the name, the second in which its
window began, and a count. Each worker writes into a table of its own and reads those of all, so nobody waits for anybody, as in
`shared_counts`. What is read while another writes may be off by one event, or once be that of another name. Only to forget a
name does a worker write into the tables of others: one number, to 0. Should its owner count at that moment, it may be lost.

Why a table of exact names and no sketch: counts of failures must not be those of others, or many strangers could lock out
somebody who did nothing. Why it cannot grow: where a bucket is full, the name with the lowest count gives way, then the oldest.
So who comes with many names cannot push out one that has counted up; he can only make others of a single event be forgotten.
The hash has a key of its own for each start, so nobody can choose names that fall into one bucket.

A window begins with the first event that falls into none, and ends when its time is over: at most twice as many events as
allowed fit into such a time anywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

WAYS: Final = 8
BUCKETS: Final = 4_096
_BUCKET: Final = struct.Struct(f"={WAYS}Q{WAYS}I{WAYS}I")  # fingerprints, seconds, counts
_FINGERPRINT: Final = struct.Struct("=Q")
_NUMBER: Final = struct.Struct("=I")
_NAME: Final = struct.Struct("=QI")
_SECONDS_AT: Final = WAYS * _FINGERPRINT.size
_COUNTS_AT: Final = _SECONDS_AT + WAYS * _NUMBER.size
_MOST: Final = 2**32 - 1
TABLE_OCTETS: Final = BUCKETS * _BUCKET.size  # 512 KiB, of which the kernel makes only the pages that are touched


class Tally:
    """
    Counts events by name.

    Shape:   `memory` has a table of TABLE_OCTETS at each of `every`, and the one at `own` is ours to write; `key` keeps others
             from choosing places; `seconds` is a monotonic clock that all workers share, and never negative.
    """

    def __init__(self, memory: memoryview, key: bytes, *, own: int, every: Sequence[int], seconds: Callable[[], float]) -> None:
        self._memory = memory
        self._key = key
        self._own = own
        self._every = every
        self._seconds = seconds

    @classmethod
    def alone(cls, key: bytes, seconds: Callable[[], float]) -> Tally:
        """Make the tally of a process that shares it with none."""
        return cls(memoryview(bytearray(TABLE_OCTETS)), key, own=0, every=(0,), seconds=seconds)

    def add(self, name: str, window_seconds: int) -> int:
        """Count one more, and return how many there are now."""
        fingerprint, place = self._place(name)
        now, at = int(self._seconds()), self._own + place
        found = _BUCKET.unpack_from(self._memory, at)
        way, count = _way(found, fingerprint, now, window_seconds)
        if not count:
            _NUMBER.pack_into(self._memory, at + _COUNTS_AT + way * _NUMBER.size, 0)
            _FINGERPRINT.pack_into(self._memory, at + way * _FINGERPRINT.size, fingerprint)
            _NUMBER.pack_into(self._memory, at + _SECONDS_AT + way * _NUMBER.size, now)
        _NUMBER.pack_into(self._memory, at + _COUNTS_AT + way * _NUMBER.size, min(count + 1, _MOST))
        return self._count(fingerprint, place, now, window_seconds)

    def count(self, name: str, window_seconds: int) -> int:
        """Return how many there are."""
        fingerprint, place = self._place(name)
        return self._count(fingerprint, place, int(self._seconds()), window_seconds)

    def forget(self, name: str) -> None:
        """Count none any more, in the tables of all."""
        fingerprint, place = self._place(name)
        for base in self._every:
            found = _BUCKET.unpack_from(self._memory, base + place)
            if fingerprint in found[:WAYS]:
                at = base + place + _COUNTS_AT + found.index(fingerprint) * _NUMBER.size
                _NUMBER.pack_into(self._memory, at, 0)

    def _count(self, fingerprint: int, place: int, now: int, window_seconds: int) -> int:
        total = 0
        for base in self._every:
            found = _BUCKET.unpack_from(self._memory, base + place)
            if fingerprint in found[:WAYS]:
                way = found.index(fingerprint)
                total += found[2 * WAYS + way] if now - found[WAYS + way] < window_seconds else 0
        return total

    def _place(self, name: str) -> tuple[int, int]:
        fingerprint, bucket = _NAME.unpack(blake2b(name.encode(), key=self._key, digest_size=_NAME.size).digest())
        return fingerprint or 1, bucket % BUCKETS * _BUCKET.size  # 0 stands for nobody


def _way(found: Sequence[int], fingerprint: int, now: int, window_seconds: int) -> tuple[int, int]:
    """Return the place of a name in its bucket, or that of the one who gives way, and what is counted there of the name."""
    counts = [found[2 * WAYS + way] if now - found[WAYS + way] < window_seconds else 0 for way in range(WAYS)]
    if fingerprint in found[:WAYS]:
        way = found.index(fingerprint)
        return way, counts[way]
    return min(range(WAYS), key=lambda way: (counts[way], found[WAYS + way])), 0
