"""What a worker logs: lines as twistd writes them, or records that its parent logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from mailstack.workers import log_lines
from mailstack.workers.log_lines import Records, WorkerLog, write_all

NOON = 1_795_608_000.75


class Written:
    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def __call__(self, octets: bytes) -> None:
        self.writes.append(octets)


def event(text: str, level: LogLevel = LogLevel.info, **fields: Any) -> dict[str, Any]:
    return {"log_format": "{text}", "text": text, "log_level": level, "log_time": NOON, "log_namespace": "mailstack", **fields}


def failed() -> dict[str, Any]:
    try:
        raise ValueError("boom")
    except ValueError:
        return event("it failed", LogLevel.critical, log_failure=Failure())


def test_a_line_is_one_write_and_says_who() -> None:
    written = Written()
    log = WorkerLog(3, written, is_shared=True)
    log(event("first"))
    log(event("Grüße", LogLevel.warn))
    assert len(written.writes) == 2
    first, second = (each.decode() for each in written.writes)
    stamp, _, rest = first.partition(" ")
    assert rest == "[worker 3#info] first\n"
    assert stamp.startswith("2026-11-2")
    assert second == f"{stamp} [worker 3#warn] Grüße\n"


def test_what_has_several_lines_is_one_write_whose_others_are_indented() -> None:
    written = Written()
    WorkerLog(0, written, is_shared=True)(failed())
    (line,) = written.writes
    first, *others = line.decode().removesuffix("\n").split("\n")
    assert first.endswith("[worker 0#critical] it failed")
    assert "Traceback" in others[0]
    assert all(other.startswith("\t") for other in others)


def test_what_has_no_text_is_no_line() -> None:
    written = Written()
    WorkerLog(0, written, is_shared=True)({"log_time": NOON, "log_level": LogLevel.info, "log_format": None})
    assert written.writes == []


def test_an_old_event_has_no_level() -> None:
    written = Written()
    WorkerLog(0, written, is_shared=True)({"log_time": NOON, "log_format": "old"})
    assert written.writes[0].endswith(b"[worker 0#info] old\n")


def test_records_come_back_however_they_are_cut() -> None:
    written = Written()
    log = WorkerLog(0, written, is_shared=False)
    log(event("one"))
    log(event("a nul \0 and\na break", LogLevel.error))
    log(failed())
    octets = b"".join(written.writes)
    records = Records()
    for found in (
        list(Records().feed(octets)),
        [record for octet in octets for record in records.feed(bytes([octet]))],
    ):
        assert found[:2] == [(LogLevel.info, "one"), (LogLevel.error, "a nul  and\na break")]
        assert found[2][0] == LogLevel.critical
        assert found[2][1].startswith("it failed\nTraceback")
        assert len(found) == 3


def test_last_words_are_an_error() -> None:
    records = Records()
    assert list(records.feed(b"info one\0Fatal Python error: Aborted\n")) == [(LogLevel.info, "one")]
    assert list(records.end()) == [(LogLevel.error, "Fatal Python error: Aborted")]
    assert list(records.end()) == []


def test_what_never_ends_is_logged_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "MOST_OCTETS", 10)
    records = Records()
    assert list(records.feed(b"x" * 40)) == []
    assert list(records.feed(b"x")) == [(LogLevel.error, "x" * 41)]
    written = Written()
    WorkerLog(0, written, is_shared=False)(event("y" * 100))
    assert written.writes == [b"info " + b"y" * 10 + b"\0"]


def test_all_is_written_and_what_cannot_be_is_lost(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    write = write_all(descriptor)
    write(b"one\n")
    write(b"two\n")
    os.close(descriptor)
    write(b"three\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
