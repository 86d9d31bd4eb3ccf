"""Certificates: loaded whole or not at all, swapped under running listeners, and kind to clients that offer ALPN."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import CertificateBuilder, Name, NameAttribute, random_serial_number
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mailstack.net.listeners import bind, serve
from mailstack.net.tls import CertificateError, CertificateStore


def write_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = Name([NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(random_serial_number()).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )  # fmt: skip
    cert_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    cert_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_path, key_path


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, "one")
    _, other = write_pair(tmp_path, "two")
    with pytest.raises(CertificateError, match=r"two\.key: is not the key of .*one\.pem"):
        CertificateStore(certificate, other).load()
    with pytest.raises(CertificateError, match="nothere"):
        CertificateStore(tmp_path / "nothere", key).load()
    with pytest.raises(CertificateError, match=r"one\.key"):
        CertificateStore(key, key).load()
    with pytest.raises(CertificateError, match=r"one\.pem"):
        CertificateStore(certificate, certificate).load()


def test_what_was_not_loaded_makes_no_connection(tmp_path: Path) -> None:
    store = CertificateStore(*write_pair(tmp_path, "one"))
    with pytest.raises(CertificateError, match="not loaded"):
        store.serverConnectionForTLS(None)  # type: ignore[arg-type]


def made_folder(case: TestCase) -> Path:
    """Make a folder that goes with the test."""
    folder = tempfile.TemporaryDirectory()
    case.addCleanup(folder.cleanup)
    return Path(folder.name)


class Greeter(Protocol):
    """Sends a word at once."""

    def connectionMade(self) -> None:
        self.transport.write(b"hello")


class Listener(Protocol):
    """Waits for the word and notes the peer's certificate."""

    def __init__(self) -> None:
        self.heard: Deferred[str] = Deferred()
        self.seen: str | None = None

    def dataReceived(self, octets: bytes) -> None:
        certificate = self.transport.getPeerCertificate().to_cryptography()
        self.seen = certificate.subject.rfc4514_string()
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        if self.seen is not None:
            self.heard.callback(self.seen)
        else:
            self.heard.errback(reason)


class RealTLSTests(TestCase):
    async def connect(self, port: int, **options: object) -> str:
        from twisted.internet import reactor

        endpoint = wrapClientTLS(ssl.CertificateOptions(**options), TCP4ClientEndpoint(reactor, "127.0.0.1", port))
        return await (await connectProtocol(endpoint, Listener())).heard

    async def test_a_reload_is_in_force_for_the_next_connection_and_alpn_does_no_harm(self) -> None:
        from twisted.internet import reactor

        folder = made_folder(self)
        certificate, key = write_pair(folder, "first")
        store = CertificateStore(certificate, key)
        store.load()
        factory = TLSMemoryBIOFactory(store, False, Factory.forProtocol(Greeter))
        bound = bind("127.0.0.1", 0)
        port = serve(reactor, bound, factory)
        self.addCleanup(port.stopListening)

        self.assertEqual("CN=first", await self.connect(bound.port, acceptableProtocols=[b"h2"]))

        for old, new in zip((certificate, key), write_pair(folder, "second"), strict=True):
            new.replace(old)
        self.assertEqual("CN=first", await self.connect(bound.port))
        store.load()
        self.assertEqual("CN=second", await self.connect(bound.port))

        key.write_bytes(b"broken")
        with self.assertRaises(CertificateError):
            store.load()
        self.assertEqual("CN=second", await self.connect(bound.port))

    async def test_tls_before_1_2_is_refused(self) -> None:
        from twisted.internet import reactor

        folder = made_folder(self)
        store = CertificateStore(*write_pair(folder, "old"))
        store.load()
        bound = bind("127.0.0.1", 0)
        port = serve(reactor, bound, TLSMemoryBIOFactory(store, False, Factory.forProtocol(Greeter)))
        self.addCleanup(port.stopListening)

        versions = {"lowerMaximumSecurityTo": ssl.TLSVersion.TLSv1_1, "insecurelyLowerMinimumTo": ssl.TLSVersion.TLSv1_0}
        with self.assertRaises(SSL.Error):
            await self.connect(bound.port, **versions)
