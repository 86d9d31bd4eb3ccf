"""Straight delivery: what goes into the maildirs before the 250, and what falls back on the spool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spool_house import CONTENT, FakeCourier, House, all_are, disposition, envelope, local, now, remote
from twisted.internet.defer import CancelledError, Deferred

from mailstack.mail.address import parse_address
from mailstack.mail.disposition import Action
from mailstack.mail.envelope import Account, Delivery
from mailstack.mail.reply import LOCAL_ERROR
from mailstack.spool.content import INLINE_OCTETS
from mailstack.spool.straight import RECIPIENTS

LARGE = b"Subject: large\r\n\r\n" + b"x" * INLINE_OCTETS


@pytest.fixture
def house(tmp_path: Path) -> House:
    courier = CourierWithHead()
    house = House(tmp_path / "spool", straight=courier)
    house.straight = courier  # type: ignore[attr-defined]  # beside the courier of the runner
    return house.open()


class CourierWithHead(FakeCourier):
    """Puts a line in front of what it delivers."""

    def takes(self, recipient: Any) -> bool:
        return isinstance(recipient.destination, Account)

    def head(self, reverse_path: Any, recipient: Any) -> bytes:
        return f"Return-Path: <{reverse_path}>\r\nDelivered-To: {recipient.address}\r\n".encode()


def straight_of(house: House) -> FakeCourier:
    courier: FakeCourier = house.straight  # type: ignore[attr-defined]  # see the fixture
    return courier


@pytest.mark.parametrize("content", [CONTENT, LARGE])
def test_delivered_before_the_250_and_not_in_the_database(house: House, content: bytes) -> None:
    seen: list[tuple[Delivery, bytes, int]] = []

    def answer(delivery: Delivery) -> Any:
        rows = house.spool._database._connection.execute("SELECT count(*) FROM entry").fetchone()[0]  # type: ignore[union-attr]
        seen.append((delivery, b"".join(delivery.content.chunks()), rows))
        return all_are(Action.DELIVERED)(delivery)

    straight_of(house).answer = answer
    name = house.accept(local("alice@x.org"), local("bob@x.org"), content=content)
    ((delivery, octets, rows),) = seen
    assert (delivery.entry, octets, rows) == (name, content, 0)
    assert sorted(delivery.recipients) == [0, 1]
    assert delivery.all_or_none
    assert not delivery.may_repeat
    assert house.courier.deliveries == []
    assert (house.counts().entries, house.counts().waiting_recipients) == (0, 0)
    assert house.files() == []


@pytest.mark.parametrize("content", [CONTENT, LARGE])
def test_what_the_courier_does_not_take_is_not_tried(house: House, content: bytes) -> None:
    straight_of(house).takes = lambda recipient: str(recipient.address) != "bob@x.org"  # type: ignore[attr-defined]
    house.courier.answer = all_are(Action.DELAYED)
    name = house.accept(local("bob@x.org"), content=content)
    (delivery,) = house.courier.deliveries
    assert (delivery.entry, delivery.may_repeat) == (name, False)
    assert b"".join(delivery.content.chunks()) == content
    assert straight_of(house).deliveries == []


@pytest.mark.parametrize("content", [CONTENT, LARGE])
@pytest.mark.parametrize("failure", ["delayed", "failed", "silent", "raises", "one of two"])
def test_what_does_not_work_at_once_is_spooled(house: House, content: bytes, failure: str) -> None:
    def answer(delivery: Delivery) -> Any:
        match failure:
            case "raises":
                raise RuntimeError("courier on fire")
            case "silent":
                return []
            case "one of two":
                return [disposition(0, Action.DELIVERED), disposition(1, Action.DELAYED)]
        return all_are(Action.DELAYED if failure == "delayed" else Action.FAILED)(delivery)

    straight_of(house).answer = answer
    name = house.accept(local("alice@x.org"), local("bob@x.org"), content=content)
    (delivery,) = house.courier.deliveries
    assert (delivery.entry, sorted(delivery.recipients)) == (name, [0, 1])
    assert delivery.may_repeat, "it was tried before"
    assert not delivery.all_or_none
    assert b"".join(delivery.content.chunks()) == content
    assert house.counts().entries == 1
    house.courier.finish(Action.DELIVERED)
    assert house.counts().entries == 0
    assert house.files() == []


def test_only_where_all_are_accounts_and_not_too_many(house: House) -> None:
    straight_of(house).answer = all_are(Action.DELIVERED)
    house.accept(local("alice@x.org"), remote("bob@y.org"))
    house.accept(*(local(f"u{number}@x.org") for number in range(RECIPIENTS + 1)))
    assert straight_of(house).deliveries == []
    house.accept(*(local(f"u{number}@x.org") for number in range(RECIPIENTS)))
    assert len(straight_of(house).deliveries) == 1


@pytest.mark.parametrize("content", [CONTENT, LARGE])
def test_no_250_while_it_waits_nor_when_the_house_is_stopped(house: House, content: bytes) -> None:
    draft = house.spool.intake.begin()
    draft.write(content)
    outcomes: list[Any] = []
    Deferred.fromCoroutine(draft.commit(envelope(local("alice@x.org")))).addBoth(outcomes.append)
    assert outcomes == []
    now(house.supervisor.stop())
    assert outcomes[0].check(CancelledError)
    assert house.counts().entries == 0


def test_neither_delivered_nor_spooled_is_a_451(house: House) -> None:
    straight_of(house).answer = all_are(Action.DELAYED)

    def fail(operations: Any) -> Any:
        raise OSError("disk on fire")

    house.batches["spool"]._run = fail
    draft = house.spool.intake.begin()
    draft.write(CONTENT)
    refused = house.commit(draft, envelope(local("alice@x.org")))
    assert refused is not None
    assert refused.reply is LOCAL_ERROR


def test_after_a_failed_commit_the_next_message_goes_into_the_database(house: House) -> None:
    straight_of(house).answer = all_are(Action.DELAYED)
    database = house.spool._database
    assert database._connection is not None
    database._connection.execute("PRAGMA query_only = ON")  # until it is opened anew
    draft = house.spool.intake.begin()
    draft.write(CONTENT)
    assert house.commit(draft, envelope(local("alice@x.org"))) is not None
    assert database.has_ghosts
    straight_of(house).answer = all_are(Action.DELIVERED)
    tried = len(straight_of(house).deliveries)
    house.accept(local("bob@x.org"))
    assert (len(straight_of(house).deliveries), len(house.courier.deliveries)) == (tried, 1)
    assert not database.has_ghosts
    house.accept(local("bob@x.org"))
    assert (len(straight_of(house).deliveries), len(house.courier.deliveries)) == (tried + 1, 1)


class TestHead:
    """A large content for one account comes into its file behind the head of the delivery."""

    SENDER, ALICE = parse_address("a@y.org"), local("alice@x.org")
    HEAD = b"Return-Path: <a@y.org>\r\nDelivered-To: alice@x.org\r\n"

    def begun(self, house: House, *recipients: Any, content: bytes = LARGE) -> Any:
        draft = house.spool.intake.begin(self.SENDER, recipients or (self.ALICE,))
        for start in range(0, len(content), 50_000):
            draft.write(content[start : start + 50_000])
        return draft

    def test_the_file_can_be_taken_as_it_is(self, house: House) -> None:
        seen: list[tuple[bytes, bytes, int]] = []

        def answer(delivery: Delivery) -> Any:
            path = delivery.content.file_with(self.HEAD)
            assert path is not None
            assert delivery.content.file_with(b"") is None
            seen.append((Path(path).read_bytes(), b"".join(delivery.content.chunks()), delivery.content.octets))
            return all_are(Action.DELIVERED)(delivery)

        straight_of(house).answer = answer
        assert house.commit(self.begun(house), envelope(self.ALICE)) is None
        assert seen == [(self.HEAD + LARGE, LARGE, len(LARGE))]
        assert house.files() == []

    def test_policies_see_the_content_alone(self, house: House) -> None:
        assert b"".join(self.begun(house).content().chunks()) == LARGE

    def test_policies_see_what_is_not_in_the_file_yet(self, house: House) -> None:
        for batch in house.batches.values():
            batch.hold()
        content = self.begun(house).content()
        assert content.octets == len(LARGE)
        assert b"".join(content.chunks()) == LARGE

    def test_in_the_spool_there_is_no_head(self, house: House) -> None:
        straight_of(house).answer = all_are(Action.DELAYED)
        draft = self.begun(house)
        assert house.commit(draft, envelope(self.ALICE)) is None
        assert (house.folder / "content" / draft.entry).read_bytes() == LARGE
        after = house.crash().open()
        (delivery,) = after.courier.deliveries
        assert b"".join(delivery.content.chunks()) == LARGE
        assert delivery.content.file_with(self.HEAD) is None

    @pytest.mark.parametrize("recipients", [(local("a@x.org"), local("b@x.org")), (remote("a@z.org"),)])
    def test_is_for_one_account_only(self, house: House, recipients: Any) -> None:
        straight_of(house).answer = all_are(Action.DELAYED)
        draft = self.begun(house, *recipients)
        assert house.commit(draft, envelope(*recipients)) is None
        assert (house.folder / "content" / draft.entry).read_bytes() == LARGE

    def test_a_small_content_has_none(self, house: House) -> None:
        straight_of(house).answer = lambda delivery: (
            all_are(Action.DELIVERED)(delivery) if delivery.content.in_memory == CONTENT else []
        )
        assert house.commit(self.begun(house, content=CONTENT), envelope(self.ALICE)) is None
        assert house.courier.deliveries == []


def test_a_domain_that_is_paused_does_not_go_this_way(house):
    straight_of(house).answer = all_are(Action.DELIVERED)
    now(house.spool.queue.pause("x.org"))
    house.accept(local("bob@x.org"))
    assert straight_of(house).deliveries == house.courier.deliveries == []
    house.accept(local("bob@y.org"))
    now(house.spool.queue.resume("x.org"))
    assert len(straight_of(house).deliveries) == len(house.courier.deliveries) == 1


def test_a_domain_that_is_paused_while_a_message_is_written_does_not_either(house):
    straight_of(house).answer = all_are(Action.DELIVERED)
    for batch in house.batches.values():
        batch.hold()
    draft = house.spool.intake.begin()
    draft.write(LARGE)
    committing = Deferred.fromCoroutine(draft.commit(envelope(local("bob@x.org"))))
    house.batches["spool"].release()
    now(house.spool.queue.pause("x.org"))
    for batch in house.batches.values():
        batch.release()
    assert committing.result is None
    assert straight_of(house).deliveries == house.courier.deliveries == []
    assert house.counts().waiting_recipients == 1


def test_it_is_counted_among_the_attempts_for_whose_end_the_operator_waits(house):
    draft = house.spool.intake.begin()
    draft.write(CONTENT)
    committing = Deferred.fromCoroutine(draft.commit(envelope(local("bob@x.org"))))
    now(house.spool.queue.pause("x.org"))
    assert house.spool.queue.attempts == 1
    straight_of(house).finish(Action.DELIVERED)
    assert (committing.result, house.spool.queue.attempts) == (None, 0)
