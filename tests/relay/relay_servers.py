"""Servers on real sockets: one around the core of our own SMTP server, one that follows a script; certificates."""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from relay_house import Host
from twisted.internet import ssl
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from mailstack.channel import channel_bindings
from mailstack.mail import reply as replies
from mailstack.mail.reply import Reply
from mailstack.mail.scram import ScramProof, make_keys
from mailstack.wire.events import Pause
from mailstack.wire.limits import Limits
from mailstack.wire.sasl import KeysWanted
from mailstack.wire.smtp_commands import Authenticate, ContentChunk, ContentEnd, Data, Mail, Rcpt, StartTLS
from mailstack.wire.smtp_server import SMTPServerCore
from mailstack.wire.smtp_table import Role


def certificate(name: str, *, asks_for_one: bool = False) -> ssl.CertificateOptions:
    """Make a certificate that is its own authority; `options.seen` collects the names that clients asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    own = ssl.Certificate(crypto.X509.from_cryptography(made))
    more = {"trustRoot": ssl.trustRootFromCertificates([own])} if asks_for_one else {}
    options = ssl.CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(key), certificate=crypto.X509.from_cryptography(made), **more
    )
    context = options.getContext()
    context.set_alpn_select_callback(lambda connection, offered: SSL.NO_OVERLAPPING_PROTOCOLS)
    options.seen = []
    context.set_tlsext_servername_callback(lambda connection: options.seen.append(connection.get_servername()))
    options.authority = ssl.trustRootFromCertificates([ssl.Certificate(options.certificate)])
    return options


KEYS = make_keys(b"secret", b"salt of sixteen ", 4096)


@implementer(IHandshakeListener)
class CoreServer(Protocol):
    """A shell around the core of our server that takes everything; passwords are `secret`."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.core = SMTPServerCore(
            served.role,
            Limits(),
            "mx.test",
            tls_active=served.implicit_tls,
            tls_available=served.tls is not None,
            scram=served.scram,
        )
        self.chunks: list[bytes] = []
        self.paused = False

    def connectionMade(self) -> None:
        if self.served.implicit_tls:
            self.transport.startTLS(self.served.tls)
        self.transport.write(self.core.send(Reply(220, ("mx.test ESMTP",))))

    def handshakeCompleted(self) -> None:
        self.core.bind_channel(channel_bindings(self.transport))

    def dataReceived(self, data: bytes) -> None:
        self.core.receive(data)
        while not isinstance(event := self.core.next_event(), Pause):
            if isinstance(event, ContentChunk):
                self.chunks.append(event.octets)
                continue
            if isinstance(event, KeysWanted):
                event = self.core.give_keys(KEYS, "server")
            for _ in range(event.replies if isinstance(event, ContentEnd) else 1):
                self.transport.write(self.core.send(self.answer(event)))
            if isinstance(event, StartTLS):
                self.core.tls_started()
                self.transport.startTLS(self.served.tls)
        if self.core.closed:
            self.transport.loseConnection()
        if self.served.slow and self.chunks and not self.paused:
            self.paused = True
            self.transport.pauseProducing()
            self.served.reactor.callLater(0.2, self.transport.resumeProducing)

    def answer(self, event: Any) -> Reply:
        self.served.events.append(event)
        match event:
            case Mail():
                return replies.SENDER_OK
            case Rcpt():
                return replies.RECIPIENT_OK
            case Data():
                self.chunks = []
                return replies.START_CONTENT
            case ContentEnd():
                self.served.contents.append(b"".join(self.chunks))
                return replies.OK
            case Authenticate(credentials=ScramProof() as proof):
                return replies.AUTHENTICATED if proof.is_by(KEYS) else replies.AUTH_FAILED
            case Authenticate(credentials=credentials):
                return replies.AUTHENTICATED if credentials.password == b"secret" else replies.AUTH_FAILED
            case StartTLS():
                return replies.START_TLS
        return getattr(event, "reply", replies.CLOSING)

    def connectionLost(self, reason: Any = None) -> None:
        self.served.gone(self)


class ScriptedServer(Host):
    """A script over a socket; after the reply to STARTTLS it begins TLS, or answers the handshake as `handshake` says."""

    served: Served
    spoiling = False

    def answer(self, key: str, argument: str) -> bool:
        result = super().answer(key, argument)
        said = self.script.get(key)
        if key == "STARTTLS" and isinstance(said, bytes) and said.startswith(b"220"):
            self.spoiling = "handshake" in self.script
            if not self.spoiling:
                self.transport.startTLS(self.served.tls)
        return result

    def dataReceived(self, data: bytes) -> None:
        if self.spoiling:
            super().answer("handshake", "")
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self.served.gone(self)


class Served(Factory):
    """
    What listens on a port of 127.0.0.1, or at the file `path`, and what it has seen.

    Each script serves one connection, our core the rest.
    """

    noisy = False

    def __init__(self, reactor: Any, *scripts: dict[str, Any], tls: Any = None, role: Role = Role.MX, **more: Any) -> None:
        self.reactor = reactor
        self.scripts = list(scripts)
        self.tls = tls
        self.role = role
        self.implicit_tls = more.get("implicit_tls", False)
        self.scram = more.get("scram", False)
        self.slow = more.get("slow", False)
        self.events: list[Any] = []
        self.contents: list[bytes] = []
        self.scripted: list[ScriptedServer] = []
        self.peers: list[Any] = []
        self.ends: dict[int, Deferred[None]] = {}
        self.path = more.get("path")
        self.port = reactor.listenUNIX(self.path, self) if self.path else reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def number(self) -> int:
        return 0 if self.path else self.port.getHost().port

    def buildProtocol(self, addr: Any) -> Protocol:
        self.peers.append(addr)
        made: Any
        if self.scripts:
            made = ScriptedServer(**self.scripts.pop(0))
            made.served = self
            self.scripted.append(made)
        else:
            made = CoreServer(self)
        self.ends[id(made)] = Deferred()
        return made

    def gone(self, protocol: Any) -> None:
        self.ends[id(protocol)].callback(None)

    async def stop(self) -> None:
        await self.port.stopListening()
        await DeferredList(list(self.ends.values()))
