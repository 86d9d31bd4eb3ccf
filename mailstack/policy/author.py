"""Author: a submission names as its authors those whom the account may send as (RFC 6409 §6.1, §8.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from mailstack.doors import Policy, Transaction
from mailstack.mail.address import Address, AddressError
from mailstack.mail.authors import parse_mailboxes
from mailstack.mail.envelope import Content
from mailstack.mail.headers import HEADER_OCTETS, VALUES, field_values
from mailstack.mail.reply import AUTHOR_NOT_OWNED
from mailstack.mail.verdict import Refuse


class Author(Policy):
    """
    Refuse a submission whose From field names somebody else, unless its Sender field names the account.

    Every author must belong to the account, also where there are several (RFC 5322 §3.6.2) or groups of them (RFC 6854), and in
    every From field, if somebody writes two. One that names nobody, or that cannot be read for certain, needs a Sender.
    Without any From field nothing is claimed, and nothing refused. What has the null reverse-path may come from MAILER-DAEMON:
    servers that send through us as a smarthost send their notifications, too.
    """

    def on_content(self, transaction: Transaction, content: Content) -> Awaitable[Refuse | None] | None:
        """Judge the header section."""
        origin = transaction.origin
        if origin.account is None or not origin.service.is_submission:
            return None
        return self._judge(origin.account, transaction.header, is_notice=transaction.reverse_path is None)

    async def _judge(self, account: str, header: bytes, *, is_notice: bool) -> Refuse | None:
        if len(header) >= HEADER_OCTETS:
            return Refuse(AUTHOR_NOT_OWNED, "the header section is too long to be judged")
        from_fields = field_values(header, b"from")
        if not from_fields or await self._owns_all(account, from_fields, is_notice=is_notice):
            return None
        senders = field_values(header, b"sender")
        if len(senders) == 1 and await self._owns_all(account, senders):
            return None
        return Refuse(AUTHOR_NOT_OWNED, f"{account} does not own what From says")

    async def _owns_all(self, account: str, values: Sequence[bytes], *, is_notice: bool = False) -> bool:
        if len(values) >= VALUES:
            return False
        authors: list[Address] = []
        for value in values:
            try:
                found = parse_mailboxes(value)
            except AddressError:
                return False
            if not found:
                return False
            authors += found
        for author in authors:
            if is_notice and author.local_part.lower() == "mailer-daemon":
                continue
            if not await self.house.owns(account, author):
                return False
        return True
