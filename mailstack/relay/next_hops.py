"""
Where a message can be handed to: from a next hop to hosts, and from a host to addresses, by the answers of the DNS.

The answers go along with what was made of them, for whoever judges the hosts: asked once more, the DNS may say something else.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from twisted.internet.defer import Deferred

from mailstack.mail.answers import Answer, Empty, Exchange
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.ports import Resolver
from mailstack.relay.settings import NextHop
from mailstack.route.hosts import Hop, NoRoute, Shuffle, exchanges_of, hops_of, literal_hop, public_hops

_NOT_FOUND: Final = EnhancedStatus(4, 4, 4)


@dataclass(frozen=True, slots=True)
class Hosts:
    """
    The hosts that take mail for a domain, best first.

    Shape:  `domain` is empty where a host is named; `exchanges` is the answer that names them, None: nobody was asked.
    """

    domain: str
    names: tuple[str, ...]
    exchanges: Answer[Exchange] | None = None


@dataclass(frozen=True, slots=True)
class Addresses:
    """
    The addresses of a host, in the order in which to try them.

    Shape:  `ipv6` and `ipv4` are the answers that name them; both are empty where nobody was asked.
    """

    host: str
    hops: tuple[Hop, ...]
    ipv6: Answer[str]
    ipv4: Answer[str]


class NextHops:
    """
    Finds hosts and addresses.

    Shape:  `hostname` is our own name; `shuffle` orders MX of equal preference by chance.
    """

    def __init__(self, hostname: str, resolver: Resolver, shuffle: Shuffle) -> None:
        self._hostname = hostname
        self._resolver = resolver
        self._shuffle = shuffle

    async def hosts(self, next_hop: NextHop, domain: str) -> Hosts | NoRoute:
        """Return the hosts that take mail for a domain; that is of no account where the next hop is named."""
        domain = next_hop.domain or domain
        if next_hop.host is not None:
            return Hosts(domain, (next_hop.host,))
        if next_hop.domain is None and domain.startswith("["):
            return Hosts(domain, (domain,))
        answer = await self._resolver.mx(domain)
        names = exchanges_of(domain, answer, own_name=self._hostname, shuffle=self._shuffle)
        if isinstance(names, NoRoute):
            return _temporary(names) if next_hop.is_named else names
        return Hosts(domain, names, answer)

    async def addresses(self, next_hop: NextHop, host: str) -> Addresses | NoRoute:
        """Return the addresses of one of these hosts."""
        ipv6: Answer[str] = Empty()
        ipv4: Answer[str] = Empty()
        hops: tuple[Hop, ...] | NoRoute
        if (fixed := _fixed_hops(host)) is not None:
            hops = fixed if next_hop.allow_private or next_hop.is_socket else public_hops(fixed)
        else:
            ipv6, ipv4 = await self._both_families(host)
            hops = hops_of(host, ipv6, ipv4, allow_private=next_hop.allow_private)
        if isinstance(hops, NoRoute):
            return _temporary(hops) if next_hop.is_named else hops
        return Addresses(host, hops, ipv6, ipv4)

    async def _both_families(self, host: str) -> tuple[Answer[str], Answer[str]]:
        """Ask for both at once: some nameservers say nothing to AAAA, and the wait for that is long enough."""
        ipv4: Deferred[Answer[str]] = Deferred.fromCoroutine(self._resolver.ipv4(host))
        try:
            return await self._resolver.ipv6(host), await ipv4
        except BaseException:  # whatever ends it, nobody wants the other answer any more
            ipv4.addErrback(lambda _: None)
            ipv4.cancel()
            raise


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
