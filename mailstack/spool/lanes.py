"""
Lanes: the work that is in memory, by destination, and whose turn it is. Pure.

A destination that is slow, or down, must not keep the mail of another waiting. What could be used up are places (attempts at
once, each a connection), memory, and turns:

    proven      it answered the last time. All places are open to it.
    unproven    nothing is known of it. A quarter of the places is not for these: however many destinations that nobody knows
                hang at the same time, those that have answered find places.
    troubled    it failed, or was slow, and has not answered since; also before we were started, as its mail on disk tells. An
                attempt there begins only while these and the unproven have less than half of the places: those that nobody
                knows find places.

Who is slow is seen by the time that an attempt takes: after SLOW_SECONDS its destination is troubled until it answers, and if
it has never answered nothing more is begun there. Until then it counts as what it was. So that this does no harm, an unproven
destination gets one place only, and not its window, as soon as an eighth of the places is in use. So those that hang for the
first time, all at once, have a place each and an eighth of all besides: with 500 places more than 300 of them may do so, and
nobody waits; if there are still more, those that have answered still do not. The window itself, what is done with a destination
that is down, and the rates are those of `concurrency`.

Of memory a lane may have half of what is free (and so there is always some for the next lane), never more than its own limit;
a troubled one gets no more when these together have a quarter. What finds no room waits on disk, where nothing of it is lost.
What is read back from there has a smaller share than what comes in, and both leave a part to local mail.

Lanes of which the mail goes to the same host, since the operator has named it as their way, together have no more places, and
no more memory, than one destination may have.

Turns: of all lanes with work and a free place the one with the most urgent work is next, and among equals who waits longest;
so it is also among those that wait for a place on the same way.
Within a lane, too, the urgent comes first (RFC 6710 §4.1), and else who came first. A lane that may not send more now, since
its rate is used up, waits outside of the turns until it may.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from mailstack.mail.disposition import Disposition, Standing
from mailstack.spool.concurrency import Bucket, Pauses, Rate, Window
from mailstack.spool.entry import LOCAL_LANE, Work, domain_of, way_of_lane
from mailstack.spool.waiting import Waiting

REMOTE_SHARE: Final = 0.75  # of memory; so slow hosts never keep local mail waiting on disk
OLD_SHARE: Final = 0.5  # of memory, for what is read back
TROUBLED_SHARE: Final = 0.25
LOW: Final = 0.8
TROUBLED_READY: Final = 2  # works of a troubled lane that wait in memory, for each place that it has
SLOW_SECONDS: Final = 5.0
REMEMBERED_LANES: Final = 20_000
MOST_LET_IN: Final = 16
"""So many lanes that wait for a way are looked at for one place on it: of very many each takes its time."""
ANY_DESTINATION: Final = "*"
"""The key of the rate for destinations that have none of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How much at once.

    Shape:   local deliveries have a limit of their own, larger since they are done in groups and wait for our disk only;
             `attempts_at_once` counts the others: one that waits costs 13 kB, its content, and a descriptor. `rates` are by
             domain, and ANY_DESTINATION.
    """

    attempts_at_once: int = 500
    initial_per_destination: int = 5
    per_destination: int = 20
    local_at_once: int = 200
    works: int = 2_000
    octets: int = 67_108_864
    works_per_destination: int = 400
    pauses: Pauses = field(default_factory=Pauses)
    rates: Mapping[str, Rate] = field(default_factory=dict)


class Kind(enum.Enum):
    """What is known of a destination."""

    PROVEN = "proven"
    UNPROVEN = "unproven"
    TROUBLED = "troubled"

    __hash__ = object.__hash__


_KINDS: Final = tuple(Kind)


class Turn(enum.Enum):
    """What an outcome has changed."""

    WENT_DOWN = "went down"
    CAME_UP = "came up"
    PROVED = "proved itself"
    """Its mail came from disk; whether it was taken to be down before we were started is not known."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Until when nothing more is attempted at a destination, and what the last attempt said."""

    until: float
    reason: Disposition


class _Way:
    """A way that several lanes share: their attempts and works together, and the lanes that wait for a place."""

    __slots__ = ("octets", "taken", "waiting", "works")

    def __init__(self) -> None:
        self.taken = 0
        self.works = 0
        self.octets = 0
        self.waiting: Waiting[_Lane] = Waiting()


