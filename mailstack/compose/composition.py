"""
The composition: the parts of one process, from their making to their end.

Read from above, it is the house as a whole: each part is given those that it may use, and no others.
"""

from __future__ import annotations

from typing import Any

from mailstack.compose.certificates import Certificates
from mailstack.compose.counting import Counting
from mailstack.compose.factories import Factories
from mailstack.compose.judge import make_judge
from mailstack.compose.limits import lockout_limits
from mailstack.compose.logins import Logins, make_directory, make_tokens
from mailstack.compose.machine import Machine
from mailstack.compose.mailboxes import Mailboxes
from mailstack.compose.outgoing import Outgoing
from mailstack.compose.outside import Outside
from mailstack.compose.place import Place
from mailstack.compose.reporting import OwnMail, make_reports
from mailstack.compose.routing import Routing, make_rewriting
from mailstack.compose.secrets import Secrets
from mailstack.compose.spools import Spools
from mailstack.settings import Settings


class Composition:
    """
    The parts of one installation, as one process has them.

    Shape:   without `secrets` they are read.
    Raises:  RefusedError: the settings name something that cannot be had.
    """

    def __init__(self, settings: Settings, reactor: Any, *, place: Place | None = None, secrets: Secrets | None = None) -> None:
        secrets = secrets or Secrets.read(settings)
        self.place = place or Place()
        self.machine = machine = Machine(reactor, self.place)
        self.counting = Counting(lockout_limits(settings.limits), machine.steady_seconds)
        self.certificates = Certificates(settings.tls)
        self.mailboxes = Mailboxes(settings.mail_folder, machine)
        self._directory = make_directory(settings, machine)
        rewriting = make_rewriting(settings.srs, secrets.srs)
        self._routing = Routing(settings, self._directory, rewriting, seconds=machine.seconds)
        judge = make_judge(settings, self._directory, reactor)
        # What goes out is counted for the reports, and the reports go out: so they ask for the spool only when they are due.
        own_mail = OwnMail(self._routing.expander.route, lambda: self.spools.own.intake, machine.seconds)
        self._reports = make_reports(settings, self.place, machine, own_mail.submit)
        self._outgoing = Outgoing(
            settings,
            secrets,
            machine,
            self.mailboxes.make_courier(settings.hostname, self._directory.has_account),
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
        self._logins = Logins(self._directory, self.mailboxes.open_maildrop, tokens)
        self.factories = Factories(
            settings,
            machine,
            certificates=self.certificates,
            counting=self.counting,
            logins=self._logins,
            judge=judge,
            router=self._routing.returns,
            intake=self.spools.own.intake,
        )

    def open(self) -> None:
        """
        Open everything, and begin to deliver what waits.

        Raises:  DirectoryError, SpoolError.
        """
        self.machine.start()
        self._directory.load()
        self.spools.open()
        self.mailboxes.start()
        # First what a crash may have left half-way: what a user deletes must not be delivered again behind his back.
        self.spools.start()
        if self._reports is not None:
            self._reports.start()

    def change(self, settings: Settings, secrets: Secrets | None = None) -> None:
        """
        Put changed settings and renewed certificates into force, so far as that needs no restart; all of it or nothing.

        Raises:  RefusedError, CertificateError.
        """
        secrets = secrets or Secrets.read(settings)
        machine = self.machine
        judge = make_judge(settings, self._directory, machine.reactor)
        way = self._outgoing.prepare(settings, secrets)
        tokens = make_tokens(settings.oauth, secrets.oauth_secret, machine)
        rewriting = make_rewriting(settings.srs, secrets.srs)
        outside = None if self._reports is None else Outside(settings.relay, machine.reactor)
        self.certificates.load(secrets.pem)
        # Nothing fails from here on.
        self._logins.tokens = tokens
        self._outgoing.change(way)
        self._routing.change(settings.transports, rewriting)
        if self._reports is not None and outside is not None:
            self._reports.change(outside.resolver, outside.https.post)
        self.spools.change(settings)
        self.factories.change(settings, judge)

    async def close(self) -> None:
        """End everything, when no session is left."""
        if self._reports is not None:
            await self._reports.stop()
        await self.spools.close()
        await self._outgoing.close()
        await self.mailboxes.stop()
        await self.machine.supervisor.stop()
        self._directory.close()
        self.machine.stop()
