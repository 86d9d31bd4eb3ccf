"""
Durability: what stands on stable storage before the 250.

strace shows every process of a server while one message is received: the calls that flush something between the 354 and the
250 after end-of-data are what the 250 rests on. (Within TLS it cannot see the replies; a submission takes the same road.)
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from harness.programs import find_program, wait_for

from bench.programs import LoadError
from bench.rounds import Site
from bench.servers import DOMAIN, Server

_CALLS: Final = (
    "fsync,fdatasync,syncfs,sync,sync_file_range,msync,write,writev,sendto,sendmsg,openat,linkat,link,rename,renameat"
)
_FLUSH: Final = re.compile(r"(fsync|fdatasync|syncfs|sync|msync)\((?:\d+<([^>]*)>)?")
_REPLY: Final = re.compile(r'(?:write|writev|sendto|sendmsg)\(\d+<[^>]*>, (?:\[\{iov_base=)?"(\d{3})[ -]')


def before_the_250(site: Site, server: Server, to: str = f"user0@{DOMAIN}") -> list[str]:
    """
    Receive one message and return the flushes between its 354 and its 250, as `call(kind of file)`.

    Raises:  LoadError: there is none, so that the 250 means nothing.
    """
    trace = site.folder / "strace"
    attached = [word for pid in server.pids for word in ("-p", str(pid))]
    strace = subprocess.Popen(
        [
            find_program("strace") or "strace",
            "-f",
            "-y",
            "-ttt",
            "-s",
            "64",
            "-e",
            f"trace={_CALLS}",
            "-o",
            str(trace),
            *attached,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wanted = {int(pid) for pid in attached[1::2]}
        wait_for(lambda: all(_is_traced(pid) for pid in wanted), "strace has attached")
        site.programs.load("smtp_load", "-m", 1, "-l", 4096, "-t", to, f"127.0.0.1:{server.smtp_port}")
        time.sleep(0.2)
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait(20)
    flushes = _flushes(trace.read_text(errors="replace").split("\n"))
    if not flushes:
        raise LoadError(f"{server.name} sends its 250 with nothing on stable storage")
    return flushes


def _is_traced(pid: int) -> bool:
    try:
        return all("\nTracerPid:\t0\n" not in (task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it has ended
        return True


def _flushes(lines: list[str]) -> list[str]:
    # A call that takes long is printed in two lines, of which the first has the arguments and the second comes when it is done.
    found: list[str] = []
    begun: dict[str, str] = {}
    in_content = False
    for line in lines:
        process = line.partition(" ")[0]
        reply = _REPLY.search(line)
        if reply and reply[1] == "354":
            in_content = True
        elif reply and reply[1] == "250" and in_content:
            return found
        if not in_content:
            continue
        flush = _FLUSH.search(line)
        if flush:
            said = f"{flush[1]}({_kind(flush[2] or '')})"
            if "<unfinished" in line:
                begun[process] = said
            else:
                found.append(said)
        elif process in begun and re.search(r"<\.\.\. \w*sync\w* resumed>", line):
            found.append(begun.pop(process))
    return []


def _kind(path: str) -> str:
    """Name a file by what it is, not by its number."""
    parts = Path(path).parts[-3:]
    return "/".join("…" if re.search(r"\d{5}|[0-9A-F]{8}", part) else part for part in parts)
