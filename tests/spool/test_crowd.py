"""Hundreds of destinations, of which half hang or are down: nobody else waits because of them."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from spool_house import NOW, House, disposition, envelope, local, remote
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailstack.mail.disposition import Action, Disposition, Standing
from mailstack.mail.envelope import Delivery
from mailstack.relay.by_transport import TransportCourier
from mailstack.relay.settings import RelaySettings
from mailstack.route.transport import TransportMap, parse_transport
from mailstack.spool.content import MemoryContent
from mailstack.spool.entry import Entry, Pending, Work
from mailstack.spool.lanes import Lanes, Limits

HANG_SECONDS = 300.0
UP = replace(disposition(0, Action.RELAYED), standing=Standing.UP)
DOWN = replace(disposition(0, Action.DELAYED, "The host did not answer in time"), standing=Standing.DOWN)


class TestLanesAlone:
    """The rules of places and turns, without a spool around them."""

    def waits(
        self, *, destinations: int, per_second: float, seconds: float, is_bad: Callable[[int, float], bool], **limits: Any
    ):
        """Return how long the works for good destinations waited for their place, and how many were attempted in all."""
        chances = random.Random(7)
        lanes = Lanes(Limits(**limits), chances.random)
        events: list[tuple[float, int, str, Work | None]] = []
        arrived: dict[Work, float] = {}
        waits: list[float] = []
        attempts = 0
        for number in range(int(per_second * seconds)):
            heapq.heappush(events, (NOW + number / per_second, number, "arrives", None))
        number = len(events)
        entry = Entry(number=1, envelope=envelope(), content=MemoryContent(b"x" * 20_000), expires_at=0.0)
        while events:
            now, _, what, work = heapq.heappop(events)
            if what == "arrives":
                which = chances.randrange(destinations)
                lane = f"{which}.example"
                is_good = not is_bad(which, now)
                if lanes.pause_of(lane, now) is None and lanes.has_room_for(lane):
                    fresh = Work(entry, lane, {0: Pending()}, may_repeat=False)
                    arrived[fresh] = now
                    lanes.add(fresh, now)
                else:
                    assert not is_good, "mail for a good destination has to wait on disk"
            elif work is not None:
                lanes.free(work, now, DOWN if is_bad(int(work.lane.split(".")[0]), now) else UP)
                if lanes.pause_of(work.lane, now) is not None:
                    for drained in lanes.drain(work.lane):
                        lanes.forget(drained)
                lanes.forget(work)
            while (work := lanes.take(now)) is not None:
                attempts += 1
                is_good = not is_bad(int(work.lane.split(".")[0]), now)
                if is_good:
                    waits.append(now - arrived[work])
                number += 1
                heapq.heappush(events, (now + (0.2 if is_good else HANG_SECONDS), number, "ends", work))
        assert lanes.works == 0
        return waits, attempts

    @pytest.mark.parametrize("per_second", [1, 20, 200])
    def test_half_of_all_destinations_hang(self, per_second):
        seconds = 3_600 if per_second < 100 else 400
        waits, _ = self.waits(
            destinations=600, per_second=per_second, seconds=seconds, is_bad=lambda number, now: number % 2 > 0
        )
        assert len(waits) > 1_000
        assert max(waits) < 1.0

    def test_half_of_all_begin_to_hang_that_have_answered_so_far(self):
        waits, _ = self.waits(
            destinations=600, per_second=50, seconds=1_200, is_bad=lambda number, now: number % 2 > 0 and now > NOW + 300
        )
        assert len(waits) > 10_000
        assert max(waits) < 1.0

    def test_those_that_hang_are_asked_ever_more_rarely(self):
        _, attempts = self.waits(destinations=100, per_second=10, seconds=7_200, is_bad=lambda number, now: True)
        assert attempts < 100 * (5 + 5 + 5)

    def test_more_hang_than_there_are_places_and_those_that_answered_before_find_one(self):
        bad_from = NOW + 600

        lanes = Lanes(Limits(attempts_at_once=100))
        entry = Entry(number=1, envelope=envelope(), content=MemoryContent(b"x"), expires_at=0.0)

        def begin(lane: str, now: float) -> Work | None:
            lanes.add(Work(entry, lane, {0: Pending()}, may_repeat=False), now)
            return lanes.take(now)

        for number in range(20):
            work = begin(f"{number}.good", NOW)
            assert work is not None
            lanes.free(work, NOW, UP)
            lanes.forget(work)
        begun = [begin(f"{number}.new", bad_from) for number in range(300)]
        assert sum(work is not None for work in begun) == 75
        for number in range(20):
            work = begin(f"{number}.good", bad_from + 60)
            assert work is not None, number
            assert work.lane == f"{number}.good"


class SlowCourier:
    """Answers after a time that is the destination's."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.begun: Counter[str] = Counter()
        self.waits: list[float] = []
        self.now_at: Counter[str] = Counter()
        self.most_at: Counter[str] = Counter()

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        clock = self.house.clock
        (recipient,) = delivery.recipients.values()
        domain = recipient.address.domain
        self.begun[domain] += 1
        self.now_at[domain] += 1
        self.most_at[domain] = max(self.most_at[domain], self.now_at[domain])
        is_good = domain.startswith("good")
        if is_good and delivery.attempt == 1:
            self.waits.append(clock.seconds() - delivery.envelope.accepted_at)
        done: Deferred[None] = Deferred()
        clock.callLater(0.2 if is_good else HANG_SECONDS, done.callback, None)
        await done
        self.now_at[domain] -= 1
        shown = UP if is_good else DOWN
        return [replace(shown, ordinal=ordinal) for ordinal in delivery.recipients]


