"""
Reports: how the sender learns what became of a message: that it could not be delivered, or, if that was asked for, that it was.

A report is an entry of its own: the DSN, with the null reverse-path, to wherever the return address leads. The runner gets
it ready to be inserted in the same transaction that marks the recipients failed.

Where nobody can be told of a failure, the postmaster is (a double bounce):

    what failed                                                          who is told
    a message of somebody's, who can be reached                          he
    a message of somebody's, whose address is refused or leads nowhere   the postmaster
    what has the null reverse-path: our own DSN, or a stranger's         the postmaster
    what was for the postmaster's maildir itself, a notice for instance  nobody: the log

So each chain ends after two. Strangers can cause notices, so there are only a few in an hour; the next says how many were left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail import dsn
from mailstack.mail.address import Address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.dsn import Postmaster
from mailstack.mail.envelope import Account, BodyType, Envelope, Origin, Recipient, Service
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

NOTICES_PER_HOUR: Final = 20
"""So many double bounces the postmaster is told of; a flood of forged bounces must not fill a maildir."""

HOUR_SECONDS: Final = 3_600.0


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


class Allowance:
    """How many notices the postmaster may get within an hour, which begins with the first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._begun = float("-inf")
        self._given = 0
        self._untold = 0

    def take(self, now: float) -> int | None:
        """Take one; return of how many, since the last, nothing was told. None: there is none left."""
        if not 0 <= now - self._begun < HOUR_SECONDS:
            self._begun, self._given = now, 0
        if self._given >= self.most:
            self._untold += 1
            return None
        self._given += 1
        untold, self._untold = self._untold, 0
        return untold


class Reporter:
    """
    Makes DSNs.

    Shape:   `postmaster` is told of double bounces, at most `notices_per_hour` times; None: nobody is.
    """

    def __init__(
        self,
        *,
        hostname: str,
        route: Route,
        identifiers: Identifiers,
        contents: ContentFolder,
        schedule: Schedule,
        clock: Clock,
        postmaster: Address | None = None,
        notices_per_hour: int = NOTICES_PER_HOUR,
    ) -> None:
        self._hostname = hostname
        self._route = route
        self._identifiers = identifiers
        self._contents = contents
        self._schedule = schedule
        self._clock = clock
        self._postmaster = postmaster
        self._allowance = Allowance(notices_per_hour)

    async def report(self, entry: Entry, outcomes: Sequence[tuple[Recipient, Disposition]]) -> Report:
        """
        Say how outcomes are to be reported; several of one attempt make one DSN.

        Source:  RFC 5321 §4.5.5, §6.1: never a notification of what has the null reverse-path.
        """
        try:
            return await self._report(entry, outcomes)
        except CancelledError:
            raise
        except Exception as error:  # a bulkhead: unknown is temporary
            events.unexpected(f"{entry.name}: notification", Failure())
            return self._postponed(entry, repr(error))

    async def _report(self, entry: Entry, outcomes: Sequence[tuple[Recipient, Disposition]]) -> Report:
        if entry.envelope.reverse_path is None:
            return await self._to_postmaster(entry, outcomes, "the reverse-path is null")
        routed = await self._route(entry.envelope.reverse_path)
        if isinstance(routed, Refuse):
            if not routed.reply.is_permanent:
                return self._postponed(entry, str(routed.reply))
            return await self._to_postmaster(entry, outcomes, f"the return address is refused: {routed.reply}")
        if not routed:
            return await self._to_postmaster(entry, outcomes, "the return address leads nowhere")
        return Ready(await self._entry(entry, outcomes, routed))

    async def _to_postmaster(self, entry: Entry, outcomes: Sequence[tuple[Recipient, Disposition]], why: str) -> Report:
        """Tell the postmaster of failures of which nobody else can be told."""
        failures = [(recipient, each) for recipient, each in outcomes if each.action is Action.FAILED]
        if self._postmaster is None or not failures:
            return Dropped(why)
        routed = await self._route(self._postmaster)
        if isinstance(routed, Refuse):
            if not routed.reply.is_permanent:
                return self._postponed(entry, str(routed.reply))
            routed = ()
        accounts = tuple(each for each in routed if isinstance(each.destination, Account))
        if not accounts:
            return Dropped(f"{why}, and the postmaster is no account of ours")
        theirs = {each.destination for each in accounts}
        failures = [(recipient, each) for recipient, each in failures if recipient.destination not in theirs]
        if not failures:
            return Dropped(f"{why}, and it was for the postmaster")
        untold = self._allowance.take(self._clock.seconds())
        if untold is None:
            return Dropped(f"{why}, and the postmaster has had {self._allowance.most} notices within an hour")
        return Ready(await self._entry(entry, failures, accounts, Postmaster(self._postmaster, untold)))

    def _postponed(self, entry: Entry, why: str) -> Report:
        if self._clock.seconds() >= entry.expires_at + self._schedule.lifetime_seconds:
            return Dropped(f"it was tried for too long: {why}")
        return Postponed(why)

    async def _entry(
        self,
        entry: Entry,
        outcomes: Sequence[tuple[Recipient, Disposition]],
        recipients: tuple[Recipient, ...],
        postmaster: Postmaster | None = None,
    ) -> Entry:
        content, now, sender = entry.content, self._clock.seconds(), entry.envelope.reverse_path
        requests = entry.envelope.requests
        # A stranger may have named anybody as the sender, who is not sent what the stranger wrote. And what may only go by TLS
        # comes back only by TLS, and never as a whole (RFC 8689 §5).
        is_ours = entry.envelope.origin.account is not None
        is_failed = any(each.action is Action.FAILED for _, each in outcomes)
        is_wanted = is_ours and requests.returns is Return.FULL
        if postmaster is not None:
            is_wanted = entry.envelope.origin.service is Service.LOCAL  # our own words
        is_whole = is_wanted and not requests.requires_tls and content.octets <= WHOLE_OCTETS
        # Who gave us what only SMTPUTF8 can carry can read it; but whether a host takes it where the sender lives is another
        # question, unless the sender's address asks that of it anyway.
        is_global = entry.envelope.smtputf8 and (
            all(isinstance(each.destination, Account) for each in recipients) or (sender is not None and not sender.is_ascii)
        )
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
            is_global=is_global,
            retry_until=entry.expires_at,
            postmaster=postmaster,
        )
        envelope = Envelope(
            reverse_path=None,
            recipients=recipients,
            origin=Origin(service=Service.LOCAL),
            accepted_at=now,
            body=BodyType.SEVEN_BIT if octets.isascii() else BodyType.EIGHT_BIT_MIME,
            smtputf8=is_global or not octets.isascii() or not all(each.address.is_ascii for each in recipients),
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
