"""
One worker process, as the parent has it: started, listened to, and waited for.

While the parent starts, its reactor does not run, and what the process says is read by whoever waits for it; then the reactor
reads. The end of the process is seen by the end of the line to it, and the process alone is waited for, so nobody else's
children are.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, Protocol

from mailstack import events
from mailstack.workers.errand import Errand
from mailstack.workers.line import Line, Message, Messages, adopt, adopt_reader, encode
from mailstack.workers.log_lines import Records

LAST_WORDS_SECONDS: Final = 10.0
"""How long a process that has let go of its line may go on."""

_LOOK_SECONDS: Final = 0.02
_CHUNK_OCTETS: Final = 65_536


class Owner(Protocol):
    """Whose process it is."""

    number: int

    def said(self, process: Process, message: Message) -> None:
        """Hear what the process says."""

    def ended(self, process: Process) -> None:
        """Take note that it has ended."""


class Process:
    """
    One worker process, from its start to its end.

    Shape:   `owner.said(process, message)` and `owner.ended(process)` are called in the reactor; before it runs, `read` is
             called whenever one of `ends` can be read.
    """

    def __init__(self, owner: Owner, errand: Errand, reactor: Any) -> None:
        self._owner = owner
        self._reactor = reactor
        self._messages = Messages()
        self._records = Records()
        self._is_log_over = errand.is_log_shared
        self.line: Line | None = None
        self.started_seconds = reactor.seconds()
        self.end, theirs = socket.socketpair()
        words: socket.socket | None = None
        self.log: socket.socket | None = None
        if not errand.is_log_shared:
            self.log, words = socket.socketpair()
        with theirs:
            self.popen = _spawn(errand, theirs, words)
        if words is not None:
            words.close()
        self.tell({"errand": errand.tell()})

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.popen.pid

    # while the reactor does not run

    @property
    def ends(self) -> Iterator[socket.socket]:
        """What is to be read."""
        yield self.end
        if self.log is not None:
            yield self.log

    def tell(self, message: Message) -> None:
        """Say something to it; blocks."""
        with suppress(OSError):  # it is dead; the end of the line says so, too
            self.end.sendall(encode(message))

    def read(self, end: socket.socket) -> list[Message] | None:
        """Read what is there; None: it has ended."""
        octets = end.recv(_CHUNK_OCTETS)
        if end is self.log:
            self.log_octets(octets)
            return []
        return self._messages.feed(octets) if octets else None

    def read_last_words(self) -> None:
        """Log what is left of what it wrote, now that it has ended."""
        if self.log is None:
            return
        self.log.setblocking(False)
        with suppress(OSError):  # nothing is left, and something that it started still has the other end
            while octets := self.log.recv(_CHUNK_OCTETS):
                self.log_octets(octets)
        self.log_octets(b"")
        self.log.close()

    def adopt(self) -> None:
        """Let the reactor read from now on."""
        self.line = adopt(self._reactor, self.end, self, self._messages)
        if self.log is not None:
            adopt_reader(self._reactor, self.log, self.log_octets)

    # later

    def send(self, message: Message) -> None:
        """Say something to it."""
        if self.line is not None:
            self.line.send(message)

    def said(self, message: Message) -> None:
        """Hear it."""
        self._owner.said(self, message)

    def lost(self) -> None:
        """Wait for its end: the line is closed by that, or it has gone mad."""
        self._await_end(self._reactor.seconds() + LAST_WORDS_SECONDS)

    def _await_end(self, until_seconds: float) -> None:
        is_late = self._reactor.seconds() > until_seconds
        if self.popen.poll() is None:
            if is_late:
                self.kill("it has let go of the line")
                until_seconds = math.inf
        elif self._is_log_over or is_late:
            self._owner.ended(self)
            return
        self._reactor.callLater(_LOOK_SECONDS, self._await_end, until_seconds)

    def log_octets(self, octets: bytes) -> None:
        """Log what it wrote; b"" is the end."""
        self._is_log_over = not octets
        for level, text in self._records.feed(octets) if octets else self._records.end():
            events.worker_said(self._owner.number, level, text)

    def kill(self, why: str) -> None:
        """Kill it."""
        if self.popen.poll() is None:
            events.worker_killed(self._owner.number, self.pid, why)
            self.popen.kill()


def _spawn(errand: Errand, line: socket.socket, words: socket.socket | None) -> subprocess.Popen[bytes]:
    descriptors = [line.fileno(), errand.memory, *(each.descriptor for each in errand.sockets)]
    output = None if words is None else words.fileno()
    return subprocess.Popen(  # noqa: S603 (nothing in it comes from outside)
        # -P: the folder that we work in is no place for code, and the path is that of this process.
        [sys.executable, "-P", "-m", "mailstack.workers", str(errand.place.worker), str(line.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
    )


def how_ended(status: int | None) -> str:
    """Say how a process ended that has this exit status, as subprocess gives it."""
    if status is None:
        return "does not end"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
