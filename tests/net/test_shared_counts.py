"""Counts of sessions: those of one process, and those of several in shared memory, which keep the same promises."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mailstack.net.shared_counts import KEY_OCTETS, MARGIN, SharedMemory
from mailstack.sessions import Counts, OwnCounts

KEY = bytes(range(KEY_OCTETS))


def admit(counts: Counts, peer: str, *, most: int, most_per_peer: int) -> bool:
    return counts.admit({peer: most_per_peer} if peer else {}, most=most) is None


def leave(counts: Counts, peer: str) -> None:
    counts.leave([peer] if peer else [])


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(workers=3, kinds=2, key=KEY)
    yield made
    made.close()


@pytest.fixture(params=["own", "shared"])
def counts(request: pytest.FixtureRequest, memory: SharedMemory) -> Counts:
    return OwnCounts() if request.param == "own" else memory.counts(1, 1)


class TestContract:
    def test_a_peer_has_a_cap(self, counts: Counts) -> None:
        assert [admit(counts, "192.0.2.1", most=9, most_per_peer=2) for _ in range(4)] == [True, True, False, False]
        assert admit(counts, "192.0.2.2", most=9, most_per_peer=2)
        leave(counts, "192.0.2.1")
        assert [admit(counts, "192.0.2.1", most=9, most_per_peer=2) for _ in range(2)] == [True, False]

    def test_all_have_a_cap(self, counts: Counts) -> None:
        assert [admit(counts, f"192.0.2.{n}", most=3, most_per_peer=9) for n in range(5)] == [True, True, True, False, False]
        leave(counts, "192.0.2.1")
        assert [admit(counts, "192.0.2.9", most=3, most_per_peer=9) for _ in range(2)] == [True, False]

    def test_who_has_no_address_has_only_that_of_all(self, counts: Counts) -> None:
        assert [admit(counts, "", most=3, most_per_peer=1) for _ in range(4)] == [True, True, True, False]
        leave(counts, "")
        assert admit(counts, "", most=3, most_per_peer=1)

    def test_the_name_that_is_full_is_said_and_then_none_is_counted(self, counts: Counts) -> None:
        caps = {"peer": 2, "network": 3}
        assert [counts.admit(caps, most=9) for _ in range(3)] == [None, None, "peer"]
        assert [counts.admit({"other": 2, "network": 3}, most=9) for _ in range(2)] == [None, "network"]
        assert counts.admit({"third": 1, "fourth": 1}, most=3) == ""
        counts.leave(["peer", "network"])
        assert [counts.admit({"other": 2, "network": 3}, most=3) for _ in range(2)] == [None, ""]

    def test_against_a_plain_count(self, counts: Counts) -> None:
        chance = random.Random(7)
        peers, inside = [f"192.0.2.{n}" for n in range(6)], list[str]()
        for _ in range(2_000):
            if inside and chance.random() < 0.48:
                leave(counts, inside.pop(chance.randrange(len(inside))))
                continue
            peer = chance.choice(peers)
            admitted = admit(counts, peer, most=12, most_per_peer=4)
            assert admitted == (len(inside) < 12 and inside.count(peer) < 4)
            if admitted:
                inside.append(peer)


class TestSharedCounts:
    def test_a_cap_is_that_of_all_workers_together(self, memory: SharedMemory) -> None:
        each = [memory.counts(worker, 0) for worker in range(3)]
        assert [admit(each[n % 3], "192.0.2.1", most=99, most_per_peer=4) for n in range(6)] == [True] * 4 + [False] * 2
        assert [admit(each[n % 3], f"192.0.2.{n + 2}", most=6, most_per_peer=4) for n in range(4)] == [True] * 2 + [False] * 2
        leave(each[0], "192.0.2.1")
        assert admit(each[2], "192.0.2.1", most=6, most_per_peer=4)

    def test_listeners_do_not_count_together(self, memory: SharedMemory) -> None:
        assert admit(memory.counts(0, 0), "192.0.2.1", most=1, most_per_peer=1)
        assert admit(memory.counts(0, 1), "192.0.2.1", most=1, most_per_peer=1)
        assert not admit(memory.counts(1, 0), "192.0.2.1", most=9, most_per_peer=1)

    def test_what_a_worker_counted_goes_with_it_and_nothing_else(self, memory: SharedMemory) -> None:
        zero, one = memory.counts(0, 1), memory.counts(1, 1)
        memory.set_serving(1, True)
        for _ in range(2):
            assert admit(zero, "192.0.2.1", most=9, most_per_peer=9)
            assert admit(one, "192.0.2.1", most=9, most_per_peer=9)
        memory.clear(1)
        assert [admit(zero, "192.0.2.1", most=4, most_per_peer=4) for _ in range(3)] == [True, True, False]
        assert not zero.has_many_more_than_another(), "it does not serve any more"

    def test_who_has_more_than_one_who_serves_knows_it(self, memory: SharedMemory) -> None:
        each = [memory.counts(worker, 0) for worker in range(3)]
        memory.set_serving(0, True)
        memory.set_serving(1, True)

        def add(worker: int, sessions: int) -> list[bool]:
            for _ in range(sessions):
                assert admit(each[worker], "192.0.2.1", most=99, most_per_peer=99)
            return [counts.has_many_more_than_another() for counts in each]

        assert add(0, MARGIN) == [False, False, False]
        assert add(0, 1) == [True, False, False]
        assert add(1, 1) == [False, False, False]
        assert add(1, MARGIN) == [False, False, False], "the third has none, but does not serve"
        memory.set_serving(2, True)
        assert add(2, 0) == [True, True, False]

    def test_another_process_sees_it(self, memory: SharedMemory) -> None:
        assert admit(memory.counts(0, 0), "192.0.2.1", most=9, most_per_peer=1)
        program = (
            "import sys; from mailstack.net.shared_counts import SharedMemory\n"
            f"counts = SharedMemory({memory.descriptor}, workers=3, kinds=2, key={KEY!r}).counts(2, 0)\n"
            "print([counts.admit({name: 1}, most=9) is None for name in ('192.0.2.1', '192.0.2.2')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], pass_fds=[memory.descriptor], capture_output=True, text=True, check=True
        )
        assert done.stdout == "[False, True]\n"
        assert not admit(memory.counts(0, 0), "192.0.2.2", most=9, most_per_peer=1)

    def test_it_counts_too_much_for_hardly_anybody_at_ten_thousand_connections(self) -> None:
        """Of 10,000 peers with a connection each, over four workers: how many are taken for two, or for three."""
        memory = SharedMemory.create(workers=4, kinds=1, key=os.urandom(KEY_OCTETS))
        each = [memory.counts(worker, 0) for worker in range(4)]
        peers = [f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(20_000)]
        for n, peer in enumerate(peers[:10_000]):
            assert admit(each[n % 4], peer, most=20_000, most_per_peer=50)
        refused = {1: 0, 2: 0}
        for cap in refused:
            for n, peer in enumerate(peers[10_000:]):
                if admit(each[n % 4], peer, most=20_000, most_per_peer=cap):
                    leave(each[n % 4], peer)
                else:
                    refused[cap] += 1
        # Expected: (1 - e^(-10000/32768))^4 = 0.0048 of them meet a count of one or more that is not theirs.
        assert refused[1] <= 120, "in fact 48 of 10,000"
        assert refused[2] <= 5
        memory.close()

    def test_a_key_changes_who_collides(self) -> None:
        places = [SharedMemory.create(workers=1, kinds=1, key=bytes([n]) * KEY_OCTETS) for n in (1, 2)]
        one, two = (memory.counts(0, 0) for memory in places)
        assert one._places("192.0.2.1") != two._places("192.0.2.1")
        assert one._places("192.0.2.1") == one._places("192.0.2.1")
        for memory in places:
            memory.close()
