"""
The runner: from an accepted entry to the end of each of its recipients.

    fresh entry ──┐                       ┌─> finished
                  ├─> lanes ─> attempt ─> ledger ─> waiting on disk ─> due ─┐
    DSN ──────────┘     ^                 └─> DSN                           │
                        └───────────────────────────────────────────────────┘

A fresh entry goes from memory to its attempts; nothing is read back. What finds no room in memory waits on disk, where it
is due already, and is looked for as soon as there is room.

Who has what: a work (recipients of one entry in one lane) is held from when it enters memory until the ledger has its
outcome, and while it is held nothing else touches those recipients. That is the lease. It is in memory only (see the
charter), and an attempt that takes longer than `lease_seconds` is cancelled and counts as delayed. The operator's hands claim a
lease like this, and get one of what is in memory, but not of what is in an attempt.

A destination that is down (`lanes`) is asked by one message at a time. The others wait on disk: they are put off in one
statement, with what the last attempt said as their reason, and made due in one when the destination answers. Only those whose
time is up, or whose sender is to be told of the delay, are looked at one by one, as if they had been attempted.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.disposition import Disposition, Standing, delayed
from mailstack.mail.envelope import Delivery
from mailstack.spool import ledger
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import ContentFolder, FileContent
from mailstack.spool.database import Database
from mailstack.spool.entry import LOCAL_LANE, Entry, Pending, Work, lane_of
from mailstack.spool.identifiers import format_number
from mailstack.spool.lanes import Lanes, Limits, Pause, Turn
from mailstack.spool.operations import (
    PUT_OFF,
    UNREADABLE_SECONDS,
    Due,
    Load,
    Loaded,
    MakeDue,
    Position,
    PutOff,
    Quiet,
    Record,
    WakeLane,
)
from mailstack.spool.ports import Chance, Clock, Couriers, Start
from mailstack.spool.report import Dropped, Postponed, Ready, Report, Reporter

PAGE_ROWS: Final = 500
PAGES_PER_LOOK: Final = 20
LOAD_ENTRIES: Final = 50
FLUSH_ROWS: Final = 1_000
AGAIN_SECONDS: Final = 10.0  # after the database failed
LOOK_AT_LEAST_EVERY_SECONDS: Final = 3_600.0  # whatever the clock has done meanwhile
OVERDUE_EVERY_SECONDS: Final = 30.0
GO_ON_SECONDS: Final = 0.2  # a million rows are looked through in 20 s, at 5 % of one core
LOOK_AGAIN_SECONDS: Final = 0.05
MAX_LEFT: Final = 100
PUT_OFF_LANES: Final = 4
PUT_OFF_ROWS: Final = 200
BEGUN_AT_ONCE: Final = 32
MAX_QUIET_ENTRIES: Final = 20_000
LATER_SECONDS: Final = 1_800.0  # after its pause what waits for a destination is due, should its probe have vanished
ANY_LANE: Final = "*"  # no domain has this name; for the lanes it is a remote one with nothing in it


class Runner:
    """Attempts what is accepted, and enters the outcomes."""

    def __init__(
        self,
        *,
        database: Database,
        contents: ContentFolder,
        couriers: Couriers,
        reporter: Reporter,
        clock: Clock,
        chance: Chance,
        start: Start,
        schedule: Schedule,
        limits: Limits,
        lease_seconds: float,
        forget_hosts: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._contents = contents
        self._couriers = couriers
        self._reporter = reporter
        self._clock = clock
        self._chance = chance
        self._start = start
        self._schedule = schedule
        self._lease_seconds = lease_seconds
        self._forget_hosts = forget_hosts
        self._lanes = Lanes(limits, chance)
        self._held: dict[tuple[int, str], Work | None] = {}  # None: the operator's hands have it
        self._paused: set[str] = set()
        self._bounced: dict[int, set[str]] = {}  # entries, and their lanes of which failures are reported, be they paused
        self._leases: dict[Work, float] = {}  # attempts that run, by when they must have ended; oldest first
        self._running: set[Deferred[None]] = set()
        self._is_on = False
        self._is_cancelling = False
        self._is_pumping = False
        self._is_looking = False
        self._must_look = False
        self._left: set[str] = set()  # lanes of which this pass left something on disk; ANY_LANE: of any
        self._position: Position | None = None  # how far the pass over all that is due has come
        self._timer: IDelayedCall | None = None
        self._sweep: IDelayedCall | None = None
        self._rate_timer: IDelayedCall | None = None
        # Lanes of destinations that are down, of which something is to be put off, with entries that were never attempted.
        self._quiet: dict[str, set[int]] = {}
        self._quiet_entries = 0
        self._is_putting_off = False

    @property
    def attempts(self) -> int:
        """How many attempts run."""
        return len(self._leases)

    def start(self) -> None:
        """Begin to attempt what is due and what will be accepted."""
        self._is_on = True
        self._wake_in(LOOK_AT_LEAST_EVERY_SECONDS)
        self._look()

    async def stop(self, grace_seconds: float) -> None:
        """Begin nothing more; let attempts end for that long, then cancel them: they are repeated after a restart."""
        self._is_on = False
        for timer in (self._timer, self._sweep, self._rate_timer):
            if timer is not None and timer.active():
                timer.cancel()
        ended = DeferredList(list(self._running))
        deadline = self._clock.callLater(grace_seconds, self._cancel_all)
        await ended
        if deadline.active():
            deadline.cancel()

    def _cancel_all(self) -> None:
        self._is_cancelling = True
        for running in list(self._running):
            running.cancel()

    def accepted(self, entry: Entry, may_repeat: bool = False) -> None:
        """Take up an entry that has just been committed; `may_repeat`: an attempt was made before."""
        if not self._is_on:
            return  # it waits on disk
        held_until = entry.envelope.requests.held_until
        if held_until is not None and held_until > self._clock.seconds():
            self._wake_in(held_until - self._clock.seconds())
            return
        lanes: dict[str, dict[int, Pending]] = {}
        for ordinal, recipient in enumerate(entry.envelope.recipients):
            lanes.setdefault(lane_of(recipient.destination), {})[ordinal] = Pending()
        self._take_up(entry, lanes, may_repeat=may_repeat)
        self._pump()

    async def flush(self) -> None:
        """Make everything that waits due now, and take no host to be down."""
        now = self._clock.seconds()
        self.ask_again()
        waiting = 0
        while (made := await self._database.do(MakeDue(now, FLUSH_ROWS))) == FLUSH_ROWS:
            waiting += made
            if waiting > 10_000 * FLUSH_ROWS:
                break  # what fails meanwhile becomes due again; at some point that is enough
        self._position = None
        self._look()

    def ask_again(self) -> None:
        """Take no destination and no host to be down any more."""
        self._forget_hosts()
        if self._is_on and (down := self._lanes.forgive()):
            self._run(self._wake_lanes(down), "spool: waking all lanes")

    def change(self, limits: Limits) -> None:
        """Let other limits count from now on, and ask every destination again: what kept us from it may be mended."""
        self._lanes.change(limits)
        self.ask_again()
        self._pump()

    # The operator's hands: what they claim is touched by nobody else until they give it back

    @property
    def paused(self) -> frozenset[str]:
        """The lanes of which nothing is attempted."""
        return frozenset(self._paused)

    def pause(self, lanes: Iterable[str]) -> None:
        """Begin no attempts of these lanes: what is in memory of them is let go when its turn comes."""
        self._paused.update(lanes)

    def resume(self, lane: str) -> None:
        """Attempt what waits in a lane again."""
        self._paused.discard(lane)
        self._position = None
        self._look()

    def place_of(self, number: int, lane: str) -> str:
        """Say where the recipients of an entry in a lane are: in an "attempt", in "memory", or "" on disk."""
        work = self._held.get((number, lane))
        return "" if work is None else "attempt" if work.has_begun else "memory"

    def claim(self, number: int, lane: str) -> Work | None:
        """Take recipients into the operator's hands; or return the work of them that is in an attempt, to be left alone."""
        key = (number, lane)
        work = self._held.get(key)
        if work is not None:
            if work.has_begun:
                return work
            work.is_withdrawn = True
        self._held[key] = None
        return None

    def report(self, claims: Iterable[tuple[int, str]]) -> None:
        """Tell of the failures of these, also where nothing is attempted: the operator has given them up."""
        for number, lane in claims:
            self._bounced.setdefault(number, set()).add(lane)

    def give_back(self, claims: Iterable[tuple[int, str]]) -> None:
        """Let go of what was claimed, and look for what is due of it."""
        for key in claims:
            if key in self._held and self._held[key] is None:
                del self._held[key]
                self._leave(key[1])  # the pass may have gone by meanwhile
        self._look()

    # What is in memory

    def _take_up(self, entry: Entry, lanes: dict[str, dict[int, Pending]], *, may_repeat: bool) -> None:
        now = self._clock.seconds()
        for lane, pending in lanes.items():
            key = (entry.number, lane)
            if key in self._held or not (pending := self._not_paused(lane, pending)):
                continue
            if self._lanes.pause_of(lane, now) is not None:
                self._leave_alone(lane, entry.number)
                continue
            if not self._lanes.has_room_for(lane, is_old=may_repeat):
                self._leave(lane)
                continue
            work = self._held[key] = Work(entry, lane, pending, may_repeat)
            self._lanes.add(work, now)

    def _not_paused(self, lane: str, pending: dict[int, Pending]) -> dict[int, Pending]:
        """Return the recipients for whom something may be done: of a lane that is paused those whose failure is to be told."""
        if lane not in self._paused:
            return pending
        return {ordinal: each for ordinal, each in pending.items() if each.failure is not None}

    def _let_go(self, work: Work) -> None:
        self._let_go_of(work)
        if not self._left:
            return
        if not self._lanes.works:
            self._look()
        elif self._has_room_for_left(work.lane):
            self._wake_in(LOOK_AGAIN_SECONDS)  # each look finds many, and costs accordingly

    def _let_go_of(self, work: Work) -> None:
        key = (work.entry.number, work.lane)
        if self._held.get(key) is work:  # what was withdrawn may be in other hands by now
            del self._held[key]
        self._lanes.forget(work)

    def _leave(self, lane: str) -> None:
        """Leave something on disk."""
        self._left.add(lane if len(self._left) < MAX_LEFT else ANY_LANE)

    def _has_room_for_left(self, lane: str) -> bool:
        """Say whether it is time to look on disk, when something of a lane has left memory."""
        return (lane in self._left and self._lanes.is_low(lane)) or (ANY_LANE in self._left and self._lanes.is_low(ANY_LANE))

    def _pump(self) -> None:
        # An attempt may end before _begin returns, and calls this again: the loop that already runs goes on then.
        if self._is_pumping:
            return
        self._is_pumping = True
        begun = 0
        try:
            while self._is_on and (work := self._lanes.take(self._clock.seconds())):
                if work.is_withdrawn or self._not_paused(work.lane, work.pending) != work.pending:
                    self._put_back(work)
                    continue
                self._begin(work)
                begun += work.lane != LOCAL_LANE
                if begun == BEGUN_AT_ONCE:  # each has lookups and a connection before it: let others have their turn
                    self._pump_at(self._clock.seconds())
                    return
        finally:
            self._is_pumping = False
        if self._is_on and (at := self._lanes.wakes_at) is not None:
            self._pump_at(at)

    def _pump_at(self, at: float) -> None:
        """Go on when a destination may have more by its rate."""
        timer = self._rate_timer
        if timer is not None and timer.active():
            if timer.getTime() <= at:
                return
            timer.cancel()
        self._rate_timer = self._clock.callLater(max(at - self._clock.seconds(), 0.0), self._pump)

    def _put_back(self, work: Work) -> None:
        """Let go of work whose turn came and that is not to be attempted: it waits on disk."""
        self._note(work.lane, self._lanes.free(work, self._clock.seconds(), None))
        self._let_go(work)

    def _begin(self, work: Work) -> None:
        work.has_begun = True
        self._leases[work] = self._clock.seconds() + self._lease_seconds
        running = self._run(self._attend(work), f"{work.entry.name}: attempt")
        if work in self._leases:
            work.attempt = running
            if self._sweep is None:
                self._sweep = self._clock.callLater(OVERDUE_EVERY_SECONDS, self._cancel_overdue)

    def _run(self, coroutine: Coroutine[Any, Any, None], what: str) -> Deferred[None]:
        running = self._start(coroutine, what)
        if not running.called:
            self._running.add(running)
            running.addBoth(lambda _: self._running.discard(running))
        return running

    def _cancel_overdue(self) -> None:
        self._sweep = None
        now = self._clock.seconds()
        for work, until in list(self._leases.items()):
            if until > now:
                break
            del self._leases[work]
            work.is_overdue = True
            if work.attempt is not None:
                work.attempt.cancel()
        if self._leases and self._is_on:
            self._sweep = self._clock.callLater(OVERDUE_EVERY_SECONDS, self._cancel_overdue)

    # One attempt

    async def _attend(self, work: Work) -> None:
        has_obeyed = False
        try:
            shown = None
            try:
                outcomes = await self._attempt(work)
                shown = ledger.shown_by(outcomes.values())
            finally:
                self._leases.pop(work, None)
                self._note(work.lane, self._lanes.free(work, self._clock.seconds(), shown))
                self._pump()
            pause = self._lanes.pause_of(work.lane, self._clock.seconds())
            if pause is None or shown is None or shown.standing is Standing.UP:
                await self._settle(work, outcomes)
            elif shown.wait_seconds:  # nobody was asked
                await self._settle(work, outcomes, put_off_until=pause.until)
            else:  # the next probe is another's: it may be the message that the destination cannot bear
                await self._settle(work, outcomes, not_before=pause.until + 1.0)
            _call_afterwards(work)
            has_obeyed = await self._obey_orders(work)
        finally:
            _call_afterwards(work)
            self._let_go(work)
            if has_obeyed:
                self._look()
            self._pump()

    async def _obey_orders(self, work: Work) -> bool:
        """Do what the operator wants with what an attempt has left; say whether that was anything."""
        has_obeyed = False
        while work.orders:
            order, *left = work.orders
            work.orders = tuple(left)
            has_obeyed = True
            await order()
        return has_obeyed

    async def _attempt(self, work: Work) -> dict[int, Disposition]:
        """Return an outcome for each recipient that is to be attempted, whatever the courier does."""
        envelope = work.entry.envelope
        recipients = {
            ordinal: envelope.recipients[ordinal] if each.via is None else replace(envelope.recipients[ordinal], via=each.via)
            for ordinal, each in work.pending.items()
            if each.failure is None
        }
        if not recipients:
            return {}
        by = envelope.requests.deliver_by
        if by is not None and by.is_over(self._clock.seconds()):
            return {ordinal: ledger.too_late(ordinal) for ordinal in recipients}
        delivery = Delivery(
            entry=work.entry.name,
            envelope=envelope,
            recipients=recipients,
            content=work.entry.content,
            attempt=1 + max(work.pending[ordinal].attempts for ordinal in recipients),
            may_repeat=work.may_repeat,
            afterwards=work.afterwards,
        )
        dispositions: Sequence[Disposition] = ()
        try:
            courier = self._couriers(next(iter(recipients.values())).destination)
            dispositions = await courier.attempt(delivery)
        except CancelledError:
            if self._is_cancelling:
                raise
            why = "The attempt took too long" if work.is_overdue else "The attempt was broken off"
            dispositions = [delayed(ordinal, why) for ordinal in recipients]
        except Exception as error:  # a bulkhead: unknown is temporary
            events.unexpected(f"{work.entry.name}: attempt", Failure())
            dispositions = [delayed(ordinal, "Local error", cause=repr(error)) for ordinal in recipients]
        outcomes = ledger.complete(dispositions, recipients)
        for ordinal, disposition in outcomes.items():
            events.attempt_finished(work.entry.name, disposition, recipients[ordinal].address)
        return outcomes

    async def _settle(
        self, work: Work, outcomes: dict[int, Disposition], *, put_off_until: float | None = None, not_before: float = 0.0
    ) -> None:
        """
        Enter outcomes, and failures that are still to be reported, and do what follows from them.

        Shape:   `put_off_until`: nothing was attempted, since the destination is down; then is the next time. Else the schedule
                 says when that is, but `not_before`.
        """
        entry, now = work.entry, self._clock.seconds()
        made = 1 if put_off_until is None else 0
        attempts = {ordinal: max(each.attempts + made, 1) for ordinal, each in work.pending.items()}
        entered = {ordinal: each.failure for ordinal, each in work.pending.items() if each.failure is not None}
        for ordinal, disposition in outcomes.items():
            entered[ordinal] = ledger.expire(disposition, now=now, expires_at=entry.expires_at)
        envelope = entry.envelope
        late = {
            ordinal
            for ordinal, each in entered.items()
            if not work.pending[ordinal].is_warned
            and ledger.is_warned(envelope, each, now=now, warning_seconds=self._schedule.warning_seconds)
        }
        told = [each for ordinal, each in entered.items() if ordinal in late or ledger.is_told(envelope, each)]
        # With the outcome of the first attempt, since that is the first transaction after the one that has accepted it.
        told += [
            ledger.expanded(ordinal)
            for ordinal, each in work.pending.items()
            if each.attempts == 0 and envelope.recipients[ordinal].is_expanded
        ]
        report = await self._report(entry, told)
        is_settled = not isinstance(report, Postponed)
        warned = {ordinal for ordinal, each in work.pending.items() if each.is_warned} | (late if is_settled else set())
        retry_at = max(now + self._schedule.delay_seconds(max(attempts.values()), self._chance()), not_before)
        if put_off_until is not None:
            retry_at = put_off_until
        by = envelope.requests.deliver_by
        if by is not None and now < by.deadline < retry_at:
            retry_at = by.deadline  # the sender wants to know then
        changes = ledger.changes(entered, attempts, retry_at=retry_at, report_is_settled=is_settled, warned=warned)
        report_entry = report.entry if isinstance(report, Ready) else None
        is_all = len(changes) == len(entry.envelope.recipients) and all(each.due_at is None for each in changes)
        is_first = not work.may_repeat and all(each == 1 for each in attempts.values())
        is_finished = await self._record(
            Record(entry.number, changes, report_entry, is_all, is_first, at=now, tried=outcomes.keys())
        )
        if isinstance(report, Dropped) or (isinstance(report, Postponed) and is_finished):
            events.dsn_dropped(entry.name, report.why)  # what can wait is only the report of a failure
        if report_entry is not None:
            events.dsn_queued(entry.name, report_entry.name)
            self.accepted(report_entry)
        if is_finished:
            self._finished(entry)
        if not is_settled:
            if work.lane in self._paused:
                self.report([(entry.number, work.lane)])
        elif (bounced := self._bounced.get(entry.number)) is not None:
            bounced.discard(work.lane)
            if is_finished or not bounced:
                del self._bounced[entry.number]
        if any(each.due_at is not None for each in changes):
            self._wake_in(retry_at - now)

    async def _report(self, entry: Entry, outcomes: Sequence[Disposition]) -> Report | None:
        if not outcomes:
            return None
        try:
            return await self._reporter.report(entry, [(entry.envelope.recipients[each.ordinal], each) for each in outcomes])
        except CancelledError:
            if self._is_cancelling:
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

    # Destinations that are down

    def _note(self, lane: str, turn: Turn | None) -> None:
        """Do what follows when a destination has gone down, or come up."""
        if turn is None or not self._is_on:
            return
        now = self._clock.seconds()
        if turn is Turn.WENT_DOWN:
            if (pause := self._lanes.pause_of(lane, now)) is not None:
                events.destination_down(lane, pause.until - now, pause.reason)
            drained = self._lanes.drain(lane)  # they are on disk, and due
            for work in drained:
                self._let_go_of(work)
            self._leave_alone(lane, *(work.entry.number for work in drained))
            return
        if turn is Turn.CAME_UP:
            events.destination_up(lane)
        self._run(self._wake_lane(lane), f"spool: waking {lane}")

    async def _wake_lanes(self, lanes: Sequence[str]) -> None:
        for lane in lanes:
            await self._wake_lane(lane)

    async def _wake_lane(self, lane: str) -> None:
        now, made = self._clock.seconds(), FLUSH_ROWS
        try:
            while self._is_on and made == FLUSH_ROWS:
                made = await self._database.do(WakeLane(lane, now, FLUSH_ROWS))
                if made:
                    self._look()
        except CancelledError:
            raise
        except Exception:  # then they come when their time has come
            events.unexpected(f"spool: {lane} cannot be woken", Failure())

    def _leave_alone(self, lane: str, *numbers: int) -> None:
        """Put off what is due for a destination that is down, these entries and all that was attempted before."""
        quiet = self._quiet.setdefault(lane, set())
        if self._quiet_entries < MAX_QUIET_ENTRIES:  # others are still due, and so are met again
            self._quiet_entries += len(numbers)
            quiet.update(numbers)
        if self._is_on and not self._is_putting_off:
            self._is_putting_off = True
            self._run(self._put_off(), "spool: putting off")

    async def _put_off(self) -> None:
        try:
            while self._is_on and (lanes := list(self._quiet)[:PUT_OFF_LANES]):
                now = self._clock.seconds()
                quieted = list(self._quieted(lanes, now))
                done = await self._database.do(PutOff(quieted, now, self._schedule.warning_seconds, PUT_OFF_ROWS))
                for lane in done.unfinished:
                    self._leave_alone(lane)
                others = list(dict.fromkeys(number for number, lane in done.others if (number, lane) not in self._held))
                for first in range(0, len(others), LOAD_ENTRIES):
                    await self._tell_others(others[first : first + LOAD_ENTRIES], now)
        except CancelledError:
            raise
        except Exception:  # they are still due, and so they are met again
            events.unexpected("spool: what waits for a destination that is down cannot be put off", Failure())
            self._wake_in(AGAIN_SECONDS)
        finally:
            self._is_putting_off = False

    def _quieted(self, lanes: Sequence[str], now: float) -> Iterator[Quiet]:
        for lane in lanes:
            fresh = self._quiet.pop(lane)
            pause = self._lanes.pause_of(lane, now)
            if pause is None:  # the pause is over meanwhile, and the pass may have gone by
                self._leave(lane)
                self._look()
                continue
            self._wake_in(pause.until - now)
            yield Quiet(lane, pause.until, pause.until + LATER_SECONDS, pause.reason, sorted(fresh))
        if not self._quiet:
            self._quiet_entries = 0

    async def _tell_others(self, numbers: Sequence[int], now: float) -> None:
        """Let entries that cannot just be put off have an outcome."""
        loaded = await self._database.do(Load(numbers, now, self._contents.path))
        self._note_damage(loaded)
        for entry, lanes in loaded.entries:
            for lane, pending in lanes.items():
                pause, key = self._lanes.pause_of(lane, now), (entry.number, lane)
                if key in self._held or not (pending := self._not_paused(lane, pending)):
                    continue
                if pause is None:  # the pass may have gone by meanwhile
                    self._leave(lane)
                    self._look()
                    continue
                work = self._held[key] = Work(entry, lane, pending, may_repeat=True)
                work.has_begun = True
                has_obeyed = False
                try:
                    await self._tell(work, pause)
                    has_obeyed = await self._obey_orders(work)
                finally:
                    if self._held.get(key) is work:
                        del self._held[key]
                    if has_obeyed:
                        self._look()

    async def _tell(self, work: Work, pause: Pause) -> None:
        reason = replace(pause.reason, diagnostic=PUT_OFF + pause.reason.diagnostic)
        outcomes = {ordinal: replace(reason, ordinal=ordinal) for ordinal, each in work.pending.items() if each.failure is None}
        recipients = work.entry.envelope.recipients
        for ordinal, disposition in outcomes.items():
            events.attempt_finished(work.entry.name, disposition, recipients[ordinal].address)
        await self._settle(work, outcomes, put_off_until=pause.until)

    # What is on disk

    def _wake_in(self, delay_seconds: float) -> None:
        """Look for what is due after that time at the latest."""
        if not self._is_on:
            return
        delay = min(max(delay_seconds, 0.0), LOOK_AT_LEAST_EVERY_SECONDS)
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._clock.seconds() + delay:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(delay, self._wake)

    def _wake(self) -> None:
        self._wake_in(LOOK_AT_LEAST_EVERY_SECONDS)
        self._look()

    def _look(self) -> None:
        """Take up what is due, as far as there is room; one look at a time."""
        self._must_look = True
        if self._is_on and not self._is_looking:
            self._is_looking = True
            self._run(self._look_on(), "spool: looking for what is due")

    async def _look_on(self) -> None:
        try:
            while self._is_on and (self._must_look or (self._left and not self._lanes.works)):
                self._must_look = False
                await self._look_once()
                self._pump()
        except CancelledError:
            raise
        except Exception:
            events.unexpected("spool: what is due cannot be read", Failure())
            self._wake_in(AGAIN_SECONDS)
        finally:
            self._is_looking = False

    async def _look_once(self) -> None:
        """
        Go on with the pass over what is due. What becomes due stands at its end, so a pass misses nothing, and need not begin
        again because time has passed; else mail behind a million rows of a domain that is down would never be reached.
        """
        now = self._clock.seconds()
        if self._position is None:
            self._left.clear()
        for nth in range(PAGES_PER_LOOK):
            if nth and not self._lanes.has_room_for(ANY_LANE, is_old=True):
                self._leave(ANY_LANE)
                break  # further on there may still be local mail, but that is rare
            page = await self._database.do(Due(now, self._position, PAGE_ROWS))
            wanted = self._wanted(page.rows)
            for first in range(0, len(wanted), LOAD_ENTRIES):
                if not self._lanes.has_room:
                    self._leave(ANY_LANE)
                    return
                numbers = wanted[first : first + LOAD_ENTRIES]
                self._take_up_loaded(await self._database.do(Load(numbers, now, self._contents.path)))
                self._pump()
            if page.is_last:
                self._position = None
                if page.next_due_at is not None:
                    self._wake_in(page.next_due_at - now)
                return
            due_at, number, ordinal, _lane = page.rows[-1]
            self._position = (due_at, number, ordinal)
        self._wake_in(GO_ON_SECONDS)

    def _wanted(self, rows: Sequence[tuple[float, int, int, str]]) -> list[int]:
        """Return the entries of a page that are not held and find room."""
        wanted: dict[tuple[int, str], None] = {}  # in order
        more: dict[str, int] = {}
        now = self._clock.seconds()
        for _due_at, number, _ordinal, lane in rows:
            work = (number, lane)
            if work in self._held or work in wanted or (lane in self._paused and lane not in self._bounced.get(number, ())):
                continue
            if self._lanes.pause_of(lane, now) is not None:
                self._leave_alone(lane, number)
            elif self._lanes.has_room_for(lane, more.get(lane, 0), is_old=True):
                wanted[work] = None
                more[lane] = more.get(lane, 0) + 1
            else:
                self._leave(lane)
        return list(dict.fromkeys(number for number, _ in wanted))

    def _take_up_loaded(self, loaded: Loaded) -> None:
        self._note_damage(loaded)
        for entry, lanes in loaded.entries:
            self._take_up(entry, lanes, may_repeat=True)

    def _note_damage(self, loaded: Loaded) -> None:
        for number, why in loaded.set_aside:
            events.unexpected(f"{format_number(number)}: set aside", Failure(ValueError(why)))
        for number, why in loaded.unreadable:
            events.unexpected(f"{format_number(number)}: cannot be read now", Failure(OSError(why)))
            self._wake_in(UNREADABLE_SECONDS)


def _call_afterwards(work: Work) -> None:
    """Tell the courier that the outcomes are on disk, or that nobody will see to that."""
    while work.afterwards:
        work.afterwards.pop()()
