"""The outside: the DNS and the pages of other hosts, as the configuration has them asked."""

from __future__ import annotations

from typing import Any

from mailstack.compose.refused import refused_in
from mailstack.net.dns_exchange import Server
from mailstack.net.https import HTTPS
from mailstack.net.resolver import Resolver, system_nameservers
from mailstack.route.hosts import is_public
from mailstack.settings import Relay


class Outside:
    """
    Where other hosts are, and what they publish.

    Raises:  RefusedError: there is no nameserver that could be asked.
    """

    def __init__(self, relay: Relay, reactor: Any) -> None:
        with refused_in("relay"):
            nameservers = [Server(each.host, each.port) for each in relay.nameservers] or system_nameservers()
        self.resolver = Resolver(reactor, nameservers)
        is_allowed = (lambda address: True) if relay.allow_private else is_public
        self.https = HTTPS(reactor, self.resolver, is_allowed=is_allowed)
