"""What one message costs in a maildrop of many."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

from mailstack.store.maildrop import Maildrop
from mailstack.store.names import delivery_name

MESSAGES = 8_000
OCTETS = b"Subject: one of many\r\n\r\n"


def test_reading_one_message_costs_nothing_for_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "box" / "new"
    folder.mkdir(parents=True)
    for number in range(MESSAGES):
        name = delivery_name(f"{number:013d}", 0, float(number), "host", len(OCTETS))
        (folder / name).write_bytes(OCTETS)
    drop = Maildrop.open(tmp_path / "box", now=time.time)
    drop.read(0)

    tracemalloc.start()
    try:
        assert drop.read(1) == OCTETS
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        drop.close()
    assert peak < 200_000  # the octets that SMALL_OCTETS asks for, and little more