def test_a_spool_with_hundreds_of_destinations_of_which_half_hang(tmp_path):
    house = House(tmp_path / "spool", limits=Limits(attempts_at_once=400))
    courier = SlowCourier(house)
    house.courier = courier
    house.open()
    chances = random.Random(3)
    names = [f"{kind}{number}.example" for number in range(150) for kind in ("good", "hangs")]
    for step in range(6_000):
        if step % 2 == 0:
            house.accept(remote(f"a@{chances.choice(names)}"))
        house.clock.advance(0.1)
    assert len(courier.waits) > 1_000
    assert max(courier.waits) < 1.0
    assert max(most for name, most in courier.most_at.items() if name.startswith("hangs")) <= 5
    house.clock.pump([0.2] * 10)
    rows = house.spool._database._connected().execute("SELECT DISTINCT lane FROM recipient").fetchall()
    assert all(lane.startswith("hangs") for (lane,) in rows)


class Immediate:
    """Delivers at once, and notes how long each message has waited for that."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.waits: list[float] = []

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        self.waits.append(self.clock.seconds() - delivery.envelope.accepted_at)
        return [disposition(ordinal, Action.DELIVERED) for ordinal in delivery.recipients]

    def head(self, reverse_path: object, recipient: object) -> bytes:
        return b""


class Hanging:
    """Takes a connection, and says nothing."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.attempts = 0

    async def attempt(self, delivery: Delivery, next_hop: object = None) -> list[Disposition]:
        self.attempts += 1
        done: Deferred[None] = Deferred()
        self.clock.callLater(HANG_SECONDS, done.callback, None)
        await done
        return [replace(DOWN, ordinal=ordinal) for ordinal in delivery.recipients]


def test_a_program_behind_a_transport_that_hangs_keeps_no_mail_for_maildirs_waiting(tmp_path):
    """Its accounts are ours, and all places for maildirs would be taken by them."""
    transports = TransportMap({"behind.example": parse_transport("lmtp:192.0.2.5:24")})
    couriers: list[TransportCourier] = []
    house = House(tmp_path / "spool", way_of=lambda recipient: couriers[0].way_of(recipient))
    ours, elsewhere = Immediate(house.clock), Hanging(house.clock)
    couriers.append(TransportCourier(ours, elsewhere, RelaySettings(), transports))
    house.courier = couriers[0]
    house.open()
    for number in range(800):
        house.accept(local(f"u{number}@behind.example"))
        if number % 2 == 0:
            house.accept(local("bob@example.org"))
        house.clock.advance(0.5)
    assert len(ours.waits) == 400
    assert max(ours.waits) < 1.0
    assert 1 <= elsewhere.attempts <= 10
