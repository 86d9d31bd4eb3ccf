"""
Certificates: the TLS contexts of our services, which a reload swaps under running listeners.

A new connection takes the contexts that are in force at that moment, so a renewed certificate needs no restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol


class CertificateError(ValueError):
    """A certificate or key cannot be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate with its chain, and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@implementer(IOpenSSLServerConnectionCreator)
class CertificateStore:
    """Makes the server side of TLS connections from a certificate chain and its key, both PEM."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._options: CertificateOptions | None = None
        self.pem: Pem | None = None

    def load(self) -> None:
        """
        Read the files and use them from now on; on an error what was in force stays.

        Raises:  CertificateError.
        """
        self.use(Pem(_read(self._certificate), _read(self._key)))

    def use(self, pem: Pem) -> None:
        """
        Use what was read from the files; on an error what was in force stays.

        Raises:  CertificateError.
        """
        self._options = _options(self._certificate, self._key, pem)
        self.pem = pem

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the connection object for one TLS session."""
        if self._options is None:
            raise CertificateError("certificates were not loaded")
        connection: SSL.Connection = self._options.serverConnectionForTLS(protocol)
        return connection


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error}") from error


def _options(certificate: Path, key: Path, pem: Pem) -> CertificateOptions:
    try:
        chain = load_pem_x509_certificates(pem.certificate)
    except ValueError as error:
        raise CertificateError(f"{certificate}: {error}") from error
    try:
        private = load_pem_private_key(pem.key, None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{key}: {error}") from error
    if private.public_key() != chain[0].public_key():
        raise CertificateError(f"{key}: is not the key of {certificate}")
    # pyOpenSSL takes cryptography's objects and deprecates its own; Twisted's annotations still name those.
    options = CertificateOptions(
        privateKey=private,  # type: ignore[arg-type]  # see above
        certificate=chain[0],  # type: ignore[arg-type]  # see above
        extraCertChain=chain[1:],  # type: ignore[arg-type]  # see above
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )
    # Without this, Twisted answers a client that offers ALPN with a fatal alert.
    options.getContext().set_alpn_select_callback(lambda connection, offered: SSL.NO_OVERLAPPING_PROTOCOLS)
    return options
