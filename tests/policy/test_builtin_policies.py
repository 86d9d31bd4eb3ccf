"""Who may relay, and who may send as whom."""

import pytest

from mailstack.mail.address import Address
from mailstack.mail.envelope import Service
from mailstack.mail.reply import AUTH_REQUIRED, RELAYING_DENIED, SENDER_NOT_OWNED
from mailstack.mail.verdict import Refuse
from mailstack.plugins.builtin import relaying, sender
from mailstack.testing.policy import FakeHouse, ask, make, transaction

ALICE = "alice@example.test"


@pytest.mark.parametrize(
    ("recipient", "origin", "refused"),
    [
        (Address("bob", "example.test"), {}, False),
        (Address("bob", "remote.test"), {}, True),
        (Address("bob%remote.test", "example.test"), {}, False),
        (Address("bob", "[127.0.0.1]"), {}, True),
        (Address("postmaster", ""), {}, False),
        (Address("POSTMASTER", ""), {}, False),
        (Address("bob", ""), {}, True),
        (Address("bob", "remote.test"), {"account": ALICE, "service": Service.SUBMISSION}, False),
        (Address("bob", "remote.test"), {"service": Service.SUBMISSION}, True),
        (Address("bob", "remote.test"), {"service": Service.LOCAL}, False),
    ],
)
def test_relaying(recipient: Address, origin: dict[str, object], refused: bool) -> None:
    verdict = ask(make(relaying).on_rcpt, transaction(**origin), recipient)  # type: ignore[arg-type]
    assert (verdict.reply if isinstance(verdict, Refuse) else None) == (RELAYING_DENIED if refused else None)


@pytest.mark.parametrize(
    ("reverse_path", "origin", "expected"),
    [
        ("carol@remote.test", {}, None),
        (ALICE, {"service": Service.SUBMISSION}, AUTH_REQUIRED),
        (ALICE, {"service": Service.SUBMISSION, "account": ALICE}, None),
        ("sales@example.test", {"service": Service.SUBMISSIONS, "account": ALICE}, None),
        ("bob@example.test", {"service": Service.SUBMISSION, "account": ALICE}, SENDER_NOT_OWNED),
        (None, {"service": Service.SUBMISSION, "account": ALICE}, None),
        (None, {"service": Service.SUBMISSION}, AUTH_REQUIRED),
    ],
)
def test_sender(reverse_path: str | None, origin: dict[str, object], expected: object) -> None:
    house = FakeHouse(owned={ALICE: frozenset({"sales@example.test"})})
    verdict = ask(make(sender, house).on_mail, transaction(reverse_path, **origin))  # type: ignore[arg-type]
    assert (verdict.reply if isinstance(verdict, Refuse) else None) == expected
