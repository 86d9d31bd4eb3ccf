"""
The parent: the service of twistd of a server that is several processes. `system` is its like for one.

Order of life (twistd forks between the first and the second step, and drops its privileges between the second and the third):

    Workers(…)                what would refuse the start of a worker is looked for; nothing is opened
    privilegedStartService    certificates are read, sockets are bound; what fails refuses the start
    startService              the workers are started; one that refuses to refuses the start, and none stays behind
    SIGHUP                    the configuration and the certificates are read again and told to all; an error changes nothing
    stopService               the sockets are closed, the workers drain; who does not end in time is killed
"""

from __future__ import annotations

import select
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.application.service import Service as TwistedService
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from mailstack import events
from mailstack.compose.composition import Composition
from mailstack.compose.counting import KINDS, TALLIES
from mailstack.compose.place import Place
from mailstack.compose.refused import RefusedError
from mailstack.compose.secrets import Secrets
from mailstack.console.control import Answer, ControlError, Request
from mailstack.console.control_server import ControlSocket
from mailstack.console.desks import Desks, share_pauses
from mailstack.net.descriptors import raise_descriptor_limit
from mailstack.net.lean_reactor import make_lean
from mailstack.net.listeners import ListenError
from mailstack.net.shared_counts import KEY_OCTETS, SharedMemory
from mailstack.net.tls import CertificateError
from mailstack.serving import Listening, describe_change, kept_until_restart
from mailstack.settings import Settings, SettingsError
from mailstack.system import bind_all, close_all, open_control, refuse_start, stop_at_sigterm
from mailstack.workers.desk import WorkerDesk, answer_of
from mailstack.workers.errand import Conditions, Errand, Socket
from mailstack.workers.line import LineError, Message
from mailstack.workers.process import LAST_WORDS_SECONDS, Process, how_ended
from mailstack.workers.seat import START_SECONDS, Seat

GRACE_SECONDS: Final = 20.0  # on top of what sessions have to end: attempts end, too, and the spool is closed


class WorkerRefused(Exception):  # noqa: N818 (it is an answer, named as such)
    """A worker cannot start; the message says why."""


