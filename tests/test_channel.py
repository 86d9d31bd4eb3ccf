"""What binds a login to a TLS session; that both ends agree is shown in tests/receive/test_receive_scram.py."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from mailstack.channel import certified_names, channel_bindings, server_end_point


def a_certificate(algorithm: Any, key: Any, *names: x509.GeneralName) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.example.org")])
    begin = datetime.datetime(2026, 1, 1)  # noqa: DTZ001
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, algorithm)


EC = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = a_certificate(hashes.SHA256(), EC)
ED25519 = a_certificate(None, ed25519.Ed25519PrivateKey.generate())


class Handle:
    """The TLS session of a transport, as pyOpenSSL has it."""

    def __init__(
        self, version: str = "TLSv1.3", ours: Any = CERTIFICATE, theirs: Any = None, mode: int = SSL.VERIFY_PEER
    ) -> None:
        self.version, self.ours, self.theirs, self.mode = version, ours, theirs, mode

    def get_context(self) -> Handle:
        return self

    def get_verify_mode(self) -> int:
        return self.mode

    def getHandle(self) -> Handle:
        return self

    def get_protocol_version_name(self) -> str:
        return self.version

    def export_keying_material(self, label: bytes, octets: int, context: bytes) -> bytes:
        return b"%b/%d/%b" % (label, octets, context)

    def get_certificate(self, *, as_cryptography: bool) -> Any:
        return self.ours

    def get_peer_certificate(self, *, as_cryptography: bool) -> Any:
        return self.theirs


@pytest.mark.parametrize(("algorithm", "name"), [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384")])
def test_a_certificate_is_hashed_as_it_was_signed(algorithm: Any, name: str) -> None:
    certificate = a_certificate(algorithm, EC)
    assert server_end_point(certificate) == hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest()


def test_a_weak_hash_counts_as_sha_256() -> None:
    class Weak:
        signature_hash_algorithm = hashes.SHA1()
        public_bytes = CERTIFICATE.public_bytes

    assert server_end_point(Weak()) == server_end_point(CERTIFICATE)  # type: ignore[arg-type]


def test_a_signature_without_a_hash_binds_nothing() -> None:
    assert server_end_point(ED25519) is None
    assert set(channel_bindings(Handle(ours=ED25519))) == {"tls-exporter"}


def test_both_kinds() -> None:
    bindings = channel_bindings(Handle())
    assert bindings["tls-exporter"] == b"EXPORTER-Channel-Binding/32/"
    assert bindings["tls-server-end-point"] == server_end_point(CERTIFICATE)


def test_the_certificate_is_the_server_s_on_both_sides() -> None:
    assert channel_bindings(Handle(ours=None, theirs=CERTIFICATE), is_client=True) == channel_bindings(Handle(theirs=ED25519))


def test_the_exporter_only_with_tls_1_3() -> None:
    assert set(channel_bindings(Handle("TLSv1.2"))) == {"tls-server-end-point"}


@pytest.mark.parametrize("transport", [object(), None])
def test_nothing_without_tls(transport: Any) -> None:
    assert channel_bindings(transport) == {}
    assert certified_names(transport) == ()


ALICE = a_certificate(
    hashes.SHA256(), EC, x509.RFC822Name("alice@x.test"), x509.DNSName("x.test"), x509.RFC822Name("sales@x.test")
)


def test_whom_a_certificate_names() -> None:
    assert certified_names(Handle(theirs=ALICE)) == ("alice@x.test", "sales@x.test")


@pytest.mark.parametrize(
    "handle",
    [
        Handle(theirs=ALICE, mode=SSL.VERIFY_NONE),
        Handle(theirs=None),
        Handle(theirs=CERTIFICATE),
        Handle(theirs=a_certificate(hashes.SHA256(), EC, x509.DNSName("alice@x.test"))),
    ],
)
def test_nobody_is_named(handle: Handle) -> None:
    assert certified_names(handle) == ()
