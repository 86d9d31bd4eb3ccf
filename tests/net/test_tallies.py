"""Tallies: events counted by name, over all workers, in memory that does not grow, whoever comes with how many names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.internet.task import Clock

from mailstack.net.shared_counts import KEY_OCTETS, SharedMemory
from mailstack.net.tallies import BUCKETS, WAYS, Tally

KEY = bytes(range(KEY_OCTETS))


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_000)
    return clock


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(workers=3, kinds=1, tallies=2, key=KEY)
    yield made
    made.close()


@pytest.fixture(params=["alone", "shared"])
def tally(request: pytest.FixtureRequest, memory: SharedMemory, clock: Clock) -> Iterator[Tally]:
    made = Tally.alone(KEY, clock.seconds) if request.param == "alone" else memory.tally(1, 1, clock.seconds)
    yield made
    made._memory.release() if request.param == "alone" else None


class TestContract:
    def test_each_name_has_its_count(self, tally: Tally) -> None:
        assert [tally.add("a", 60), tally.add("b", 60), tally.add("a", 60)] == [1, 1, 2]
        assert [tally.count(name, 60) for name in "abc"] == [2, 1, 0]

    def test_a_window_begins_with_the_first_and_ends(self, tally: Tally, clock: Clock) -> None:
        tally.add("a", 60)
        clock.advance(59)
        assert tally.add("a", 60) == 2
        clock.advance(1)
        assert tally.count("a", 60) == 0
        assert tally.add("a", 60) == 1
        clock.advance(59)
        assert tally.count("a", 60) == 1

    def test_a_name_is_forgotten_and_no_other(self, tally: Tally) -> None:
        for name in "aabbb":
            tally.add(name, 60)
        tally.forget("a")
        tally.forget("nobody")
        assert [tally.count(name, 60) for name in "ab"] == [0, 3]
        assert tally.add("a", 60) == 1

    def test_a_window_begins_anew_with_what_was_forgotten(self, tally: Tally, clock: Clock) -> None:
        tally.add("a", 60)
        clock.advance(59)
        tally.forget("a")
        tally.add("a", 60)
        clock.advance(59)
        assert tally.count("a", 60) == 1

    def test_many_names_do_not_push_out_who_has_counted_up(self, tally: Tally) -> None:
        names = [f"often {number}" for number in range(20)]
        for name in names * 3:
            tally.add(name, 600)
        for number in range(BUCKETS * WAYS * 2):
            tally.add(f"once {number}", 600)
        assert [tally.count(name, 600) for name in names] == [3] * 20

    def test_who_is_pushed_out_is_the_one_with_the_lowest_count_and_then_the_oldest(self, clock: Clock) -> None:
        tally = Tally.alone(KEY, clock.seconds)
        bucket = tally._place("0")[1]
        names = [name for name in map(str, range(BUCKETS * 100)) if tally._place(name)[1] == bucket][: WAYS + 2]
        for name in names[:WAYS]:
            clock.advance(1)
            tally.add(name, 600)
        tally.add(names[0], 600)
        for name in names[WAYS:]:
            tally.add(name, 600)
        assert [tally.count(name, 600) for name in names] == [2, 0, 0, *[1] * (WAYS - 1)]


class TestSharedTally:
    def test_it_is_that_of_all_workers_together(self, memory: SharedMemory, clock: Clock) -> None:
        each = [memory.tally(worker, 0, clock.seconds) for worker in range(3)]
        assert [each[n % 3].add("a", 60) for n in range(6)] == [1, 2, 3, 4, 5, 6]
        assert [one.count("a", 60) for one in each] == [6, 6, 6]
        assert memory.tally(0, 1, clock.seconds).count("a", 60) == 0, "another tally"

    def test_what_one_forgets_none_knows(self, memory: SharedMemory, clock: Clock) -> None:
        each = [memory.tally(worker, 0, clock.seconds) for worker in range(3)]
        for number in range(6):
            each[number % 3].add("a", 60)
            each[number % 3].add("b", 60)
        each[1].forget("a")
        assert [one.count("a", 60) for one in each] == [0, 0, 0]
        assert [one.count("b", 60) for one in each] == [6, 6, 6]
        assert each[2].add("a", 60) == 1

    def test_it_outlives_the_worker_and_sessions_do_not(self, memory: SharedMemory, clock: Clock) -> None:
        memory.tally(1, 0, clock.seconds).add("a", 60)
        assert memory.counts(1, 0).admit({"a": 1}, most=9) is None
        memory.clear(1)
        assert memory.tally(0, 0, clock.seconds).count("a", 60) == 1
        assert memory.counts(0, 0).admit({"a": 1}, most=9) is None

    def test_counts_and_tallies_do_not_overlap(self, memory: SharedMemory, clock: Clock) -> None:
        tallies = [memory.tally(worker, number, clock.seconds) for worker in range(3) for number in range(2)]
        for worker in range(3):
            for number in range(300):
                assert memory.counts(worker, 0).admit({f"peer {number}": 9}, most=10_000) is None
        names = [f"name {number}" for number in range(300)]
        assert not any(tally.count(name, 600) for tally in tallies for name in names)
        for name in names:
            tallies[0].add(name, 600)
        for worker in range(3):
            for number in range(300):
                memory.counts(worker, 0).leave([f"peer {number}"])
        assert all(tallies[4].count(name, 600) == 1 for name in names)


def test_a_key_changes_who_shares_a_bucket(clock: Clock) -> None:
    place: list[Callable[[str], tuple[int, int]]] = [Tally.alone(bytes([n]) * 32, clock.seconds)._place for n in (1, 2)]
    assert place[0]("a") == place[0]("a") != place[1]("a")
