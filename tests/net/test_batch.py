"""The batch in a thread and the one without, by one contract."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from mailstack.net.batch import FIRED_AT_ONCE, GATHER_ITEMS, GATHER_SECONDS, BatchStopped, BatchThread, InlineBatch


class FakeReactor:
    """Collects calls from threads; the test runs them in its own thread."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.Queue()
        self.ran = 0

    def call_from_thread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.calls.put((function, arguments))

    def run_one(self) -> None:
        function, arguments = self.calls.get(timeout=10)
        self.ran += 1
        function(*arguments)

    def wait(self, *deferreds: Deferred[Any]) -> list[Any]:
        outcomes: list[Any] = [None] * len(deferreds)
        for number, deferred in enumerate(deferreds):

            def keep(outcome: Any, number: int = number) -> None:
                outcomes[number] = outcome.value if isinstance(outcome, Failure) else outcome

            deferred.addBoth(keep)
        while not all(each.called for each in deferreds):
            self.run_one()
        return outcomes


def double_or_complain(items: list[Any]) -> list[Any]:
    if "explode" in items:
        raise OSError("the whole batch")
    if "short" in items:
        return []
    return [ValueError(item) if isinstance(item, str) else item * 2 for item in items]


@pytest.fixture(params=[BatchThread, InlineBatch])
def house(request):
    reactor = FakeReactor()
    batch = request.param(double_or_complain, name="test", from_thread=reactor.call_from_thread)
    batch.start()
    yield reactor, batch
    reactor.wait(Deferred.fromCoroutine(batch.stop()))


class TestContract:
    def test_gives_each_item_its_own_outcome(self, house):
        reactor, batch = house
        one, bad, two = reactor.wait(batch.submit(1), batch.submit("no"), batch.submit(2))
        assert (one, two) == (2, 4)
        assert isinstance(bad, ValueError)

    def test_fails_all_when_the_batch_fails_and_goes_on(self, house):
        reactor, batch = house
        [error] = reactor.wait(batch.submit("explode"))
        assert isinstance(error, OSError)
        assert reactor.wait(batch.submit(4)) == [8]

    def test_a_wrong_number_of_outcomes_fails_all(self, house):
        reactor, batch = house
        [error] = reactor.wait(batch.submit("short"))
        assert isinstance(error, RuntimeError)

    def test_a_cancelled_item_is_still_done(self, house):
        reactor, batch = house
        waiting = batch.submit(1)
        waiting.cancel()
        [outcome] = reactor.wait(waiting)
        assert outcome in (2, None) or isinstance(outcome, CancelledError)
        assert reactor.wait(batch.submit(2)) == [4]

    def test_refuses_after_stop_which_may_be_repeated(self, house):
        reactor, batch = house
        reactor.wait(Deferred.fromCoroutine(batch.stop()))
        [error] = reactor.wait(batch.submit(1))
        assert isinstance(error, BatchStopped)
        reactor.wait(Deferred.fromCoroutine(batch.stop()))


