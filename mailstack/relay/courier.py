"""
The relay courier: attempts whose destination is another domain.

Hosts are tried in order until every recipient has its disposition, or no host is left. A hostile zone may name thousands, so
there are bounds; what they leave out makes the outcome temporary, since nobody knows what those hosts would have said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.address import Address
from mailstack.mail.disposition import Disposition
from mailstack.mail.envelope import BodyType, Delivery, Remote
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.attempt import Attempt, BrokenOffError
from mailstack.relay.host_memory import HostMemory
from mailstack.relay.memory import TLSMemory, key_of
from mailstack.relay.next_hops import Addresses, Hosts, NextHops
from mailstack.relay.ports import Connect, IsOurselves, PolicySource, Resolver, ReturnPath, TLSWitness
from mailstack.relay.protocol import Sender, Surroundings, Trouble
from mailstack.relay.sessions import Met, Sessions, Way, Work
from mailstack.relay.settings import NextHop, RelaySettings
from mailstack.relay.tls import TLSContexts
from mailstack.relay.trust import Trust
from mailstack.route.hosts import Hop, NoRoute, Shuffle, is_this_machine, loops_back
from mailstack.route.trust import Barred, Security, TLSPolicy
from mailstack.wire.smtp_mailing import TLS, Asked, Mailing

MOST_HOSTS: Final = 16
"""Of one domain, in one attempt: hosts that have addresses, or of which nobody could say."""
MOST_NAMES: Final = 64
"""Of one domain, in one attempt: names that are looked up."""
MOST_IN_VAIN: Final = 5
"""Sessions with a host in which nothing came of it for anybody, one after the other; it may want one for each recipient."""
MOST_ROUNDS: Final = 4
"""So many times `max_hosts` are the addresses that a late attempt tries."""

HUNG_SECONDS: Final = 600.0, 14_400.0
"""For so long at first, and at most, mail goes in clear at once to a host that hung at STARTTLS, where it may."""

_NO_TRUSTED_WAY: Final = Trouble(
    EnhancedStatus(5, 7, 30),
    "The message may only go by verified TLS (REQUIRETLS), which cannot be had to its domain",
    is_local=True,
)
_LOCAL_ERROR: Final = Trouble(EnhancedStatus(4, 3, 0), "Local error", is_local=True)
_BROKEN_OFF: Final = replace(_LOCAL_ERROR, text="The attempt was broken off")
_IN_VAIN: Final = replace(_LOCAL_ERROR, text="The host takes nothing in one session after the other")
_SMARTHOST_LOOPS: Final = EnhancedStatus(4, 4, 6)
_NO_TRUSTED_WAY_YET: Final = replace(_NO_TRUSTED_WAY, status=EnhancedStatus(4, 7, 30))

_Meeting = tuple[str, TLS, Security | None]
"""An address, and what was asked of it; without a Security any certificate does."""

_TLS: Final = {
    TLSPolicy.NONE: TLS.NEVER,
    TLSPolicy.MAY: TLS.MAY,
    TLSPolicy.ENCRYPT: TLS.MUST,
    TLSPolicy.VERIFY: TLS.MUST,
    TLSPolicy.DANE: TLS.MUST,
}


async def _as_it_is(reverse_path: Address) -> Address:
    return reverse_path


class RelayCourier:
    """
    Relays to the hosts of a domain, or to a host that is named; may be called any number of times at once.

    Shape:  `hostname` is our own name, as in EHLO; `shuffle` orders MX of equal preference by chance; `return_path` says from
            whom what an alias leads elsewhere goes on.
    """

    def __init__(
        self,
        hostname: str,
        resolver: Resolver,
        connect: Connect,
        surroundings: Surroundings,
        shuffle: Shuffle,
        *,
        settings: RelaySettings | None = None,
        contexts: TLSContexts | None = None,
        return_path: ReturnPath = _as_it_is,
        is_ourselves: IsOurselves = lambda address, port: False,
        policies: PolicySource | None = None,
        witness: TLSWitness | None = None,
        memory: TLSMemory | None = None,
    ) -> None:
        self._clock = surroundings.clock
        self._resolver = resolver
        self._settings = settings or RelaySettings()
        self._next_hops = NextHops(hostname, resolver, shuffle)
        self._trust = Trust(resolver, self._settings.tls_levels, policies)
        self._witness = witness
        self._memory = memory
        self._hosts = HostMemory(surroundings.clock.seconds, *self._settings.remembered_seconds)
        self._hung = HostMemory(surroundings.clock.seconds, *HUNG_SECONDS)
        self.sessions = Sessions(
            hostname, connect, surroundings, contexts or TLSContexts(), self._settings, self._hosts, witness, memory
        )
        self._return_path = return_path
        self._is_ourselves = is_ourselves

    async def attempt(self, delivery: Delivery, next_hop: NextHop | None = None) -> list[Disposition]:
        """
        Try to hand the message on; what is not understood is to be tried again.

        Shape:   without a next hop it is the usual one; where it names no host, all recipients are of one domain.
        Raises:  BrokenOffError: it was cancelled when something of it had come about already.
        """
        next_hop = next_hop or self._settings.next_hop
        attempt = Attempt(delivery.recipients, is_delivery=next_hop.is_lmtp)
        try:
            await self._try_hosts(next_hop, delivery, attempt)
        except CancelledError as error:
            if len(attempt.open) == len(delivery.recipients):
                raise
            attempt.note(None, _BROKEN_OFF)
            raise BrokenOffError(attempt.conclude()) from error
        except Exception as error:  # a bulkhead: unknown is temporary
            events.unexpected(f"relaying {delivery.entry}", Failure())
            attempt.note(None, replace(_LOCAL_ERROR, cause=repr(error)))
        return attempt.conclude()

    def forget_hosts(self) -> None:
        """Ask every host again, also those that could not be used a moment ago, and the DNS for what it did not say."""
        self._hosts.forget_all()
        self._hung.forget_all()
        self._resolver.forget_failures()

    async def close(self) -> None:
        """End the sessions that wait, and keep none from now on."""
        await self.sessions.close()

    async def _try_hosts(self, next_hop: NextHop, delivery: Delivery, attempt: Attempt) -> None:
        domain = next_hop.domain or ("" if next_hop.is_named else _domain(delivery))
        hosts = await self._next_hops.hosts(next_hop, domain)
        if isinstance(hosts, NoRoute):
            attempt.note(None, hosts)
            return
        # What was left out has its turn later: hosts that refuse us are no reason never to meet the others.
        left = self._settings.max_hosts * min(delivery.attempt, MOST_ROUNDS)
        known = 0
        met: set[_Meeting] = set()
        for number, host in enumerate(hosts.names):
            if left <= 0 or known == MOST_HOSTS or number == MOST_NAMES:
                attempt.leave_out()
                return
            addresses = await self._next_hops.addresses(next_hop, host)
            if isinstance(addresses, NoRoute):
                attempt.note(None, addresses)
                known += not addresses.status.is_permanent  # names that lead nowhere must not hide a host
                continue
            known += 1
            if not next_hop.is_socket and any(self._is_ourselves(hop.address, next_hop.port) for hop in addresses.hops):
                # RFC 5321 §5.1: hosts that are no better than ourselves would give it back to us. The better ones were tried.
                attempt.note(None, _loop(next_hop, domain, host))
                return
            security = await self._security(next_hop, hosts, addresses, delivery, attempt)
            if security is None:
                continue
            tls = await self._tls(next_hop, host, security, is_optional=delivery.envelope.requests.tls_optional)
            hops = tuple(hop for hop in dict.fromkeys(addresses.hops) if _meeting(hop, tls, security) not in met)
            waiting = self._worth_asking(next_hop, hops, left, attempt)
            met.update(_meeting(hop, tls, security) for hop in waiting)
            left -= len(waiting)
            while waiting:
                tried = await self._try_hops(next_hop, waiting, tls, security, delivery, attempt)
                if not attempt.open:
                    return
                waiting = tuple(hop for hop in waiting if hop not in tried)

    def _worth_asking(self, next_hop: NextHop, hops: Sequence[Hop], most: int, attempt: Attempt) -> tuple[Hop, ...]:
        """Return the first addresses of a host, but for those that could not be used a moment ago."""
        found: list[Hop] = []
        for hop in hops:
            if len(found) == most:
                attempt.leave_out()
                break
            known = self._hosts.obstacle((hop.address, next_hop.port))
            if known is None:
                found.append(hop)
            else:
                attempt.note(hop, known)
        return tuple(found)

    async def _security(
        self, next_hop: NextHop, hosts: Hosts, addresses: Addresses, delivery: Delivery, attempt: Attempt
    ) -> Security | None:
        """Return what is asked of TLS with a host; None: it must not be used, which is noted."""
        requests = delivery.envelope.requests
        domains = {each.domain for each in delivery.recipients.values()}
        security = await self._trust.security(next_hop, hosts, addresses, domains, is_optional=requests.tls_optional)
        if isinstance(security, Barred):
            attempt.note(None, security.route)
            if self._witness is not None:
                route = security.route
                why = f"{route.diagnostic} {route.cause}"
                self._witness.session(security.applied, addresses.host, failure=security.failure, why=why)
            return None
        if requests.requires_tls and not security.is_trusted:
            # RFC 8689 §4.2.1. A policy that is announced and could not be had may be had later.
            attempt.note(None, _NO_TRUSTED_WAY_YET if security.flaw is not None or security.is_unknown else _NO_TRUSTED_WAY)
            return None
        return security

    async def _tls(self, next_hop: NextHop, host: str, security: Security, *, is_optional: bool) -> TLS:
        """Say whether STARTTLS is used with a host; what is to go whatever becomes of TLS does not wait for it to come back."""
        tls = TLS.NEVER if next_hop.is_socket else _TLS[security.level]
        if tls is not TLS.MAY or is_optional or self._memory is None or is_this_machine(host):  # no line leaves this machine
            return tls
        return TLS.MUST if await self._memory.insists(key_of(host, next_hop.port)) else tls

    async def _try_hops(
        self, next_hop: NextHop, hops: Sequence[Hop], tls: TLS, security: Security, delivery: Delivery, attempt: Attempt
    ) -> Sequence[Hop]:
        """Try the first address of a host that can be connected to; return those that were tried."""

        may_be_clear = tls is TLS.MAY and not next_hop.is_implicit_tls and next_hop.login is None  # no password goes in clear
        hung = {hop for hop in hops if may_be_clear and self._hung.obstacle((hop.address, next_hop.port)) is not None}
        for each in hops:
            if may_be_clear and each not in hung:
                self._hung.asked((each.address, next_hop.port))

        async def hand_over(sender: Sender, hop: Hop, *, is_second: bool = False) -> Trouble | None:
            lost_tls = tls is TLS.MAY and (is_second or hop in hung or sender.lacks_tls)
            return await self._do_mailings(sender, hop, delivery, attempt, is_final=next_hop.is_lmtp, lost_tls=lost_tls)

        still_open = attempt.open
        ways = [
            replace(self._way(hop, next_hop, TLS.NEVER, security, delivery), has_hung=True)
            if hop in hung
            else self._way(hop, next_hop, tls, security, delivery)
            for hop in hops
        ]
        met = await self._in_sessions(ways, hand_over, delivery, attempt)
        *unreached, (hop, trouble) = met
        for each, why in unreached:
            _note(attempt, next_hop, each, why)
        if may_be_clear and hop not in hung:
            self._note_hang((hop.address, next_hop.port), trouble)
        if may_be_clear and trouble is not None and trouble.is_tls:
            # RFC 7435: TLS that does not work must not be worse than none.
            ways = [self._way(hop, next_hop, TLS.NEVER, security, delivery)]
            ((_, trouble),) = await self._in_sessions(ways, partial(hand_over, is_second=True), delivery, attempt)
        if trouble is None and attempt.open == still_open:
            self._hung.worked((hop.address, next_hop.port))  # it takes nothing in clear: the next has TLS, or nothing
        _note(attempt, next_hop, hop, trouble)
        return [each for each, _ in met]

    def _note_hang(self, host: tuple[str, int], trouble: Trouble | None) -> None:
        """Note whether a host hangs at STARTTLS: not every message should wait minutes for that."""
        if trouble is None:
            self._hung.worked(host)
        elif trouble.is_tls and trouble.is_late:
            self._hung.failed(host, trouble)

    async def _in_sessions(self, ways: Sequence[Way], work: Work, delivery: Delivery, attempt: Attempt) -> Met:
        """Do work in a session with one of several addresses, and in as many more with that as the host wants."""

        def is_over() -> bool:
            return not attempt.open

        still_open, in_vain = len(attempt.open), 0
        met = await self.sessions.do(ways, work, delivery.afterwards, is_over)
        while True:
            hop, trouble = met[-1]
            ways = [way for way in ways if way.hop == hop]
            if trouble is not None and trouble.is_chunkless:
                self._hosts.refused_chunks((hop.address, ways[0].next_hop.port))
                ways = [replace(way, chunking=False) for way in ways]
            elif trouble is not None or not attempt.left(hop):
                return met
            in_vain = in_vain + 1 if len(attempt.open) == still_open else 0
            if in_vain == MOST_IN_VAIN:
                attempt.note(hop, _IN_VAIN, attempt.left(hop))
                return met
            still_open = len(attempt.open)
            met = (*met[:-1], *await self.sessions.do(ways, work, delivery.afterwards, is_over))

    def _way(self, hop: Hop, next_hop: NextHop, tls: TLS, security: Security, delivery: Delivery) -> Way:
        reverse_path = delivery.envelope.reverse_path
        sender_domain = reverse_path.domain if reverse_path is not None else None
        source = self._settings.sources.to(hop.address, sender_domain)
        chunking = self._settings.chunking and self._hosts.takes_chunks((hop.address, next_hop.port))
        return Way(hop, next_hop, tls, security, source, chunking)

    async def _do_mailings(
        self, sender: Sender, hop: Hop, delivery: Delivery, attempt: Attempt, *, is_final: bool, lost_tls: bool
    ) -> Trouble | None:
        """Hand over to those for whom the host was not asked: one group at least, and as many as it takes in one session."""
        most = self._settings.max_recipients
        for group in attempt.groups(hop, min(most, sender.most_recipients or most)):
            for reverse_path, ordinals in await self._from_whom(delivery, group, is_final=is_final):
                mailing = _mailing(delivery, reverse_path, ordinals, self._clock.seconds())
                try:
                    trouble = await sender.mail(mailing, delivery.content)
                finally:  # LMTP answers for one after the other: what was heard stands, also when this is cancelled
                    attempt.take(hop, ordinals, sender.results, sender.tls, lost_tls=lost_tls)
                if trouble is not None:
                    if trouble.is_chunkless:
                        attempt.ask(hop, [each for each, result in zip(ordinals, sender.results, strict=True) if result])
                        attempt.note(hop, trouble, attempt.left(hop))
                    elif sender.content_begun or trouble.is_local:
                        attempt.delay(hop, ordinals, trouble)
                    return trouble
                attempt.ask(hop, ordinals)
                if sender.is_used_up:
                    return None
        return None

    async def _from_whom(
        self, delivery: Delivery, ordinals: tuple[int, ...], *, is_final: bool
    ) -> list[tuple[Address | None, tuple[int, ...]]]:
        """
        Part recipients by the reverse-path under which the message goes to them: forwarding may need another.

        Shape:  `is_final`: who gets it delivers it, so nobody will look whether we may send for that domain.
        """
        sender = delivery.envelope.reverse_path
        forwarded = tuple(each for each in ordinals if delivery.recipients[each].is_forwarded)
        if sender is None or is_final or not forwarded:
            return [(sender, ordinals)]
        others = tuple(each for each in ordinals if each not in forwarded)
        parts: list[tuple[Address | None, tuple[int, ...]]] = [(await self._return_path(sender), forwarded)]
        return [*parts, (sender, others)] if others else parts


def _meeting(hop: Hop, tls: TLS, security: Security) -> _Meeting:
    """Return what makes one session with an address as good as another, whichever of its names it was found by."""
    is_judged = security.level in (TLSPolicy.VERIFY, TLSPolicy.DANE)
    return hop.address, tls, security if is_judged else None


def _note(attempt: Attempt, next_hop: NextHop, hop: Hop, trouble: Trouble | None) -> None:
    """Note why a host took nothing; that one which the operator has named wants nothing of us is the operator's to mend."""
    if trouble is not None and trouble.status.is_permanent and next_hop.is_named:
        trouble = replace(trouble, status=EnhancedStatus(4, trouble.status.subject, trouble.status.detail))
    if trouble is not None:
        attempt.note(hop, trouble)


