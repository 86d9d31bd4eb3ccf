"""Recipients whose way is another than their destination says are in lanes of their own, also when the way changes."""

from __future__ import annotations

import pytest
from spool_house import NOW, House, all_are, local, now, remote
from test_recovery import rows

from mailstack.mail.disposition import Action
from mailstack.mail.envelope import Recipient
from mailstack.spool.concurrency import Rate
from mailstack.spool.entry import domain_of, is_lane_of, lane_of
from mailstack.spool.hands import Act, Order
from mailstack.spool.identifiers import parse_name
from mailstack.spool.lanes import Limits

SLOW = "lmtp:[127.0.0.1]:24"


class Ways:
    """The ways of domains, as a test sets them."""

    def __init__(self, **ways: str) -> None:
        self.by_domain = {domain.replace("_", "."): way for domain, way in ways.items()}

    def __call__(self, recipient: Recipient) -> str | None:
        return self.by_domain.get(recipient.address.domain)


@pytest.fixture
def ways():
    return Ways()


@pytest.fixture
def house(tmp_path, ways):
    return House(tmp_path / "spool", way_of=ways).open()


def lanes(house: House) -> list[str]:
    return [lane for (lane,) in rows(house, "SELECT lane FROM recipient ORDER BY entry, ordinal")]


def attempted(house: House) -> list[str]:
    """Return for whom attempts run."""
    return [str(each.address) for delivery, _ in house.courier.waiting for each in delivery.recipients.values()]


class TestNames:
    @pytest.mark.parametrize(
        ("recipient", "way", "lane", "domain"),
        [
            (local("bob@x.org"), None, "", ""),
            (remote("bob@x.org"), None, "x.org", "x.org"),
            (local("bob@x.org"), SLOW, f"x.org by {SLOW}", "x.org"),
            (remote("bob@x.org"), "smtp:relay", "x.org by smtp:relay", "x.org"),
        ],
    )
    def test_are_of_the_destination_and_the_way(self, recipient, way, lane, domain):
        assert lane_of(recipient, lambda recipient: way) == lane
        assert domain_of(lane) == domain
        assert is_lane_of(lane, recipient)
        assert not is_lane_of("y.org", recipient)
        assert not is_lane_of(f"y.org by {SLOW}", recipient)
        assert not is_lane_of("x.org via smtp:elsewhere", recipient), "that is what the operator says, and the row would too"


class TestAWay:
    def test_that_hangs_keeps_no_mail_for_maildirs_waiting(self, house, ways):
        ways.by_domain["slow.org"] = SLOW
        for number in range(300):
            house.accept(local(f"{number}@slow.org"))
        house.accept(local("bob@example.org"))
        assert attempted(house)[-1] == "bob@example.org"
        assert len(house.courier.waiting) == 5 + 1, "it is a destination that nobody knows yet"

    def test_that_hangs_leaves_memory_to_others_however_many_domains_it_serves(self, tmp_path):
        def way_of(recipient):
            return SLOW if "slow" in recipient.address.domain else None

        house = House(tmp_path / "spool", way_of=way_of, limits=Limits(works=100, per_destination=5)).open()
        for number in range(200):
            house.accept(remote(f"bob@{number}.slow.net"))
        house.accept(remote("bob@x.net"))
        assert len(attempted(house)) == 5 + 1
        assert attempted(house)[-1] == "bob@x.net"
        while house.courier.waiting:
            house.courier.finish(Action.RELAYED)
            house.clock.advance(0.05)
        assert house.counts().entries == 0

    def test_of_some_of_a_domain_is_a_lane_of_its_own(self, tmp_path):
        def way_of(recipient):
            return SLOW if recipient.address.local_part == "slow" else None

        house = House(tmp_path / "spool", way_of=way_of, limits=Limits(per_destination=1)).open()
        for _ in range(3):
            house.accept(remote("slow@x.net"))
        house.accept(remote("fast@x.net"))
        assert attempted(house) == ["slow@x.net", "fast@x.net"]

    def test_shares_what_is_said_of_its_domain(self, tmp_path, ways):
        ways.by_domain["x.net"] = "smtp:[relay.example]"
        limits = Limits(rates={"x.net": Rate(1, 60.0)})
        house = House(tmp_path / "spool", way_of=ways, limits=limits).open()
        house.courier.answer = all_are(Action.RELAYED)
        house.accept(remote("a@x.net"))
        house.accept(remote("b@x.net"))
        assert len(house.courier.deliveries) == 1
        now(house.spool.queue.pause("x.net"))
        house.clock.advance(120)
        assert len(house.courier.deliveries) == 1
        now(house.spool.queue.resume("x.net"))
        assert len(house.courier.deliveries) == 2

    def test_has_one_rate_with_all_other_ways_to_its_domain(self, tmp_path):
        def way_of(recipient):
            return SLOW if recipient.address.local_part == "slow" else None

        house = House(tmp_path / "spool", way_of=way_of, limits=Limits(rates={"x.net": Rate(1, 60.0)})).open()
        house.courier.answer = all_are(Action.RELAYED)
        house.accept(remote("slow@x.net"))
        house.accept(remote("fast@x.net"))
        assert len(house.courier.deliveries) == 1
        house.clock.advance(60)
        assert len(house.courier.deliveries) == 2

    def test_is_kept_for_what_is_reported(self, house, ways):
        ways.by_domain["example.org"] = SLOW  # where the sender has his mail
        house.accept(remote("bob@x.net"))
        house.courier.finish(Action.FAILED)
        assert lanes(house) == [f"example.org by {SLOW}"]
        assert attempted(house) == ["alice@example.org"]


