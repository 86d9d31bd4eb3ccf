"""
The composition: builds the house from the settings, and runs it as one service.

The only module that knows every room. Each room gets exactly the objects that it may use, and single values, never
the settings.

Order of life (twistd forks between the first and the second step, and drops its privileges between the second and the third):

    MailSystem(…)             parts are made, nothing is opened; a policy that cannot be had refuses the start
    privilegedStartService    certificates are read, sockets are bound; what fails refuses the start
    startService              threads, spool (locked and recovered), listeners, then the queue
    SIGHUP                    the configuration and the certificates are read again; an error changes nothing
    stopService               nothing new is accepted; idle sessions get 421, running transactions end, then the spool closes
"""

from __future__ import annotations

import itertools
import random
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from twisted.application.service import Service as TwistedService
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import LoopingCall
from twisted.plugin import getPlugins
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

import mailstack.plugins
from mailstack import events
from mailstack.deliver.local import LocalCourier
from mailstack.directory.cred import DirectoryChecker, Realm
from mailstack.directory.directory import Directory
from mailstack.directory.passwords import Argon2Hasher, Verifier
from mailstack.doors import IPolicyMaker
from mailstack.mail.address import Address, parse_address
from mailstack.mail.answers import Exchange
from mailstack.mail.envelope import Account, Destination, Service
from mailstack.net.batch import BatchThread
from mailstack.net.dns_exchange import Server
from mailstack.net.listeners import Bound, ListenError, bind, serve
from mailstack.net.resolver import Resolver, system_nameservers
from mailstack.net.supervise import Supervisor
from mailstack.net.threads import Threads, kept
from mailstack.net.tls import CertificateError, CertificateStore
from mailstack.policy.activation import ActivationError, activate
from mailstack.policy.chain import Chain
from mailstack.receive.factory import ReceiverFactory
from mailstack.receive.interfaces import ISubmitter
from mailstack.relay.connect import TCPConnect
from mailstack.relay.courier import RelayCourier
from mailstack.relay.protocol import Surroundings
from mailstack.relay.settings import RelaySettings, Smarthost, TLSPolicy
from mailstack.retrieve.factory import POP3Factory
from mailstack.retrieve.interfaces import IMaildrop
from mailstack.retrieve.limits import POP3Limits
from mailstack.retrieve.threaded import ThreadedMaildrop
from mailstack.route.expand import Expander
from mailstack.settings import Settings, SettingsError, read_secret
from mailstack.spool.backoff import Schedule
from mailstack.spool.failures import SpoolError
from mailstack.spool.lanes import Limits
from mailstack.spool.spool import Spool
from mailstack.store.folders import MailFolder
from mailstack.store.maildir import Maildirs
from mailstack.store.maildrop import Maildrop
from mailstack.wire.limits import BareNewline
from mailstack.wire.limits import Limits as SMTPLimits
from mailstack.wire.smtp_mailing import Login

__all__ = ["ActivationError", "House", "MailSystem"]

HOUSEKEEPING_SECONDS: Final = 3_600
PASSWORD_THREADS: Final = 2  # Argon2 wants memory and a core each
DISK_THREADS: Final = 8

Mail = ReceiverFactory | POP3Factory


@dataclass(frozen=True)
class House:
    """What policies may ask (`doors.House`)."""

    hostname: str
    directory: Directory

    async def is_local_domain(self, domain: str) -> bool:
        """Say whether mail for the domain is delivered here."""
        return await self.directory.is_local_domain(domain)

    async def owns(self, account: str, address: Address) -> bool:
        """Say whether the account may send as the address."""
        return await self.directory.owns(account, address)