def _loop(next_hop: NextHop, domain: str, host: str) -> NoRoute:
    if next_hop.is_named:  # as of a wrong name
        return NoRoute(_SMARTHOST_LOOPS, "The next host is this one", host)
    return replace(loops_back(domain), cause=f"host {host} is this one")


def _domain(delivery: Delivery) -> str:
    """
    Return the one domain of a delivery.

    Raises:  ValueError: there is not exactly one; the spool groups recipients by destination.
    """
    destinations = {recipient.destination for recipient in delivery.recipients.values()}
    match list(destinations):
        case [Remote(domain)]:
            return domain
    raise ValueError(f"not one remote destination: {destinations}")


def _mailing(delivery: Delivery, reverse_path: Address | None, ordinals: tuple[int, ...], now: float) -> Mailing:
    envelope, whole = delivery.envelope, delivery.content.in_memory
    recipients = [delivery.recipients[ordinal] for ordinal in ordinals]
    by = envelope.requests.deliver_by
    are_asked = any(each.notify is not None or each.original_recipient is not None for each in recipients)
    return Mailing(
        reverse_path=reverse_path,
        recipients=tuple(each.address for each in recipients),
        octets=delivery.content.octets,
        eight_bit=envelope.body is BodyType.EIGHT_BIT_MIME or (whole is not None and not whole.isascii()),
        smtputf8=envelope.smtputf8,
        requests=envelope.requests,
        by_seconds=int(by.deadline - now) if by is not None else None,
        asked=tuple(Asked(each.notify, each.original_recipient) for each in recipients) if are_asked else (),
    )
