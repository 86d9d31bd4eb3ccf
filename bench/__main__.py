"""The command line of the bench."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from harness.programs import open_folder

from bench import alone, receiving, report, retrieving
from bench.alone import Alone
from bench.figures import Figure
from bench.interrupt import Interrupted, obey_signals, uninterrupted
from bench.needed import missing_packages
from bench.programs import LoadError, Programs
from bench.rounds import Result, Site, Workload, compare, say

EXAMPLES = """
examples:
  make bench                                         everything, five rounds
  make bench ONLY=receive-4k,pop3-retr ROUNDS=9      two workloads, nine rounds
  python -m bench --only receive-4k --workers 1      with one process
  python -m bench --json bench.json                  every figure, for programs

The ratio is ours to the peer's, so that more than 1 means that we are faster; it is taken in each round, and what counts is
the median. The figures of other runs, or of other machines, cannot be compared; their ratios can.
"""


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure mailstack beside Postfix, Dovecot and aiosmtpd, all of them on this machine and at their best.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each workload, after one to warm up (default: 5, or 1 if --quick)"
    )
    parser.add_argument("--only", default="", help="only these workloads, with commas between them")
    parser.add_argument("--workers", type=int, help="processes of ours (default: 2, or 1 of one core or if --quick)")
    parser.add_argument("--quick", action="store_true", help="everything with small numbers, to see that it works")
    parser.add_argument("--minutes", type=float, default=1, help="how long the soak takes (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure into a file")
    parser.add_argument("--list", action="store_true", help="list the workloads")
    arguments = parser.parse_args(words)
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    if arguments.workers is None:
        arguments.workers = 1 if arguments.quick else min(2, os.cpu_count() or 1)
    return arguments


def main(words: list[str]) -> int:
    """Run the bench and return its exit code."""
    arguments = _arguments(words)
    lacking = missing_packages()
    if lacking:
        sys.stderr.write("".join(f"bench: {each}\n" for each in lacking))
        return 2
    chosen, refusal = _choose(arguments)
    if refusal:
        sys.stderr.write(f"bench: {refusal}\n")
        return 2
    if arguments.list:
        sys.stdout.write(_listed(chosen) + "\n")
        return 0
    obey_signals()
    try:
        with ExitStack() as stack:
            with uninterrupted():
                folder = stack.enter_context(open_folder("bench"))
            programs = Programs(folder / "programs")
            site = Site(folder, programs, arguments.workers, arguments.rounds, arguments.quick, arguments.minutes)
            _measure(site, chosen, arguments.json)
    except Interrupted as interrupted:
        say(f"bench: ended by {interrupted}; everything is stopped and removed")
        return 128 + interrupted.number
    except (LoadError, AssertionError) as error:
        say(f"bench: {error}")
        return 1
    return 0


def _choose(arguments: argparse.Namespace) -> tuple[list[Workload | Alone], str]:
    """Return the workloads that are wanted, or why there are none."""
    known: dict[str, Workload | Alone] = {
        each.name: each for each in (*receiving.WORKLOADS, *retrieving.WORKLOADS, *alone.WORKLOADS)
    }
    names = [name for name in arguments.only.split(",") if name] or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        return [], f"unknown: {', '.join(unknown)}. There are: {', '.join(known)}"
    if arguments.rounds < 1 or arguments.workers < 1 or arguments.minutes <= 0:
        return [], "rounds, workers and minutes must be positive"
    return [known[name] for name in names], ""


def _listed(workloads: list[Workload | Alone]) -> str:
    rows = [(each.name, each.peer if isinstance(each, Workload) else "-", each.about) for each in workloads]
    return report.aligned(rows, left=3)


def _measure(site: Site, workloads: list[Workload | Alone], file: Path | None) -> None:
    """Measure them all, and write what is known after each, so that hours are not lost with the last one."""
    results: list[Result] = []
    figures: dict[str, list[Figure]] = {}
    for workload in workloads:
        if isinstance(workload, Workload):
            say(f"{workload.name}: {workload.about}; beside {workload.peer}")
            results.append(compare(site, workload))
        else:
            say(f"{workload.name}: {workload.about}")
            figures[workload.name] = alone.measure(site, workload)
        shutil.rmtree(site.folder / workload.name, ignore_errors=True)
        if file is not None:
            report.write_json(file, report.document(site, results, figures))
    sys.stdout.write(report.drawn(results, figures) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
