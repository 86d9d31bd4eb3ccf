"""
Ours alone: what has no peer to be measured beside, but must stay as it is.

    idle          thousands of connections that say nothing: memory of each, and how long an honest client waits meanwhile
    spool-1m      a million entries that wait: the start, memory, and how soon those that are due are found
    crowd         a million entries for 10,000 domains, of which half are down: memory, and how long new mail waits
    big-message   one message of 50 MB in flight: how much the memory of all processes grows
    soak          mail comes and is fetched for minutes: memory over time
"""

from __future__ import annotations

import resource
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import crowd, processes
from bench.figures import Figure
from bench.interrupt import uninterrupted
from bench.programs import LoadError
from bench.receiving import Sink, wait_until
from bench.rounds import Site, median, say
from bench.servers import DOMAIN, PASSWORD, Ours

KB: Final = 1000
MB: Final = 1_000_000
USER: Final = f"user%ld@{DOMAIN}"


@dataclass(frozen=True)
class Alone:
    """Something measured of ours alone."""

    name: str
    about: str
    run: Callable[[Site, Path], Iterator[Figure]]


@contextmanager
def _running(ours: Ours) -> Iterator[Ours]:
    with ExitStack() as stack:
        with uninterrupted():
            stack.enter_context(ours)
        yield ours


def measure(site: Site, workload: Alone) -> list[Figure]:
    """Measure it, and tell as it goes."""
    figures = []
    for figure in workload.run(site, site.folder / workload.name):
        say(f"  {figure.what}: {figure.amount:,.3f} {figure.unit}")
        figures.append(figure)
    return figures


def _delays(ours: Ours) -> Iterator[Figure]:
    delays = ours.delays_ms()
    if delays:
        yield Figure("reactor delay p99", delays[0], "ms")
        yield Figure("reactor delay, longest", delays[1], "ms")


# ---- idle connections ------------------------------------------------------------------------------------------------


def _idle(site: Site, folder: Path) -> Iterator[Figure]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = min(site.size(10_000, 500), hard - 500)
    with _running(Ours(folder, accounts=1, workers=site.workers)) as ours:
        _honest(site, ours)
        before_ms = _honest(site, ours)
        before_octets = processes.memory_octets(ours.pids)
        with ExitStack() as stack:
            start = time.monotonic()
            _connect(stack, ours.smtp_port, wanted)
            seconds = time.monotonic() - start
            octets = processes.memory_octets(ours.pids) - before_octets
            yield Figure("idle connections", wanted, "")
            yield Figure("opened and greeted", wanted / seconds, "connections/s")
            yield Figure("memory of each (the kernel's not counted)", octets / wanted / KB, "kB")
            yield Figure("an honest client's message, with nobody else (p50)", before_ms[0], "ms")
            yield Figure("the same (p99)", before_ms[1], "ms")
            meanwhile_ms = _honest(site, ours)
            yield Figure("an honest client's message, with all of them (p50)", meanwhile_ms[0], "ms")
            yield Figure("the same (p99)", meanwhile_ms[1], "ms")
            cpu_before = processes.cpu_seconds(ours.pids)
            seconds = site.size(5, 1)
            time.sleep(seconds)
            used = processes.cpu_seconds(ours.pids) - cpu_before
            yield Figure("processor time while nobody says anything", 100 * used / seconds, "% of a core")
    yield from _delays(ours)


def _connect(stack: ExitStack, port: int, wanted: int) -> None:
    """Open connections from many addresses of loopback, each with its EHLO answered."""
    at_once = 100
    for first in range(0, wanted, at_once):
        batch = []
        for number in range(first, min(first + at_once, wanted)):
            client = stack.enter_context(socket.socket())
            client.bind((f"127.1.{number // 200}.{number % 200 + 1}", 0))
            client.settimeout(60)
            client.connect(("127.0.0.1", port))
            batch.append(client)
        for said in (b"", b"EHLO idle.test\r\n"):
            for client in batch:
                client.sendall(said) if said else None
            for client in batch:
                reply = client.recv(4096)
                if reply[:1] != b"2":
                    raise LoadError(f"an idle connection is told {reply!r}")


def _honest(site: Site, ours: Ours) -> tuple[float, float]:
    words = ["-m", site.size(300, 20), "-t", f"user0@{DOMAIN}", f"127.0.0.1:{ours.smtp_port}"]
    told = site.programs.load("smtp_load", *words)
    return told["latency_p50_ms"], told["latency_p99_ms"]


# ---- a full spool ----------------------------------------------------------------------------------------------------


