"""
Return paths: the addresses under which we forward mail abroad, and the way back for what is returned to them.

    on the way out    an alias of ours leads elsewhere, and the sender is a stranger: the reverse-path becomes one of ours
    on the way back   a notification comes for it: it goes to the stranger, wherever that is

The way back is the only one by which a stranger's mail leaves the house without an alias for it. It is open to whoever has an
address that we have signed, for three weeks, and leads to the one address in it and nowhere else.

Deviates: RFC 5321 §3.9.1 has an alias leave the reverse-path as it is. Since there is SPF, hosts refuse such mail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from mailstack.mail.address import Address
from mailstack.mail.envelope import Recipient
from mailstack.mail.reply import NO_SUCH_USER, reply
from mailstack.mail.srs import SenderRewriting, SRSError, is_rewritten
from mailstack.mail.verdict import Refuse

_BARE_POSTMASTER: Final = Address("postmaster", "")


class Routes(Protocol):
    """Who routes everything else."""

    async def route(self, forward_path: Address) -> tuple[Recipient, ...] | Refuse:
        """Expand a forward-path."""
        ...


class Domains(Protocol):
    """Which domains are ours."""

    async def is_local_domain(self, domain: str) -> bool:
        """Say whether mail for the domain is delivered here."""


class ReturnPaths:
    """
    Routes, first of all what comes back.

    Shape:   `rewriting` None: nothing is rewritten and nothing known again; it may be changed at any time. Its domain needs no
             entry in the directory, and then nobody is there but the postmaster. `seconds` since 1970, UTC; `too_long` is told
             of each address that cannot be rewritten.
    """

    def __init__(
        self,
        others: Routes,
        domains: Domains,
        *,
        rewriting: SenderRewriting | None,
        seconds: Callable[[], float],
        too_long: Callable[[Address], None],
    ) -> None:
        self.rewriting = rewriting
        self._others = others
        self._domains = domains
        self._seconds = seconds
        self._too_long = too_long

    async def route(self, forward_path: Address) -> tuple[Recipient, ...] | Refuse:
        """
        Say for whom the mail to a forward-path is meant, or why it is refused.

        Raises:  what the others raise.
        """
        rewriting = self.rewriting
        if rewriting is None or forward_path.domain != rewriting.domain:
            return await self._others.route(forward_path)
        if is_rewritten(forward_path.local_part):
            return await self._back(rewriting, forward_path)
        if await self._domains.is_local_domain(forward_path.domain):
            return await self._others.route(forward_path)
        if forward_path.local_part.lower() != _BARE_POSTMASTER.local_part:
            return Refuse(NO_SUCH_USER)
        return _meant_by(forward_path, await self._others.route(_BARE_POSTMASTER))  # RFC 5321 §4.5.1

    async def _back(self, rewriting: SenderRewriting, forward_path: Address) -> tuple[Recipient, ...] | Refuse:
        try:
            sender = rewriting.restore(forward_path, self._seconds())
        except SRSError as error:
            return Refuse(reply(550, "5.7.1", str(error)), "SRS")
        return _meant_by(forward_path, await self._others.route(sender))

    async def forwarding(self, reverse_path: Address) -> Address:
        """
        Return the reverse-path of mail that we forward abroad: that of a domain of ours stays.

        One that gets too long stays, too: some hosts will refuse it, but others would refuse the long one.
        """
        rewriting = self.rewriting
        if rewriting is None or reverse_path.domain == rewriting.domain:
            return reverse_path
        if await self._domains.is_local_domain(reverse_path.domain):
            return reverse_path
        rewritten = rewriting.rewrite(reverse_path, self._seconds())
        if rewritten is None:
            self._too_long(reverse_path)
            return reverse_path
        return rewritten


def _meant_by(forward_path: Address, routed: tuple[Recipient, ...] | Refuse) -> tuple[Recipient, ...] | Refuse:
    return routed if isinstance(routed, Refuse) else tuple(replace(each, original=forward_path) for each in routed)
