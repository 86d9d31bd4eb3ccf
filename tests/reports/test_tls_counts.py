from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mailstack.mail.tls_reports import Line
from mailstack.mail.tls_results import AppliedPolicy, TLSFailure
from mailstack.reports.counts import MAX_IN_MEMORY, Counted, CountsFile, day_of, domains_of, lines_of

STS = AppliedPolicy("sts", "a.test", ("mode: enforce",), ("mx.a.test",))
GOOD = Line(STS, None, 0)
BAD = Line(STS, TLSFailure.CERTIFICATE_EXPIRED, 0, "mx.a.test", "192.0.2.1", "192.0.2.2", "why")


def counts_of(lines: object) -> dict[str, int]:
    return {line.failure.value if line.failure else "": line.sessions for line in lines}  # type: ignore[attr-defined]


def test_a_day_is_one_of_utc() -> None:
    assert [day_of(seconds) for seconds in (0, 86_399.9, 86_400)] == ["1970-01-01", "1970-01-01", "1970-01-02"]


def test_workers_count_together_and_over_a_restart(tmp_path: Path) -> None:
    for worker in (0, 1, 0):
        file = CountsFile(tmp_path / f"{worker}.db")
        file.add({("2026-11-26", GOOD): 2, ("2026-11-26", BAD): 1, ("2026-11-27", GOOD): 10})
    assert domains_of(tmp_path, "2026-11-26") == ["a.test"]
    assert counts_of(lines_of(tmp_path, "2026-11-26", "a.test")) == {"": 6, "certificate-expired": 3}
    assert counts_of(lines_of(tmp_path, "2026-11-27", "a.test")) == {"": 30}
    (bad,) = [each for each in lines_of(tmp_path, "2026-11-26", "a.test") if each.failure]
    assert bad == Line(STS, TLSFailure.CERTIFICATE_EXPIRED, 3, "mx.a.test", "192.0.2.1", "192.0.2.2", "why")
    assert lines_of(tmp_path, "2026-11-26", "b.test") == []


def test_old_days_are_forgotten(tmp_path: Path) -> None:
    file = CountsFile(tmp_path / "0.db")
    for day in range(20, 30):
        file.add({(f"2026-11-{day}", GOOD): 1})
        file.settle(f"2026-11-{day}", "a.test")
    assert [day for day in range(20, 30) if domains_of(tmp_path, f"2026-11-{day}")] == [26, 27, 28, 29]
    assert not file.is_settled("2026-11-20", "a.test")
    assert file.is_settled("2026-11-29", "a.test")


def test_memory_is_bounded() -> None:
    counted = Counted()
    for number in range(3 * MAX_IN_MEMORY):
        counted.add(0, Line(STS, TLSFailure.VALIDATION_FAILURE, 0, f"{number}.test"))
    taken = counted.take()
    assert len(taken) == MAX_IN_MEMORY + 1
    assert sum(taken.values()) == 3 * MAX_IN_MEMORY, "what can no longer be told apart is still counted"
    assert counted.take() == {}
    for number in range(3 * MAX_IN_MEMORY):
        counted.add(0, Line(AppliedPolicy("sts", f"{number}.test"), None, 0))
    assert len(counted.take()) <= 2 * MAX_IN_MEMORY


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailstack.reports.counts.MAX_ROWS_A_DAY", 10)
    file = CountsFile(tmp_path / "0.db")
    for start in range(0, 40, 8):
        file.add({("2026-11-26", Line(AppliedPolicy("sts", f"{n}.test"), None, 0)): 1 for n in range(start, start + 8)})
    assert len(domains_of(tmp_path, "2026-11-26")) == 10


def test_a_domain_that_changes_its_policy_with_every_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailstack.reports.counts.MAX_LINES", 10)
    counted = Counted()
    hosts = tuple(f"{number}.{'x' * 200}.test" for number in range(200))
    for number in range(40):
        lines = (f"id: {number}", *(f"mx: {host}" for host in hosts))
        counted.add(0, Line(AppliedPolicy("sts", "a.test", lines, hosts), None, 0))
    taken = counted.take()
    assert max(len("".join(line.applied.strings + line.applied.hosts)) for _, line in taken) < 5_000
    assert all(line.applied.strings[0].startswith("id: ") for _, line in taken)
    CountsFile(tmp_path / "0.db").add(taken)
    CountsFile(tmp_path / "1.db").add(taken)
    lines_read = lines_of(tmp_path, "1970-01-01", "a.test")
    assert [line.sessions for line in lines_read] == [2] * 10


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "0.db").write_bytes(b"x" * 1_000)
    with pytest.raises(sqlite3.Error):
        CountsFile(tmp_path / "0.db").add({("2026-11-26", GOOD): 1})
