"""
Serving: what one process does for mail, from when its sockets are bound to when the last session has ended.

The whole of a server that is one process, and of each worker of one that is several.

    open      threads, spool (locked and recovered), the queue
    listen    connections are accepted
    change    the settings are others; what needs a restart is named
    stop      nothing new is accepted; idle sessions get 421, running transactions end, then the spool closes
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from mailstack import events
from mailstack.compose.composition import Composition
from mailstack.compose.counting import kind_of
from mailstack.compose.factories import Mail
from mailstack.compose.secrets import Secrets
from mailstack.console.control import Desk
from mailstack.mail.envelope import Service
from mailstack.net.listeners import Bound, serve, serve_shared
from mailstack.net.pulse import Pulse
from mailstack.net.shared_counts import SharedMemory
from mailstack.settings import Settings

HOUSEKEEPING_SECONDS: Final = 3_600
COLLECT_AFTER: Final = (700, 10, 100)
"""Python's own, but for the last: a full pass over the sessions of 10,000 idle clients takes 100 ms, so it must be rare."""
AFTER_A_RESTART: Final = (
    "hostname", "folder", "workers", "listen", "tls", "queue", "control", "delivery", "postmaster", "tls_reports",
)  # fmt: skip
"""The keys of which a reload changes nothing."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket to be served."""

    service: Service
    bound: Bound


class Serving:
    """
    Serves mail.

    Shape:   `memory` is what the workers of one server count in; a process that is alone has none.
    """

    def __init__(self, parts: Composition, settings: Settings, reactor: Any, *, memory: SharedMemory | None = None) -> None:
        self._parts = parts
        self._settings = settings
        self._reactor = reactor
        self._memory = memory
        if memory is not None:
            parts.counting.share(memory, parts.place.worker)
        self._ports: list[IListeningPort] = []
        self._factories: list[Mail] = []
        self._pulse = Pulse(reactor, parts.machine.steady_seconds)
        self._housekeeping = LoopingCall(self._keep_house)
        self._housekeeping.clock = reactor

    @property
    def desk(self) -> Desk:
        """Where the operator's requests are answered, once everything is open."""
        return self._parts.spools.make_desk()

    def open(self) -> None:
        """
        Open everything, and begin to deliver what waits.

        Raises:  DirectoryError, SpoolError.
        """
        self._parts.open()

    def listen(self, sockets: Sequence[Listening]) -> None:
        """Accept connections."""
        parts = self._parts
        for socket in sockets:
            self._serve(socket)
        if self._memory is not None:
            self._memory.set_serving(parts.place.worker, True)
        # What is there now stays. Without this the collector looks through all of it again and again, 50 ms at a time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        self._pulse.start()
        if parts.place.worker == 0:
            self._housekeeping.start(HOUSEKEEPING_SECONDS)

    def _serve(self, socket: Listening) -> None:
        parts, memory = self._parts, self._memory
        factory = parts.factories.make(socket.service)
        self._factories.append(factory)
        wrapped = parts.factories.wrapped(factory)
        if memory is None:
            port = serve(self._reactor, socket.bound, wrapped)
        else:
            counts = memory.counts(parts.place.worker, kind_of(socket.service))
            port = serve_shared(self._reactor, socket.bound, wrapped, counts.has_many_more_than_another)
        self._ports.append(port)

    async def stop(self) -> None:
        """Let running transactions end, then close everything."""
        if self._housekeeping.running:
            self._housekeeping.stop()
        events.stopping(sum(len(factory) for factory in self._factories))
        if self._memory is not None:
            self._memory.set_serving(self._parts.place.worker, False)
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        drained = DeferredList([factory.drain() for factory in self._factories])
        deadline = self._reactor.callLater(self._settings.drain_seconds, self._abort_sessions)
        await drained
        if deadline.active():
            deadline.cancel()
        await self._parts.close()
        delays = self._pulse.stop()
        events.reactor_delay(delays.p50_ms, delays.p99_ms, delays.most_ms)

    def _abort_sessions(self) -> None:
        for factory in self._factories:
            factory.abort_all()

    def change(self, settings: Settings, secrets: Secrets | None = None) -> None:
        """
        Put changed settings and renewed certificates into force; all of it or nothing.

        Raises:  RefusedError, CertificateError.
        """
        settings = kept_until_restart(self._settings, settings)
        self._parts.change(settings, secrets)
        self._settings = settings
        for factory in self._factories:
            self._parts.factories.configure(factory)

    def _keep_house(self) -> None:
        self._parts.machine.supervisor.start(self._clean_folders(), "cleaning the maildirs")

    async def _clean_folders(self) -> None:
        parts = self._parts
        for folder in await parts.machine.disk.run(parts.mailboxes.folders.known):
            try:
                await parts.machine.disk.run(parts.mailboxes.maildirs.clean_tmp, folder, self._reactor.seconds())
            except OSError:  # one folder that cannot be read does not keep the others
                events.unexpected(f"cleaning {folder}", Failure())


def kept_until_restart(before: Settings, after: Settings) -> Settings:
    """Return changed settings as they are in force: what needs a restart is as it was, in every part of the house."""
    return after.model_copy(update={key: getattr(before, key) for key in AFTER_A_RESTART})


def describe_change(before: Settings, after: Settings) -> list[str]:
    """Say what a reload has put into force, and which changes wait for a restart."""
    stale = [f"{key} (after a restart)" for key in AFTER_A_RESTART if getattr(before, key) != getattr(after, key)]
    changed = [key for key in ("receive", "proxy", "oauth", "srs", "transport") if getattr(before, key) != getattr(after, key)]
    return ["certificates", "limits", "policies", "relay", *changed, *stale]
