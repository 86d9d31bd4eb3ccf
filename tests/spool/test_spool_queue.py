"""What the operator sees and does: a real database, attempts that the test commands, and every act in every place."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from spool_house import CONTENT, NOW, House, all_are, connect_fast, disposition, envelope, local, now, remote
from test_intake import BIG, FailingConnection
from test_recovery import change, rows
from twisted.internet.defer import Deferred

from mailstack.mail.disposition import Action, Standing
from mailstack.mail.envelope import Origin, Service
from mailstack.mail.reply import NO_SPACE
from mailstack.mail.requests import Requests
from mailstack.mail.verdict import defer
from mailstack.spool.content import MemoryContent
from mailstack.spool.entry import Entry, lanes_of, parts_of_lane, paused_as
from mailstack.spool.failures import StorageError
from mailstack.spool.hands import Act, Order
from mailstack.spool.identifiers import Identifiers, format_number, parse_name
from mailstack.spool.inspection import find_problem
from mailstack.spool.lanes import Limits
from mailstack.spool.operations import TRACES, Accept
from mailstack.spool.queries import SCAN_ENTRIES
from mailstack.spool.queue import MOST_PAUSED, Obeyed, Queue, QueueError
from mailstack.spool.reading import PART_OCTETS, ReadingError
from mailstack.spool.reserve import RESERVE_OCTETS
from mailstack.spool.selection import _FIELDS, Selection, SelectionError, parse_pattern, parse_selection
from mailstack.spool.sums import REASON_CHARACTERS, By, Tally

ALL = Selection()


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "spool").open()


def found(house: House, selection: Selection = ALL) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return the names of the selected entries, each with its selected recipients and how they stand."""
    page = now(house.spool.queue.find(selection, after=0, limit=1_000))
    assert page.to is None
    return [
        (format_number(each.number), [(row.ordinal, row.shown(is_corrupt=each.is_corrupt)) for row in each.rows])
        for each in page.found
    ]


def states(house: House) -> list[str]:
    """Return how all recipients stand, in order."""
    return [state for _, of_entry in found(house) for _, state in of_entry]


def order(
    house: House, act: Act, *names: str, text: str = "", ordinals: tuple[int, ...] = (0,), is_named: bool = False
) -> Obeyed:
    targets = [(parse_name(name), ordinals) for name in names]
    return now(house.spool.queue.obey(Order(act=act, text=text, by="root", is_named=is_named), targets))


def actions(house: House, name: str, ordinal: int = 0) -> list[str]:
    return [each.action for each in now(house.spool.queue.show(parse_name(name))).traces[ordinal]]


def delayed_entry(house: House, *recipients, diagnostic: str = "450 4.2.1 later") -> str:
    house.courier.answer = all_are(Action.DELAYED, diagnostic)
    name = house.accept(*(recipients or (remote("bob@example.net"),)))
    house.courier.answer = None
    return name


class TestHold:
    def test_keeps_what_waits_until_it_is_released(self, house):
        name = delayed_entry(house)
        assert order(house, Act.HOLD, name) == Obeyed(1, 1, 0)
        house.clock.pump([3_600] * 24 * 10)
        assert len(house.courier.deliveries) == 1
        assert states(house) == ["held"]
        order(house, Act.RELEASE, name)
        assert house.courier.deliveries[-1].attempt == 2
        house.courier.finish(Action.RELAYED)
        assert found(house) == []

    def test_survives_a_crash(self, house):
        name = delayed_entry(house, remote("bob@example.net"), remote("eve@example.com"))
        order(house, Act.HOLD, name)
        house.crash().open()
        house.clock.advance(300)
        assert [list(each.recipients) for each, _ in house.courier.waiting] == [[1]]
        house.courier.finish(Action.RELAYED)
        assert found(house) == [(name, [(0, "held")])], "the entry is not finished without the one who is held"
        house.crash().open()
        order(house, Act.RELEASE, name)
        assert list(house.courier.deliveries[-1].recipients) == [0]

    def test_takes_out_of_memory_what_has_not_begun(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(per_destination=1)).open()
        first, second = house.accept(), house.accept()
        assert order(house, Act.HOLD, second) == Obeyed(1, 1, 0)
        house.courier.finish(Action.RELAYED)
        assert [each.entry for each in house.courier.deliveries] == [first]
        assert house.spool.runner._lanes.works == 0
        order(house, Act.RELEASE, second)
        assert [each.entry for each in house.courier.deliveries] == [first, second]

    def test_leaves_an_attempt_that_runs_alone_and_keeps_what_it_leaves(self, house):
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        assert order(house, Act.HOLD, name, ordinals=(0, 1)) == Obeyed(0, 0, 2)
        _, waiting = house.courier.waiting.pop()
        waiting.callback([disposition(0, Action.RELAYED), disposition(1, Action.DELAYED)])
        assert found(house) == [(name, [(1, "held")])]
        house.clock.advance(1_000)
        assert len(house.courier.deliveries) == 1

    def test_of_one_recipient_lets_the_others_of_its_lane_go_on(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(per_destination=1)).open()
        house.accept(remote("c@x.net"))
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        order(house, Act.HOLD, name, ordinals=(1,))
        house.courier.finish(Action.RELAYED)
        [(delivery, _)] = house.courier.waiting
        assert (delivery.entry, list(delivery.recipients)) == (name, [0])

    def test_remembers_that_the_sender_was_warned(self, tmp_path):
        from mailstack.spool.backoff import Schedule

        house = House(tmp_path / "spool", schedule=Schedule(spread=0.0, warning_seconds=600)).open()
        house.courier.answer = lambda delivery: [
            disposition(each, Action.DELAYED if delivery.envelope.reverse_path else Action.DELIVERED)
            for each in delivery.recipients
        ]
        name = house.accept()
        house.clock.advance(300)
        house.clock.advance(600)
        order(house, Act.HOLD, name)
        order(house, Act.RELEASE, name)
        house.clock.advance(3_000)
        assert sum(each.envelope.reverse_path is None for each in house.courier.deliveries) == 1

    @pytest.mark.parametrize("is_held", [True, False])
    def test_by_a_courier_ends_with_the_release_and_that_by_hand_is_nothing_to_it(self, house, is_held):
        house.courier.answer = lambda _: [replace(disposition(0, Action.DELAYED), is_held=is_held)]
        name = house.accept()
        assert states(house) == (["held"] if is_held else ["delayed"])
        order(house, Act.HOLD, name)
        house.courier.answer = all_are(Action.DELAYED)
        order(house, Act.RELEASE, name)
        house.clock.advance(1_000)
        first, second, third, *_ = [each.released for each in house.courier.deliveries]
        assert (first, second, third) == (frozenset(), *[frozenset([0] if is_held else [])] * 2)

    def test_of_nothing_that_is_there(self, house):
        assert order(house, Act.HOLD, "0" * 13) == Obeyed(0, 0, 0)
        assert order(house, Act.RELEASE, delayed_entry(house)) == Obeyed(0, 0, 0)


class TestRetry:
    def test_makes_due_at_once(self, house):
        name, other = delayed_entry(house), delayed_entry(house)
        assert order(house, Act.RETRY, name) == Obeyed(1, 1, 0)
        assert house.courier.deliveries[-1].entry == name
        assert other not in [each.entry for each in house.courier.deliveries[2:]]

    def test_of_what_runs_or_is_held_changes_nothing(self, house):
        running, held = house.accept(), delayed_entry(house)
        order(house, Act.HOLD, held)
        assert order(house, Act.RETRY, running, held) == Obeyed(0, 0, 1)
        assert len(house.courier.deliveries) == 2