class Gate:
    """A `run` that waits until the test lets it go, and notes what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.release()
        assert self.go.acquire(timeout=10)
        return items


class TestThread:
    def make(self, gate: Gate, max_items: int = 256) -> tuple[FakeReactor, BatchThread[int, int]]:
        reactor = FakeReactor()
        batch: BatchThread[int, int] = BatchThread(gate, name="gate", from_thread=reactor.call_from_thread, max_items=max_items)
        batch.start()
        return reactor, batch

    def finish(self, reactor: FakeReactor, batch: BatchThread[int, int], gate: Gate) -> None:
        for _ in range(100):
            gate.go.release()
        reactor.wait(Deferred.fromCoroutine(batch.stop()))

    def test_what_gathers_during_a_batch_is_the_next_one_and_costs_one_call(self):
        gate = Gate()
        reactor, batch = self.make(gate)
        waiting = [batch.submit(0)]
        assert gate.entered.acquire(timeout=10)
        waiting += [batch.submit(number) for number in (1, 2, 3)]
        assert len(batch) == 3
        gate.go.release()
        gate.go.release()
        assert reactor.wait(*waiting) == [0, 1, 2, 3]
        assert gate.batches == [[0], [1, 2, 3]]
        assert reactor.ran == 2
        self.finish(reactor, batch, gate)

    def test_a_batch_has_at_most_max_items(self):
        gate = Gate()
        reactor, batch = self.make(gate, max_items=2)
        waiting = [batch.submit(0)]
        assert gate.entered.acquire(timeout=10)
        waiting += [batch.submit(number) for number in (1, 2, 3)]
        for _ in range(3):
            gate.go.release()
        assert reactor.wait(*waiting) == [0, 1, 2, 3]
        assert gate.batches == [[0], [1, 2], [3]]
        self.finish(reactor, batch, gate)

    def test_the_outcomes_of_a_large_batch_come_some_in_each_turn_and_in_order(self):
        gate = Gate()
        reactor, batch = self.make(gate)
        came: list[int] = []
        waiting = [batch.submit(0)]
        assert gate.entered.acquire(timeout=10)
        waiting += [batch.submit(number) for number in range(1, 2 * FIRED_AT_ONCE + 2)]
        gate.go.release()
        assert gate.entered.acquire(timeout=10)
        waiting += [batch.submit(len(waiting))]
        for each in waiting:
            each.addCallback(came.append)
        gate.go.release()
        gate.go.release()
        turns = []
        while len(came) < len(waiting):
            before = len(came)
            reactor.run_one()
            turns.append(len(came) - before)
        assert came == list(range(len(waiting)))
        assert max(turns) == FIRED_AT_ONCE
        self.finish(reactor, batch, gate)

    def test_stop_does_what_waits_before_the_thread_ends(self):
        gate = Gate()
        reactor, batch = self.make(gate)
        first = batch.submit(0)
        assert gate.entered.acquire(timeout=10)
        second = batch.submit(1)
        stopping = Deferred.fromCoroutine(batch.stop())
        again = Deferred.fromCoroutine(batch.stop())
        assert not stopping.called
        gate.go.release()
        gate.go.release()
        assert reactor.wait(first, second, stopping, again) == [0, 1, None, None]
        assert "gate" not in [thread.name for thread in threading.enumerate()]

    def test_runs_in_its_own_named_thread(self):
        names: list[str] = []
        reactor = FakeReactor()

        def note(items: list[int]) -> list[int]:
            names.append(threading.current_thread().name)
            return items

        batch = BatchThread(note, name="the spool", from_thread=reactor.call_from_thread)
        batch.start()
        reactor.wait(batch.submit(1), Deferred.fromCoroutine(batch.stop()))
        assert names == ["the spool"]

    def test_stop_before_start_has_nothing_to_wait_for(self):
        batch = BatchThread(double_or_complain, name="never", from_thread=FakeReactor().call_from_thread)
        assert Deferred.fromCoroutine(batch.stop()).called

    def test_refuses_a_batch_of_nothing(self):
        with pytest.raises(ValueError, match="max_items"):
            BatchThread(double_or_complain, name="none", from_thread=print, max_items=0)


class TestInline:
    def test_is_done_before_submit_returns(self):
        assert InlineBatch(double_or_complain).submit(1).called

    def test_can_be_held_to_make_one_batch_of_several(self):
        batches: list[list[int]] = []

        def note(items: list[int]) -> list[int]:
            batches.append(items)
            return items

        batch = InlineBatch(note, max_items=2)
        batch.hold()
        waiting = [batch.submit(number) for number in range(3)]
        assert not any(each.called for each in waiting)
        assert len(batch) == 3
        batch.release()
        assert all(each.called for each in waiting)
        assert batches == [[0, 1], [2]]


class Idle:
    """Keeps what is to be called when there is nothing else to do, until the test says so."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []

    def __call__(self, function: Callable[[], None], within_seconds: float) -> None:
        assert within_seconds == GATHER_SECONDS
        self.asked.append(function)

    def comes(self) -> None:
        asked, self.asked = self.asked, []
        for function in asked:
            function()


class TestGathering:
    @pytest.fixture
    def house(self):
        reactor, idle, batches = FakeReactor(), Idle(), []

        def run(items: list[Any]) -> list[Any]:
            batches.append(items)
            return items

        batch: BatchThread[Any, Any] = BatchThread(run, name="test", from_thread=reactor.call_from_thread, gather=idle)
        yield reactor, batch, idle, batches
        reactor.wait(Deferred.fromCoroutine(batch.stop()))

    def test_a_batch_begins_when_there_is_nothing_else_to_do(self, house):
        reactor, batch, idle, batches = house
        batch.start()
        some = [batch.submit(number) for number in range(3)]
        assert len(idle.asked) == 1
        with pytest.raises(queue.Empty):
            reactor.calls.get(timeout=0.05)
        idle.comes()
        assert reactor.wait(*some) == [0, 1, 2]
        assert batches == [[0, 1, 2]]

    def test_enough_do_not_wait(self, house):
        reactor, batch, idle, batches = house
        batch.start()
        some = [batch.submit(number) for number in range(GATHER_ITEMS)]
        reactor.wait(*some)
        assert [len(items) for items in batches] == [GATHER_ITEMS]
        idle.comes()  # for those that have gone
        idle.comes()
        last = batch.submit("last")
        idle.comes()
        assert reactor.wait(last) == ["last"]

    def test_what_comes_during_a_batch_waits_in_its_turn(self):
        gate, idle, reactor = Gate(), Idle(), FakeReactor()
        batch: BatchThread[int, int] = BatchThread(gate, name="gate", from_thread=reactor.call_from_thread, gather=idle)
        batch.start()
        first = batch.submit(1)
        idle.comes()
        assert gate.entered.acquire(timeout=10)
        others = [batch.submit(2), batch.submit(3)]
        assert not idle.asked
        gate.go.release()
        assert reactor.wait(first) == [1]
        assert len(idle.asked) == 1
        gate.go.release()
        idle.comes()
        assert reactor.wait(*others) == [2, 3]
        assert gate.batches == [[1], [2, 3]]
        reactor.wait(Deferred.fromCoroutine(batch.stop()))

    def test_what_was_submitted_before_the_start(self, house):
        reactor, batch, idle, batches = house
        some = [batch.submit(number) for number in range(3)]
        idle.comes()
        batch.start()
        assert reactor.wait(*some) == [0, 1, 2]
        assert batches == [[0, 1, 2]]

    def test_a_stop_does_not_wait_for_it(self, house):
        reactor, batch, idle, batches = house
        batch.start()
        waits = batch.submit("waits")
        reactor.wait(Deferred.fromCoroutine(batch.stop()), waits)
        assert batches == [["waits"]]
        idle.comes()