class MailSystem(TwistedService):
    """
    Every service of one installation.

    Shape:   `read_settings` reads the configuration again, for SIGHUP.
    Raises:  ActivationError.
    """

    name = "mailstack"

    def __init__(self, settings: Settings, read_settings: Callable[[], Settings], reactor: Any) -> None:
        self._settings = settings
        self._read_settings = read_settings
        self._reactor = reactor
        self._supervisor = Supervisor()
        self._passwords = Threads(reactor, "passwords", PASSWORD_THREADS)
        self._disk = Threads(reactor, "disk", DISK_THREADS)
        self._folders = MailFolder(settings.mail_folder)
        self._maildirs = Maildirs(self._folders)
        self._deliveries = self._batch(self._maildirs.deliver_many, name="deliveries")
        verifier = Verifier(Argon2Hasher(), self._passwords.run, seconds=time.monotonic, cache_key=secrets.token_bytes(32))
        self._directory = Directory(
            settings.directory_file,
            self._disk.run,
            verifier=verifier,
            seconds=time.monotonic,
            subaddress_delimiter=settings.delivery.subaddress_delimiter,
        )
        self._judge = self._make_judge(settings)
        self._certificates = _certificates(settings)
        self._expander = Expander(
            self._directory,
            delimiter=settings.delivery.subaddress_delimiter,
            postmaster=parse_address(settings.postmaster) if settings.postmaster else None,
        )
        self._local = LocalCourier(self._folders, self._deliveries.submit, settings.hostname)
        self._relay = self._make_relay(settings)
        self._spool = self._make_spool(settings)
        self._portal = self._make_portal()
        self._session_names = _session_names()
        self._bound: list[tuple[Service, Bound]] = []
        self._ports: list[IListeningPort] = []
        self._factories: list[Mail] = []
        self._housekeeping = LoopingCall(self._keep_house)
        self._housekeeping.clock = reactor

    # Life

    def privilegedStartService(self) -> None:
        """Read the certificates and bind the sockets, while we may."""
        try:
            if self._certificates is not None:
                self._certificates.load()
            for service, endpoint in self._settings.listen.each():
                self._bound.append((service, bind(endpoint.host, endpoint.port)))
        except (CertificateError, ListenError) as error:
            _refuse_start(error)
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def startService(self) -> None:
        """Open what needs no privilege, and begin."""
        super().startService()  # type: ignore[no-untyped-call]  # as above
        self._passwords.start()
        self._disk.start()
        try:
            self._spool.open()
        except SpoolError as error:
            _refuse_start(error)
        self._deliveries.start()
        # First what a crash may have left half-way: what a user deletes must not be delivered again behind his back.
        self._spool.runner.start()
        for service, bound in self._bound:
            factory = self._make_factory(service)
            self._factories.append(factory)
            served = _with_tls(factory, self._certificates) if service.is_implicit_tls else factory
            self._ports.append(serve(self._reactor, bound, served))
            events.listening(service, str(bound))
        self._housekeeping.start(HOUSEKEEPING_SECONDS)
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))

    def stopService(self) -> Deferred[None]:
        """Let running transactions end, then close everything."""
        super().stopService()  # type: ignore[no-untyped-call]  # as above
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if self._housekeeping.running:
            self._housekeeping.stop()
        events.stopping(sum(len(factory) for factory in self._factories))
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        drained = DeferredList([factory.drain() for factory in self._factories])
        deadline = self._reactor.callLater(self._settings.drain_seconds, self._abort_sessions)
        await drained
        if deadline.active():
            deadline.cancel()
        await self._spool.close()
        await self._deliveries.stop()
        await self._supervisor.stop()
        self._passwords.stop()
        self._disk.stop()
        events.stopped()

    def _abort_sessions(self) -> None:
        for factory in self._factories:
            factory.abort_all()

    def reload(self) -> None:
        """Put a changed configuration and renewed certificates into force; what is wrong with them changes nothing."""
        try:
            settings = self._read_settings()
            judge = self._make_judge(settings)
            if self._certificates is not None:
                self._certificates.load()
        except (SettingsError, ActivationError, CertificateError) as error:
            events.reload_failed(str(error).split("\n"))
            return
        before, self._settings, self._judge = self._settings, settings, judge
        self._relay = self._make_relay(settings)
        for factory in self._factories:
            self._configure(factory)
        stale = [key for key in ("hostname", "folder", "listen", "tls", "queue", "delivery", "postmaster")
                 if getattr(before, key) != getattr(settings, key)]  # fmt: skip
        events.reloaded(["certificates", "limits", "policies", "relay", *(f"{key} (after a restart)" for key in stale)])

    def _keep_house(self) -> None:
        self._supervisor.start(self._clean_folders(), "cleaning the maildirs")

    async def _clean_folders(self) -> None:
        for folder in await self._disk.run(self._folders.known):
            try:
                await self._disk.run(self._maildirs.clean_tmp, folder, self._reactor.seconds())
            except OSError:  # one folder that cannot be read does not keep the others
                events.unexpected(f"cleaning {folder}", Failure())

    # Parts

    def _batch(self, run: Callable[[list[Any]], Any], *, name: str) -> BatchThread[Any, Any]:
        return BatchThread(run, name=name, from_thread=self._reactor.callFromThread)

    def _make_judge(self, settings: Settings) -> Chain:
        house = House(settings.hostname, self._directory)
        makers = getPlugins(IPolicyMaker, mailstack.plugins)
        return Chain(activate(makers, settings.policy.use, settings.policy.options, house), self._reactor)

    def _make_spool(self, settings: Settings) -> Spool:
        return Spool(
            settings.spool_folder,
            hostname=settings.hostname,
            clock=self._reactor,
            batch_factory=self._batch,
            start=self._supervisor.start,
            chance=random.SystemRandom().random,
            route=self._expander.route,
            couriers=self._courier,
            schedule=Schedule(
                first_seconds=settings.queue.retry_first_seconds,
                longest_seconds=settings.queue.retry_most_seconds,
                lifetime_seconds=settings.queue.expire_seconds,
            ),
            limits=Limits(attempts_at_once=settings.relay.attempts_at_once, per_destination=settings.relay.per_destination),
            min_free_octets=settings.queue.free_octets_minimum,
        )

    def _courier(self, destination: Destination) -> LocalCourier | RelayCourier:
        return self._local if isinstance(destination, Account) else self._relay

    def _make_relay(self, settings: Settings) -> RelayCourier:
        relay = settings.relay
        policy = TLSPolicy(relay.tls)
        smarthost = None
        if relay.smarthost is not None:
            login = None
            if relay.smarthost_username is not None and relay.smarthost_password_file is not None:
                login = Login(relay.smarthost_username, read_secret(relay.smarthost_password_file))
            smarthost = Smarthost(host=relay.smarthost.host, port=relay.smarthost.port, login=login, tls=policy)
        nameservers = [Server(each.host, each.port) for each in relay.nameservers] or system_nameservers()
        relaying = RelaySettings(
            port=relay.port,
            smarthost=smarthost,
            tls=policy,
            connect_timeout_seconds=relay.connect_timeout_seconds,
            allow_private=relay.allow_private,
        )
        return RelayCourier(
            settings.hostname,
            Resolver(self._reactor, nameservers),
            TCPConnect(self._reactor, relaying.connect_timeout_seconds, relaying.local_address),
            Surroundings(
                clock=self._reactor,
                start=self._supervisor.start,
                run_in_thread=self._disk.run,
                timeouts_seconds=relaying.timeouts_seconds,
            ),
            _shuffled,
            settings=relaying,
        )

    def _make_portal(self) -> Portal:
        realm = Realm({ISubmitter: Submitter, IMaildrop: self._open_maildrop})
        return Portal(realm, [DirectoryChecker(self._directory)])

    def _open_maildrop(self, account: str) -> Deferred[tuple[ThreadedMaildrop, Callable[[], None]]]:
        opening = self._disk.run(Maildrop.open, self._folders.path_of(account), now=self._reactor.seconds)
        return kept(opening, Maildrop.close).addCallback(lambda open_: (ThreadedMaildrop(open_, self._disk.run), open_.close))

    def _make_factory(self, service: Service) -> Mail:
        if service in (Service.POP3, Service.POP3S):
            made: Mail = POP3Factory(
                portal=self._portal,
                service=service,
                clock=self._reactor,
                start=self._supervisor.start,
                session_names=self._session_names,
                certificates=self._certificates,
            )
        else:
            made = ReceiverFactory(
                portal=self._portal,
                service=service,
                clock=self._reactor,
                start=self._supervisor.start,
                session_names=self._session_names,
                certificates=self._certificates,
                hostname=self._settings.hostname,
                intake=self._spool.intake,
                router=self._expander,
                judge=self._judge,
            )
        self._configure(made)
        return made

    def _configure(self, factory: Mail) -> None:
        """Give a factory what a reload may change."""
        limits = self._settings.limits
        if isinstance(factory, POP3Factory):
            factory.limits = POP3Limits(
                idle_seconds=self._settings.pop3.idle_timeout_seconds,
                sessions=limits.connections,
                sessions_per_peer=limits.connections_per_peer,
            )
        else:
            factory.judge = self._judge
            factory.limits = SMTPLimits(
                message_octets=limits.message_octets,
                recipients=limits.recipients,
                errors=limits.errors,
                command_seconds=limits.command_timeout_seconds,
                content_seconds=limits.data_timeout_seconds,
                bare_newline=_bare_newline(factory.service, limits.bare_newline),
                sessions=limits.connections,
                sessions_per_peer=limits.connections_per_peer,
            )


