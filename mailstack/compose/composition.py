"""
The composition: builds the house from the settings.

The only module that knows every room. Each room gets exactly the objects that it may use, and single values, never the
settings. Nothing is opened, bound or started here; `system` does that, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from twisted.internet.defer import DeferredList
from twisted.internet.interfaces import IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from mailstack import events
from mailstack.compose import chance
from mailstack.compose.certificates import Certificates
from mailstack.compose.judge import make_judge
from mailstack.compose.limits import lane_limits, lockout_limits, of_left_over, pop3_limits, smtp_limits
from mailstack.compose.logins import Logins, make_directory, make_tokens
from mailstack.compose.machine import Machine
from mailstack.compose.mailboxes import Mailboxes
from mailstack.compose.outside import Outside
from mailstack.compose.peers import is_among, may_speak_for_others, may_use_lmtp
from mailstack.compose.place import Place
from mailstack.compose.refused import refused_in
from mailstack.compose.routing import Routing, make_rewriting, postmaster_of
from mailstack.compose.secrets import Secrets
from mailstack.console.control import Desk
from mailstack.console.desk import QueueDesk
from mailstack.console.desks import Desks
from mailstack.lockout import Lockout
from mailstack.mail.address import Address, parse_address
from mailstack.mail.envelope import Destination, Envelope, Origin, Service
from mailstack.mail.requests import Notify, Requests
from mailstack.mail.tls_reports import ReportSource
from mailstack.mail.verdict import Refuse
from mailstack.net.cache_folder import CacheFolder
from mailstack.net.own_addresses import OwnAddresses
from mailstack.net.prompt import PromptTCP
from mailstack.net.proxied import ProxiedFactory
from mailstack.net.shared_counts import SharedMemory
from mailstack.net.tallies import Tally
from mailstack.net.tls import Pem, identity
from mailstack.receive.factory import ReceiverFactory
from mailstack.relay.by_transport import TransportCourier
from mailstack.relay.connect import Connector
from mailstack.relay.courier import RelayCourier
from mailstack.relay.memory import TLSMemory
from mailstack.relay.policies import Policies
from mailstack.relay.protocol import Surroundings
from mailstack.relay.settings import HostLogin, NextHop, RelaySettings, SourceAddresses, TLSPolicy, smarthost
from mailstack.relay.tls import TLSContexts
from mailstack.reports.tls import Means, TLSReports
from mailstack.retrieve.factory import POP3Factory
from mailstack.route.transport import Lmtp, Mx, Smtp, TransportError, parse_transport
from mailstack.sessions import Counts, OwnCounts, peer_address
from mailstack.settings import Relay as RelayTable
from mailstack.settings import Settings
from mailstack.spool.backoff import Schedule
from mailstack.spool.lanes import Limits
from mailstack.spool.report import NOTICES_PER_HOUR
from mailstack.spool.shards import left_over, shard_folder
from mailstack.spool.spool import Spool
from mailstack.wire.proxy import parse_proxy_header
from mailstack.wire.smtp_mailing import Login

REMEMBERED_SECONDS: Final = 1_800.0
REMEMBERED_SECONDS_OF_SMARTHOST: Final = 120.0

_KINDS: Final = ((Service.SMTP,), (Service.SUBMISSION, Service.SUBMISSIONS), (Service.POP3, Service.POP3S), (Service.LMTP,))
KINDS: Final = len(_KINDS)
TALLIES: Final = KINDS + 2
"""Of the connections to each kind of service, and of the logins that failed and that succeeded."""

Mail = ReceiverFactory | POP3Factory


def kind_of(service: Service) -> int:
    """Return the number of the kind of service whose sessions count together."""
    return next(number for number, services in enumerate(_KINDS) if service in services)


class Composition:
    """
    The parts of one installation, as one process has them.

    Shape:   without `secrets` they are read.
    Raises:  RefusedError: the settings name something that cannot be had.
    """

    def __init__(self, settings: Settings, reactor: Any, *, place: Place | None = None, secrets: Secrets | None = None) -> None:
        secrets = secrets or Secrets.read(settings)
        self._settings = settings
        self.place = place or Place()
        self.machine = machine = Machine(reactor, self.place)
        self.certificates = Certificates(settings.tls)
        self.mailboxes = Mailboxes(settings.mail_folder, machine)
        self.directory = make_directory(settings, machine)
        rewriting = make_rewriting(settings.srs, secrets.srs)
        self._routing = Routing(settings, self.directory, rewriting, seconds=machine.seconds)
        self._judge = make_judge(settings, self.directory, reactor)
        self._reports = self._make_reports(settings)
        relaying = _relaying(settings, secrets)
        self._relay = self._make_relay(settings, relaying, secrets)
        local = self.mailboxes.make_courier(settings.hostname)
        self._couriers = TransportCourier(local, self._relay, relaying, settings.transports)
        tokens = make_tokens(settings.oauth, secrets.oauth_secret, machine)
        self._logins = Logins(self.directory, self.mailboxes.open_maildrop, tokens)
        self._spool = self._make_spool(self.place.worker, lane_limits(settings.relay, settings.queue, self.place))
        self._spools = [self._spool]
        self._session_names = chance.session_names()
        self._counts: list[Counts] = [OwnCounts() for _ in range(KINDS)]
        self._count_in(_own_tallies(machine.steady_seconds))

    def share(self, memory: SharedMemory) -> None:
        """Count together with other processes; to be said before any factory is made."""
        worker = self.place.worker
        self._counts = [memory.counts(worker, kind) for kind in range(KINDS)]
        self._count_in([memory.tally(worker, number, self.machine.steady_seconds) for number in range(TALLIES)])

    def _count_in(self, tallies: Sequence[Tally]) -> None:
        *self._arrivals, failed, good = tallies
        self._lockout = Lockout(failed, good, lockout_limits(self._settings.limits))

    def open_spools(self) -> None:
        """
        Open our spool, and those that fall to us since their workers are no more; blocks.

        Raises:  SpoolError.
        """
        self._spool.open()
        folder, place = self._settings.spool_folder, self.place
        limits = lane_limits(self._settings.relay, self._settings.queue, place)
        for shard in left_over(folder, worker=place.worker, workers=place.workers):
            spool = self._make_spool(shard, of_left_over(limits))
            spool.open()
            self._spools.append(spool)

    def make_desk(self) -> Desk:
        """Make the desk at which the operator's requests are answered; to be said when the spools are open."""
        return Desks([QueueDesk(each.queue, seconds=self.machine.seconds, check_via=_check_via) for each in self._spools])

    def start_spools(self) -> None:
        """Begin to deliver what waits."""
        for spool in self._spools:
            spool.runner.start()
        if self._reports is not None:
            self._reports.start()

    async def close(self) -> None:
        """End everything, when no session is left."""
        if self._reports is not None:
            await self._reports.stop()
        await DeferredList([self.machine.supervisor.start(spool.close(), "closing a spool") for spool in self._spools])
        await self._relay.close()
        await self.mailboxes.stop()
        await self.machine.supervisor.stop()
        self.directory.close()
        self.machine.stop()

    def change(self, settings: Settings, secrets: Secrets | None = None) -> None:
        """
        Put changed settings and renewed certificates into force, so far as that needs no restart; all of it or nothing.

        Raises:  RefusedError, CertificateError.
        """
        secrets = secrets or Secrets.read(settings)
        machine, relaying = self.machine, _relaying(settings, secrets)
        judge = make_judge(settings, self.directory, machine.reactor)
        relay = self._make_relay(settings, relaying, secrets)
        tokens = make_tokens(settings.oauth, secrets.oauth_secret, machine)
        rewriting = make_rewriting(settings.srs, secrets.srs)
        outside = Outside(settings.relay, self.machine.reactor) if self._reports is not None else None
        self.certificates.load(secrets.pem)
        self.machine.supervisor.start(self._relay.close(), "ending the sessions of the relay")
        self._settings, self._judge, self._relay, self._logins.tokens = settings, judge, relay, tokens
        couriers = self._couriers
        couriers.relay, couriers.settings, couriers.transports = relay, relaying, settings.transports
        self._routing.change(settings.transports, rewriting)
        if self._reports is not None and outside is not None:
            self._reports.change(outside.resolver, outside.https.post)
        limits = lane_limits(settings.relay, settings.queue, self.place)
        self._spool.runner.change(limits)
        for spool in self._spools[1:]:
            spool.runner.change(of_left_over(limits))

    def make_factory(self, service: Service) -> Mail:
        """Make the factory of a listener."""
        kind = kind_of(service)
        if service in (Service.POP3, Service.POP3S):
            made: Mail = POP3Factory(
                portal=self._logins.portal,
                service=service,
                clock=self.machine.reactor,
                start=self.machine.supervisor.start,
                session_names=self._session_names,
                certificates=self.certificates.of(service),
                counts=self._counts[kind],
                arrivals=self._arrivals[kind],
                lockout=self._lockout,
            )
        else:
            made = ReceiverFactory(
                portal=self._logins.portal,
                service=service,
                clock=self.machine.reactor,
                start=self.machine.supervisor.start,
                session_names=self._session_names,
                certificates=self.certificates.of(service),
                counts=self._counts[kind],
                arrivals=None if service is Service.LMTP else self._arrivals[kind],  # a neighbour may be busy
                lockout=self._lockout,
                hostname=self._settings.hostname,
                intake=self._spool.intake,
                router=self._routing.returns,
                judge=self._judge,
            )
        self.configure(made)
        return made

    def configure(self, factory: Mail) -> None:
        """Give a factory what a reload may change."""
        limits = self._settings.limits
        factory.scram = self._logins.scram if self._settings.login.scram else None
        factory.token_scope = None if self._logins.tokens is None else self._settings.oauth.scope
        self._lockout.limits = lockout_limits(self._settings.limits)
        if isinstance(factory, POP3Factory):
            factory.require_tls = self._settings.pop3.require_tls
            factory.limits = pop3_limits(limits, self._settings.pop3)
        else:
            receive = self._settings.receive
            factory.judge = self._judge
            factory.trusts = partial(may_speak_for_others, speakers=receive.xclient_from)
            if factory.service is Service.LMTP:
                factory.admits = partial(may_use_lmtp, networks=receive.lmtp_from)
            factory.limits = smtp_limits(limits, factory.service, binary=receive.binarymime)

    def wrapped(self, factory: Mail) -> IProtocolFactory:
        """Put around a factory what comes before its sessions: a proxy's header, and TLS if the service begins with that."""
        service, inner = factory.service, self._with_tls(factory)
        return ProxiedFactory(
            inner,
            is_proxy=lambda address: is_among(peer_address(address), self._settings.proxy.of(service)),
            parse=parse_proxy_header,
            dropped=lambda address, why: events.proxy_dropped(service, peer_address(address), why),
            clock=self.machine.reactor,
        )

    def _with_tls(self, factory: Mail) -> Any:
        if not factory.service.is_implicit_tls:
            return factory
        certificates = self.certificates.of(factory.service)
        assert certificates is not None, "implicit TLS without certificates: the settings see to it that there are some"
        return TLSMemoryBIOFactory(certificates, False, factory)

    # How they are made

    def _make_spool(self, shard: int, limits: Limits) -> Spool:
        settings = self._settings
        return Spool(
            shard_folder(settings.spool_folder, shard),
            shard=shard,
            hostname=settings.hostname,
            clock=self.machine.reactor,
            batch_factory=self.machine.batch,
            start=self.machine.supervisor.start,
            chance=chance.fraction,
            route=self._routing.returns.route,
            couriers=self._courier,
            straight=self._couriers,
            postmaster=postmaster_of(settings) if settings.queue.double_bounces == "postmaster" else None,
            notices_per_hour=self.place.part_of(NOTICES_PER_HOUR),
            schedule=Schedule(
                first_seconds=settings.queue.retry_first_seconds,
                longest_seconds=settings.queue.retry_most_seconds,
                lifetime_seconds=settings.queue.expire_seconds,
                warning_seconds=settings.queue.warn_seconds,
            ),
            limits=limits,
            forget_hosts=self._forget_hosts,
            min_free_octets=settings.queue.free_octets_minimum,
            min_free_inodes=settings.queue.free_inodes_minimum,
        )

    def _forget_hosts(self) -> None:
        self._relay.forget_hosts()

    def _courier(self, destination: Destination) -> TransportCourier:
        return self._couriers

    def _make_relay(self, settings: Settings, relaying: RelaySettings, secrets: Secrets) -> RelayCourier:
        outside = Outside(settings.relay, self.machine.reactor)
        with refused_in("relay"):
            contexts = TLSContexts(identity=_relay_identity(settings.relay, secrets.relay_pem))
        return RelayCourier(
            settings.hostname,
            outside.resolver,
            Connector(PromptTCP(self.machine.reactor), relaying.connect_timeout_seconds),
            Surroundings(
                clock=self.machine.reactor,
                start=self.machine.supervisor.start,
                run_in_thread=self.machine.disk.run,
                timeouts_seconds=relaying.timeouts_seconds,
                make_nonce=chance.nonce,
            ),
            chance.shuffled,
            settings=relaying,
            return_path=self._routing.returns.forwarding,
            is_ourselves=OwnAddresses([(each.host, each.port) for each in settings.listen.smtp]),
            contexts=contexts,
            policies=self._make_policies(settings, outside),
            witness=self._reports,
            memory=self._make_memory(settings),
        )

    def _make_memory(self, settings: Settings) -> TLSMemory | None:
        """Make what remembers the hosts that offer TLS."""
        patience = settings.relay.tls_patience_seconds
        if not patience:
            return None
        machine, kept = self.machine, CacheFolder(settings.folder / "tls-hosts")
        return TLSMemory(patience, machine.reactor, machine.supervisor.start, machine.disk.run, kept)

    def _make_policies(self, settings: Settings, outside: Outside) -> Policies:
        """Make what knows the MTA-STS policies of other domains."""
        machine, kept = self.machine, CacheFolder(settings.folder / "mta-sts")
        start, run_in_thread = machine.supervisor.start, machine.disk.run
        return Policies(outside.resolver, outside.https.get, machine.reactor, start, run_in_thread, kept)

    def _make_reports(self, settings: Settings) -> TLSReports | None:
        """Make what counts TLS sessions and reports them; None: there is nobody who could be asked about a report."""
        table = settings.tls_reports
        contact = table.contact or settings.postmaster
        if not table.send or contact is None:
            return None
        outside = Outside(settings.relay, self.machine.reactor)
        address = parse_address(contact)
        source = ReportSource(table.organisation or settings.hostname, address, address.domain)
        means = Means(
            clock=self.machine.reactor,
            start=self.machine.supervisor.start,
            run_in_thread=self.machine.disk.run,
            texts=outside.resolver,
            submit=self._submit_report,
            post=outside.https.post,
            chance=chance.fraction,
            make_id=chance.identifier,
        )
        return TLSReports(settings.folder / "tls-reports", self.place.worker, source, means)

    async def _submit_report(self, sender: Address, recipient: Address, content: bytes) -> bool:
        """Put a report into our spool; say whether it is there."""
        found = await self._routing.expander.route(recipient)
        if isinstance(found, Refuse) or not found:
            return False
        recipients = tuple(replace(each, notify=frozenset((Notify.NEVER,))) for each in found)
        draft = self._spool.intake.begin(sender, recipients)
        draft.write(content)
        envelope = Envelope(
            reverse_path=sender,
            recipients=recipients,
            origin=Origin(service=Service.LOCAL),
            accepted_at=self.machine.seconds(),
            requests=Requests(tls_optional=True),
        )
        return await draft.commit(envelope) is None


