"""The POP3 service: makes a session for each connection, within limits, and ends them all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory

from mailstack import events
from mailstack.credentials import ScramSource
from mailstack.lockout import Lockout
from mailstack.mail.envelope import Service
from mailstack.retrieve.limits import POP3Limits
from mailstack.retrieve.protocol import POP3Protocol
from mailstack.retrieve.view import ListsInUse
from mailstack.sessions import Arrivals, Caps, Counts, Full, Sessions, peer_address
from mailstack.wire.pop3_commands import TOO_MANY_CONNECTIONS, format_pop3_reply


class POP3Factory(ServerFactory):
    """
    Makes sessions.

    Shape:   `portal` gives an avatar that is an `IMaildrop` or an `IMailboxPOP3`; `service` is POP3, or POP3S, whose listener
             puts TLS around this factory itself; `certificates` make STLS possible, and None does not; `start(coroutine, what)`
             runs a coroutine; `session_names` gives a new name for the log at each call; `counts` counts the sessions and
             `arrivals` their beginnings, if there are more listeners or processes than this; `lockout` knows who has guessed
             passwords. With `scram` SCRAM is offered, and the portal checks its proofs; with a `token_scope` tokens of that
             scope are taken, or of any when it is "", and the portal says whose they are.
    """

    noisy = False

    def __init__(
        self,
        *,
        portal: Portal,
        service: Service,
        clock: IReactorTime,
        start: Callable[[Coroutine[Any, Any, Any], str], Any],
        session_names: Callable[[], str],
        certificates: IOpenSSLServerConnectionCreator | None = None,
        require_tls: bool = True,
        limits: POP3Limits | None = None,
        counts: Counts | None = None,
        scram: ScramSource | None = None,
        arrivals: Arrivals | None = None,
        lockout: Lockout | None = None,
    ) -> None:
        self.portal = portal
        self.service = service
        self.clock = clock
        self.start = start
        self.certificates = certificates
        self.require_tls = require_tls
        self.scram = scram
        self.token_scope: str | None = None
        self.limits = limits or POP3Limits()
        self.lists = ListsInUse()
        self.lockout = lockout
        self._session_names = session_names
        self._sessions: Sessions[POP3Protocol] = Sessions(counts, arrivals)

    def __len__(self) -> int:
        """Say how many sessions there are."""
        return len(self._sessions)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Make a session, or what says that there are too many."""
        if self._sessions.is_draining:
            return None
        peer, limits = peer_address(addr), self.limits

        def make() -> POP3Protocol:
            return POP3Protocol(self, self._session_names(), peer)

        caps = Caps(
            all=limits.sessions,
            per_peer=limits.sessions_per_peer,
            per_network=limits.sessions_per_network,
            per_minute=limits.sessions_per_minute,
        )
        session = self._sessions.begin(make, peer, caps)
        if isinstance(session, Full):
            events.connection_refused(self.service, peer, session.value)
            return None if self.service.is_implicit_tls else _Refusal()  # with implicit TLS a word would cost a handshake
        return session

    def forget(self, session: POP3Protocol) -> None:
        """Take note that a session has ended."""
        self._sessions.remove(session)

    def drain(self) -> Deferred[None]:
        """
        End all sessions: the idle ones at once, the others after their command. Nothing is removed but by a QUIT in progress.

        Shape:   fires when the last has ended; connections that still come are dropped.
        """
        return self._sessions.drain()

    def abort_all(self) -> None:
        """Drop all connections."""
        self._sessions.abort_all()


class _Refusal(Protocol):
    """Says that there are too many connections."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(format_pop3_reply(TOO_MANY_CONNECTIONS))
        self.transport.loseConnection()
