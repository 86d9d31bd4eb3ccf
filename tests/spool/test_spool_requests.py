"""What senders ask besides delivery: to be told, or not; all of it back, or not; later; sooner than others."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spool_house import CONTENT, NOW, House, all_are, disposition, envelope, local, remote

from mailstack.mail.address import Address, parse_address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.requests import DeliverBy, Notify, OriginalRecipient, Requests, Return
from mailstack.mail.status import EnhancedStatus
from mailstack.spool import operations
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import MemoryContent
from mailstack.spool.entry import Entry, Pending, Work
from mailstack.spool.lanes import Lanes, Limits
from mailstack.spool.record import format_envelope, parse_envelope

SUCCESS = frozenset((Notify.SUCCESS,))
NEVER = frozenset((Notify.NEVER,))
FAILURE = frozenset((Notify.FAILURE,))
DELAY = frozenset((Notify.DELAY,))


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "spool").open()


def accept(house, *recipients, requests=None, content=CONTENT, account="alice@example.org"):
    draft = house.spool.intake.begin()
    draft.write(content)
    about = envelope(*recipients, accepted_at=house.clock.seconds())
    about = replace(about, requests=requests or Requests(), origin=replace(about.origin, account=account))
    assert house.commit(draft, about) is None
    return draft.entry


def asking(recipient, notify, original=None):
    return replace(recipient, notify=notify, original_recipient=original)


def unreachable(address):
    raise RuntimeError("no directory")


def report_of(house):
    """Return the DSN that waits for its delivery, as its fields for programs and its parts."""
    [(delivery, _)] = house.courier.waiting
    assert delivery.envelope.reverse_path is None
    message = message_from_bytes(delivery.content.in_memory)
    parts = message.get_payload()
    return [dict(each.items()) for each in parts[1].get_payload()], parts


class TestNotify:
    @pytest.mark.parametrize(
        ("notify", "action", "is_told"),
        [
            (None, Action.FAILED, True),
            (None, Action.DELIVERED, False),
            (None, Action.RELAYED, False),
            (FAILURE, Action.FAILED, True),
            (FAILURE, Action.DELIVERED, False),
            (SUCCESS, Action.FAILED, False),
            (SUCCESS, Action.DELIVERED, True),
            (SUCCESS, Action.RELAYED, True),
            (SUCCESS | FAILURE, Action.FAILED, True),
            (SUCCESS | FAILURE, Action.RELAYED, True),
            (DELAY, Action.FAILED, False),
            (None, Action.DISCARDED, False),
            (SUCCESS | FAILURE, Action.DISCARDED, False),
            (NEVER, Action.FAILED, False),
            (NEVER, Action.DELIVERED, False),
        ],
    )
    def test_who_is_told_of_what(self, house, notify, action, is_told):
        accept(house, asking(remote("bob@example.net"), notify))
        house.courier.finish(action)
        assert len(house.courier.waiting) == is_told
        assert house.counts().entries == is_told

    def test_a_host_that_notifies_leaves_us_nothing_to_tell(self, house):
        accept(house, asking(remote("bob@example.net"), SUCCESS))
        _, waiting = house.courier.waiting.pop()
        waiting.callback(
            [
                Disposition(
                    ordinal=0,
                    action=Action.RELAYED,
                    status=EnhancedStatus(2, 0, 0),
                    diagnostic="250 ok",
                    honours=frozenset(("DSN",)),
                )
            ]
        )
        assert not house.courier.waiting
        assert house.counts().entries == 0

    def test_one_report_of_all_that_is_to_be_told(self, house):
        accept(
            house,
            asking(remote("one@example.net"), SUCCESS),
            asking(remote("two@example.net"), NEVER),
            asking(remote("three@example.net"), FAILURE),
        )
        house.courier.answer = None
        _, waiting = house.courier.waiting.pop()
        actions = (Action.RELAYED, Action.FAILED, Action.FAILED)
        waiting.callback(
            [
                Disposition(
                    ordinal=ordinal,
                    action=action,
                    status=EnhancedStatus(5 if action is Action.FAILED else 2, 0, 0),
                    diagnostic="so be it",
                )
                for ordinal, action in enumerate(actions)
            ]
        )
        groups, _ = report_of(house)
        assert [(each["Final-Recipient"], each["Action"]) for each in groups[1:]] == [
            ("rfc822; one@example.net", "relayed"),
            ("rfc822; three@example.net", "failed"),
        ]

    def test_the_report_is_on_disk_before_the_failure_is_final(self, house):
        accept(house, remote("bob@example.net"))
        house.courier.finish(Action.FAILED)
        house.crash().open()
        groups, _ = report_of(house)
        assert groups[1]["Action"] == "failed"
        house.courier.finish(Action.DELIVERED)
        assert house.counts().entries == 0

    def test_nothing_is_final_while_the_report_cannot_be_written(self, house, monkeypatch):
        accept(house, remote("bob@example.net"))
        monkeypatch.setattr(operations, "format_envelope", unreachable)
        house.courier.finish(Action.FAILED)
        house.crash().open()
        assert [str(each.recipients[0].address) for each, _ in house.courier.waiting] == ["bob@example.net"]

    def test_what_succeeded_is_finished_when_nobody_can_be_told(self, house):
        house.route = unreachable
        accept(house, asking(remote("bob@example.net"), SUCCESS))
        house.courier.finish(Action.RELAYED)
        assert house.counts().entries == 0

    def test_the_sender_knows_the_message_and_the_recipient_again(self, house):
        original = OriginalRecipient("rfc822", "Bob+alias@example.org")
        requests = Requests(envelope_id="QQ 314+159", returns=Return.HEADERS)
        accept(house, asking(remote("bob@example.net"), SUCCESS, original), requests=requests)
        house.courier.finish(Action.RELAYED)
        (about, recipient), _ = report_of(house)
        assert about["Original-Envelope-Id"] == "QQ 314+159"
        assert recipient["Original-Recipient"] == "rfc822;Bob+alias@example.org"
        assert recipient["Final-Recipient"] == "rfc822; bob@example.net"


class TestExpanded:
    """Of an alias to several the sender is told that it is one, with the outcome of the first attempt."""

    TEAM = Address("team", "example.org")

    def several(self):
        one, two = remote("one@example.net"), remote("two@example.com")
        return (
            replace(one, original=self.TEAM, notify=NEVER, is_expanded=True),
            replace(two, original=self.TEAM, notify=NEVER),
        )

    @pytest.mark.parametrize("action", [Action.RELAYED, Action.DELAYED, Action.FAILED])
    def test_whatever_becomes_of_them(self, house, action):
        accept(house, *self.several())
        house.courier.finish(action)
        house.courier.finish(Action.RELAYED)
        groups, _ = report_of(house)
        assert [(each["Final-Recipient"], each["Action"]) for each in groups[1:]] == [("rfc822; team@example.org", "expanded")]

    def test_once_also_after_a_crash(self, house):
        accept(house, *self.several())
        house.courier.finish(Action.DELAYED)
        house.courier.finish(Action.RELAYED)
        house.courier.finish(Action.DELIVERED)
        house.crash().open()
        house.clock.advance(301)
        house.courier.finish(Action.DELAYED)
        assert not house.courier.waiting
        assert house.counts().entries == 1

    def test_nobody_is_told_where_it_leads(self, house):
        accept(house, *self.several())
        house.courier.finish(Action.RELAYED)
        [report] = [each for each, _ in house.courier.waiting if each.envelope.reverse_path is None]
        assert b"example.net" not in report.content.in_memory


class TestGlobal:
    """Who gave us what needs SMTPUTF8 gets a notification of that kind, if it surely reaches him."""

    @pytest.mark.parametrize(
        ("sender", "to", "smtputf8", "is_global"),
        [
            ("alice@example.org", local("alice@example.org"), True, True),
            ("alice@example.org", local("alice@example.org"), False, False),
            ("alice@example.com", remote("alice@example.com"), True, False),
            ("zo\u00eb@example.com", remote("zo\u00eb@example.com"), True, True),
        ],
    )
    def test_to_whom(self, house, sender, to, smtputf8, is_global):
        house.route = lambda address: (to,)
        draft = house.spool.intake.begin()
        draft.write(CONTENT)
        assert house.commit(draft, replace(envelope(remote("b\u00f8b@example.net"), sender=sender), smtputf8=smtputf8)) is None
        house.courier.finish(Action.FAILED)
        [(report, _)] = house.courier.waiting
        kind = b"message/global-delivery-status" if is_global else b"message/delivery-status"
        assert b"Content-Type: " + kind + b"\r\n" in report.content.in_memory
        assert report.envelope.smtputf8 is (is_global or not parse_address(sender).is_ascii)


class TestDelay:
    """Once after four hours, or when the sender said."""

    @pytest.fixture
    def house(self, tmp_path):
        return House(tmp_path / "spool", schedule=Schedule(spread=0.0)).open()

    def fail_until(self, house, at):
        """Let every attempt fail for the time being, until a time, and return when the sender was told."""
        told = []

        def answer(delivery):
            if delivery.envelope.reverse_path is None:
                assert b"Action: delayed" in delivery.content.in_memory
                assert b"\r\nWill-Retry-Until: Wed, 20 Jan 2027 08:00:00 +0000\r\n" in delivery.content.in_memory
                told.append(house.clock.seconds() - NOW)
            return all_are(Action.DELIVERED if delivery.envelope.reverse_path is None else Action.DELAYED)(delivery)

        house.courier.answer = answer
        if house.courier.waiting:
            house.courier.finish(Action.DELAYED)
        while house.clock.seconds() < NOW + at:
            house.clock.advance(60)
        return told

    @pytest.mark.parametrize(("notify", "times"), [(None, 1), (DELAY, 1), (FAILURE, 0), (NEVER, 0), (SUCCESS, 0)])
    def test_the_sender_is_told_once(self, house, notify, times):
        accept(house, asking(remote("bob@example.net"), notify))
        told = self.fail_until(house, 3 * 86_400)
        assert len(told) == times
        assert all(14_400 <= at < 2 * 14_400 + 300 for at in told)

    def test_also_when_there_was_a_crash_between(self, house):
        accept(house, remote("bob@example.net"))
        assert len(self.fail_until(house, 86_400)) == 1
        house.crash().open()
        assert self.fail_until(house, 3 * 86_400) == []

    def test_not_at_all_when_that_is_not_wanted(self, tmp_path):
        house = House(tmp_path / "spool", schedule=Schedule(spread=0.0, warning_seconds=0)).open()
        accept(house, remote("bob@example.net"))
        assert self.fail_until(house, 3 * 86_400) == []

    def test_at_the_deadline_of_the_sender(self, house):
        requests = Requests(deliver_by=DeliverBy(NOW + 1_000, returns=False))
        accept(house, remote("bob@example.net"), requests=requests)
        told = self.fail_until(house, 3 * 86_400)
        assert len(told) == 1
        assert 1_000 <= told[0] <= 1_060

    def test_who_wants_it_back_gets_it_back_in_time(self, house):
        requests = Requests(deliver_by=DeliverBy(NOW + 1_000, returns=True))
        accept(house, remote("bob@example.net"), requests=requests)
        house.courier.finish(Action.DELAYED)
        house.clock.advance(300)
        house.courier.finish(Action.DELAYED)
        house.clock.advance(700)
        groups, _ = report_of(house)
        assert groups[1]["Action"] == "failed"
        assert groups[1]["Status"] == "5.4.7"

    def test_nothing_is_delivered_too_late(self, house):
        house.spool.runner._is_on = False  # as if we had been out of service
        accept(house, local("bob@example.org"), requests=Requests(deliver_by=DeliverBy(NOW + 10, returns=True)))
        house.clock.advance(11)
        house.crash().open()
        groups, _ = report_of(house)
        assert groups[1]["Status"] == "5.4.7"

    @pytest.mark.parametrize(
        ("by", "honours", "is_told"),
        [
            (DeliverBy(NOW + 99, returns=False), {"DELIVERBY", "DSN"}, False),
            (DeliverBy(NOW + 99, returns=False), {"DSN"}, True),
            (DeliverBy(NOW + 99, returns=False, traces=True), {"DELIVERBY", "DSN"}, True),
            (DeliverBy(NOW + 99, returns=True), {"DELIVERBY"}, False),
        ],
    )
    def test_who_sets_a_deadline_hears_where_it_ends(self, house, by, honours, is_told):
        accept(house, remote("bob@example.net"), requests=Requests(deliver_by=by))
        _, waiting = house.courier.waiting.pop()
        waiting.callback([replace(disposition(0, Action.RELAYED), honours=frozenset(honours))])
        assert len(house.courier.waiting) == is_told


class TestBombs:
    def test_a_thousand_recipients_make_one_report_that_makes_none(self, house):
        everybody = [asking(local(f"user{number}@example.org"), SUCCESS | FAILURE) for number in range(1_000)]
        accept(house, *everybody, account=None)
        house.courier.finish(Action.DELIVERED)
        groups, _ = report_of(house)
        assert len(groups) == 1_001
        [(report, _)] = house.courier.waiting
        assert report.content.octets < 400_000
        assert report.recipients[0].notify is None
        house.courier.finish(Action.FAILED)
        assert house.counts().entries == 0

    @pytest.mark.parametrize("action", [Action.FAILED, Action.DELIVERED, Action.RELAYED])
    def test_nobody_is_told_of_what_has_no_sender(self, house, action):
        draft = house.spool.intake.begin()
        draft.write(CONTENT)
        about = envelope(asking(remote("bob@example.net"), SUCCESS | FAILURE), sender=None)
        assert house.commit(draft, about) is None
        house.courier.finish(action)
        assert not house.courier.waiting
        assert house.counts().entries == 0

    def test_a_stranger_cannot_have_a_text_sent_to_others_as_a_notification_of_success(self, house):
        long = b"Message-ID: <" + b"spam-" * 100 + b"@x>\r\n"
        fields = b"Subject: buy this\r\nX: and that\r\nMessage-ID: <1@x>\r\nDate: today\r\nDate:\r\n folded\r\n" + long
        for account, quoted in (
            (None, b"message-id: <1@x>\r\ndate: today\r\n"),
            ("alice@example.org", fields),
        ):
            accept(house, asking(local("bob@example.org"), SUCCESS), content=fields + b"\r\nbuy it\r\n", account=account)
            house.courier.finish(Action.DELIVERED)
            [(report, _)] = house.courier.waiting
            assert report.content.in_memory.count(quoted) == 1
            assert (b"buy" in report.content.in_memory) is (account is not None)
            house.courier.finish(Action.DELIVERED)

    def test_a_huge_content_is_not_read_for_its_report(self, house):
        content = CONTENT[:-8] + b"X-Fill: y\r\n" * 30_000 + b"\r\nbody\r\n"
        accept(house, remote("bob@example.net"), requests=Requests(returns=Return.FULL), content=content)
        house.courier.finish(Action.FAILED)
        [(report, _)] = house.courier.waiting
        assert report.content.octets < 40_000


class TestReturn:
    @pytest.mark.parametrize(
        ("returns", "action", "is_whole"),
        [
            (Return.FULL, Action.FAILED, True),
            (Return.HEADERS, Action.FAILED, False),
            (None, Action.FAILED, False),
            (Return.FULL, Action.RELAYED, False),
        ],
    )
    def test_what_is_brought_back(self, house, returns, action, is_whole):
        accept(house, asking(remote("bob@example.net"), SUCCESS | FAILURE), requests=Requests(returns=returns))
        house.courier.finish(action)
        _, parts = report_of(house)
        assert parts[2].get_content_type() == ("message/rfc822" if is_whole else "text/rfc822-headers")
        assert (b"Hello." in parts[2].as_bytes()) is is_whole

    def test_what_a_stranger_wrote_is_not_sent_on_to_whom_the_stranger_named(self, house):
        accept(house, remote("bob@example.net"), requests=Requests(returns=Return.FULL), account=None)
        house.courier.finish(Action.FAILED)
        _, parts = report_of(house)
        assert parts[2].get_content_type() == "text/rfc822-headers"
        assert b"Hello." not in parts[2].as_bytes()

    @pytest.mark.parametrize("body", [b"\0binary", b"\xff\xfe", b"x" * 999])
    def test_what_would_not_pass_every_host_is_brought_back_in_part(self, house, body):
        content = CONTENT + body + b"\r\n"
        accept(house, remote("bob@example.net"), requests=Requests(returns=Return.FULL), content=content)
        house.courier.finish(Action.FAILED)
        _, parts = report_of(house)
        assert parts[2].get_content_type() == "text/rfc822-headers"

    def test_a_long_message_is_brought_back_in_part(self, house):
        content = CONTENT + b"xxx\r\n" * 40_000
        accept(house, remote("bob@example.net"), requests=Requests(returns=Return.FULL), content=content)
        house.courier.finish(Action.FAILED)
        _, parts = report_of(house)
        assert parts[2].get_content_type() == "text/rfc822-headers"

    def test_one_in_a_file_comes_back_whole(self, tmp_path):
        house = House(tmp_path / "spool").open()
        content = CONTENT + b"xxx\r\n" * 18_000
        accept(house, remote("bob@example.net"), requests=Requests(returns=Return.FULL), content=content)
        house.courier.finish(Action.FAILED)
        _, parts = report_of(house)
        assert parts[2].as_bytes().count(b"xxx") == 18_000


class TestRequireTls:
    def test_the_report_requires_it_too_and_brings_back_no_content(self, house):
        accept(house, remote("bob@example.net"), requests=Requests(returns=Return.FULL, requires_tls=True))
        house.courier.finish(Action.FAILED)
        [(delivery, _)] = house.courier.waiting
        assert delivery.envelope.requests == Requests(requires_tls=True)
        assert b"Hello." not in delivery.content.in_memory


class TestHold:
    def test_what_is_held_is_attempted_when_its_time_has_come(self, house):
        accept(house, remote("bob@example.net"), requests=Requests(held_until=NOW + 1_000))
        house.clock.advance(999)
        assert not house.courier.waiting
        house.clock.advance(2)
        assert len(house.courier.waiting) == 1

    def test_also_after_a_crash(self, house):
        accept(house, remote("bob@example.net"), requests=Requests(held_until=NOW + 1_000))
        house.crash().open()
        house.clock.advance(999)
        assert not house.courier.waiting
        house.clock.advance(2)
        assert len(house.courier.waiting) == 1

    def test_its_lifetime_begins_then(self, house):
        accept(house, remote("bob@example.net"), requests=Requests(held_until=NOW + 10 * 86_400))
        house.clock.advance(10 * 86_400 + 1)
        house.courier.finish(Action.DELAYED)
        assert house.counts().entries == 1

    def test_a_time_that_has_passed_holds_nothing(self, house):
        accept(house, remote("bob@example.net"), requests=Requests(held_until=NOW - 1))
        assert len(house.courier.waiting) == 1


@given(priorities=st.lists(st.integers(-9, 9), max_size=30))
def test_a_lane_gives_the_urgent_first_and_else_keeps_the_order(priorities):
    lanes = Lanes(Limits(attempts_at_once=1_000, initial_per_destination=100, per_destination=100))
    for number, priority in enumerate(priorities):
        about = replace(envelope(remote("bob@example.net")), requests=Requests(priority=priority))
        entry = Entry(number=number, envelope=about, content=MemoryContent(b"x"), expires_at=NOW)
        lanes.add(Work(entry, "example.net", {0: Pending()}, may_repeat=False), NOW)
    taken = []
    while (work := lanes.take(NOW)) is not None:
        taken.append((-work.priority, work.entry.number))
    assert len(taken) == len(priorities)
    assert all(one < other for one, other in pairwise(taken))


def test_all_of_it_is_on_disk():
    recipients = (
        asking(remote("bob@example.net"), SUCCESS | DELAY, OriginalRecipient("utf-8", "böb@example.org")),
        asking(local("carol@example.org"), NEVER),
        asking(local("dana@example.org"), None, OriginalRecipient("rfc822", "d")),
        local("eve@example.org"),
        replace(local("finn@example.org"), is_expanded=True),
    )
    requests = Requests(
        returns=Return.FULL,
        envelope_id="a b",
        requires_tls=True,
        tls_optional=True,
        priority=-3,
        deliver_by=DeliverBy(NOW + 5, returns=True, traces=True),
        held_until=NOW + 1,
    )
    whole = replace(envelope(*recipients), requests=requests, smtputf8=True)
    assert parse_envelope(format_envelope(whole)) == whole
    plain = envelope(local("eve@example.org"))
    assert parse_envelope(format_envelope(plain)) == plain
    assert parse_envelope(format_envelope(plain).replace('"requests":null,', "")) == plain, "as older versions wrote it"
