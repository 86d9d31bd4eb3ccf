"""
TLS as a client: contexts, made once, and the connections of each host.

A context costs some ten milliseconds, a connection little; so contexts are kept. None of them breaks a handshake off for a
certificate: what is wrong with it is noted, and judged when the handshake is over, before anything is said within. So it can be
said what was wrong, also where that is only reported, and DANE needs no other handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion, platformTrust
from zope.interface import implementer

from mailstack.mail.tls_results import TLSFailure
from mailstack.relay.dane import Judgement, judge_by_errors, judge_by_records
from mailstack.route.hosts import is_ip
from mailstack.route.trust import Security, TLSPolicy


class TLSContexts:
    """
    Makes the client side of TLS connections.

    Shape:  `trust` are the authorities for VERIFY (an IOpenSSLTrustRoot); None means those of this machine. `identity` are the
            arguments of CertificateOptions that say which certificate we show to hosts that ask for one.
    """

    def __init__(self, trust: Any = None, identity: dict[str, Any] | None = None) -> None:
        self._trust = trust
        self._identity = identity or {}
        self._unverified = self._context()

    def client(self, security: Security, host: str) -> TLSClient:
        """Return what makes the one connection to a host, and judges it."""
        return TLSClient(self._checking if _is_checked(security) else self._unverified, security, host)

    @cached_property
    def _checking(self) -> SSL.Context:
        return self._context(trustRoot=platformTrust() if self._trust is None else self._trust)

    def _context(self, **more: Any) -> SSL.Context:
        context: SSL.Context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2, **self._identity, **more).getContext()
        return context


def _noting(errors: list[int]) -> Callable[[SSL.Connection, X509, int, int, int], bool]:
    def note(connection: SSL.Connection, certificate: X509, error: int, depth: int, is_right: int) -> bool:
        if not is_right:
            errors.append(error)
        return True

    return note


def _is_checked(security: Security) -> bool:
    """Say whether the certificate is to be judged by the authorities that we trust."""
    return security.level is TLSPolicy.VERIFY or security.is_testing


@implementer(IOpenSSLClientConnectionCreator)
class TLSClient:
    """One connection: it says whom it wants (RFC 6066 §3), and judges what it got."""

    def __init__(self, context: SSL.Context, security: Security, host: str) -> None:
        self._context = context
        self._security = security
        self._name = security.names[0] if security.names else host
        self._errors: list[int] = []
        self._connection: SSL.Connection | None = None

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Make the connection."""
        connection = SSL.Connection(self._context, None)
        if _is_checked(self._security):
            connection.set_verify(SSL.VERIFY_PEER, _noting(self._errors))
        if not self._name.startswith("[") and not is_ip(self._name):
            connection.set_tlsext_host_name(self._name.encode("ascii" if self._name.isascii() else "idna"))
        self._connection = connection
        return connection

    @property
    def used(self) -> str:
        """Which TLS it is: "TLSv1.3 TLS_AES_256_GCM_SHA384"."""
        connection = self._connection
        return "" if connection is None else f"{connection.get_protocol_version_name()} {connection.get_cipher_name()}"

    def judge(self) -> Judgement:
        """Judge the certificate, when the handshake is over."""
        assert self._connection is not None, "judged after the handshake only"
        try:
            return self._judge(self._connection)
        except Exception as error:  # a bulkhead: OpenSSL reads certificates that others cannot
            return Judgement("unreadable", TLSFailure.CERTIFICATE_NOT_TRUSTED, repr(error)[:200])

    def _judge(self, connection: SSL.Connection) -> Judgement:
        security = self._security
        if security.level is TLSPolicy.DANE:
            chain = connection.get_peer_cert_chain(as_cryptography=True) or []
            return judge_by_records(chain, security.tlsa, security.names)
        if _is_checked(security):
            certificate = connection.get_peer_certificate(as_cryptography=True)
            return judge_by_errors(certificate, self._errors, security.names or (self._name,))
        return Judgement("unverified")
