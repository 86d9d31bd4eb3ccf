"""
Duties: what a session does for each event, and what it knows of its peer meanwhile.

Every duty returns the reply; what nobody expected it may raise, and the session answers 451.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, assert_never

from twisted.cred.credentials import Anonymous, UsernamePassword
from twisted.cred.error import LoginFailed
from twisted.cred.portal import Portal
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mailstack import events
from mailstack.credentials import BearerCredentials, CertificateCredentials, ScramCredentials, TokensUnavailable
from mailstack.lockout import by_token
from mailstack.mail import reply as replies
from mailstack.mail.envelope import Origin
from mailstack.mail.reply import Reply
from mailstack.mail.scram import ScramKeys, ScramProof
from mailstack.mail.verdict import Refuse, Stage
from mailstack.receive.interfaces import ISubmitter
from mailstack.receive.message_delivery import DELIVERY_INTERFACES, DeliveryReception
from mailstack.receive.ports import Reception
from mailstack.receive.transaction import Desk, SpoolReception
from mailstack.wire.sasl import Bearer, Credentials, External, KeysWanted
from mailstack.wire.smtp_commands import (
    Answered,
    Authenticate,
    ChunkEnd,
    ContentEnd,
    Data,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Refused,
    Reset,
    XClient,
    XForward,
)

if TYPE_CHECKING:
    from mailstack.receive.factory import ReceiverFactory
    from mailstack.receive.protocol import ReceiverProtocol

Asked = Answered | ChunkEnd | Refused | Hello | Mail | Rcpt | Data | Reset | Authenticate | XClient | XForward | Quit

_OF_CONNECTION: Final = frozenset(("ADDR", "NAME", "PORT", "DESTADDR", "DESTPORT"))
"""The attributes of XCLIENT that stay when another one does not name an address."""


class Duties:
    """The duties of one session."""

    def __init__(self, factory: ReceiverFactory, protocol: ReceiverProtocol, session: str, peer: str) -> None:
        self._factory = factory
        self._protocol = protocol
        self._judge = factory.judge
        self.scram = factory.scram
        self.token_scope = factory.token_scope
        self.certified: tuple[str, ...] = ()  # the addresses in the certificate that the peer has shown
        self._origin = Origin(service=factory.service, peer=peer, session=session)
        self._delivery: Any = factory.delivery
        self._logouts: list[Callable[[], Any]] = []
        self._reception: Reception | None = None
        self._client: Mapping[str, str] = {}  # what XCLIENT said last
        self._forwarded: Mapping[str, str] = {}  # what XFORWARD said of the next message
        self._failure: Failure | None = None  # of taking the content; can be said at its end only
        self._errors = 0
        self.is_slow = False  # the peer has erred so often that its replies wait
        self._failed_logins = 0
        self._idle_commands = 0
        self._surplus_recipients = 0

    # The session

    async def greet(self) -> Reply:
        """Make the greeting, or the refusal of the whole session (RFC 5321 §3.1)."""
        refuse = await self._judge.connect(self._origin)
        return self._greeting if refuse is None else self._log(Stage.CONNECT, refuse)

    @property
    def _greeting(self) -> Reply:
        return Reply(220, (f"{self._factory.hostname} {'LMTP' if self._factory.is_lmtp else 'ESMTP'}",))

    async def answer(self, event: Asked) -> Reply:
        """Carry out what an event asks for."""
        match event:
            case Rcpt():
                assert self._reception is not None, "the core knows the order"
                return await self._reception.rcpt(event)
            case Mail():
                return await self._begin(event)
            case Data():
                assert self._reception is not None, "the core knows the order"
                return await self._reception.data()
            case Answered(reply) | ChunkEnd(reply):
                return reply
            case Refused(reply):
                events.command_refused(self._origin.session, reply)
                return reply
            case Hello():
                return await self._hello(event)
            case Reset():
                self.abort()
                self._forwarded = {}
                return replies.OK
            case Quit():
                return replies.CLOSING
            case Authenticate():
                return await self._authenticate(event)
            case XClient():
                return await self._begin_anew(event.attributes)
            case XForward():
                self._forwarded = {**self._forwarded, **event.attributes}
                return replies.OK
            case _:
                assert_never(event)

    def counted(self, event: Asked, reply: Reply) -> Reply:
        """Return the reply, or the one that ends a session in which nothing but errors or idle commands happens."""
        if reply.is_permanent and not _is_said_later(event):
            self._errors += 1
        if _is_idle(event, reply):
            self._idle_commands += 1
        limits = self._factory.limits
        if reply is replies.TOO_MANY_RECIPIENTS:
            # Clients find the limit by running into it (RFC 5321 §4.5.3.1.10), but not for ever.
            self._surplus_recipients += 1
            self._errors += self._surplus_recipients > limits.recipients
        if self._errors > limits.free_errors and not self.is_slow and limits.error_delay_seconds > 0:
            self.is_slow = True
            events.session_slowed(self._origin.session, self._errors)
        if self._errors >= limits.errors:
            return self._too_many("errors")
        if self._idle_commands > limits.idle_commands:
            return self._too_many("idle_commands")
        return reply

    def _too_many(self, limit: str) -> Reply:
        events.limit_reached(self._origin.session, limit)
        return replies.TOO_MANY_ERRORS

    def tls_started(self, tls: str | None) -> None:
        """Take note of TLS."""
        self._origin = replace(self._origin, tls=tls or "TLS")

    def forget(self) -> None:
        """
        Forget what the peer said in the clear (RFC 3207 §4.2).

        Whom it speaks for stays: as an address it is no more and no less certain than the address of the peer itself.
        """
        self.abort()
        origin = self._origin
        self._client = {name: value for name, value in self._client.items() if name in _OF_CONNECTION}
        self._origin = Origin(service=origin.service, peer=origin.peer, session=origin.session, name=origin.name)

    def leave(self) -> None:
        """End, when the connection is lost and nothing is being served any more."""
        self.abort()
        self._log_out()

    def _log_out(self) -> None:
        logouts, self._logouts = self._logouts, []
        for logout in logouts:
            self._factory.start(_settled(logout), f"session {self._origin.session}: logout")

    async def _hello(self, hello: Hello) -> Reply:
        # What XCLIENT said of the client stands: who says it may greet by its own name.
        name, protocol = self._client.get("HELO") or hello.name, self._client.get("PROTO")
        origin = replace(self._origin, hello=name, extended=protocol != "SMTP" if protocol else hello.extended)
        refuse = await self._judge.hello(origin)
        if refuse is not None:
            return self._log(Stage.HELLO, refuse)
        self.abort()
        self._forwarded = {}
        self._origin = origin
        return hello.reply

    async def _begin_anew(self, attributes: Mapping[str, str]) -> Reply:
        """
        Put the client of a trusted peer into its place, and make the greeting for that one, or the refusal.

        Shape:   an address begins another client, of whom nothing said before holds; without one it is the same as before. What
                 is unavailable is as if nothing was said of it, but for the address: then nobody knows who it is.
        """
        before = {} if "ADDR" in attributes else {k: v for k, v in self._client.items() if k in _OF_CONNECTION}
        client, old = {**before, **attributes}, self._origin
        origin = Origin(
            service=old.service,
            peer=client.get("ADDR", old.peer),
            name=client.get("NAME", ""),
            hello=client.get("HELO", ""),
            extended=client.get("PROTO") != "SMTP",
            tls=old.tls,
            account=client.get("LOGIN", "").lower() or None,
            session=old.session,
        )
        stage, refuse = Stage.CONNECT, await self._judge.connect(origin)
        if refuse is None and origin.account is not None:
            stage, refuse = Stage.AUTH, await self._judge.auth(origin)
        if refuse is not None:
            return self._log(stage, refuse)
        if not self._factory.move(self._protocol, origin.peer):
            return replies.TOO_MANY_CONNECTIONS
        self.abort()
        self._log_out()
        self._origin, self._client, self._delivery = origin, client, self._factory.delivery
        events.speaks_for(origin.session, client)
        return self._greeting

    # Authentication

    async def find_keys(self, event: KeysWanted) -> tuple[ScramKeys, str] | Reply:
        """Return the keys of a user, and a nonce, for an exchange to go on; or why it cannot."""
        assert self.scram is not None, "else it is not offered"
        try:
            return await self.scram.find_keys(event.username), self.scram.make_nonce()
        except CancelledError:
            raise
        except Exception:
            events.unexpected(f"session {self._origin.session}: authentication", Failure())
            return replies.AUTH_UNAVAILABLE

    async def _authenticate(self, event: Authenticate) -> Reply:
        claim = _claim(event.credentials, self.certified)
        if isinstance(event.credentials, Credentials | ScramProof) and event.credentials.acts_for_other:
            return await self._reject_login(claim.username)
        if self._factory.portal is None:
            return replies.AUTH_UNAVAILABLE
        began_at, lockout = self._factory.clock.seconds(), self._factory.lockout
        if lockout is not None and lockout.is_locked(self._origin.peer, claim.counted_as):
            events.login_locked_out(self._origin.session, claim.username, self._origin.peer)
            return await self._answer_late(began_at)
        try:
            interface, avatar, logout = await self._login(self._factory.portal, claim.credentials, ISubmitter)
        except LoginFailed:
            if lockout is not None:
                lockout.has_failed(self._origin.peer, claim.counted_as, claim.secret)
            return await self._reject_login(claim.username, began_at)
        except TokensUnavailable as error:
            events.token_unchecked(self._origin.session, str(error))
            await self._wait_since(began_at, self._factory.limits.failure_delay_seconds)
            return replies.AUTH_UNAVAILABLE
        except CancelledError:
            raise
        except Exception:
            events.unexpected(f"session {self._origin.session}: authentication", Failure())
            return replies.AUTH_UNAVAILABLE
        account = avatar.account if interface is ISubmitter else claim.username
        origin = replace(self._origin, account=account)
        refuse = await self._judge.auth(origin)
        if refuse is not None:
            await _settled(logout)
            return self._log(Stage.AUTH, refuse)
        if lockout is not None:
            lockout.has_succeeded(origin.peer, claim.counted_as)
        self._logouts.append(logout)
        self._origin = origin
        self._delivery = None if interface is ISubmitter else avatar
        events.authenticated(origin.session, account)
        return replies.AUTHENTICATED

    async def _login(self, portal: Portal, credentials: Any, *interfaces: Any) -> tuple[Any, Any, Callable[[], Any]]:
        found: tuple[Any, Any, Callable[[], Any]] = await portal.login(credentials, None, *interfaces, *DELIVERY_INTERFACES)
        return found

    async def _reject_login(self, username: str, began_at: float | None = None) -> Reply:
        """Take note of a login that failed, and answer it."""
        events.authentication_failed(self._origin.session, username, self._origin.peer)
        return await self._answer_late(began_at)

    async def _answer_late(self, began_at: float | None) -> Reply:
        """
        Answer late, and later each time, the same for every cause; at last not again.

        Shape:   the wait counts from `began_at`, so that it does not tell whether a password was looked at.
        """
        self._failed_logins += 1
        limits = self._factory.limits
        await self._wait_since(began_at, limits.failure_delay_seconds * self._failed_logins)
        if self._failed_logins < limits.authentication_failures:
            return replies.AUTH_FAILED
        return self._too_many("failed_logins_per_session")

    async def _wait_since(self, began_at: float | None, seconds: float) -> None:
        spent_seconds = 0.0 if began_at is None else max(0.0, self._factory.clock.seconds() - began_at)
        await deferLater(self._factory.clock, max(0.0, seconds - spent_seconds))

    # Transactions

    async def _begin(self, mail: Mail) -> Reply:
        self.abort()
        reception = await self._make_reception(mail)
        if isinstance(reception, Reply):
            return reception
        self._reception = reception
        if self._forwarded:
            events.forwards(self._origin.session, self._forwarded)
        return await reception.mail()

    async def _make_reception(self, mail: Mail) -> Reception | Reply:
        desk = self._factory.desk
        if self._delivery is None and isinstance(desk, Desk):
            return SpoolReception(desk, self._origin, mail)
        if self._delivery is None:
            await self._log_in_anonymously()
        if self._delivery is None:
            return replies.AUTH_REQUIRED
        return DeliveryReception(self._delivery, self._origin, mail, self._protocol)

    async def _log_in_anonymously(self) -> None:
        """Ask the realm whether it serves strangers, as `smtp.SMTP` does."""
        if self._factory.portal is None:
            return
        try:
            _, self._delivery, logout = await self._login(self._factory.portal, Anonymous())
        except LoginFailed:
            return
        self._logouts.append(logout)

    async def take(self, octets: bytes) -> None:
        """Take a chunk of the content."""
        if self._failure is not None or self._reception is None:
            return
        try:
            waiting = self._reception.write(octets)
            if waiting is not None:
                await waiting
        except CancelledError:
            raise
        except Exception:
            self._failure = Failure()

    async def finish(self, end: ContentEnd) -> list[Reply]:
        """Answer the content, whatever happens; a refused one counts against the next command."""
        answers = await self._finish(end)
        if answers[0].is_success:
            self._errors = self._idle_commands = self._surplus_recipients = 0
            self.is_slow = False
        elif answers[0].is_permanent:
            self._errors += 1
        return answers

    async def _finish(self, end: ContentEnd) -> list[Reply]:
        reception, self._reception = self._reception, None
        failure, self._failure = self._failure, None
        self._forwarded = {}
        assert reception is not None, "the core knows the order"
        if end.refusal is not None:
            reception.refused(end.refusal)
            return [end.refusal] * end.replies
        try:
            if failure is not None:
                failure.raiseException()
            answers = await reception.finish()
            if len(answers) != end.replies:
                raise RuntimeError("a reply for each recipient is wanted")
        except CancelledError:
            reception.abort()
            raise
        except Exception:
            events.unexpected(f"session {self._origin.session}: content", Failure())
            reception.abort()
            return [replies.LOCAL_ERROR] * end.replies
        return answers

    def abort(self) -> None:
        """Forget the transaction, if one is running; one that is being answered ends by itself."""
        reception, self._reception = self._reception, None
        self._failure = None
        if reception is not None:
            reception.abort()

    def _log(self, stage: Stage, refuse: Refuse) -> Reply:
        events.transaction_refused(self._origin.session, stage, refuse.reply, refuse.cause, None)
        return refuse.reply


@dataclass(frozen=True, slots=True)
class _Claim:
    """
    Who a client says to be.

    Shape:  `credentials` are for the portal; `username` is for the log, `counted_as` for the lockout; `secret` is what the same
            guess is known by when it comes again, or None.
    """

    credentials: Any = field(repr=False)
    username: str
    counted_as: str
    secret: bytes | None = field(default=None, repr=False)


def _claim(said: Credentials | ScramProof | External | Bearer, certified: tuple[str, ...]) -> _Claim:
    if isinstance(said, Bearer):
        name = said.authorization_id.decode("utf-8")
        return _Claim(BearerCredentials(said.token, said.authorization_id), name or "a token", by_token(name), said.token)
    if isinstance(said, External):
        name = said.authorization_id.decode("utf-8") or ", ".join(certified)
        return _Claim(CertificateCredentials(certified, said.authorization_id), name, name)
    name = said.username.decode("utf-8")
    if isinstance(said, ScramProof):
        return _Claim(ScramCredentials(said), name, name)
    return _Claim(UsernamePassword(said.username, said.password), name, name, said.password)


def _is_said_later(event: Asked) -> bool:
    """Say whether a refusal is one that the client gets only when it has answered a challenge, and that counts then."""
    return isinstance(event, Authenticate) and isinstance(event.credentials, Bearer)


def _is_idle(event: Asked, reply: Reply) -> bool:
    """Say whether a command brings a message no further; so does a chunk of nothing, of which there could be any number."""
    if isinstance(event, ChunkEnd):
        return not event.octets
    return isinstance(event, Answered | Hello | Reset | XClient | XForward) and reply.code != 334


async def _settled(action: Callable[[], Any]) -> None:
    done: Deferred[Any] = maybeDeferred(action)
    await done
