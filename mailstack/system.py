"""
The system: a server that is one process, as a service of twistd, from its start to its end; `workers.parent` is one of several.

Order of life (twistd forks between the first and the second step, and drops its privileges between the second and the third):

    MailSystem(…)             parts are made, nothing is opened; a policy that cannot be had refuses the start
    privilegedStartService    certificates are read, sockets are bound; what fails refuses the start
    startService              everything is opened, then the listeners (`serving`)
    SIGHUP                    the configuration and the certificates are read again; an error changes nothing
    stopService               running transactions end, then everything is closed
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from twisted.application.service import Service as TwistedService
from twisted.internet.defer import Deferred

from mailstack import events
from mailstack.compose.composition import Composition
from mailstack.compose.refused import RefusedError
from mailstack.console.control import Desk
from mailstack.console.control_server import ControlSocket, listen
from mailstack.directory.records import DirectoryError
from mailstack.net.descriptors import raise_descriptor_limit
from mailstack.net.lean_reactor import make_lean
from mailstack.net.listeners import ListenError, bind, bind_unix, close
from mailstack.net.tls import CertificateError
from mailstack.serving import Listening, Serving, describe_change
from mailstack.settings import Settings, SettingsError, SocketFile
from mailstack.spool.failures import SpoolError

__all__ = ["MailSystem", "RefusedError", "bind_all", "close_all", "open_control", "refuse_start", "stop_at_sigterm"]


class StartRefused(Exception):  # noqa: N818 (it is an answer, named as such)
    """What keeps a daemon from starting; twistd tells it to the terminal from which it was started."""


class MailSystem(TwistedService):
    """
    Every service of one installation.

    Shape:   `read_settings` reads the configuration again, for SIGHUP; `is_daemon` says that twistd has left its terminal.
    Raises:  RefusedError: from the settings no house can be built.
    """

    name = "mailstack"

    def __init__(
        self, settings: Settings, read_settings: Callable[[], Settings], reactor: Any, *, is_daemon: bool = False
    ) -> None:
        self._settings = settings
        self._is_daemon = is_daemon
        self._read_settings = read_settings
        self._reactor = reactor
        make_lean(reactor)
        self._parts = Composition(settings, reactor)
        self._serving = Serving(self._parts, settings, reactor)
        self._sockets: list[Listening] = []
        self._control: ControlSocket | None = None

    @property
    def ports(self) -> dict[str, int]:
        """The ports that were bound, by the name of the service; of several listeners the last."""
        return {each.service.value: each.bound.port for each in self._sockets if not each.bound.is_unix}

    def privilegedStartService(self) -> None:
        """Read the certificates and bind the sockets, while we may."""
        raise_descriptor_limit()
        # From the first moment: a SIGHUP without its handler ends the process. What it asks for is done when the reactor runs.
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))
        try:
            self._parts.certificates.load()
            self._sockets = bind_all(self._settings)
        except (CertificateError, ListenError) as error:
            refuse_start(error, is_daemon=self._is_daemon)
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def startService(self) -> None:
        """Open what needs no privilege, and begin."""
        super().startService()  # type: ignore[no-untyped-call]  # as above
        try:
            self._serving.open()
        except (DirectoryError, SpoolError) as error:
            close_all(self._sockets)
            refuse_start(error, is_daemon=self._is_daemon)
        self._serving.listen(self._sockets)
        self._control = open_control(self._settings, self._reactor, self._serving.desk)
        stop_at_sigterm(self._reactor)
        for each in self._sockets:
            events.listening(each.service, str(each.bound))

    def stopService(self) -> Deferred[None]:
        """Let running transactions end, then close everything."""
        super().stopService()  # type: ignore[no-untyped-call]  # as above
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        close_all(self._sockets)
        if self._control is not None:
            await self._control.close()
        await self._serving.stop()
        events.stopped()

    def reload(self) -> None:
        """Put a changed configuration and renewed certificates into force; what is wrong with them changes nothing."""
        try:
            settings = self._read_settings()
            self._serving.change(settings)
        except (SettingsError, RefusedError, CertificateError) as error:
            events.reload_failed(str(error).split("\n"))
            return
        before, self._settings = self._settings, settings
        events.reloaded(describe_change(before, settings))


def bind_all(settings: Settings) -> list[Listening]:
    """
    Bind every socket that the settings name.

    Raises:  ListenError.
    """
    made: list[Listening] = []
    try:
        for service, endpoint in settings.listen.each():
            if isinstance(endpoint, SocketFile):
                made.append(Listening(service, bind_unix(endpoint.path, settings.listen.lmtp_group)))
            else:
                made.append(Listening(service, bind(endpoint.host, endpoint.port)))
    except ListenError:
        close_all(made)
        raise
    return made


def open_control(settings: Settings, reactor: Any, desk: Desk) -> ControlSocket | None:
    """Let the operator ask at this desk; where that cannot be, mail is served all the same."""
    try:
        return listen(
            settings.control_file,
            settings.control.group,
            reactor,
            desk,
            failed=lambda failure: events.unexpected("control socket", failure),
        )
    except ListenError as error:
        events.control_missing(error.strerror or str(error))
        return None


def stop_at_sigterm(reactor: Any) -> None:
    """
    Stop in good order at a SIGTERM, from now on and not only when the reactor runs.

    Who looks at the log, or waits for twistd to leave the terminal, may take us to be up a moment before it does.
    """
    if not reactor.running:
        signal.signal(signal.SIGTERM, reactor.sigTerm)


def close_all(sockets: Sequence[Listening]) -> None:
    """Let go of the sockets, and remove the files that they have."""
    for each in sockets:
        close(each.bound)


def refuse_start(error: Exception, *, is_daemon: bool) -> NoReturn:
    """
    End the process with a message instead of a traceback: twistd has nothing better to say about it.

    As a daemon it has: it passes an exception on to the process that waits at the terminal. That one would wait for ever if we
    just ended, since it holds both ends of the pipe from which it reads.
    """
    if is_daemon:
        raise StartRefused(str(error)) from None
    raise SystemExit(f"mailstack: {error}")
