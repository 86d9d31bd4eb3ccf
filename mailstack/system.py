"""
The system: the house as one service of twistd, from its start to its end.

Order of life (twistd forks between the first and the second step, and drops its privileges between the second and the third):

    MailSystem(…)             parts are made, nothing is opened; a policy that cannot be had refuses the start
    privilegedStartService    certificates are read, sockets are bound; what fails refuses the start
    startService              threads, spool (locked and recovered), the queue, then the listeners
    SIGHUP                    the configuration and the certificates are read again; an error changes nothing
    stopService               nothing new is accepted; idle sessions get 421, running transactions end, then the spool closes
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final, NoReturn

from twisted.application.service import Service as TwistedService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from mailstack import events
from mailstack.compose import Composition, Mail, RefusedError
from mailstack.directory.records import DirectoryError
from mailstack.mail.envelope import Service
from mailstack.net.descriptors import raise_descriptor_limit
from mailstack.net.listeners import Bound, ListenError, bind, serve
from mailstack.net.tls import CertificateError
from mailstack.settings import Settings, SettingsError
from mailstack.spool.failures import SpoolError

__all__ = ["MailSystem", "RefusedError"]

HOUSEKEEPING_SECONDS: Final = 3_600
_AFTER_A_RESTART: Final = ("hostname", "folder", "listen", "tls", "queue", "delivery", "postmaster")


class MailSystem(TwistedService):
    """
    Every service of one installation.

    Shape:   `read_settings` reads the configuration again, for SIGHUP.
    Raises:  RefusedError: from the settings no house can be built.
    """

    name = "mailstack"

    def __init__(self, settings: Settings, read_settings: Callable[[], Settings], reactor: Any) -> None:
        self._settings = settings
        self._read_settings = read_settings
        self._reactor = reactor
        self._parts = Composition(settings, reactor)
        self._bound: list[tuple[Service, Bound]] = []
        self._ports: list[IListeningPort] = []
        self._factories: list[Mail] = []
        self._housekeeping = LoopingCall(self._keep_house)
        self._housekeeping.clock = reactor

    @property
    def ports(self) -> dict[str, int]:
        """The ports that were bound, by the name of the service; of several listeners the last."""
        return {service.value: bound.port for service, bound in self._bound}

    def privilegedStartService(self) -> None:
        """Read the certificates and bind the sockets, while we may."""
        raise_descriptor_limit()
        # From the first moment: a SIGHUP without its handler ends the process. What it asks for is done when the reactor runs.
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))
        try:
            if self._parts.certificates is not None:
                self._parts.certificates.load()
            for service, endpoint in self._settings.listen.each():
                self._bound.append((service, bind(endpoint.host, endpoint.port)))
        except (CertificateError, ListenError) as error:
            _refuse_start(error)
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def startService(self) -> None:
        """Open what needs no privilege, and begin."""
        super().startService()  # type: ignore[no-untyped-call]  # as above
        parts = self._parts
        parts.passwords.start()
        parts.disk.start()
        try:
            parts.directory.load()
            parts.spool.open()
        except (DirectoryError, SpoolError) as error:
            _refuse_start(error)
        parts.deliveries.start()
        # First what a crash may have left half-way: what a user deletes must not be delivered again behind his back.
        parts.spool.runner.start()
        for service, bound in self._bound:
            factory = parts.make_factory(service)
            self._factories.append(factory)
            self._ports.append(serve(self._reactor, bound, parts.with_tls(factory)))
            events.listening(service, str(bound))
        self._housekeeping.start(HOUSEKEEPING_SECONDS)

    def stopService(self) -> Deferred[None]:
        """Let running transactions end, then close everything."""
        super().stopService()  # type: ignore[no-untyped-call]  # as above
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if self._housekeeping.running:
            self._housekeeping.stop()
        events.stopping(sum(len(factory) for factory in self._factories))
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        drained = DeferredList([factory.drain() for factory in self._factories])
        deadline = self._reactor.callLater(self._settings.drain_seconds, self._abort_sessions)
        await drained
        if deadline.active():
            deadline.cancel()
        await self._parts.close()
        events.stopped()

    def _abort_sessions(self) -> None:
        for factory in self._factories:
            factory.abort_all()

    def reload(self) -> None:
        """Put a changed configuration and renewed certificates into force; what is wrong with them changes nothing."""
        try:
            settings = self._read_settings()
            self._parts.change(settings)
        except (SettingsError, RefusedError, CertificateError) as error:
            events.reload_failed(str(error).split("\n"))
            return
        before, self._settings = self._settings, settings
        for factory in self._factories:
            self._parts.configure(factory)
        stale = [f"{key} (after a restart)" for key in _AFTER_A_RESTART if getattr(before, key) != getattr(settings, key)]
        events.reloaded(["certificates", "limits", "policies", "relay", *stale])

    def _keep_house(self) -> None:
        self._parts.supervisor.start(self._clean_folders(), "cleaning the maildirs")

    async def _clean_folders(self) -> None:
        parts = self._parts
        for folder in await parts.disk.run(parts.folders.known):
            try:
                await parts.disk.run(parts.maildirs.clean_tmp, folder, self._reactor.seconds())
            except OSError:  # one folder that cannot be read does not keep the others
                events.unexpected(f"cleaning {folder}", Failure())


def _refuse_start(error: Exception) -> NoReturn:
    """End the process with a message instead of a traceback: twistd has nothing better to say about it."""
    raise SystemExit(f"mailstack: {error}")