class _Lane:
    __slots__ = (
        "bucket", "cohorts", "has_answered", "is_suspect", "is_throttled", "kind", "name", "octets", "probe", "ready", "reason",
        "slow", "taken", "turn", "until", "urgency", "way", "window", "works",
    )  # fmt: skip

    def __init__(self, name: str, kind: Kind, window: Window, bucket: Bucket | None, way: _Way | None) -> None:
        self.name = name
        self.kind = kind
        self.window = window
        self.bucket = bucket
        self.way = way
        self.ready: list[Work] = []  # a short list costs a tenth of the memory of a deque, and most are empty
        self.taken = 0
        self.works = 0  # in memory: ready, in an attempt, or until the outcome is recorded
        self.octets = 0
        self.slow = 0  # attempts that have taken longer than SLOW_SECONDS
        self.turn: int | None = None
        self.urgency = 0  # with which it waits for its turn
        self.is_throttled = False
        self.is_suspect = kind is Kind.TROUBLED
        self.has_answered = False
        self.reason: Disposition | None = None  # is set while the destination is taken to be down
        self.until = 0.0
        self.cohorts = 0
        self.probe: Work | None = None


class Lanes:
    """
    Works that are ready or in an attempt.

    Shape:   `chance` is a random number, 0 <= x < 1, for the length of pauses.
    """

    def __init__(self, limits: Limits, chance: Callable[[], float] = lambda: 0.5) -> None:
        self._limits = limits
        self._chance = chance
        self._lanes: dict[str, _Lane] = {}
        self._resting: dict[str, None] = {}  # lanes without work of which something is known; who rests longest first
        self._ways: dict[str, _Way] = {}  # the operator names them: they are few
        self._local = _Lane(LOCAL_LANE, Kind.PROVEN, Window(1, 1), None, None)
        self._turns: dict[Kind, list[tuple[int, int, _Lane]]] = {kind: [] for kind in Kind}
        self._buckets: WeakValueDictionary[str, Bucket] = WeakValueDictionary()  # by domain, while a lane has one
        self._last_turn = 0
        self._later: list[tuple[float, int, _Lane]] = []
        self._begun: dict[Work, float] = {}  # attempts that are not slow yet; oldest first
        self._taken = dict.fromkeys(Kind, 0)
        self._troubled_works = 0
        self.works = 0
        self.octets = 0

    def change(self, limits: Limits, now: float) -> None:
        """Let other limits count from now on; what is under way goes on."""
        self._limits = limits
        for lane in self._lanes.values():
            lane.window.limit(limits.per_destination)
            lane.bucket = self._bucket_for(lane.name)
        # Who waits for a rate is looked at in the next turn: it may be another now, or none.
        self._later = [(0.0, turn, lane) for _, turn, lane in sorted(self._later, key=lambda later: later[:2])]
        for way in self._ways.values():
            self._let_in(way, now)

    # Memory

    @property
    def has_room(self) -> bool:
        """Whether anything more may be put into memory."""
        return self.works < self._limits.works and self.octets < self._limits.octets

    def has_room_for(self, lane: str, works: int = 0, *, is_old: bool = False) -> bool:
        """Whether more for that lane may be put into memory, after so many other works of it; `is_old`: from disk."""
        return self._is_within(lane, 1.0, OLD_SHARE if is_old else REMOTE_SHARE, works)

    def is_low(self, lane: str) -> bool:
        """Whether it is time to look for more on disk."""
        return self._is_within(lane, LOW, OLD_SHARE)

    def _is_within(self, name: str, part: float, share: float, more: int = 0) -> bool:
        limits = self._limits
        if name == LOCAL_LANE:
            return self.works + more < limits.works * part and self.octets < limits.octets * part
        free = limits.works * share * part - self.works - more
        free_octets = limits.octets * share * part - self.octets
        if free <= 0 or free_octets <= 0:
            return False
        most = min(limits.works_per_destination * part, max(1, free // 2))
        lane = self._lanes.get(name)
        way = lane.way if lane is not None else self._ways.get(way_of_lane(name)) if self._ways else None
        if way is not None and (way.works - way.taken + more >= most or way.octets > free_octets):
            return False
        if lane is None:
            return more < most
        if lane.kind is Kind.TROUBLED:
            if self._troubled_works + more >= max(1, limits.works * TROUBLED_SHARE):
                return False
            if lane.reason is not None:
                return lane.works + more == 0
            most = min(most, TROUBLED_READY * lane.window.places(0.0))
        return len(lane.ready) + more < most and lane.octets <= free_octets

    def add(self, work: Work, now: float) -> None:
        """Take work into memory; of a lane whose pause is over it is the probe."""
        lane = self._lane_for(work)
        self.works += 1
        self.octets += work.octets
        lane.works += 1
        lane.octets += work.octets
        if lane.way is not None:
            lane.way.works += 1
            lane.way.octets += work.octets
        if lane.kind is Kind.TROUBLED:
            self._troubled_works += 1
        _put(lane.ready, work)
        if lane.reason is not None and lane.until <= now:
            self._presume_down(lane, now)
        if lane is not self._local:
            self._offer(lane, now)

    def forget(self, work: Work) -> None:
        """Let work go from memory."""
        self.works -= 1
        self.octets -= work.octets
        lane = self._local if work.lane == LOCAL_LANE else self._lanes[work.lane]
        lane.works -= 1
        lane.octets -= work.octets
        if lane.way is not None:
            lane.way.works -= 1
            lane.way.octets -= work.octets
        if lane.kind is Kind.TROUBLED:
            self._troubled_works -= 1
        if not lane.works and lane is not self._local:
            self._rest(lane)

    def _lane_for(self, work: Work) -> _Lane:
        name = work.lane
        if name == LOCAL_LANE:
            return self._local
        lane = self._lanes.get(name)
        is_doubtful = any(each.is_doubtful for each in work.pending.values())
        if lane is None:
            limits = self._limits
            kind = Kind.TROUBLED if is_doubtful else Kind.UNPROVEN
            window = Window(1 if is_doubtful else limits.initial_per_destination, limits.per_destination)
            lane = self._lanes[name] = _Lane(name, kind, window, self._bucket_for(name), self._way_for(name))
        else:
            self._resting.pop(name, None)
            lane.is_suspect = lane.is_suspect or is_doubtful  # more of it may wait on disk, put off before we were started
        return lane

    def _way_for(self, name: str) -> _Way | None:
        way = way_of_lane(name)
        return self._ways.setdefault(way, _Way()) if way else None

    def _bucket_for(self, name: str) -> Bucket | None:
        """Return what counts the messages of a domain, whichever way they go."""
        domain = domain_of(name)
        rate = self._limits.rates.get(domain) or self._limits.rates.get(ANY_DESTINATION)
        if rate is None:
            return None
        bucket = self._buckets.get(domain)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[domain] = Bucket(rate)
        return bucket

    def _rest(self, lane: _Lane) -> None:
        if lane.kind is Kind.UNPROVEN and lane.bucket is None:
            del self._lanes[lane.name]
            return
        self._resting[lane.name] = None
        if len(self._resting) > REMEMBERED_LANES:
            oldest = next(iter(self._resting))
            del self._resting[oldest], self._lanes[oldest]

    # Turns

    @property
    def wakes_at(self) -> float | None:
        """When the first of the lanes that wait for their rate may go on; None: there are none."""
        return self._later[0][0] if self._later else None

    def take(self, now: float) -> Work | None:
        """Return the next work to be attempted, if there is one and a place for it."""
        local = self._local
        if local.ready and local.taken < self._limits.local_at_once:
            local.taken += 1
            return local.ready.pop(0)
        while self._later and self._later[0][0] <= now:
            lane = heapq.heappop(self._later)[2]
            lane.is_throttled = False
            self._offer(lane, now)
        if not any(self._turns.values()):
            return None
        self._note_slow(now)
        while (next_lane := self._next_lane()) is not None:
            lane = next_lane
            work = self._take_from(lane, now)
            if lane.way is not None:  # there may be more places on it, or one that this lane has left
                self._let_in(lane.way, now)
            if work is not None:
                return work
        return None

    def _take_from(self, lane: _Lane, now: float) -> Work | None:
        if not lane.ready or lane.taken >= self._places(lane, now) or self._must_wait_for_way(lane):
            return None
        if lane.bucket is not None and (at := lane.bucket.ready_at(now)) > now:
            lane.is_throttled = True
            heapq.heappush(self._later, (at, self._new_turn(), lane))
            return None
        work = lane.ready.pop(0)
        lane.taken += 1
        if lane.way is not None:
            lane.way.taken += 1
        self._taken[lane.kind] += 1
        self._begun[work] = now
        if lane.bucket is not None:
            lane.bucket.take(now)
        if lane.reason is not None:
            lane.probe = work
        self._offer(lane, now)
        return work

    def _may_begin(self, kind: Kind) -> bool:
        """Say whether there is a place for lanes of a kind."""
        taken, most = self._taken, self._limits.attempts_at_once
        doubtful = taken[Kind.TROUBLED] + taken[Kind.UNPROVEN]
        if doubtful + taken[Kind.PROVEN] >= most:
            return False
        return kind is Kind.PROVEN or doubtful < most - most // (4 if kind is Kind.UNPROVEN else 2)

    def _next_lane(self) -> _Lane | None:
        found = None
        for kind in _KINDS:
            if self._turns[kind] and self._may_begin(kind) and (head := self._head(kind)) and (found is None or head < found):
                found = head
        if found is None:
            return None
        lane = found[2]
        heapq.heappop(self._turns[lane.kind])
        lane.turn = None
        return lane

    def _head(self, kind: Kind) -> tuple[int, int, _Lane] | None:
        turns = self._turns[kind]
        while turns and (turns[0][2].turn != turns[0][1] or turns[0][2].kind is not kind):
            heapq.heappop(turns)  # it had its turn, or waits among others
        return turns[0] if turns else None

    def _new_turn(self) -> int:
        self._last_turn += 1
        return self._last_turn

    def _offer(self, lane: _Lane, now: float) -> None:
        """Let a lane wait for its turn, if it has work and a place."""
        if not lane.ready or lane.is_throttled:
            return
        if lane.turn is None:
            if lane.taken >= self._places(lane, now) or self._must_wait_for_way(lane):
                return
            lane.turn = self._new_turn()
        elif lane.ready[0].priority <= lane.urgency:
            return
        self._wait(lane, lane.turn)

    def _wait(self, lane: _Lane, turn: int) -> None:
        lane.urgency = lane.ready[0].priority
        heapq.heappush(self._turns[lane.kind], (-lane.urgency, turn, lane))

    def _must_wait_for_way(self, lane: _Lane) -> bool:
        """Say whether the way of a lane that has work has no place left; then the lane waits for one."""
        way = lane.way
        if way is None or way.taken < self._limits.per_destination:
            return False
        way.waiting.put(lane, lane.ready[0].priority)
        return True

    def _places(self, lane: _Lane, now: float) -> int:
        if lane.reason is not None:
            return 1
        if lane.kind is Kind.UNPROVEN and 8 * sum(self._taken.values()) >= self._limits.attempts_at_once:
            return 1
        return lane.window.places(now)

    def _note_slow(self, now: float) -> None:
        while self._begun:
            work, since = next(iter(self._begun.items()))
            if now - since < SLOW_SECONDS:
                return
            del self._begun[work]
            lane = self._lanes[work.lane]
            lane.slow += 1
            if not lane.has_answered:
                lane.window.close()
            self._become(lane, Kind.TROUBLED)

    def _become(self, lane: _Lane, kind: Kind) -> None:
        if lane.kind is kind:
            return
        self._taken[lane.kind] -= lane.taken
        self._taken[kind] += lane.taken
        self._troubled_works += lane.works * ((kind is Kind.TROUBLED) - (lane.kind is Kind.TROUBLED))
        lane.kind = kind
        if lane.turn is not None and lane.ready:
            self._wait(lane, lane.turn)

    # Outcomes

    def free(self, work: Work, now: float, shown: Disposition | None = None) -> Turn | None:
        """Give back the place of an attempt that has ended; `shown` says what it has shown of the destination."""
        if work.lane == LOCAL_LANE:
            self._local.taken -= 1
            return None
        lane = self._lanes[work.lane]
        turn = self._learn(lane, work, shown, lane.taken, now) if shown is not None else None
        if lane.probe is work and lane.reason is not None and shown is None:
            self._come_up(lane)  # nothing speaks against the destination
            turn = Turn.CAME_UP
        self._vacate(lane, work, now)
        return turn

    def put_back(self, work: Work, now: float) -> bool:
        """Give back the place of work that is not attempted after all; say whether its destination needs another probe."""
        if work.lane == LOCAL_LANE:
            self._local.taken -= 1
            return False
        lane = self._lanes[work.lane]
        was_probe = lane.probe is work and lane.reason is not None
        if was_probe:
            lane.until = now
        if lane.bucket is not None:
            lane.bucket.give_back()
        self._vacate(lane, work, now)
        return was_probe

    def _vacate(self, lane: _Lane, work: Work, now: float) -> None:
        if self._begun.pop(work, None) is None:
            lane.slow -= 1
        if lane.probe is work:
            lane.probe = None
        lane.taken -= 1
        self._taken[lane.kind] -= 1
        if lane.way is not None:
            lane.way.taken -= 1
            self._let_in(lane.way, now)
        self._offer(lane, now)

    def _let_in(self, way: _Way, now: float) -> None:
        """Let who is next for a place on a way, and can have it now, wait for its turn."""
        let_in = 0
        while way.waiting and let_in < MOST_LET_IN and way.taken < self._limits.per_destination:
            first = way.waiting.pop()
            self._offer(first, now)
            if first.turn is not None and first.ready:
                let_in = MOST_LET_IN if self._may_begin(first.kind) else let_in + 1

    def _learn(self, lane: _Lane, work: Work, shown: Disposition, in_use: int, now: float) -> Turn | None:
        was_down = lane.reason is not None
        if shown.standing is Standing.UP:
            lane.window.succeeded(in_use, self._limits.initial_per_destination)
            self._come_up(lane)
            self._become(lane, Kind.TROUBLED if lane.slow else Kind.PROVEN)
            lane.has_answered = True
            was_suspect, lane.is_suspect = lane.is_suspect, False
            return Turn.CAME_UP if was_down else Turn.PROVED if was_suspect else None
        if was_down and lane.probe is not work:
            return None  # it was under way before
        if shown.wait_seconds:
            lane.until = now + shown.wait_seconds
        elif (lane.window.crowded(in_use, now) if shown.standing is Standing.CROWDED else lane.window.failed()) or was_down:
            lane.cohorts += 1
            lane.until = now + self._limits.pauses.seconds(lane.cohorts, self._chance())
        else:
            if shown.standing is Standing.DOWN:
                self._become(lane, Kind.TROUBLED)
            return None
        lane.reason = shown
        self._become(lane, Kind.TROUBLED)
        return Turn.WENT_DOWN

    def _come_up(self, lane: _Lane) -> None:
        lane.reason = None
        lane.cohorts = 0
        lane.until = 0.0

    # Destinations that are down

    def pause_of(self, name: str, now: float) -> Pause | None:
        """Say whether nothing more is to be attempted there now. None once the pause is over: the next work is the probe."""
        lane = self._lanes.get(name)
        if lane is None or lane.reason is None:
            return None
        if lane.until <= now:
            if not lane.works:
                return None
            self._presume_down(lane, now)
        return Pause(lane.until, lane.reason)

    def _presume_down(self, lane: _Lane, now: float) -> None:
        # As long as the probe has shown nothing, what else there is waits as if it had failed.
        lane.until = now + self._limits.pauses.seconds(lane.cohorts + 1, self._chance())

    def drain(self, name: str) -> list[Work]:
        """Return the works of a lane that wait for an attempt, and keep none; they are to be forgotten."""
        lane = self._lanes.get(name)
        if lane is None:
            return []
        drained = list(lane.ready)
        lane.ready.clear()
        return drained

    @property
    def names(self) -> Collection[str]:
        """The lanes of which something is known, but for the local one."""
        return self._lanes.keys()

    def forgive(self, names: Iterable[str]) -> list[str]:
        """Take these destinations not to be down, and return those that were."""
        lanes = (self._lanes.get(name) for name in names)
        down = [lane for lane in lanes if lane is not None and lane.reason is not None]
        for lane in down:
            self._come_up(lane)
        return [lane.name for lane in down]


def _put(ready: list[Work], work: Work) -> None:
    """Add work behind all of its priority, and before all that has less (RFC 6710 §4.1)."""
    if not ready or ready[-1].priority >= work.priority:
        ready.append(work)
        return
    place = next(place for place, each in enumerate(ready) if each.priority < work.priority)
    ready.insert(place, work)