def _remembered_seconds(settings: Settings) -> tuple[float, float]:
    """A smarthost is asked often, since all mail waits for it, and that is one connection for all of it."""
    queue = settings.queue
    most = REMEMBERED_SECONDS if settings.relay.smarthost is None else REMEMBERED_SECONDS_OF_SMARTHOST
    return min(60.0, queue.retry_first_seconds), min(most, queue.retry_most_seconds)


def _relay_identity(relay: RelayTable, pem: Pem | None) -> dict[str, Any]:
    if pem is None or relay.client_certificate is None or relay.client_key is None:
        return {}
    return identity(relay.client_certificate, relay.client_key, pem)


def _relaying(settings: Settings, secrets: Secrets) -> RelaySettings:
    """Say how mail leaves."""
    relay, passwords = settings.relay, secrets.login_passwords
    direct = NextHop(port=relay.port, tls=TLSPolicy(relay.tls), allow_private=relay.allow_private)
    logins = {
        host: HostLogin(Login(each.username, passwords[host]), TLSPolicy(each.tls)) for host, each in relay.logins.items()
    }
    return RelaySettings(
        next_hop=_next_hop(relay, direct, secrets.smarthost_password, logins),
        direct=direct,
        logins=logins,
        connect_timeout_seconds=relay.connect_timeout_seconds,
        max_hosts=relay.max_hosts,
        chunking=relay.chunking,
        tls_levels={domain: TLSPolicy(level) for domain, level in relay.tls_levels.items()},
        sources=SourceAddresses(relay.local_addresses, relay.source),
        remembered_seconds=_remembered_seconds(settings),
    )


