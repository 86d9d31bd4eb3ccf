"""Relaying: mail for other domains is taken only from those who authenticated (RFC 5321 §3.6.2, §7.1)."""

from __future__ import annotations

from mailstack.doors import Policy, Transaction
from mailstack.mail.address import Address
from mailstack.mail.envelope import Service
from mailstack.mail.reply import RELAYING_DENIED
from mailstack.mail.verdict import Refuse


class Relaying(Policy):
    """Refuse a recipient that is not ours, unless the sender authenticated or the message was made here."""

    async def on_rcpt(self, transaction: Transaction, recipient: Address) -> Refuse | None:
        """Judge one forward-path."""
        origin = transaction.origin
        if origin.account is not None or origin.service is Service.LOCAL:
            return None
        if not recipient.domain and recipient.local_part.lower() == "postmaster":
            return None
        if await self.house.is_local_domain(recipient.domain):
            return None
        return Refuse(RELAYING_DENIED, "not a local domain, not authenticated")