class TestReroute:
    def test_gives_the_courier_the_way_and_a_lane_of_its_own(self, house):
        name = delayed_entry(house, remote("a@x.net"), remote("b@x.net"), local("c@x.org"))
        assert order(house, Act.REROUTE, name, ordinals=(0, 2), text="smtp:[192.0.2.1]:2525") == Obeyed(1, 1, 0), "no account"
        [(delivery, _)] = house.courier.waiting
        assert {ordinal: each.via for ordinal, each in delivery.recipients.items()} == {0: "smtp:[192.0.2.1]:2525"}
        assert delivery.envelope.recipients[0].via is None
        house.crash().open()
        [(delivery, _)] = house.courier.waiting
        assert delivery.recipients[0].via == "smtp:[192.0.2.1]:2525"
        house.courier.finish(Action.DELAYED)
        house.clock.advance(600)
        assert {tuple(each.recipients) for each, _ in house.courier.waiting} == {(0,), (1,), (2,)}

    @pytest.mark.parametrize("text", ["", "smtp:relay.example"])
    def test_of_what_goes_that_way_already_changes_nothing(self, house, text):
        name = delayed_entry(house)
        if text:
            order(house, Act.REROUTE, name, text=text)
            house.courier.finish(Action.DELAYED)
        before = rows(house, "SELECT * FROM recipient"), actions(house, name)
        house.clock.advance(10)
        assert order(house, Act.REROUTE, name, text=text) == Obeyed(0, 0, 0)
        assert (rows(house, "SELECT * FROM recipient"), actions(house, name)) == before

    def test_of_two_domains_by_one_way_are_two_deliveries(self, house):
        name = delayed_entry(house, remote("a@x.net"), remote("b@x.net"), remote("c@y.net"))
        order(house, Act.REROUTE, name, ordinals=(0, 1, 2), text="smtp:relay.example")
        assert sorted(tuple(each.recipients) for each, _ in house.courier.waiting) == [(0, 1), (2,)]

    def test_is_taken_back(self, house):
        name = delayed_entry(house)
        house.clock.advance(10)
        order(house, Act.REROUTE, name, text="smtp:relay.example")
        house.clock.advance(10)
        house.courier.finish(Action.DELAYED)
        house.clock.advance(10)
        order(house, Act.REROUTE, name)
        assert house.courier.deliveries[-1].recipients[0].via is None
        assert actions(house, name) == ["delayed", "rerouted", "delayed", "rerouted"]

    def test_of_what_is_held_leaves_it_held(self, house):
        name = delayed_entry(house)
        order(house, Act.HOLD, name)
        assert order(house, Act.REROUTE, name, text="smtp:relay.example") == Obeyed(1, 1, 0)
        assert states(house) == ["held"]
        order(house, Act.RELEASE, name)
        assert house.courier.deliveries[-1].recipients[0].via == "smtp:relay.example"


class TestBounce:
    def test_tells_the_sender_in_the_operators_words(self, house):
        name = delayed_entry(house)
        assert order(house, Act.BOUNCE, name, text="The host is gone for good") == Obeyed(1, 1, 0)
        [(report, _)] = house.courier.waiting
        assert report.envelope.reverse_path is None
        assert b"The host is gone for good" in report.content.in_memory
        assert b"Status: 5.0.0" in report.content.in_memory
        assert [each for each, _ in found(house)] == [report.entry]

    def test_survives_a_crash_before_the_sender_is_told(self, house):
        name = delayed_entry(house)
        order(house, Act.HOLD, name)
        house.route = lambda address: defer("not now")
        order(house, Act.BOUNCE, name, text="gone")
        assert states(house) == ["unreported"]
        house.crash().open()
        house.route = lambda address: (local("alice@example.org"),)
        house.clock.advance(600)
        [(report, _)] = house.courier.waiting
        assert b"gone" in report.content.in_memory

    def test_of_one_in_an_attempt_comes_after_it(self, house):
        name = house.accept()
        assert order(house, Act.BOUNCE, name, text="gone").under_way == 1
        house.courier.finish(Action.DELAYED)
        [(report, _)] = house.courier.waiting
        assert report.envelope.reverse_path is None
        assert report.entry != name

    def test_is_for_nothing_when_the_attempt_succeeds(self, house):
        name = house.accept()
        order(house, Act.BOUNCE, name, text="gone")
        house.courier.finish(Action.RELAYED)
        assert (found(house), house.courier.waiting) == ([], [])


class TestDelete:
    @pytest.mark.parametrize("content", [CONTENT, BIG])
    def test_removes_all_of_it_and_tells_nobody(self, house, content, logged):
        house.courier.answer = all_are(Action.DELAYED)
        name = house.accept(content=content)
        assert order(house, Act.DELETE, name) == Obeyed(1, 1, 0)
        for table in ("entry", "recipient", "attempt"):
            assert rows(house, f"SELECT count(*) FROM {table}") == [(0,)]
        assert house.files() == []
        house.clock.advance(10_000)
        assert len(house.courier.deliveries) == 1
        assert [each["event"] for each in logged if "event" in each][-2:] == ["entry_in_hands", "entry_finished"]

    def test_of_one_recipient_leaves_the_others(self, house):
        name = delayed_entry(house, remote("a@x.net"), remote("b@x.net"))
        order(house, Act.DELETE, name, ordinals=(1,))
        assert found(house) == [(name, [(0, "delayed")])]
        house.crash().open()
        house.clock.advance(300)
        assert list(house.courier.deliveries[-1].recipients) == [0]
        house.courier.finish(Action.RELAYED)
        assert rows(house, "SELECT count(*) FROM entry") == [(0,)]

    def test_of_what_was_bounced_before_and_not_told_leaves_nothing_in_memory(self, house):
        house.route = lambda address: defer("not now")
        name = delayed_entry(house)
        order(house, Act.BOUNCE, name, text="gone")
        order(house, Act.DELETE, name)
        assert house.counts().entries == 0
        assert house.spool.runner._pausing._failed == {}

    def test_of_what_is_in_memory(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(per_destination=1)).open()
        first, second = house.accept(content=BIG), house.accept(content=BIG)
        order(house, Act.DELETE, second)
        assert house.files() == [first]
        house.courier.finish(Action.RELAYED)
        assert len(house.courier.deliveries) == 1
        assert house.spool.runner._lanes.works == 0

    def test_of_what_runs_is_done_with_what_is_left(self, house):
        name = house.accept(content=BIG)
        order(house, Act.DELETE, name)
        assert house.files() == [name]
        house.courier.finish(Action.DELAYED)
        assert (found(house), house.files()) == ([], [])

    def test_is_the_end_of_one_that_was_set_aside(self, house):
        name = house.accept(content=BIG)
        house.crash()
        (house.folder / "content" / name).write_bytes(b"")
        house.open()
        assert states(house) == ["corrupt"]
        for act in (Act.HOLD, Act.RETRY, Act.BOUNCE, Act.REROUTE):
            assert order(house, act, name, text="x") == Obeyed(0, 0, 0)
        order(house, Act.DELETE, name)
        assert (found(house), house.files()) == ([], [])

    def test_of_one_recipient_of_what_was_set_aside_is_that_of_all(self, house):
        name = delayed_entry(house, remote("a@x.net"), remote("b@x.net"))
        rows(house, "UPDATE entry SET state = 'corrupt' RETURNING 1")
        assert order(house, Act.DELETE, name, ordinals=(1,)) == Obeyed(1, 2, 0)
        assert found(house) == []

    def test_of_one_whose_record_cannot_be_read(self, house):
        name = house.accept()
        house.crash()
        change(house, "UPDATE entry SET envelope = '{' WHERE number = ?", parse_name(name))
        house.open()
        assert found(house) == [(name, [(0, "corrupt")])]
        order(house, Act.DELETE, name)
        assert found(house) == []


