"""
Shards: the folders of the spools that the workers of one installation have.

    spool/           the spool of worker 0
    spool/shard-K/   that of worker K, for K from 1

Fewer workers than before leave spools without a worker behind, and mail may wait in them. Spool S is then run, but not added
to, by worker S modulo their number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mailstack.spool.failures import SpoolError, describe
from mailstack.spool.identifiers import SHARDS

_PREFIX: Final = "shard-"


def shard_folder(spool: Path, shard: int) -> Path:
    """Name the folder of a shard."""
    return spool / f"{_PREFIX}{shard}" if shard else spool


def shards_on_disk(spool: Path) -> list[int]:
    """
    Return the shards that exist, but for the first, in order.

    Raises:  OSError: the folder cannot be read; one that does not exist has none.
    """
    try:
        names = {each.name for each in spool.iterdir()}
    except FileNotFoundError:
        return []
    return [shard for shard in range(1, SHARDS) if shard_folder(spool, shard).name in names]


def left_over(spool: Path, *, worker: int, workers: int) -> list[int]:
    """
    Return the shards without a worker of their own that fall to this one.

    Raises:  SpoolError: the folder cannot be read.
    """
    try:
        found = shards_on_disk(spool)
    except OSError as error:
        raise SpoolError(f"{spool}: {describe(error)}") from error
    return [shard for shard in found if shard >= workers and shard % workers == worker]
