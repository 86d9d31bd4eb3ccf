"""Deliveries of single items."""

from __future__ import annotations

from collections.abc import Sequence

from mailstack.store.maildir import MaildirItem, Maildirs, Outcome, Shipment


def deliver_each(maildirs: Maildirs, items: Sequence[MaildirItem]) -> list[Outcome]:
    """Deliver items that have nothing to do with each other, in one batch."""
    return [outcome for outcomes in maildirs.deliver_many([Shipment((item,)) for item in items]) for outcome in outcomes]
