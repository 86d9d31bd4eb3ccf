"""
Rounds: ours and the peer's one after the other, so that each ratio is of two figures taken within seconds.

Both servers are started once for a workload; the one that is not at work costs nothing. A round before the first warms caches
and is not counted. Who goes first alternates. Before each timed part everything is written to the disk, so that nobody pays
for what another has left there.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import processes
from bench.interrupt import uninterrupted
from bench.programs import Programs
from bench.servers import Ours, Server


@dataclass(frozen=True)
class Site:
    """Where and how the bench runs."""

    folder: Path
    programs: Programs
    workers: int
    rounds: int
    quick: bool = False
    minutes: float = 1

    def size(self, full: int, quick: int) -> int:
        """Choose a number by whether this is a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Measured:
    """
    One round of one server.

    Shape:  `amount` things (in the unit of the workload) took `seconds`; `cpu_seconds` is what all its processes used;
            `others_cores` is how many processors others kept busy meanwhile (the kernel's own threads are among them).
    """

    amount: float
    seconds: float
    cpu_seconds: float = 0
    more: dict[str, Any] = field(default_factory=dict)
    others_cores: float = 0

    @property
    def rate(self) -> float:
        """How many a second."""
        return self.amount / self.seconds


@dataclass(frozen=True)
class Workload:
    """
    Something to be measured.

    Shape:  `ours` and `theirs` make the servers (not yet started) in a folder; `prepare` is done once for each, before it is
            started; `run` does one round and checks it; `durability`, once for each, says what stands before the 250.
    """

    name: str
    peer: str
    about: str
    unit: str
    ours: Callable[[Site, Path], Ours]
    theirs: Callable[[Site, Path], Server]
    run: Callable[[Site, Server], Measured]
    prepare: Callable[[Site, Server], None] = lambda site, server: None
    durability: Callable[[Site, Server], list[str]] | None = None


@dataclass(frozen=True)
class Result:
    """What came of a workload; the lists are by round."""

    workload: Workload
    ours: list[Measured]
    theirs: list[Measured]
    durable: dict[str, list[str]]
    delays_ms: tuple[float, float] | None
    memory_octets: int

    @property
    def others_cores(self) -> float:
        """How many processors others kept busy while ours was at work, or the peer was: whichever had less for itself."""
        return max(median([each.others_cores for each in rounds]) for rounds in (self.ours, self.theirs))

    @property
    def ratios(self) -> list[float]:
        """Ours to the peer's, by round: above 1 we are better."""
        return [mine.rate / other.rate for mine, other in zip(self.ours, self.theirs, strict=True)]


def median(figures: list[float]) -> float:
    """Return the median; 0 of nothing."""
    return statistics.median(figures) if figures else 0


def say(text: str) -> None:
    """Tell whoever waits how far we are."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def compare(site: Site, workload: Workload) -> Result:
    """Measure a workload."""
    ours = workload.ours(site, site.folder / workload.name / "ours")
    theirs = workload.theirs(site, site.folder / workload.name / "peer")
    figures: dict[str, list[Measured]] = {ours.name: [], theirs.name: []}
    durable = {}
    with ExitStack() as stack:
        servers: list[Server] = [ours, theirs]
        for server in servers:
            workload.prepare(site, server)
            with uninterrupted():
                stack.enter_context(server)
        for number in range(site.rounds + 1):
            for server in servers if number % 2 else reversed(servers):
                measured = workload.run(site, server)
                kind = "warm-up" if number == 0 else f"round {number}"
                say(f"  {kind:8} {server.name:10} {measured.rate:10.1f} {workload.unit}")
                if number:
                    figures[server.name].append(measured)
        if workload.durability is not None:
            durable = {server.name: workload.durability(site, server) for server in servers}
        memory_octets = processes.memory_octets(ours.pids)
    return Result(workload, figures[ours.name], figures[theirs.name], durable, ours.delays_ms(), memory_octets)


def timed(server: Server, amount: float, work: Callable[[], dict[str, Any] | None]) -> Measured:
    """Do something and take its time, and that of the processors."""
    os.sync()
    pids = server.pids
    cpu_before, own_before, busy_before = processes.cpu_seconds(pids), processes.own_cpu_seconds(), processes.busy_seconds()
    start = time.monotonic()
    more = work()
    seconds = time.monotonic() - start
    busy, own = processes.busy_seconds() - busy_before, processes.own_cpu_seconds() - own_before
    cpu_seconds = processes.cpu_seconds(server.pids) - cpu_before
    return Measured(amount, seconds, cpu_seconds, more or {}, max(0.0, (busy - own - cpu_seconds) / seconds))
