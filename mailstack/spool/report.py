"""
Reports: how the sender learns what became of a message: that it could not be delivered, or, if that was asked for, that it was.

A report is an entry of its own: the DSN, with the null reverse-path, to wherever the return address leads. The runner gets
it ready to be inserted in the same transaction that marks the recipients failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail import dsn
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import BodyType, Envelope, Origin, Recipient, Service
from mailstack.mail.headers import fields, header_section
from mailstack.mail.requests import Requests, Return
from mailstack.mail.trace import format_date
from mailstack.mail.verdict import Refuse
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import ContentFolder, MemoryContent
from mailstack.spool.entry import Entry
from mailstack.spool.identifiers import Identifiers, format_number
from mailstack.spool.ports import Clock, Route

WHOLE_OCTETS: Final = 100_000
"""The longest message of which all is brought back, to one of our users who asks for it."""

NAME_OCTETS: Final = 100
"""The longest Message-ID that is quoted to a stranger."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The DSN is to be inserted."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nobody can be told, ever."""

    why: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """Nobody can be told now."""

    why: str


Report = Ready | Dropped | Postponed


class Reporter:
    """Makes DSNs."""

    def __init__(
        self,
        *,
        hostname: str,
        route: Route,
        identifiers: Identifiers,
        contents: ContentFolder,
        schedule: Schedule,
        clock: Clock,
    ) -> None:
        self._hostname = hostname
        self._route = route
        self._identifiers = identifiers
        self._contents = contents
        self._schedule = schedule
        self._clock = clock

    async def report(self, entry: Entry, outcomes: Sequence[tuple[Recipient, Disposition]]) -> Report:
        """
        Say how outcomes are to be reported; several of one attempt make one DSN.

        Source:  RFC 5321 §4.5.5, §6.1: never a notification of what has the null reverse-path.
        """
        if entry.envelope.reverse_path is None:
            return Dropped("the reverse-path is null")
        try:
            recipients = await self._route(entry.envelope.reverse_path)
            if isinstance(recipients, Refuse):
                verdict = recipients
            elif recipients:
                return Ready(await self._entry(entry, outcomes, recipients))
            else:
                return Dropped("the return address leads nowhere")
        except CancelledError:
            raise
        except Exception as error:  # a bulkhead: unknown is temporary
            events.unexpected(f"{entry.name}: notification", Failure())
            return self._postponed(entry, repr(error))
        if verdict.reply.is_permanent:
            return Dropped(f"the return address is refused: {verdict.reply}")
        return self._postponed(entry, str(verdict.reply))

    def _postponed(self, entry: Entry, why: str) -> Report:
        if self._clock.seconds() >= entry.expires_at + self._schedule.lifetime_seconds:
            return Dropped(f"it was tried for too long: {why}")
        return Postponed(why)

    async def _entry(
        self, entry: Entry, outcomes: Sequence[tuple[Recipient, Disposition]], recipients: tuple[Recipient, ...]
    ) -> Entry:
        content, now = entry.content, self._clock.seconds()
        requests = entry.envelope.requests
        # A stranger may have named anybody as the sender, who is not sent what the stranger wrote. And what may only go by TLS
        # comes back only by TLS, and never as a whole (RFC 8689 §5).
        is_ours = entry.envelope.origin.account is not None
        is_failed = any(each.action is Action.FAILED for _, each in outcomes)
        is_whole = is_ours and not requests.requires_tls and requests.returns is Return.FULL and content.octets <= WHOLE_OCTETS
        first = content.in_memory
        if first is None:
            first = await self._contents.head(content, content.octets if is_whole else 2 * dsn.ORIGINAL_OCTETS)
        number = self._identifiers.make()
        name = format_number(number)
        octets = dsn.build(
            outcomes,
            envelope=entry.envelope,
            hostname=self._hostname,
            entry=entry.name,
            date=format_date(now),
            message_id=f"{name}@{self._hostname}",
            boundary=f"=_{name}",
            original=first if is_ours or is_failed else _names_of(first),
            whole=is_whole and is_failed,  # RFC 3461 §4.3
        )
        envelope = Envelope(
            reverse_path=None,
            recipients=recipients,
            origin=Origin(service=Service.LOCAL),
            accepted_at=now,
            body=BodyType.SEVEN_BIT if octets.isascii() else BodyType.EIGHT_BIT_MIME,
            smtputf8=not octets.isascii() or not all(each.address.is_ascii for each in recipients),
            requests=Requests(requires_tls=requests.requires_tls),
        )
        return Entry(
            number=number,
            envelope=envelope,
            content=MemoryContent(octets),
            expires_at=self._schedule.expires_at(envelope),
        )


def _names_of(original: bytes) -> bytes:
    """
    Return the fields by which a message is known again, and no text of anybody's.

    Anybody can ask for a notification of success to whomever: what it quotes would be mail that we send for a stranger.
    """
    short = [
        (name, value)
        for name, value in fields(header_section(original))
        if name in (b"date", b"message-id") and len(value) <= NAME_OCTETS and b"\r\n" not in value
    ]
    return b"".join(name + b":" + value + b"\r\n" for name, value in dict(short).items()) + b"\r\n"
