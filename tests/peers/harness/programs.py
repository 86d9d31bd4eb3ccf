"""Real programs: which are installed, running them, free ports, and waiting without sleeping blindly."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

PACKAGES = {
    "cc": "gcc libc6-dev",
    "curl": "curl",
    "dovecot": "dovecot-pop3d dovecot-imapd",
    "exim": "exim4-daemon-light",
    "fetchmail": "fetchmail",
    "lmtp": "dovecot-lmtpd",
    "mpop": "mpop",
    "mount": "mount",
    "msmtp": "msmtp",
    "openssl": "openssl",
    "opensmtpd": "opensmtpd",
    "postfix": "postfix",
    "postsrsd": "postsrsd",
    "smtp-source": "postfix",
    "strace": "strace",
    "swaks": "swaks",
    "unbound": "unbound",
}
"""The Debian packages that bring a program."""

UNPACKED = Path(os.environ.get("MAILSTACK_PEERS", "/var/lib/mailstack-peers"))
"""Where `.ci/unpack` puts the packages that exclude each other, each into a folder of its own."""

_IN_A_CAGE = {"exim": "usr/sbin/exim4", "opensmtpd": "usr/sbin/smtpd"}
_ROOT_ONLY = {"postfix", "dovecot", "mount", "exim", "opensmtpd"}
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/lib/dovecot"])
T = TypeVar("T")


def find_program(name: str) -> str | None:
    """Return the path of a program, also of those that live in sbin or among Dovecot's own."""
    if name in _IN_A_CAGE:
        return shutil.which(UNPACKED / name / _IN_A_CAGE[name])
    return shutil.which(name, path=_SEARCH_PATH)


def missing(names: Sequence[str]) -> list[str]:
    """Say of each program that cannot be used here what would help."""
    reasons = [f"needs {name}: {_help(name)}" for name in names if find_program(name) is None]
    if os.geteuid() != 0:
        reasons += [f"needs root, to start {name} in a folder of its own" for name in names if name in _ROOT_ONLY]
    return reasons


def _help(name: str) -> str:
    return f".ci/unpack {name} {PACKAGES[name]}" if name in _IN_A_CAGE else f"apt-get install {PACKAGES[name]}"


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test that runs these programs; without them it is skipped by name, and under CI=true it fails."""
    unknown = [name for name in names if name not in PACKAGES]
    if unknown:
        raise ValueError(f"no package is known for {unknown}")
    return pytest.mark.peer(*names)


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    octets: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = 60,
    expect: int | None = 0,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end with `octets` on its standard input; its exit code must be as expected (None: any)."""
    words = [os.fspath(word) for word in command]
    words[0] = find_program(words[0]) or words[0]
    done = subprocess.run(
        words,
        input=octets,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout_seconds,
        capture_output=True,
        check=False,
    )
    if expect is not None and done.returncode != expect:
        told = (done.stdout[-4000:] + b"\n" + done.stderr[-4000:]).decode(errors="replace")
        raise AssertionError(f"{words[0]} ended with {done.returncode}, not {expect}:\n{told}")
    return done


def wait_for(look: Callable[[], T], what: str, *, timeout_seconds: float = 30) -> T:
    """Look until something true is seen, and return it; an AssertionError names what did not come."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {what}")
        time.sleep(0.02)


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether something accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Say whether there is such a process, and not only what is left of it."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether the port can be bound."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError:
            return False
        return True


_PORTS = range(10_000, 32_000)
_chosen: set[int] = set()


def free_base(offsets: Sequence[int]) -> int:
    """
    Choose a port, and all that lie so far above it, that are free at this moment and were chosen by nobody.

    They lie below those that the kernel gives to clients (32768 and above), so that no connection can take one meanwhile. Of
    several processes that run tests side by side each has a part of them.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = len(_PORTS) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    part = _PORTS[worker * size : (worker + 1) * size]
    chance = random.SystemRandom()
    for _ in range(1000):
        base = chance.choice(part[: -max(offsets) or None])
        ports = {base + offset for offset in offsets}
        if ports.isdisjoint(_chosen) and all(map(is_free, ports)):
            _chosen.update(ports)
            return base
    raise AssertionError("no free ports")


def free_port() -> int:
    """Choose a free port."""
    return free_base([0])


@contextmanager
def open_folder(name: str) -> Iterator[Path]:
    """
    Make a temporary folder that other users may pass through, and remove it in the end.

    pytest's own temporary folders are closed to others, and Postfix and Dovecot change their user.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"mailstack-{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