def _spool(site: Site, folder: Path) -> Iterator[Figure]:
    entries, due = site.size(1_000_000, 5_000), site.size(1_000, 50)
    folder.mkdir(parents=True)
    with Sink(site, folder / "sink", due) as sink:
        lines = {"relay": f'smarthost = "127.0.0.1:{sink.port}"\nper_destination = 20'}
        ours = Ours(folder / "ours", accounts=1, workers=site.workers, lines=lines)
        with _running(ours):  # it makes its spools
            yield Figure("memory with an empty spool", processes.memory_octets(ours.pids) / MB, "MB")
        spools = sorted(ours.house.folder.glob("spool/**/spool.db"))
        start = time.monotonic()
        for number, spool in enumerate(spools):
            _fill(spool, number, entries // len(spools), due // len(spools))
        wanted = due // len(spools) * len(spools)
        say(f"  {entries:,} entries written in {time.monotonic() - start:.0f} s")
        start = time.monotonic()
        watch = _Watch(sink, wanted)
        with _running(ours):
            yield Figure("until every service listens", time.monotonic() - start, "s")
            wait_until(lambda: watch.is_over, f"the {wanted} messages that are due are sent")
            yield Figure("until the first that is due was sent", watch.first_at - start, "s")
            yield Figure(f"until all {wanted} that are due were sent", watch.last_at - start, "s")
            yield Figure("entries that wait", ours.waiting(), "")
            yield Figure("memory then", processes.memory_octets(ours.pids) / MB, "MB")
            start = time.monotonic()
            _honest(site, ours)
            yield Figure("messages received beside them", site.size(300, 20) / (time.monotonic() - start), "msg/s")
    yield from _delays(ours)


class _Watch(threading.Thread):
    """Notes when the first message comes to a sink, and when the last of those that are wanted does."""

    def __init__(self, sink: Sink, wanted: int) -> None:
        super().__init__(daemon=True)
        self._sink, self._wanted = sink, wanted
        self.first_at = self.last_at = 0.0
        self.is_over = False
        self.start()

    def run(self) -> None:
        while not self.is_over:
            messages = self._sink.messages
            if messages and not self.first_at:
                self.first_at = time.monotonic()
            if messages >= self._wanted:
                self.last_at = time.monotonic()
                self.is_over = True
            time.sleep(0.005)


def _fill(spool: Path, shard: int, entries: int, due: int) -> None:
    """Write entries to remote.test: `due` of them are due now, the others in an hour and later."""
    from mailstack.mail.address import Address
    from mailstack.mail.envelope import Envelope, Origin, Recipient, Remote, Service
    from mailstack.spool.database import connect
    from mailstack.spool.record import format_envelope

    now = time.time()
    address = Address("user", "remote.test")
    recipient = Recipient(address=address, original=address, destination=Remote("remote.test"))
    envelope = Envelope(
        reverse_path=Address("sender", DOMAIN),
        recipients=(recipient,),
        origin=Origin(service=Service.SMTP, peer="127.0.0.1", hello="client.test", session="bench"),
        accepted_at=now - 7200,
    )
    text = format_envelope(envelope)
    content = b"From: <sender@example.test>\r\nSubject: waiting\r\n\r\n" + b"It waits.\r\n" * 20
    connection: sqlite3.Connection = connect(spool)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        numbers = [(int((now - 7200) * 1e6) + each) << 10 | shard << 5 for each in range(entries)]
        for first in range(0, entries, 50_000):
            part = numbers[first : first + 50_000]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO entry (number, state, accepted_at, expires_at, envelope, content_octets, content)"
                " VALUES (?, 'active', ?, ?, ?, ?, ?)",
                [(number, now - 7200, now + 400_000, text, len(content), content) for number in part],
            )
            connection.executemany(
                "INSERT INTO recipient (entry, ordinal, lane, state, attempts, due_at)"
                " VALUES (?, 0, 'remote.test', 'waiting', 1, ?)",
                [(number, now - 1 if first + at < due else now + 3600 + (first + at) * 0.01) for at, number in enumerate(part)],
            )
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


# ---- a big message ---------------------------------------------------------------------------------------------------


