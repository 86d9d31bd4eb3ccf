"""
A crowd of destinations: very many entries for very many domains, of which half are down.

All that waits for the dead ones is due at the start, and a part of what waits for the living. Measured is what that costs
others: how soon after the start a new message for a domain of which nothing is known is at its host, how long each takes that
comes while the backlog is worked off, and what memory that needs.

The living share a sink and a host name; each dead domain has an address of its own on loopback, where nobody listens.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import processes
from bench.figures import Figure
from bench.receiving import Sink, wait_until
from bench.rounds import Site, median, say
from bench.servers import DOMAIN, Ours

if TYPE_CHECKING:
    from mailstack.mail.envelope import Envelope

NEW: Final = "new.test"
BATCH: Final = 50_000
MB: Final = 1_000_000


def run(site: Site, folder: Path) -> Iterator[Figure]:
    """Do it."""
    entries, domains = site.size(1_000_000, 50_000), site.size(10_000, 500)
    due, new = site.size(20_000, 1_000), site.size(200, 20)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        sink = stack.enter_context(Sink(site, folder / "sink", new + 1))
        nameserver = stack.enter_context(_nameserver())
        relay = f'port = {sink.port}\nallow_private = true\nnameservers = ["127.0.0.1:{nameserver}"]'
        aliases = {f"sink{number}@{DOMAIN}": f"user@n{number}.{NEW}" for number in range(new + 1)}
        lines = {"relay": relay, "queue": "free_octets_minimum = 0"}
        ours = Ours(folder / "ours", accounts=1, workers=site.workers, lines=lines, aliases=aliases)
        with ours:  # it makes its spools
            pass
        spools = sorted(ours.house.folder.glob("spool/**/spool.db"))
        start = time.monotonic()
        for number, spool in enumerate(spools):
            fill(spool, number, entries // len(spools), domains, due // len(spools))
        say(f"  {entries:,} entries for {domains:,} domains written in {time.monotonic() - start:.0f} s")
        yield from _served(site, ours, sink, spools, due // len(spools) * len(spools), new)


def _served(site: Site, ours: Ours, sink: Sink, spools: list[Path], due: int, new: int) -> Iterator[Figure]:
    start = time.monotonic()
    peak = _Peak()
    with ours, peak:
        peak.watch(ours.pids)
        yield Figure("until every service listens", time.monotonic() - start, "s")
        first = _send(site, ours, sink, 0)
        yield Figure("until a new message is at its host, from the start", time.monotonic() - start, "s")
        waits = [first]
        for number in range(1, new + 1):
            waits.append(_send(site, ours, sink, number))
            if sum(sink.each()) + due <= sink.messages and number > new // 2:
                break  # the backlog is gone
        yield Figure("new messages meanwhile", len(waits), "")
        yield Figure("each until it is at its host (median)", 1000 * median(waits), "ms")
        yield Figure("the same (longest)", 1000 * max(waits), "ms")
        wait_until(lambda: sink.messages - sum(sink.each()) >= due, f"{due} messages that are due are sent", seconds=1_800)
        yield Figure(f"until all {due} that are due for the living were sent", time.monotonic() - start, "s")
        wait_until(lambda: not any(map(_dead_and_due, spools)), "what waits for the dead is put off", seconds=1_800)
        yield Figure("until nothing for the dead was due any more", time.monotonic() - start, "s")
        yield Figure("attempts at the dead", ours.log().count(" delayed status="), "")
        before, at = processes.cpu_seconds(ours.pids), time.monotonic()
        time.sleep(site.size(10, 2))
        used = (processes.cpu_seconds(ours.pids) - before) / (time.monotonic() - at)
        yield Figure("processor time while all that is left waits", 100 * used, "% of a core")
        yield Figure("memory at most", peak.octets / MB, "MB")
    delays = ours.delays_ms()
    if delays:
        yield Figure("reactor delay p99", delays[0], "ms")
        yield Figure("reactor delay, longest", delays[1], "ms")


def _send(site: Site, ours: Ours, sink: Sink, number: int) -> float:
    """Send a new message, and return the seconds until it is at its host."""
    before, start = sum(sink.each()), time.monotonic()
    site.programs.load("smtp_load", "-m", 1, "-t", f"sink{number}@{DOMAIN}", f"127.0.0.1:{ours.smtp_port}")
    wait_until(lambda: sum(sink.each()) > before, f"new message {number} is at its host")
    return time.monotonic() - start


class _Peak(threading.Thread):
    """Looks at the memory of processes again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._pids: list[int] = []
        self._is_over = threading.Event()
        self.octets = 0

    def watch(self, pids: list[int]) -> None:
        """Look at these."""
        self._pids = pids

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        """Look."""
        while not self._is_over.wait(0.5):
            self.octets = max(self.octets, processes.memory_octets(self._pids))


def _dead_and_due(spool: Path) -> bool:
    connection = sqlite3.connect(f"file:{spool}?mode=ro", uri=True, timeout=5)
    try:
        row = connection.execute(
            "SELECT 1 FROM recipient WHERE due_at IS NOT NULL AND due_at <= ? AND lane LIKE '%.dead.test' LIMIT 1",
            (time.time(),),
        ).fetchone()
    finally:
        connection.close()
    return row is not None


@contextmanager
def _nameserver() -> Iterator[int]:
    """Serve the names of all domains, and give the port."""
    words = [sys.executable, "-m", "bench.nameserver"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def fill(spool: Path, shard: int, entries: int, domains: int, due: int) -> None:
    """Write entries, by turns for a living and a dead domain; of the first `due` are due now, the others in an hour."""
    from mailstack.spool.database import connect
    from mailstack.spool.record import format_envelope

    now = time.time()
    content = b"From: <sender@example.test>\r\nSubject: waiting\r\n\r\n" + b"It waits.\r\n" * 20
    names = [f"d{number // 2}.{'dead' if number % 2 else 'living'}.test" for number in range(domains)]
    texts = [format_envelope(_envelope(name, now - 3_600)) for name in names]
    connection: sqlite3.Connection = connect(spool)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        for first in range(0, entries, BATCH):
            part = range(first, min(first + BATCH, entries))
            numbers = [(int((now - 3_600) * 1e6) + each) << 10 | shard << 5 for each in part]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO entry (number, state, accepted_at, expires_at, envelope, content_octets, content)"
                " VALUES (?, 'active', ?, ?, ?, ?, ?)",
                [
                    (number, now - 3_600, now + 400_000, texts[each % domains], len(content), content)
                    for each, number in zip(part, numbers, strict=True)
                ],
            )
            connection.executemany(
                "INSERT INTO recipient (entry, ordinal, lane, state, attempts, due_at) VALUES (?, 0, ?, 'waiting', 1, ?)",
                [
                    (number, names[each % domains], now - 1 if each % 2 or each < 2 * due else now + 3_600 + each * 0.01)
                    for each, number in zip(part, numbers, strict=True)
                ],
            )
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


def _envelope(domain: str, accepted_at: float) -> Envelope:
    from mailstack.mail.address import Address
    from mailstack.mail.envelope import Envelope, Origin, Recipient, Remote, Service

    address = Address("user", domain)
    return Envelope(
        reverse_path=Address("sender", DOMAIN),
        recipients=(Recipient(address=address, original=address, destination=Remote(domain)),),
        origin=Origin(service=Service.SMTP, peer="127.0.0.1", hello="client.test", session="bench"),
        accepted_at=accepted_at,
    )