def _next_hop(relay: RelayTable, direct: NextHop, password: str | None, logins: Mapping[str, HostLogin]) -> NextHop:
    if relay.smarthost is None:
        return direct
    host, port = relay.smarthost.host, relay.smarthost.port
    if relay.smarthost_username is not None and password is not None:
        # A password goes to nobody who has not shown who he is.
        tls = TLSPolicy.VERIFY if direct.tls is TLSPolicy.DANE else direct.tls
        return smarthost(host, port, login=Login(relay.smarthost_username, password), tls=tls)
    if (found := logins.get(host)) is not None:
        return smarthost(host, port, login=found.login, tls=found.tls)
    return smarthost(host, port, tls=direct.tls)


def _own_tallies(seconds: Callable[[], float]) -> list[Tally]:
    key = chance.key()
    return [Tally.alone(key, seconds) for _ in range(TALLIES)]


def _check_via(text: str) -> str:
    """
    Return a way by which the operator may have mail go, as it is kept.

    Raises:  ValueError.
    """
    try:
        transport = parse_transport(text)
    except TransportError as error:
        raise ValueError(f"{text[:80]!r} {error}") from None
    if not isinstance(transport, Mx | Smtp | Lmtp):
        raise ValueError(f"{text[:80]!r} is no way to a host; there are mx, smtp:HOST, smtp:[HOST]:PORT and lmtp:...")
    return str(transport)
