"""
Where a message can be handed to: from a next hop to hosts, and from a host to addresses, by the answers of the DNS.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from functools import lru_cache
from typing import Final

from mailstack.mail.status import EnhancedStatus
from mailstack.relay.ports import Resolver
from mailstack.relay.settings import NextHop
from mailstack.route.hosts import Hop, NoRoute, Shuffle, exchanges_of, hops_of, literal_hop, public_hops

_NOT_FOUND: Final = EnhancedStatus(4, 4, 4)


class NextHops:
    """
    Finds hosts and addresses.

    Shape:  `hostname` is our own name; `shuffle` orders MX of equal preference by chance.
    """

    def __init__(self, hostname: str, resolver: Resolver, shuffle: Shuffle) -> None:
        self._hostname = hostname
        self._resolver = resolver
        self._shuffle = shuffle

    async def hosts(self, next_hop: NextHop, domain: str) -> tuple[str, ...] | NoRoute:
        """Return the names of the hosts that take mail for a domain, best first."""
        if next_hop.host is not None:
            return (next_hop.host,)
        if next_hop.domain is None and domain.startswith("["):
            return (domain,)
        answer = await self._resolver.mx(next_hop.domain or domain)
        hosts = exchanges_of(next_hop.domain or domain, answer, own_name=self._hostname, shuffle=self._shuffle)
        return _temporary(hosts) if isinstance(hosts, NoRoute) and next_hop.is_named else hosts

    async def addresses(self, next_hop: NextHop, host: str) -> tuple[Hop, ...] | NoRoute:
        """Return the addresses of one of these hosts."""
        hops: tuple[Hop, ...] | NoRoute
        if (fixed := _fixed_hops(host)) is not None:
            hops = fixed if next_hop.allow_private or next_hop.is_socket else public_hops(fixed)
        else:
            ipv6, ipv4 = await self._resolver.ipv6(host), await self._resolver.ipv4(host)
            hops = hops_of(host, ipv6, ipv4, allow_private=next_hop.allow_private)
        return _temporary(hops) if isinstance(hops, NoRoute) and next_hop.is_named else hops


def _temporary(route: NoRoute) -> NoRoute:
    """Somebody wrote a wrong name into the configuration: no reason to fail everybody's mail."""
    return replace(route, status=_NOT_FOUND, diagnostic="The next host cannot be found", cause=route.diagnostic)


@lru_cache(maxsize=16)
def _fixed_hops(host: str) -> tuple[Hop, ...] | None:
    """Return the hops of what needs no lookup: an address, with or without brackets, a socket, and this machine."""
    if host.startswith("/"):
        return (Hop("localhost", host),)  # the host's name may come to be known to the sender, and a path may not
    if host.startswith("["):
        return (literal_hop(host),)
    if host == "localhost":
        return Hop(host, "::1"), Hop(host, "127.0.0.1")
    try:
        return (Hop(host, str(ipaddress.ip_address(host))),)
    except ValueError:
        return None
