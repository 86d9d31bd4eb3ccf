"""
TLS as a client: contexts, made once, and the connections of each host.

A context costs some ten milliseconds, a connection little; so contexts are kept.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion, optionsForClientTLS
from zope.interface import implementer

from mailstack.relay.settings import TLSPolicy


class TLSContexts:
    """
    Makes the client side of TLS connections.

    Shape:  `trust` are the authorities for VERIFY (an IOpenSSLTrustRoot); None means those of this machine.
    """

    def __init__(self, trust: Any = None) -> None:
        self._unverified = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2).getContext()
        more = {} if trust is None else {"trustRoot": trust}
        self._verifying = lru_cache(maxsize=16)(lambda host: optionsForClientTLS(host, **more))

    def creator(self, policy: TLSPolicy, host: str) -> Any:
        """Return what makes the connection to a host (an IOpenSSLClientConnectionCreator)."""
        if policy is TLSPolicy.VERIFY:
            return self._verifying(host)
        return _Unverified(self._unverified, host)


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """Makes connections that take any certificate, and still say whom they want (RFC 6066 §3)."""

    def __init__(self, context: SSL.Context, host: str) -> None:
        self._context = context
        self._host = host

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if _is_name(self._host):
            connection.set_tlsext_host_name(self._host.encode("idna" if not self._host.isascii() else "ascii"))
        return connection


def _is_name(host: str) -> bool:
    if host.startswith("["):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
