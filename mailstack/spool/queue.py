"""
The queue: the spool as the operator has it before him, for a server that runs.

Everything is asked for and done in small parts, by the one connection that there may be. What the operator changes is claimed
from the runner first; so what waits in memory is out of it before its rows change. An attempt that runs is never broken off,
since nobody knows how far it has come: it ends, and then the order is done with what it has left. Until then the order is in
memory only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mailstack import events
from mailstack.spool.content import ContentFolder
from mailstack.spool.database import Database
from mailstack.spool.failures import StorageError
from mailstack.spool.hands import Act, Done, Obey, Order, Pause
from mailstack.spool.identifiers import format_number
from mailstack.spool.leases import Key
from mailstack.spool.ports import Clock
from mailstack.spool.queries import FoundPage, Lanes, PausedDomains, Select, Show, Shown, Span
from mailstack.spool.reading import Part, Reading
from mailstack.spool.runner import Runner
from mailstack.spool.selection import Selection
from mailstack.spool.settlement import AGAIN_SECONDS
from mailstack.spool.straight import Straight
from mailstack.spool.sums import By, SumsPage, SumUp

MOST_PAUSED: Final = 1_000


class QueueError(Exception):
    """The operator wants what cannot be done; the message says why."""


Target = tuple[int, tuple[int, ...]]
"""An entry and recipients of it."""


@dataclass(frozen=True, slots=True)
class Obeyed:
    """
    How many recipients an order has changed, and for how many it is done when the attempt that runs has ended.

    Shape:   `entries` counts those in which something was changed; `refused` are those, by number, in which it was not, with
             the reason; `later` recipients are due only when their senders want it; `paused` are domains of which nothing is
             attempted, and how many of the recipients that are due wait for that; `untold` and `senderless` are as of Done.
    """

    entries: int
    recipients: int
    under_way: int
    refused: Mapping[int, str] = field(default_factory=dict)
    later: int = 0
    paused: Mapping[str, int] = field(default_factory=dict)
    untold: int = 0
    senderless: int = 0


class Queue:
    """Answers the operator, and does what he wants."""

    def __init__(
        self, *, database: Database, contents: ContentFolder, runner: Runner, clock: Clock, straight: Straight | None = None
    ) -> None:
        self._database = database
        self._contents = contents
        self._runner = runner
        self._clock = clock
        self._straight = straight
        self._reading = Reading(database, contents)
        self._lock = DeferredLock()  # one order at a time: two that claim the same would let go of each other's

    # To look

    async def find(self, selection: Selection, *, after: int, limit: int) -> FoundPage:
        """Return the next entries that are selected."""
        return await self._database.do(Select(selection, after, limit))

    async def show(self, number: int, *, after: int = -1) -> Shown | None:
        """Return what is known of an entry, with the recipients behind an ordinal."""
        return await self._database.do(Show(number, after))

    async def sum_up(self, selection: Selection, by: By, *, after: int) -> SumsPage:
        """Return sums over the next entries that are selected."""
        return await self._database.do(SumUp(selection, by, after, self._clock.seconds()))

    async def span(self) -> tuple[int, int] | None:
        """Return the first and the last number."""
        return await self._database.do(Span())

    async def read(self, number: int, *, after: int, what: str, by: str) -> Part | None:
        """
        Return octets of the content of an entry, after so many.

        Raises:  ReadingError.
        """
        return await self._reading.read(number, after=after, what=what, by=by)

    async def paused(self) -> dict[str, float]:
        """Return the domains that are paused, and since when."""
        return await self._database.do(PausedDomains())

    def place_of(self, number: int, lane: str, ordinal: int) -> str:
        """Say where a recipient is: in an "attempt", in "memory", or "" on disk."""
        work = self._runner.work_at((number, lane))
        if work is None or ordinal not in work.pending:
            return ""
        return "attempt" if work.has_begun else "memory"

    def orders_for(self, number: int, lane: str, ordinal: int) -> tuple[Act, ...]:
        """Return what is to be done with a recipient, one after the other, when the attempt that runs has ended."""
        work = self._runner.work_at((number, lane))
        orders = () if work is None else (each for each in work.orders if isinstance(each, _Later))
        return tuple(each.order.act for each in orders if ordinal in each.target[1] and not each.is_withdrawn)

    @property
    def attempts(self) -> int:
        """How many attempts run, those before the 250 too: who pauses a domain of ours waits for their end."""
        return self._runner.attempts + (self._straight.attempts if self._straight is not None else 0)

    # To do

    async def obey(self, order: Order, targets: Sequence[Target]) -> Obeyed:
        """Do what is ordered with recipients of entries, of which those that are not here are left out."""
        await self._lock.acquire()
        try:
            return await self._obey(order, {number: frozenset(ordinals) for number, ordinals in targets})
        finally:
            self._lock.release()

    async def _obey(self, order: Order, targets: dict[int, frozenset[int]], own: Key | None = None) -> Obeyed:
        """
        Do what is ordered.

        Shape:   `own` are recipients that a work which has ended still has, for us.
        """
        claims: list[Key] = []
        given: list[_Later] = []
        lanes: set[str] = set()
        free: dict[int, list[int]] = {}
        under_way = 0
        try:
            for number, lane, ordinals in await self._database.do(Lanes(tuple(targets))):
                key, wanted = (number, lane), [each for each in ordinals if each in targets[number]]
                if not wanted:
                    continue
                if order.act is Act.RETRY and self._is_under_way(key, wanted):
                    under_way += len(wanted)
                    continue
                work = self._runner.claim(key)
                claims.append(key)
                busy = [each for each in wanted if each in work.pending] if work is not None and key != own else []
                if order.act is Act.RELEASE:  # there is nothing to let go of but what is to be held by then
                    busy = [each for each in busy if will_be_held(self.orders_for(number, lane, each))]
                if work is not None and busy and order.act is not Act.RETRY:
                    given.append(_Later(self, order, (number, frozenset(busy)), key))
                    work.orders += (given[-1],)
                under_way += len(busy)
                if left := [each for each in wanted if each not in busy]:
                    free.setdefault(number, []).extend(left)
                    lanes.add(lane)
            wants = tuple((number, tuple(ordinals)) for number, ordinals in free.items())
            obey = Obey(order, wants, self._clock.seconds(), self._contents.path, self._runner.paused)
            came_to, paused = await self._database.do(obey)
            done = [each for each in came_to if each.ordinals]
            self._follow(order, done)
            if order.act is Act.BOUNCE:
                changed = {each.number for each in done}
                self._runner.report(claim for claim in claims if claim[0] in changed)
            if done and order.act in (Act.RETRY, Act.RELEASE, Act.REROUTE):
                # The operator may have mended what was in the way, or knows a way that can be used.
                self._runner.ask_again([*lanes, *self._runner.lanes_by_way(order.text)])
        except CancelledError:
            raise  # it may be done
        except Exception:  # all of it is done, or nothing
            for later in given:
                later.is_withdrawn = True
            raise
        finally:
            self._runner.give_back(claims)
        refused = {each.number: each.refused for each in came_to if each.refused}
        return Obeyed(
            len(done),
            sum(len(each.ordinals) for each in done),
            under_way,
            refused,
            later=sum(each.later for each in came_to),
            paused=paused,
            untold=sum(each.untold for each in done),
            senderless=sum(each.senderless for each in done),
        )

    def _is_under_way(self, key: Key, ordinals: Sequence[int]) -> bool:
        """Say whether all of these are in memory, and are tried anyway."""
        work = self._runner.work_at(key)
        return work is not None and work.pending.keys() >= set(ordinals)

    async def obey_later(self, later: _Later) -> None:
        """Do what was ordered with what an attempt has left, wherever that is now, and again and again while the disk fails."""
        what = f"{format_number(later.target[0])}: {later.order.act.value} by {later.order.by}"
        while not later.is_withdrawn:
            await self._lock.acquire()
            try:
                if not later.is_withdrawn:  # by the one who had the lock until now
                    await self._obey(later.order, dict([later.target]), later.own)
                return
            except CancelledError:
                raise
            except StorageError:  # others of the same may wait behind it, and must not come before it
                if self._runner.is_stopping:  # nobody waits for the disk then
                    events.unexpected(f"{what} was not done", Failure())
                    return
                events.unexpected(f"{what} cannot be done yet", Failure())
            except Exception:  # a bulkhead: the runner goes on
                events.unexpected(f"{what} was not done", Failure())
                return
            finally:
                self._lock.release()
            await deferLater(self._clock, AGAIN_SECONDS)  # type: ignore[arg-type]  # it needs callLater only

    def _follow(self, order: Order, done: Sequence[Done]) -> None:
        for each in done:
            name = format_number(each.number)
            events.entry_in_hands(name, order.act.value, len(each.ordinals), order.by)
            if each.is_removed:
                self._runner.forget(each.number)
                events.entry_finished(name)
            if each.is_removed and each.has_file:
                self._remove_file(name)

    def _remove_file(self, name: str) -> None:
        removed = self._contents.remove(self._contents.path / name)
        removed.addErrback(lambda failure: events.unexpected(f"{name}: content cannot be removed", failure))

    async def pause(self, domain: str, by: str = "") -> bool:
        """
        Attempt nothing more of a domain, or of ALL_DOMAINS, and return whether that is new.

        Raises:  QueueError: there are so many already.
        """
        if domain not in self._runner.paused and len(self._runner.paused) >= MOST_PAUSED:
            raise QueueError(f"no more than {MOST_PAUSED} domains can be paused")
        is_new, unreported = await self._database.do(Pause(domain, self._clock.seconds()))
        self._runner.pause([domain])
        self._runner.report(unreported)
        events.queue_paused(domain, by, is_paused=True)
        return is_new

    async def resume(self, domain: str, by: str = "") -> bool:
        """Attempt what waits for a domain again, and return whether that is new."""
        is_new, _ = await self._database.do(Pause(domain, None))
        self._runner.resume(domain)
        events.queue_paused(domain, by, is_paused=False)
        return is_new


def will_be_held(orders: Sequence[Act]) -> bool:
    """Say whether who has these orders before him is held in the end."""
    last = next((each for each in reversed(orders) if each in (Act.HOLD, Act.RELEASE)), None)
    return last is Act.HOLD


@dataclass(slots=True, eq=False)
class _Later:
    """An order that waits for the end of an attempt; `is_withdrawn`: the operator was told that it failed."""

    queue: Queue
    order: Order
    target: tuple[int, frozenset[int]]
    own: Key
    is_withdrawn: bool = False

    async def __call__(self) -> None:
        await self.queue.obey_later(self)
