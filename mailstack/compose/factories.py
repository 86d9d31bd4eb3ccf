"""Factories: what makes the sessions of each listener, within the settings of now."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.interfaces import IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from mailstack import events
from mailstack.compose import chance
from mailstack.compose.certificates import Certificates
from mailstack.compose.counting import Counting
from mailstack.compose.limits import lockout_limits, pop3_limits, smtp_limits
from mailstack.compose.logins import Logins
from mailstack.compose.machine import Machine
from mailstack.compose.peers import is_among, may_speak_for_others, may_use_lmtp
from mailstack.mail.envelope import Service
from mailstack.net.proxied import ProxiedFactory
from mailstack.policy.chain import Chain
from mailstack.receive.factory import ReceiverFactory
from mailstack.retrieve.factory import POP3Factory
from mailstack.route.returns import ReturnPaths
from mailstack.sessions import peer_address
from mailstack.settings import Settings
from mailstack.spool.intake import Intake
from mailstack.wire.proxy import parse_proxy_header

Mail = ReceiverFactory | POP3Factory


class Factories:
    """
    Makes a factory for each listener.

    Shape:   `judge` decides what comes in, `router` for whom it is, and `intake` takes it.
    """

    def __init__(
        self,
        settings: Settings,
        machine: Machine,
        *,
        certificates: Certificates,
        counting: Counting,
        logins: Logins,
        judge: Chain,
        router: ReturnPaths,
        intake: Intake,
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._certificates = certificates
        self._counting = counting
        self._logins = logins
        self._judge = judge
        self._router = router
        self._intake = intake
        self._session_names = chance.session_names()

    def change(self, settings: Settings, judge: Chain) -> None:
        """Go by these from now on; a factory that there is already has to be configured once more."""
        self._settings, self._judge = settings, judge
        self._counting.lockout.limits = lockout_limits(settings.limits)

    def make(self, service: Service) -> Mail:
        """Make the factory of a listener."""
        machine, counting = self._machine, self._counting
        if service in (Service.POP3, Service.POP3S):
            made: Mail = POP3Factory(
                portal=self._logins.portal,
                service=service,
                clock=machine.reactor,
                start=machine.supervisor.start,
                session_names=self._session_names,
                certificates=self._certificates.of(service),
                counts=counting.sessions_of(service),
                arrivals=counting.arrivals_of(service),
                lockout=counting.lockout,
            )
        else:
            made = ReceiverFactory(
                portal=self._logins.portal,
                service=service,
                clock=machine.reactor,
                start=machine.supervisor.start,
                session_names=self._session_names,
                certificates=self._certificates.of(service),
                counts=counting.sessions_of(service),
                arrivals=counting.arrivals_of(service),
                lockout=counting.lockout,
                hostname=self._settings.hostname,
                intake=self._intake,
                router=self._router,
                judge=self._judge,
            )
        self.configure(made)
        return made

    def configure(self, factory: Mail) -> None:
        """Give a factory what a reload may change."""
        settings = self._settings
        factory.scram = self._logins.scram if settings.login.scram else None
        factory.token_scope = None if self._logins.tokens is None else settings.oauth.scope
        if isinstance(factory, POP3Factory):
            factory.require_tls = settings.pop3.require_tls
            factory.limits = pop3_limits(settings.limits, settings.pop3)
        else:
            receive = settings.receive
            factory.judge = self._judge
            factory.trusts = partial(may_speak_for_others, speakers=receive.xclient_from)
            if factory.service is Service.LMTP:
                factory.admits = partial(may_use_lmtp, networks=receive.lmtp_from)
            factory.limits = smtp_limits(settings.limits, factory.service, binary=receive.binarymime)

    def wrapped(self, factory: Mail) -> IProtocolFactory:
        """Put around a factory what comes before its sessions: a proxy's header, and TLS if the service begins with that."""
        service, inner = factory.service, self._with_tls(factory)
        return ProxiedFactory(
            inner,
            is_proxy=lambda address: is_among(peer_address(address), self._settings.proxy.of(service)),
            parse=parse_proxy_header,
            dropped=lambda address, why: events.proxy_dropped(service, peer_address(address), why),
            clock=self._machine.reactor,
        )

    def _with_tls(self, factory: Mail) -> Any:
        if not factory.service.is_implicit_tls:
            return factory
        certificates = self._certificates.of(factory.service)
        assert certificates is not None, "implicit TLS without certificates: the settings see to it that there are some"
        return TLSMemoryBIOFactory(certificates, False, factory)