class TestCorrupt:
    """What was set aside can come back, when it is whole again."""

    def test_goes_on_when_its_content_is_back(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        name = house.accept(remote("a@x.net"), remote("b@y.net"), content=BIG)
        house.crash()
        away = house.folder / "away"
        path = (house.folder / "content" / name).rename(away)
        house.open()
        path = house.folder / "content" / name
        too_short = f"the content has {len(BIG) - 1} of {len(BIG)} octets"
        for octets, why in ((None, "the content is missing"), (BIG[:-1], too_short)):
            if octets is not None:
                path.write_bytes(octets)
            obeyed = order(house, Act.RELEASE, name)
            assert obeyed == Obeyed(0, 0, 0, {parse_name(name): f"is damaged as before: {why}"})
            assert states(house) == ["corrupt", "corrupt"]
            assert rows(house, "SELECT count(*) FROM recipient WHERE due_at IS NOT NULL") == [(0,)]
        away.rename(path)
        assert order(house, Act.RELEASE, name) == Obeyed(1, 2, 0), "all of it, whoever was selected"
        assert [b"".join(each.content.chunks()) for each in house.courier.deliveries] == [BIG, BIG]
        for _ in range(2):
            house.courier.finish(Action.RELAYED)
        assert (found(house), house.files()) == ([], [])

    def test_is_refused_when_its_rows_are_damaged(self, house):
        name = house.accept(remote("a@x.net"), remote("b@y.net"))
        house.crash()
        change(house, "UPDATE recipient SET lane = 'elsewhere' WHERE ordinal = 1")
        house.open()
        obeyed = order(house, Act.RELEASE, name)
        assert (obeyed.recipients, list(obeyed.refused.values())) == (
            0,
            ["is damaged as before: recipient 1 does not go with the envelope"],
        )
        assert states(house) == ["corrupt", "corrupt"]
        house.clock.advance(1_000)
        assert house.courier.deliveries == []

    def test_of_whom_nobody_waits_is_refused(self, house):
        name = house.accept()
        rows(house, "UPDATE entry SET state = 'corrupt' RETURNING 1")
        house.courier.finish(Action.RELAYED)
        (why,) = order(house, Act.RELEASE, name).refused.values()
        assert why == "is damaged as before: it has no recipient who waits"
        assert rows(house, "SELECT state FROM entry") == [("corrupt",)]

    def test_leaves_alone_who_has_it_already(self, house):
        name = delayed_entry(house, remote("a@x.net"), remote("b@y.net"))
        order(house, Act.RETRY, name, ordinals=(0, 1))
        house.courier.finish(Action.RELAYED)
        house.courier.finish(Action.DELAYED)
        rows(house, "UPDATE entry SET state = 'corrupt' RETURNING 1")
        rows(house, "UPDATE recipient SET due_at = NULL RETURNING 1")
        house.crash().open()
        assert order(house, Act.RELEASE, name, ordinals=(0, 1)) == Obeyed(1, 1, 0)
        assert [list(each.recipients) for each in house.courier.deliveries] == [[1]]


class TestScheduled:
    """What its sender wants to go later (RFC 4865) goes earlier only when the operator means this very message."""

    @pytest.fixture
    def name(self, house):
        draft = house.spool.intake.begin()
        draft.write(CONTENT)
        wanted = replace(envelope(accepted_at=NOW), requests=Requests(held_until=NOW + 5_000))
        assert house.commit(draft, wanted) is None
        return draft.entry

    @pytest.mark.parametrize("acts", [[Act.RETRY], [Act.HOLD, Act.RELEASE], [Act.REROUTE], ["set aside", Act.RELEASE]])
    @pytest.mark.parametrize("is_named", [False, True])
    def test_keeps_its_time_unless_it_is_named(self, house, name, acts, is_named):
        if acts[0] == "set aside":
            rows(house, "UPDATE entry SET state = 'corrupt' RETURNING 1")
            rows(house, "UPDATE recipient SET due_at = NULL RETURNING 1")
            acts = acts[1:]
        for act in acts:
            obeyed = order(house, act, name, text="smtp:relay.example" if act is Act.REROUTE else "", is_named=is_named)
        assert obeyed.later == (not is_named)
        assert len(house.courier.deliveries) == is_named
        house.clock.advance(4_999)
        assert len(house.courier.deliveries) == is_named
        house.clock.advance(1)
        assert len(house.courier.deliveries) == 1

    def test_that_has_its_time_behind_it_waits_no_more(self, house, name):
        house.courier.answer = all_are(Action.DELAYED)
        house.clock.advance(5_000)
        assert order(house, Act.RETRY, name) == Obeyed(1, 1, 0)
        assert len(house.courier.deliveries) == 2


class TestPause:
    def test_begins_nothing_of_the_domain_until_it_is_resumed(self, house):
        assert now(house.spool.queue.pause("x.net")) is True
        assert now(house.spool.queue.pause("x.net")) is False
        paused, other = house.accept(remote("a@x.net")), house.accept(remote("a@y.net"))
        assert [each.entry for each in house.courier.deliveries] == [other]
        house.crash().open()
        house.clock.advance(3_000)
        assert [each.entry for each, _ in house.courier.waiting] == [other]
        assert list(now(house.spool.queue.paused())) == ["x.net"]
        assert now(house.spool.queue.resume("x.net")) is True
        assert [each.entry for each, _ in house.courier.waiting] == [other, paused]
        assert now(house.spool.queue.resume("x.net")) is False

    @pytest.mark.parametrize("way", [None, "smtp:[192.0.2.1]:25"])
    def test_ends_with_an_attempt_at_once_also_of_what_would_be_due_later(self, tmp_path, way):
        house = House(tmp_path / "spool", way_of=lambda recipient: way).open()
        name, other = delayed_entry(house, remote("a@x.net")), delayed_entry(house, remote("a@x.network"))
        now(house.spool.queue.pause("x.net"))
        house.clock.advance(10)
        now(house.spool.queue.resume("other.net"))
        assert len(house.courier.deliveries) == 2
        now(house.spool.queue.resume("x.net"))
        assert [each.entry for each, _ in house.courier.waiting] == [name]
        house.clock.advance(290)
        assert [each.entry for each, _ in house.courier.waiting] == [name, other]

    def test_ends_with_an_attempt_at_once_also_where_the_destination_was_down(self, house):
        house.courier.answer = lambda delivery: [
            replace(disposition(each, Action.DELAYED), standing=Standing.DOWN) for each in delivery.recipients
        ]
        names = [house.accept() for _ in range(8)]
        assert len(house.courier.deliveries) == 5
        house.courier.answer = all_are(Action.RELAYED)
        now(house.spool.queue.pause("example.net"))
        now(house.spool.queue.resume("example.net"))
        assert sorted(each.entry for each in house.courier.deliveries[5:]) == names

    def test_lets_go_of_what_is_in_memory_when_its_turn_comes(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(per_destination=1)).open()
        first, second, third = (house.accept() for _ in range(3))
        now(house.spool.queue.pause("example.net"))
        house.courier.finish(Action.RELAYED)
        assert [each.entry for each in house.courier.deliveries] == [first]
        assert house.spool.runner._lanes.works == 0
        now(house.spool.queue.resume("example.net"))
        house.courier.finish(Action.RELAYED)
        assert [each.entry for each in house.courier.deliveries] == [first, second, third]

    @pytest.mark.parametrize("place", ["before its first attempt", "on disk", "in an attempt"])
    def test_does_not_keep_a_bounce(self, house, place):
        bounced, kept = remote("a@x.net"), remote("b@x.net")
        if place == "before its first attempt":
            now(house.spool.queue.pause("x.net"))
        if place == "on disk":
            house.courier.answer = all_are(Action.DELAYED)
        name = house.accept(bounced, kept)
        house.courier.answer = None
        now(house.spool.queue.pause("x.net"))
        order(house, Act.BOUNCE, name, text="gone for good")
        if place == "in an attempt":
            house.courier.finish(Action.DELAYED)
        house.clock.advance(1_000)
        (report,) = [each for each in house.courier.deliveries if each.envelope.reverse_path is None]
        assert b"gone for good" in report.content.in_memory
        assert b"b@x.net" not in report.content.in_memory
        assert house.spool.runner._pausing._failed == {}
        house.courier.answer = all_are(Action.RELAYED)
        before = len(house.courier.deliveries)
        now(house.spool.queue.resume("x.net"))
        assert [list(each.recipients) for each in house.courier.deliveries[before:]] == [[1]]

    def test_does_not_keep_a_bounce_after_a_crash_either(self, house):
        now(house.spool.queue.pause("x.net"))
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        house.route = lambda address: defer("not now")
        order(house, Act.BOUNCE, name, text="gone for good")
        assert house.courier.deliveries == []
        house.route = lambda address: (local(str(address)),)
        house.crash().open()
        house.clock.advance(1_000)
        (report,) = house.courier.deliveries
        assert b"gone for good" in report.content.in_memory
        assert states(house) == ["new", "new"], "who is not bounced, and the report"

    def test_of_one_domain_leaves_others_of_the_entry(self, house):
        now(house.spool.queue.pause("x.net"))
        name = house.accept(remote("a@x.net"), remote("b@y.net"))
        house.courier.finish(Action.RELAYED)
        assert found(house) == [(name, [(0, "new")])]

    def test_of_all_stops_everything_but_what_stays_here(self, house):
        rerouted = delayed_entry(house, remote("c@z.net"))
        assert now(house.spool.queue.pause("*")) is True
        here, away = house.accept(local("bob@example.org")), house.accept(remote("a@x.net"))
        order(house, Act.REROUTE, rerouted, text="smtp:relay.example")
        now(house.spool.queue.pause("y.net"))
        other = house.accept(remote("a@y.net"))
        assert [each.entry for each, _ in house.courier.waiting] == [here]
        house.crash().open()
        house.clock.advance(3_000)
        assert [each.entry for each, _ in house.courier.waiting] == [here]
        now(house.spool.queue.resume("*"))
        assert {each.entry for each, _ in house.courier.waiting} == {here, away, rerouted}
        now(house.spool.queue.resume("y.net"))
        assert house.courier.deliveries[-1].entry == other

    def test_of_all_does_not_keep_a_bounce_after_a_crash(self, house):
        now(house.spool.queue.pause("*"))
        name = house.accept(remote("a@x.net"))
        house.route = lambda address: defer("not now")
        order(house, Act.BOUNCE, name, text="gone for good")
        house.route = lambda address: (local(str(address)),)
        house.crash().open()
        house.clock.advance(1_000)
        (report,) = house.courier.deliveries
        assert b"gone for good" in report.content.in_memory

    @pytest.mark.parametrize(
        ("lane", "name"),
        [
            ("", None),
            ("x.net by local", None),
            ("p.net by local", "p.net"),
            ("x.net", "*"),
            ("x.net by smtp:y", "*"),
            ("x.net via smtp:y", "*"),
            ("p.net", "p.net"),
            ("p.net by smtp:y", "p.net"),
            ("p.net via smtp:y", "*"),
        ],
    )
    def test_a_lane_is_paused_as(self, lane, name):
        assert paused_as(lane, {"p.net", "*"}) == name
        assert paused_as(lane, {"p.net"}) == (name if name != "*" else None)

    def test_of_a_domain_of_ours_leaves_all_other_accounts(self, house):
        now(house.spool.queue.pause("example.org"))
        paused, other = house.accept(local("bob@example.org")), house.accept(local("bob@other.org"))
        both = house.accept(local("eve@example.org"), local("eve@other.org"), remote("a@example.net"))
        assert [each.entry for each in house.courier.deliveries] == [other, both, both]
        house.crash().open()
        house.clock.advance(3_000)
        assert len(house.courier.waiting) == 3
        for _ in range(3):
            house.courier.finish(Action.DELIVERED)
        assert found(house) == [(paused, [(0, "new")]), (both, [(0, "new")])]
        now(house.spool.queue.resume("example.org"))
        assert [(each.entry, list(each.recipients)) for each, _ in house.courier.waiting] == [(paused, [0]), (both, [0])]
        assert {lane for (lane,) in rows(house, "SELECT lane FROM recipient WHERE due_at IS NOT NULL")} == {""}

    def test_of_a_domain_of_ours_counts_for_what_is_in_memory(self, tmp_path):
        house = House(tmp_path / "spool", limits=Limits(local_at_once=1)).open()
        first, second, other = (house.accept(local(f"bob@{domain}.org")) for domain in ("example", "example", "other"))
        now(house.spool.queue.pause("example.org"))
        house.courier.finish(Action.DELAYED)
        assert [each.entry for each in house.courier.deliveries] == [first, other]
        house.courier.finish(Action.DELIVERED)
        house.clock.advance(3_000)
        assert house.courier.waiting == []
        now(house.spool.queue.resume("example.org"))
        house.courier.finish(Action.DELIVERED)
        assert [each.entry for each in house.courier.deliveries] == [first, other, second, first]

    def test_of_a_domain_of_ours_that_is_over_while_all_others_are_paused(self, house):
        for each in ("example.org", "*"):
            now(house.spool.queue.pause(each))
        name = house.accept(local("bob@example.org"))
        now(house.spool.queue.resume("example.org"))
        assert [each.entry for each in house.courier.deliveries] == [name]

    @pytest.mark.parametrize("is_before", [False, True])
    def test_of_a_domain_of_ours_does_not_keep_a_bounce(self, house, is_before):
        if is_before:
            now(house.spool.queue.pause("example.org"))
        house.courier.answer = all_are(Action.DELAYED)
        name = house.accept(local("bob@example.org"), local("eve@example.org"), sender="a@elsewhere.net")
        house.courier.answer = None
        house.route = lambda address: defer("not now")
        order(house, Act.BOUNCE, name, text="gone for good", ordinals=(0,))
        now(house.spool.queue.pause("example.org"))
        house.route = lambda address: (remote(str(address)),)
        house.clock.advance(5_000)
        (report,) = [each for each in house.courier.deliveries if each.envelope.reverse_path is None]
        assert b"gone for good" in report.content.in_memory
        assert b"eve@example.org" not in report.content.in_memory

    def test_that_fails_half_way_keeps_no_failure_from_being_told(self, tmp_path):
        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: FailingConnection(connect_fast(path), script)).open()
        house.route = lambda address: defer("not now")
        house.accept(remote("a@x.net"))
        house.courier.finish(Action.FAILED)
        script += [0, sqlite3.SQLITE_IOERR_FSYNC]  # of what it does the second fails, if it is more than one
        now(house.spool.queue.pause("x.net"))
        script.clear()
        house.route = lambda address: (local(str(address)),)
        house.clock.advance(4_000)
        assert states(house) == ["new"], "the report"

    def test_is_bounded(self, house):
        house.spool.runner.pause(f"{number}.test" for number in range(MOST_PAUSED))
        with pytest.raises(QueueError, match="no more than"):
            now(house.spool.queue.pause("one.more"))
        now(house.spool.queue.pause("1.test"))  # as a server with several workers does it at each start


