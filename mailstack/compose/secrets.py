"""
Secrets: what is read from files that only root may look at.

A process that is alone reads them where it builds its house. Workers may have lost the right to: what they are told was read by
their parent, at its start as root, and at a reload with what rights it has then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailstack.compose.refused import refused_in
from mailstack.net.tls import Pem, read_pair
from mailstack.settings import Relay, Settings, read_secret, read_secrets


@dataclass(frozen=True, slots=True)
class Secrets:
    """
    What the parts of a house must know and nobody else may.

    Shape:  `pem` is the certificate of our listeners with its key, where another process has read it; `relay_pem` is the one
            that we show to other hosts; `srs` are the secrets by which reverse-paths are rewritten, the first of them from now
            on; `login_passwords` go by the names of hosts.
    """

    pem: Pem | None
    smarthost_password: str | None = field(repr=False)
    login_passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    srs: tuple[str, ...] = field(default=(), repr=False)
    oauth_secret: str | None = field(default=None, repr=False)
    relay_pem: Pem | None = None

    @classmethod
    def read(cls, settings: Settings, pem: Pem | None = None) -> Secrets:
        """
        Read whatever the settings name.

        Raises:  RefusedError: something cannot be read, or is no good.
        """
        relay, srs, oauth = settings.relay, settings.srs, settings.oauth
        with refused_in("relay"):
            password = None if relay.smarthost_password_file is None else read_secret(relay.smarthost_password_file)
            passwords = {host: read_secret(login.password_file) for host, login in relay.logins.items()}
            relay_pem = _read_certificate(relay)
        with refused_in("srs"):
            srs_secrets = () if srs.secret_file is None else read_secrets(srs.secret_file)
        with refused_in("oauth"):
            oauth_secret = None if oauth.client_secret_file is None else read_secret(oauth.client_secret_file)
        return cls(pem, password, passwords, srs_secrets, oauth_secret, relay_pem)


def _read_certificate(relay: Relay) -> Pem | None:
    if relay.client_certificate is None or relay.client_key is None:
        return None
    return read_pair(relay.client_certificate, relay.client_key)
