"""Certificates: what our listeners show of themselves, and to whom they ask for as much."""

from __future__ import annotations

from twisted.internet.interfaces import IOpenSSLServerConnectionCreator

from mailstack import events
from mailstack.mail.envelope import Service
from mailstack.net.tls import CertificateStore, Pem
from mailstack.sessions import peer_address
from mailstack.settings import Tls


class Certificates:
    """The certificate of our listeners, if there is one."""

    def __init__(self, tls: Tls) -> None:
        self._store = _make_store(tls)

    @property
    def pem(self) -> Pem | None:
        """What is in force."""
        return None if self._store is None else self._store.pem

    def load(self, pem: Pem | None = None) -> None:
        """
        Put it into force: this one, or what its files hold now.

        Raises:  CertificateError.
        """
        if self._store is None:
            return
        if pem is None:
            self._store.load()
        else:
            self._store.use(pem)

    def of(self, service: Service) -> IOpenSSLServerConnectionCreator | None:
        """Return what makes the TLS sessions of a service; programs of our users are asked for a certificate, too."""
        if self._store is None or service in (Service.SMTP, Service.LMTP):
            return self._store
        return self._store.for_users


def _make_store(tls: Tls) -> CertificateStore | None:
    if tls.certificate is None or tls.key is None:
        return None
    return CertificateStore(
        tls.certificate,
        tls.key,
        tls.client_authority,
        tls.client_revocations,
        refused=lambda address, subject, why: events.client_certificate_refused(peer_address(address), subject, why),
    )
