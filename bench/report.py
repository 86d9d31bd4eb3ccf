"""The report: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.programs import find_program

from bench.figures import Figure
from bench.rounds import Measured, Result, Site, median

QUIET_CORES: Final = 0.3
"""The kernel's own threads take about a tenth of a processor; more than this is somebody else."""


def machine(folder: Path) -> dict[str, Any]:
    """Describe the machine and what runs on it."""
    import aiosmtpd
    import OpenSSL

    import mailstack
    import twisted

    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_octets": int(memory[1]) * 1024 if memory else None,
        "kernel": platform.release(),
        "file_system": _said("stat", "-f", "-c", "%T", str(folder)),
        "free_octets": shutil.disk_usage(folder).free,
        "python": platform.python_version(),
        "python_program": str(Path(sys.executable).resolve()),
        "twisted": twisted.__version__,
        "pyopenssl": OpenSSL.__version__,
        "mailstack": mailstack.__version__,
        "postfix": _said("postconf", "-h", "-d", "mail_version"),
        "dovecot": _said("dovecot", "--version"),
        "aiosmtpd": aiosmtpd.__version__,
    }


def _said(program: str, *words: str) -> str:
    done = subprocess.run([find_program(program) or program, *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def document(site: Site, results: list[Result], figures: Mapping[str, list[Figure]]) -> dict[str, Any]:
    """Put everything together."""
    return {
        "machine": machine(site.folder),
        "rounds": site.rounds,
        "workers": site.workers,
        "workloads": [as_json(result) for result in results],
        "alone": {name: {each.what: [each.amount, each.unit] for each in part} for name, part in figures.items()},
    }


def as_json(result: Result) -> dict[str, Any]:
    """Describe a result in full."""

    def rounds(measured: list[Measured]) -> list[dict[str, Any]]:
        return [
            {
                **each.more,  # what the load program said: of its own time, and without the wait for the maildir
                "rate": each.rate,
                "seconds": each.seconds,
                "amount": each.amount,
                "cpu_ms_each": 1000 * each.cpu_seconds / each.amount,
                "others_cores": each.others_cores,
            }
            for each in measured
        ]

    workload = result.workload
    return {
        "name": workload.name,
        "about": workload.about,
        "peer": workload.peer,
        "unit": workload.unit,
        "ours": _spread([each.rate for each in result.ours]),
        "theirs": _spread([each.rate for each in result.theirs]),
        "ratio": _spread(result.ratios),
        "reactor_delay_ms": {"p99": result.delays_ms[0], "most": result.delays_ms[1]} if result.delays_ms else None,
        "memory_octets": result.memory_octets,
        "before_the_250": result.durable,
        "rounds": {"ours": rounds(result.ours), "theirs": rounds(result.theirs), "ratio": result.ratios},
    }


def _spread(figures: list[float]) -> dict[str, float]:
    return {"median": median(figures), "least": min(figures), "most": max(figures)}


def drawn(results: list[Result], figures: Mapping[str, list[Figure]]) -> str:
    """Draw everything for people."""
    parts = [table(results), warning(results), table_durable(results), table_alone(figures)]
    return "\n\n".join(part for part in parts if part)


def table(results: list[Result]) -> str:
    """Draw what was compared."""
    rows = [
        ("workload", "peer", "unit", "ours", "peer's", "ratio", "least", "most", "ms CPU ours", "peer's", "delay p99", "most")
    ]
    for result in results:
        delays = result.delays_ms
        rows.append(
            (
                result.workload.name,
                result.workload.peer,
                result.workload.unit,
                _figure(median([each.rate for each in result.ours])),
                _figure(median([each.rate for each in result.theirs])),
                f"{median(result.ratios):.2f}",
                f"{min(result.ratios):.2f}",
                f"{max(result.ratios):.2f}",
                f"{median([1000 * each.cpu_seconds / each.amount for each in result.ours]):.3f}",
                f"{median([1000 * each.cpu_seconds / each.amount for each in result.theirs]):.3f}",
                f"{delays[0]:.1f} ms" if delays else "-",
                f"{delays[1]:.1f} ms" if delays else "-",
            )
        )
    return aligned(rows, left=3) if results else ""


def aligned(rows: Sequence[tuple[str, ...]], left: int) -> str:
    """Put rows into columns, the first ones to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            f"{cell:<{width}}" if at < left else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table_alone(results: Mapping[str, list[Figure]]) -> str:
    """Draw what was measured of ours alone."""
    rows = [("ours alone", "figure", "amount", "unit")]
    for name, figures in results.items():
        rows += [(name, each.what, _figure(each.amount), each.unit) for each in figures]
    return aligned([(name, what, f"{amount:>9}", unit) for name, what, amount, unit in rows], left=4) if results else ""


def warning(results: list[Result]) -> str:
    """Say which figures were taken while others used the machine."""
    busy = [f"{each.workload.name} ({each.others_cores:.1f})" for each in results if each.others_cores > QUIET_CORES]
    if not busy:
        return ""
    return f"Others kept processors busy meanwhile (how many), so that these ratios say little: {', '.join(busy)}"


def table_durable(results: list[Result]) -> str:
    """Draw what stood on stable storage before the 250."""
    rows = [("flushed before the 250", "by", "calls")]
    for result in results:
        rows += [(result.workload.name, name, ", ".join(calls)) for name, calls in result.durable.items()]
    return aligned(rows, left=3) if len(rows) > 1 else ""


def _figure(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write the document."""
    path.write_text(json.dumps(document, indent=1) + "\n")
