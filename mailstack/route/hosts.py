"""
Next hops: from answers of the DNS to the hosts and addresses to try, in order.

Pure: whoever asks the DNS brings the answers, and `shuffle` orders the equals.

Source:  RFC 5321 §5.1 (MX, and the implicit MX); RFC 7505 (null MX); RFC 3463 §3.2, §3.5 (status).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, zip_longest
from typing import Final

from mailstack.mail.address import AddressError, parse_domain
from mailstack.mail.answers import Answer, Empty, Exchange, Failed, Found, NoSuchDomain
from mailstack.mail.status import EnhancedStatus

Shuffle = Callable[[Sequence[Exchange]], Sequence[Exchange]]
"""Returns the same exchanges in an order by chance."""


@dataclass(frozen=True, slots=True)
class Hop:
    """
    Where to connect to.

    Shape:  `host` is the name by which we know it, or an address literal; `address` is an IP address without brackets, or the
            path of a UNIX socket.
    """

    host: str
    address: str


@dataclass(frozen=True, slots=True)
class NoRoute:
    """There is nowhere to connect to; the class digit of `status` says whether that may change."""

    status: EnhancedStatus
    diagnostic: str
    cause: str = ""


def literal_hop(domain: str) -> Hop:
    """Return the hop that an address literal names, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3)."""
    return Hop(domain, domain[1:-1].removeprefix("IPv6:"))


def exchanges_of(domain: str, answer: Answer[Exchange], *, own_name: str, shuffle: Shuffle) -> tuple[str, ...] | NoRoute:
    """
    Return the names of the hosts that take mail for a domain, best first.

    Only a domain that exists and has no MX is its own mail host: after a failed lookup the MX is unknown, and connecting to the
    domain itself could give mail to a host that refuses it for good.
    """
    match answer:
        case Failed(cause):
            return NoRoute(EnhancedStatus(4, 4, 3), f"The DNS does not answer for {domain}", cause)
        case NoSuchDomain():
            return NoRoute(EnhancedStatus(5, 1, 2), f"Domain {domain} does not exist")
        case Empty():
            return _loops(domain) if domain == own_name else (domain,)
        case Found(records):
            return _ordered(domain, records, own_name, shuffle)


def _ordered(domain: str, records: Sequence[Exchange], own_name: str, shuffle: Shuffle) -> tuple[str, ...] | NoRoute:
    named = [each for each in records if each.host]
    if not named:
        return NoRoute(EnhancedStatus(5, 1, 10), f"Domain {domain} does not accept mail (null MX)")
    ours = [each.preference for each in named if each.host == own_name]
    if ours:
        # RFC 5321 §5.1: hosts no better than ourselves would give it back to us.
        named = [each for each in named if each.preference < min(ours)]
        if not named:
            return _loops(domain)
    ordered: dict[str, None] = {}
    for _, equals in groupby(sorted(named, key=lambda each: each.preference), key=lambda each: each.preference):
        ordered |= dict.fromkeys(each.host for each in shuffle(tuple(equals)))
    usable = tuple(host for host in ordered if _is_host_name(host))
    return usable or NoRoute(EnhancedStatus(5, 4, 4), f"The MX records of {domain} name no host")


def loops_back(domain: str) -> NoRoute:
    """Return why there is no way to a domain whose best host is this one, though its mail is not for us."""
    return _loops(domain)


def _loops(domain: str) -> NoRoute:
    return NoRoute(EnhancedStatus(5, 4, 6), f"Mail for {domain} loops back to this host")


@lru_cache(maxsize=4096)
def _is_host_name(text: str) -> bool:
    """Say whether an MX names a host: an IP address in its place, or odd octets, are a mistake or an attack."""
    try:
        return parse_domain(text) == text and not text.startswith("[")
    except AddressError:
        return False


def hops_of(host: str, ipv6: Answer[str], ipv4: Answer[str], *, allow_private: bool) -> tuple[Hop, ...] | NoRoute:
    """
    Return the addresses of a host, IPv6 and IPv4 by turns, so that one family out of order does not use up all attempts.

    Shape:  `allow_private` False leaves out addresses that no host on the Internet has. Else a domain's owner could make us
            talk to our own loopback, our neighbours or a cloud's metadata service.
    """
    sixes, fours = _records(ipv6), _records(ipv4)
    hops = tuple(Hop(host, each) for pair in zip_longest(sixes, fours) for each in pair if each is not None)
    usable = hops if allow_private or not hops else public_hops(hops)
    if isinstance(usable, tuple) and usable:
        return usable
    for answer in (ipv6, ipv4):  # what is not known may be the address that can be used
        if isinstance(answer, Failed):
            return NoRoute(EnhancedStatus(4, 4, 3), f"The DNS does not answer for {host}", answer.cause)
    return usable or NoRoute(EnhancedStatus(5, 4, 4), f"Host {host} has no address")


def public_hops(hops: tuple[Hop, ...]) -> tuple[Hop, ...] | NoRoute:
    """Leave out the hops that no host on the Internet can be."""
    addresses = " ".join(hop.address for hop in hops[:5])
    public = tuple(hop for hop in hops if is_public(hop.address))
    return public or NoRoute(EnhancedStatus(5, 4, 6), f"Host {hops[0].host} has only private addresses", addresses)


def _records(answer: Answer[str]) -> tuple[str, ...]:
    return answer.records if isinstance(answer, Found) else ()


def is_ip(text: str) -> bool:
    """Say whether a text is an IP address, without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4096)
def is_this_machine(host: str) -> bool:
    """Say whether a host that the operator has named is this one: by its name, a loopback address, or a file."""
    return host.startswith("/") or host == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)


@lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    """Say whether a host on the Internet can have the address; the IPv4 address within an IPv6 one counts."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        within = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(ip.packed[12:]) if ip in _NAT64 else None)
        if within is not None:
            return is_public(str(within))
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that IANA ever gave out. Elsewhere are site-local addresses, and translators of one network."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