def _big(site: Site, folder: Path) -> Iterator[Figure]:
    octets = 50 * MB
    with _running(Ours(folder, accounts=1, workers=site.workers)) as ours:
        _honest(site, ours)
        grown = []
        for _ in range(site.size(5, 1)):
            before = _begin_peak(ours)
            site.programs.load("smtp_load", "-l", octets, "-t", f"user0@{DOMAIN}", f"127.0.0.1:{ours.smtp_port}")
            grown.append(_peak(ours) - before)
        yield Figure("growth with the first of 50 MB", grown[0] / MB, "MB")
        yield Figure("growth with one of 50 MB (median)", median([float(each) for each in grown]) / MB, "MB")
        wait_until(lambda: _count_big(ours, octets) == len(grown), "the big messages are in the maildir")
        words = ["-u", f"user0@{DOMAIN}", "-w", PASSWORD, f"127.0.0.1:{ours.pop3_port}"]
        # Each worker then remembers the password: Argon2 takes 19 MiB for a moment, and is not what is measured here.
        site.programs.load("pop3_load", "-l", "-m", 20 * site.workers, *words)
        before = _begin_peak(ours)
        site.programs.load("pop3_load", "-r", "all", *words)
        yield Figure("growth when POP3 gives them", (_peak(ours) - before) / MB, "MB")
    yield from _delays(ours)


def _count_big(ours: Ours, octets: int) -> int:
    return sum(file.stat().st_size > octets for file in (ours.maildir(0) / "new").iterdir())


def _begin_peak(ours: Ours) -> int:
    """Forget the peak so far, and return what is used now."""
    for pid in ours.pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return sum(_status(pid, "VmRSS") for pid in ours.pids)


def _peak(ours: Ours) -> int:
    return sum(_status(pid, "VmHWM") for pid in ours.pids)


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().split("\n"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


# ---- a long time -----------------------------------------------------------------------------------------------------


def _soak(site: Site, folder: Path) -> Iterator[Figure]:
    accounts, seconds = 10, 60 * (0.1 if site.quick else site.minutes)
    with _running(Ours(folder, accounts=accounts, workers=site.workers)) as ours:
        messages = 0
        samples: list[tuple[float, int]] = []
        start = time.monotonic()
        while time.monotonic() - start < seconds or len(samples) < 3:
            messages += _soak_once(site, ours, accounts)
            samples.append((time.monotonic() - start, processes.memory_octets(ours.pids)))
            say(f"  {samples[-1][0]:6.0f} s  {messages:9,} messages  {samples[-1][1] / MB:7.1f} MB")
        settled = samples[len(samples) // 5 :]
        yield Figure("messages received and fetched", messages, "")
        yield Figure("minutes", samples[-1][0] / 60, "")
        yield Figure("memory at the start", samples[0][1] / MB, "MB")
        yield Figure("memory after a fifth of the time", settled[0][1] / MB, "MB")
        yield Figure("memory at the end", samples[-1][1] / MB, "MB")
        yield Figure("memory at most", max(octets for _, octets in samples) / MB, "MB")
        yield Figure("slope after a fifth of the time", _slope(settled) * 60 / KB, "kB/minute")
    yield from _delays(ours)


def _soak_once(site: Site, ours: Ours, accounts: int) -> int:
    """Receive and fetch at once; the messages of one turn are fetched and deleted in the next."""
    messages = site.size(2000, 200)
    failures: list[BaseException] = []

    def guarded(name: str, *words: Any) -> None:
        try:
            site.programs.load(name, *words)
        except Exception as error:  # it is the other thread's to tell
            failures.append(error)

    to = f"127.0.0.1:{ours.smtp_port}"
    send = threading.Thread(target=guarded, args=("smtp_load", "-s", 10, "-m", messages, "-n", accounts, "-t", USER, to))
    send.start()
    words = ["-s", accounts, "-m", accounts, "-n", accounts, "-u", USER, "-w", PASSWORD, "-r", "all", "-x"]
    guarded("pop3_load", *words, f"127.0.0.1:{ours.pop3_port}")
    send.join()
    if failures:
        raise LoadError(str(failures[0]))
    return messages


def _slope(samples: list[tuple[float, int]]) -> float:
    """Return the octets a second by which memory grows (least squares)."""
    middle = sum(at for at, _ in samples) / len(samples)
    average = sum(octets for _, octets in samples) / len(samples)
    across = sum((at - middle) ** 2 for at, _ in samples)
    return sum((at - middle) * (octets - average) for at, octets in samples) / across if across else 0


WORKLOADS: Final = (
    Alone("idle", "10,000 idle connections", _idle),
    Alone("spool-1m", "a spool of 1,000,000 waiting entries", _spool),
    Alone("crowd", "1,000,000 entries for 10,000 domains, half of them down", crowd.run),
    Alone("big-message", "one message of 50 MB in flight", _big),
    Alone("soak", "memory over time under load", _soak),
)
