"""To a return address come notifications, and nothing else."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from mailstack.doors import Transaction
from mailstack.mail.address import parse_address
from mailstack.mail.envelope import Origin, Service
from mailstack.mail.verdict import Refuse
from mailstack.policy.returns import NOTIFICATIONS_ONLY, Returns


@pytest.mark.parametrize(
    ("sender", "recipient", "is_refused"),
    [
        (None, "SRS0=x=y=c.example=bob@fwd.example.org", False),
        ("eve@c.example", "SRS0=x=y=c.example=bob@fwd.example.org", True),
        ("eve@c.example", "srs1-x=y=c.example=bob@fwd.example.org", True),
        ("eve@c.example", "alice@fwd.example.org", False),
        ("eve@c.example", "SRS0=x=y=c.example=bob@elsewhere.example", False),
    ],
)
@pytest.mark.parametrize("account", [None, "alice@fwd.example.org"])
def test_who_may(sender, recipient, is_refused, account):
    transaction = Transaction(
        origin=Origin(service=Service.SMTP, account=account), reverse_path=parse_address(sender) if sender else None
    )
    outcomes = []
    Deferred.fromCoroutine(Returns("fwd.example.org").on_rcpt(transaction, parse_address(recipient))).addBoth(outcomes.append)
    assert [isinstance(each, Refuse) and each.reply for each in outcomes] == [NOTIFICATIONS_ONLY if is_refused else False]
