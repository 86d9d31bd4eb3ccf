"""Reporting: other domains are told how TLS with their hosts went, by HTTPS, or by mail that goes through our own spool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from mailstack.compose import chance
from mailstack.compose.machine import Machine
from mailstack.compose.outside import Outside
from mailstack.compose.place import Place
from mailstack.mail.address import Address, parse_address
from mailstack.mail.envelope import Envelope, Origin, Service
from mailstack.mail.requests import Notify, Requests
from mailstack.mail.tls_reports import ReportSource
from mailstack.mail.verdict import Refuse
from mailstack.reports.tls import Means, TLSReports
from mailstack.settings import Settings
from mailstack.spool.intake import Intake
from mailstack.spool.ports import Route

Submit = Callable[[Address, Address, bytes], Awaitable[bool]]
"""Puts a message into the spool, from and to somebody; says whether it is there."""


class OwnMail:
    """
    Mail that we write ourselves.

    Shape:   `intake` returns that of our spool; it is called for each message.
    """

    def __init__(self, route: Route, intake: Callable[[], Intake], seconds: Callable[[], float]) -> None:
        self._route = route
        self._intake = intake
        self._seconds = seconds

    async def submit(self, sender: Address, recipient: Address, content: bytes) -> bool:
        """Put a message into our spool, of which nobody is notified; say whether it is there."""
        found = await self._route(recipient)
        if isinstance(found, Refuse) or not found:
            return False
        recipients = tuple(replace(each, notify=frozenset((Notify.NEVER,))) for each in found)
        draft = self._intake().begin(sender, recipients)
        draft.write(content)
        envelope = Envelope(
            reverse_path=sender,
            recipients=recipients,
            origin=Origin(service=Service.LOCAL),
            accepted_at=self._seconds(),
            requests=Requests(tls_optional=True),
        )
        return await draft.commit(envelope) is None


def make_reports(settings: Settings, place: Place, machine: Machine, submit: Submit) -> TLSReports | None:
    """
    Make what counts TLS sessions and reports them; None: there is nobody who could be asked about a report.

    Raises:  RefusedError: there is no nameserver.
    """
    table = settings.tls_reports
    contact = table.contact or settings.postmaster
    if not table.send or contact is None:
        return None
    outside = Outside(settings.relay, machine.reactor)
    address = parse_address(contact)
    source = ReportSource(table.organisation or settings.hostname, address, address.domain)
    means = Means(
        clock=machine.reactor,
        start=machine.supervisor.start,
        run_in_thread=machine.disk.run,
        texts=outside.resolver,
        submit=submit,
        post=outside.https.post,
        chance=chance.fraction,
        make_id=chance.identifier,
    )
    return TLSReports(settings.folder / "tls-reports", place.worker, source, means)
