"""
The workers: a server that is several processes, as a service of twistd. `system` is its like for one.

The process that twistd runs is the parent. It serves nobody: it binds the sockets, reads what only root may read, and starts
the workers, each a whole server with a spool of its own on the same sockets.

    privilegedStartService    certificates are read, sockets are bound; what fails refuses the start
    startService              the workers are started; one that refuses to refuses the start, and none stays behind
    SIGHUP                    the configuration and the certificates are read again and told to all; an error changes nothing
    a worker dies             another takes its place, its sockets and its spool
    stopService               the sockets are closed, the workers drain; who does not end in time is killed

A worker is a new Python process, not a fork: two processes must not share what the reactor has opened. Its end is seen by the
end of the line to it. The parent's end is seen by the workers in the same way, and they drain and end, too.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.application.service import Service as TwistedService
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall

from mailstack import events
from mailstack.compose import Composition, Place, RefusedError, Secrets, read_smarthost_password
from mailstack.errand import Conditions, Errand, Socket
from mailstack.log_lines import Records
from mailstack.net.descriptors import raise_descriptor_limit
from mailstack.net.line import Line, LineError, Message, Messages, adopt, adopt_reader, encode
from mailstack.net.listeners import ListenError
from mailstack.net.shared_counts import KEY_OCTETS, SharedMemory
from mailstack.net.tls import CertificateError
from mailstack.serving import AFTER_A_RESTART, Listening, describe_change
from mailstack.settings import Settings, SettingsError
from mailstack.system import bind_all, refuse_start

START_SECONDS: Final = 300.0  # a spool with a million messages is recovered within that
YOUNG_SECONDS: Final = 10.0
MOST_WAIT_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 20.0  # on top of what sessions have to end: attempts end, too, and the spool is closed
LAST_WORDS_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.02
_CHUNK_OCTETS: Final = 65_536


class StartRefused(Exception):  # noqa: N818 (it is an answer, named as such)
    """A worker cannot start; the message says why."""


class Process:
    """
    One worker process, from its start to its end.

    Shape:   `worker.said(message)` and `worker.ended(process)` are called in the reactor; before it runs, `read` is called
             whenever one of `ends` can be read.
    """

    def __init__(self, worker: Slot, errand: Errand, reactor: Any) -> None:
        self._worker = worker
        self._reactor = reactor
        self._messages = Messages()
        self._records = Records()
        self._is_over = False
        self.line: Line | None = None
        self.is_ready = False
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
        with suppress(OSError):  # it died at once; the end of the line says so, too
            self.end.sendall(encode({"errand": errand.tell()}))

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

    def read(self, end: socket.socket) -> list[Message] | None:
        """Read what is there; None: it has ended."""
        octets = end.recv(_CHUNK_OCTETS)
        if end is self.log:
            self.log_octets(octets)
            return []
        return self._messages.feed(octets) if octets else None

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
        self._worker.said(self, message)

    def lost(self) -> None:
        """Wait for its end: the line is closed by that, or it has gone mad."""
        self._await_end(self._reactor.seconds() + LAST_WORDS_SECONDS)

    def _await_end(self, until_seconds: float) -> None:
        if self.popen.poll() is not None:
            self._worker.ended(self)
            return
        if self._reactor.seconds() > until_seconds:
            self.kill("it has let go of the line")
        self._reactor.callLater(_LOOK_SECONDS, self._await_end, until_seconds)

    def log_octets(self, octets: bytes) -> None:
        """Log what it wrote; b"" is the end."""
        for level, text in self._records.feed(octets) if octets else self._records.end():
            events.worker_said(self._worker.number, level, text)

    def kill(self, why: str) -> None:
        """Kill it."""
        if self.popen.poll() is None:
            events.worker_killed(self._worker.number, self.pid, why)
            self.popen.kill()


class Slot:
    """The place of one worker: whoever has it now, and when the next comes."""

    def __init__(self, number: int, parent: Workers, reactor: Any) -> None:
        self.number = number
        self.process: Process | None = None
        self._parent = parent
        self._reactor = reactor
        self._early_deaths = 0
        self._next: IDelayedCall | None = None
        self._late: IDelayedCall | None = None
        self._over: Deferred[None] | None = None
        self._changed: Deferred[str] | None = None

    def start(self) -> Process:
        """Start a process in this place."""
        self._next = None
        self.process = Process(self, self._parent.errand(self.number), self._reactor)
        return self.process

    def replace(self) -> None:
        """Start another, while the reactor runs."""
        try:
            process = self.start()
        except OSError as error:  # of memory or processes there is no more at the moment
            events.worker_refused(self.number, str(error))
            self._next = self._reactor.callLater(MOST_WAIT_SECONDS, self.replace)
            return
        process.adopt()
        self._late = self._reactor.callLater(START_SECONDS, process.kill, "it does not become ready")

    def is_ready(self, process: Process) -> None:
        """Take note that it serves."""
        process.is_ready = True
        self._cancel_late()
        events.worker_started(self.number, process.pid)

    def said(self, process: Process, message: Message) -> None:
        """Hear what the process says."""
        if "ready" in message:
            self.is_ready(process)
        elif "refused" in message:
            events.worker_refused(self.number, str(message["refused"]))
        elif "changed" in message:
            self._have_changed(str(message["changed"]))

    def ended(self, process: Process) -> None:
        """Take note of its end; another comes at once, or after a while if they keep dying young."""
        self.process = None
        self._cancel_late()
        self._have_changed("")  # the next has the new settings from its start
        self._parent.memory.clear(self.number)
        if self._over is not None:
            over, self._over = self._over, None
            over.callback(None)
            return
        lived_seconds = self._reactor.seconds() - process.started_seconds
        self._early_deaths = self._early_deaths + 1 if lived_seconds < YOUNG_SECONDS else 0
        wait_seconds = wait_after(self._early_deaths)
        events.worker_died(self.number, process.pid, _how_ended(process.popen.returncode), wait_seconds)
        self._next = self._reactor.callLater(wait_seconds, self.replace)

    def change(self, conditions: Conditions) -> Deferred[str]:
        """Tell it of a change; fires with what it has against it, or ""."""
        changed: Deferred[str] = Deferred()
        if self.process is None:
            changed.callback("")
        else:
            self._have_changed("")
            self._changed = changed
            self.process.send({"change": conditions.tell()})
        return changed

    def _have_changed(self, problem: str) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.callback(problem)

    def stop(self) -> Deferred[None]:
        """Let it end; none comes after it."""
        self._cancel_late()
        over: Deferred[None] = Deferred()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self.process is None:
            over.callback(None)
        else:
            self._over = over
            self.process.send({"stop": True})
        return over

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill("it did not end in time")

    def _cancel_late(self) -> None:
        late, self._late = self._late, None
        if late is not None and late.active():
            late.cancel()


class Workers(TwistedService):
    """
    The parent of the workers of one installation.

    Shape:   `read_settings` reads the configuration again, for SIGHUP; `random_octets(count)` is os.urandom or alike; with
             `is_log_shared` the workers write to our standard output, else what they log goes through us.
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
    ) -> None:
        self._read_settings = read_settings
        self._reactor = reactor
        self._is_log_shared = is_log_shared
        self._key = random_octets(KEY_OCTETS)
        self._count = settings.worker_count
        # Never opened: it reads what the workers get, and says of a changed configuration whether a house can be built from it.
        self._sample = Composition(settings, reactor)
        self._conditions = Conditions(settings, self._secrets(settings))
        self._settings = settings
        self._slots = [Slot(number, self, reactor) for number in range(self._count)]
        self._sockets: list[Listening] = []
        self.memory: SharedMemory

    @property
    def ports(self) -> dict[str, int]:
        """The ports that were bound, by the name of the service; of several listeners the last."""
        return {each.service.value: each.bound.port for each in self._sockets}

    @property
    def pids(self) -> list[int]:
        """The processes that there are, by their place."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    def privilegedStartService(self) -> None:
        """Read the certificates and bind the sockets, while we may."""
        raise_descriptor_limit()
        # From the first moment: a SIGHUP without its handler ends the process. What it asks for is done when the reactor runs.
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))
        try:
            self._sample.load_certificates()
            self._sockets = bind_all(self._settings)
        except (CertificateError, ListenError) as error:
            refuse_start(error)
        self._conditions = Conditions(self._settings, self._secrets(self._settings))
        self.memory = SharedMemory.create(workers=self._count, listeners=len(self._sockets), key=self._key)
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def startService(self) -> None:
        """Start the workers, and wait until all serve."""
        super().startService()  # type: ignore[no-untyped-call]  # as above
        processes: list[Process] = []
        try:
            for slot in self._slots:
                processes.append(slot.start())
            self._await_ready(processes)
        except BaseException as error:
            _end_all(processes)
            if isinstance(error, StartRefused | OSError):
                refuse_start(error)
            raise
        for slot, process in zip(self._slots, processes, strict=True):
            process.adopt()
            slot.is_ready(process)
        for each in self._sockets:
            events.listening(each.service, str(each.bound))

    def stopService(self) -> Deferred[None]:
        """Let the workers end, and kill those that do not."""
        super().stopService()  # type: ignore[no-untyped-call]  # as above
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for each in self._sockets:  # first: the last who has a socket open keeps it alive, and connections in it waiting
            each.bound.socket.close()
        ended = DeferredList([slot.stop() for slot in self._slots])
        deadline = self._reactor.callLater(self._settings.drain_seconds + GRACE_SECONDS, self._kill_all)
        await ended
        if deadline.active():
            deadline.cancel()
        events.stopped()

    def _kill_all(self) -> None:
        for slot in self._slots:
            slot.kill()

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
        kept = {key: getattr(self._conditions.settings, key) for key in AFTER_A_RESTART}
        self._conditions = Conditions(settings.model_copy(update=kept), secrets)
        told = DeferredList([slot.change(self._conditions) for slot in self._slots])
        told.addCallback(self._have_told, describe_change(before, settings))

    def _have_told(self, answers: Sequence[tuple[bool, str]], what: Sequence[str]) -> None:
        problems = [f"worker {number}: {problem}" for number, (_, problem) in enumerate(answers) if problem]
        if problems:
            events.reload_failed(problems)
        else:
            events.reloaded(what)

    def errand(self, worker: int) -> Errand:
        """Say what a worker is to do that starts now."""
        return Errand(
            place=Place(worker, self._count),
            conditions=self._conditions,
            sockets=tuple(
                Socket(each.service.value, each.bound.host, each.bound.port, each.bound.socket.fileno())
                for each in self._sockets
            ),
            memory=self.memory.descriptor,
            memory_key=self._key,
            is_log_shared=self._is_log_shared,
        )

    def _secrets(self, settings: Settings) -> Secrets:
        certificates = self._sample.certificates
        try:
            password = read_smarthost_password(settings)
        except ValueError as error:
            raise RefusedError(f"relay: {error}") from error
        return Secrets(None if certificates is None else certificates.pem, password)

    def _await_ready(self, processes: Sequence[Process]) -> None:
        """
        Wait until all are ready; blocks, and logs meanwhile what they say.

        Raises:  StartRefused.
        """
        owners = {end: process for process in processes for end in process.ends}
        waiting, until_seconds = set(processes), self._reactor.seconds() + START_SECONDS
        while waiting:
            readable, _, _ = select.select(list(owners), [], [], max(until_seconds - self._reactor.seconds(), 0))
            if not readable:
                raise StartRefused(f"{len(waiting)} workers are not ready after {START_SECONDS:.0f} s")
            for end in readable:
                process = owners[end]
                for message in _answers(process, end):
                    if "refused" in message:
                        raise StartRefused(message["refused"])
                    waiting.discard(process)


def wait_after(early_deaths: int) -> float:
    """Return how long to wait after so many workers in a row that died young: not at all after one, then longer and longer."""
    return min(2.0 ** (early_deaths - 2), MOST_WAIT_SECONDS) if early_deaths > 1 else 0.0


def _answers(process: Process, end: socket.socket) -> list[Message]:
    try:
        answers = process.read(end)
    except (LineError, OSError):
        answers = None
    if answers is None:
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(LAST_WORDS_SECONDS)
        raise StartRefused(f"a worker {_how_ended(process.popen.poll())} before it was ready; the log says why")
    return answers


def _end_all(processes: Sequence[Process]) -> None:
    """End those that were started, and wait for them; blocks."""
    for process in processes:
        process.end.close()
    for process in processes:
        if process.log is not None:
            process.log.close()
        try:
            process.popen.wait(LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()


def _spawn(errand: Errand, line: socket.socket, words: socket.socket | None) -> subprocess.Popen[bytes]:
    descriptors = [line.fileno(), errand.memory, *(each.descriptor for each in errand.sockets)]
    output = None if words is None else words.fileno()
    return subprocess.Popen(  # noqa: S603 (nothing in it comes from outside)
        # -P: the folder that we work in is no place for code, and the path is that of this process.
        [sys.executable, "-P", "-m", "mailstack.worker", str(errand.place.worker), str(line.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
    )


def _how_ended(status: int | None) -> str:
    if status is None:
        return "does not end"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
