"""From an accepted entry to the end of its recipients: a real database, a fake clock, couriers that the test commands."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from spool_house import CONTENT, NOW, House, all_are, disposition, local, now, remote
from twisted.internet.defer import CancelledError, Deferred

from mailstack.mail.disposition import Action
from mailstack.mail.verdict import defer, reject
from mailstack.spool.backoff import DAY_SECONDS
from mailstack.spool.lanes import Limits

FOUR_HOURS = 14_400


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "spool").open()


def names(logged) -> list[str]:
    return [each["event"] for each in logged if "event" in each]


class TestFresh:
    def test_goes_from_memory_to_its_attempt_and_is_finished(self, house, logged):
        entry = house.accept(remote("bob@example.net"))
        [(delivery, _)] = house.courier.waiting
        assert (delivery.entry, delivery.attempt, delivery.may_repeat) == (entry, 1, False)
        assert delivery.content.in_memory == CONTENT
        assert list(delivery.recipients) == [0]
        assert house.counts().entries == 1
        house.courier.finish(Action.RELAYED)
        counts = house.counts()
        assert (counts.entries, counts.waiting_recipients, counts.attempts) == (0, 0, 0)
        assert names(logged) == ["attempt_finished", "entry_finished"]

    def test_all_accounts_are_one_delivery_and_each_domain_another(self, house):
        house.accept(local("a@x.org"), remote("b@one.net"), local("c@y.org"), remote("d@two.net"), remote("e@one.net"))
        assert sorted(sorted(delivery.recipients) for delivery in house.courier.deliveries) == [[0, 2], [1, 4], [3]]

    def test_an_entry_is_finished_with_its_last_recipient(self, house):
        house.accept(local("a@x.org"), remote("b@one.net"))
        house.courier.finish(Action.DELIVERED)
        assert house.counts().entries == 1
        house.courier.finish(Action.RELAYED)
        assert house.counts().entries == 0

    def test_the_content_file_goes_with_the_entry(self, house):
        entry = house.accept(content=CONTENT + b"x" * 200_000 + b"\r\n")
        assert house.files() == [entry]
        house.courier.finish(Action.RELAYED)
        assert house.files() == []

    def test_many_that_end_at_once_do_not_nest(self, house):
        house.courier.answer = all_are(Action.DELIVERED)
        house.spool.runner._is_on = False
        for _ in range(1_500):
            house.accept(local("a@x.org"))
        house.spool.runner.start()
        assert house.counts().entries == 0
        assert len(house.courier.deliveries) == 1_500


class TestRetries:
    def test_come_when_the_schedule_says(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        house.accept()
        for attempt, delay in enumerate((300, 600, 1_200, 2_400, 4_800, 9_600, FOUR_HOURS, FOUR_HOURS), 2):
            house.clock.advance(delay - 1)
            assert len(house.courier.deliveries) == attempt - 1
            house.clock.advance(1)
            assert len(house.courier.deliveries) == attempt
            last = house.courier.deliveries[-1]
            assert (last.attempt, last.may_repeat, last.content.in_memory) == (attempt, True, CONTENT)

    def test_only_what_was_delayed_is_tried_again(self, house):
        house.courier.answer = lambda delivery: [
            disposition(0, Action.RELAYED),
            disposition(1, Action.DELAYED),
            disposition(2, Action.RELAYED),
        ]
        house.accept(remote("a@x.net"), remote("b@x.net"), remote("c@x.net"))
        house.courier.answer = all_are(Action.RELAYED)
        house.clock.advance(300)
        assert list(house.courier.deliveries[-1].recipients) == [1]
        assert house.counts().entries == 0

    def test_a_raising_courier_delays(self, house, logged):
        def explode(delivery):
            raise ZeroDivisionError

        house.courier.answer = explode
        house.accept()
        assert house.counts().waiting_recipients == 1
        assert "unexpected" in names(logged)
        house.courier.answer = all_are(Action.RELAYED)
        house.clock.advance(300)
        assert house.counts().entries == 0

    def test_a_couriers_own_cancelled_error_delays(self, house):
        def cancelled(delivery):
            raise CancelledError

        house.courier.answer = cancelled
        house.accept()
        assert house.counts().waiting_recipients == 1
        house.clock.advance(299)
        assert len(house.courier.deliveries) == 1

    def test_silence_about_a_recipient_delays_it(self, house):
        house.courier.answer = lambda delivery: [disposition(1, Action.RELAYED), disposition(7, Action.FAILED)]
        house.accept(remote("a@x.net"), remote("b@x.net"))
        assert house.counts().waiting_recipients == 1
        house.clock.advance(300)
        assert list(house.courier.deliveries[-1].recipients) == [0]

    def test_an_overdue_attempt_is_cancelled_and_delayed(self, house):
        house.accept()
        house.clock.advance(3_500)
        assert house.spool.runner.attempts == 1
        house.clock.pump([30] * 10)
        assert house.spool.runner.attempts == 0
        assert house.counts().waiting_recipients == 1
        assert house.counts().due_recipients == 0

    def test_flush_makes_all_due_now(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        for _ in range(3):
            house.accept()
        house.courier.answer = all_are(Action.RELAYED)
        now(house.spool.runner.flush())
        assert house.counts().entries == 0


class TestFailures:
    def test_make_one_dsn_that_runs_as_a_fresh_entry(self, house, logged):
        house.courier.answer = None
        entry = house.accept(remote("a@x.net"), remote("b@x.net"), remote("c@x.net"))
        _, waiting = house.courier.waiting.pop()
        waiting.callback(
            [
                disposition(0, Action.FAILED, "550 no such user"),
                disposition(1, Action.RELAYED),
                disposition(2, Action.FAILED, "550 nor this"),
            ]
        )
        [(report, _)] = house.courier.waiting
        assert report.may_repeat is False
        assert report.envelope.reverse_path is None
        assert [str(each.address) for each in report.envelope.recipients] == ["alice@example.org"]
        message = message_from_bytes(report.content.in_memory)
        assert message["Message-ID"] == f"<{report.entry}@mx.example.org>"
        assert b"550 no such user" in report.content.in_memory
        assert b"550 nor this" in report.content.in_memory
        assert b"Subject: a test" in report.content.in_memory
        assert house.counts().entries == 1
        house.courier.finish(Action.DELIVERED)
        assert house.counts().entries == 0
        assert names(logged)[-4:] == ["dsn_queued", "entry_finished", "attempt_finished", "entry_finished"]
        assert entry != report.entry

    def test_of_a_large_message_quote_its_header_from_the_file(self, house):
        house.accept(content=CONTENT + b"x" * 300_000 + b"\r\n")
        house.courier.finish(Action.FAILED)
        [(report, _)] = house.courier.waiting
        assert b"Subject: a test" in report.content.in_memory
        assert b"xxx" not in report.content.in_memory
        assert house.files() == []

    def test_of_a_message_without_return_address_are_dropped(self, house, logged):
        house.courier.answer = all_are(Action.FAILED)
        house.accept(sender=None)
        assert house.counts().entries == 0
        assert len(house.courier.deliveries) == 1
        assert "dsn_dropped" in names(logged)

    def test_after_five_days_with_the_last_diagnostic(self, house):
        house.courier.answer = all_are(Action.DELAYED, "connection refused")
        house.accept()
        house.clock.pump([3_600] * (5 * 24 - 1))
        assert all(delivery.envelope.reverse_path for delivery in house.courier.deliveries)
        house.clock.pump([3_600] * 5)
        report = house.courier.deliveries[-1]
        assert report.envelope.reverse_path is None
        assert b"Status: 4.4.7" in report.content.in_memory
        assert b"connection refused" in report.content.in_memory

    def test_an_undeliverable_dsn_is_given_up_sooner_and_in_silence(self, house, logged):
        house.courier.answer = all_are(Action.FAILED)
        house.accept(remote("a@x.net"))
        assert house.counts().entries == 0  # the DSN failed too
        assert names(logged).count("dsn_queued") == 1
        assert names(logged).count("dsn_dropped") == 1

    def test_refused_return_address_drops_the_dsn(self, house, logged):
        house.route = lambda address: reject("no such user", cause="test")
        house.courier.answer = all_are(Action.FAILED)
        house.accept()
        assert house.counts().entries == 0
        assert "dsn_dropped" in names(logged)

    def test_wait_with_their_reason_while_the_dsn_cannot_be_routed(self, house):
        house.route = lambda address: defer("directory is down")
        house.courier.answer = all_are(Action.FAILED, "550 never heard of bob")
        house.accept()
        assert house.counts().waiting_recipients == 1
        assert len(house.courier.deliveries) == 1
        house.crash().open()
        house.clock.advance(299)
        house.route = lambda address: (local("alice@example.org"),)
        house.clock.advance(1)
        [(report, _)] = house.courier.waiting  # no second attempt at bob
        assert report.envelope.reverse_path is None
        assert b"550 never heard of bob" in report.content.in_memory
        assert house.counts().entries == 1

    def test_a_raising_router_is_temporary(self, house, logged):
        def explode(address):
            raise ZeroDivisionError

        house.route = explode
        house.courier.answer = all_are(Action.FAILED)
        house.accept()
        assert house.counts().waiting_recipients == 1
        assert "unexpected" in names(logged)

    def test_a_dsn_that_can_never_be_routed_is_given_up(self, house, logged):
        house.route = lambda address: defer("directory is down")
        house.courier.answer = all_are(Action.FAILED)
        house.accept()
        house.clock.pump([3_600] * (24 * 11))
        assert house.counts().entries == 0
        assert "dsn_dropped" in names(logged)


class TestLimits:
    def make(self, tmp_path, **limits) -> House:
        return House(tmp_path / "spool", limits=Limits(**limits)).open()

    def test_attempts_at_once_per_destination(self, tmp_path):
        house = self.make(tmp_path, per_destination=2)
        for _ in range(5):
            house.accept(remote("a@x.net"))
        house.accept(remote("a@y.net"))
        assert [len(house.courier.waiting), house.counts().entries] == [3, 6]
        for left in (3, 3, 2, 2, 1, 0):
            house.courier.finish(Action.RELAYED)
            assert len(house.courier.waiting) <= 3, left
        assert house.counts().entries == 0

    def test_attempts_at_once_over_all_and_local_apart(self, tmp_path):
        house = self.make(tmp_path, attempts_at_once=3, local_at_once=2)
        for number in range(6):
            house.accept(remote(f"a@{number}x.net"), local("b@x.org"))
        lanes = [next(iter(delivery.recipients)) for delivery, _ in house.courier.waiting]
        assert sorted(lanes) == [0, 0, 0, 1, 1]
        while house.courier.waiting:
            house.courier.finish(Action.DELIVERED)
        assert house.counts().entries == 0

    def test_what_finds_no_room_waits_on_disk_and_comes_in_time(self, tmp_path):
        house = self.make(tmp_path, works=4, local_at_once=2)
        entries = [house.accept(local("a@x.org")) for _ in range(20)]
        assert house.spool.runner._lanes.works == 4
        most = 0
        while house.courier.waiting:
            most = max(most, house.spool.runner._lanes.works)
            house.courier.finish(Action.DELIVERED)
        assert most == 4
        assert sorted(delivery.entry for delivery in house.courier.deliveries) == entries

    def test_octets_in_memory(self, tmp_path):
        house = self.make(tmp_path, octets=10_000, local_at_once=1)
        for _ in range(6):
            house.accept(local("a@x.org"), content=b"x" * 4_000 + b"\r\n")
        assert house.spool.runner._lanes.works == 3
        while house.courier.waiting:
            house.courier.finish(Action.DELIVERED)
        assert len(house.courier.deliveries) == 6

    def test_a_silent_domain_does_not_keep_others_waiting(self, tmp_path):
        house = self.make(tmp_path, works=40, works_per_destination=10, per_destination=2)
        for _ in range(1_200):
            house.accept(remote("a@silent.net"))
        house.accept(remote("b@other.net"))
        house.accept(local("c@x.org"))
        assert len(house.courier.deliveries) == 4
        house.crash().open()
        to = {str(next(iter(delivery.recipients.values())).address) for delivery, _ in house.courier.waiting}
        assert to == {"a@silent.net", "b@other.net", "c@x.org"}
        while house.courier.waiting:
            house.courier.finish(Action.RELAYED)
        assert house.counts().entries == 0
        assert len({delivery.entry for delivery in house.courier.deliveries}) == 1_202
        assert len(house.courier.deliveries) == 1_202

    def test_one_recipient_is_never_in_two_attempts(self, tmp_path):
        house = self.make(tmp_path)
        house.accept()
        now(house.spool.runner.flush())
        house.clock.advance(3_000)
        assert len(house.courier.deliveries) == 1

    def test_what_found_none_is_taken_up_when_others_have_left_some(self, tmp_path):
        house = self.make(tmp_path, works=16)
        for number in range(12):
            house.accept(remote(f"a@{number}.net"))
        house.accept(remote("b@late.net"))
        assert len(house.courier.deliveries) == 12
        while len(house.courier.waiting) > 5:
            house.courier.finish(Action.RELAYED)
        house.clock.advance(1)
        assert len(house.courier.deliveries) == 13


class TestStop:
    def test_lets_attempts_end_and_begins_none(self, house):
        house.accept()
        stopping = Deferred.fromCoroutine(house.spool.close(grace_seconds=10))
        assert not stopping.called
        house.courier.finish(Action.RELAYED)
        assert stopping.called
        assert not house.clock.getDelayedCalls()
        house.crash().open()
        assert house.counts().entries == 0

    def test_cancels_what_does_not_end_and_it_is_tried_again(self, house):
        house.accept()
        stopping = Deferred.fromCoroutine(house.spool.close(grace_seconds=10))
        house.clock.advance(10)
        assert stopping.called
        house.spool = house.make()
        house.open()
        last = house.courier.deliveries[-1]
        assert (last.attempt, last.may_repeat, len(house.courier.deliveries)) == (1, True, 2)

    def test_does_not_wait_for_nothing(self, house):
        now(house.spool.close())
        assert not house.clock.getDelayedCalls()


class TestRestart:
    def test_tries_what_was_in_an_attempt_again_and_says_so(self, house):
        entry = house.accept(remote("a@x.net"), local("b@x.org"))
        house.courier.finish(Action.DELIVERED)
        house.crash().open()
        [(delivery, _)] = house.courier.waiting
        assert (delivery.entry, delivery.may_repeat, delivery.attempt) == (entry, True, 1)
        assert delivery.envelope.accepted_at == NOW

    def test_gives_an_old_entry_one_attempt_before_it_gives_up(self, house):
        house.accept()
        house.crash()
        house.clock.advance(30 * DAY_SECONDS)
        house.open()
        [(delivery, _)] = house.courier.waiting
        house.courier.finish(Action.RELAYED)
        assert house.counts().entries == 0
        assert delivery.attempt == 1
