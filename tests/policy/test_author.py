"""Who may be named as the author of a submission."""

import pytest

from mailstack.mail.envelope import Service
from mailstack.mail.headers import HEADER_OCTETS, VALUES
from mailstack.mail.reply import AUTHOR_NOT_OWNED
from mailstack.mail.verdict import Refuse
from mailstack.plugins.builtin import author
from mailstack.testing.policy import FakeHouse, ask, make, transaction

ALICE = "alice@example.test"
OWNED = {ALICE: frozenset({"sales@example.test"})}


def is_refused(header: bytes, service: Service = Service.SUBMISSION, account: str | None = ALICE) -> bool:
    facts = transaction(ALICE, service=service, account=account, header=header)
    verdict = ask(make(author, FakeHouse(owned=OWNED)).on_content, facts, None)
    assert verdict is None or (isinstance(verdict, Refuse) and verdict.reply is AUTHOR_NOT_OWNED)
    return verdict is not None


@pytest.mark.parametrize(
    ("header", "refused"),
    [
        (b"From: Alice <alice@example.test>\r\n", False),
        (b"Subject: x\r\nfrom :\r\n alice@example.test\r\n", False),
        (b"From: sales@example.test, alice@example.test\r\n", False),
        (b"From: Us: sales@example.test, alice@example.test;\r\n", False),
        (b"Subject: no author\r\n", False),
        (b"", False),
        (b"From: bob@example.test\r\n", True),
        (b"From: alice@example.test, bob@example.test\r\n", True),
        (b"From: bob@example.test <alice@example.test>\r\n", True),
        (b"From: alice@example.test\r\nFrom: bob@example.test\r\n", True),
        (b"From: alice@example.test\r\nno field\r\nFrom: bob@example.test\r\n", True),
        (b"From: bob@example.test\r\nSender: alice@example.test\r\n", False),
        (b"From: bob@example.test, carol@remote.test\r\nSender: sales@example.test\r\n", False),
        (b"From: bob@example.test\r\nSender: bob@example.test\r\n", True),
        (b"From: bob@example.test\r\nSender: alice@example.test\r\nSender: bob@example.test\r\n", True),
        (b"From: bob@example.test\r\nSender:\r\n", True),
        (b"From: Nobody:;\r\n", True),
        (b"From: Nobody:;\r\nSender: alice@example.test\r\n", False),
        (b"From: who knows\r\n", True),
        (b"From: alice@example.test\r\n" * VALUES, True),
        (b"From: alice@example.test\r\n" + b"x" * HEADER_OCTETS, True),
    ],
)
def test_the_author_of_a_submission_is_the_account(header: bytes, refused: bool) -> None:
    assert is_refused(header) is refused


@pytest.mark.parametrize(("name", "refused"), [(b"Mailer-Daemon@mx.remote.test", False), (b"bob@example.test", True)])
def test_a_server_that_sends_through_us_may_send_its_notifications(name: bytes, refused: bool) -> None:
    facts = transaction(None, service=Service.SUBMISSION, account=ALICE, header=b"From: " + name + b"\r\n")
    assert (ask(make(author).on_content, facts, None) is not None) is refused
    assert is_refused(b"From: Mailer-Daemon@mx.remote.test\r\n"), "it has a reverse-path"


def test_mail_of_other_servers_and_of_neighbours_may_name_anybody() -> None:
    for service in (Service.SMTP, Service.LMTP):
        assert not is_refused(b"From: bob@example.test\r\n", service, None)
