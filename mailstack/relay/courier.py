"""
The relay courier: attempts whose destination is another domain.

Hosts are tried in order until every recipient has its disposition, or no host is left.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.disposition import Disposition, delayed
from mailstack.mail.envelope import BodyType, Delivery, Remote
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.attempt import Attempt
from mailstack.relay.factory import SenderFactory
from mailstack.relay.host_memory import HostMemory
from mailstack.relay.idle import IdleSessions
from mailstack.relay.ports import Connect, Resolver
from mailstack.relay.protocol import Sender, Surroundings, Trouble
from mailstack.relay.settings import RelaySettings, TLSPolicy
from mailstack.relay.standing import concerns_host, is_ended
from mailstack.relay.tls import TLSContexts
from mailstack.route.hosts import Hop, NoRoute, Shuffle, exchanges_of, hops_of, literal_hop, public_hops
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_mailing import TLS, Asked, Mailing

_NO_CONNECTION: Final = EnhancedStatus(4, 4, 1)
_NO_TRUSTED_WAY: Final = Trouble(
    EnhancedStatus(5, 7, 30),
    "The message may only go by verified TLS (REQUIRETLS), which cannot be had to its domain",
    is_local=True,
)
_NO_SMARTHOST: Final = EnhancedStatus(4, 4, 4)


class RelayCourier:
    """
    Relays to the hosts of a domain, or all to a smarthost; may be called any number of times at once.

    Shape:  `hostname` is our own name, as in EHLO; `shuffle` orders MX of equal preference by chance.
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
    ) -> None:
        self._hostname = hostname
        self._resolver = resolver
        self._connect = connect
        self._around = surroundings
        self._shuffle = shuffle
        self._settings = settings or RelaySettings()
        self._contexts = contexts or TLSContexts()
        self._idle = IdleSessions(surroundings.clock, self._settings.idle)
        self._memory = HostMemory(surroundings.clock.seconds, *self._settings.remembered_seconds)

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        """Try to hand the message on; what is not understood is to be tried again."""
        try:
            attempt = Attempt(delivery.recipients)
            if delivery.envelope.requests.requires_tls and not self._is_trusted:
                attempt.note(None, _NO_TRUSTED_WAY)
            else:
                await self._try_hosts(delivery, attempt)
            return attempt.conclude()
        except CancelledError:
            raise
        except Exception as error:  # a bulkhead: unknown is temporary
            events.unexpected(f"relaying {delivery.entry}", Failure())
            return [delayed(ordinal, "Local error", cause=repr(error)) for ordinal in delivery.recipients]

    @property
    def _is_trusted(self) -> bool:
        """
        Whether the next host is surely the one that is meant: its name is ours to say, and its certificate must bear it.

        A name that an MX record says might be anybody's, as long as nobody has signed the record (RFC 8689 §4.2.1).
        """
        smarthost = self._settings.smarthost
        return smarthost is not None and smarthost.tls is TLSPolicy.VERIFY

    def forget_hosts(self) -> None:
        """Ask every host again, also those that could not be used a moment ago."""
        self._memory.forget_all()

    async def close(self) -> None:
        """End the sessions that wait, and keep none from now on."""
        await self._idle.close()

    async def _try_hosts(self, delivery: Delivery, attempt: Attempt) -> None:
        hosts = await self._hosts(_domain(delivery))
        if isinstance(hosts, NoRoute):
            attempt.note(None, hosts)
            return
        left = self._settings.max_hosts
        for host in hosts:
            hops = await self._hops(host)
            if isinstance(hops, NoRoute):
                attempt.note(None, hops)
                continue
            for hop in hops:
                known = self._memory.obstacle((hop.address, self._port))
                if known is not None:
                    attempt.note(hop, known)
                    continue
                if left <= 0:
                    return
                left -= 1
                await self._try_hop(hop, delivery, attempt)
                if not attempt.open:
                    return
            if left <= 0:
                return

    # Where

    async def _hosts(self, domain: str) -> tuple[str, ...] | NoRoute:
        if self._settings.smarthost is not None:
            return (self._settings.smarthost.host,)
        if domain.startswith("["):
            return (domain,)
        answer = await self._resolver.mx(domain)
        return exchanges_of(domain, answer, own_name=self._hostname, shuffle=self._shuffle)

    async def _hops(self, host: str) -> tuple[Hop, ...] | NoRoute:
        smarthost = self._settings.smarthost
        allow_private = self._settings.allow_private or smarthost is not None
        hops: tuple[Hop, ...] | NoRoute
        if (fixed := _fixed_hops(host)) is not None:
            hops = fixed if allow_private else public_hops(fixed)
        else:
            ipv6, ipv4 = await self._resolver.ipv6(host), await self._resolver.ipv4(host)
            hops = hops_of(host, ipv6, ipv4, allow_private=allow_private)
        if isinstance(hops, NoRoute) and smarthost is not None:
            # Somebody wrote a wrong name into the configuration: no reason to fail everybody's mail.
            return replace(hops, status=_NO_SMARTHOST, diagnostic="The next host cannot be found", cause=hops.diagnostic)
        return hops

    # What

    async def _try_hop(self, hop: Hop, delivery: Delivery, attempt: Attempt) -> None:
        policy = self._settings.smarthost.tls if self._settings.smarthost else self._settings.tls
        trouble = await self._try_session(hop, delivery, attempt, TLS.MAY if policy is TLSPolicy.MAY else TLS.MUST)
        if trouble is not None and trouble.is_tls and policy is TLSPolicy.MAY and not self._is_implicit_tls:
            # RFC 7435: TLS that does not work must not be worse than none.
            trouble = await self._try_session(hop, delivery, attempt, TLS.NEVER)
        if trouble is not None:
            attempt.note(hop, trouble)

    async def _try_session(self, hop: Hop, delivery: Delivery, attempt: Attempt, tls: TLS) -> Trouble | None:
        """Do what is open in one session, if possible one that is open already; return why it could not be done."""
        way = (hop, tls)
        sender = self._idle.take(way)
        if sender is not None:
            trouble = await self._use(sender, way, delivery, attempt)
            if trouble is None or sender.content_begun:
                return trouble
            # The host has ended that session meanwhile, or does so now: that says nothing of whether it takes our mail. Without
            # a content nobody can have the message, so a fresh session cannot make it a second one.
        factory = SenderFactory(lambda: self._sender(hop, tls))
        try:
            fresh: Sender = await self._connect(hop, self._port, factory)
        except CancelledError:
            raise
        except Exception as error:  # a bulkhead: whatever keeps us from connecting, the next host may do
            trouble = Trouble(_NO_CONNECTION, f"No connection to {hop.host}", f"{type(error).__name__}: {error}")
            self._memory.failed((hop.address, self._port), trouble)
            return trouble
        return await self._use(fresh, way, delivery, attempt)

    async def _use(self, sender: Sender, way: tuple[Hop, TLS], delivery: Delivery, attempt: Attempt) -> Trouble | None:
        try:
            trouble = await sender.open()
            self._remember(way[0], trouble)
            if trouble is None:
                trouble = await self._do_mailings(sender, way[0], delivery, attempt)
                if trouble is not None and is_ended(trouble):
                    self._remember(way[0], trouble)
        except BaseException:
            sender.abort()
            raise
        if trouble is None:
            self._idle.keep(way, sender)
        return trouble

    def _remember(self, hop: Hop, trouble: Trouble | None) -> None:
        if trouble is None:
            self._memory.worked((hop.address, self._port))
        elif concerns_host(trouble):
            self._memory.failed((hop.address, self._port), trouble)

    async def _do_mailings(self, sender: Sender, hop: Hop, delivery: Delivery, attempt: Attempt) -> Trouble | None:
        for ordinals in attempt.groups(self._settings.max_recipients):
            trouble = await sender.mail(_mailing(delivery, ordinals, self._around.clock.seconds()), delivery.content)
            attempt.take(hop, ordinals, sender.results)
            if trouble is not None:
                if sender.content_begun or trouble.is_local:
                    attempt.delay(hop, ordinals, trouble)
                return trouble
        return None

    @property
    def _port(self) -> int:
        return self._settings.smarthost.port if self._settings.smarthost else self._settings.port

    @property
    def _is_implicit_tls(self) -> bool:
        return self._settings.smarthost is not None and self._settings.smarthost.is_implicit_tls

    def _sender(self, hop: Hop, tls: TLS) -> Sender:
        smarthost = self._settings.smarthost
        policy = smarthost.tls if smarthost else self._settings.tls
        login, make_nonce = smarthost.login if smarthost else None, self._around.make_nonce
        core = SMTPClientCore(
            self._hostname,
            tls=tls,
            tls_active=self._is_implicit_tls,
            login=login,
            nonce=make_nonce() if login and make_nonce else "",
        )
        creator: Any = self._contexts.creator(policy, hop.host)
        return Sender(core, self._around, creator, implicit_tls=self._is_implicit_tls)


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


