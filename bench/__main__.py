"""The command line of the bench."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from harness.programs import open_folder

import bench  # noqa: F401  # finds the package `harness`
from bench.interrupt import Interrupted, obey_signals, uninterrupted
from bench.needed import missing_packages
from bench.programs import LoadError, Programs
from bench.rounds import Site, compare, say

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
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each workload, after one to warm up (default: 5)")
    parser.add_argument("--only", default="", help="only these workloads, with commas between them")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="worker processes of ours")
    parser.add_argument("--quick", action="store_true", help="one short round of everything, to see that it works")
    parser.add_argument("--minutes", type=float, default=1, help="how long the soak takes (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure into a file")
    parser.add_argument("--list", action="store_true", help="list the workloads")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Run the bench and return its exit code."""
    arguments = _arguments(words)
    lacking = missing_packages()
    if lacking:
        sys.stderr.write("".join(f"bench: {each}\n" for each in lacking))
        return 2
    from bench import receiving, report, retrieving

    known = {workload.name: workload for workload in (*receiving.WORKLOADS, *retrieving.WORKLOADS)}
    if arguments.list:
        rows = [(each.name, each.peer, each.about) for each in known.values()]
        sys.stdout.write(report.aligned(rows, left=3) + "\n")
        return 0
    chosen = [name for name in arguments.only.split(",") if name] or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        sys.stderr.write(f"bench: unknown: {', '.join(unknown)}. There are: {', '.join(known)}\n")
        return 2
    obey_signals()
    try:
        with ExitStack() as stack:
            with uninterrupted():
                folder = stack.enter_context(open_folder("bench"))
            programs = Programs(folder / "programs")
            rounds = 1 if arguments.quick else arguments.rounds
            site = Site(folder, programs, arguments.workers, rounds, arguments.quick, arguments.minutes)
            document = {"machine": report.machine(folder), "rounds": rounds, "workers": arguments.workers, "workloads": []}
            results = []
            for name in chosen:
                say(f"{name}: {known[name].about}; beside {known[name].peer}")
                results.append(compare(site, known[name]))
                document["workloads"].append(report.as_json(results[-1]))
            if arguments.json:
                report.write_json(arguments.json, document)
            sys.stdout.write(report.table(results) + "\n")
    except Interrupted as interrupted:
        say(f"bench: ended by {interrupted}; everything is stopped and removed")
        return 128 + interrupted.number
    except (LoadError, AssertionError) as error:
        say(f"bench: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