@implementer(ISubmitter)
@dataclass(frozen=True)
class Submitter:
    """The avatar of an account that sends mail."""

    account: str


def _certificates(settings: Settings) -> CertificateStore | None:
    if settings.tls.certificate is None or settings.tls.key is None:
        return None
    return CertificateStore(settings.tls.certificate, settings.tls.key)


def _with_tls(factory: Mail, certificates: CertificateStore | None) -> IProtocolFactory:
    """Put TLS around a factory; the settings see to it that there are certificates."""
    assert certificates is not None, "implicit TLS without certificates"
    wrapped: IProtocolFactory = TLSMemoryBIOFactory(certificates, False, factory)
    return wrapped


def _bare_newline(service: Service, wanted: str) -> BareNewline:
    """Our own users' programs are not attackers, and some of them end lines with LF."""
    return BareNewline.NORMALISE if service.is_submission else BareNewline(wanted)


def _shuffled(exchanges: Sequence[Exchange]) -> Sequence[Exchange]:
    return random.SystemRandom().sample(exchanges, len(exchanges))


def _session_names() -> Callable[[], str]:
    """Make names for sessions, different from those of earlier runs: `k3f9a2-17`."""
    run, numbers = secrets.token_hex(3), itertools.count(1)
    return lambda: f"{run}-{next(numbers)}"


def _refuse_start(error: Exception) -> NoReturn:
    """End the process with a message instead of a traceback: twistd has nothing better to say about it."""
    raise SystemExit(f"mailstack: {error}")