def _mailing(delivery: Delivery, ordinals: tuple[int, ...], now: float) -> Mailing:
    envelope, whole = delivery.envelope, delivery.content.in_memory
    recipients = [delivery.recipients[ordinal] for ordinal in ordinals]
    by = envelope.requests.deliver_by
    are_asked = any(each.notify is not None or each.original_recipient is not None for each in recipients)
    return Mailing(
        reverse_path=envelope.reverse_path,
        recipients=tuple(each.address for each in recipients),
        octets=delivery.content.octets,
        eight_bit=envelope.body is BodyType.EIGHT_BIT_MIME or (whole is not None and not whole.isascii()),
        smtputf8=envelope.smtputf8,
        requests=envelope.requests,
        by_seconds=int(by.deadline - now) if by is not None else None,
        asked=tuple(Asked(each.notify, each.original_recipient) for each in recipients) if are_asked else (),
    )


@lru_cache(maxsize=16)
def _fixed_hops(host: str) -> tuple[Hop, ...] | None:
    """Return the hops of what needs no lookup: an address, with or without brackets, and this machine."""
    if host.startswith("["):
        return (literal_hop(host),)
    if host == "localhost":
        return Hop(host, "::1"), Hop(host, "127.0.0.1")
    try:
        return (Hop(host, str(ipaddress.ip_address(host))),)
    except ValueError:
        return None
