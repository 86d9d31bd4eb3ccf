"""
Certificates: the TLS contexts of our services, which a reload swaps under running listeners.

A new connection takes the contexts that are in force at that moment, so a renewed certificate needs no restart.

Users' programs may be asked for a certificate, too. One that no authority of ours has signed ends the handshake; to have none
is no harm. Other servers are never asked: many show theirs to whoever asks, and could not send to us any more.

Where there are lists of revocations (CRLs), each authority up to the root must have one that is in force, or nobody is let in
by its certificates: who could keep a new list from us could else go on with what was revoked. A session that is resumed would
not be verified again; Twisted's contexts let nobody resume one, unless they are told to.

Source:  RFC 5280 §5 and §6.3 (CRLs).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates, load_pem_x509_crl
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol


_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_REASONS: Final = {
    code: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, code in vars(SSL.X509VerificationCodes).items()
    if not name.startswith("_")
}

Refused = Callable[[IAddress | None, str, str], object]
"""Is told of a client whose certificate was refused: its address, name and number of the certificate, and why."""


class CertificateError(ValueError):
    """A certificate or key cannot be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Pem:
    """
    A certificate with its chain, its private key, and the authorities of our users' certificates with their lists of
    revocations, if any; all PEM.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes | None = None
    revocations: bytes | None = None


@implementer(IOpenSSLServerConnectionCreator)
class CertificateStore:
    """
    Makes the server side of TLS connections from a certificate chain and its key, both PEM.

    Shape:  `for_users` does so for the programs of our users: it asks for a certificate where there is an `authority`, and
            looks it up in the lists of `revocations`, if there are any; `refused` is told of those that are wrong.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        authority: Path | None = None,
        revocations: Path | None = None,
        *,
        refused: Refused = lambda address, subject, why: None,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._authority = authority
        self._revocations = revocations
        self._refused = refused
        self._options: CertificateOptions | None = None
        self._asking_options: CertificateOptions | None = None
        self.for_users = _ForUsers(self)
        self.pem: Pem | None = None

    def load(self) -> None:
        """
        Read the files and use them from now on; on an error what was in force stays.

        Raises:  CertificateError.
        """
        authority = None if self._authority is None else _read(self._authority)
        revocations = None if self._revocations is None else _read(self._revocations)
        self.use(Pem(_read(self._certificate), _read(self._key), authority, revocations))

    def use(self, pem: Pem) -> None:
        """
        Use what was read from the files; on an error what was in force stays.

        Raises:  CertificateError.
        """
        options = asking = _options(self._certificate, self._key, pem)
        if self._authority is not None and pem.authority is not None:
            asking = _options(self._certificate, self._key, pem)
            _ask(asking.getContext(), self._authority, pem.authority, self._refused)
            if self._revocations is not None and pem.revocations is not None:
                _look_up(asking.getContext(), self._revocations, pem.revocations)
        self._options, self._asking_options, self.pem = options, asking, pem

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the connection object for one TLS session."""
        return _made(self._options, protocol)

    def asking_connection(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make one in which the client is asked for a certificate, if there is an authority for them."""
        return _made(self._asking_options, protocol)


@implementer(IOpenSSLServerConnectionCreator)
class _ForUsers:
    """The side of a store for the programs of our users."""

    def __init__(self, store: CertificateStore) -> None:
        self._store = store

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._store.asking_connection(protocol)


def _made(options: CertificateOptions | None, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
    if options is None:
        raise CertificateError("certificates were not loaded")
    connection: SSL.Connection = options.serverConnectionForTLS(protocol)
    return connection


def _ask(context: SSL.Context, path: Path, authority: bytes, refused: Refused) -> None:
    """Ask clients for a certificate of these authorities."""
    try:
        certificates = load_pem_x509_certificates(authority)
    except ValueError as error:
        raise CertificateError(f"{path}: {error}") from error
    store = context.get_cert_store()
    assert store is not None, "every context has one"
    for each in certificates:
        store.add_cert(X509.from_cryptography(each))
        context.add_client_ca(each)  # who has several certificates then knows which of them we mean

    def verified(connection: SSL.Connection, certificate: X509, error: int, depth: int, is_right: int) -> bool:
        if not is_right:
            refused(_peer(connection), _name(certificate), _REASONS.get(error, f"error {error}"))
        return bool(is_right)

    context.set_verify(SSL.VERIFY_PEER, verified)


def _look_up(context: SSL.Context, path: Path, revocations: bytes) -> None:
    """Look in these lists for each certificate of a chain."""
    store = context.get_cert_store()
    assert store is not None, "every context has one"
    lists = _CRL.findall(revocations)
    if not lists:
        raise CertificateError(f"{path}: holds no X509 CRL")
    for each in lists:
        try:
            store.add_crl(load_pem_x509_crl(each))
        except (ValueError, SSL.Error) as error:
            raise CertificateError(f"{path}: {error}") from error
    store.set_flags(X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL)


def _peer(connection: SSL.Connection) -> IAddress | None:
    """Return the address of the client, which the protocol knows that Twisted has put there; None when it has gone."""
    transport = getattr(connection.get_app_data(), "transport", None)
    return transport.getPeer() if transport is not None else None


def _name(certificate: X509) -> str:
    serial = f"number {certificate.get_serial_number():X}"
    try:
        subject = certificate.to_cryptography().subject.rfc4514_string()
    except ValueError:  # whatever a stranger puts there
        return serial
    return f"{subject}, {serial}" if subject else serial


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error}") from error


def read_pair(certificate: Path, key: Path) -> Pem:
    """
    Read a certificate with its chain, and its key.

    Raises:  CertificateError.
    """
    return Pem(_read(certificate), _read(key))


def identity(certificate: Path, key: Path, pem: Pem) -> dict[str, Any]:
    """
    Return what makes CertificateOptions show a certificate; the paths are for the messages.

    Raises:  CertificateError.
    """
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
    return {"privateKey": private, "certificate": chain[0], "extraCertChain": chain[1:]}


def _options(certificate: Path, key: Path, pem: Pem) -> CertificateOptions:
    options = CertificateOptions(**identity(certificate, key, pem), raiseMinimumTo=TLSVersion.TLSv1_2)
    # Without this, Twisted answers a client that offers ALPN with a fatal alert.
    options.getContext().set_alpn_select_callback(lambda connection, offered: SSL.NO_OVERLAPPING_PROTOCOLS)
    return options
