"""
The composition: builds the house from the settings.

The only module that knows every room. Each room gets exactly the objects that it may use, and single values, never the
settings. Nothing is opened, bound or started here; `system` does that, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.interfaces import IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from mailstack import events
from mailstack.compose import chance
from mailstack.compose.certificates import Certificates
from mailstack.compose.judge import make_judge
from mailstack.compose.limits import lockout_limits, pop3_limits, smtp_limits
from mailstack.compose.logins import Logins, make_directory, make_tokens
from mailstack.compose.machine import Machine
from mailstack.compose.mailboxes import Mailboxes
from mailstack.compose.outgoing import Outgoing
from mailstack.compose.outside import Outside
from mailstack.compose.peers import is_among, may_speak_for_others, may_use_lmtp
from mailstack.compose.place import Place
from mailstack.compose.reporting import OwnMail, make_reports
from mailstack.compose.routing import Routing, make_rewriting
from mailstack.compose.secrets import Secrets
from mailstack.compose.spools import Spools
from mailstack.lockout import Lockout
from mailstack.mail.envelope import Service
from mailstack.net.proxied import ProxiedFactory
from mailstack.net.shared_counts import SharedMemory
from mailstack.net.tallies import Tally
from mailstack.receive.factory import ReceiverFactory
from mailstack.retrieve.factory import POP3Factory
from mailstack.sessions import Counts, OwnCounts, peer_address
from mailstack.settings import Settings
from mailstack.wire.proxy import parse_proxy_header

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
        # What goes out is counted for the reports, and the reports go out: so these ask for the spool when it is there.
        own_mail = OwnMail(self._routing.expander.route, lambda: self.spools.own.intake, machine.seconds)
        self._reports = make_reports(settings, self.place, machine, own_mail.submit)
        self._outgoing = Outgoing(
            settings,
            secrets,
            machine,
            self.mailboxes.make_courier(settings.hostname),
            return_path=self._routing.returns.forwarding,
            witness=self._reports,
        )
        self.spools = Spools(
            settings,
            self.place,
            machine,
            route=self._routing.returns.route,
            courier=self._outgoing.courier,
            forget_hosts=self._outgoing.forget_hosts,
        )
        tokens = make_tokens(settings.oauth, secrets.oauth_secret, machine)
        self._logins = Logins(self.directory, self.mailboxes.open_maildrop, tokens)
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

    def open(self) -> None:
        """
        Open everything, and begin to deliver what waits.

        Raises:  DirectoryError, SpoolError.
        """
        self.machine.start()
        self.directory.load()
        self.spools.open()
        self.mailboxes.start()
        # First what a crash may have left half-way: what a user deletes must not be delivered again behind his back.
        self.spools.start()
        if self._reports is not None:
            self._reports.start()

    async def close(self) -> None:
        """End everything, when no session is left."""
        if self._reports is not None:
            await self._reports.stop()
        await self.spools.close()
        await self._outgoing.close()
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
        machine = self.machine
        judge = make_judge(settings, self.directory, machine.reactor)
        way = self._outgoing.prepare(settings, secrets)
        tokens = make_tokens(settings.oauth, secrets.oauth_secret, machine)
        rewriting = make_rewriting(settings.srs, secrets.srs)
        outside = None if self._reports is None else Outside(settings.relay, machine.reactor)
        self.certificates.load(secrets.pem)
        # Nothing fails from here on.
        self._settings, self._judge, self._logins.tokens = settings, judge, tokens
        self._outgoing.change(way)
        self._routing.change(settings.transports, rewriting)
        if self._reports is not None and outside is not None:
            self._reports.change(outside.resolver, outside.https.post)
        self.spools.change(settings)

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
                intake=self.spools.own.intake,
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


def _own_tallies(seconds: Callable[[], float]) -> list[Tally]:
    key = chance.key()
    return [Tally.alone(key, seconds) for _ in range(TALLIES)]
