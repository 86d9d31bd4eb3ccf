"""Sender: an account sends as itself only (RFC 6409 §6.1)."""

from __future__ import annotations

from mailstack.doors import Policy, Transaction
from mailstack.mail.reply import AUTH_REQUIRED, SENDER_NOT_OWNED
from mailstack.mail.verdict import Refuse


class Sender(Policy):
    """
    Refuse a submission without authentication, or under an address that does not belong to the account.

    The null reverse-path is free for everyone, since notifications have it (RFC 5321 §4.5.5).
    """

    async def on_mail(self, transaction: Transaction) -> Refuse | None:
        """Judge the reverse-path."""
        origin = transaction.origin
        if not origin.service.is_submission:
            return None
        if origin.account is None:
            return Refuse(AUTH_REQUIRED, "submission without authentication")
        if transaction.reverse_path is None or await self.house.owns(origin.account, transaction.reverse_path):
            return None
        return Refuse(SENDER_NOT_OWNED, f"{origin.account} does not own {transaction.reverse_path}")
