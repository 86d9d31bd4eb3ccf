"""A process that is killed at any moment loses nothing that it acknowledged, and repeats nothing without saying so."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from spool_child import Log, LoggingCourier
from spool_house import House

from mailstack.spool.identifiers import parse_name

ROUNDS = 10
LONGEST_SECONDS = 0.4


def run_and_kill(folder: Path, seed: int, after_seconds: float) -> None:
    """Run a child; kill it that long after it has opened the spool."""
    log = folder.with_suffix(".log")
    seen = log.read_text().count("opened") if log.exists() else 0
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("spool_child.py")), str(folder), str(seed)], stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 20
        while not (log.exists() and log.read_text().count("opened") > seen):
            assert child.poll() is None, child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)  # another process: there is no clock to turn
        time.sleep(after_seconds)
        assert child.poll() is None, child.stderr.read().decode()
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


def test_sigkill(tmp_path):
    folder = tmp_path / "spool"
    chances = random.Random(1)
    for number in range(ROUNDS):
        run_and_kill(folder, number, chances.random() * LONGEST_SECONDS)
    log_path = folder.with_suffix(".log")
    killed = [line.split() for line in log_path.read_text().splitlines()]
    acked = [words[1] for words in killed if words[0] == "acked"]
    before = {words[1] for words in killed if words[0] == "delivered"}
    assert len(acked) > 100
    assert len(set(acked)) == len(acked)

    house = House(folder)
    house.courier = LoggingCourier(Log(log_path))
    house.clock.advance(time.time() - house.clock.seconds() + 1)
    house.open(run=False)
    waiting = {entry for (entry,) in house.spool._database._connected().execute("SELECT number FROM entry")}
    files = {parse_name(name) for name in house.files()}
    assert files <= waiting
    missing = {parse_name(entry) for entry in acked} - waiting - {parse_name(entry) for entry in before}
    assert not missing
    house.spool.runner.start()
    assert house.counts().entries == 0
    assert house.counts().corrupt_entries == 0
    assert house.files() == []

    delivered = [line.split()[1:] for line in log_path.read_text().splitlines() if line.startswith("delivered")]
    assert {state for _, _, state in delivered} == {"ok"}
    assert set(acked) <= {entry for entry, _, _ in delivered}
    first = Counter(entry for entry, may_repeat, _ in delivered if may_repeat == "False")
    assert not [entry for entry, times in first.items() if times > 1]
    # Once, and again only with a warning to the courier, who then looks whether it has it already.
    for entry, times in Counter(entry for entry, _, _ in delivered).items():
        warned = sum(1 for other, may_repeat, _ in delivered if other == entry and may_repeat == "True")
        assert times - warned <= 1
