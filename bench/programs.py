"""The load programs: compiled from the C files beside this module, and run."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

from harness.programs import find_program, run

HERE = Path(__file__).resolve().parent
LOADS = ("smtp_load", "pop3_load", "smtp_sink")


class LoadError(Exception):
    """A load program, or what it was run against, has failed."""


class Programs:
    """The load programs, compiled into a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        for name in LOADS:
            source = HERE / f"{name}.c"
            run(["cc", "-O2", "-Wall", "-pthread", "-o", folder / name, source, "-lssl", "-lcrypto"])

    def path(self, name: str) -> Path:
        """Return the path of one."""
        return self._folder / name

    def load(self, name: str, *words: object, timeout_seconds: float = 600) -> dict[str, Any]:
        """
        Run one to its end and return what it says.

        Raises:  LoadError: with what it said.
        """
        told: dict[str, Any] = json.loads(_run([self.path(name), *words], timeout_seconds) or "{}")
        return told

    def smtp_source(self, *words: object, timeout_seconds: float = 600) -> dict[str, Any]:
        """Run Postfix's load generator, and say what it used, as the others say themselves."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run([find_program("smtp-source") or "smtp-source", *words], timeout_seconds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"client_cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _run(words: list[object], timeout_seconds: float) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode != 0:
        raise LoadError(f"{words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
