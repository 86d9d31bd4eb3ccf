"""
Shared counts: how many sessions each peer has, over all worker processes, so that a limit holds for the whole server.

One piece of anonymous shared memory, made by the parent, with a region for each worker:

    word 0      1 while the worker accepts connections
    per kind    of service: the number of its sessions, at whichever listener, then a count-min sketch of their peers and their
                networks: ROWS rows of COLUMNS counters
    per tally   a table of `tallies`, which outlives the worker

Each worker writes its own region only, so nobody waits for anybody; to judge it reads all. It counts a session first and then
looks: two workers that admit the last one at the same moment may both withdraw, but never both keep it. The sessions of a
worker that died go with it: the parent clears what it had counted.

Why a sketch: a table of addresses that others read while its owner changes it would need locks. A sketch never counts too
little. It counts too much for a peer only whose counters all are shared by others: with 10,000 peers one in 200, by one. The
hash has a key of its own for each start, so nobody can choose addresses that collide.

Source:  G. Cormode and S. Muthukrishnan, "An improved data stream summary: the count-min sketch", 2005.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from mailstack.net.tallies import TABLE_OCTETS, Tally

ROWS: Final = 4
COLUMNS: Final = 32_768  # 512 KiB for a kind of service of a worker, of which the kernel makes only the pages that are touched
KEY_OCTETS: Final = 16
MARGIN: Final = 2
"""Short sessions come and go; to even out each of them costs more than it gains."""

_WORD_OCTETS: Final = 4
_HEAD_WORDS: Final = 16  # a cache line
_KIND_WORDS: Final = _HEAD_WORDS + ROWS * COLUMNS
_PLACES: Final = struct.Struct(f"={ROWS}I")


class SharedMemory:
    """The regions of all workers."""

    def __init__(self, descriptor: int, *, workers: int, kinds: int, key: bytes, tallies: int = 0) -> None:
        """Map what `create` has made; the descriptor stays the caller's."""
        self.descriptor = descriptor
        self.key = key
        self._workers = workers
        self._counts_octets = _in_pages((_HEAD_WORDS + kinds * _KIND_WORDS) * _WORD_OCTETS)
        self._region_octets = self._counts_octets + tallies * TABLE_OCTETS
        self._region_words = self._region_octets // _WORD_OCTETS
        self._map = mmap.mmap(descriptor, workers * self._region_octets)
        self._octets = memoryview(self._map)
        self._words = self._octets.cast("I")

    @classmethod
    def create(cls, *, workers: int, kinds: int, key: bytes, tallies: int = 0) -> SharedMemory:
        """
        Make the memory, all zero; `key` is KEY_OCTETS random octets.

        Raises:  OSError.
        """
        descriptor = os.memfd_create("mailstack-counts", os.MFD_CLOEXEC)
        counts_octets = _in_pages((_HEAD_WORDS + kinds * _KIND_WORDS) * _WORD_OCTETS)
        os.ftruncate(descriptor, workers * (counts_octets + tallies * TABLE_OCTETS))
        return cls(descriptor, workers=workers, kinds=kinds, key=key, tallies=tallies)

    def counts(self, worker: int, kind: int) -> SharedCounts:
        """Return the counts of a kind of service, as the worker keeps them."""
        first = _HEAD_WORDS + kind * _KIND_WORDS
        return SharedCounts(self._words, self.key, worker * self._region_words + first, self._bases(first), self._bases(0))

    def tally(self, worker: int, number: int, seconds: Callable[[], float]) -> Tally:
        """Return a tally, as the worker keeps it; `seconds` as all workers see it."""
        first = self._counts_octets + number * TABLE_OCTETS
        every = range(first, self._workers * self._region_octets, self._region_octets)
        return Tally(self._octets, self.key, own=every[worker], every=every, seconds=seconds)

    def set_serving(self, worker: int, is_serving: bool) -> None:
        """Say whether the worker accepts connections."""
        self._words[worker * self._region_words] = is_serving

    def clear(self, worker: int) -> None:
        """Forget the sessions of a worker that died."""
        first = worker * self._region_octets
        self._map[first : first + self._counts_octets] = bytes(self._counts_octets)

    def close(self) -> None:
        """Let go of the memory; counts made of it cannot be used any more."""
        self._words.release()
        self._octets.release()
        self._map.close()
        os.close(self.descriptor)

    def _bases(self, word: int) -> range:
        return range(word, self._workers * self._region_words, self._region_words)


class SharedCounts:
    """The counts of one kind of service over all workers, of which one, `own`, is kept here. A `sessions.Counts`."""

    def __init__(self, words: memoryview, key: bytes, own: int, every: Sequence[int], serving: Sequence[int]) -> None:
        self._words = words
        self._key = key
        self._own = own
        self._every = every
        self._others = [(flag, base) for flag, base in zip(serving, every, strict=True) if base != own]

    def admit(self, caps: Mapping[str, int], *, most: int) -> str | None:
        """Count one more under each name, unless there are too many; say of which name, or of all, which is ""."""
        words, places = self._words, {name: self._places(name) for name in caps}
        self._add(places.values(), 1)
        full = None
        if sum(words[base] for base in self._every) > most:
            full = ""
        for name, cap in caps.items():
            if full is None and min(sum(words[base + place] for base in self._every) for place in places[name]) > cap:
                full = name
        if full is not None:
            self._add(places.values(), -1)
        return full

    def leave(self, names: Iterable[str]) -> None:
        """Count one less under each name."""
        self._add([self._places(name) for name in names], -1)

    def has_many_more_than_another(self) -> bool:
        """Say whether another worker that accepts connections has fewer sessions than this one, by more than MARGIN."""
        words = self._words
        own = words[self._own] - MARGIN
        return any(words[base] < own and words[flag] for flag, base in self._others)

    def _add(self, places: Iterable[Sequence[int]], change: int) -> None:
        words, own = self._words, self._own
        words[own] += change
        for each in places:
            for place in each:
                words[own + place] += change

    def _places(self, name: str) -> Sequence[int]:
        """Return the places of a name's counters, one in each row."""
        found = _PLACES.unpack(blake2b(name.encode(), key=self._key, digest_size=_PLACES.size).digest())
        return [_HEAD_WORDS + row * COLUMNS + each % COLUMNS for row, each in enumerate(found)]


def _in_pages(octets: int) -> int:
    """Round up to whole pages, so that two workers never write to the same."""
    return -(-octets // mmap.PAGESIZE) * mmap.PAGESIZE
