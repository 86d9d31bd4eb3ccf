"""Failures of which no sender can be told: they end at the postmaster, and there they end."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes

import pytest
from spool_house import CONTENT, House, all_are, envelope, local, remote

from mailstack.mail.address import Address, parse_address
from mailstack.mail.disposition import Action
from mailstack.mail.envelope import Origin, Service
from mailstack.mail.verdict import defer, reject
from mailstack.spool.report import Allowance

POSTMASTER = parse_address("carol@example.org")


def known(address: Address):
    """Route: everybody here but the postmaster is elsewhere."""
    return (local(str(address)),) if address == POSTMASTER else (remote(str(address)),)


def make(tmp_path, **options) -> House:
    house = House(tmp_path / "spool", **({"postmaster": POSTMASTER} | options))
    house.route = known
    return house.open()


@pytest.fixture
def house(tmp_path):
    return make(tmp_path)


def notice(house):
    [(delivery, _)] = house.courier.waiting
    assert delivery.envelope.reverse_path is None
    assert [str(each.address) for each in delivery.envelope.recipients] == [str(POSTMASTER)]
    return message_from_bytes(delivery.content.in_memory)


class TestEnds:
    def test_our_own_notification_that_is_refused(self, house):
        house.accept(remote("bob@example.net"))
        house.courier.finish(Action.FAILED, "550 no bob")
        house.courier.finish(Action.FAILED, "550 no alice")
        message = notice(house)
        assert message["To"] == "<carol@example.org>"
        words, fields, original = (part.as_string() for part in message.get_payload())
        assert "550 no alice" in words
        assert "alice@example.org" in fields
        assert "550 no bob" in original, "all of the notification comes back, since it is ours"
        house.courier.finish(Action.DELIVERED)
        assert house.counts().entries == 0

    def test_what_a_stranger_sent_without_a_sender(self, house):
        house.accept(remote("bob@example.net"), sender=None)
        house.courier.finish(Action.FAILED)
        assert "Hello." not in notice(house).as_string()
        assert "Subject: a test" in notice(house).as_string()

    def test_a_notification_that_cannot_even_be_sent(self, house):
        house.route = lambda address: known(address) if address == POSTMASTER else reject("nobody")
        house.accept(remote("bob@example.net"))
        house.courier.finish(Action.FAILED)
        assert "It took a message from <alice@example.org>" in notice(house).as_string()

    def test_whose_return_address_leads_nowhere(self, house):
        house.route = lambda address: known(address) if address == POSTMASTER else ()
        house.accept(remote("bob@example.net"))
        house.courier.finish(Action.FAILED)
        assert notice(house)

    def test_in_one_transaction_with_the_end_of_the_recipient(self, house):
        house.accept(remote("bob@example.net"), sender=None)
        house.courier.finish(Action.FAILED)
        house.crash().open()
        assert notice(house)
        house.courier.finish(Action.DELIVERED)
        assert house.counts().entries == 0

    def test_it_waits_while_the_postmaster_cannot_be_looked_up(self, house):
        house.route = lambda address: defer("directory is down")
        house.accept(remote("bob@example.net"), sender=None)
        house.courier.finish(Action.FAILED)
        assert house.counts().waiting_recipients == 1
        house.route = known
        house.clock.advance(301)
        assert notice(house)


class TestNobodyIsTold:
    @pytest.mark.parametrize("action", [Action.DELIVERED, Action.RELAYED])
    def test_of_what_went_well(self, house, action):
        house.accept(remote("bob@example.net"), sender=None)
        house.courier.finish(action)
        assert not house.courier.waiting

    def test_of_a_delay(self, tmp_path):
        house = make(tmp_path, schedule=replace(House(tmp_path / "x").options["schedule"], warning_seconds=1))
        house.accept(remote("bob@example.net"), sender=None)
        house.clock.advance(10)
        house.courier.finish(Action.DELAYED)
        assert not house.courier.waiting

    def test_of_a_notice_that_fails(self, house):
        house.courier.answer = all_are(Action.FAILED)
        house.accept(remote("bob@example.net"))
        assert [len(each.recipients) for each in house.courier.deliveries] == [1, 1, 1], "message, notification, notice"
        assert house.counts().entries == 0

    def test_of_anything_that_was_for_the_postmaster(self, house):
        house.courier.answer = all_are(Action.FAILED)
        house.accept(local(str(POSTMASTER)), sender=None)
        assert len(house.courier.deliveries) == 1
        assert house.counts().entries == 0

    @pytest.mark.parametrize("routed", [reject("nobody"), (), (remote("carol@example.com"),)])
    def test_when_the_postmaster_has_no_account_here(self, house, routed):
        house.route = lambda address: routed
        house.accept(remote("bob@example.net"), sender=None)
        house.courier.finish(Action.FAILED)
        assert not house.courier.waiting
        assert house.counts().entries == 0

    def test_when_that_is_not_wanted(self, tmp_path):
        house = make(tmp_path, postmaster=None)
        house.accept(remote("bob@example.net"), sender=None)
        house.courier.finish(Action.FAILED)
        assert not house.courier.waiting
        assert house.counts().entries == 0


class TestFlood:
    def test_of_forged_bounces_does_not_fill_a_maildir(self, tmp_path, logged):
        house = make(tmp_path, notices_per_hour=3)
        notices = []

        def answer(delivery):
            to = delivery.recipients[0].address
            if to == POSTMASTER:
                notices.append(delivery.content.in_memory)
            return all_are(Action.DELIVERED if to == POSTMASTER else Action.FAILED)(delivery)

        house.courier.answer = answer
        for _ in range(50):
            house.accept(remote("bob@example.net"), sender=None)
        assert len(notices) == 3
        dropped = [each for each in logged if each.get("event") == "dsn_dropped"]
        assert len(dropped) == 47
        assert "3 notices within an hour" in dropped[0]["why"]
        house.clock.advance(3_601)
        house.accept(remote("bob@example.net"), sender=None)
        assert b"Of 47 more" in notices[-1]
        assert b"more" not in notices[0]
        assert house.counts().entries == 0

    def test_a_clock_that_goes_back_stops_nothing(self):
        allowance = Allowance(1)
        assert allowance.take(1_000.0) == 0
        assert allowance.take(1_001.0) is None
        assert allowance.take(500.0) == 1


def test_a_dsn_to_an_address_of_a_user_is_no_double_bounce(house):
    draft = house.spool.intake.begin()
    draft.write(CONTENT)
    about = replace(envelope(remote("bob@example.net")), origin=Origin(service=Service.SUBMISSION, account="alice@example.org"))
    assert house.commit(draft, about) is None
    house.courier.finish(Action.FAILED)
    [(delivery, _)] = house.courier.waiting
    assert [str(each.address) for each in delivery.envelope.recipients] == ["alice@example.org"]
