"""The place of a worker: who comes after one that died, and when."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailstack.console.control import ControlError
from mailstack.workers import seat as module
from mailstack.workers.desk import WorkerDesk
from mailstack.workers.seat import ANSWER_SECONDS, MOST_WAIT_SECONDS, START_SECONDS, YOUNG_SECONDS, Seat, wait_after


class FakeProcess:
    """A process that does what the test says."""

    made: list[FakeProcess] = []
    fails = False

    def __init__(self, owner: Seat, errand: object, clock: Clock) -> None:
        if FakeProcess.fails:
            raise OSError(11, "Resource temporarily unavailable")
        self.owner, self.errand = owner, errand
        self.pid = 100 + len(self.made)
        self.popen = self
        self.returncode = -9
        self.started_seconds = clock.seconds()
        self.sent: list[dict[str, Any]] = []
        self.killed: list[str] = []
        self.made.append(self)

    def adopt(self) -> None:
        """Nothing is to be read."""

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def kill(self, why: str) -> None:
        self.killed.append(why)

    def die(self) -> None:
        self.owner.ended(self)  # type: ignore[arg-type]  # as good as one


class FakeConditions:
    def tell(self) -> dict[str, Any]:
        return {"settings": 1}


class SeatTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(module, "Process", FakeProcess)
        self.patch(FakeProcess, "made", [])
        self.patch(FakeProcess, "fails", False)
        self.clock = Clock()
        self.forgotten: list[int] = []
        self.seat = Seat(3, self, self.clock)
        self.seat.start()

    def errand(self, worker: int) -> Any:
        return ("errand", worker)

    def forget_counts(self, worker: int) -> None:
        self.forgotten.append(worker)

    @property
    def made(self) -> list[FakeProcess]:
        return FakeProcess.made

    def next_after(self) -> float:
        """Say after how long the next process is started."""
        count, waited = len(self.made), 0.0
        while len(self.made) == count and waited < 100:
            self.clock.advance(0.5)
            waited += 0.5
        return waited

    def test_another_comes_at_once_and_what_the_dead_one_counted_is_forgotten(self) -> None:
        self.clock.advance(YOUNG_SECONDS)
        self.made[0].die()
        self.assertEqual([3], self.forgotten)
        self.clock.advance(0)
        self.assertEqual([("errand", 3)] * 2, [each.errand for each in self.made])

    def test_those_that_keep_dying_young_come_later_and_later_and_never_stop_to_come(self) -> None:
        waited = []
        for _ in range(10):
            self.made[-1].die()
            waited.append(self.next_after())
        self.assertEqual([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60], waited)

    def test_one_that_lived_makes_it_good(self) -> None:
        for _ in range(5):
            self.made[-1].die()
            self.next_after()
        self.clock.advance(YOUNG_SECONDS)
        self.made[-1].die()
        self.clock.advance(0)
        self.assertEqual(7, len(self.made))

    def test_one_that_does_not_become_ready_is_killed(self) -> None:
        self.made[0].die()
        self.clock.advance(0)
        late, count = self.made[1], len(self.made)
        self.clock.advance(START_SECONDS)
        self.assertEqual(1, len(late.killed))
        late.die()
        self.next_after()
        self.made[-1].owner.said(self.made[-1], {"ready": True})  # type: ignore[arg-type]  # as above
        self.assertEqual([{"serve": True}], self.made[-1].sent)
        self.made[-1].owner.said(self.made[-1], {"serving": True})  # type: ignore[arg-type]  # as above
        self.clock.advance(START_SECONDS)
        self.assertEqual([], self.made[-1].killed)
        self.assertEqual(count + 1, len(self.made))

    def test_when_none_can_be_started_it_is_tried_again(self) -> None:
        FakeProcess.fails = True
        self.made[0].die()
        self.clock.advance(0)
        FakeProcess.fails = False
        self.clock.advance(MOST_WAIT_SECONDS)
        self.assertEqual(2, len(self.made))

    def test_stop_waits_for_the_end_and_nobody_comes_after_it(self) -> None:
        over = self.seat.stop()
        self.assertEqual([{"stop": True}], self.made[0].sent)
        self.assertNoResult(over)
        self.seat.kill()
        self.assertEqual(1, len(self.made[0].killed))
        self.made[0].die()
        self.successResultOf(over)
        self.clock.advance(1_000)
        self.assertEqual(1, len(self.made))

    def test_stop_while_nobody_is_there(self) -> None:
        self.made[0].die()
        self.successResultOf(self.seat.stop())
        self.clock.advance(1_000)
        self.assertEqual(1, len(self.made))

    def change(self) -> Deferred[str]:
        return self.seat.change(FakeConditions())  # type: ignore[arg-type]  # as good

    def test_a_change_is_told_and_answered(self) -> None:
        changed = self.change()
        self.assertEqual([{"change": {"settings": 1}}], self.made[0].sent)
        self.assertNoResult(changed)
        self.seat.said(self.made[0], {"changed": "no such thing"})  # type: ignore[arg-type]  # as above
        self.assertEqual("no such thing", self.successResultOf(changed))
        self.seat.said(self.made[0], {"changed": ""})  # type: ignore[arg-type]  # as above

    def test_an_answer_is_to_the_change_to_which_it_was_given(self) -> None:
        first, second = self.change(), self.change()
        self.seat.said(self.made[0], {"changed": "the first is wrong"})  # type: ignore[arg-type]  # as above
        self.assertEqual("the first is wrong", self.successResultOf(first))
        self.assertNoResult(second)
        self.seat.said(self.made[0], {"changed": ""})  # type: ignore[arg-type]  # as above
        self.assertEqual("", self.successResultOf(second))

    def test_who_dies_needs_no_answer(self) -> None:
        first, second = self.change(), self.change()
        self.made[0].die()
        for each in (first, second, self.change()):
            self.assertEqual("", self.successResultOf(each))

    def test_what_the_operator_asks_goes_to_who_is_there_and_its_answer_back(self) -> None:
        [process] = self.made
        first, second = self.seat.ask({"ask": "one"}), self.seat.ask({"ask": "two"})
        assert process.sent == [{"asked": 1, "request": {"ask": "one"}}, {"asked": 2, "request": {"ask": "two"}}]
        self.seat.said(process, {"answered": 2, "answer": {"n": 2}})  # type: ignore[arg-type]  # as above
        self.seat.said(process, {"answered": 7, "answer": {}})  # type: ignore[arg-type]  # as above
        assert self.successResultOf(second) == {"n": 2}
        self.assertNoResult(first)

    def test_who_dies_over_a_question_answers_nothing(self) -> None:
        asked = self.seat.ask({"ask": "one"})
        self.made[0].die()
        assert self.successResultOf(asked) is None
        assert self.successResultOf(self.seat.ask({"ask": "one"})) is None, "nobody is there"

    def test_a_desk_says_that_nobody_is_there(self) -> None:
        desk = WorkerDesk(self.seat)
        asked = Deferred.fromCoroutine(desk.answer({"ask": "one"}))
        self.seat.said(self.made[0], {"answered": 1, "answer": {"error": "not so"}})  # type: ignore[arg-type]  # as above
        assert str(self.failureResultOf(asked, ControlError).value) == "not so"
        asked = Deferred.fromCoroutine(desk.answer({"ask": "one"}))
        self.made[0].die()
        assert "worker 3 is not there" in str(self.failureResultOf(asked, ControlError).value)

    def test_who_does_not_answer_is_not_waited_for(self) -> None:
        desk = WorkerDesk(self.seat)
        asked = Deferred.fromCoroutine(desk.answer({"ask": "one"}))
        self.clock.advance(ANSWER_SECONDS - 1)
        self.assertNoResult(asked)
        self.clock.advance(1)
        assert "worker 3 has not answered for 60 s" in str(self.failureResultOf(asked, ControlError).value)
        self.seat.said(self.made[0], {"answered": 1, "answer": {}})  # type: ignore[arg-type]  # as above
        asked = Deferred.fromCoroutine(desk.answer({"ask": "one"}))
        self.seat.said(self.made[0], {"answered": 2, "answer": {"n": 2}})  # type: ignore[arg-type]  # as above
        self.clock.advance(ANSWER_SECONDS)
        assert self.successResultOf(asked) == {"n": 2}


@pytest.mark.parametrize(("deaths", "seconds"), [(0, 0), (1, 0), (2, 1), (3, 2), (7, 32), (8, 60), (5_000, 60)])
def test_wait_after(deaths: int, seconds: float) -> None:
    assert wait_after(deaths) == seconds
