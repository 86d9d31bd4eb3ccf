"""
The courier in front of the others: each recipient goes where the operator says, and else where its destination does.

It looks at the moment of the attempt, so that a changed map counts for what waits already. What the operator has said of one
message (`Recipient.via`) wins over the map.

Those of a delivery who go different ways are different attempts, one after the other, our own maildirs first. What was found
out before an attempt is broken off stands, or it would be sent once more.

    transport               courier                          disposition
    none, local             LocalCourier, for an account     what it says
    none, mx, smtp, lmtp    RelayCourier                     what it says
    hold                    -                                DELAYED, is_held
    discard                 -                                DISCARDED, of which nobody is told
    error                   -                                FAILED or DELAYED, by its status

What goes to another program by LMTP is delivered there (RFC 2033 §4.2): a deadline, and TLS for all of the way, were kept by us
and are not asked of it, as little as of our own maildirs; TLS still is when it is not on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.address import Address
from mailstack.mail.disposition import Action, Disposition, delayed
from mailstack.mail.envelope import Account, Delivery, Recipient
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.attempt import DIAGNOSTIC_CHARACTERS, BrokenOffError
from mailstack.relay.settings import HostLogin, NextHop, RelaySettings, TLSPolicy
from mailstack.route.hosts import is_this_machine
from mailstack.route.transport import (
    Discard,
    Error,
    Hold,
    Lmtp,
    Local,
    Mx,
    Smtp,
    Transport,
    TransportError,
    TransportMap,
    parse_transport,
)
from mailstack.route.trust import own_level_of

_HELD: Final = EnhancedStatus(4, 7, 0)
_DISCARDED: Final = EnhancedStatus(2, 0, 0)
_MISCONFIGURED: Final = EnhancedStatus(4, 3, 5)
_LOCAL: Final = Local()

_Group = tuple[Transport | None, str]
"""A transport, and the domain where that decides; without a transport it is the usual way."""


class LocalCourier(Protocol):
    """Delivers to accounts."""

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        """Try it."""
        ...

    def head(self, reverse_path: Address | None, recipient: Recipient) -> bytes:
        """Return what it will put in front of the content."""
        ...


class RelayCourier(Protocol):
    """Hands on to hosts."""

    async def attempt(self, delivery: Delivery, next_hop: NextHop | None = None) -> list[Disposition]:
        """Try it; without a next hop by the usual way."""
        ...


def next_hop_of(transport: Mx | Smtp | Lmtp, settings: RelaySettings) -> NextHop:
    """
    Make the next hop of a transport.

    Whoever names a host means it, wherever it is. A login is for a host that is named, and never for one that an MX names; with
    it go the demands on TLS that protect it. Within this machine TLS is not insisted upon. What is set for one domain or host
    comes to that later (`relay.trust`).
    """
    direct = settings.direct
    match transport:
        case Mx():
            return direct
        case Smtp(host, port, by_mx=True):
            return replace(direct, domain=host, port=port)
    host = transport.host
    found: HostLogin | None = settings.logins.get(host)
    if found is not None:
        login, tls = found.login, found.tls
    else:
        login, tls = None, TLSPolicy.MAY if is_this_machine(host) else direct.tls
    is_lmtp = isinstance(transport, Lmtp)
    return NextHop(host=host, port=transport.port, login=login, tls=tls, allow_private=True, is_lmtp=is_lmtp)


class TransportCourier:
    """
    Sends each recipient on its way (a courier for every destination).

    Shape:  `relay`, `settings` and `transports` may be changed between attempts.
    """

    def __init__(
        self, local: LocalCourier, relay: RelayCourier, settings: RelaySettings, transports: TransportMap | None = None
    ) -> None:
        self._local = local
        self.relay = relay
        self.settings = settings
        self.transports = transports or TransportMap()

    def takes(self, recipient: Recipient) -> bool:
        """Say whether a recipient goes into our own maildirs."""
        if not isinstance(recipient.destination, Account):
            return False
        return self._goes_as_usual(recipient) or isinstance(self._transport_of(recipient), Local)

    def way_of(self, recipient: Recipient) -> str | None:
        """Name the way to a host that the destination does not say, by the map or since all mail goes there; else None."""
        usual = self.settings.next_hop
        if self.transports.is_empty and not usual.is_named:
            return None
        transport = self._transport_of(recipient)
        if isinstance(transport, Smtp | Lmtp) or (isinstance(transport, Mx) and _is_account(recipient)):
            return str(transport)
        if transport is None and usual.host is not None:
            return str(Smtp(usual.host, usual.port))
        return None

    def _goes_as_usual(self, recipient: Recipient) -> bool:
        return recipient.via is None and self.transports.is_empty

    def head(self, reverse_path: Address | None, recipient: Recipient) -> bytes:
        """Return what stands in front of the content in the maildir of a recipient."""
        return self._local.head(reverse_path, recipient)

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        """Attempt it for every recipient, each on its way."""
        relay, settings = self.relay, self.settings
        recipients = delivery.recipients
        if all(map(self._goes_as_usual, recipients.values())):  # as most mail does; they are accounts, or all of a domain
            courier = self._local if _is_account(next(iter(recipients.values()))) else relay
            try:
                return await courier.attempt(delivery)
            except BrokenOffError as error:
                return error.outcomes
        groups = self._groups(delivery.recipients, settings.tls_levels)
        if delivery.all_or_none and any(transport != _LOCAL for transport, _ in groups):
            return []  # it was for maildirs only, and is not any more
        done: dict[int, Disposition] = {}
        for (transport, domain), recipients in sorted(groups.items(), key=lambda group: group[0][0] != _LOCAL):
            part = delivery if len(groups) == 1 else replace(delivery, recipients=recipients)
            try:
                outcomes = await self._attempt(transport, domain, part, relay, settings)
            except CancelledError as error:
                if isinstance(error, BrokenOffError):
                    done |= {each.ordinal: each for each in error.outcomes}
                if not done:
                    raise
                left = [ordinal for ordinal in delivery.recipients if ordinal not in done]
                return [*done.values(), *(delayed(ordinal, "The attempt was broken off") for ordinal in left)]
            except Exception as error:  # a bulkhead: what became of the others stands
                events.unexpected(f"attempt for {delivery.entry} by {transport or 'the usual way'}", Failure())
                outcomes = [delayed(ordinal, "Local error", cause=repr(error)) for ordinal in recipients]
            done |= {each.ordinal: each for each in outcomes}
        return list(done.values())

    def _groups(
        self, recipients: Mapping[int, Recipient], levels: Mapping[str, TLSPolicy]
    ) -> dict[_Group, dict[int, Recipient]]:
        groups: dict[_Group, dict[int, Recipient]] = {}
        for ordinal, recipient in recipients.items():
            transport, domain = self._transport_of(recipient), recipient.domain
            is_apart = transport is None or isinstance(transport, Mx | Hold)
            if isinstance(transport, Smtp | Lmtp):  # what is asked of TLS for one domain must not keep others waiting
                is_apart = own_level_of(domain, levels) is not None
            groups.setdefault((transport, domain if is_apart else ""), {})[ordinal] = recipient
        return groups

    def _transport_of(self, recipient: Recipient) -> Transport | None:
        """Return the transport of a recipient; None: the usual way to its domain."""
        is_account = isinstance(recipient.destination, Account)
        if recipient.via is not None:
            try:
                found: Transport | None = parse_transport(recipient.via)
            except TransportError:
                return Error(_MISCONFIGURED, "The way that was set for it cannot be understood")
        else:
            found = self.transports.of(recipient.address, is_ours=is_account)
        if is_account:
            return found or _LOCAL
        return Error(_MISCONFIGURED, "It is to be delivered here, and there is no account") if found == _LOCAL else found

    async def _attempt(
        self, transport: Transport | None, domain: str, delivery: Delivery, relay: RelayCourier, settings: RelaySettings
    ) -> list[Disposition]:
        match transport:
            case Local():
                return await self._local.attempt(delivery)
            case None:
                return await relay.attempt(delivery)
            case Mx() if any(_is_account(each) for each in delivery.recipients.values()):
                # A domain of ours: that its MX leads back to us is the operator's to mend.
                return await relay.attempt(delivery, replace(settings.direct, domain=domain))
            case Mx() | Smtp():
                return await relay.attempt(delivery, next_hop_of(transport, settings))
            case Lmtp():
                return await relay.attempt(_to_be_delivered(delivery, transport), next_hop_of(transport, settings))
            case Hold():
                return await self._hold(delivery, relay)
            case Discard():
                return _all(delivery, Action.DISCARDED, _DISCARDED, "Discarded by the operator's transport map")
            case Error(status, text):
                return _all(delivery, Action.FAILED if status.is_permanent else Action.DELAYED, status, text)

    async def _hold(self, delivery: Delivery, relay: RelayCourier) -> list[Disposition]:
        """Hold what the operator has not let go since; that goes the usual way."""
        free = {ordinal: each for ordinal, each in delivery.recipients.items() if ordinal in delivery.released}
        kept = {ordinal: each for ordinal, each in delivery.recipients.items() if ordinal not in free}
        text = "Held by the operator's transport map"
        held = _all(replace(delivery, recipients=kept), Action.DELAYED, _HELD, text, is_held=True)
        if not free:
            return held
        released = replace(delivery, recipients=free)
        if any(map(_is_account, free.values())):
            return [*await self._local.attempt(released), *held]
        return [*map(_or_held_again, await relay.attempt(released)), *held]


def _or_held_again(outcome: Disposition) -> Disposition:
    """
    Return an outcome; what failed before any host was asked is held again.

    The host behind the entry is often known to the operator alone: to the DNS the domain does not exist, or leads back to us.
    """
    if outcome.action is not Action.FAILED or outcome.remote_mta is not None:
        return outcome
    text = f"Held again, since it has no other way yet: {outcome.diagnostic}"[:DIAGNOSTIC_CHARACTERS]
    return replace(outcome, action=Action.DELAYED, status=_HELD, diagnostic=text, is_held=True)


def _is_account(recipient: Recipient) -> bool:
    return isinstance(recipient.destination, Account)


def _to_be_delivered(delivery: Delivery, transport: Lmtp) -> Delivery:
    """Leave out of what is asked what was for the way to here."""
    envelope, requests = delivery.envelope, delivery.envelope.requests
    if not requests.requires_tls and requests.deliver_by is None:
        return delivery
    requires_tls = requests.requires_tls and not is_this_machine(transport.host)
    requests = replace(requests, requires_tls=requires_tls, deliver_by=None)
    return replace(delivery, envelope=replace(envelope, requests=requests))


def _all(delivery: Delivery, action: Action, status: EnhancedStatus, text: str, *, is_held: bool = False) -> list[Disposition]:
    return [
        Disposition(ordinal=ordinal, action=action, status=status, diagnostic=text, is_held=is_held)
        for ordinal in delivery.recipients
    ]
