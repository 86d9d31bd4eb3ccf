"""The local courier: what is submitted, what becomes of it, and real deliveries by it."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from mailstack.deliver.local import LocalCourier
from mailstack.mail.address import Address, parse_address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Account, Delivery, Destination, Envelope, Origin, Recipient, Remote, Service
from mailstack.net.batch import BatchStopped, InlineBatch
from mailstack.store.folders import AccountFolder, MailFolder, prepare_root
from mailstack.store.maildir import AlreadyThere, Delivered, MaildirItem, Maildirs, Outcome, Shipment
from mailstack.store.open_maildirs import MailRootError

BODY = b"Received: from x\r\nSubject: a\r\n\r\ntext\r\n"
ENTRY = "0123456789abc"


class MemoryContent:
    def __init__(self, octets: bytes = BODY) -> None:
        self.in_memory: bytes | None = octets
        self.octets = len(octets)

    def chunks(self, size_octets: int = 0) -> Iterator[bytes]:
        raise AssertionError("it is in memory")

    def file_with(self, head: bytes) -> None:
        return None


def delivery_of(
    *destinations: str | Destination,
    addresses: list[str] | None = None,
    body: bytes = BODY,
    reverse_path: Address | None = None,
    may_repeat: bool = False,
) -> Delivery:
    recipients = {}
    for number, destination in enumerate(destinations):
        place = Account(destination) if isinstance(destination, str) else destination
        address = parse_address(addresses[number] if addresses else "alice@example.org")
        recipients[2 * number + 1] = Recipient(address=address, original=address, destination=place)
    envelope = Envelope(
        reverse_path=reverse_path,
        recipients=tuple(recipients.values()),
        origin=Origin(service=Service.SMTP),
        accepted_at=1_700_000_000.25,
    )
    return Delivery(
        entry=ENTRY, envelope=envelope, recipients=recipients, content=MemoryContent(body), attempt=1, may_repeat=may_repeat
    )


class Submissions:
    """Takes shipments; answers when told, or with the given outcomes, or fails with the one."""

    def __init__(self, *outcomes: Any, failure: Exception | None = None) -> None:
        self.shipments: list[Shipment] = []
        self.waiting: list[Deferred[Any]] = []
        self._outcomes = list(outcomes)
        self._failure = failure

    @property
    def items(self) -> list[MaildirItem]:
        return [item for shipment in self.shipments for item in shipment.items]

    def __call__(self, shipment: Shipment) -> Awaitable[list[Outcome]]:
        self.shipments.append(shipment)
        if self._failure is not None:
            return fail(self._failure)
        if not self._outcomes:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        return succeed([self._outcomes.pop(0) for _ in shipment.items])


def attempt(courier: LocalCourier, delivery: Delivery) -> list[Disposition]:
    found: list[list[Disposition]] = []
    Deferred.fromCoroutine(courier.attempt(delivery)).addCallback(found.append)
    return found[0]


async def everybody(name: str) -> bool:
    return True


def courier_of(submit: Any) -> LocalCourier:
    return LocalCourier(MailFolder("/mail"), submit, "mx.example", everybody)


class TestSubmission:
    def test_item(self) -> None:
        submit = Submissions(Delivered("x"))
        sender = parse_address("sender@elsewhere.example")
        delivery = delivery_of("alice@example.org", addresses=["Alice+tag@example.org"], reverse_path=sender, may_repeat=True)
        attempt(courier_of(submit), delivery)
        (item,) = submit.items
        assert item.head == b"Return-Path: <sender@elsewhere.example>\r\nDelivered-To: Alice+tag@example.org\r\n"
        assert item.folder == AccountFolder("example.org", "alice")
        octets = len(item.head) + len(BODY)
        assert item.name == f"1700000000.M250000E{ENTRY}R1.mx.example,S={octets},W={octets}"
        assert item.may_repeat
        assert item.content.octets == len(BODY)
        assert item.content.in_memory == BODY

    def test_null_reverse_path(self) -> None:
        submit = Submissions(Delivered("x"))
        attempt(courier_of(submit), delivery_of("alice@example.org"))
        assert submit.items[0].head.startswith(b"Return-Path: <>\r\n")
        assert not submit.items[0].may_repeat

    @pytest.mark.parametrize("may_repeat", [False, True])
    def test_who_was_removed_while_it_waited_gets_nothing(self, may_repeat: bool) -> None:
        async def is_alice(name: str) -> bool:
            return name == "alice@example.org"

        submit = Submissions(Delivered("x"), Delivered("y"))
        courier = LocalCourier(MailFolder("/mail"), submit, "mx.example", is_alice)
        found = attempt(courier, delivery_of("bob@example.org", "alice@example.org", may_repeat=may_repeat))
        assert [(each.action, str(each.status)) for each in found] == [
            (Action.FAILED, "5.1.1") if may_repeat else (Action.DELIVERED, "2.0.0"),
            (Action.DELIVERED, "2.0.0"),
        ], "what has just been accepted needs no second look"
        assert len(submit.items) == 2 - may_repeat

    def test_a_directory_that_cannot_be_read_removes_nobody(self) -> None:
        async def cannot_say(name: str) -> bool:
            raise RuntimeError("directory.db cannot be read")

        courier = LocalCourier(MailFolder("/mail"), Submissions(), "mx.example", cannot_say)
        (only,) = attempt(courier, delivery_of("bob@example.org", may_repeat=True))
        assert (only.action, str(only.status)) == (Action.DELAYED, "4.3.0")

    def test_all_are_one_shipment(self) -> None:
        submit = Submissions()
        waiting = Deferred.fromCoroutine(courier_of(submit).attempt(delivery_of("a@b", "c@d", "e@f")))
        (shipment,) = submit.shipments
        assert len(shipment.items) == 3
        assert not shipment.all_or_none
        assert not waiting.called
        submit.waiting[0].callback([Delivered(str(number)) for number in range(3)])
        found: list[list[Disposition]] = []
        waiting.addCallback(found.append)
        assert [disposition.ordinal for disposition in found[0]] == [1, 3, 5]
        assert [disposition.cause for disposition in found[0]] == ["file=0", "file=1", "file=2"]

    def test_cancelled(self) -> None:
        submit = Submissions()
        waiting = Deferred.fromCoroutine(courier_of(submit).attempt(delivery_of("a@b")))
        waiting.cancel()
        failures: list[Failure] = []
        waiting.addErrback(failures.append)
        assert failures[0].check(CancelledError)


class TestDispositions:
    @pytest.mark.parametrize(
        ("outcome", "action", "status"),
        [
            (Delivered("n"), Action.DELIVERED, "2.0.0"),
            (AlreadyThere("n"), Action.DELIVERED, "2.0.0"),
            (OSError(errno.ENOSPC, "No space", "/secret/path"), Action.DELAYED, "4.3.1"),
            (OSError(errno.EDQUOT, "Quota", "/secret/path"), Action.DELAYED, "4.2.2"),
            (OSError(errno.EIO, "I/O", "/secret/path"), Action.DELAYED, "4.3.0"),
            (OSError("odd", "/secret/path"), Action.DELAYED, "4.3.0"),
            (MailRootError(errno.ENOENT, "not mounted", "/secret/path"), Action.DELAYED, "4.3.0"),
            (FileExistsError(errno.EEXIST, "exists", "/secret/path"), Action.DELAYED, "4.3.0"),
            (RuntimeError("/secret/path"), Action.DELAYED, "4.3.0"),
        ],
    )
    def test_of_an_outcome(self, outcome: Any, action: Action, status: str) -> None:
        (disposition,) = attempt(courier_of(Submissions(outcome)), delivery_of("alice@example.org"))
        assert (disposition.ordinal, disposition.action, str(disposition.status)) == (1, action, status)
        assert disposition.remote_mta is None
        assert "secret" not in disposition.diagnostic
        if isinstance(outcome, Exception):
            assert type(outcome).__name__ in disposition.cause
            assert "/secret/path" in disposition.cause

    def test_of_a_shipment_that_fails_as_a_whole(self) -> None:
        submit = Submissions(failure=BatchStopped("/secret/path"))
        dispositions = attempt(courier_of(submit), delivery_of("a@b", "c@d"))
        assert [each.ordinal for each in dispositions] == [1, 3]
        assert {each.action for each in dispositions} == {Action.DELAYED}
        assert "secret" not in dispositions[0].diagnostic

    def test_of_all_or_none_with_one_that_has_no_folder(self) -> None:
        submit = Submissions(Delivered("n"))
        dispositions = attempt(courier_of(submit), replace(delivery_of("alice", "alice@example.org"), all_or_none=True))
        assert [each.action for each in dispositions] == [Action.DELAYED]
        assert submit.shipments == []

    def test_each_has_its_own(self) -> None:
        submit = Submissions(Delivered("a"), OSError(errno.EIO, "I/O"), AlreadyThere("c"))
        dispositions = attempt(courier_of(submit), delivery_of("a@b", "c@d", "e@f"))
        assert [disposition.action for disposition in dispositions] == [Action.DELIVERED, Action.DELAYED, Action.DELIVERED]

    @pytest.mark.parametrize(
        "destination", ["../../etc/passwd@example.org", "alice", "Alice@example.org", "", "a\0@b", Remote("example.org")]
    )
    def test_a_destination_without_a_folder_waits(self, destination: str | Destination) -> None:
        submit = Submissions(Delivered("n"))
        bad, good = attempt(courier_of(submit), delivery_of(destination, "alice@example.org"))
        assert (bad.action, str(bad.status)) == (Action.DELAYED, "4.3.0")
        assert "ValueError" in bad.cause
        assert good.action is Action.DELIVERED
        assert len(submit.items) == 1

    def test_a_submission_that_raises_at_once(self) -> None:
        def submit(shipment: Shipment) -> Awaitable[list[Outcome]]:
            raise RuntimeError("no thread")

        (disposition,) = attempt(courier_of(submit), delivery_of("alice@example.org"))
        assert disposition.action is Action.DELAYED


class TestDelivery:
    """With real folders."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        prepare_root(tmp_path / "mail")
        return tmp_path / "mail"

    @pytest.fixture
    def courier(self, root: Path) -> LocalCourier:
        folders = MailFolder(root)
        batch: InlineBatch[Shipment, list[Outcome]] = InlineBatch(Maildirs(folders).deliver_many)
        return LocalCourier(folders, batch.submit, "mx.example", everybody)

    def test_file(self, courier: LocalCourier, root: Path) -> None:
        (disposition,) = attempt(courier, delivery_of("alice@example.org"))
        (file,) = (root / "example.org" / "alice" / "new").iterdir()
        assert disposition.cause == f"file={file.name}"
        assert file.read_bytes() == b"Return-Path: <>\r\nDelivered-To: alice@example.org\r\n" + BODY

    def test_same_account_twice_is_two_files(self, courier: LocalCourier, root: Path) -> None:
        addresses = ["alice+a@example.org", "alice+b@example.org"]
        dispositions = attempt(courier, delivery_of("alice@example.org", "alice@example.org", addresses=addresses))
        assert {disposition.action for disposition in dispositions} == {Action.DELIVERED}
        assert len(list((root / "example.org" / "alice" / "new").iterdir())) == 2

    def test_repeated(self, courier: LocalCourier, root: Path) -> None:
        attempt(courier, delivery_of("alice@example.org"))
        (fresh,) = attempt(courier, delivery_of("alice@example.org"))
        assert fresh.action is Action.DELAYED
        (again,) = attempt(courier, delivery_of("alice@example.org", may_repeat=True))
        assert again.action is Action.DELIVERED
        assert len(list((root / "example.org" / "alice" / "new").iterdir())) == 1

    def test_all_or_none(self, courier: LocalCourier, root: Path) -> None:
        body = b"Received: from elsewhere\r\nDelivered-To: carol@example.org\r\nSubject: a\r\n\r\ntext\r\n"
        addresses = ["alice@example.org", "bob@example.org", "carol@example.org"]
        delivery = replace(delivery_of(*addresses, addresses=addresses, body=body), all_or_none=True)
        dispositions = attempt(courier, delivery)
        assert Action.DELIVERED not in {each.action for each in dispositions}
        assert [path for path in root.rglob("*") if path.is_file() and path.name != ".mailstack"] == []

    def test_loop(self, courier: LocalCourier, root: Path) -> None:
        body = b"Received: from elsewhere\r\nDelivered-To: alice@example.org\r\nSubject: a\r\n\r\ntext\r\n"
        addresses = ["alice@example.org", "bob@example.org"]
        loops, fine = attempt(courier, delivery_of("alice@example.org", "bob@example.org", addresses=addresses, body=body))
        assert (loops.action, str(loops.status)) == (Action.FAILED, "5.4.6")
        assert fine.action is Action.DELIVERED
        assert [path for path in (root / "example.org" / "alice").rglob("*") if path.is_file()] == []
