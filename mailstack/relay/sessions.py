"""
Sessions: opened when they are needed, used again while they are open.

A session is good for a message when it goes the same way: to the same address, in the same role, with the same demands. One
that turns out to be dead says nothing about its host, so the message goes by a fresh one at once, unless its content was begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred

from mailstack.mail.status import EnhancedStatus
from mailstack.mail.tls_results import TLSFailure
from mailstack.relay.connect import is_our_fault
from mailstack.relay.factory import SenderFactory
from mailstack.relay.host_memory import HostMemory
from mailstack.relay.idle import IdleSessions
from mailstack.relay.leaving import Leaving
from mailstack.relay.memory import TLSMemory, key_of
from mailstack.relay.ports import Connect, TLSWitness
from mailstack.relay.protocol import Sender, Surroundings, Trouble
from mailstack.relay.race import race
from mailstack.relay.settings import NextHop, RelaySettings
from mailstack.relay.standing import concerns_host, is_ended
from mailstack.relay.tls import TLSContexts
from mailstack.route.hosts import Hop
from mailstack.route.trust import Security
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_mailing import TLS

_NO_CONNECTION: Final = EnhancedStatus(4, 4, 1)
_LOCAL: Final = EnhancedStatus(4, 3, 0)

Work = Callable[[Sender, Hop], Awaitable[Trouble | None]]
"""What is to be done in a session with an address; returns why it could not be done."""

Afterwards = list[Callable[[], None]]
"""What is to be called when the outcomes are on disk."""

Met = tuple[tuple[Hop, Trouble | None], ...]
"""The addresses that were met, and why the work was not done there; the last is the one at which it was, or was not."""


@dataclass(frozen=True, slots=True)
class Way:
    """Whatever makes one session as good as another for a message."""

    hop: Hop
    next_hop: NextHop
    tls: TLS
    security: Security
    source: str | None = None
    chunking: bool = True
    has_hung: bool = False
    """It goes in clear, since the host hung at STARTTLS a while ago."""


class Sessions:
    """Opens sessions, and keeps those that have done their work for a while; any number of works may go on at once."""

    def __init__(
        self,
        hostname: str,
        connect: Connect,
        surroundings: Surroundings,
        contexts: TLSContexts,
        settings: RelaySettings,
        hosts: HostMemory,
        witness: TLSWitness | None = None,
        memory: TLSMemory | None = None,
    ) -> None:
        self._hostname = hostname
        self._connect = connect
        self._around = surroundings
        self._contexts = contexts
        self._hosts = hosts
        self._witness = witness
        self._memory = memory
        self._race_seconds = settings.race_seconds
        self._leaving = Leaving()
        self._idle = IdleSessions(surroundings.clock, settings.idle, self._leaving)

    def __len__(self) -> int:
        """Return how many wait for work."""
        return len(self._idle)

    async def close(self) -> None:
        """End the sessions that wait, and keep none from now on."""
        await self._idle.close()

    async def do(
        self,
        ways: Sequence[Way],
        work: Work,
        afterwards: Afterwards | None = None,
        is_over: Callable[[], bool] = lambda: True,
    ) -> Met:
        """
        Do work in one session, if possible one that is open already.

        Shape:   the ways differ only by what depends on their hop; the first to which a connection comes about is taken. To
                 `afterwards` is added what lets the session go on, if that must wait. `is_over` says whether other hosts are
                 asked before that.
        """
        for way in ways:
            sender = self._idle.take(way)
            # Whoever holds a session himself does not wait for another's, who may wait for his.
            if sender is None and not afterwards and (coming := self._idle.next_free(way)) is not None:
                sender = await coming
            if sender is not None:
                trouble = await self._use(sender, way, work, afterwards, is_over)
                if trouble is None or sender.content_begun:
                    return ((way.hop, trouble),)
                # The host has ended that session meanwhile, or does so now: that says nothing of whether it takes our mail.
                # Without a content nobody can have the message, so a fresh session cannot make it a second one.
                break
        finish = await race(ways, self._open, self._around.clock, self._race_seconds)
        unreached = tuple((way.hop, self._unreached(way, error)) for way, error in finish.failures)
        if finish.winner is None:
            return unreached
        return (
            *unreached,
            (finish.winner.hop, await self._use(finish.protocol, finish.winner, work, afterwards, is_over, is_fresh=True)),
        )

    def _open(self, way: Way) -> Deferred[Sender]:
        self._hosts.asked((way.hop.address, way.next_hop.port))
        return self._connect(way.hop, way.next_hop.port, SenderFactory(lambda: self._sender(way)), way.source)

    async def _use(
        self,
        sender: Sender,
        way: Way,
        work: Work,
        afterwards: Afterwards | None,
        is_over: Callable[[], bool],
        *,
        is_fresh: bool = False,
    ) -> Trouble | None:
        before = sender.contents
        try:
            trouble = await sender.open()
            if is_fresh:
                self._note_tls(sender, way, trouble)
                self._remember(way, trouble)
            if trouble is None:
                trouble = await work(sender, way.hop)
                if is_fresh and trouble is not None and is_ended(trouble):
                    self._remember(way, trouble)
        except BaseException:
            sender.abort()
            raise
        if trouble is None:
            self._let_go(sender, way, afterwards if sender.contents > before else None, is_over)
        else:
            self._leaving.note(sender)  # the session has ended, or has said QUIT
        return trouble

    def _let_go(self, sender: Sender, way: Way, afterwards: Afterwards | None, is_over: Callable[[], bool]) -> None:
        """Keep a session for the next message, or end it; without `afterwards` nothing of it need be on disk before."""
        if not self._idle.has_use(sender):
            self._leaving.quit(sender)  # not held until all is on disk: for what is left of the message another is opened first
        elif afterwards is None:
            self._idle.keep(way, sender)
        elif is_over():
            afterwards.append(self._idle.hold(way, sender))
        else:
            self._leaving.quit(sender)  # what the other hosts say may take long, and nobody is to wait for it

    def _sender(self, way: Way) -> Sender:
        next_hop, make_nonce = way.next_hop, self._around.make_nonce
        core = SMTPClientCore(
            self._hostname,
            tls=way.tls,
            tls_active=next_hop.is_implicit_tls,
            login=next_hop.login,
            nonce=make_nonce() if next_hop.login and make_nonce else "",
            lmtp=next_hop.is_lmtp,
            chunking=way.chunking,
        )
        client = self._contexts.client(way.security, way.hop.host)
        return Sender(
            core, self._around, client, implicit_tls=next_hop.is_implicit_tls, must_be_right=not way.security.is_testing
        )

    def _note_tls(self, sender: Sender, way: Way, trouble: Trouble | None) -> None:
        """Have it noted what became of TLS; a session that ended for another reason says nothing of it."""
        security, hop, failure = way.security, way.hop, sender.tls_failure
        if way.has_hung and self._witness is not None:
            failure, why = TLSFailure.VALIDATION_FAILURE, "no answer to STARTTLS a while ago"
            self._witness.session(security.applied, hop.host, hop.address, sender.own_address, failure, why)
        if way.tls is TLS.NEVER:
            return
        if self._witness is not None and (failure is not None or sender.tls_active):
            flaw = failure or security.flaw
            self._witness.session(security.applied, hop.host, hop.address, sender.own_address, flaw, sender.tls_why)
        if self._memory is not None and security.may_be_clear:
            key = key_of(hop.host, way.next_hop.port)
            if sender.tls_active and trouble is None:
                self._memory.worked(key)
            elif failure is not None and (not sender.tls_active or (trouble is not None and trouble.is_tls)):
                self._memory.missed(key)

    def _remember(self, way: Way, trouble: Trouble | None) -> None:
        """Note whether the next message need ask this host."""
        host = (way.hop.address, way.next_hop.port)
        if trouble is None:
            self._hosts.worked(host)
        elif concerns_host(trouble, is_implicit_tls=way.next_hop.is_implicit_tls):
            self._hosts.failed(host, trouble)

    def _unreached(self, way: Way, error: Exception) -> Trouble:
        why = f"{type(error).__name__}: {error}"
        if is_our_fault(error):
            origin = f" from {way.source}" if way.source is not None else ""
            trouble = Trouble(_LOCAL, "Local error", f"this machine cannot connect{origin}: {why}", is_local=True)
        else:
            where = way.next_hop.host if way.next_hop.is_socket else way.hop.host
            trouble = Trouble(_NO_CONNECTION, f"No connection to {where}", why)
        self._remember(way, trouble)
        return trouble