class TestActsOnWhatIsPaused:
    @pytest.mark.parametrize("act", [Act.RELEASE, Act.RETRY])
    def test_in_a_domain_of_ours_are_said_to_wait(self, house, act):
        name = delayed_entry(house, local("bob@example.org"))
        if act is Act.RELEASE:
            order(house, Act.HOLD, name)
        now(house.spool.queue.pause("example.org"))
        obeyed = order(house, act, name)
        assert house.courier.waiting == [], "it waits"
        assert obeyed.paused == {"example.org": 1}

    def test_are_not_said_to_wait_where_a_failure_is_told(self, house):
        house.route = lambda address: defer("not now")
        name = house.accept(remote("a@x.net"))
        house.courier.finish(Action.FAILED)
        now(house.spool.queue.pause("x.net"))
        house.route = lambda address: (local(str(address)),)
        obeyed = order(house, Act.RETRY, name)
        assert states(house) == ["new"], "the report: it did not wait"
        assert obeyed.paused == {}

    def test_are_said_to_wait_on_another_way_while_all_is_paused(self, house):
        name = delayed_entry(house)
        now(house.spool.queue.pause("*"))
        obeyed = order(house, Act.REROUTE, name, text="smtp:[one.test]:25")
        assert house.courier.waiting == [], "it waits"
        assert obeyed.paused == {"*": 1}


