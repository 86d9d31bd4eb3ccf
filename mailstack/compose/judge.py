"""The judge: the policies that the configuration names, and the house as they see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.plugin import getPlugins

import mailstack.plugins
from mailstack.compose.refused import RefusedError
from mailstack.directory.directory import Directory
from mailstack.doors import IPolicyMaker
from mailstack.mail.address import Address
from mailstack.policy.activation import ActivationError, activate
from mailstack.policy.chain import Chain
from mailstack.policy.returns import Returns
from mailstack.settings import Settings


@dataclass(frozen=True)
class House:
    """What policies may ask (`doors.House`)."""

    hostname: str
    directory: Directory
    srs_domain: str | None = None

    async def is_local_domain(self, domain: str) -> bool:
        """Say whether mail for the domain comes here."""
        return domain == self.srs_domain or await self.directory.is_local_domain(domain)

    async def owns(self, account: str, address: Address) -> bool:
        """Say whether the account may send as the address."""
        return await self.directory.owns(account, address)


def make_judge(settings: Settings, directory: Directory, reactor: Any) -> Chain:
    """
    Make what asks the policies in their order.

    Raises:  RefusedError: one of them cannot be had.
    """
    policy, srs_domain = settings.policy, settings.srs.domain
    house = House(settings.hostname, directory, srs_domain)
    use = [*policy.use, "author"] if policy.check_header_from and "author" not in policy.use else policy.use
    try:
        policies = activate(getPlugins(IPolicyMaker, mailstack.plugins), use, policy.options, house)
    except ActivationError as error:
        raise RefusedError(f"policy: {error}") from error
    if srs_domain is not None:
        policies.insert(0, ("returns", Returns(srs_domain)))
    return Chain(policies, reactor)
