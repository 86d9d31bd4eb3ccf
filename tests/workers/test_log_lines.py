"""What a worker logs where only its parent can write the log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from mailstack.workers import log_lines
from mailstack.workers.log_lines import RecordObserver, Records, write_all

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


def test_records_come_back_however_they_are_cut() -> None:
    written = Written()
    log = RecordObserver(written)
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
    RecordObserver(written)(event("y" * 100))
    assert written.writes == [b"info " + b"y" * 10 + b"\0"]


def test_all_is_written_and_what_cannot_be_is_lost(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    write = write_all(descriptor)
    write(b"one\n")
    write(b"two\n")
    os.close(descriptor)
    write(b"three\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