class TestAnotherWay:
    """What waits is put into another lane when it is met; and what is in an attempt stays where it is until that ends."""

    def test_for_what_waits_on_disk(self, house, ways):
        house.courier.answer = all_are(Action.DELAYED, "450 4.2.1 later")
        house.accept(local("bob@x.org"), local("eve@y.org"), remote("joe@x.org"))
        assert lanes(house) == ["", "", "x.org"]
        house.courier.answer = None
        ways.by_domain["x.org"] = SLOW
        house.clock.advance(300)
        assert sorted(attempted(house)) == ["bob@x.org", "eve@y.org", "joe@x.org"]
        assert lanes(house) == [f"x.org by {SLOW}", "", f"x.org by {SLOW}"]
        for _ in range(2):
            house.courier.finish(Action.DELIVERED)
        assert rows(house, "SELECT * FROM entry") == []
        assert not house.spool.runner._leases._works
        assert not house.spool.runner._leases._hands

    def test_for_what_waits_in_memory(self, tmp_path, ways):
        house = House(tmp_path / "spool", way_of=ways, limits=Limits(local_at_once=1)).open()
        first, second = house.accept(local("a@y.org")), house.accept(local("b@x.org"))
        ways.by_domain["x.org"] = SLOW
        house.courier.finish(Action.DELIVERED)
        house.clock.advance(1)
        assert attempted(house) == ["b@x.org"]
        assert [each.entry for each in house.courier.deliveries] == [first, second]
        assert lanes(house) == [f"x.org by {SLOW}"]

    def test_for_what_is_in_an_attempt_counts_afterwards(self, house, ways):
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        ways.by_domain["x.net"] = SLOW
        now(house.spool.runner.flush())
        house.clock.advance(3_000)
        assert len(house.courier.deliveries) == 1, "it would be sent twice"
        _, waiting = house.courier.waiting.pop()
        waiting.callback(all_are(Action.DELAYED, "450 4.2.1 later")(house.courier.deliveries[0]))
        house.clock.advance(300)
        assert [each.entry for each in house.courier.deliveries] == [name, name]
        assert lanes(house) == [f"x.net by {SLOW}"] * 2

    def test_after_a_crash(self, house, ways):
        house.accept(local("bob@x.org"))
        ways.by_domain["x.org"] = SLOW
        house.crash().open()
        assert lanes(house) == [f"x.org by {SLOW}"]
        ways.by_domain.clear()
        house.crash().open()
        assert lanes(house) == [""]
        house.courier.finish(Action.DELIVERED)
        assert rows(house, "SELECT * FROM entry") == []

    def test_when_the_database_fails_is_noted_the_next_time(self, house, ways):
        house.courier.answer = all_are(Action.DELAYED, "450 4.2.1 later")
        house.accept(local("bob@x.org"))
        house.courier.answer = None
        ways.by_domain["x.org"] = SLOW
        connection = house.spool._database._connected()
        connection.execute("CREATE TRIGGER no BEFORE UPDATE OF lane ON recipient BEGIN SELECT RAISE(ABORT, 'disk'); END")
        house.clock.advance(300)
        assert attempted(house) == []
        connection.execute("DROP TRIGGER no")
        house.clock.advance(10)
        assert attempted(house) == ["bob@x.org"]

    def test_of_the_operator_stands_for_this_message(self, house, ways):
        house.courier.answer = all_are(Action.DELAYED, "450 4.2.1 later")
        name = house.accept(remote("bob@x.net"))
        ways.by_domain["x.net"] = SLOW
        via = Order(act=Act.REROUTE, text="smtp:[other.example]", by="root")
        now(house.spool.queue.obey(via, [(parse_name(name), (0,))]))
        assert lanes(house) == ["x.net via smtp:[other.example]"]
        house.clock.advance(300)
        assert lanes(house) == ["x.net via smtp:[other.example]"]
        assert house.courier.deliveries[-1].recipients[0].via == "smtp:[other.example]"
        back = Order(act=Act.REROUTE, text="", by="root")
        now(house.spool.queue.obey(back, [(parse_name(name), (0,))]))
        assert lanes(house) == [f"x.net by {SLOW}"]

    def test_of_one_that_was_bounced_though_its_domain_is_paused(self, house, ways):
        now(house.spool.queue.pause("x.net"))
        name = house.accept(remote("bob@x.net"))
        ways.by_domain["x.net"] = SLOW
        now(house.spool.queue.obey(Order(act=Act.BOUNCE, text="gone", by="root"), [(parse_name(name), (0,))]))
        assert attempted(house) == ["alice@example.org"], "the sender is told"


