"""
The Protocol around the client core: octets, TLS, time limits, and the content with backpressure.

    trouble = await sender.open()                      None: the session can take mailings
    trouble = await sender.mail(mailing, content)      sender.results tells what became of each recipient
    sender.quit()                                      in the background: whatever QUIT does, the message is delivered

Between two mailings the session may wait for a while (`relay.idle`); the host may end it then.

A trouble is a value: why the host did not take the recipients that have no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet import interfaces
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailstack.channel import channel_bindings
from mailstack.deadline import Deadline
from mailstack.mail.envelope import Content
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.tls_results import TLSFailure
from mailstack.relay.ports import Clock, RunInThread, Start
from mailstack.relay.tls import TLSClient
from mailstack.wire.errors import LocalProtocolError, RemoteProtocolError
from mailstack.wire.events import NEED_OCTETS
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_mailing import (
    Chunkless,
    Closed,
    Finished,
    Mailing,
    Phase,
    Ready,
    Refused,
    Result,
    Send,
    SendContent,
    StartTLS,
    Unusable,
)
from mailstack.wire.smtp_replies import limit

CHUNK_OCTETS: Final = 65_536

_LOST: Final = EnhancedStatus(4, 4, 2)
_BAD_PROTOCOL: Final = EnhancedStatus(4, 5, 0)
_TLS_FAILED: Final = EnhancedStatus(4, 7, 5)
_NOT_KNOWN: Final = EnhancedStatus(4, 5, 1)
_LOCAL: Final = EnhancedStatus(4, 3, 0)

# A refusal here says that the host takes no mail from us at all, now or ever; of STARTTLS and AUTH it says that something is
# configured wrongly, and that mends.
_FINAL_REFUSALS: Final = (Phase.GREETING, Phase.EHLO, Phase.HELO)


@dataclass(frozen=True, slots=True)
class Trouble:
    """
    Why a host took nothing, or nothing more.

    Shape:  `text` may be shown to the sender; `is_remote` says that it is the host's own; `is_tls` that TLS could not be had;
            `is_late` that the host did not answer; `is_chunkless` that the message may go by DATA. `tls` is what the session
            was within then. With `wait_seconds` it is from an earlier attempt: the host was not asked, and for so long need not
            be.
    """

    status: EnhancedStatus
    text: str
    cause: str = ""
    is_remote: bool = False
    is_tls: bool = False
    is_late: bool = False
    is_chunkless: bool = False
    is_local: bool = False
    tls: str = ""
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """
    What a sender is given: clock, threads, the way to start coroutines, and the time limit of each phase.

    Shape:  `make_nonce` makes printable ASCII without comma, new each time; without it SCRAM is not used.
    """

    clock: Clock
    start: Start
    run_in_thread: RunInThread
    timeouts_seconds: Mapping[Phase, float]
    make_nonce: Callable[[], str] | None = None


@implementer(interfaces.IHandshakeListener, interfaces.IPushProducer)
class Sender(Protocol):
    """One session with one host."""

    def __init__(
        self,
        core: SMTPClientCore,
        surroundings: Surroundings,
        tls_client: TLSClient,
        *,
        implicit_tls: bool = False,
        must_be_right: bool = True,
    ) -> None:
        self._core = core
        self._around = surroundings
        self._tls_client = tls_client
        self._implicit_tls = implicit_tls
        self._must_be_right = must_be_right
        self._handshaking = False
        self._waiting: Deferred[Trouble | None] | None = None
        self._trouble: Trouble | None = None
        self._is_ready = False
        self._deadline = Deadline(surroundings.clock, self._time_out)
        self._timed: tuple[Phase, int] = (Phase.READY, 0)
        self._content: Content | None = None
        self._unheard: tuple[None, ...] | None = None
        self._pump_running: Deferred[None] | None = None
        self._room: Deferred[None] | None = None
        self._is_lost = False
        self.content_begun = False
        self.mailings = 0
        """How many mailings were begun."""
        self.contents = 0
        """How many contents were."""
        self.opened_at = surroundings.clock.seconds()
        self.tls = ""
        """Which TLS the session is within, and what its certificate is worth; empty: none."""
        self.tls_failure: TLSFailure | None = None
        """What was wrong with TLS, whether it mattered or not, with `tls_why`."""
        self.tls_why = ""
        self.own_address = ""
        """Where we connect from."""
        self.on_lost: Callable[[], object] | None = None
        """Called when the connection is gone."""

    # For the courier

    @property
    def results(self) -> tuple[Result | None, ...]:
        """What became of each recipient of the last mailing; None: nothing that was heard."""
        return self._core.results if self._unheard is None else self._unheard

    @property
    def tls_active(self) -> bool:
        """Whether the session is within TLS."""
        return self._core.tls_active

    @property
    def lacks_tls(self) -> bool:
        """Whether the session is in clear, though the host offers TLS."""
        return not self._core.tls_active and "STARTTLS" in self._core.offered

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone."""
        return self._is_lost

    @property
    def is_ready(self) -> bool:
        """Whether the session can take a mailing now."""
        return self._trouble is None and not self._is_lost and self._core.phase is Phase.READY

    async def open(self) -> Trouble | None:
        """Wait until the session can take a mailing."""
        if self._trouble is None and not self._is_ready:
            return await self._wait()
        return self._trouble

    async def mail(self, mailing: Mailing, content: Content) -> Trouble | None:
        """Do one transaction."""
        self.content_begun = False
        self._unheard = (None,) * len(mailing.recipients)  # the core still has the results of the mailing before
        if self._trouble is not None:
            return self._trouble
        self.mailings += 1
        self._content = content
        waiting = self._wait()
        try:
            self._begin(mailing)
            return await waiting
        finally:
            self._content = None  # the session may be kept for longer than the message

    def _begin(self, mailing: Mailing) -> None:
        try:
            self._core.begin(mailing)
        except RemoteProtocolError as error:  # it said something, in part, before it was asked
            self._fail_protocol(error)
        else:
            self._unheard = None
            self._go_on()

    @property
    def most_recipients(self) -> int | None:
        """How many recipients the host takes in one transaction, if it says so (RFC 9422 §4.2)."""
        return limit(self._core.offered, "RCPTMAX")

    @property
    def most_mailings(self) -> int | None:
        """How many transactions the host takes in one session, if it says so (RFC 9422 §4.1)."""
        return limit(self._core.offered, "MAILMAX")

    @property
    def is_for_few_domains(self) -> bool:
        """Whether the host bounds the domains of the recipients in one session (RFC 9422 §4.3); a message has one here."""
        return limit(self._core.offered, "RCPTDOMAINMAX") is not None

    @property
    def is_used_up(self) -> bool:
        """Whether the host takes no more mailings in this session, as far as we know; it may in another."""
        is_enough = self.most_mailings is not None and self.mailings >= self.most_mailings
        return self._core.phase is Phase.OUT_OF_STEP or (is_enough and self.is_ready)

    def quit(self) -> None:
        """End the session; nobody waits for it."""
        if not self._is_lost:
            self._core.quit()
            self._go_on()

    def abort(self) -> None:
        """Cut the connection."""
        self._deadline.stop()
        if not self._is_lost:
            self._wire.abortConnection()

    @property
    def _wire(self) -> Any:
        return self.transport

    def _wait(self) -> Deferred[Trouble | None]:
        self._waiting = Deferred(self._cancelled)
        return self._waiting

    def _cancelled(self, waiting: Deferred[Trouble | None]) -> None:
        """Cut the connection, without telling why: who cancelled does not want to hear of the next host."""
        self._waiting = None
        self.abort()

    def _tell(self, trouble: Trouble | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(trouble)

    # For Twisted

    def connectionMade(self) -> None:
        """Begin to wait for the greeting."""
        self._wire.setTcpNoDelay(True)
        self.own_address = getattr(self._wire.getHost(), "host", "")
        if self._implicit_tls:
            self._start_tls()
        self._set_timer()

    def dataReceived(self, data: bytes) -> None:
        """Take octets."""
        try:
            self._core.receive(data)
        except RemoteProtocolError as error:
            self._fail_protocol(error)
        else:
            self._go_on()

    def handshakeCompleted(self) -> None:
        """Go on within TLS; before this, nothing may be sent."""
        self._handshaking = False
        if not self._is_certificate_right():
            return
        if self._core.may_prove:
            self._core.bind_channel(channel_bindings(self._wire, is_client=True))
        if self._core.phase is not Phase.HANDSHAKE:
            return
        try:
            self._core.tls_started()
        except RemoteProtocolError as error:
            self._fail_protocol(error)
        else:
            self._go_on()

    def _is_certificate_right(self) -> bool:
        judgement = self._tls_client.judge()
        self.tls_failure, self.tls_why = judgement.failure, judgement.why
        worth = judgement.how if judgement.failure is None else f"{judgement.how}: {judgement.failure.value}"
        self.tls = f"{self._tls_client.used} {worth}"
        if judgement.failure is None or not self._must_be_right:
            return True
        cause = f"{judgement.failure.value}, {judgement.why}"
        self._fail(Trouble(_TLS_FAILED, "The host's certificate is not right", cause, is_tls=True))
        return False

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell whoever waits that there will be no more."""
        self._is_lost = True
        self._deadline.stop()
        phase = self._core.phase
        self._core.connection_lost()
        self._stop_content()
        # In TLS 1.3 our side of the handshake is done before the host can object to it.
        if self._handshaking or (reason.check(SSL.Error) and not self._is_ready):
            self._note_failure(TLSFailure.VALIDATION_FAILURE, _describe(reason))
            self._end(Trouble(_TLS_FAILED, "The TLS handshake failed", _describe(reason), is_tls=True))
        else:
            is_tls = self._is_about_tls(phase)
            if is_tls:
                self._note_failure(TLSFailure.VALIDATION_FAILURE, f"{phase.value}: {_describe(reason)}")
            text = "The connection was lost while sending the message" if self.content_begun else "The connection was lost"
            self._end(Trouble(_LOST, text, f"in {phase.value}: {_describe(reason)}", is_tls=is_tls))
        if self.on_lost is not None:
            self.on_lost()

    # The loop around the core

    def _go_on(self) -> None:
        while self._trouble is None or self._core.phase is Phase.QUIT:
            try:
                event = self._core.next_event()
            except RemoteProtocolError as error:
                self._fail_protocol(error)
                return
            if event is NEED_OCTETS:
                break
            self._obey(event)
        self._set_timer()

    def _obey(self, event: object) -> None:
        match event:
            case Send(octets):
                self._wire.write(octets)
            case Ready():
                self._is_ready = True
                if not self._core.tls_active:
                    self._note_failure(TLSFailure.STARTTLS_NOT_SUPPORTED, "not offered, or refused")
                self._tell(None)
            case Finished():
                if self._core.phase is Phase.ENDED:
                    self._leave(Trouble(_LOST, "The host ended the session"))
                self._tell(None)
            case SendContent():
                self._send_content()
            case StartTLS():
                self._start_tls()
            case Chunkless(reply):
                text = "The host offers CHUNKING and does not know BDAT"
                self._fail(Trouble(_NOT_KNOWN, text, f"in reply to BDAT: {reply}", is_chunkless=True))
            case Refused(phase, reply):
                if phase is Phase.STARTTLS:
                    self._note_failure(TLSFailure.STARTTLS_NOT_SUPPORTED, str(reply))
                is_tls = phase is Phase.STARTTLS or (reply.is_permanent and self._is_about_tls(phase))
                kind = 5 if reply.is_permanent and phase in _FINAL_REFUSALS and not is_tls else 4
                said = reply.enhanced or EnhancedStatus(kind, 3, 0)
                status = EnhancedStatus(kind, said.subject, said.detail)
                self._end(Trouble(status, str(reply), f"in {phase.value}", is_remote=True, is_tls=is_tls))
                self.quit()
            case Unusable(status, text):
                if not self._core.tls_active:
                    self._note_failure(TLSFailure.STARTTLS_NOT_SUPPORTED, "not offered")
                self._end(Trouble(status, text))
                self.quit()
            case Closed():
                self._wire.loseConnection()

    def _is_about_tls(self, phase: Phase) -> bool:
        """Say whether what goes wrong now would not in clear, as far as we know: the host has answered to EHLO there."""
        if phase in (Phase.EHLO, Phase.HELO):
            return self._core.tls_active and not self._implicit_tls
        return phase is Phase.STARTTLS

    def _note_failure(self, failure: TLSFailure, why: str) -> None:
        if self.tls_failure is None:
            self.tls_failure, self.tls_why = failure, why

    def _leave(self, trouble: Trouble) -> None:
        self._trouble = replace(trouble, tls=self.tls)
        self._wire.loseConnection()

    def _end(self, trouble: Trouble) -> None:
        if self._trouble is None:
            self._trouble = replace(trouble, tls=self.tls)
        self._tell(self._trouble)

    def _fail_protocol(self, error: RemoteProtocolError) -> None:
        self._fail(Trouble(_BAD_PROTOCOL, "The host does not keep to SMTP", f"in {self._core.phase.value}: {error}"))

    def _fail_content(self, error: Exception) -> None:
        self._fail(Trouble(_LOCAL, "Local error", f"reading the content: {error!r}", is_local=True))

    def _fail(self, trouble: Trouble) -> None:
        """End at once: what is in the buffers must not be sent, and what comes is not to be trusted."""
        self._end(trouble)
        self.abort()

    def _start_tls(self) -> None:
        self._handshaking = True
        self._wire.startTLS(self._tls_client)

    # Time limits: one from each reply to the next (RFC 5321 §4.5.3.2), whatever the octets that trickle in meanwhile

    def _set_timer(self) -> None:
        now = (Phase.HANDSHAKE if self._handshaking else self._core.phase, self._core.replies_taken)
        if now != self._timed:
            self._restart_timer(now)

    def _restart_timer(self, now: tuple[Phase, int]) -> None:
        self._timed = now
        limit = self._around.timeouts_seconds.get(now[0])
        if limit is None or self._is_lost:
            self._deadline.clear()
        else:
            self._deadline.set(limit)

    def _time_out(self) -> None:
        phase, _ = self._timed
        is_tls = phase is Phase.HANDSHAKE or self._is_about_tls(phase)
        if is_tls:
            self._note_failure(TLSFailure.VALIDATION_FAILURE, f"no answer to the {phase.value}")
        self._fail(Trouble(_LOST, "The host did not answer in time", f"in {phase.value}", is_tls=is_tls, is_late=True))

    # The content

    def _send_content(self) -> None:
        content = self._content
        assert content is not None
        self.content_begun = True
        self.contents += 1
        whole = content.in_memory
        if whole is not None and len(whole) <= CHUNK_OCTETS:
            self._write_whole(whole)
            return
        self._wire.registerProducer(self, True)
        self._pump_running = self._around.start(self._pump(content, whole), "sending a content")

    async def _pump(self, content: Content, whole: bytes | None) -> None:
        chunks = content.chunks(CHUNK_OCTETS) if whole is None else _slices(whole)
        last = b""
        try:
            while True:
                chunk = await self._around.run_in_thread(next, chunks, None) if whole is None else next(chunks, None)
                if self._room is not None:
                    await self._room
                if not self._is_sending():
                    return
                if chunk is None:
                    break
                # Not at once: with BDAT the last octets are the end, and the host may answer before we know that they were.
                if last:
                    self._wire.write(last)
                last = self._core.content(chunk)
        except CancelledError:
            return
        except Exception as error:  # a bulkhead: a content that cannot be read must not be ended with a dot
            self._pump_running = None
            self._fail_content(error)
            return
        self._pump_running = None
        self._wire.unregisterProducer()
        self._write_end(last)
        self._go_on()

    def _is_sending(self) -> bool:
        return not self._is_lost and self._core.phase is Phase.CONTENT

    def _write_whole(self, whole: bytes) -> None:
        try:
            octets = self._core.content(whole)
        except LocalProtocolError as error:
            self._fail_content(error)
        else:
            self._write_end(octets)

    def _write_end(self, octets: bytes = b"") -> None:
        try:
            end = self._core.end_content()
        except RemoteProtocolError as error:
            self._fail_protocol(error)
        except LocalProtocolError as error:
            self._fail_content(error)
        else:
            self._wire.write(octets + end)

    def _stop_content(self) -> None:
        running, self._pump_running = self._pump_running, None
        if running is not None:
            running.cancel()

    def pauseProducing(self) -> None:
        """Wait with the next chunk: the transport is full."""
        if self._room is None:
            self._room = Deferred()

    def resumeProducing(self) -> None:
        """Go on: a block has left, and the next has its own time limit."""
        room, self._room = self._room, None
        if self._core.phase is Phase.CONTENT:
            self._restart_timer((Phase.CONTENT, self._core.replies_taken))
        if room is not None and not room.called:
            room.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost will say so."""


def _slices(whole: bytes) -> Iterator[bytes]:
    for start in range(0, len(whole), CHUNK_OCTETS):
        yield whole[start : start + CHUNK_OCTETS]


def _describe(reason: Failure) -> str:
    if reason.check(ConnectionDone):
        return "closed by the host"
    return reason.getErrorMessage()[:200]
