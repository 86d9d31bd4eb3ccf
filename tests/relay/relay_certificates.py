"""Certificates for the tests of trust: authorities, what they sign, servers' contexts and TLSA records of them."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet import ssl

from mailstack.net.tls import Pem


@dataclass(frozen=True)
class Made:
    """A certificate with its key; `above` are those that signed it, the nearest first."""

    certificate: x509.Certificate
    key: Any
    above: tuple[x509.Certificate, ...] = ()

    @property
    def trust(self) -> Any:
        return ssl.trustRootFromCertificates([ssl.Certificate(crypto.X509.from_cryptography(self.certificate))])

    @property
    def pem(self) -> Pem:
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pem(b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.above)), key)

    def options(self, *, without: tuple[x509.Certificate, ...] = (), **more: Any) -> ssl.CertificateOptions:
        """Make what a server shows; `options.seen` collects the names that clients asked for."""
        options = ssl.CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(self.key),
            certificate=crypto.X509.from_cryptography(self.certificate),
            extraCertChain=[crypto.X509.from_cryptography(each) for each in self.above if each not in without],
            **more,
        )
        context = options.getContext()
        context.set_alpn_select_callback(lambda connection, offered: SSL.NO_OVERLAPPING_PROTOCOLS)
        options.seen = []
        context.set_tlsext_servername_callback(lambda connection: options.seen.append(connection.get_servername()))
        return options


def made(
    common_name: str,
    by: Made | None = None,
    *,
    is_authority: bool = False,
    days: int = 1,
    rsa_key: bool = False,
    name: x509.GeneralName | None = None,
) -> Made:
    """Make a certificate, signed by another or by itself; with `days` negative it has expired. `name` is borne instead."""
    key = rsa.generate_private_key(65_537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([name or x509.DNSName(common_name)]), critical=False)
    certificate = builder.sign(key if by is None else by.key, hashes.SHA256())
    return Made(certificate, key, () if by is None else (by.certificate, *by.above))


def tlsa(certificate: x509.Certificate, usage: int, selector: int, matching: int) -> str:
    """Return the text of a TLSA record."""
    octets = certificate.public_bytes(Encoding.DER)
    if selector == 1:
        octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if matching:
        octets = {1: hashlib.sha256, 2: hashlib.sha512}[matching](octets).digest()
    return f"{usage} {selector} {matching} {octets.hex()}"
