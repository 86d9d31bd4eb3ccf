"""
A session on a transport: the loop around the core, its times and its end.

One event is served at a time, in one coroutine; the next is looked at when the reply to the last is written. While an event
is served, or the peer does not read its replies, at most a window of octets is taken from it.

    waits for          at most                                  then
    a command          command_seconds since the last reply     421
    a content          content_seconds for each stretch of it   421
    a TLS handshake    handshake_seconds                        closed
    room for replies   command_seconds                          closed
    us                 no limit here; who serves has its own

A peer that must wait holds a timer and nothing else: for the greeting, if it is to show its manners; and after some errors for
each reply.

A peer that says nothing more, but reads on, gets its answers: Exim, for one, half-closes a connection behind its QUIT, before
the answer to the content is there, and would send the message again. One that is gone looks the same until we write to it.

A coroutine is not cancelled when the connection is lost. Before the dot nothing comes of it, since the reception is aborted;
after the dot the message is judged and committed as if the peer were there, once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from mailstack import events
from mailstack.channel import certified_names, channel_bindings
from mailstack.deadline import Deadline
from mailstack.mail import reply as replies
from mailstack.mail.envelope import Service
from mailstack.mail.reply import Reply, reply
from mailstack.receive.duties import Duties
from mailstack.receive.outlet import Outlet
from mailstack.wire.events import Pause
from mailstack.wire.limits import LAST_WORD_SECONDS
from mailstack.wire.sasl import KeysWanted
from mailstack.wire.smtp_commands import ContentChunk, ContentEnd, Event, Quit, Refused, StartTLS, XClient
from mailstack.wire.smtp_server import BEHIND_STARTTLS, SMTPServerCore
from mailstack.wire.smtp_table import State

if TYPE_CHECKING:
    from mailstack.receive.factory import ReceiverFactory

COMMANDS_AT_ONCE: Final = 50
"""How many commands of one peer are served before the others get their turn; a window may hold thousands."""

TRANSACTION_AT_TIMES_SESSION: Final = 2
"""A session ends within a transaction when it is so many times as old as it may get."""

OUT_OF_ORDER = reply(421, "4.3.0", "Local error, try again later")
_IN_TRANSACTION = frozenset((State.SENDER, State.RECIPIENTS, State.CONTENT, State.CHUNKS))


@implementer(IHandshakeListener, IHalfCloseableProtocol)
class ReceiverProtocol(Protocol):
    """
    One connection.

    Shape:  made by `ReceiverFactory.buildProtocol`, which sets `portal` and `host` as SMTPFactory does, then calls `prepare`.
    """

    factory: ReceiverFactory
    transport: Any
    portal: Any = None
    host: bytes = b""

    def prepare(self, session: str, peer: str) -> None:
        """Take what the factory knows of the connection."""
        factory = self.factory
        self.session = session
        self.peer = peer
        self._limits = factory.limits
        self._clock = factory.clock
        self._duties = Duties(factory, self, session, peer)
        self._core = SMTPServerCore(
            factory.role,
            self._limits,
            factory.hostname,
            tls_active=factory.service.is_implicit_tls,
            tls_available=factory.certificates is not None,
            scram=self._duties.scram is not None,
            token_scope=self._duties.token_scope,
            is_trusted=factory.trusts(peer),
            opened_at=self._clock.seconds(),
        )
        self._deadline = Deadline(self._clock, self._expired)
        self._outlet = Outlet(self._outlet_changed)
        self._opened_at = 0.0
        self._content_octets = 0  # of the present stretch
        self._reason = "connection lost"
        self._gathered: list[bytes] | None = None
        self._is_running = False
        self._is_reading = True
        self._is_half_closed = False
        self._is_handshaking = False
        self._is_draining = False
        self._is_closing = False
        self._is_lost = False

    # What the transport calls

    def connectionMade(self) -> None:
        """Begin, but inside TLS where the service begins with it."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self._outlet, True)
        self._opened_at = self._clock.seconds()
        events.session_opened(self.session, self.factory.service, self.peer)
        if self.factory.service.is_implicit_tls:
            self._is_handshaking = True
            self._deadline.set(self._limits.handshake_seconds)
        else:
            self._wake()

    def handshakeCompleted(self) -> None:
        """Go on inside TLS: with the greeting, or after STARTTLS with what the peer says next."""
        self._is_handshaking = False
        self._duties.tls_started(describe_tls(self.transport))
        if self._duties.scram is not None:
            self._core.bind_channel(channel_bindings(self.transport))
        self._duties.certified = certified_names(self.transport)
        if self._duties.certified:
            self._core.certificate_shown()
        self._deadline.set(self._limits.command_seconds)
        self._wake()

    def dataReceived(self, data: bytes) -> None:
        """Take octets."""
        if self._is_closing:
            return
        self._content_octets += len(data)
        is_worth_a_look = self._core.receive(data)
        if self._is_running or self._is_handshaking:
            self._rein()
        elif is_worth_a_look:
            self._wake()

    def readConnectionLost(self) -> None:
        """Answer what was said; nothing more will be."""
        self._is_half_closed = True
        if not self._is_running and not self._outlet.is_full:
            self._close(self._reason)

    def writeConnectionLost(self) -> None:
        """Nothing is to be done: only we could say that we say no more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End; what is being served ends by itself first."""
        self._is_lost = self._is_closing = True
        self._deadline.stop()
        events.session_closed(self.session, self._reason)
        if not self._is_running:
            self._leave()

    # What the factory calls

    def drain(self) -> None:
        """End as soon as no transaction is running."""
        self._is_draining = True
        if self._is_handshaking:
            self._abort("shutting down")
        elif self._is_closing and not self._is_lost:
            self._deadline.set(LAST_WORD_SECONDS)
        elif not self._is_running:
            self._wake()

    def abort(self) -> None:
        """End at once."""
        self._abort("aborted")

    # The loop

    def _wake(self) -> None:
        if not self._is_running and not self._is_closing and not self._is_handshaking:
            self._is_running = True
            # Until the first wait. So the replies to commands that came together leave together (RFC 2920 §3.2).
            self._gathered = []
            self.factory.start(self._run(), f"session {self.session}")
            self._send_gathered()

    async def _run(self) -> None:
        served, in_turn = False, 0
        try:
            while not (self._is_closing or self._is_handshaking or self._outlet.is_full):
                if self._core.state is State.GREETING:
                    await self._greet()
                    continue
                if self._must_end():
                    break
                event = self._core.next_event()
                if isinstance(event, Pause):
                    break
                served = True
                await self._answer(event)
                in_turn += 1
                if in_turn % COMMANDS_AT_ONCE == 0:
                    self._rein()
                    await deferLater(self._clock, 0)
        except CancelledError:
            self._abort("cancelled")
            raise
        except Exception:  # a bug of ours; the peer should try again
            events.unexpected(f"session {self.session}", Failure())
            self._end(OUT_OF_ORDER)
        finally:
            self._is_running = False
            self._rest(served)

    async def _greet(self) -> None:
        pause_seconds = self._limits.greeting_pause_seconds
        if pause_seconds and self.factory.service is Service.SMTP:  # our users and neighbours are no strangers
            await deferLater(self._clock, pause_seconds)
            if self._is_closing:
                return
            if self._core.pending:
                events.early_talker(self.session, self.peer)
                self._write(self._core.send(replies.EARLY_TALKER))
                return
        self._write(self._core.send(as_greeting(await self._serve(self._duties.greet()))))

    def _must_end(self) -> bool:
        """End the session where that disturbs no transaction, if there is a reason to; a transaction may not last for ever."""
        age, most = self._clock.seconds() - self._opened_at, self._limits.session_seconds
        if self._core.state in _IN_TRANSACTION:
            # A content has to keep pace; but recipients or chunks, one now and then, could hold a session for months.
            if self._core.is_in_content or age <= TRANSACTION_AT_TIMES_SESSION * most:
                return False
        elif not (self._is_draining or age > most):
            return False
        if self._is_draining:
            self._end(replies.SHUTTING_DOWN)
        else:
            self._time_out("session_timeout_seconds")
        return True

    async def _answer(self, event: Event) -> None:
        if isinstance(event, ContentChunk):
            await self._duties.take(event.octets)
            return
        if isinstance(event, ContentEnd):
            for each in await self._duties.finish(event):
                self._write(self._core.send(each))
        elif isinstance(event, StartTLS):
            self._start_tls()
        elif isinstance(event, KeysWanted):
            found = await self._duties.find_keys(event)
            if isinstance(found, Reply):
                self._write(self._core.send(found))
            else:
                await self._answer(self._core.give_keys(*found))
        else:
            answer = await self._serve(self._duties.answer(event))
            if isinstance(event, XClient):
                answer = as_greeting(answer)
            answer = self._duties.counted(event, answer)
            if self._duties.is_slow:
                await deferLater(self._clock, self._limits.error_delay_seconds)
            self._write(self._core.send(answer))
            if self._core.is_in_content:
                self._content_octets = 0
                self._deadline.set(self._limits.content_seconds)
        if self._core.closed:
            self._close("quit" if isinstance(event, Quit) else "refused" if isinstance(event, Refused) else "ended by us")

    async def _serve(self, duty: Any) -> Reply:
        """Carry out a duty; whatever nobody expected is temporary."""
        try:
            answer: Reply = await duty
        except CancelledError:
            raise
        except Exception:
            events.unexpected(f"session {self.session}", Failure())
            return replies.LOCAL_ERROR
        return answer

    def _rest(self, served: bool) -> None:
        """Wait for the peer, or give up what the lost connection leaves."""
        if self._is_lost:
            self._leave()
            return
        if self._core.closed:
            self._close("ended by us")
        if self._is_half_closed and not self._outlet.is_full:
            self._close(self._reason)
        if self._is_closing or self._is_handshaking:
            return
        if self._outlet.is_full or not self._deadline.is_set or (served and not self._core.is_in_content):
            self._deadline.set(self._limits.command_seconds)
        self._rein()

    def _rein(self) -> None:
        """Read on exactly as long as no more than a window waits."""
        should_read = self._core.pending <= self._limits.window_octets and not (self._outlet.is_full and self._core.pending)
        if should_read is not self._is_reading and not self._is_lost and not self._is_half_closed:
            self._is_reading = should_read
            if should_read:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def _outlet_changed(self) -> None:
        if self._is_running or self._is_closing:
            return
        if self._outlet.is_full:
            self._deadline.set(self._limits.command_seconds)
            self._rein()
        else:
            self._wake()

    # TLS

    def _start_tls(self) -> None:
        self._write(self._core.send(replies.START_TLS))
        if self._core.closed:
            events.command_refused(self.session, BEHIND_STARTTLS)
            return
        self._is_handshaking = True
        self._deadline.set(self._limits.handshake_seconds)
        self._duties.forget()
        self._core.tls_started()
        self._send_gathered()
        self.transport.startTLS(self.factory.certificates)

    # The end

    def _write(self, octets: bytes) -> None:
        if not octets:  # the answer to a BDAT whose octets are still to come
            return
        if self._gathered is not None:
            self._gathered.append(octets)
        elif not self._is_lost:
            self.transport.write(octets)

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered and not self._is_lost:
            self.transport.write(b"".join(gathered))

    def _end(self, answer: Reply) -> None:
        """Say a last word that no command asked for."""
        self._write(self._core.end(answer))
        self._close(answer.text)

    def _close(self, reason: str) -> None:
        """Close when everything is written; not for ever, if the peer does not read it."""
        if self._is_closing:
            return
        self._is_closing, self._reason = True, reason
        self._duties.abort()
        self._deadline.set(LAST_WORD_SECONDS if self._is_draining else self._limits.handshake_seconds)
        self._send_gathered()
        self.transport.unregisterProducer()  # a transport waits for its producer before it closes
        self.transport.loseConnection()

    def _abort(self, reason: str) -> None:
        if not self._is_lost:
            if not self._is_closing:
                self._is_closing, self._reason = True, reason
            self.transport.abortConnection()

    def _leave(self) -> None:
        self._deadline.stop()
        self._duties.leave()
        self.factory.forget(self)

    def _expired(self) -> None:
        if self._is_handshaking:
            events.limit_reached(self.session, "handshake_timeout_seconds")
        if self._is_closing or self._is_handshaking or self._outlet.is_full:
            self._abort("peer does not answer" if self._is_closing or self._is_handshaking else "peer does not read")
        elif self._is_running:
            self._deadline.set(self._limits.command_seconds)  # the peer waits for us
        elif self._core.is_in_content and self._keeps_pace():
            self._content_octets = 0
            self._deadline.set(self._limits.content_seconds)
        else:
            self._time_out("data_octets_per_second" if self._core.is_in_content else "command_timeout_seconds")

    def _time_out(self, limit: str) -> None:
        events.limit_reached(self.session, limit)
        self._end(replies.TIMED_OUT)

    def _keeps_pace(self) -> bool:
        return self._content_octets >= self._limits.content_seconds * self._limits.content_octets_per_second


def as_greeting(answer: Reply) -> Reply:
    """Give an answer a code with which a session may begin, or not begin (RFC 5321 §3.1, §4.3.2)."""
    return answer if answer.is_success else replace(answer, code=421 if answer.is_temporary else 554)


def describe_tls(transport: Any) -> str | None:
    """Return version and cipher of a TLS transport, or None when it has no TLS that can tell."""
    handle: Any = getattr(transport, "getHandle", lambda: None)()
    name = getattr(handle, "get_protocol_version_name", None)
    return f"{name()} {handle.get_cipher_name()}" if name is not None else None
