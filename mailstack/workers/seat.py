"""
The place of one worker: whichever process has it now, and when the next comes.

A process that dies is replaced at once. If those in one place keep dying young, the next waits longer and longer, but comes;
the others are not touched by that.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailstack import events
from mailstack.workers.errand import Conditions, Errand
from mailstack.workers.line import Message
from mailstack.workers.process import Process, how_ended

START_SECONDS: Final = 300.0  # a spool with a million messages is recovered within that
YOUNG_SECONDS: Final = 10.0
MOST_WAIT_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 60.0
"""Whatever is asked is a small part of something; who does not answer it in that time hangs."""


class Parent(Protocol):
    """Who has the places."""

    def errand(self, worker: int) -> Errand:
        """Say what a worker is to do that starts now."""

    def forget_counts(self, worker: int) -> None:
        """Forget what a worker that died had counted."""


class Seat:
    """The place of one worker: whoever has it now, and when the next comes."""

    def __init__(self, number: int, parent: Parent, reactor: Any) -> None:
        self.number = number
        self.process: Process | None = None
        self._parent = parent
        self._reactor = reactor
        self._early_deaths = 0
        self._next: IDelayedCall | None = None
        self._late: IDelayedCall | None = None
        self._over: Deferred[None] | None = None
        self._changing: deque[Deferred[str]] = deque()  # what was told and not answered; the answers come in that order
        self._asked: dict[int, tuple[Deferred[Message | None], IDelayedCall]] = {}
        self._questions = 0

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

    def is_serving(self, process: Process) -> None:
        """Take note that it accepts connections."""
        self._cancel_late()
        events.worker_started(self.number, process.pid)

    def said(self, process: Process, message: Message) -> None:
        """Hear what the process says."""
        if "ready" in message:
            process.send({"serve": True})
        elif "serving" in message:
            self.is_serving(process)
        elif "refused" in message:
            events.worker_refused(self.number, str(message["refused"]))
        elif "changed" in message:
            if self._changing:
                self._changing.popleft().callback(str(message["changed"]))
        elif "answered" in message:
            self._answer(message["answered"], message["answer"])

    def ended(self, process: Process) -> None:
        """Take note of its end; another comes at once, or after a while if they keep dying young."""
        self.process = None
        self._cancel_late()
        while self._changing:
            self._changing.popleft().callback("")  # the next has the new settings from its start
        for question in list(self._asked):
            self._answer(question, None)
        self._parent.forget_counts(self.number)
        if self._over is not None:
            over, self._over = self._over, None
            over.callback(None)
            return
        lived_seconds = self._reactor.seconds() - process.started_seconds
        self._early_deaths = self._early_deaths + 1 if lived_seconds < YOUNG_SECONDS else 0
        wait_seconds = wait_after(self._early_deaths)
        events.worker_died(self.number, process.pid, how_ended(process.popen.returncode), wait_seconds)
        self._next = self._reactor.callLater(wait_seconds, self.replace)

    def change(self, conditions: Conditions) -> Deferred[str]:
        """Tell it of a change; fires with what it has against it, or ""."""
        changed: Deferred[str] = Deferred()
        if self.process is None:
            changed.callback("")
        else:
            self._changing.append(changed)
            self.process.send({"change": conditions.tell()})
        return changed

    def ask(self, request: Message) -> Deferred[Message | None]:
        """Pass on what the operator asks; fires with the answer, or None: nobody is there, or the worker died over it."""
        asked: Deferred[Message | None] = Deferred()
        if self.process is None or self._over is not None:
            asked.callback(None)
        else:
            self._questions += 1
            late = f"worker {self.number} has not answered for {ANSWER_SECONDS:.0f} s; what was asked of it may still be done"
            hangs = self._reactor.callLater(ANSWER_SECONDS, self._answer, self._questions, {"error": late})
            self._asked[self._questions] = (asked, hangs)
            self.process.send({"asked": self._questions, "request": request})
        return asked

    def _answer(self, question: int, answer: Message | None) -> None:
        if (waiting := self._asked.pop(question, None)) is not None:
            asked, hangs = waiting
            if hangs.active():
                hangs.cancel()
            asked.callback(answer)

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


def wait_after(early_deaths: int) -> float:
    """Return how long to wait after so many workers in a row that died young: not at all after one, then longer and longer."""
    return float(min(2 ** (early_deaths - 2), MOST_WAIT_SECONDS)) if early_deaths > 1 else 0.0
