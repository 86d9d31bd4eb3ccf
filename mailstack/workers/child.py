"""
A worker process, as it has itself.

What it is to do comes over the line, the socket of that descriptor:

    parent    child              then the child
    errand                       opens its spool
              ready, refused     waits; or ends
    serve                        accepts connections from the sockets that it was born with
              serving
    change                       has other settings and certificates
              changed
    asked                        answers what the operator asks
              answered
    stop                         drains and ends; so it does at SIGTERM, and when the line is lost: who has no parent is
                                 replaced by nobody and stopped by nobody

So at a start nobody is served before all workers have their spools: what a crash left half-way is delivered before its
recipient can delete it in another worker.
"""

from __future__ import annotations

import atexit
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from mailstack import events
from mailstack.compose.composition import Composition
from mailstack.compose.counting import KINDS, TALLIES
from mailstack.compose.refused import RefusedError
from mailstack.console.control import ControlError
from mailstack.directory.records import DirectoryError
from mailstack.loglines import LineObserver
from mailstack.net.listeners import Bound
from mailstack.net.shared_counts import SharedMemory
from mailstack.net.tls import CertificateError
from mailstack.serving import Listening, Serving
from mailstack.spool.failures import SpoolError
from mailstack.workers.errand import Conditions, Errand, Socket, service_of
from mailstack.workers.line import Line, LineError, Message, Messages, adopt, encode, read_first
from mailstack.workers.log_lines import RecordObserver, write_all


class Worker:
    """What the parent says, done."""

    def __init__(self, errand: Errand, reactor: Any) -> None:
        """
        Make the parts and open nothing.

        Raises:  RefusedError, CertificateError.
        """
        conditions, place = errand.conditions, errand.place
        self._reactor = reactor
        self._line: Line | None = None
        self._is_stopping = False
        parts = Composition(conditions.settings, reactor, place=place, secrets=conditions.secrets)
        parts.certificates.load(conditions.secrets.pem)
        memory = SharedMemory(errand.memory, workers=place.workers, kinds=KINDS, tallies=TALLIES, key=errand.memory_key)
        self._serving = Serving(parts, conditions.settings, reactor, memory=memory)
        self._sockets = [_listening(each) for each in errand.sockets]

    def open(self) -> None:
        """
        Open everything.

        Raises:  DirectoryError, SpoolError.
        """
        self._serving.open()
        self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)

    def attach(self, line: Line) -> None:
        """Take the line over which the answers go."""
        self._line = line

    def said(self, message: Message) -> None:
        """Do what the parent says."""
        if "stop" in message:
            self.lost()
        elif "change" in message:
            self._answer({"changed": self._change(Conditions.told(message["change"]))})
        elif "asked" in message:
            Deferred.fromCoroutine(self._ask(message["asked"], message["request"]))
        elif "serve" in message and not self._is_stopping:
            self._serving.listen(self._sockets)
            self._answer({"serving": True})

    def lost(self) -> None:
        """Stop: the parent says so, or is no more."""
        if not self._is_stopping:
            self._is_stopping = True
            # Not `stop` at once: the parent may say so before the reactor runs.
            self._reactor.callWhenRunning(self._end)

    async def _ask(self, question: int, request: Message) -> None:
        if self._is_stopping:
            answer: Message = {"error": "the server stops"}
        else:
            try:
                answer = await self._serving.desk.answer(request)
            except ControlError as error:
                answer = {"error": str(error)}
            except Exception as error:  # a bulkhead: the disk, or a fault of ours
                events.unexpected("what the operator asked", Failure())
                answer = {"error": f"the server failed at it: {type(error).__name__}; its log says more"}
        self._answer({"answered": question, "answer": answer})

    def _answer(self, message: Message) -> None:
        if self._line is not None:
            self._line.send(message)

    def _end(self) -> None:
        with suppress(ReactorNotRunning):  # it is about to stop already, by a signal
            self._reactor.stop()

    def _change(self, conditions: Conditions) -> str:
        try:
            self._serving.change(conditions.settings, conditions.secrets)
        except (RefusedError, CertificateError) as error:
            return str(error)
        return ""

    def _shut_down(self) -> Deferred[None]:
        self._is_stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._serving.stop()
        events.stopped()


def _listening(told: Socket) -> Listening:
    return Listening(service_of(told), Bound(socket.socket(fileno=told.descriptor), told.host, told.port))


def _answer(end: socket.socket, message: Message) -> None:
    with suppress(OSError):  # the parent is gone; whoever goes on sees it by the end of the line
        end.sendall(encode(message))


def _begin_log(errand: Errand, reactor: Any) -> None:
    write = write_all(sys.stdout.fileno())
    if errand.is_log_shared:
        lines = LineObserver(write, reactor.callLater, system=f"worker {errand.place.worker}")
        atexit.register(lines.flush)
        globalLogBeginner.beginLoggingTo([lines])
    else:
        globalLogBeginner.beginLoggingTo([RecordObserver(write)])


def main(words: Sequence[str]) -> int:
    """Run a worker to its end, and return the exit status."""
    # What a terminal sends to all of us is the parent's business.
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    end, messages = socket.socket(fileno=int(words[1])), Messages()
    try:
        first, *more = read_first(end, messages)
    except (LineError, OSError):
        return 1  # nobody is there to be told anything
    errand = Errand.told(first["errand"])
    from twisted.internet import reactor as installed

    reactor: Any = installed
    _begin_log(errand, reactor)
    try:
        worker = Worker(errand, reactor)
        worker.open()
    except (RefusedError, CertificateError, DirectoryError, SpoolError) as error:
        _answer(end, {"refused": str(error)})
        return 1
    _answer(end, {"ready": True})
    worker.attach(adopt(reactor, end, worker, messages))
    for message in more:
        worker.said(message)
    reactor.run()
    return 0
