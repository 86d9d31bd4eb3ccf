"""
DANE: a host's certificates against its TLSA records.

OpenSSL can do this and pyOpenSSL has no way to ask it, so it is done here, when the handshake is over and before a word is said
within it. A record of usage 3 names the host's own certificate or key, and nothing else about that certificate matters. One of
usage 2 names an authority: it must be among the certificates that the host sends, or stand in the record itself, and must have
signed, through those between, a certificate that bears one of the names and is valid now.

Source:  RFC 7672 §3.1 (usages), §3.2 (names); RFC 6698 §2.1; RFC 7671 §5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError, X509StoreFlags
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.exceptions import CertificateError, VerificationError

from mailstack.mail.answers import TLSA
from mailstack.mail.tls_results import TLSFailure
from mailstack.route.hosts import is_ip
from mailstack.route.trust import DANE_EE, DANE_TA

MAX_CHAIN: Final = 10
_EXPIRED: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a certificate is worth: `how` it was found good, for the log; or the failure and why."""

    how: str
    failure: TLSFailure | None = None
    why: str = ""


def judge_by_records(chain: Sequence[x509.Certificate], records: Sequence[TLSA], names: Sequence[str]) -> Judgement:
    """Judge what a host sends, its own certificate first, by usable records; `names` are for usage 2."""
    if not chain:
        return Judgement("dane", TLSFailure.CERTIFICATE_NOT_TRUSTED, "the host has no certificate")
    if any(_matches(each, chain[0]) for each in records if each.usage == DANE_EE):
        return Judgement("dane-ee")
    worst = Judgement("dane", TLSFailure.CERTIFICATE_NOT_TRUSTED, "no TLSA record fits its certificates")
    for anchor in _anchors(chain, [each for each in records if each.usage == DANE_TA]):
        judgement = _judge_by_anchor(chain, anchor, names)
        if judgement.failure is None:
            return judgement
        worst = judgement
    return worst


def judge_by_errors(certificate: x509.Certificate | None, errors: Sequence[int], names: Sequence[str]) -> Judgement:
    """Judge a certificate by what OpenSSL found wrong with its chain to the authorities that we trust, and by its names."""
    if certificate is None:
        return Judgement("verified", TLSFailure.CERTIFICATE_NOT_TRUSTED, "the host has no certificate")
    if errors:
        return Judgement("verified", _kind(errors), f"OpenSSL's errors {' '.join(map(str, sorted(set(errors))))}")
    return _judge_names(certificate, names, "verified")


def _anchors(chain: Sequence[x509.Certificate], records: Sequence[TLSA]) -> list[x509.Certificate]:
    """Return the authorities that records name: of the chain all but the host's own certificate, and those in records."""
    sent = [each for each in chain[1:MAX_CHAIN] if any(_matches(record, each) for record in records)]
    whole = [record.octets for record in records if (record.selector, record.matching) == (0, 0)]
    for octets in whole:
        try:
            sent.append(x509.load_der_x509_certificate(octets))
        except ValueError:
            continue
    return sent


def _judge_by_anchor(chain: Sequence[x509.Certificate], anchor: x509.Certificate, names: Sequence[str]) -> Judgement:
    store = X509Store()
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)  # the anchor need not be its own
    store.add_cert(X509.from_cryptography(anchor))
    between = [X509.from_cryptography(each) for each in chain[1:MAX_CHAIN]]
    try:
        X509StoreContext(store, X509.from_cryptography(chain[0]), between).verify_certificate()
    except X509StoreContextError as error:
        return Judgement("dane-ta", _kind(error.errors[:1]), str(error))
    return _judge_names(chain[0], names, "dane-ta")


def _judge_names(certificate: x509.Certificate, names: Sequence[str], how: str) -> Judgement:
    if any(_bears(certificate, name) for name in names):
        return Judgement(how)
    return Judgement(how, TLSFailure.CERTIFICATE_HOST_MISMATCH, f"the certificate is not for {' or '.join(names)}")


def _bears(certificate: x509.Certificate, name: str) -> bool:
    verify = verify_certificate_ip_address if is_ip(name) else verify_certificate_hostname
    try:
        verify(certificate, name)
    except (VerificationError, CertificateError, ValueError):
        return False
    return True


def _kind(errors: Sequence[int]) -> TLSFailure:
    return TLSFailure.CERTIFICATE_EXPIRED if set(errors) <= set(_EXPIRED) else TLSFailure.CERTIFICATE_NOT_TRUSTED


def _matches(record: TLSA, certificate: x509.Certificate) -> bool:
    octets = certificate.public_bytes(Encoding.DER) if record.selector == 0 else _public_key(certificate)
    match record.matching:
        case 1:
            return hashlib.sha256(octets).digest() == record.octets
        case 2:
            return hashlib.sha512(octets).digest() == record.octets
    return octets == record.octets


def _public_key(certificate: x509.Certificate) -> bytes:
    """
    Return the SubjectPublicKeyInfo as it stands in the certificate: to write the key anew could change its octets.

    Source:  RFC 5280 §4.1: it is what follows version, serial number, signature, issuer, validity and subject.
    """
    whole = certificate.tbs_certificate_bytes
    at, _ = _content(whole, 0)
    for _ in range(6 if whole[at] == 0xA0 else 5):  # version is optional
        _, at = _content(whole, at)
    _, end = _content(whole, at)
    return whole[at:end]


def _content(octets: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a DER value begins and ends; the certificate was parsed, so it is well formed."""
    length = octets[at + 1]
    if length < 0x80:
        return at + 2, at + 2 + length
    begin = at + 2 + (length & 0x7F)
    return begin, begin + int.from_bytes(octets[at + 2 : begin], "big")
