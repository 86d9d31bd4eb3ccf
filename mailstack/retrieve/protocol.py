"""
A POP3 session on a transport: the loop around the core, its times and its end.

One command is in progress at a time. What can be answered at once is; what waits (a login, a message, QUIT) runs as one
coroutine, and the next command is looked at when it has ended. A coroutine is never cancelled when the connection is lost:
what it waits for may be a thread that reads this very maildrop, so it runs to its end, and then the maildrop is given back.

A client that says nothing more, but reads on, gets its answers; one that is gone looks the same until something is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IHandshakeListener, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.mail.interfaces import IMailboxPOP3
from twisted.python.failure import Failure
from zope.interface import implementer

from mailstack import events
from mailstack.channel import certified_names, channel_bindings
from mailstack.credentials import BearerCredentials, CertificateCredentials, ScramCredentials, TokensUnavailable
from mailstack.lockout import by_token
from mailstack.mail.maildrop import MaildropLocked
from mailstack.retrieve.flow import Flow
from mailstack.retrieve.interfaces import IMaildrop
from mailstack.retrieve.limits import LAST_WORD_SECONDS
from mailstack.retrieve.mailbox import MailboxMaildrop
from mailstack.retrieve.session import Duty, MaildropSession, OpenMaildrop
from mailstack.retrieve.settle import settled
from mailstack.wire import pop3_commands as words
from mailstack.wire.events import Pause
from mailstack.wire.pop3_commands import Answered, Certify, Event, Leave, Login, Order, POP3Reply, Prove, Refused, Show, Verb
from mailstack.wire.pop3_server import POP3ServerCore
from mailstack.wire.sasl import KeysWanted

if TYPE_CHECKING:
    from mailstack.retrieve.factory import POP3Factory

COMMANDS_AT_ONCE: Final = 200
"""How many commands of one client are answered before the others get their turn; a window may hold thousands."""


@implementer(IHandshakeListener, IHalfCloseableProtocol)
class POP3Protocol(Protocol):
    """One connection. `session` is its name in the log."""

    factory: POP3Factory
    transport: Any

    def __init__(self, factory: POP3Factory, session: str, peer: str) -> None:
        self.factory = factory
        self.session = session
        self.peer = peer
        self._limits = factory.limits
        self._clock = factory.clock
        self._scram = factory.scram
        self._core = POP3ServerCore(
            secure=factory.service.is_implicit_tls,
            tls_offered=factory.certificates is not None,
            require_tls=factory.require_tls,
            scram=self._scram is not None,
            token_scope=factory.token_scope,
        )
        self._flow = Flow(self._clock, self._limits.stalled_seconds, resumed=self._advance, stalled=self._stalled)
        self._maildrop: MaildropSession | None = None
        self._account = ""
        self._certified: tuple[str, ...] = ()  # the addresses in the certificate that the client has shown
        self._logout: Callable[[], Any] | None = None
        self._timer: IDelayedCall | None = None
        self._sleep: tuple[Deferred[None], IDelayedCall] | None = None
        self._active_at = 0.0
        self._errors = 0
        self._failed_logins = 0
        self._end = "connection lost"
        self._is_busy = False
        self._is_advancing = False
        self._is_reading = True
        self._is_half_closed = False
        self._is_draining = False
        self._is_closing = False
        self.is_lost = False

    # What the transport calls

    def connectionMade(self) -> None:
        """Greet, but only when TLS is up where the service begins with it."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._flow.start(self.transport)
        events.session_opened(self.session, self.factory.service, self.peer)
        self._timer = self._clock.callLater(self._limits.login_seconds, self._expired, "not logged in in time")
        if not self.factory.service.is_implicit_tls:
            self._greet()

    def handshakeCompleted(self) -> None:
        """Greet, when this is the TLS with which the service begins."""
        if self._scram is not None:
            self._core.bind_channel(channel_bindings(self.transport))
        self._certified = certified_names(self.transport)
        if self._certified:
            self._core.certificate_shown()
        if self.factory.service.is_implicit_tls and not self._is_closing:
            self._greet()

    def dataReceived(self, data: bytes) -> None:
        """Take octets; stop reading when too many wait."""
        if self._is_closing:
            return
        if self._is_at_rest() and (order := self._core.receive_order(data)) is not None:
            self._active_at = self._clock.seconds()
            self._carry_out(order)
            return
        self._core.receive(data)
        self._advance()
        if self._is_reading and self._core.waiting_octets > self._limits.window_octets:
            self._is_reading = False
            self.transport.pauseProducing()

    def readConnectionLost(self) -> None:
        """Answer what was said; nothing more will be."""
        self._is_half_closed = True
        self._advance()

    def writeConnectionLost(self) -> None:
        """Nothing is to be done: only we could say that we say no more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End; what runs ends by itself first."""
        self.is_lost = self._is_closing = True
        events.session_closed(self.session, self._end)
        for timer in (self._timer, self._sleep and self._sleep[1]):
            if timer is not None and timer.active():
                timer.cancel()
        if self._sleep is not None:
            self._sleep[0].callback(None)
        self._flow.release()
        if not self._is_busy:
            self._leave()

    # What the factory and the maildrop session call

    def drain(self) -> None:
        """End as soon as no command is in progress."""
        self._is_draining = True
        if self._is_closing and self._timer is not None and self._timer.active():
            self._timer.reset(LAST_WORD_SECONDS)
        self._advance()

    def abort(self) -> None:
        """End at once, and remove nothing, unless the removing has begun."""
        self._abort("aborted")

    def send(self, reply: POP3Reply) -> None:
        """Write a reply, and close after it if it is the last."""
        self.write(self._core.send(reply))
        if reply.closes:
            self._close("quit" if reply is words.BYE else reply.text)

    def write(self, octets: bytes) -> None:
        """Write octets, unless the connection is gone or going."""
        if not self._is_closing:
            self._flow.write(octets)

    async def others_turn(self) -> None:
        """Let the reactor see to the other clients first."""
        await self._sleep_for(0)

    # The loop

    def _greet(self) -> None:
        self.send(words.GREETING)
        self._advance()

    def _advance(self) -> None:
        """Answer commands for as long as that can be done at once."""
        if self._is_advancing:
            return
        self._is_advancing = True
        self._flow.begin_turn()
        in_turn = 0
        try:
            while not (self._is_busy or self._is_closing):
                if self._is_draining:
                    self._end_session(words.SHUTTING_DOWN)
                    break
                if self._flow.is_paused:
                    break
                event = self._core.next_event()
                if isinstance(event, Pause):
                    break
                self._active_at = self._clock.seconds()
                self._carry_out(event)
                in_turn += 1
                if in_turn >= COMMANDS_AT_ONCE and not (self._is_busy or self._is_closing):
                    in_turn = 0
                    self._begin(self.others_turn())
        finally:
            self._is_advancing = False
            self._flow.end_turn()
        if self._is_half_closed:
            if not (self._is_busy or self._flow.is_paused):
                self._close(self._end)
        elif not self._is_reading and self._core.waiting_octets <= self._limits.window_octets and not self.is_lost:
            self._is_reading = True
            self.transport.resumeProducing()

    def _is_at_rest(self) -> bool:
        """Say whether nothing keeps the next command from being answered."""
        return not (self._is_busy or self._is_advancing or self._is_draining or self._flow.is_paused)

    def _carry_out(self, event: Event) -> None:
        """Answer a command, or begin to."""
        try:
            duty = self._answer(event)
        except Exception:  # a bulkhead, as in `_done`
            self._failed()
            return
        if duty is not None:
            self._begin(duty)

    def _begin(self, duty: Duty) -> None:
        """Begin what waits. What was said before it does not."""
        self._flow.end_turn()
        self._is_busy = True
        self.factory.start(self._done(duty), f"POP3 session {self.session}")
        if self._is_advancing:
            self._flow.begin_turn()

    async def _done(self, duty: Duty) -> None:
        """Carry out a duty that waits, and go on, whatever comes of it."""
        try:
            await duty
        except CancelledError:
            self._abort("cancelled")
            raise
        except Exception:  # a bulkhead: unknown means temporary
            self._failed()
        finally:
            self._is_busy = False
            self._active_at = self._clock.seconds()
            if self.is_lost:
                self._leave()
        if self._core.is_closed:
            self._close("failed")
        self._advance()

    def _failed(self) -> None:
        """Say that something failed that nobody expected; to be called where it is caught."""
        events.unexpected(f"POP3 session {self.session}", Failure())
        if self._core.owes_reply:
            self.send(words.LOCAL_ERROR)
        else:
            self._abort("failed in the middle of a message")  # the client must not take the part for the whole

    def _answer(self, event: Event) -> Duty | None:
        if isinstance(event, Order):
            if event.verb is Verb.STLS:
                self._start_tls()
                return None
            assert self._maildrop is not None, "the core lets them pass only after a login"
            return self._maildrop.answer(event)
        if isinstance(event, Answered):
            self.send(event.reply)
            return None
        if isinstance(event, Refused):
            self._refuse(event.reply)
            return None
        if isinstance(event, Login | Prove | Show | Certify):
            return self._log_in(event)
        if isinstance(event, KeysWanted):
            return self._find_keys(event)
        return self._quit(event)

    def _refuse(self, reply: POP3Reply) -> None:
        self._errors += 1
        events.command_refused(self.session, str(reply))
        allowed = self._limits.errors if self._maildrop else self._limits.errors_before_login
        self.send(reply if self._errors < allowed else words.TOO_MANY_ERRORS)

    # TLS

    def _start_tls(self) -> None:
        assert self.factory.certificates is not None, "the core offers it only then"
        self.send(words.START_TLS)
        self._flow.end_turn()
        self.transport.startTLS(self.factory.certificates)
        self._core.tls_started()

    # Logging in

    async def _find_keys(self, wanted: KeysWanted) -> None:
        assert self._scram is not None, "else it is not offered"
        keys = await self._scram.find_keys(wanted.username)
        self.send(self._core.give_keys(keys, self._scram.make_nonce()).reply)

    async def _log_in(self, login: Login | Prove | Show | Certify) -> None:
        avatar: Any
        credentials, username, secret = _claim(login, self._certified)
        counted_as = by_token(username) if isinstance(login, Show) else username
        username = username or "a token"
        began_at, lockout = self._clock.seconds(), self.factory.lockout
        if lockout is not None and lockout.is_locked(self.peer, counted_as):
            events.login_locked_out(self.session, username, self.peer)
            await self._reject_login(began_at)
            return
        try:
            interface, avatar, logout = await self.factory.portal.login(credentials, None, IMaildrop, IMailboxPOP3)
        except (UnauthorizedLogin, LoginDenied):
            events.authentication_failed(self.session, username, self.peer)
            if lockout is not None:
                lockout.has_failed(self.peer, counted_as, secret)
            await self._reject_login(began_at)
            return
        except TokensUnavailable as error:
            events.token_unchecked(self.session, str(error))
            await self._wait_since(began_at)
            self.send(words.LOGIN_UNAVAILABLE)
            return
        except MaildropLocked:
            events.command_refused(self.session, str(words.IN_USE), username)
            self.send(words.IN_USE)
            return
        if lockout is not None:
            lockout.has_succeeded(self.peer, counted_as)
        self._logout = logout
        try:
            maildrop: OpenMaildrop = avatar if interface is IMaildrop else MailboxMaildrop(avatar)
            listing = await settled(maildrop.listing())
            lists = self.factory.lists.of(listing)
            session = MaildropSession(self, maildrop, listing, self._core, self._flow, lists)
        except BaseException:
            await self._release()
            raise
        account = getattr(avatar, "account", "") or username
        events.authenticated(self.session, account)
        self._open(session, account)

    def _open(self, session: MaildropSession, account: str) -> None:
        self._maildrop, self._account = session, account
        events.maildrop_opened(self.session, account, session.view.count, session.view.octets)
        if self.is_lost:
            return
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._clock.callLater(self._limits.idle_seconds, self._check_idle)
        self.send(words.ok(f"{session.view.count} messages ({session.view.octets} octets)"))

    async def _reject_login(self, began_at: float) -> None:
        """
        Answer late, the same for every cause, and at last not again (RFC 3206 §4).

        Shape:   the wait counts from `began_at`, so that it does not tell whether a password was looked at.
        """
        self._failed_logins += 1
        await self._wait_since(began_at)
        self.send(words.AUTH_FAILED if self._failed_logins < self._limits.failed_logins else words.TOO_MANY_FAILURES)

    async def _wait_since(self, began_at: float) -> None:
        spent_seconds = max(0.0, self._clock.seconds() - began_at)
        await self._sleep_for(max(0.0, self._limits.failure_delay_seconds - spent_seconds))

    async def _sleep_for(self, seconds: float) -> None:
        """Wait, or until the connection is lost."""
        if not self.is_lost:
            over: Deferred[None] = Deferred()
            self._sleep = over, self._clock.callLater(seconds, over.callback, None)
            await over
            self._sleep = None

    # The end

    def _quit(self, leave: Leave) -> Duty | None:
        if not leave.commit:
            self.send(words.BYE)
            return None
        return self._commit()

    async def _commit(self) -> None:
        """Remove what is marked: the UPDATE state, and the only way to it (RFC 1939 §6)."""
        assert self._maildrop is not None, "the core says so"
        deleted = self._maildrop.view.deleted
        try:
            failed = await self._maildrop.commit(deleted)
        except CancelledError:
            raise
        except Exception:  # a bulkhead: nothing is certain now
            events.unexpected(f"POP3 session {self.session}: removing messages", Failure())
            failed = len(deleted)
        events.maildrop_closed(self.session, self._account, len(deleted) - failed, failed)
        self._maildrop = None
        # Before the reply: who reads it and connects again must not find the maildrop in use.
        await self._release()
        self.send(words.NOT_REMOVED if failed else words.BYE)

    def _leave(self) -> None:
        """Give everything back without removing anything."""
        if self._maildrop is not None:
            events.maildrop_closed(self.session, self._account, 0, 0)
            self._maildrop = None
        self.factory.start(self._left(), f"POP3 session {self.session}: logout")

    async def _left(self) -> None:
        try:
            await self._release()
        finally:
            self.factory.forget(self)

    async def _release(self) -> None:
        logout, self._logout = self._logout, None
        if logout is not None:
            await settled(logout())

    def _end_session(self, reply: POP3Reply) -> None:
        """Say a last word that no command asked for."""
        self.write(self._core.interrupt(reply))
        self._close(reply.text)

    def _close(self, reason: str) -> None:
        """Close when everything is written; not for ever, if the client does not read it."""
        if self._is_closing:
            return
        self._is_closing, self._end = True, reason
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        patience = LAST_WORD_SECONDS if self._is_draining else self._limits.stalled_seconds
        self._timer = self._clock.callLater(patience, self._abort, reason)
        self._flow.stop()
        self.transport.loseConnection()

    def _abort(self, reason: str) -> None:
        if not self.is_lost:
            self._is_closing, self._end = True, reason
            self.transport.abortConnection()

    # Times

    def _stalled(self) -> None:
        self._abort("client does not read")

    def _expired(self, reason: str) -> None:
        """Close without a word (RFC 1939 §3: no response, and nothing removed)."""
        self._abort(reason)

    def _check_idle(self) -> None:
        left = self._active_at + self._limits.idle_seconds - self._clock.seconds()
        if self._is_busy or self._flow.is_paused:
            left = self._limits.idle_seconds  # it is we who are at work, or the other timer runs
        if left > 0:
            self._timer = self._clock.callLater(left, self._check_idle)
        else:
            self._expired("idle")


def _claim(login: Login | Prove | Show | Certify, certified: tuple[str, ...]) -> tuple[Any, str, bytes | None]:
    """Return credentials for the portal, the name of whom they say to be, and what the same guess is known by."""
    if isinstance(login, Show):
        bearer = login.bearer
        credentials = BearerCredentials(bearer.token, bearer.authorization_id)
        return credentials, bearer.authorization_id.decode("utf-8", "replace"), bearer.token
    if isinstance(login, Certify):
        wanted = login.external.authorization_id
        return CertificateCredentials(certified, wanted), wanted.decode("utf-8", "replace") or ", ".join(certified), None
    if isinstance(login, Prove):
        return ScramCredentials(login.proof), login.proof.username.decode("utf-8", "replace"), None
    return UsernamePassword(login.username, login.password), login.username.decode("utf-8", "replace"), login.password
