"""Lanes under any order of works, outcomes and time: what they count is so, and nothing is stuck."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from spool_house import NOW, disposition, envelope, remote

from mailstack.mail.disposition import Action, Disposition, Standing
from mailstack.mail.requests import Requests
from mailstack.spool.concurrency import Rate
from mailstack.spool.content import MemoryContent
from mailstack.spool.entry import LOCAL_LANE, Entry, Pending, Work, domain_of
from mailstack.spool.lanes import SLOW_SECONDS, Kind, Lanes, Limits
from mailstack.spool.waiting import MOST_LEFT_OVER, Waiting

HOST = "smtp:[relay.example]"
LANES = (
    LOCAL_LANE,
    "a.net",
    "b.net",
    "slow.net",
    f"a.net by {HOST}",
    f"d.net by {HOST}",
    f"slow.net by {HOST}",
    f"e.net via {HOST}",
)
LIMITS = Limits(attempts_at_once=9, initial_per_destination=3, per_destination=4, works=60, rates={"slow.net": Rate(1, 10.0)})
SHOWN: dict[str, Disposition | None] = {
    "up": replace(disposition(0, Action.RELAYED), standing=Standing.UP),
    "down": replace(disposition(0, Action.DELAYED), standing=Standing.DOWN),
    "remembered": replace(disposition(0, Action.DELAYED), standing=Standing.DOWN, wait_seconds=30.0),
    "crowded": replace(disposition(0, Action.DELAYED), standing=Standing.CROWDED),
    "nothing": None,
}


def work(lane: str, priority: int = 0, *, is_doubtful: bool = False) -> Work:
    about = replace(envelope(remote("bob@example.net")), requests=Requests(priority=priority))
    entry = Entry(number=1, envelope=about, content=MemoryContent(b"x" * 100), expires_at=NOW)
    return Work(entry, lane, {0: Pending(is_doubtful=is_doubtful)}, may_repeat=False)


class Room:
    """Lanes, with what is in them as whoever uses them knows it."""

    def __init__(self) -> None:
        self.lanes = Lanes(LIMITS)
        self.now = NOW
        self.ready: Counter[str] = Counter()
        self.running: list[Work] = []

    def add(self, lane: str, priority: int, *, is_doubtful: bool) -> None:
        if self.lanes.pause_of(lane, self.now) is None and self.lanes.has_room_for(lane):
            self.lanes.add(work(lane, priority, is_doubtful=is_doubtful), self.now)
            self.ready[lane] += 1
        self.take()

    def take(self) -> None:
        while (found := self.lanes.take(self.now)) is not None:
            self.ready[found.lane] -= 1
            self.running.append(found)

    def end(self, which: int, shown: Disposition | None) -> None:
        if which >= len(self.running):
            return
        ended = self.running.pop(which)
        self.lanes.free(ended, self.now, shown)
        if self.lanes.pause_of(ended.lane, self.now) is not None:
            for drained in self.lanes.drain(ended.lane):
                self.ready[ended.lane] -= 1
                self.lanes.forget(drained)
        self.lanes.forget(ended)
        self.take()

    def check(self) -> None:
        lanes = self.lanes
        there = [*lanes._lanes.values(), lanes._local]
        assert lanes.works == sum(each.works for each in there) == len(self.running) + sum(self.ready.values())
        assert lanes.octets == 100 * lanes.works
        remote_lanes = list(lanes._lanes.values())
        assert lanes._taken == {kind: sum(each.taken for each in remote_lanes if each.kind is kind) for kind in Kind}
        assert lanes._troubled_works == sum(each.works for each in remote_lanes if each.kind is Kind.TROUBLED)
        assert sum(lanes._taken.values()) <= LIMITS.attempts_at_once
        assert all(each.taken <= 4 for each in remote_lanes)
        by_way = sum(each.taken for each in remote_lanes if each.way is not None)
        assert by_way <= 4
        assert by_way == (lanes._ways[HOST].taken if HOST in lanes._ways else 0)
        works_by_way = sum(each.works for each in remote_lanes if each.way is not None)
        assert works_by_way == (lanes._ways[HOST].works if HOST in lanes._ways else 0)
        assert all(not each.works for each in remote_lanes if each.name in lanes._resting)
        for each in remote_lanes:  # no place is free that somebody waits for
            if each.ready and not each.taken and not each.is_throttled and lanes._may_begin(each.kind):
                assert each.way is not None
                assert each.way.taken == 4


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(LANES), st.integers(-1, 1), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 8), st.sampled_from(sorted(SHOWN)), st.none()),
        st.tuples(st.just("time"), st.sampled_from([1.0, SLOW_SECONDS, 40.0, 5_000.0]), st.none(), st.none()),
    ),
    max_size=80,
)


@given(STEPS)
def test_what_they_count_is_so_and_nothing_is_stuck(steps):
    room = Room()
    for what, first, second, third in steps:
        if what == "add":
            room.add(first, second, is_doubtful=third)
        elif what == "end":
            room.end(first, SHOWN[second])
        else:
            room.now += first
            room.take()
        room.check()
    for _ in range(200):
        room.now += 10.0
        room.take()
        while room.running:
            room.end(0, SHOWN["up"])
        room.check()
    assert room.lanes.works == 0


def test_lanes_of_one_way_share_its_places_in_turn():
    lanes = Lanes(Limits(attempts_at_once=500, initial_per_destination=3, per_destination=6))
    for number in range(60):
        lanes.add(work(f"{number % 20}.net by {HOST}"), NOW)
    running = []
    while (found := lanes.take(NOW)) is not None:
        running.append(found)
    assert len(running) == 6
    assert len({each.lane for each in running}) == 6
    seen = {each.lane for each in running}
    for _ in range(15):
        ended = running.pop(0)
        lanes.free(ended, NOW, SHOWN["up"])
        lanes.forget(ended)
        found = lanes.take(NOW)
        assert found is not None
        running.append(found)
        seen.add(found.lane)
        assert lanes.take(NOW) is None
    assert len(seen) == 20, "whoever waits longest is next"


def shared(way_limit: int, **more: Any) -> Lanes:
    return Lanes(Limits(per_destination=way_limit, initial_per_destination=way_limit, **more))


def two_of_a_way_full_with_three_waiting(lanes: Lanes) -> tuple[Work, Work]:
    """Fill a way, so that a.net, b.net and c.net wait for it; return the attempt of a.net and the work of b.net."""
    x, first, second, b, c = (work(f"{domain}.net by {HOST}") for domain in "xaabc")
    for each in (x, first, second):
        lanes.add(each, NOW)
    assert [lanes.take(NOW), lanes.take(NOW)] == [x, first]
    for each in (b, c):
        lanes.add(each, NOW)
    assert lanes.take(NOW) is None
    return first, b


def test_a_place_on_a_way_that_was_for_a_lane_that_went_down_is_the_next_ones():
    lanes = shared(2)
    first, b = two_of_a_way_full_with_three_waiting(lanes)
    lanes.free(first, NOW, SHOWN["remembered"])
    for each in (*lanes.drain(first.lane), first):
        lanes.forget(each)
    assert lanes.take(NOW) is b


def test_a_place_on_a_way_that_was_for_a_lane_whose_rate_is_used_up_is_the_next_ones():
    lanes = shared(2, rates={"a.net": Rate(1, 3_600.0)})
    first, b = two_of_a_way_full_with_three_waiting(lanes)
    lanes.free(first, NOW, SHOWN["up"])
    assert lanes.take(NOW) is b


def test_a_place_on_a_way_that_was_for_a_lane_for_which_there_is_no_other_place_is_the_next_ones():
    lanes = shared(1, attempts_at_once=6)
    for domain in ("a.net", "b.net"):
        known = work(f"{domain} by {HOST}")
        lanes.add(known, NOW)
        assert lanes.take(NOW) is known
        if domain == "a.net":
            lanes.free(known, NOW, SHOWN["up"])
            lanes.forget(known)
    lanes.free(known, NOW, SHOWN["up"])
    running, doubtful, waiting = work(f"b.net by {HOST}"), work(f"d.net by {HOST}", is_doubtful=True), work(f"a.net by {HOST}")
    lanes.add(running, NOW)
    lanes.forget(known)
    assert lanes.take(NOW) is running
    for each in (doubtful, waiting, *(work(f"{number}.net", is_doubtful=True) for number in range(3))):
        lanes.add(each, NOW)
    while lanes.take(NOW) is not None:
        pass
    lanes.free(running, NOW, SHOWN["up"])
    assert lanes.take(NOW) is waiting


def test_however_many_lanes_that_wait_for_a_way_have_lost_their_work_the_next_has_its_place():
    lanes = shared(2)
    first, b = two_of_a_way_full_with_three_waiting(lanes)
    lanes.free(first, NOW, SHOWN["remembered"])
    for each in (*lanes.drain(first.lane), first):
        lanes.forget(each)
    assert lanes.take(NOW) is b
    gone = [work(f"{number}.net by {HOST}") for number in range(40)]
    last = work(f"last.net by {HOST}")
    for each in (*gone, last):
        lanes.add(each, NOW)
    for each in gone:
        lanes.drain(each.lane)
        lanes.forget(each)
    lanes.free(b, NOW, SHOWN["up"])
    lanes.forget(b)
    (c,) = (each for each in iter(lambda: lanes.take(NOW), None) if each)
    lanes.free(c, NOW, SHOWN["up"])
    assert lanes.take(NOW) is last


def test_more_places_on_a_way_count_at_once():
    lanes = shared(1)
    for number in range(5):
        lanes.add(work(f"{number}.net by {HOST}"), NOW)
    assert lanes.take(NOW) is not None
    assert lanes.take(NOW) is None
    lanes.change(Limits(per_destination=4), NOW)
    assert len([each for each in iter(lambda: lanes.take(NOW), None) if each]) == 3


def test_the_lane_with_the_most_urgent_work_is_next():
    lanes = Lanes(Limits(attempts_at_once=8))
    for lane, priority in (("low.net", -3), ("plain.net", 0), ("other.net", 0), ("urgent.net", 5), ("low.net", 7)):
        lanes.add(work(lane, priority), NOW)
    taken = [lanes.take(NOW) for _ in range(4)]
    assert [each.lane for each in taken if each] == ["low.net", "urgent.net", "plain.net", "other.net"]


def test_so_it_is_among_those_that_wait_for_a_way():
    lanes = shared(1)
    first = work(f"first.net by {HOST}")
    lanes.add(first, NOW)
    assert lanes.take(NOW) is first
    for domain, priority in (("low", -3), ("plain", 0), ("other", 0), ("urgent", 5), ("low", 7), ("plain", -1)):
        lanes.add(work(f"{domain}.net by {HOST}", priority), NOW)
    assert lanes.take(NOW) is None
    order = []
    running: Work | None = first
    while running is not None:
        lanes.free(running, NOW, SHOWN["up"])
        lanes.forget(running)
        running = lanes.take(NOW)
        if running is not None:
            order.append((domain_of(running.lane), running.priority))
    assert order == [("low.net", 7), ("urgent.net", 5), ("plain.net", 0), ("other.net", 0), ("plain.net", -1), ("low.net", -3)]


def test_who_waits_behind_the_urgent_leaves_no_places_behind():
    waiting: Waiting[str] = Waiting()
    waiting.put("always urgent", 5)
    for _ in range(10 * MOST_LEFT_OVER):
        waiting.put("sometimes", 0)
        waiting.put("sometimes", 5)
        for _ in range(2):
            waiting.pop()
        waiting.put("always urgent", 5)
    assert len(waiting._heap) <= 2 + MOST_LEFT_OVER
    waiting.put("last", 0)
    waiting.put("first", 9)
    assert [waiting.pop() for _ in range(3)] == ["first", "always urgent", "last"]
    assert not waiting


def test_what_is_doubtful_leaves_places_to_others():
    lanes = Lanes(Limits(attempts_at_once=20))
    for number in range(40):
        lanes.add(work(f"{number}.doubtful", is_doubtful=True), NOW)
    begun = 0
    while lanes.take(NOW) is not None:
        begun += 1
    assert begun == 10
    lanes.add(work("new.net"), NOW)
    found = lanes.take(NOW)
    assert found is not None
    assert found.lane == "new.net"


def test_what_is_troubled_gets_no_more_than_a_quarter_of_the_memory():
    lanes = Lanes(Limits(works=100))
    for number in range(24):
        lanes.add(work(f"{number}.doubtful", is_doubtful=True), NOW)
    assert lanes.has_room_for("0.doubtful")
    lanes.add(work("0.doubtful", is_doubtful=True), NOW)
    assert not lanes.has_room_for("1.doubtful")
    assert lanes.has_room_for("new.net")
    assert lanes.has_room_for(LOCAL_LANE)


def test_lanes_without_work_are_remembered_within_a_bound(monkeypatch):
    monkeypatch.setattr("mailstack.spool.lanes.REMEMBERED_LANES", 10)
    lanes = Lanes(Limits())
    for number in range(50):
        lanes.add(work(f"{number}.net"), NOW)
        found = lanes.take(NOW)
        assert found is not None
        lanes.free(found, NOW, SHOWN["up"])
        lanes.forget(found)
    assert len(lanes._lanes) == 10
    lanes.add(work("49.net"), NOW)
    assert len(lanes._resting) == 9
