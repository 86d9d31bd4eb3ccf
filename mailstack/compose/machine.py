"""The machine as one process works with it: its reactor, its clocks, its threads, and what it has begun."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from mailstack.compose.place import Place
from mailstack.net.batch import BatchThread
from mailstack.net.lean_reactor import when_idle
from mailstack.net.supervise import Supervisor
from mailstack.net.threads import Threads

PASSWORD_THREADS: Final = 2  # Argon2 wants memory and a core each
DISK_THREADS: Final = 8


class Machine:
    """
    What parts of every room are given of the machine, each what it needs.

    Shape:   `seconds` are since 1970, UTC; `steady_seconds` are since whenever, for all processes the same, and go on
             whatever becomes of the clock.
    """

    def __init__(self, reactor: Any, place: Place) -> None:
        self.reactor = reactor
        self.seconds = reactor.seconds
        self.steady_seconds = time.monotonic
        self.supervisor = Supervisor()
        self.passwords = Threads(reactor, "passwords", place.part_of(PASSWORD_THREADS))
        self.disk = Threads(reactor, "disk", DISK_THREADS)

    def batch(self, run: Callable[[list[Any]], Any], *, name: str) -> BatchThread[Any, Any]:
        """Make a thread that does in one go what has gathered."""
        return BatchThread(run, name=name, from_thread=self.reactor.callFromThread, gather=when_idle(self.reactor))

    def start(self) -> None:
        """Make the threads ready."""
        self.passwords.start()
        self.disk.start()

    def stop(self) -> None:
        """Let what runs in threads end; blocks until it has."""
        self.passwords.stop()
        self.disk.stop()
