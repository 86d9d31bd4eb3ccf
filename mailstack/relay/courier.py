"""
The relay courier: attempts whose destination is another domain.

Hosts are tried in order until every recipient has its disposition, or no host is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.disposition import Disposition, delayed
from mailstack.mail.envelope import BodyType, Delivery, Remote
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.attempt import Attempt
from mailstack.relay.next_hops import NextHops
from mailstack.relay.ports import Connect, Resolver
from mailstack.relay.protocol import Sender, Surroundings, Trouble
from mailstack.relay.sessions import Sessions, Way
from mailstack.relay.settings import NextHop, RelaySettings, TLSPolicy
from mailstack.relay.tls import TLSContexts
from mailstack.route.hosts import Hop, NoRoute, Shuffle
from mailstack.wire.smtp_mailing import TLS, Asked, Mailing

_NO_TRUSTED_WAY: Final = Trouble(
    EnhancedStatus(5, 7, 30),
    "The message may only go by verified TLS (REQUIRETLS), which cannot be had to its domain",
    is_local=True,
)


class RelayCourier:
    """
    Relays to the hosts of a domain, or to a host that is named; may be called any number of times at once.

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
        self._clock = surroundings.clock
        self._settings = settings or RelaySettings()
        self._next_hops = NextHops(hostname, resolver, shuffle)
        self.sessions = Sessions(hostname, connect, surroundings, contexts or TLSContexts(), self._settings)

    async def attempt(self, delivery: Delivery, next_hop: NextHop | None = None) -> list[Disposition]:
        """
        Try to hand the message on; what is not understood is to be tried again.

        Shape:   without a next hop it is the usual one; where it names no host, all recipients are of one domain.
        """
        try:
            next_hop = next_hop or self._settings.next_hop
            attempt = Attempt(delivery.recipients, is_delivery=next_hop.is_lmtp)
            if delivery.envelope.requests.requires_tls and not next_hop.is_trusted:
                attempt.note(None, _NO_TRUSTED_WAY)
            else:
                await self._try_hosts(next_hop, delivery, attempt)
            return attempt.conclude()
        except CancelledError:
            raise
        except Exception as error:  # a bulkhead: unknown is temporary
            events.unexpected(f"relaying {delivery.entry}", Failure())
            return [delayed(ordinal, "Local error", cause=repr(error)) for ordinal in delivery.recipients]

    async def close(self) -> None:
        """End the sessions that wait, and keep none from now on."""
        await self.sessions.close()

    async def _try_hosts(self, next_hop: NextHop, delivery: Delivery, attempt: Attempt) -> None:
        hosts = await self._next_hops.hosts(next_hop, "" if next_hop.is_named else _domain(delivery))
        if isinstance(hosts, NoRoute):
            attempt.note(None, hosts)
            return
        left = self._settings.max_hosts
        for host in hosts:
            hops = await self._next_hops.addresses(next_hop, host)
            if isinstance(hops, NoRoute):
                attempt.note(None, hops)
                continue
            waiting = hops[:left]
            left -= len(waiting)
            while waiting:
                met = await self._try_hops(next_hop, waiting, delivery, attempt)
                if not attempt.open:
                    return
                waiting = tuple(hop for hop in waiting if hop not in met)
            if left <= 0:
                return

    async def _try_hops(self, next_hop: NextHop, hops: Sequence[Hop], delivery: Delivery, attempt: Attempt) -> Sequence[Hop]:
        """Try the first address of a host that can be connected to; return those that were tried."""

        async def hand_over(sender: Sender, hop: Hop) -> Trouble | None:
            return await self._do_mailings(sender, hop, delivery, attempt)

        may_be_clear = next_hop.tls is TLSPolicy.MAY
        tls = TLS.NEVER if next_hop.is_socket else TLS.MAY if may_be_clear else TLS.MUST
        met = await self.sessions.do([self._way(hop, next_hop, tls, delivery) for hop in hops], hand_over)
        *unreached, (hop, trouble) = met
        for each, why in unreached:
            _note(attempt, next_hop, each, why)
        if trouble is not None and trouble.is_tls and may_be_clear and not next_hop.is_implicit_tls:
            # RFC 7435: TLS that does not work must not be worse than none.
            ((_, trouble),) = await self.sessions.do([self._way(hop, next_hop, TLS.NEVER, delivery)], hand_over)
        _note(attempt, next_hop, hop, trouble)
        return [each for each, _ in met]

    def _way(self, hop: Hop, next_hop: NextHop, tls: TLS, delivery: Delivery) -> Way:
        reverse_path = delivery.envelope.reverse_path
        sender_domain = reverse_path.domain if reverse_path is not None else None
        return Way(hop, next_hop, tls, self._settings.sources.to(hop.address, sender_domain))

    async def _do_mailings(self, sender: Sender, hop: Hop, delivery: Delivery, attempt: Attempt) -> Trouble | None:
        for ordinals in attempt.groups(self._settings.max_recipients):
            trouble = await sender.mail(_mailing(delivery, ordinals, self._clock.seconds()), delivery.content)
            attempt.take(hop, ordinals, sender.results)
            if trouble is not None:
                if sender.content_begun or trouble.is_local:
                    attempt.delay(hop, ordinals, trouble)
                return trouble
        return None


def _note(attempt: Attempt, next_hop: NextHop, hop: Hop, trouble: Trouble | None) -> None:
    """Note why a host took nothing; that one which the operator has named wants nothing of us is the operator's to mend."""
    if trouble is not None and trouble.status.is_permanent and next_hop.is_named:
        trouble = replace(trouble, status=EnhancedStatus(4, trouble.status.subject, trouble.status.detail))
    if trouble is not None:
        attempt.note(hop, trouble)


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
