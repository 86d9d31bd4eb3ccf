"""
Shared counts: how many sessions each peer has, over all worker processes, so that a limit holds for the whole server.

One piece of anonymous shared memory, made by the parent, with a region for each worker:

    word 0         1 while the worker accepts connections
    per listener   the number of its sessions, then a count-min sketch of their peers: ROWS rows of COLUMNS counters

Each worker writes its own region only, so nobody waits for anybody; to judge it reads all. It counts a session first and then
looks: two workers that admit the last one at the same moment may both withdraw, but never both keep it. What a worker that died
had counted goes with its region, which the parent clears.

Why a sketch: a table of addresses that others read while its owner changes it would need locks. A sketch never counts too
little. It counts too much for a peer only whose counters all are shared by others: with 10,000 peers one in 200, by one. The
hash has a key of its own for each start, so nobody can choose addresses that collide.

Source:  G. Cormode and S. Muthukrishnan, "An improved data stream summary: the count-min sketch", 2005.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

ROWS: Final = 4
COLUMNS: Final = 32_768  # 512 KiB for a listener of a worker, of which the kernel makes only the pages that are touched
KEY_OCTETS: Final = 16
MARGIN: Final = 2
"""Short sessions come and go; to even out each of them costs more than it gains."""

_WORD_OCTETS: Final = 4
_HEAD_WORDS: Final = 16  # a cache line
_LISTENER_WORDS: Final = _HEAD_WORDS + ROWS * COLUMNS
_PLACES: Final = struct.Struct(f"={ROWS}I")


class SharedMemory:
    """The regions of all workers."""

    def __init__(self, descriptor: int, *, workers: int, listeners: int, key: bytes) -> None:
        """Map what `create` has made; the descriptor stays the caller's."""
        self.descriptor = descriptor
        self.key = key
        self._workers = workers
        self._listeners = listeners
        self._region_words = _region_words(listeners)
        self._map = mmap.mmap(descriptor, workers * self._region_words * _WORD_OCTETS)
        self._words = memoryview(self._map).cast("I")

    @classmethod
    def create(cls, *, workers: int, listeners: int, key: bytes) -> SharedMemory:
        """
        Make the memory, all zero; `key` is KEY_OCTETS random octets.

        Raises:  OSError.
        """
        descriptor = os.memfd_create("mailstack-counts", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, workers * _region_words(listeners) * _WORD_OCTETS)
        return cls(descriptor, workers=workers, listeners=listeners, key=key)

    def counts(self, worker: int, listener: int) -> SharedCounts:
        """Return the counts of a listener, as the worker keeps them."""
        first = _HEAD_WORDS + listener * _LISTENER_WORDS
        return SharedCounts(self._words, self.key, worker * self._region_words + first, self._bases(first), self._bases(0))

    def set_serving(self, worker: int, is_serving: bool) -> None:
        """Say whether the worker accepts connections."""
        self._words[worker * self._region_words] = is_serving

    def clear(self, worker: int) -> None:
        """Forget what a worker that died had counted."""
        octets = self._region_words * _WORD_OCTETS
        self._map[worker * octets : (worker + 1) * octets] = bytes(octets)

    def close(self) -> None:
        """Let go of the memory; counts made of it cannot be used any more."""
        self._words.release()
        self._map.close()
        os.close(self.descriptor)

    def _bases(self, word: int) -> range:
        return range(word, self._workers * self._region_words, self._region_words)


class SharedCounts:
    """The counts of one listener over all workers, of which one, `own`, is kept here. A `sessions.Counts`."""

    def __init__(self, words: memoryview, key: bytes, own: int, every: Sequence[int], serving: Sequence[int]) -> None:
        self._words = words
        self._key = key
        self._own = own
        self._every = every
        self._others = [(flag, base) for flag, base in zip(serving, every, strict=True) if base != own]

    def admit(self, peer: str, *, most: int, most_per_peer: int) -> bool:
        """Count one more, and say so, unless there are too many; "" is no peer."""
        words, places = self._words, self._places(peer)
        self._add(places, 1)
        is_within = sum(words[base] for base in self._every) <= most and (
            not places or min(sum(words[base + place] for base in self._every) for place in places) <= most_per_peer
        )
        if not is_within:
            self._add(places, -1)
        return is_within

    def leave(self, peer: str) -> None:
        """Count one less."""
        self._add(self._places(peer), -1)

    def has_many_more_than_another(self) -> bool:
        """Say whether another worker that accepts connections has fewer sessions than this one, by more than MARGIN."""
        words = self._words
        own = words[self._own] - MARGIN
        return any(words[base] < own and words[flag] for flag, base in self._others)

    def _add(self, places: Sequence[int], change: int) -> None:
        words, own = self._words, self._own
        words[own] += change
        for place in places:
            words[own + place] += change

    def _places(self, peer: str) -> Sequence[int]:
        """Return the places of a peer's counters, one in each row."""
        if not peer:
            return ()
        found = _PLACES.unpack(blake2b(peer.encode(), key=self._key, digest_size=_PLACES.size).digest())
        return [_HEAD_WORDS + row * COLUMNS + each % COLUMNS for row, each in enumerate(found)]


def _region_words(listeners: int) -> int:
    """Return the words of a worker's region, in whole pages, so that two workers never write to the same."""
    page = mmap.PAGESIZE // _WORD_OCTETS
    return -(-(_HEAD_WORDS + listeners * _LISTENER_WORDS) // page) * page
