"""
The settlement: what an attempt came to is entered, with the report to the sender, in one transaction.

    outcome                        entered as                 and the sender
    RELAYED, DELIVERED             finished                   is told if that was asked for (`ledger.is_told`)
    FAILED                         finished                   is told, in the same transaction
    FAILED, but that cannot be     unreported                 will be told later; until then it is not finished
    DELAYED                        waiting, for its next time is told once when that takes long (`ledger.is_warned`)
    DELAYED, its time is up        as FAILED                  as FAILED
    DISCARDED                      finished                   is not told
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.disposition import Disposition
from mailstack.spool import ledger
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import ContentFolder, FileContent
from mailstack.spool.database import Database
from mailstack.spool.entry import Entry, WayOf, Work, lanes_of
from mailstack.spool.identifiers import format_number
from mailstack.spool.operations import Accept, Record
from mailstack.spool.ports import Chance, Clock
from mailstack.spool.report import Dropped, Postponed, Ready, Report, Reporter

AGAIN_SECONDS: Final = 10.0  # after the database failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """
    What follows from outcomes that are on disk now.

    Shape:   `report` is the DSN, in the spool too; with `is_reported` False there is a failure of which the sender is still to
             be told; `retry_at` is when something of it is due again, or None; `is_finished`: nothing is left of the entry.
    """

    report: Accept | None
    is_reported: bool
    retry_at: float | None
    is_finished: bool


class Settlement:
    """
    Enters outcomes.

    Shape:   `is_stopping` says whether what is cancelled is cancelled since the house is being stopped.
    """

    def __init__(
        self,
        *,
        database: Database,
        contents: ContentFolder,
        reporter: Reporter,
        clock: Clock,
        chance: Chance,
        schedule: Schedule,
        way_of: WayOf,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._contents = contents
        self._reporter = reporter
        self._clock = clock
        self._chance = chance
        self._schedule = schedule
        self._way_of = way_of
        self._is_stopping = is_stopping

    async def settle(
        self, work: Work, outcomes: Mapping[int, Disposition], *, put_off_until: float | None = None, not_before: float = 0.0
    ) -> Settled:
        """
        Enter outcomes, and failures that are still to be reported.

        Shape:   `put_off_until`: nothing was attempted, since the destination is down; then is the next time. Else the schedule
                 says when that is, but `not_before`.
        """
        entry, now = work.entry, self._clock.seconds()
        made = 1 if put_off_until is None else 0
        attempts = {ordinal: max(each.attempts + made, 1) for ordinal, each in work.pending.items()}
        entered = {ordinal: each.failure for ordinal, each in work.pending.items() if each.failure is not None}
        for ordinal, disposition in outcomes.items():
            entered[ordinal] = ledger.expire(disposition, now=now, expires_at=entry.expires_at)
        late = self._late(work, entered, now)
        report = await self._report(entry, _told(work, entered, late))
        is_reported = not isinstance(report, Postponed)
        warned = {ordinal for ordinal, each in work.pending.items() if each.is_warned} | (late if is_reported else set())
        retry_at = put_off_until
        if retry_at is None:
            retry_at = max(now + self._schedule.delay_seconds(max(attempts.values()), self._chance()), not_before)
        by = entry.envelope.requests.deliver_by
        if by is not None and now < by.deadline < retry_at:
            retry_at = by.deadline  # the sender wants to know then
        changes = ledger.changes(entered, attempts, retry_at=retry_at, report_is_settled=is_reported, warned=warned)
        dsn = Accept(report.entry, lanes_of(report.entry.envelope, self._way_of)) if isinstance(report, Ready) else None
        is_all = len(changes) == len(entry.envelope.recipients) and all(each.due_at is None for each in changes)
        is_first = not work.may_repeat and all(each == 1 for each in attempts.values())
        is_finished = await self._record(Record(entry.number, changes, dsn, is_all, is_first, at=now, tried=outcomes.keys()))
        if isinstance(report, Dropped) or (isinstance(report, Postponed) and is_finished):
            events.dsn_dropped(entry.name, report.why)  # what can wait is only the report of a failure
        if dsn is not None:
            events.dsn_queued(entry.name, dsn.entry.name)
        if is_finished:
            self._finished(entry)
        is_due_again = any(each.due_at is not None for each in changes)
        return Settled(
            report=dsn, is_reported=is_reported, retry_at=retry_at if is_due_again else None, is_finished=is_finished
        )

    def _late(self, work: Work, entered: Mapping[int, Disposition], now: float) -> set[int]:
        """Return the recipients of whose delay the sender is to be told now."""
        return {
            ordinal
            for ordinal, each in entered.items()
            if not work.pending[ordinal].is_warned
            and ledger.is_warned(work.entry.envelope, each, now=now, warning_seconds=self._schedule.warning_seconds)
        }

    async def _report(self, entry: Entry, outcomes: Sequence[Disposition]) -> Report | None:
        if not outcomes:
            return None
        try:
            return await self._reporter.report(entry, [(entry.envelope.recipients[each.ordinal], each) for each in outcomes])
        except CancelledError:
            if self._is_stopping():
                raise
            return Postponed("it was broken off")

    async def _record(self, operation: Record) -> bool:
        """Enter changes; again and again if need be, since what was delivered must not be delivered once more."""
        while True:
            try:
                return await self._database.do(operation)
            except CancelledError:
                raise
            except Exception:
                events.unexpected(f"{format_number(operation.number)}: outcome cannot be recorded", Failure())
            await deferLater(self._clock, AGAIN_SECONDS)  # type: ignore[arg-type]  # it needs callLater only

    def _finished(self, entry: Entry) -> None:
        events.entry_finished(entry.name)
        if isinstance(entry.content, FileContent):
            removed = self._contents.remove(entry.content.path)
            removed.addErrback(lambda failure: events.unexpected(f"{entry.name}: content cannot be removed", failure))


def _told(work: Work, entered: Mapping[int, Disposition], late: set[int]) -> list[Disposition]:
    """Return what the sender is told."""
    envelope = work.entry.envelope
    told = [each for ordinal, each in entered.items() if ordinal in late or ledger.is_told(envelope, each)]
    # With the outcome of the first attempt, since that is the first transaction after the one that has accepted it.
    return told + [
        ledger.expanded(ordinal)
        for ordinal, each in work.pending.items()
        if each.attempts == 0 and envelope.recipients[ordinal].is_expanded
    ]