class Workers(TwistedService):
    """
    The parent of the workers of one installation.

    Shape:   `read_settings` reads the configuration again, for SIGHUP; `random_octets(count)` is os.urandom or alike; with
             `is_log_shared` the workers write to our standard output, else what they log goes through us; `is_daemon` says that
             twistd has left its terminal.
    Raises:  RefusedError: from the settings no house can be built.
    """

    name = "mailstack"

    def __init__(
        self,
        settings: Settings,
        read_settings: Callable[[], Settings],
        reactor: Any,
        *,
        random_octets: Callable[[int], bytes],
        is_log_shared: bool,
        is_daemon: bool = False,
    ) -> None:
        self._is_daemon = is_daemon
        self._read_settings = read_settings
        self._reactor = reactor
        make_lean(reactor)
        self._is_log_shared = is_log_shared
        self._key = random_octets(KEY_OCTETS)
        self._count = settings.worker_count
        # Never opened: it reads what the workers get, and says of a changed configuration whether a house can be built from it.
        self._sample = Composition(settings, reactor)
        self._settings = settings
        self._conditions: Conditions
        self._seats = [Seat(number, self, reactor) for number in range(self._count)]
        self._sockets: list[Listening] = []
        self._control: ControlSocket | None = None
        self._memory: SharedMemory

    @property
    def ports(self) -> dict[str, int]:
        """The ports that were bound, by the name of the service; of several listeners the last."""
        return {each.service.value: each.bound.port for each in self._sockets if not each.bound.is_unix}

    @property
    def pids(self) -> list[int]:
        """The processes that there are, by their place."""
        return [seat.process.pid for seat in self._seats if seat.process is not None]

    def privilegedStartService(self) -> None:
        """Read the certificates and bind the sockets, while we may."""
        raise_descriptor_limit()
        # From the first moment: a SIGHUP without its handler ends the process. What it asks for is done when the reactor runs.
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))
        try:
            self._sample.certificates.load()
            self._conditions = Conditions(self._settings, self._secrets(self._settings))
            self._sockets = bind_all(self._settings)
        except (CertificateError, RefusedError, ListenError) as error:
            refuse_start(error, is_daemon=self._is_daemon)
        self._memory = SharedMemory.create(workers=self._count, kinds=KINDS, tallies=TALLIES, key=self._key)
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def startService(self) -> None:
        """Start the workers, and wait until all serve."""
        super().startService()  # type: ignore[no-untyped-call]  # as above
        processes: list[Process] = []
        try:
            for seat in self._seats:
                processes.append(_start(seat))
            self._await(processes, "ready")
            self._share_pauses(processes)
            for process in processes:
                process.tell({"serve": True})
            self._await(processes, "serving")
        except BaseException as error:
            _end_all(processes)
            close_all(self._sockets)
            if isinstance(error, WorkerRefused):
                refuse_start(error, is_daemon=self._is_daemon)
            raise
        for seat, process in zip(self._seats, processes, strict=True):
            process.adopt()
            seat.is_serving(process)
        self._control = open_control(self._settings, self._reactor, Desks([WorkerDesk(seat) for seat in self._seats]))
        stop_at_sigterm(self._reactor)
        for each in self._sockets:
            events.listening(each.service, str(each.bound))

    def _share_pauses(self, processes: Sequence[Process]) -> None:
        """
        Tell a worker that there was not when a domain was paused: each has what is paused in its own spool. Blocks.

        Nobody is served before that: mail for a domain of ours would go into maildirs that are just being moved.
        """
        failures: list[Failure] = []
        desk = Desks([_StartingDesk(process, self._await) for process in processes])
        Deferred.fromCoroutine(share_pauses(desk)).addErrback(failures.append)
        for failure in failures:
            failure.trap(ControlError)
            events.unexpected("sharing what is paused", failure)

    def stopService(self) -> Deferred[None]:
        """Let the workers end, and kill those that do not."""
        super().stopService()  # type: ignore[no-untyped-call]  # as above
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        close_all(self._sockets)  # first: the last who has a socket open keeps it alive, and connections in it waiting
        if self._control is not None:
            await self._control.close()
        ended = DeferredList([seat.stop() for seat in self._seats])
        deadline = self._reactor.callLater(self._settings.drain_seconds + GRACE_SECONDS, self._kill_all)
        await ended
        if deadline.active():
            deadline.cancel()
        events.stopped()

    def _kill_all(self) -> None:
        for seat in self._seats:
            seat.kill()

    def reload(self) -> None:
        """Put a changed configuration and renewed certificates into force; what is wrong with them changes nothing."""
        try:
            settings = self._read_settings()
            self._sample.change(settings)
            secrets = self._secrets(settings)
        except (SettingsError, RefusedError, CertificateError) as error:
            events.reload_failed(str(error).split("\n"))
            return
        before, self._settings = self._settings, settings
        # A worker that is replaced must be like the others: what needs a restart stays as it is for it, too.
        self._conditions = Conditions(kept_until_restart(self._conditions.settings, settings), secrets)
        told = DeferredList([seat.change(self._conditions) for seat in self._seats])
        told.addCallback(self._have_told, describe_change(before, settings))

    def _have_told(self, answers: Sequence[tuple[bool, str]], what: Sequence[str]) -> None:
        problems = [f"worker {number}: {problem}" for number, (_, problem) in enumerate(answers) if problem]
        if problems:
            events.reload_failed(problems)
        else:
            events.reloaded(what)

    def forget_counts(self, worker: int) -> None:
        """Forget what a worker that died had counted."""
        self._memory.clear(worker)

    def errand(self, worker: int) -> Errand:
        """Say what a worker is to do that starts now."""
        return Errand(
            place=Place(worker, self._count),
            conditions=self._conditions,
            sockets=tuple(
                Socket(each.service.value, each.bound.host, each.bound.port, each.bound.socket.fileno())
                for each in self._sockets
            ),
            memory=self._memory.descriptor,
            memory_key=self._key,
            is_log_shared=self._is_log_shared,
        )

    def _secrets(self, settings: Settings) -> Secrets:
        return Secrets.read(settings, self._sample.certificates.pem)

    def _await(self, processes: Sequence[Process], answer: str) -> list[Message]:
        """
        Wait until all have given this answer, and return what they said; blocks, and logs meanwhile what they write.

        Raises:  WorkerRefused.
        """
        owners = {end.fileno(): (process, end) for process in processes for end in process.ends}
        poll = select.poll()
        for descriptor in owners:
            poll.register(descriptor, select.POLLIN)
        said: list[Message] = []
        waiting, until_seconds = set(processes), self._reactor.seconds() + START_SECONDS
        while waiting:
            readable = poll.poll(max(until_seconds - self._reactor.seconds(), 0) * 1_000)
            if not readable:
                raise WorkerRefused(f"{len(waiting)} workers are not ready after {START_SECONDS:.0f} s")
            for descriptor, _ in readable:
                process, end = owners[descriptor]
                for message in _answers(process, end):
                    if "refused" in message:
                        raise WorkerRefused(message["refused"])
                    if answer in message:
                        said.append(message)
                        waiting.discard(process)
        return said


class _StartingDesk:
    """The desk of a worker while the reactor does not run: who asks waits."""

    def __init__(self, process: Process, wait_for: Callable[[Sequence[Process], str], Sequence[Message]]) -> None:
        self._process = process
        self._wait_for = wait_for

    async def answer(self, request: Request) -> Answer:
        """
        Answer a request.

        Raises:  ControlError, WorkerRefused.
        """
        self._process.tell({"asked": 0, "request": request})
        (message,) = self._wait_for([self._process], "answered")
        return answer_of(message["answer"])


def _start(seat: Seat) -> Process:
    try:
        return seat.start()
    except OSError as error:
        hint = "; the user that we work as must be able to run it" if isinstance(error, PermissionError) else ""
        raise WorkerRefused(f"a worker cannot be started: {error}{hint}") from error


def _answers(process: Process, end: socket.socket) -> list[Message]:
    try:
        answers = process.read(end)
    except (LineError, OSError):
        answers = None
    if answers is None:
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(LAST_WORDS_SECONDS)
        raise WorkerRefused(f"a worker {how_ended(process.popen.poll())} before it was ready; the log says why")
    return answers


def _end_all(processes: Sequence[Process]) -> None:
    """End those that were started, and wait for them; blocks."""
    for process in processes:
        process.end.close()
    for process in processes:
        try:
            process.popen.wait(LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
        process.read_last_words()