class TestTraces:
    def test_of_what_was_tried(self, house):
        name = delayed_entry(house, diagnostic="x" * 1_000)
        house.clock.advance(300)
        house.courier.finish(Action.DELAYED, "451 4.7.1 greylisted")
        shown = now(house.spool.queue.show(parse_name(name)))
        [(first, second)] = shown.traces.values()
        assert (first.at, first.action, first.diagnostic) == (NOW, "delayed", "x" * 400)
        assert (second.at, second.status, second.diagnostic) == (NOW + 300, "4.0.0", "451 4.7.1 greylisted")
        assert shown.found.rows[0].attempts == 2

    def test_are_bounded(self, house):
        house.courier.answer = all_are(Action.DELAYED)
        name = house.accept()
        for _ in range(TRACES + 10):
            house.clock.advance(100)
            order(house, Act.RETRY, name)
        assert len(actions(house, name)) <= TRACES + 1

    def test_go_with_the_entry(self, house):
        delayed_entry(house)
        house.clock.advance(300)
        house.courier.finish(Action.RELAYED)
        assert rows(house, "SELECT count(*) FROM attempt") == [(0,)]

    def test_cost_nothing_when_all_goes_well(self, tmp_path):
        """A message for one destination that is taken at once: the same statements as without traces."""
        statements: list[str] = []

        def traced(path: Path) -> sqlite3.Connection:
            connection = connect_fast(path)
            connection.set_trace_callback(statements.append)
            return connection

        house = House(tmp_path / "spool", connect=traced).open()
        house.courier.answer = all_are(Action.RELAYED)
        house.accept(remote("a@x.net"), remote("b@x.net"))
        statements.clear()
        house.accept(remote("a@x.net"), remote("b@x.net"))
        done = [each.split(" (")[0].split(" WHERE")[0] for each in statements]
        assert done == [
            "BEGIN IMMEDIATE",
            "INSERT INTO entry",
            "INSERT INTO recipient",
            "INSERT INTO recipient",
            "COMMIT",
            "BEGIN IMMEDIATE",
            "DELETE FROM entry",
            "DELETE FROM recipient",
            "COMMIT",
        ]
        statements.clear()
        house.accept(remote("a@x.net"), remote("b@y.net"))
        assert not [each for each in statements if each.startswith("DELETE FROM attempt") or "INTO attempt" in each]
        assert len(statements) == 15, "and as many for two destinations"


class TestFind:
    @pytest.fixture
    def full(self, house):
        """Fill a spool with one of each, by the name of its kind."""
        entries = {
            "new": house.accept(remote("bob@new.net"), sender=None),
            "delayed": delayed_entry(house, remote("Bob@x.net"), remote("eve@y.net"), diagnostic="450 Greylisted, come back"),
        }
        house.clock.advance(100)
        entries["held"] = delayed_entry(house, remote("bob@x.net"))
        order(house, Act.HOLD, entries["held"])
        house.courier.answer = all_are(Action.DELAYED)
        entries["large"] = house.accept(content=BIG, sender="carol@elsewhere.example")
        house.courier.answer = None
        return house, entries

    @pytest.mark.parametrize(
        ("fields", "wanted"),
        [
            ({}, {"new": [0], "delayed": [0, 1], "held": [0], "large": [0]}),
            ({"sender": "<>"}, {"new": [0]}),
            ({"sender": "carol@elsewhere.example"}, {"large": [0]}),
            ({"sender": "@example.org"}, {"delayed": [0, 1], "held": [0]}),
            ({"peer": "192.0.2.1"}, {"new": [0], "delayed": [0, 1], "held": [0], "large": [0]}),
            ({"peer": "192.0.2.0/24", "domain": "y.net"}, {"delayed": [1]}),
            ({"peer": "192.0.2.2"}, {}),
            ({"peer": "2001:db8::/32"}, {}),
            ({"session": "s1", "states": ["new"]}, {"new": [0]}),
            ({"session": "s"}, {}),
            ({"account": "alice@example.org"}, {}),
            ({"recipient": "bob@x.net"}, {"delayed": [0], "held": [0]}),
            ({"recipient": "@X.net"}, {"delayed": [0], "held": [0]}),
            ({"domain": "y.net"}, {"delayed": [1]}),
            ({"states": ["held"]}, {"held": [0]}),
            ({"states": ["new"]}, {"new": [0]}),
            ({"states": ["delayed", "held"]}, {"delayed": [0, 1], "held": [0], "large": [0]}),
            ({"states": ["corrupt"]}, {}),
            ({"reason": "greylist"}, {"delayed": [0, 1]}),
            ({"reason": "4.0.0 450 g"}, {"delayed": [0, 1]}),
            ({"octets_from": 100_000}, {"large": [0]}),
            ({"octets_to": 100_000}, {"new": [0], "delayed": [0, 1], "held": [0]}),
            ({"accepted_before": NOW}, {"new": [0], "delayed": [0, 1]}),
            ({"accepted_after": NOW + 100}, {"held": [0], "large": [0]}),
            ({"domain": "x.net", "states": ["delayed"], "reason": "450"}, {"delayed": [0]}),
        ],
    )
    def test_what_is_selected(self, full, fields, wanted):
        house, entries = full
        names = {name: kind for kind, name in entries.items()}
        answer = {names[name]: [ordinal for ordinal, _ in of_entry] for name, of_entry in found(house, parse_selection(fields))}
        assert answer == wanted

    @pytest.mark.parametrize(
        ("fields", "wanted"),
        [
            ({"account": "Alice@example.org"}, [0]),
            ({"account": "alice"}, []),
            ({"account": "al\u00e9x@example.org"}, [1]),
            ({"peer": "2001:db8::/32"}, [1]),
            ({"peer": "[2001:DB8:0::1]"}, [1]),
            ({"peer": "0.0.0.0/0"}, [0]),
            ({"session": "s-3"}, [2]),
        ],
    )
    def test_by_where_it_came_from(self, house, fields, wanted):
        origins = [
            Origin(service=Service.SUBMISSION, peer="192.0.2.1", account="alice@example.org", session="s-1"),
            Origin(service=Service.SUBMISSION, peer="2001:db8::1", account="al\u00e9x@example.org", session="s-2"),
            Origin(service=Service.LMTP, session="s-3"),
        ]
        names = []
        for origin in origins:
            draft = house.spool.intake.begin()
            draft.write(CONTENT)
            assert house.commit(draft, replace(envelope(remote("bob@x.net")), origin=origin)) is None
            names.append(draft.entry)
        assert [name for name, _ in found(house, parse_selection(fields))] == [names[each] for each in wanted]
        change_record(house, names[0])
        assert names[0] not in [name for name, _ in found(house, parse_selection(fields))], "whose it is cannot be known"

    def test_by_name(self, full):
        house, entries = full
        wanted = [entries["new"], entries["held"]]
        assert [name for name, _ in found(house, parse_selection({"names": [*wanted, "0" * 13]}))] == wanted

    @pytest.mark.parametrize(
        "fields",
        [
            [],
            {"colour": "red"},
            {"names": "x"},
            {"names": ["x"]},
            {"names": [1]},
            {"names": ["0" * 13] * 501},
            {"sender": "nobody"},
            {"sender": "a@b c"},
            {"sender": 5},
            {"domain": "-"},
            {"peer": "192.0.2.1/24"},
            {"peer": "client.example"},
            {"peer": 5},
            {"account": ["a"]},
            {"session": "x" * 401},
            {"states": ["sad"]},
            {"states": "held"},
            {"reason": "x" * 401},
            {"accepted_before": "yesterday"},
            {"accepted_before": -1},
            {"accepted_after": 1e300},
            {"octets_from": 1.5},
            {"octets_to": True},
            *({key: ""} for key in sorted(_FIELDS)),
            *({key: None} for key in sorted(_FIELDS)),
            {"sender": " "},
            {"reason": "\t"},
            {"names": []},
            {"states": []},
        ],
    )
    def test_what_is_no_selection(self, fields):
        with pytest.raises(SelectionError):
            parse_selection(fields)

    def test_a_quoted_local_part(self):
        assert parse_pattern('"a b"@x.net').local_part == "a b"

    def test_comes_in_pages_between_which_others_get_their_turn(self, tmp_path):
        """20,000 entries: every page is an operation of its own, and a commit waits for one page at most."""
        house = House(tmp_path / "spool").open(run=False)
        connection = house.spool._database._connected()
        identifiers = Identifiers(lambda: NOW - 86_400, lambda: 0.5)
        connection.execute("BEGIN")
        envelopes = [envelope(remote(f"user@d{number}.test"), accepted_at=NOW) for number in range(100)]
        content = MemoryContent(b"x: y\r\n")
        for number in range(20_000):
            made = envelopes[number % 100]
            entry = Entry(number=identifiers.make(), envelope=made, content=content, expires_at=NOW + 1e6)
            Accept(entry, lanes_of(made)).apply(connection)
        connection.execute("COMMIT")
        selection = parse_selection({"domain": "d7.test"})
        steps = [0]

        def step() -> int:
            steps[0] += 1
            return 0

        connection.set_progress_handler(step, 1_000)
        after: int | None = 0
        names: set[int] = set()
        pages, most = 0, 0
        while after is not None:
            steps[0] = 0
            page = house.spool._database.do(_select(selection, after)).result
            most = max(most, steps[0])
            names |= {each.number for each in page.found}
            after = page.to
            pages += 1
        assert len(names) == 200
        assert pages == 20_000 // SCAN_ENTRIES + 1
        assert most < 60, "thousands of steps of SQLite: a page takes 11, and all entries 400"


