"""What a server and all its processes have used: processor time and memory, from /proc."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time of processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            ticks += sum(int(field) for field in _stat(pid)[11:15])
    return ticks / _TICKS_PER_SECOND


def busy_seconds() -> float:
    """Return the time that all processors of the machine have worked, or were taken from it by what runs beside it."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = ticks
    return (user + nice + system + interrupts + soft_interrupts + stolen) / _TICKS_PER_SECOND


def own_cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory_octets(pids: list[int]) -> int:
    """Return the memory of processes; what several share is counted once (proportional set size)."""
    octets = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n"):
                if line.startswith("Pss:"):
                    octets += int(line.split()[1]) * 1024
    return octets


def _stat(pid: int) -> list[str]:
    # Fields from the third on: the second, the name, may hold anything but ends with the last ")".
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
