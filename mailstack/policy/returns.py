"""Returns: to the addresses under which we forward mail come notifications, and nothing else."""

from __future__ import annotations

from typing import Final

from mailstack.doors import Policy, Transaction
from mailstack.mail.address import Address
from mailstack.mail.reply import reply
from mailstack.mail.srs import is_rewritten
from mailstack.mail.verdict import Refuse

NOTIFICATIONS_ONLY: Final = reply(550, "5.7.1", "This address takes notifications only")


class Returns(Policy):
    """
    Refuse mail with a sender to a return address of ours.

    Everybody who got a forwarded message knows the address in it, and could have us write to its sender; what has the null
    reverse-path is of little use for that (RFC 5321 §4.5.5).
    """

    def __init__(self, domain: str) -> None:
        self._domain = domain

    async def on_rcpt(self, transaction: Transaction, recipient: Address) -> Refuse | None:
        """Judge one forward-path."""
        if recipient.domain != self._domain or not is_rewritten(recipient.local_part):
            return None
        return None if transaction.reverse_path is None else Refuse(NOTIFICATIONS_ONLY, "a return address (SRS)")
