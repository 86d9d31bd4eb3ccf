"""Relaying: from the tables of the configuration to what the relay knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailstack.compose.secrets import Secrets
from mailstack.relay.settings import HostLogin, NextHop, RelaySettings, SourceAddresses, TLSPolicy, smarthost
from mailstack.settings import Queue, Relay
from mailstack.wire.smtp_mailing import Login

REMEMBERED_SECONDS: Final = 1_800.0
REMEMBERED_SECONDS_OF_SMARTHOST: Final = 120.0


def relay_settings(relay: Relay, queue: Queue, secrets: Secrets) -> RelaySettings:
    """Say how mail leaves."""
    direct = NextHop(port=relay.port, tls=TLSPolicy(relay.tls), allow_private=relay.allow_private)
    logins = {
        host: HostLogin(Login(each.username, secrets.login_passwords[host]), TLSPolicy(each.tls))
        for host, each in relay.logins.items()
    }
    return RelaySettings(
        next_hop=usual_next_hop(relay, direct, secrets.smarthost_password, logins),
        direct=direct,
        logins=logins,
        connect_timeout_seconds=relay.connect_timeout_seconds,
        max_hosts=relay.max_hosts,
        chunking=relay.chunking,
        tls_levels={domain: TLSPolicy(level) for domain, level in relay.tls_levels.items()},
        sources=SourceAddresses(relay.local_addresses, relay.source),
        remembered_seconds=_remembered_seconds(relay, queue),
    )


def usual_next_hop(relay: Relay, direct: NextHop, password: str | None, logins: Mapping[str, HostLogin]) -> NextHop:
    """Return where all mail goes that has no transport of its own: the smarthost, if there is one, and else by MX."""
    if relay.smarthost is None:
        return direct
    host, port = relay.smarthost.host, relay.smarthost.port
    if relay.smarthost_username is not None and password is not None:
        # A password goes to nobody who has not shown who he is.
        tls = TLSPolicy.VERIFY if direct.tls is TLSPolicy.DANE else direct.tls
        return smarthost(host, port, login=Login(relay.smarthost_username, password), tls=tls)
    if (found := logins.get(host)) is not None:
        return smarthost(host, port, login=found.login, tls=found.tls)
    return smarthost(host, port, tls=direct.tls)


def _remembered_seconds(relay: Relay, queue: Queue) -> tuple[float, float]:
    """A smarthost is asked often, since all mail waits for it, and that is one connection for all of it."""
    most = REMEMBERED_SECONDS if relay.smarthost is None else REMEMBERED_SECONDS_OF_SMARTHOST
    return min(60.0, queue.retry_first_seconds), min(most, queue.retry_most_seconds)