def change_record(house: House, name: str) -> None:
    """Damage the record of an entry, which is still full of hints."""
    house.spool._database._connected().execute(
        "UPDATE entry SET envelope = '{' || envelope WHERE number = ?", (parse_name(name),)
    )


def _select(selection, after):
    from mailstack.spool.queries import Select

    return Select(selection, after, 100)


class TestStats:
    def test_sums_by_lane(self, house):
        delayed_entry(house, remote("a@x.net"), remote("b@y.net"))
        house.clock.advance(10)
        order(house, Act.HOLD, delayed_entry(house, remote("a@x.net"), local("c@x.org")))
        page = now(house.spool.queue.sum_up(ALL, By.DOMAIN, after=0))
        octets = len(CONTENT)
        assert page.groups == {
            "x.net": Tally(2, 2 * octets, {"delayed": 1, "held": 1}, NOW),
            "y.net": Tally(1, octets, {"delayed": 1}, NOW),
            "": Tally(1, octets, {"delayed": 1}, NOW + 10),
        }
        assert (page.entries, page.octets, page.corrupt, page.to) == (2, 2 * len(CONTENT), 0, None)

    @pytest.mark.parametrize(
        ("lane", "parts"),
        [
            ("", ("", "")),
            ("x.net", ("x.net", "")),
            ("x.net by lmtp:unix:/run/a via b", ("x.net", "lmtp:unix:/run/a via b")),
            ("x.net via smtp:[192.0.2.1]:25", ("x.net", "smtp:[192.0.2.1]:25")),
            ("[192.0.2.1]", ("[192.0.2.1]", "")),
        ],
    )
    def test_a_lane_has_a_domain_and_a_way(self, lane, parts):
        assert parts_of_lane(lane) == parts

    def test_leaves_out_who_is_finished(self, house):
        house.courier.answer = lambda delivery: [
            disposition(each, Action.RELAYED if to.address.domain == "x.net" else Action.DELAYED)
            for each, to in delivery.recipients.items()
        ]
        house.accept(remote("a@x.net"), remote("b@y.net"), remote("c@y.net"))
        page = now(house.spool.queue.sum_up(ALL, By.DOMAIN, after=0))
        assert page.groups == {"y.net": Tally(1, len(CONTENT), {"delayed": 2}, NOW)}

    @pytest.mark.parametrize(
        ("by", "wanted"),
        [
            (By.SENDER, {"alice@example.org": 3, "<>": 1, "": 1}),
            (By.SENDER_DOMAIN, {"example.org": 3, "<>": 1, "": 1}),
            (By.ACCOUNT, {"": 5}),
            (By.PEER, {"192.0.2.1": 4, "": 1}),
            (By.REASON, {"4.0.0 450 4.2.1 later": 3, "": 1, "4.0.0 " + "x" * (REASON_CHARACTERS - 6): 1}),
        ],
    )
    def test_by_something_else(self, house, by, wanted):
        damaged = delayed_entry(house)
        delayed_entry(house, remote("a@x.net"), remote("b@x.net"))
        house.courier.answer = all_are(Action.DELAYED, "x" * 500)
        house.accept(sender=None)
        house.courier.answer = None
        house.accept()
        change_record(house, damaged)
        page = now(house.spool.queue.sum_up(ALL, by, after=0))
        assert {key: sum(each.states.values()) for key, each in page.groups.items()} == wanted

    def test_by_age(self, house):
        for seconds in (200_000, 86_400, 299, 301):
            house.accept()
            house.clock.advance(seconds)
        house.accept()
        page = now(house.spool.queue.sum_up(ALL, By.AGE, after=0))
        assert {key: each.entries for key, each in page.groups.items()} == {"": 1, "172800": 1, "900": 2, "300": 1}

    def test_of_what_is_selected(self, house):
        delayed_entry(house, remote("a@x.net"), remote("b@y.net"))
        delayed_entry(house)
        page = now(house.spool.queue.sum_up(parse_selection({"domain": "y.net"}), By.SENDER, after=0))
        assert page.groups == {"alice@example.org": Tally(1, len(CONTENT), {"delayed": 1}, NOW)}
        assert page.entries == 1

    def test_span(self, house):
        assert now(house.spool.queue.span()) is None
        first, last = parse_name(delayed_entry(house)), parse_name(delayed_entry(house))
        assert now(house.spool.queue.span()) == (first, last)


