"""Destinations that are down, crowded, or may have so many messages only: what is attempted, and what waits on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from spool_house import NOW, House, all_are, disposition, envelope, local, now, remote

from mailstack.mail.disposition import Action, Standing
from mailstack.mail.requests import DeliverBy, Notify, Requests
from mailstack.mail.status import EnhancedStatus
from mailstack.spool import moves, operations
from mailstack.spool.backoff import Schedule
from mailstack.spool.concurrency import Rate
from mailstack.spool.database import connect
from mailstack.spool.hands import Act, Order
from mailstack.spool.identifiers import format_number, parse_name
from mailstack.spool.lanes import Limits
from mailstack.spool.selection import Selection

WHY = "No connection to mx.down.net"
DOWN = replace(
    disposition(0, Action.DELAYED, WHY), standing=Standing.DOWN, status=EnhancedStatus(4, 4, 1), remote_mta="mx.down.net"
)
UP = replace(disposition(0, Action.RELAYED), standing=Standing.UP)
GREYLISTED = replace(disposition(0, Action.DELAYED, "450 4.2.0 come back"), standing=Standing.UP)
CROWDED = replace(disposition(0, Action.DELAYED, "421 4.7.0 too many connections"), standing=Standing.CROWDED)
HOUR = 3_600


def says(outcome):
    return lambda delivery: [replace(outcome, ordinal=ordinal) for ordinal in delivery.recipients]


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "spool").open()
    house.courier.answer = lambda delivery: says(DOWN if "down" in domain_of(delivery) else UP)(delivery)
    return house


def names(logged) -> list[str]:
    return [each["event"] for each in logged if "event" in each]


def domain_of(delivery) -> str:
    return next(iter(delivery.recipients.values())).address.domain


def attempts(house) -> Counter[str]:
    """Return how often each domain was asked, and begin to count anew."""
    found = Counter(domain_of(delivery) for delivery in house.courier.deliveries)
    house.courier.deliveries.clear()
    return found


def rows(house, lane="down.net"):
    return (
        house.spool._database._connected()
        .execute("SELECT due_at, state, attempts, status, diagnostic FROM recipient WHERE lane = ? ORDER BY entry", (lane,))
        .fetchall()
    )


def take_down(house, messages=0):
    """Let a destination fail a whole window, and then accept more for it."""
    for _ in range(5 + messages):
        house.accept(remote("a@down.net"))


class TestDown:
    def test_after_a_cohort_of_failures_nothing_more_is_attempted(self, house, logged):
        take_down(house, messages=20)
        assert attempts(house) == {"down.net": 5}
        assert names(logged).count("destination_down") == 1
        [(later, number)] = Counter(due_at for due_at, *_ in rows(house)[5:]).items()
        assert (number, later > NOW + 300) == (20, True)
        assert min(due_at for due_at, *_ in rows(house)) == NOW + 300

    def test_one_of_those_that_wait_is_due_when_it_is_to_be_asked_again(self, house):
        house.courier.answer = says(replace(DOWN, wait_seconds=100.0))
        take_down(house)
        house.courier.answer = says(DOWN)
        house.clock.advance(50)
        take_down(house, messages=20)
        assert sorted(Counter(due_at - NOW for due_at, *_ in rows(house)).items()) == [(100, 1), (1_900, 29)]

    def test_the_reason_that_is_shown_is_that_of_the_last_attempt(self, house):
        take_down(house, messages=1)
        _, state, _, status, diagnostic = rows(house)[-1]
        assert (state, status, diagnostic) == ("waiting", "4.4.1", f"{operations.PUT_OFF}{WHY}")

    def test_who_was_put_off_was_not_attempted_whatever_the_operator_did(self, house):
        take_down(house, messages=1)
        number = now(house.spool.queue.find(Selection(), after=0, limit=100)).found[-1].number
        for acts, state in (([], "new"), ([Act.HOLD], "held")):
            for act in acts:
                now(house.spool.queue.obey(Order(act=act, by="root"), [(number, (0,))]))
            (row,) = now(house.spool.queue.show(number)).found.rows
            assert (row.attempts, row.shown(is_corrupt=False)) == (0, state)
        house.courier.answer = all_are(Action.RELAYED)
        now(house.spool.queue.obey(Order(act=Act.RELEASE, by="root"), [(number, (0,))]))
        assert [each.attempt for each in house.courier.deliveries if each.entry == format_number(number)] == [1]

    def test_a_probe_that_takes_too_long_does_not_show_that_it_is_up(self, house, logged):
        take_down(house, messages=20)
        house.courier.answer = None
        house.clock.pump([60] * 6)
        assert len(house.courier.waiting) == 1
        house.clock.pump([60] * 61)
        assert "destination_up" not in names(logged)
        assert len(house.courier.waiting) <= 1

    def test_others_do_not_wait(self, house):
        take_down(house, messages=100)
        house.accept(remote("b@good.net"), local("c@x.org"))
        assert attempts(house) == {"down.net": 5, "good.net": 1, "x.org": 1}

    @pytest.mark.parametrize("action", [Action.FAILED, Action.DISCARDED])
    def test_what_is_over_for_one_message_says_nothing_of_others(self, house, action):
        """They would have the same outcome, without an attempt."""
        house.courier.answer = says(replace(DOWN, action=action))
        take_down(house, messages=3)
        assert attempts(house)["down.net"] == 8

    def test_one_message_asks_and_each_pause_is_longer(self, house):
        take_down(house, messages=50)
        attempts(house)
        for pause in (300, 600, 1_200, 2_400, HOUR, HOUR):
            house.clock.advance(pause - 1)
            assert attempts(house) == {}, pause
            house.clock.advance(1)
            assert attempts(house) == {"down.net": 1}, pause

    def test_the_probe_is_not_always_the_same(self, house):
        take_down(house, messages=10)
        house.courier.deliveries.clear()
        house.clock.pump([60] * 120)
        assert len({delivery.entry for delivery in house.courier.deliveries}) > 2

    def test_when_it_answers_all_are_attempted_at_once(self, house, logged):
        take_down(house, messages=300)
        house.clock.advance(299)
        house.courier.answer = says(UP)
        house.courier.deliveries.clear()
        house.clock.pump([1] + [0.05] * 100)
        assert attempts(house) == {"down.net": 305}
        assert house.counts().entries == 0
        assert names(logged).count("destination_up") == 1

    def test_a_refusal_is_an_answer(self, house):
        take_down(house, messages=3)
        house.courier.answer = says(replace(UP, action=Action.FAILED, status=EnhancedStatus(5, 1, 1)))
        house.clock.pump([300] + [0.05] * 10)
        assert house.counts().waiting_recipients == 0

    def test_what_waits_for_its_own_sake_is_not_woken(self, house):
        house.courier.answer = says(GREYLISTED)
        house.accept(remote("a@down.net"))
        house.courier.answer = says(DOWN)
        house.clock.advance(250)
        take_down(house, messages=5)
        house.courier.answer = says(GREYLISTED)
        house.clock.pump([50, 0.05, 0.05])
        greylisted_until = house.clock.seconds() + 598
        assert rows(house)[0][0] > greylisted_until

    def test_what_is_under_way_when_it_goes_down_may_show_that_it_is_up(self, house):
        house.courier.answer = None
        for _ in range(5):
            house.accept(remote("a@down.net"))
        first, waiting = house.courier.waiting.pop(0)
        waiting.callback(says(replace(DOWN, wait_seconds=60.0))(first))
        house.accept(remote("b@down.net"))
        assert len(house.courier.waiting) == 4
        house.courier.answer = says(UP)
        second, waiting = house.courier.waiting.pop(0)
        waiting.callback(says(UP)(second))
        house.clock.pump([0.05] * 3)
        assert "b" in {str(each.address)[0] for delivery in house.courier.deliveries for each in delivery.recipients.values()}

    def test_a_probe_of_which_nothing_is_learned(self, house):
        take_down(house, messages=10)

        def explode(delivery):
            raise ZeroDivisionError

        house.courier.answer = explode
        attempts(house)
        house.clock.advance(300)
        assert 1 <= attempts(house)["down.net"] <= 16
        house.courier.answer = says(UP)
        house.clock.pump([600] * 12)
        assert house.counts().entries == 0

    @pytest.fixture
    def with_probe_in_memory(self, tmp_path):
        """A destination that is down, and the next to ask it, which waits for the only place that there is."""
        house = House(tmp_path / "spool", limits=Limits(attempts_at_once=1)).open()
        house.courier.answer = says(DOWN)
        take_down(house, messages=10)
        house.clock.advance(299)
        house.courier.answer = None
        house.accept(remote("b@busy.net"))
        house.clock.advance(1)
        [probe] = [work for (_, lane), work in house.spool.runner._leases._works.items() if lane == "down.net"]
        assert not probe.has_begun
        attempts(house)
        return house, probe.entry.name

    def test_a_probe_that_the_operator_takes_away_shows_nothing_and_another_asks(self, with_probe_in_memory, logged):
        house, probe = with_probe_in_memory
        now(house.spool.queue.obey(Order(act=Act.HOLD, by="root"), [(parse_name(probe), (0,))]))
        house.courier.finish(Action.RELAYED)
        house.clock.pump([0.05] * 3)
        assert attempts(house) == {"down.net": 1}
        [(delivery, waiting)] = house.courier.waiting
        waiting.callback(says(DOWN)(delivery))
        house.clock.pump([0.05] * 3)
        assert attempts(house) == {}
        assert "destination_up" not in names(logged)

    def test_a_probe_whose_domain_is_paused_shows_nothing(self, with_probe_in_memory, logged):
        house, _ = with_probe_in_memory
        now(house.spool.queue.pause("down.net"))
        house.courier.finish(Action.RELAYED)
        house.clock.pump([0.05] * 3)
        assert attempts(house) == {}
        now(house.spool.queue.resume("down.net"))
        house.clock.pump([0.05] * 3)
        assert attempts(house) == {"down.net": 1}
        assert "destination_up" not in names(logged)

    def test_a_probe_that_hangs_keeps_all_others_waiting_on_disk(self, house):
        take_down(house, messages=50)
        house.courier.answer = None
        house.clock.pump([300] + [100] * 20)
        assert len(house.courier.waiting) == 1
        assert house.spool.runner._lanes.works == 1
        assert house.counts().due_recipients <= 1

    def test_remembered_is_not_an_attempt(self, house):
        house.courier.answer = says(replace(DOWN, wait_seconds=45.0))
        house.accept(remote("a@down.net"))
        assert attempts(house) == {"down.net": 1}
        assert rows(house)[0][:3] == (NOW + 45, "waiting", 1)
        house.accept(remote("b@down.net"))
        house.clock.advance(44)
        assert attempts(house) == {}
        house.courier.answer = says(UP)
        house.clock.pump([1, 0.05, 0.05])
        assert house.counts().entries == 0

    def test_flush_asks_again_and_forgets_hosts(self, tmp_path):
        forgotten = []
        house = House(tmp_path / "spool", forget_hosts=lambda: forgotten.append(True)).open()
        house.courier.answer = says(DOWN)
        take_down(house, messages=50)
        house.courier.answer = says(UP)
        now(house.spool.runner.flush())
        house.clock.pump([0.05] * 20)
        assert house.counts().entries == 0
        assert forgotten == [True]

    def test_a_change_of_the_configuration_asks_again(self, house):
        take_down(house, messages=50)
        house.courier.answer = says(UP)
        house.spool.runner.change(Limits())
        house.clock.pump([0.05] * 20)
        assert house.counts().entries == 0

    def test_what_was_put_off_untried_has_its_first_attempt_afterwards(self, house):
        take_down(house, messages=1)
        told = replace(remote("b@down.net"), notify=frozenset((Notify.NEVER,)), is_expanded=True)
        house.accept(told)
        house.courier.deliveries.clear()
        house.courier.answer = says(UP)
        house.clock.pump([300] * 2)
        counted = Counter(each.attempt for each in house.courier.deliveries if domain_of(each) == "down.net")
        assert counted == {1: 2, 2: 5}
        (report,) = [each for each in house.courier.deliveries if each.envelope.reverse_path is None]
        assert b"Action: expanded" in report.content.in_memory

    def test_after_a_restart_new_mail_does_not_hide_what_was_put_off(self, house):
        take_down(house, messages=50)
        house.crash().open()
        house.courier.answer = says(UP)
        house.accept(remote("a@down.net"))
        assert attempts(house) == {"down.net": 1}
        house.clock.advance(300)
        house.clock.pump([0.05] * 20)
        assert attempts(house)["down.net"] >= 50

    def test_what_is_paused_is_not_given_up_when_its_destination_goes_down(self, tmp_path):
        schedule = Schedule(spread=0.0, warning_seconds=0, lifetime_seconds=100.0)
        house = House(tmp_path / "spool", schedule=schedule).open()
        for _ in range(6):
            house.accept(remote("a@down.net"))
        assert len(house.courier.waiting) == 5
        now(house.spool.queue.pause("down.net"))
        house.clock.advance(200)
        for delivery, waiting in list(house.courier.waiting):
            waiting.callback(says(DOWN)(delivery))
        house.clock.advance(HOUR)
        assert [state for _, state, *_ in rows(house)].count("waiting") == 1

    @pytest.mark.parametrize("is_paused", [False, True])
    def test_many_that_are_given_up_are_told_of_at_once(self, house, is_paused):
        take_down(house, messages=450)
        if is_paused:
            now(house.spool.queue.pause("down.net"))
        every = [(each.number, (0,)) for each in now(house.spool.queue.find(Selection(), after=0, limit=500)).found]
        assert now(house.spool.queue.obey(Order(act=Act.BOUNCE, text="gone"), every)).recipients == 455
        house.clock.pump([0.05] * 20)
        assert house.counts().entries == 0

    def test_a_lane_that_waited_for_its_rate_goes_by_the_new_one(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(rates={"slow.net": Rate(1, HOUR)})).open()
        house.courier.answer = says(UP)
        for _ in range(3):
            house.accept(remote("a@slow.net"))
        assert attempts(house) == {"slow.net": 1}
        house.spool.runner.change(Limits(rates={"slow.net": Rate(1, 60)}))
        assert attempts(house) == {"slow.net": 1}
        house.spool.runner.change(Limits())
        assert attempts(house) == {"slow.net": 1}

    def test_a_single_failure_is_no_cohort(self, house):
        house.accept(remote("a@down.net"))
        house.accept(remote("b@down.net"))
        assert attempts(house) == {"down.net": 2}

    def test_many_destinations(self, house):
        for number in range(60):
            for _ in range(8):
                house.accept(remote(f"a@{number}.down.net"))
        assert set(attempts(house).values()) == {5}
        house.clock.advance(300)
        assert set(attempts(house).values()) == {1}
        assert house.spool.runner._lanes.works == 0


class TestAfterARestart:
    def test_what_was_put_off_waits_on(self, house):
        take_down(house, messages=20)
        house.crash().open()
        house.courier.answer = says(DOWN)
        assert attempts(house) == {}
        house.clock.advance(300)
        assert attempts(house) == {"down.net": 1}

    def test_and_is_woken_by_the_first_answer(self, house):
        take_down(house, messages=20)
        house.crash().open()
        house.courier.answer = says(UP)
        house.clock.pump([300] + [0.05] * 20)
        assert house.counts().entries == 0

    def test_a_destination_is_what_its_mail_tells(self, house):
        for outcome, at_once in ((GREYLISTED, 5), (DOWN, 1)):
            house.courier.answer = says(outcome)
            for _ in range(20 if outcome is GREYLISTED else 4):
                house.accept(remote("a@down.net"))
            house.crash().open()
            house.clock.advance(300)
            assert len(house.courier.waiting) == at_once
            house.courier.answer = says(UP)
            while house.courier.waiting:
                house.courier.finish(Action.RELAYED)
            house.clock.pump([0.05] * 10)

    def test_what_goes_at_its_first_attempt_is_not_in_the_index_of_lanes(self, house):
        house.courier.answer = None
        house.accept(remote("a@down.net"))
        connection = house.spool._database._connected()
        count = (
            "SELECT count(*) FROM recipient INDEXED BY recipient_lane WHERE lane <> '' AND attempts > 0 AND due_at IS NOT NULL"
        )
        assert connection.execute(count).fetchone() == (0,)
        house.courier.finish(Action.DELAYED)
        assert connection.execute(count).fetchone() == (1,)

    def test_a_database_without_the_index_gets_it(self, house):
        house.accept(remote("a@down.net"))
        house.spool._database._connected().execute("DROP INDEX recipient_lane")
        house.crash().open()
        found = house.spool._database._connected().execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
        assert ("recipient_lane",) in found


class TestNothingIsMissed:
    """Mail that was put off without an attempt is warned of, expires and keeps its deadline all the same."""

    def reports(self, house):
        return [
            (delivery.envelope.accepted_at - NOW, delivery.content.in_memory)
            for delivery in house.courier.deliveries
            if delivery.envelope.reverse_path is None
        ]

    def make(self, tmp_path, **schedule) -> House:
        house = House(tmp_path / "spool", schedule=Schedule(spread=0.0, **schedule)).open()
        house.courier.answer = lambda delivery: (
            says(DOWN)(delivery) if domain_of(delivery) == "down.net" else all_are(Action.DELIVERED)(delivery)
        )
        return house

    def test_expiry(self, tmp_path):
        house = self.make(tmp_path, warning_seconds=0, lifetime_seconds=5 * HOUR)
        take_down(house, messages=20)
        house.clock.pump([60] * (7 * 60))
        reports = self.reports(house)
        assert len(reports) == 25
        assert house.counts().entries == 0
        assert max(at for at, _ in reports) <= 6.6 * HOUR
        assert all(WHY.encode() in content and b"4.4.7" in content for _, content in reports)

    def test_the_warning_of_a_delay_comes_once(self, tmp_path):
        house = self.make(tmp_path)
        take_down(house, messages=20)
        house.clock.pump([60] * (12 * 60))
        reports = self.reports(house)
        assert len(reports) == 25
        assert max(at for at, _ in reports) <= 6.5 * HOUR
        assert {state for _, state, *_ in rows(house)} == {"warned"}

    def test_a_deadline(self, tmp_path):
        house = self.make(tmp_path)
        take_down(house)
        draft = house.spool.intake.begin()
        draft.write(b"Subject: x\r\n\r\n")
        by = DeliverBy(NOW + 1_000, returns=True)
        assert house.commit(draft, replace(envelope(remote("b@down.net")), requests=Requests(deliver_by=by))) is None
        house.clock.pump([60] * 30)
        assert len(self.reports(house)) == 1

    def test_a_sender_who_wants_to_know_at_a_deadline(self, tmp_path):
        house = self.make(tmp_path)
        take_down(house)
        draft = house.spool.intake.begin()
        draft.write(b"Subject: x\r\n\r\n")
        by = DeliverBy(NOW + 1_000, returns=False)
        assert house.commit(draft, replace(envelope(remote("b@down.net")), requests=Requests(deliver_by=by))) is None
        house.clock.pump([60] * 30)
        assert len(self.reports(house)) == 1


class TestWindow:
    def test_grows_with_success(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(per_destination=8)).open()
        for _ in range(200):
            house.accept(remote("a@good.net"))
        seen = []
        while house.courier.waiting:
            seen.append(len(house.courier.waiting))
            delivery, waiting = house.courier.waiting.pop(0)
            waiting.callback(says(UP)(delivery))
        assert seen[0] == 5
        assert max(seen) == 8
        assert seen.index(8) < 40

    def test_greylisting_does_not_make_it_smaller(self, house):
        house.courier.answer = says(GREYLISTED)
        for _ in range(30):
            house.accept(remote("a@down.net"))
        assert attempts(house) == {"down.net": 30}

    def test_is_one_less_than_what_was_too_many(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(initial_per_destination=6)).open()
        for _ in range(20):
            house.accept(remote("a@good.net"))
        assert len(house.courier.waiting) == 6
        delivery, waiting = house.courier.waiting.pop(0)
        waiting.callback(says(CROWDED)(delivery))
        assert len(house.courier.waiting) == 5
        for _ in range(10):
            delivery, waiting = house.courier.waiting.pop(0)
            waiting.callback(says(UP)(delivery))
            assert len(house.courier.waiting) <= 5


class TestRates:
    def make(self, tmp_path, **rates) -> tuple[House, list[tuple[float, str]]]:
        house = House(tmp_path / "spool", limits=Limits(rates={name.replace("_", "."): rate for name, rate in rates.items()}))
        begun: list[tuple[float, str]] = []

        def answer(delivery):
            begun.append((round(house.clock.seconds() - NOW, 2), domain_of(delivery)))
            return says(UP)(delivery)

        house.courier.answer = answer
        return house.open(), begun

    def test_messages_are_spread_over_time(self, tmp_path):
        house, begun = self.make(tmp_path, slow_net=Rate(60, 60.0))
        for _ in range(20):
            house.accept(remote("a@slow.net"))
        assert len(begun) == 5, "a few may go at once"
        house.clock.pump([0.1] * 200)
        assert [at for at, _ in begun[5:]] == pytest.approx(range(1, 16), abs=0.11)

    def test_others_are_not_concerned(self, tmp_path):
        house, begun = self.make(tmp_path, slow_net=Rate(1, 3_600.0))
        for _ in range(20):
            house.accept(remote("a@slow.net"))
            house.accept(remote("a@good.net"))
        assert Counter(domain for _, domain in begun) == {"slow.net": 1, "good.net": 20}
        assert house.spool.runner.attempts == 0, "no place is held meanwhile"
        house.clock.advance(3_599)
        assert len(begun) == 21
        house.clock.advance(1)
        assert len(begun) == 22

    def test_for_each_of_the_others(self, tmp_path):
        house, begun = self.make(tmp_path, **{"*": Rate(1, 60.0), "fast_net": Rate(1_000, 1.0)})
        for _ in range(10):
            house.accept(remote("a@one.net"))
            house.accept(remote("a@two.net"))
            house.accept(remote("a@fast.net"))
        assert Counter(domain for _, domain in begun) == {"one.net": 1, "two.net": 1, "fast.net": 10}

    def test_one_timer_is_enough(self, tmp_path):
        house, _ = self.make(tmp_path, **{"*": Rate(1, 60.0)})
        for number in range(30):
            for _ in range(5):
                house.accept(remote(f"a@{number}.net"))
        assert len(house.clock.getDelayedCalls()) <= 2

    def test_a_rate_outlasts_a_lane_without_work(self, tmp_path):
        house, begun = self.make(tmp_path, slow_net=Rate(1, 60.0))
        house.accept(remote("a@slow.net"))
        house.accept(remote("a@slow.net"))
        assert len(begun) == 1
        house.clock.advance(60)
        assert len(begun) == 2

    def test_a_change_counts_at_once(self, tmp_path):
        house, begun = self.make(tmp_path, slow_net=Rate(1, 60.0))
        for _ in range(8):
            house.accept(remote("a@slow.net"))
        assert len(begun) == 1
        house.spool.runner.change(Limits())
        house.clock.advance(60)
        assert len(begun) == 8

    def test_stop_leaves_no_timer(self, tmp_path):
        house, _ = self.make(tmp_path, slow_net=Rate(1, 60.0))
        for _ in range(3):
            house.accept(remote("a@slow.net"))
        now(house.spool.close())
        assert not house.clock.getDelayedCalls()


class TestStatements:
    """What is done for a lane is a range of its index, whatever else waits."""

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            (moves.MOVE, "SEARCH r USING INDEX recipient_lane (lane=? AND due_at<?)"),
            (moves.NAME_PROBE, "SEARCH recipient USING INDEX recipient_lane (lane=? AND due_at=?)"),
            (moves.STILL_DUE, "SEARCH recipient USING INDEX recipient_lane (lane=? AND due_at<?)"),
            (moves.WAKE, "SEARCH recipient USING INDEX recipient_lane (lane=? AND due_at>?)"),
            (moves.WAKE_DOMAIN, "SEARCH recipient USING INDEX recipient_lane (lane=? AND due_at>?)"),
            (moves.WAKE_WAYS, "SEARCH recipient USING INDEX recipient_lane (lane>? AND lane<?)"),
        ],
    )
    def test_plan(self, tmp_path, statement, expected):
        House(tmp_path / "spool").open()
        connection = connect(tmp_path / "spool" / "spool.db")
        names = ("lane", "now", "until", "later", "warn", "status", "diagnostic", "mta", "limit", "length", "put_off")
        names += ("by", "behind")
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", dict.fromkeys(names, 1))]
        connection.close()
        assert any(expected in step for step in plan), plan
        assert not any(step.startswith(("SCAN recipient", "SCAN e")) for step in plan), plan
