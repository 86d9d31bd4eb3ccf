"""
BENCH: how fast we are, beside others on the same machine; `make bench`, or `python -m bench --help`.

Each peer runs as its own distribution brings it, in a folder of its own on the same file system as ours, and configured to
be at its best. Ours and the peer's rounds alternate, what counts is the ratio of two rounds next to each other, and the
median of these: absolute figures drift with the machine.

    needs       what must be installed, by the name of its package
    programs    the load programs, which are written in C so that they cost less than what they measure
    processes   what a server and all its processes have used
    servers     ours and its peers, each ready to be measured
    contents    what the messages are, and that they arrived whole
    workloads   what is measured against a peer: receiving, relaying, retrieving
    alone       what is measured of ours alone: idle connections, a full spool, a big message, hours
    durability  which fsync stands before the 250
    rounds      alternating, ratios, medians
    report      the table and the JSON
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (
    str(ROOT / "tests" / "peers") not in sys.path
):  # where the package `harness` is, which starts all these servers for the tests, too
    sys.path.insert(0, str(ROOT / "tests" / "peers"))
