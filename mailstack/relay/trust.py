"""
What is asked of TLS with a host: the questions whose answers `route.trust` decides by.

They are asked for each host when its turn comes, since most messages go to the first. The answers by which a host was found are
those by which it is judged: signed ones that change from one question to the next would else have it taken for somebody's whom
nobody vouches for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mailstack.mail.answers import Failed, Found
from mailstack.relay.next_hops import Addresses, Hosts
from mailstack.relay.ports import PolicySource, Resolver
from mailstack.relay.settings import NextHop
from mailstack.route.hosts import literal_hop
from mailstack.route.trust import (
    Barred,
    Security,
    TLSPolicy,
    by_dane,
    by_mta_sts,
    by_setting,
    is_unsigned_alias,
    is_vouched_for,
    level_of,
    level_of_named,
    tlsa_bases,
    without_answer,
)


class Trust:
    """
    Finds out what is asked of TLS.

    Shape:  `levels` are those set for domains, and for hosts that are named; `policies` knows the MTA-STS policies, None: they
            are not looked for.
    """

    def __init__(self, resolver: Resolver, levels: Mapping[str, TLSPolicy], policies: PolicySource | None = None) -> None:
        self._resolver = resolver
        self._levels = levels
        self._policies = policies

    async def security(
        self, next_hop: NextHop, hosts: Hosts, addresses: Addresses, domains: Collection[str], *, is_optional: bool = False
    ) -> Security | Barred:
        """
        Return what is asked of one of the hosts to which mail goes, or why it must not be used now.

        Shape:  `domains` are those of the recipients. `is_optional`: the message is to go whatever is published; what we have
                set ourselves holds.
        """
        domain, host, exchanges = hosts.domain, addresses.host, hosts.exchanges
        level = self._level(next_hop, domain, domains)
        is_optional = is_optional and level is TLSPolicy.DANE
        if next_hop.host is not None and not is_optional:
            return await self._of_fixed(next_hop, level, addresses)
        if exchanges is None or is_optional:
            name = literal_hop(host).address if host.startswith("[") else host
            return by_setting(TLSPolicy.MAY if level is TLSPolicy.DANE else level, name, "", is_trusted=False)
        if level in (TLSPolicy.NONE, TLSPolicy.MAY, TLSPolicy.ENCRYPT):
            return by_setting(level, host, domain, is_trusted=False)
        is_sure = is_vouched_for(domain, host, exchanges)
        if level is TLSPolicy.VERIFY:
            return by_setting(level, host, domain, is_trusted=is_sure)
        names = (host, domain, *([exchanges.canonical] if isinstance(exchanges, Found) and exchanges.canonical else []))
        security = await self._by_dane(next_hop.port, addresses, names) if is_sure else None
        if security is not None:
            return security
        return await self._by_policy(domain, host)

    def _level(self, next_hop: NextHop, domain: str, domains: Collection[str]) -> TLSPolicy:
        if not next_hop.is_named:
            return level_of(domain, self._levels, next_hop.tls)
        if next_hop.is_socket:
            return next_hop.tls
        name, has_login = next_hop.host or domain, next_hop.login is not None
        return level_of_named(name, domains, self._levels, next_hop.tls, has_login=has_login)

    async def _of_fixed(self, next_hop: NextHop, level: TLSPolicy, addresses: Addresses) -> Security | Barred:
        """Say what is asked of a host that is named by a setting: nobody else can have put it there."""
        host = addresses.host
        if level is not TLSPolicy.DANE:
            return by_setting(level, host, "", is_trusted=True)
        found = await self._by_dane(next_hop.port, addresses, (host,))
        return found or by_setting(TLSPolicy.MAY, host, "", is_trusted=False)

    async def _by_dane(self, port: int, addresses: Addresses, names: tuple[str, ...]) -> Security | Barred | None:
        host, ipv6, ipv4 = addresses.host, addresses.ipv6, addresses.ipv4
        alias = await self._resolver.alias(host) if is_unsigned_alias(host, ipv6, ipv4) else None
        if isinstance(alias, Failed):
            return without_answer(host, alias.cause)
        for base in tlsa_bases(host, ipv6, ipv4, alias):
            security = by_dane(base, names, await self._resolver.tlsa(f"_{port}._tcp.{base}"))
            if security is not None:
                return security
        return None

    async def _by_policy(self, domain: str, host: str) -> Security | Barred:
        if self._policies is None:
            return by_setting(TLSPolicy.MAY, host, domain, is_trusted=False)
        return by_mta_sts(domain, host, await self._policies.standing(domain))
