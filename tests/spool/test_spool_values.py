"""The pure parts of the spool: identifiers, records, the schedule, the ledger, lanes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spool_house import CONTENT, NOW, disposition, envelope, local, remote

from mailstack.mail.address import Address
from mailstack.mail.disposition import Action
from mailstack.mail.envelope import BodyType, Origin, Service
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import MemoryContent
from mailstack.spool.entry import LOCAL_LANE, Entry, Pending, Work
from mailstack.spool.identifiers import ALPHABET, Identifiers, format_number, parse_name
from mailstack.spool.lanes import Lanes, Limits
from mailstack.spool.ledger import EXPIRED, State, changes, complete, expire
from mailstack.spool.record import RecordError, format_envelope, parse_envelope


class TestIdentifiers:
    @given(st.integers(0, 2**63 - 1))
    def test_names_are_read_back(self, number):
        name = format_number(number)
        assert len(name) == 13
        assert set(name) <= set(ALPHABET)
        assert parse_name(name) == number

    @given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
    def test_names_sort_as_numbers(self, one, other):
        assert (format_number(one) < format_number(other)) == (one < other)

    @pytest.mark.parametrize("name", ["", "0" * 12, "0" * 14, "u" * 13, "0" * 12 + "U", "z" * 13, "../../etc/pwd"])
    def test_other_names_are_none(self, name):
        assert parse_name(name) is None

    def test_grow_though_the_clock_stands_still_or_goes_back(self):
        moments = iter([NOW, NOW, NOW - 86_400, NOW, NOW + 1])
        chances = iter([0.9, 0.1, 0.0, 0.5, 0.0])
        identifiers = Identifiers(lambda: next(moments), lambda: next(chances))
        made = [identifiers.make() for _ in range(5)]
        assert made == sorted(set(made))

    def test_shards_never_make_the_same(self):
        one, other = (Identifiers(lambda: NOW, lambda: 0.5, shard) for shard in (0, 31))
        assert not {one.make() for _ in range(100)} & {other.make() for _ in range(100)}

    def test_go_on_after_what_is_on_disk(self):
        identifiers = Identifiers(lambda: 0.0, lambda: 0.0)
        identifiers.start_after(1 << 60)
        assert identifiers.make() > 1 << 60

    def test_fit_a_row_key_in_2250(self):
        assert Identifiers(lambda: 8.83e9, lambda: 0.99, 31).make() < 2**63

    @pytest.mark.parametrize("shard", [-1, 32])
    def test_refuse_other_shards(self, shard):
        with pytest.raises(ValueError, match="shard"):
            Identifiers(lambda: 0.0, lambda: 0.0, shard)


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ADDRESSES = st.builds(Address, TEXT, TEXT)


class TestRecords:
    @given(ADDRESSES, ADDRESSES, TEXT, st.one_of(st.none(), TEXT), st.floats(0, 1e11), st.booleans())
    def test_are_read_back(self, one, other, text, optional, moment, flag):
        origin = Origin(
            service=Service.SUBMISSION,
            peer=text,
            hello=text,
            extended=flag,
            tls=optional,
            account=optional,
            session=text,
            name=text,
        )
        recipients = (
            dataclasses.replace(remote("a@x.net"), address=one, original=other),
            dataclasses.replace(local("b@x.org"), original=other),
        )
        value = dataclasses.replace(
            envelope(),
            reverse_path=one,
            recipients=recipients,
            origin=origin,
            accepted_at=moment,
            body=BodyType.EIGHT_BIT_MIME,
            smtputf8=flag,
        )
        assert parse_envelope(format_envelope(value)) == value

    def test_null_reverse_path(self):
        value = envelope(sender=None)
        assert parse_envelope(format_envelope(value)) == value

    @pytest.mark.parametrize(
        "text", [None, b"{}", "", "null", "{}", "[]", "é", "[" * 100_000, '{"version":2}', '{"version":1}']
    )
    def test_refuse_what_is_none(self, text):
        with pytest.raises(RecordError):
            parse_envelope(text)

    def test_refuse_every_cut(self):
        text = format_envelope(envelope())
        for end in range(len(text)):
            with pytest.raises(RecordError):
                parse_envelope(text[:end])

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("from", ["a"]),
            ("from", [1, "x.net"]),
            ("to", []),
            ("to", [[["a", "x"], ["a", "x"], "moon", "x"]]),
            ("to", [[["a", "x"], ["a", "x"], "remote", 1]]),
            ("to", [[["a", "x"], ["a", "x"], "remote", "x", None, []]]),
            ("accepted_at", "noon"),
            pytest.param("accepted_at", 10**400, id="accepted_at-a long number"),
            ("requests", {"returns": None, "envelope_id": None, "requires_tls": False, "priority": 0, "deliver_by": []}),
            ("body", "9BIT"),
            ("smtputf8", 1),
            ("origin", {}),
            ("origin", None),
        ],
    )
    def test_refuse_each_wrong_field(self, key, value):
        fields = json.loads(format_envelope(envelope()))
        fields[key] = value
        with pytest.raises(RecordError):
            parse_envelope(json.dumps(fields))


class TestSchedule:
    def test_doubles_up_to_four_hours(self):
        delays = [Schedule().delay_seconds(attempt, 0.5) for attempt in range(1, 9)]
        assert delays == [300, 600, 1_200, 2_400, 4_800, 9_600, 14_400, 14_400]

    @given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
    def test_is_spread_and_bounded(self, attempts, chance):
        assert 270 <= Schedule().delay_seconds(attempts, chance) <= 14_400

    def test_chance_makes_a_difference(self):
        assert Schedule().delay_seconds(1, 0.0) == 270
        assert Schedule().delay_seconds(1, 0.999) > 329

    def test_gives_up_after_five_days_or_two(self):
        assert Schedule().expires_at(envelope(accepted_at=0.0)) == 5 * 86_400
        assert Schedule().expires_at(envelope(sender=None, accepted_at=0.0)) == 2 * 86_400


class TestLedger:
    def test_completes_to_exactly_one_each(self):
        given_ = [disposition(0, Action.RELAYED), disposition(0, Action.FAILED), disposition(9, Action.FAILED)]
        outcomes = complete(given_, [0, 1])
        assert [outcomes[0].action, outcomes[1].action, len(outcomes)] == [Action.RELAYED, Action.DELAYED, 2]

    def test_takes_nothing_for_an_outcome_that_is_none(self):
        outcomes = complete(
            [disposition(0, Action.EXPANDED), disposition(0, Action.FAILED), disposition(1, Action.EXPANDED)], [0, 1]
        )
        assert [outcomes[0].action, outcomes[1].action] == [Action.FAILED, Action.DELAYED]

    @pytest.mark.parametrize("action", list(Action))
    def test_expires_only_what_is_delayed_and_late(self, action):
        value = disposition(0, action, "why")
        assert expire(value, now=9.9, expires_at=10.0) == value
        late = expire(value, now=10.0, expires_at=10.0)
        if action is Action.DELAYED:
            assert (late.action, late.status) == (Action.FAILED, EXPIRED)
            assert "why" in late.diagnostic
        else:
            assert late == value

    def test_what_is_held_does_not_expire(self):
        held = dataclasses.replace(disposition(0, Action.DELAYED), is_held=True)
        assert expire(held, now=10.0, expires_at=10.0) == held

    @pytest.mark.parametrize(
        ("action", "is_settled", "state", "due_at"),
        [
            (Action.DELIVERED, False, State.DELIVERED, None),
            (Action.DELIVERED, True, State.DELIVERED, None),
            (Action.RELAYED, False, State.RELAYED, None),
            (Action.RELAYED, True, State.RELAYED, None),
            (Action.DISCARDED, False, State.DISCARDED, None),
            (Action.DELAYED, False, State.WAITING, 7.0),
            (Action.DELAYED, True, State.WAITING, 7.0),
            (Action.FAILED, False, State.UNREPORTED, 7.0),
            (Action.FAILED, True, State.FAILED, None),
        ],
    )
    def test_every_action(self, action, is_settled, state, due_at):
        value = disposition(3, action)
        [change] = changes({3: value}, {3: 2}, retry_at=7.0, report_is_settled=is_settled)
        assert (change.state, change.due_at, change.attempts, change.disposition) == (state, due_at, 2, value)


def work(lane: str, octets: int = 0) -> Work:
    entry = Entry(number=1, envelope=envelope(), content=MemoryContent(CONTENT[:1] * octets), expires_at=0.0)
    return Work(entry, lane, {0: Pending()}, may_repeat=False)


class TestLanes:
    def test_take_turns(self):
        lanes = Lanes(Limits())
        for lane in ("a", "a", "a", "b", "c"):
            lanes.add(work(lane), NOW)
        taken = []
        while found := lanes.take(NOW):
            taken.append(found.lane)
        assert taken == ["a", "b", "c", "a", "a"]

    @given(st.lists(st.sampled_from(["", "a", "b", "c", "free"])))
    def test_never_exceed_a_limit_nor_leave_a_place_empty(self, steps):
        lanes = Lanes(Limits(attempts_at_once=200, initial_per_destination=2, per_destination=2, local_at_once=2))
        running: list[Work] = []
        waiting: list[str] = []
        for step in steps:
            if step == "free" and running:
                lanes.free(running.pop(0), NOW)
            elif step != "free":
                lanes.add(work(step), NOW)
                waiting.append(step)
            while found := lanes.take(NOW):
                running.append(found)
                waiting.remove(found.lane)
            at = [each.lane for each in running]
            assert all(at.count(lane) <= 2 for lane in at)
            assert all(at.count(lane) == 2 for lane in waiting)

    def test_are_within_a_limit_together(self):
        lanes = Lanes(Limits(attempts_at_once=3))
        for number in range(9):
            lanes.add(work(f"{number}.example"), NOW)
        running = [lanes.take(NOW) for _ in range(4)]
        assert running[3] is None
        lanes.free(running[0], NOW)
        assert lanes.take(NOW).lane == "3.example"
        assert lanes.take(NOW) is None

    def test_keep_room_for_local_mail_and_for_the_next_lane(self):
        lanes = Lanes(Limits(works=16, works_per_destination=4))
        for lane in ("a", "a", "a", "a", "b", "b", "b", "c", "c", "d"):
            assert lanes.has_room_for(lane), lane
            lanes.add(work(lane), NOW)
        for lane in "abcd":
            assert not lanes.has_room_for(lane), lane
        assert lanes.has_room_for("e")
        assert not lanes.has_room_for("e", is_old=True)
        lanes.add(work("e"), NOW)
        lanes.add(work("f"), NOW)
        assert not lanes.has_room_for("g")
        assert lanes.has_room_for(LOCAL_LANE, 3)
        assert not lanes.has_room_for(LOCAL_LANE, 4)

    def test_count_octets(self):
        lanes = Lanes(Limits(octets=100))
        large = work(LOCAL_LANE, 100)
        lanes.add(large, NOW)
        assert not lanes.has_room
        lanes.forget(large)
        assert (lanes.works, lanes.octets, lanes.has_room) == (0, 0, True)