class TestOthersOfAnEntry:
    def test_that_become_due_during_an_attempt_follow_it(self, house):
        """One lane, one attempt at a time; and nobody has to wait for the next hour."""
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        _, waiting = house.courier.waiting.pop()
        now(house.spool.queue.obey(Order(act=Act.HOLD, by="root"), [(parse_name(name), (0,))]))
        waiting.callback(all_are(Action.DELAYED, "450 4.2.1 later")(house.courier.deliveries[0]))
        house.clock.advance(299)
        now(house.spool.queue.obey(Order(act=Act.RELEASE, by="root"), [(parse_name(name), (0,))]))
        assert attempted(house) == ["a@x.net"]
        house.clock.advance(2)  # b is due
        house.clock.advance(2)
        assert attempted(house) == ["a@x.net"]
        house.courier.finish(Action.RELAYED)
        assert attempted(house) == ["b@x.net"]

    def test_are_retried_when_the_attempt_of_another_has_ended(self, house):
        name = house.accept(remote("a@x.net"), remote("b@x.net"))
        _, waiting = house.courier.waiting.pop()
        now(house.spool.queue.obey(Order(act=Act.HOLD, by="root"), [(parse_name(name), (0,))]))
        waiting.callback(all_are(Action.DELAYED, "450 4.2.1 later")(house.courier.deliveries[0]))
        now(house.spool.queue.obey(Order(act=Act.RELEASE, by="root"), [(parse_name(name), (0,))]))
        assert attempted(house) == ["a@x.net"]
        obeyed = now(house.spool.queue.obey(Order(act=Act.RETRY, by="root"), [(parse_name(name), (0, 1))]))
        assert (obeyed.recipients, obeyed.under_way) == (1, 1)
        house.courier.finish(Action.DELAYED, "450 4.2.1 later")
        assert attempted(house) == ["b@x.net"], "a has just been tried; b waited"
        assert house.clock.seconds() == NOW