class TestReading:
    @pytest.mark.parametrize("content", [CONTENT, BIG])
    def test_comes_in_parts(self, house, content, logged):
        name = house.accept(content=content)
        number = parse_name(name)
        read, parts = b"", 0
        while (part := now(house.spool.queue.read(number, after=len(read), what="content", by="root"))).octets:
            assert part.in_all == len(content)
            assert len(part.octets) <= PART_OCTETS
            read += part.octets
            parts += 1
        assert read == content
        assert parts == -(-len(content) // PART_OCTETS)
        assert now(house.spool.queue.read(number, after=1 << 49, what="content", by="root")).octets == b""

    def test_is_in_the_log_once_and_also_when_it_begins_in_the_middle(self, house, logged):
        name = house.accept(content=BIG * 5)
        number, queue = parse_name(name), house.spool.queue

        def read(after: int, by: str = "root") -> int:
            return after + len(now(queue.read(number, after=after, what="content", by=by)).octets)

        def lines() -> list[str]:
            return [f"{each['entry']} {each['what']} {each['by']}" for each in logged if each.get("event") == "entry_read"]

        after = 0
        while after < len(BIG) * 5:
            after = read(after)
        assert lines() == [f"{name} content root"]
        after = read(1)
        read(after)
        assert len(lines()) == 2
        read(read(0, "eve"), "root")
        assert lines()[2:] == [f"{name} content eve", f"{name} content root"]

    def test_of_what_is_not_there(self, house, logged):
        assert now(house.spool.queue.read(1, after=0, what="content", by="root")) is None
        assert "entry_read" not in [each.get("event") for each in logged]
        name = house.accept(content=BIG)
        (house.folder / "content" / name).unlink()
        with pytest.raises(ReadingError, match=f"the content of {name} cannot be read: No such file"):
            now(house.spool.queue.read(parse_name(name), after=0, what="content", by="root"))


class TestOrders:
    def test_come_one_after_the_other(self, house):
        name = delayed_entry(house)
        house.batches["spool"].hold()
        first = Deferred.fromCoroutine(house.spool.queue.obey(Order(act=Act.HOLD, by="x"), [(parse_name(name), (0,))]))
        second = Deferred.fromCoroutine(house.spool.queue.obey(Order(act=Act.DELETE, by="x"), [(parse_name(name), (0,))]))
        house.clock.advance(300)
        house.batches["spool"].release()
        assert (first.result, second.result) == (Obeyed(1, 1, 0), Obeyed(1, 1, 0))
        assert found(house) == []
        assert len(house.courier.deliveries) == 1, "what becomes due while the operator has it is not attempted"

    def test_that_fail_leave_everything_as_it_was(self, tmp_path):
        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: FailingConnection(connect_fast(path), script)).open()
        name = delayed_entry(house)
        script.append(sqlite3.SQLITE_IOERR_FSYNC)
        with pytest.raises(StorageError):
            order(house, Act.DELETE, name)
        assert states(house) == ["delayed"]
        house.clock.advance(300)
        assert len(house.courier.waiting) == 1
        assert order(house, Act.HOLD, name).under_way == 1
        script.append(sqlite3.SQLITE_IOERR_FSYNC)
        house.courier.finish(Action.DELAYED)
        house.clock.advance(10)
        assert states(house) == ["held"], "the outcome is entered when the disk is well, and then the order is done"

    def test_that_fail_are_not_done_later_either_with_what_was_in_an_attempt(self, tmp_path):
        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: FailingConnection(connect_fast(path), script)).open()
        waits, runs = delayed_entry(house, remote("a@other.net")), house.accept()
        script += [0, sqlite3.SQLITE_IOERR_FSYNC]  # it looks where they are, and then it cannot write
        with pytest.raises(StorageError):
            order(house, Act.DELETE, waits, runs)
        house.courier.finish(Action.DELAYED)
        assert states(house) == ["delayed", "delayed"]

    def test_are_done_on_a_disk_that_is_full_by_what_was_kept_for_that(self, tmp_path):
        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: FailingConnection(connect_fast(path), script)).open()
        reserve = tmp_path / "spool" / "reserve"
        first, second = delayed_entry(house), delayed_entry(house)
        assert reserve.stat().st_blocks * 512 >= RESERVE_OCTETS
        script.append(sqlite3.SQLITE_FULL)
        assert order(house, Act.DELETE, first) == Obeyed(1, 1, 0)
        assert not reserve.exists()
        script.append(sqlite3.SQLITE_FULL)
        with pytest.raises(StorageError) as failure:
            order(house, Act.DELETE, second)
        assert failure.value.is_full
        assert order(house, Act.DELETE, second) == Obeyed(1, 1, 0)
        assert not reserve.exists()
        house.accept()
        assert reserve.exists(), "there is room for new mail again"

    def test_on_a_disk_that_is_full_do_not_let_new_mail_in(self, tmp_path):
        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: FailingConnection(connect_fast(path), script)).open()
        draft = house.spool.intake.begin()
        draft.write(CONTENT)
        house.batches["spool"].hold()
        refused = Deferred.fromCoroutine(draft.commit(envelope(remote("bob@example.net"))))
        paused = Deferred.fromCoroutine(house.spool.queue.pause("x.net"))
        script += [sqlite3.SQLITE_FULL, sqlite3.SQLITE_FULL]
        house.batches["spool"].release()
        assert (paused.result, refused.result.reply) == (True, NO_SPACE)
        assert not (tmp_path / "spool" / "reserve").exists()

    def test_for_what_runs_that_fail_are_done_when_the_disk_is_well_and_hold_up_nobody_else(self, tmp_path, logged):
        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: FailingConnection(connect_fast(path), script)).open()
        name, other = house.accept(), house.accept(remote("a@other.net"))
        order(house, Act.HOLD, name)
        [work, _] = house.spool.runner._leases._works.values()
        (order_of_hold,) = work.orders

        async def fail() -> None:
            script.append(sqlite3.SQLITE_IOERR_FSYNC)
            await order_of_hold()

        work.orders = (fail,)
        house.courier.finish(Action.DELAYED)
        assert states(house) == ["delayed", "new"]
        assert "unexpected" in [each.get("event") for each in logged]
        order(house, Act.DELETE, other)
        house.courier.finish(Action.DELAYED)
        assert states(house) == ["delayed"]
        house.clock.advance(10)
        assert states(house) == ["held"]
        house.clock.advance(300)
        assert house.courier.waiting == []

    @pytest.mark.parametrize("place", ["in an attempt", "behind an order", "behind the first of two"])
    def test_for_what_runs_do_not_keep_the_server_from_stopping_while_the_disk_fails(self, tmp_path, place):
        script: list[int] = []
        house = House(tmp_path / "spool", connect=lambda path: FailingConnection(connect_fast(path), script)).open()
        name = house.accept()
        for _ in range(2 if place == "behind the first of two" else 1):
            order(house, Act.HOLD, name)
        [work] = house.spool.runner._leases._works.values()
        first, *others = work.orders

        async def fail() -> None:
            script[:] = [sqlite3.SQLITE_IOERR_FSYNC] * 1_000
            await first()

        if place == "in an attempt":
            script[:] = [sqlite3.SQLITE_IOERR_FSYNC] * 1_000
        else:
            work.orders = (fail, *others)
            house.courier.finish(Action.DELAYED)
        closing = Deferred.fromCoroutine(house.spool.close(10.0))
        house.clock.pump([5.0] * 4)
        assert closing.called

    def test_for_what_runs_that_break_are_given_up(self, house, logged, monkeypatch):
        name = house.accept()
        order(house, Act.HOLD, name)

        async def breaks(*about):
            raise RuntimeError("a bug")

        with monkeypatch.context() as broken:
            broken.setattr(Queue, "_obey", breaks)
            house.courier.finish(Action.DELAYED)
        assert "unexpected" in [each.get("event") for each in logged]
        house.clock.advance(300)
        assert len(house.courier.waiting) == 1, "the mail goes on"


