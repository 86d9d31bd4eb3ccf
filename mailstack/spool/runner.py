"""
The runner: from an accepted entry to the end of each of its recipients.

    fresh entry ──┐                       ┌─> finished
                  ├─> lanes ─> attempt ─> ledger ─> waiting on disk ─> due ─┐
    DSN ──────────┘     ^                 └─> DSN                           │
                        └───────────────────────────────────────────────────┘

A fresh entry goes from memory to its attempts; nothing is read back. What finds no room in memory waits on disk, where it
is due already, and is looked for as soon as there is room.

Who has what is known by the leases (`leases`): a work (recipients of one entry in one lane) has its recipients from when it
enters memory until the ledger has their outcomes, and nothing else touches them. An attempt that takes longer than
`lease_seconds` is cancelled and counts as delayed. The attempt itself, the entering of its outcomes, and what is paused, are in
files of their own (`attempting`, `settlement`, `pausing`).

A destination that is down (`lanes`) is asked by one message at a time. The others wait on disk: they are put off in one
statement, with what the last attempt said as their reason, and made due in one when the destination answers. Only those whose
time is up, or whose sender is to be told of the delay, are looked at one by one, as if they had been attempted.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.disposition import Disposition, Standing
from mailstack.mail.envelope import Recipient
from mailstack.spool import ledger
from mailstack.spool.attempting import Attempting
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import ContentFolder
from mailstack.spool.database import Database
from mailstack.spool.entry import (
    ALL_DOMAINS,
    LOCAL_LANE,
    Entry,
    Pending,
    WayOf,
    Work,
    domain_of,
    lane_of,
    way_of_lane,
)
from mailstack.spool.identifiers import format_number
from mailstack.spool.lanes import Lanes, Limits, Pause, Turn
from mailstack.spool.leases import Key, Leases
from mailstack.spool.loading import UNREADABLE_SECONDS, Due, Load, Loaded, Position
from mailstack.spool.moves import MakeDue, PutOff, Quiet, Relane, WakeDomain, WakeLane
from mailstack.spool.operations import PUT_OFF, Accept
from mailstack.spool.pausing import Pausing
from mailstack.spool.ports import Chance, Clock, Couriers, Start
from mailstack.spool.report import Reporter
from mailstack.spool.settlement import AGAIN_SECONDS, Settlement

PAGE_ROWS: Final = 500
PAGES_PER_LOOK: Final = 20
LOAD_ENTRIES: Final = 50
FLUSH_ROWS: Final = 1_000
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
Move = tuple[int, int, str, str]
"""Of an entry a recipient, from one lane into another."""
ANY_LANE: Final = "*"  # no domain has this name; for the lanes it is a remote one with nothing in it


class Runner:
    """Attempts what is accepted, and enters the outcomes."""

    def __init__(
        self,
        *,
        database: Database,
        contents: ContentFolder,
        couriers: Couriers,
        way_of: WayOf,
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
        self._pausing = Pausing(way_of)
        self._attempting = Attempting(couriers, clock, is_stopping=lambda: self._is_cancelling)
        self._settlement = Settlement(
            database=database,
            contents=contents,
            reporter=reporter,
            clock=clock,
            chance=chance,
            schedule=schedule,
            way_of=self.way_of,
            is_stopping=lambda: self._is_cancelling,
        )
        self._clock = clock
        self._start = start
        self._schedule = schedule
        self._lease_seconds = lease_seconds
        self._forget_hosts = forget_hosts
        self._lanes = Lanes(limits, chance)
        self._leases = Leases()
        self._ends: dict[Work, float] = {}  # attempts that run, by when they must have ended; oldest first
        self._running: set[Deferred[None]] = set()
        self._is_on = False
        self._is_cancelling: bool = False
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
        return len(self._ends)

    @property
    def is_stopping(self) -> bool:
        """Whether what runs is broken off, since the house is being stopped."""
        return self._is_cancelling

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

    def accepted(self, accepted: Accept, may_repeat: bool = False) -> None:
        """Take up an entry that has just been committed; `may_repeat`: an attempt was made before."""
        if not self._is_on:
            return  # it waits on disk
        entry = accepted.entry
        held_until = entry.envelope.requests.held_until
        if held_until is not None and held_until > self._clock.seconds():
            self._wake_in(held_until - self._clock.seconds())
            return
        lanes: dict[str, dict[int, Pending]] = {}
        for ordinal, lane in enumerate(accepted.lanes):
            lanes.setdefault(lane, {})[ordinal] = Pending()
        self._take_up(entry, lanes, may_repeat=may_repeat)
        self._pump()

    async def flush(self) -> None:
        """Make everything that waits due now, and take no host to be down."""
        now = self._clock.seconds()
        self.ask_again(self._lanes.names)
        waiting = 0
        while (made := await self._database.do(MakeDue(now, FLUSH_ROWS))) == FLUSH_ROWS:
            waiting += made
            if waiting > 10_000 * FLUSH_ROWS:
                break  # what fails meanwhile becomes due again; at some point that is enough
        self._position = None
        self._look()

    def ask_again(self, lanes: Iterable[str]) -> None:
        """Take the destinations of these lanes, and no host, to be down any more."""
        self._forget_hosts()
        if self._is_on and (down := self._lanes.forgive(lanes)):
            self._run(self._wake_lanes(down), "spool: waking lanes")

    def lanes_by_way(self, way: str) -> list[str]:
        """Return the lanes of which the mail goes on a way that the operator has named; of "" none."""
        return [lane for lane in self._lanes.names if way and way_of_lane(lane) == way]

    def change(self, limits: Limits) -> None:
        """Let other limits count from now on, and ask every destination again: what kept us from it may be mended."""
        self._lanes.change(limits, self._clock.seconds())
        self.ask_again(self._lanes.names)
        self._pump()

    # The operator's hands: what they claim is touched by nobody else until they give it back

    def way_of(self, recipient: Recipient) -> str | None:
        """Name the way of a recipient for the time being, by which its lane is called (a WayOf)."""
        return self._pausing.way_of(recipient)

    @property
    def paused(self) -> frozenset[str]:
        """The domains of which nothing is attempted."""
        return self._pausing.domains

    def pause(self, domains: Iterable[str]) -> None:
        """Begin no attempts of these domains: what is in memory of them is let go when its turn comes."""
        self._pausing.pause(domains)

    def resume(self, domain: str) -> None:
        """Attempt what waits for a domain again, at once; for ALL_DOMAINS what is due, so that it does not all come at once."""
        was_paused = self._pausing.resume(domain)
        if domain == ALL_DOMAINS:
            self.ask_again(self._lanes.names)
        elif was_paused:
            self.ask_again([lane for lane in self._lanes.names if domain_of(lane) == domain])
            self._run(self._wake_lane(domain, wake=WakeDomain), f"spool: waking {domain}")
        self._position = None
        self._look()

    def work_at(self, key: Key) -> Work | None:
        """Return the work of recipients that are attempted, or will be when their turn comes."""
        return self._leases.work_at(key)

    def claim(self, key: Key) -> Work | None:
        """Take recipients into the operator's hands, and return the work that attempts some of them, to be left alone."""
        return self._leases.claim(key)

    def report(self, claims: Iterable[Key]) -> None:
        """Tell of the failures of these, also where nothing is attempted: the operator has given them up."""
        self._pausing.tell(claims)

    def forget(self, number: int) -> None:
        """Take note that the operator has removed an entry."""
        self._pausing.forget(number)

    def give_back(self, claims: Sequence[Key]) -> None:
        """Let go of what was claimed, and look for what is due of it."""
        self._leases.give_back(claims)
        for key in claims:
            if (work := self._leases.work_at(key)) is not None:
                work.has_more = True
            else:
                self._leave(key[1])  # the pass may have gone by meanwhile
        self._look()

    # What is in memory

    def _take_up(self, entry: Entry, lanes: dict[str, dict[int, Pending]], *, may_repeat: bool) -> None:
        now = self._clock.seconds()
        for lane, pending in lanes.items():
            key = (entry.number, lane)
            if not self._leases.is_free(key) or not (pending := self._pausing.of_these(lane, pending)):
                continue
            if self._lanes.pause_of(lane, now) is not None:
                self._leave_alone(lane, entry.number)
                continue
            if not self._lanes.has_room_for(lane, is_old=may_repeat):
                self._leave(lane)
                continue
            work = Work(entry, lane, pending, may_repeat)
            self._leases.take(work)
            self._lanes.add(work, now)

    def _let_go(self, work: Work) -> None:
        self._let_go_of(work)
        if not self._left:
            return
        if not self._lanes.works:
            self._look()
        elif any(map(self._lanes.is_low, self._left)):  # what has left memory was perhaps of another lane
            self._wake_in(LOOK_AGAIN_SECONDS)  # each look finds many, and costs accordingly

    def _let_go_of(self, work: Work) -> None:
        self._leases.let_go(work)
        self._lanes.forget(work)

    def _leave(self, lane: str) -> None:
        """Leave something on disk."""
        self._left.add(lane if len(self._left) < MAX_LEFT else ANY_LANE)

    def _pump(self) -> None:
        # An attempt may end before _begin returns, and calls this again: the loop that already runs goes on then.
        if self._is_pumping:
            return
        self._is_pumping = True
        begun = 0
        try:
            while self._is_on and (work := self._lanes.take(self._clock.seconds())):
                if work.is_withdrawn or self._pausing.of_these(work.lane, work.pending) != work.pending:
                    self._put_back(work)
                    continue
                if self._moves(work.entry, work.lane, work.pending):
                    self._leave(work.lane)  # it is loaded into the right ones
                    self._put_back(work)
                    self._wake_in(0.0)
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
        was_probe = self._lanes.put_back(work, self._clock.seconds())
        self._let_go(work)
        if work.has_more:
            self._wake_in(0.0)
        if was_probe and not self._pausing.is_paused(work.lane):
            self._run(self._wake_lane(work.lane, 1), f"spool: another probe of {work.lane}")

    def _begin(self, work: Work) -> None:
        work.has_begun = True
        self._ends[work] = self._clock.seconds() + self._lease_seconds
        running = self._run(self._attend(work), f"{work.entry.name}: attempt")
        if work in self._ends:
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
        for work, until in list(self._ends.items()):
            if until > now:
                break
            del self._ends[work]
            work.is_overdue = True
            if work.attempt is not None:
                work.attempt.cancel()
        if self._ends and self._is_on:
            self._sweep = self._clock.callLater(OVERDUE_EVERY_SECONDS, self._cancel_overdue)

    # One attempt

    async def _attend(self, work: Work) -> None:
        has_obeyed = False
        try:
            shown = None
            try:
                outcomes = await self._attempting.attempt(work)
                shown = ledger.shown_by(outcomes.values())
            finally:
                self._ends.pop(work, None)
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
        except Exception:  # we are being stopped, as a rule
            await self._obey_orders(work)  # who gave them has been told that they will be done
            raise
        finally:
            _call_afterwards(work)
            self._let_go(work)
            if has_obeyed or work.has_more:
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

    async def _settle(
        self, work: Work, outcomes: dict[int, Disposition], *, put_off_until: float | None = None, not_before: float = 0.0
    ) -> None:
        """Enter outcomes, and do what follows from them (`Settlement`)."""
        settled = await self._settlement.settle(work, outcomes, put_off_until=put_off_until, not_before=not_before)
        number, lane = work.entry.number, work.lane
        if settled.report is not None:
            self.accepted(settled.report)
        if not settled.is_reported:
            if self._pausing.is_paused(lane):
                self.report([(number, lane)])
        else:
            self._pausing.told(number, lane, is_finished=settled.is_finished)
        if settled.retry_at is not None:
            self._wake_in(settled.retry_at - self._clock.seconds())

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

    async def _wake_lane(self, lane: str, most: int | None = None, wake: type[WakeLane] = WakeLane) -> None:
        now, rows = self._clock.seconds(), most or FLUSH_ROWS
        try:
            while self._is_on:
                made = await self._database.do(wake(lane, now, rows))
                if made:
                    self._look()
                if most is not None or made < rows:
                    break
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
                others = list(dict.fromkeys(number for number, lane in done.others if self._leases.is_free((number, lane))))
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
        told: list[tuple[Work, Pause]] = []
        for entry, lanes in loaded.entries:
            for lane, pending in lanes.items():
                pause, key = self._lanes.pause_of(lane, now), (entry.number, lane)
                if not self._leases.is_free(key) or not (pending := self._pausing.of_these(lane, pending)):
                    continue
                if pause is None:  # the pass may have gone by meanwhile
                    self._leave(lane)
                    self._look()
                    continue
                # All of them are held from now on: what was loaded is true only as long as nobody else touches it.
                work = Work(entry, lane, pending, may_repeat=True)
                work.has_begun = True
                self._leases.take(work)
                told.append((work, pause))
        has_obeyed = False
        try:
            while told:
                work, pause = told[0]
                await self._tell(work, pause)
                has_obeyed |= await self._obey_orders(work) or work.has_more
                del told[0]
                self._leases.let_go(work)
        except Exception:  # as for an attempt
            for work, _ in told:
                await self._obey_orders(work)
            raise
        finally:
            for work, _ in told:
                self._leases.let_go(work)
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
        for _due_at, number, ordinal, lane in rows:
            work = (number, lane)
            if not self._leases.is_free(work):
                if (held := self._leases.work_at(work)) is not None and ordinal not in held.pending:
                    held.has_more = True
                continue
            if work in wanted or not self._pausing.wants(work):
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
        moves: list[Move] = []
        claims: list[Key] = []
        for entry, lanes in loaded.entries:
            for lane, pending in list(lanes.items()):
                key = (entry.number, lane)
                if self._leases.is_free(key) and (others := self._moves(entry, lane, pending)):
                    del lanes[lane]
                    moves += others
                    self._leases.claim(key)
                    claims.append(key)
            self._take_up(entry, lanes, may_repeat=True)
        if moves:
            self._run(self._change_lanes(moves, claims), "spool: changing lanes")

    def _moves(self, entry: Entry, lane: str, pending: Mapping[int, Pending]) -> list[Move]:
        """Return the moves into their right lanes of recipients whose way is another than when they came into this one."""
        recipients = entry.envelope.recipients
        right = (
            (ordinal, lane_of(each.rerouted(recipients[ordinal]), self.way_of))
            for ordinal, each in pending.items()
            if each.failure is None  # else nothing goes there any more, and it is told from wherever it is
        )
        return [(entry.number, ordinal, lane, now) for ordinal, now in right if now != lane]

    async def _change_lanes(self, moves: Sequence[Move], claims: Sequence[Key]) -> None:
        """Put recipients into the lanes in which they belong; they are taken up from there."""
        try:
            await self._database.do(Relane(moves))
        except CancelledError:
            raise
        except Exception:  # they are still due, and so they are met again
            events.unexpected("spool: recipients cannot be put into other lanes", Failure())
            self._leases.give_back(claims)
            self._wake_in(AGAIN_SECONDS)
        else:
            self.report((number, after) for number, _, before, after in moves if self._pausing.is_to_tell(number, before))
            self.give_back(claims)

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
