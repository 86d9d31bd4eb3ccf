"""The POP3 service: makes a session for each connection, within limits, and ends them all."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory

from mailstack.mail.envelope import Service
from mailstack.retrieve.limits import POP3Limits
from mailstack.retrieve.protocol import POP3Protocol
from mailstack.wire.pop3_commands import TOO_MANY_CONNECTIONS, format_pop3_reply


class POP3Factory(ServerFactory):
    """
    Makes sessions.

    Shape:   `portal` gives an avatar that is an `IMaildrop` or an `IMailboxPOP3`; `service` is POP3, or POP3S, whose listener
             puts TLS around this factory itself; `certificates` make STLS possible, and None does not; `start(coroutine, what)`
             runs a coroutine; `session_names` gives a new name for the log at each call.
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
    ) -> None:
        self.portal = portal
        self.service = service
        self.clock = clock
        self.start = start
        self.certificates = certificates
        self.require_tls = require_tls
        self.limits = limits or POP3Limits()
        self._session_names = session_names
        self._sessions: set[POP3Protocol] = set()
        self._peers: Counter[str] = Counter()
        self._drained: list[Deferred[None]] = []
        self._is_draining = False

    def __len__(self) -> int:
        """Say how many sessions there are."""
        return len(self._sessions)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Make a session, or what says that there are too many."""
        if self._is_draining:
            return None
        peer = str(getattr(addr, "host", ""))
        key = _peer_key(peer)
        if len(self._sessions) >= self.limits.sessions or self._peers[key] >= self.limits.sessions_per_peer:
            # With implicit TLS a word would cost a handshake.
            return None if self.service.is_implicit_tls else _Refusal()
        session = POP3Protocol(self, self._session_names(), peer)
        self._sessions.add(session)
        self._peers[key] += 1
        return session

    def forget(self, session: POP3Protocol) -> None:
        """Take note that a session has ended."""
        self._sessions.discard(session)
        key = _peer_key(session.peer)
        self._peers[key] -= 1
        if self._peers[key] <= 0:
            del self._peers[key]
        self._settle()

    def drain(self) -> Deferred[None]:
        """
        End all sessions: the idle ones at once, the others after their command. Nothing is removed but by a QUIT in progress.

        Shape:   fires when the last has ended; connections that still come are dropped.
        """
        self._is_draining = True
        for session in list(self._sessions):
            session.drain()
        over: Deferred[None] = Deferred()
        self._drained.append(over)
        self._settle()
        return over

    def abort_all(self) -> None:
        """Drop all connections."""
        for session in list(self._sessions):
            session.abort()

    def _settle(self) -> None:
        if self._is_draining and not self._sessions:
            drained, self._drained = self._drained, []
            for over in drained:
                over.callback(None)


class _Refusal(Protocol):
    """Says that there are too many connections."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(format_pop3_reply(TOO_MANY_CONNECTIONS))
        self.transport.loseConnection()


def _peer_key(host: str) -> str:
    """Return what counts as one peer: an IPv4 address, or the /64 that one IPv6 customer has at least."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
