"""
BENCH: how fast we are, beside others on the same machine; `make bench`, or `python -m bench --help`.

Each peer runs as its own distribution brings it, in a folder of its own on the same file system as ours, and configured to
be at its best. Ours and the peer's rounds alternate, what counts is the ratio of two rounds next to each other, and the
median of these: absolute figures drift with the machine.

    needed      what must be installed, by the name of its package
    programs    the load programs, which are written in C so that they cost less than what they measure
    interrupt   Ctrl-C and SIGTERM leave no process and no folder
    servers     ours and its peers, each ready to be measured, and what is set for each
    processes   what a server and all its processes have used
    contents    what the messages are, and that they arrived whole
    rounds      alternating, ratios, medians
    receiving   what is measured beside Postfix and aiosmtpd
    retrieving  what is measured beside Dovecot
    alone       what is measured of ours alone: idle connections, a full spool, a big message, hours
    durability  which fsync stands before the 250
    report      the tables and the JSON

While others use the machine the figures favour whoever has more processes; the columns of processor time say then what is so.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (
    str(ROOT / "tests" / "peers") not in sys.path
):  # where the package `harness` is, which starts all these servers for the tests, too
    sys.path.insert(0, str(ROOT / "tests" / "peers"))
