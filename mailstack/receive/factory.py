"""The receiver's service: makes a session for each connection, within caps, and ends them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.mail import smtp

from mailstack import events
from mailstack.credentials import ScramSource
from mailstack.lockout import Lockout
from mailstack.mail import reply as replies
from mailstack.mail.envelope import Service
from mailstack.mail.reply import Reply, format_reply
from mailstack.receive.ports import Intake, Judge, Router, Start
from mailstack.receive.protocol import ReceiverProtocol
from mailstack.receive.transaction import Desk
from mailstack.sessions import Arrivals, Caps, Counts, Full, Sessions, peer_address
from mailstack.wire.limits import Limits
from mailstack.wire.smtp_table import Role

_ROLES: Final = {
    Service.SMTP: Role.MX,
    Service.SUBMISSION: Role.SUBMISSION,
    Service.SUBMISSIONS: Role.SUBMISSION,
    Service.LMTP: Role.LMTP,
}


class ReceiverFactory(smtp.SMTPFactory):
    """
    Makes sessions.

    Shape:   `portal` logs users in (ISubmitter, or someone's IMessageDelivery…); `certificates` make STARTTLS possible, and
             None does not; with SUBMISSIONS the listener puts TLS around this factory. With `scram` SCRAM is offered, and the
             portal checks its proofs. Mail goes to `intake` and `router`, or to `delivery`, an IMessageDelivery or
             IMessageDeliveryFactory of twisted.mail; with neither, to what the portal gives an anonymous user.
             `session_names` gives a new name at each call. `counts` counts the sessions and `arrivals` their beginnings, if
             there are more listeners or processes than this; `lockout` knows who has guessed passwords. `admits(peer)` says who
             may connect, and `trusts(peer)` who may speak for others, both by IP address, or "" for a UNIX socket. Tokens of
             the scope `token_scope` log users in, if the portal says so; of any scope when it is "", and none when it is None.
             These three, `limits`, `judge` and `scram` may be replaced at any time and count for sessions that begin then.
    Raises:  ValueError: the service is not one of SMTP.
    """

    protocol = ReceiverProtocol  # type: ignore[assignment]  # the loop of our own; see the charter
    noisy = False

    def __init__(
        self,
        *,
        portal: Portal | None,
        service: Service,
        hostname: str,
        clock: IReactorTime,
        start: Start,
        session_names: Callable[[], str],
        judge: Judge,
        limits: Limits | None = None,
        intake: Intake | None = None,
        router: Router | None = None,
        delivery: Any = None,
        certificates: IOpenSSLServerConnectionCreator | None = None,
        counts: Counts | None = None,
        scram: ScramSource | None = None,
        arrivals: Arrivals | None = None,
        lockout: Lockout | None = None,
    ) -> None:
        if service not in _ROLES:
            raise ValueError(f"{service} is not received here")
        if (intake is None) is not (router is None):
            raise ValueError("intake and router go together")
        super().__init__(portal)  # type: ignore[no-untyped-call]  # twisted.mail is partly untyped
        self.domain = hostname.encode("ascii")
        self.hostname = hostname
        self.service = service
        self.role = _ROLES[service]
        self.is_lmtp = service is Service.LMTP
        self.clock = clock
        self.start = start
        self.judge = judge
        self.limits = limits or Limits()
        self.delivery = delivery
        self.certificates = certificates
        self.scram = scram
        self.token_scope: str | None = None
        self.admits: Callable[[str], bool] = lambda peer: True
        self.trusts: Callable[[str], bool] = lambda peer: False
        self.lockout = lockout
        self._intake = intake
        self._router = router
        self._session_names = session_names
        self._sessions: Sessions[ReceiverProtocol] = Sessions(counts, arrivals)

    def __len__(self) -> int:
        """Say how many sessions there are."""
        return len(self._sessions)

    @property
    def desk(self) -> Desk | None:
        """What our own receptions have in common, or None where mail goes to someone's delivery."""
        if self._intake is None or self._router is None:
            return None
        return Desk(
            hostname=self.hostname,
            limits=self.limits,
            clock=self.clock,
            intake=self._intake,
            router=self._router,
            judge=self.judge,
        )

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Make a session, or what says that there are too many."""
        peer = peer_address(addr)
        if not self.admits(peer):
            events.peer_refused(self.service, peer)
            return self._refusal(replies.NOT_WELCOME)

        def make() -> ReceiverProtocol:
            session: ReceiverProtocol = smtp.SMTPFactory.buildProtocol(self, addr)
            session.prepare(self._session_names(), peer)
            return session

        if self._sessions.is_draining:
            return self._refusal(replies.SHUTTING_DOWN)
        session = self._sessions.begin(make, peer, self._caps)
        if isinstance(session, Full):
            events.connection_refused(self.service, peer, session.value)
            return self._refusal(replies.TOO_MANY_CONNECTIONS)
        return session

    @property
    def _caps(self) -> Caps:
        limits = self.limits
        return Caps(
            all=limits.sessions,
            per_peer=limits.sessions_per_peer,
            per_network=limits.sessions_per_network,
            per_minute=limits.sessions_per_minute,
        )

    def _refusal(self, answer: Reply) -> Protocol | None:
        return None if self.service.is_implicit_tls else _Refusal(answer)  # with implicit TLS a word would cost a handshake

    def move(self, session: ReceiverProtocol, peer: str) -> bool:
        """Count a session for another peer, and say so, unless that one has too many."""
        return self._sessions.move(session, peer, self._caps)

    def forget(self, session: ReceiverProtocol) -> None:
        """Take note that a session has ended."""
        self._sessions.remove(session)

    def drain(self) -> Deferred[None]:
        """
        End all sessions: the idle ones at once with 421, the others after their transaction.

        Shape:   fires when the last has ended and nothing is being committed; who still connects gets 421.
        """
        return self._sessions.drain()

    def abort_all(self) -> None:
        """Drop all connections; what has had its dot is still committed."""
        self._sessions.abort_all()


class _Refusal(Protocol):
    """Says why there is no session."""

    def __init__(self, answer: Reply) -> None:
        self._answer = answer

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(format_reply(self._answer))
        self.transport.loseConnection()