class TestOrdersDuringAnAttempt:
    """They are done when it has ended, with whom it was for; others of the entry and lane need not wait for it."""

    @pytest.fixture
    def looks(self, monkeypatch):
        """Between two orders something looks for what is due, as it may since the database answers when it likes."""
        obey_later = Queue.obey_later

        async def and_look(queue, *about):
            await obey_later(queue, *about)
            queue._runner._look()

        monkeypatch.setattr(Queue, "obey_later", and_look)

    def test_two_reroutes_leave_one_way_for_one_attempt(self, house, looks):
        name = house.accept(remote("a@x.net"), remote("b@y.net"))
        order(house, Act.REROUTE, name, text="smtp:one.example")
        order(house, Act.REROUTE, name, text="smtp:two.example")
        house.courier.finish(Action.DELAYED)
        attempts = [delivery for delivery, _ in house.courier.waiting if 0 in delivery.recipients]
        assert [delivery.recipients[0].via for delivery in attempts] == ["smtp:one.example"]
        house.courier.waiting = [each for each in house.courier.waiting if 0 in each[0].recipients]
        house.courier.finish(Action.DELAYED)
        attempts = [delivery for delivery, _ in house.courier.waiting if 0 in delivery.recipients]
        assert [delivery.recipients[0].via for delivery in attempts] == ["smtp:two.example"], "what was said last"

    def test_a_reroute_and_a_hold(self, house, looks):
        name = house.accept(remote("a@x.net"))
        order(house, Act.REROUTE, name, text="smtp:one.example")
        order(house, Act.HOLD, name)
        house.courier.finish(Action.DELAYED)
        while house.courier.waiting:
            house.courier.finish(Action.DELAYED)
        assert states(house) == ["held"]

    @pytest.mark.parametrize("act", [Act.HOLD, Act.DELETE, Act.BOUNCE])
    def test_are_done_at_once_for_whom_it_is_not(self, house, act):
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        house.courier.finish(Action.DELAYED)
        order(house, Act.RETRY, name, ordinals=(0,))
        assert order(house, act, name, text="gone", ordinals=(1,)) == Obeyed(1, 1, 0)
        assert (
            states(house)[:2]
            == {
                Act.HOLD: ["delayed", "held"],
                Act.DELETE: ["delayed"],
                Act.BOUNCE: ["delayed", "unreported"],
            }[act]
        ), "a bounce is told of when the lane is free"
        house.courier.finish(Action.RELAYED)
        house.clock.advance(1_000)
        assert [list(each.recipients) for each in house.courier.deliveries if each.entry == name] == [[0, 1], [0]]

    def test_whom_it_is_not_for_is_not_said_to_be_attempted(self, house):
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        house.courier.finish(Action.DELAYED)
        order(house, Act.RETRY, name, ordinals=(0,))
        place_of = house.spool.queue.place_of
        assert [place_of(parse_name(name), "x.net", ordinal) for ordinal in (0, 1)] == ["attempt", ""]

    def test_into_a_lane_that_is_busy_are_followed(self, house):
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        house.courier.finish(Action.DELAYED)
        order(house, Act.REROUTE, name, text="smtp:one.example", ordinals=(0,))
        order(house, Act.REROUTE, name, text="smtp:one.example", ordinals=(1,))
        assert [list(delivery.recipients) for delivery, _ in house.courier.waiting] == [[0]]
        house.courier.finish(Action.RELAYED)
        assert [list(delivery.recipients) for delivery, _ in house.courier.waiting] == [[1]]

    def test_are_done_when_the_server_stops(self, house):
        name = house.accept(remote("a@x.net"))
        assert order(house, Act.HOLD, name).under_way == 1
        closing = Deferred.fromCoroutine(house.spool.close(1.0))
        house.clock.advance(2)
        assert closing.called
        house.spool = house.make()
        house.open()
        assert states(house) == ["held"]
        assert house.courier.deliveries[1:] == []

    def test_are_done_when_the_outcome_cannot_be_entered(self, house, monkeypatch):
        async def broken(*about):
            raise ZeroDivisionError

        name = house.accept(remote("a@x.net"))
        assert order(house, Act.HOLD, name).under_way == 1
        monkeypatch.setattr(house.spool.runner._settlement, "_report", broken)
        house.courier.finish(Action.FAILED)
        assert states(house) == ["held"]

    def test_forgive_no_destination_but_their_own(self, house):
        down = replace(disposition(0, Action.DELAYED, "no connection"), standing=Standing.DOWN)
        house.courier.answer = lambda delivery: [replace(down, ordinal=each) for each in delivery.recipients]
        for _ in range(6):
            house.accept(remote("a@down.net"))
        name = house.accept(remote("b@other.net"))
        before = len(house.courier.deliveries)
        order(house, Act.RETRY, name)
        assert [each.entry for each in house.courier.deliveries[before:]] == [name]


class TestUnreported:
    def test_is_told_although_its_domain_is_paused(self, house):
        house.route = lambda address: defer("not now")
        house.accept(remote("a@x.net"))
        house.courier.finish(Action.FAILED)
        now(house.spool.queue.pause("x.net"))
        house.route = lambda address: (local(str(address)),)
        house.clock.advance(4_000)
        assert states(house) == ["new"], "the report"


VERSION_1 = """
CREATE TABLE entry (number INTEGER PRIMARY KEY, state TEXT NOT NULL, accepted_at REAL NOT NULL, expires_at REAL NOT NULL,
    envelope TEXT NOT NULL, content_octets INTEGER NOT NULL, content BLOB);
CREATE INDEX entry_in_file ON entry (number) WHERE content IS NULL;
CREATE INDEX entry_corrupt ON entry (number) WHERE state = 'corrupt';
CREATE TABLE recipient (entry INTEGER NOT NULL, ordinal INTEGER NOT NULL, lane TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, due_at REAL, status TEXT, diagnostic TEXT, remote_mta TEXT, PRIMARY KEY (entry, ordinal)
) WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (due_at, entry, ordinal, lane) WHERE due_at IS NOT NULL;
PRAGMA application_id = 0x6D737031;
PRAGMA user_version = 1;
"""


class TestVersion1:
    @pytest.fixture
    def old(self, tmp_path):
        """Make a spool as the version before wrote it, with an entry that waits."""
        made = House(tmp_path / "made").open()
        delayed_entry(made)
        columns = {
            "entry": "number, state, accepted_at, expires_at, envelope, content_octets, content",
            "recipient": "entry, ordinal, lane, state, attempts, due_at, status, diagnostic, remote_mta",
        }
        (tmp_path / "spool").mkdir(mode=0o700)
        (tmp_path / "spool" / "content").mkdir(mode=0o700)
        connection = sqlite3.connect(tmp_path / "spool" / "spool.db")
        connection.executescript(VERSION_1)
        for table, names in columns.items():
            for row in rows(made, f"SELECT {names} FROM {table}"):
                connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", row)
        connection.commit()
        connection.close()
        return House(tmp_path / "spool")

    def test_is_brought_up_to_date_and_loses_nothing(self, old):
        assert find_problem(old.folder) is None
        old.clock.advance(0)
        old.open()
        [(name, _)] = found(old)
        order(old, Act.HOLD, name)
        old.crash().open()
        assert states(old) == ["held"]
        order(old, Act.RELEASE, name)
        assert old.courier.deliveries[-1].attempt == 2
        old.courier.finish(Action.RELAYED)
        assert old.counts().entries == 0
        assert rows(old, "PRAGMA user_version") == [(2,)]

    def test_has_the_same_columns_and_indexes_as_a_new_one(self, old, tmp_path):
        old.open()
        new = House(tmp_path / "new").open()
        query = "SELECT type, name FROM sqlite_master ORDER BY name"
        assert rows(old, query) == rows(new, query)
        for table in ("entry", "recipient", "attempt", "paused"):
            assert rows(old, f"PRAGMA table_info({table})") == rows(new, f"PRAGMA table_info({table})")

    def test_is_untouched_when_that_fails_half_way(self, old, monkeypatch):
        from mailstack.spool import database
        from mailstack.spool.failures import SpoolError

        monkeypatch.setitem(database.UPGRADES, 1, "ALTER TABLE recipient ADD COLUMN held_at REAL; nonsense;")
        with pytest.raises(SpoolError, match="syntax error"):
            old.open()
        monkeypatch.undo()
        old.spool = old.make()
        old.open()
        assert len(found(old)) == 1
