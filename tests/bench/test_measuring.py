"""What the bench makes of what it sees: ratios, checks of what arrived, the calls before the 250, the lines of our log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench import contents, processes, report
from bench.alone import Figure, _slope
from bench.durability import _flushes
from bench.programs import LoadError
from bench.rounds import Measured, Result, Workload
from bench.servers import Ours

NOBODY: Any = None
WORKLOAD = Workload("w", "Peer", "about", "msg/s", NOBODY, NOBODY, NOBODY)
SAMPLE = b"Subject: load\r\nMessage-ID: <0000000000@load.test>\r\n\r\nbody\r\n"


def result(ours: list[float], theirs: list[float]) -> Result:
    return Result(
        WORKLOAD, [Measured(x, 1) for x in ours], [Measured(x, 1) for x in theirs], {"mailstack": ["fsync(x)"]}, (1, 2), 3
    )


def test_the_ratio_is_taken_in_each_round_and_the_median_counts() -> None:
    document = report.as_json(result([10, 40, 30], [10, 10, 10]))
    assert document["rounds"]["ratio"] == [1, 4, 3]
    assert document["ratio"] == {"median": 3, "least": 1, "most": 4}


def test_the_table_has_a_line_for_each() -> None:
    head, line = report.table([result([1000], [500])]).split("\n")
    assert line.split() == [
        "w",
        "Peer",
        "msg/s",
        "1,000",
        "500",
        "2.00",
        "2.00",
        "2.00",
        "0.000",
        "0.000",
        "1.0",
        "ms",
        "2.0",
        "ms",
    ]
    assert head.split()[:3] == ["workload", "peer", "unit"]
    assert "fsync(x)" in report.table_durable([result([1], [1])])
    assert report.table_alone({"idle": [Figure("memory", 2.5, "kB")]}).split("\n")[1].split() == [
        "idle",
        "memory",
        "2.50",
        "kB",
    ]
    assert report.drawn([], {}) == ""


def test_it_warns_of_figures_that_were_taken_while_others_used_the_machine() -> None:
    quiet = result([1], [1])
    noisy = Result(WORKLOAD, [Measured(1, 1, others_cores=1.5)], [Measured(1, 1, others_cores=1.1)], {}, None, 0)
    assert report.warning([quiet]) == ""
    assert "w (1.5)" in report.drawn([quiet, noisy], {})


class TestWhatArrived:
    @staticmethod
    def store(folder: Path, name: str, octets: bytes) -> Path:
        (folder / name).write_bytes(octets)
        return folder / name

    def test_whole_and_once_is_right_whatever_the_line_ends(self, tmp_path: Path) -> None:
        one = self.store(tmp_path, "1", b"Received: here\r\n" + SAMPLE)
        other = self.store(tmp_path, "2", b"Received: x\n" + SAMPLE.replace(b"\r\n", b"\n").replace(b"0" * 10, b"0000000001"))
        contents.check_smtp_load([one, other], SAMPLE, {0: 1, 1: 1})

    @pytest.mark.parametrize(
        ("octets", "counts"),
        [
            (SAMPLE, {0: 1, 1: 1}),
            (SAMPLE, {0: 2}),
            (SAMPLE, {}),
            (SAMPLE[:-3], {0: 1}),
            (SAMPLE.replace(b"body", b"bodx"), {0: 1}),
            (SAMPLE + b"more", {0: 1}),
        ],
        ids=["missing", "once of twice", "too many", "cut off", "changed", "longer"],
    )
    def test_anything_else_is_not(self, tmp_path: Path, octets: bytes, counts: dict[int, int]) -> None:
        with pytest.raises(LoadError):
            contents.check_smtp_load([self.store(tmp_path, "1", octets)], SAMPLE, counts)

    @pytest.mark.parametrize(("cut", "messages", "is_right"), [(0, 1, True), (4, 1, False), (0, 2, False)])
    def test_messages_of_smtp_source(self, tmp_path: Path, cut: int, messages: int, is_right: bool) -> None:
        body = (b"1" + b"X" * 77 + b"\r\n" + b"X" * 78 + b"\r\n" + b"X" * 40)[: 200 - cut] + b"\r\n"
        file = self.store(tmp_path, "1", b"From: x\r\nMessage-Id: <1a.2.3@host>\r\n\r\n" + body)
        if is_right:
            contents.check_smtp_source([file], 200, messages)
        else:
            with pytest.raises(LoadError):
                contents.check_smtp_source([file], 200, messages)

    def test_a_filled_maildrop_has_the_sizes_that_it_says(self, tmp_path: Path) -> None:
        contents.fill(tmp_path, 3, 500)
        files = contents.files_in(tmp_path)
        assert len({file.name for file in files}) == 3
        assert all(file.stat().st_size == 500 and ",S=500,W=500:2,S" in file.name for file in files)
        assert all(file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n") for file in files)


class TestTheCallsBeforeThe250:
    DATA = '7 1.0 sendto(9<TCP:[1]>, "354 go ahead\\r\\n", 14, 0, NULL, 0) = 14'
    DONE = '7 1.9 sendto(9<TCP:[1]>, "250 2.0.0 ok\\r\\n", 14, 0, NULL, 0) = 14'

    def test_only_what_ended_between_counts(self) -> None:
        lines = [
            "7 0.1 fsync(3</spool/early>) = 0",
            '7 0.2 sendto(9<TCP:[1]>, "250 ok\\r\\n", 8, 0, NULL, 0) = 8',
            self.DATA,
            "8 1.1 fdatasync(4</var/spool/spool.db-wal> <unfinished ...>",
            "9 1.2 syncfs(5</var/mail/new>) = 0",
            "8 1.3 <... fdatasync resumed>) = 0",
            "8 1.4 fsync(6</var/late> <unfinished ...>",
            self.DONE,
            "8 2.0 <... fsync resumed>) = 0",
        ]
        assert _flushes(lines) == ["syncfs(var/mail/new)", "fdatasync(var/spool/spool.db-wal)"]

    def test_a_flush_after_the_250_is_none(self) -> None:
        assert _flushes([self.DATA, self.DONE, "7 2.0 fsync(3</a/b/c>) = 0"]) == []

    def test_without_a_250_there_is_nothing_to_say(self) -> None:
        assert _flushes([self.DATA, "7 1.1 fsync(3</a/b/c>) = 0"]) == []


def test_the_worst_process_counts_for_the_delay(tmp_path: Path) -> None:
    class Logged(Ours):
        def __init__(self, text: str) -> None:
            self.text = text

        def log(self) -> str:
            return self.text

    line = "2026-01-01 [-] reactor delay p50=0.1 p99={} most={} ms\n"
    assert Logged(line.format(3.5, 20.0) + line.format(7.0, 9.0)).delays_ms() == (7.0, 20.0)
    assert Logged("nothing\n").delays_ms() is None


def test_what_this_process_uses() -> None:
    pid = os.getpid()
    assert processes.tree(pid)[0] == pid
    assert processes.cpu_seconds([pid]) > 0
    assert processes.memory_octets([pid]) > 5_000_000
    assert 0 < processes.own_cpu_seconds() <= processes.busy_seconds()


def test_the_slope_is_that_of_a_line() -> None:
    assert _slope([(0, 100), (1, 300), (2, 500)]) == pytest.approx(200)
    assert _slope([(1, 100)]) == 0
