"""The bench as a whole: a short run of everything, its refusals, and that it leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.programs import needs, open_folder, wait_for

from bench import needed, receiving
from bench.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS = needs("cc", "dovecot", "postfix", "smtp-source", "strace")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder in which the bench makes its own."""
    with open_folder("test") as path:
        yield path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


def processes_of(folder: Path) -> list[str]:
    """Return the processes that have anything to do with a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                links = [process / "cwd", *(process / "fd").iterdir()]
                places = [words, *(str(link.readlink()) for link in links)]
            except OSError:  # it has just ended
                continue
            if any(str(folder) in place for place in places):
                found.append(words)
    return found


@PEERS
@pytest.mark.timeout(400)
def test_a_short_run_measures_everything(folder: Path) -> None:
    file = folder / "bench.json"
    done = subprocess.run(
        command("--quick", "--json", str(file)),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    listed = subprocess.run(command("--list"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in listed.splitlines()]
    document = json.loads(file.read_text())
    assert [*(each["name"] for each in document["workloads"]), *document["alone"]] == names
    for workload in document["workloads"]:
        assert workload["name"] in done.stdout
        (mine,), (other,), (ratio,) = (workload["rounds"][key] for key in ("ours", "theirs", "ratio"))
        assert ratio == pytest.approx(mine["rate"] / other["rate"])
        assert workload["ratio"] == {"median": ratio, "least": ratio, "most": ratio}
    durable = {each["name"]: each["before_the_250"] for each in document["workloads"]}
    for workload in receiving.WORKLOADS:
        if workload.durability is not None:
            assert all("sync" in calls[0] for calls in durable[workload.name].values())
            assert set(durable[workload.name]) == {"mailstack", workload.peer}
    assert all(document["alone"].values())
    assert document["machine"]["postfix"]
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json"]
    assert processes_of(folder) == []


@PEERS
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "receive-4k:"), (signal.SIGINT, "warm-up"), (signal.SIGINT, "round 2")],
    ids=["at-the-start", "in-the-first-round", "in-the-midst"],
)
def test_a_run_that_is_ended_leaves_no_process_and_no_folder(folder: Path, number: signal.Signals, moment: str) -> None:
    told = folder / "told"
    with told.open("wb") as out:
        bench = subprocess.Popen(
            command("--quick", "--rounds", "50", "--only", "receive-4k,pop3-retr"),
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_for(lambda: moment in told.read_text(), moment, timeout_seconds=60)
        assert processes_of(folder), "there is something to be ended"
        os.killpg(bench.pid, number)  # as a terminal does: whatever is in its process group gets it, too
        assert bench.wait(60) == 128 + number
    finally:
        bench.kill()
        bench.wait(10)
    said = told.read_text()
    assert f"ended by {number.name}" in said
    assert [path.name for path in folder.iterdir()] == ["told"]
    deadline = time.monotonic() + 10  # what was killed may need a moment to be gone
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(folder) == []


def without_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.programs._SEARCH_PATH", str(folder))


def with_a_compiler_that_finds_no_headers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cc").write_text("#!/bin/sh\necho 'fatal error: openssl/ssl.h: No such file or directory' >&2\nexit 1\n")
    (folder / "cc").chmod(0o755)
    without_programs(folder, monkeypatch)


def without_aiosmtpd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtpd", None)


@pytest.mark.parametrize(
    ("take_away", "named"),
    [
        (without_programs, ["gcc", "postfix", "dovecot-pop3d", "strace"]),
        (with_a_compiler_that_finds_no_headers, ["libssl-dev"]),
        (without_aiosmtpd, ["aiosmtpd"]),
    ],
)
def test_without_a_peer_it_refuses_and_names_the_package(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    take_away: Callable[[Path, pytest.MonkeyPatch], None],
    named: list[str],
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    take_away(folder, monkeypatch)
    before = sorted(folder.iterdir())
    assert main(["--quick"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    for package in named:
        assert package in said.err
    assert sorted(folder.iterdir()) == before


def test_what_is_missing_is_asked_of_the_machine(folder: Path) -> None:
    done = subprocess.run(
        command("--quick"), cwd=ROOT, env={**os.environ, "PATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs cc: apt-get install gcc libc6-dev" in done.stderr
    assert "needs strace: apt-get install strace" in done.stderr


@PEERS
def test_nothing_is_missing_where_it_runs() -> None:
    assert needed.missing_packages() == []


@pytest.mark.parametrize(
    ("words", "why"),
    [(["--only", "receive-4k,nothere"], "unknown: nothere. There are: receive-4k, "), (["--rounds", "0"], "must be positive")],
)
@PEERS
def test_what_it_does_not_know_it_refuses(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert why in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "make bench ONLY=receive-4k,pop3-retr ROUNDS=9" in capsys.readouterr().out
