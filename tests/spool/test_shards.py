"""Shards: whose a spool is, for any number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.settings_kinds import MOST_WORKERS
from mailstack.spool.failures import SpoolError
from mailstack.spool.identifiers import SHARDS
from mailstack.spool.shards import left_over, shard_folder, shards_on_disk


def test_there_are_as_many_as_there_may_be_workers() -> None:
    assert SHARDS == MOST_WORKERS


def test_the_first_is_the_folder_itself(tmp_path: Path) -> None:
    assert shard_folder(tmp_path, 0) == tmp_path
    assert shard_folder(tmp_path, 7) == tmp_path / "shard-7"


def test_only_what_is_named_like_one_is_one(tmp_path: Path) -> None:
    for name in ("shard-2", "shard-31", "shard-0", "shard-32", "shard-02", "shard-x", "content", "shard-1.old"):
        (tmp_path / name).mkdir()
    assert shards_on_disk(tmp_path) == [2, 31]
    assert shards_on_disk(tmp_path / "nothing") == []


@pytest.mark.parametrize("workers", range(1, 9))
def test_each_that_is_left_over_falls_to_one_worker(tmp_path: Path, workers: int) -> None:
    for shard in range(1, 8):
        shard_folder(tmp_path, shard).mkdir()
    theirs = [left_over(tmp_path, worker=worker, workers=workers) for worker in range(workers)]
    assert sorted(shard for each in theirs for shard in each) == list(range(workers, 8))


def test_a_spool_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"")
    with pytest.raises(SpoolError, match="spool"):
        left_over(tmp_path / "spool", worker=0, workers=1)
