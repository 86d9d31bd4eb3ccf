"""Fakes for the receiver's ports, and a session on a transport in memory."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Coroutine
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import crypto
from twisted.cred.portal import IRealm, Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from zope.interface import implementer

from mailstack.doors import Transaction
from mailstack.mail import reply as replies
from mailstack.mail.address import Address
from mailstack.mail.envelope import Account, Content, Envelope, Origin, Recipient, Remote, Service
from mailstack.mail.reply import Reply
from mailstack.mail.verdict import Refuse
from mailstack.receive.factory import ReceiverFactory
from mailstack.receive.interfaces import ISubmitter
from mailstack.wire.limits import Limits


class FakeContent:
    def __init__(self, octets: bytes) -> None:
        self.octets = len(octets)
        self.in_memory = octets

    def chunks(self, size_octets: int = 262_144) -> Any:
        yield self.in_memory


class FakeDraft:
    def __init__(self, intake: FakeIntake, entry: str) -> None:
        self.intake = intake
        self.entry = entry
        self.written = b""
        self.aborted = False
        self.committing = False

    def write(self, octets: bytes) -> Awaitable[None] | None:
        assert not self.aborted
        self.written += octets
        return self.intake.slow

    def content(self) -> Content:
        return FakeContent(self.written)

    async def commit(self, envelope: Envelope) -> Refuse | None:
        assert not self.aborted
        self.committing = True
        if self.intake.commit_waits is not None:
            await self.intake.commit_waits
        if isinstance(self.intake.outcome, Exception):
            raise self.intake.outcome
        if self.intake.outcome is None:
            self.intake.accepted.append((envelope, self.written))
        return self.intake.outcome

    def abort(self) -> None:
        self.aborted = True


class FakeIntake:
    def __init__(self) -> None:
        self.drafts: list[FakeDraft] = []
        self.accepted: list[tuple[Envelope, bytes]] = []
        self.outcome: Refuse | Exception | None = None
        self.commit_waits: Deferred[None] | None = None
        self.slow: Deferred[None] | None = None
        self.full = False

    def begin(self, reverse_path: Address | None = None, recipients: Any = ()) -> FakeDraft:
        draft = FakeDraft(self, f"{len(self.drafts):013d}")
        self.drafts.append(draft)
        return draft

    def refusal(self, octets: int) -> Reply | None:
        return replies.NO_SPACE if self.full else None


class FakeRouter:
    async def route(self, forward_path: Address) -> tuple[Recipient, ...] | Refuse:
        def to(local_part: str) -> Recipient:
            address = Address(local_part, "example.org")
            return Recipient(address=address, original=forward_path, destination=Account(str(address)))

        match forward_path.local_part:
            case "unknown":
                return Refuse(replies.NO_SUCH_USER)
            case "nobody":
                return ()
            case "broken":
                raise RuntimeError("the directory is on fire")
            case "both":
                return (to("alice"), to("bob"))
        if forward_path.domain != "example.org" and forward_path.domain:
            return (Recipient(address=forward_path, original=forward_path, destination=Remote(forward_path.domain)),)
        return (to(forward_path.local_part),)


class FakeJudge:
    """Answers from `answers` by stage: a Refuse, an exception, or a Deferred of either; and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []

    async def _answer(self, stage: str, *facts: Any) -> Refuse | None:
        self.asked.append((stage, facts))
        answer = self.answers.get(stage)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        if isinstance(answer, Deferred):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        assert answer is None or isinstance(answer, Refuse)
        return answer

    async def connect(self, origin: Origin) -> Refuse | None:
        return await self._answer("connect", origin)

    async def hello(self, origin: Origin) -> Refuse | None:
        return await self._answer("hello", origin)

    async def auth(self, origin: Origin) -> Refuse | None:
        return await self._answer("auth", origin)

    async def mail(self, transaction: Transaction) -> Refuse | None:
        return await self._answer("mail", transaction)

    async def rcpt(self, transaction: Transaction, recipient: Address) -> Refuse | None:
        return await self._answer("rcpt", transaction, recipient)

    async def content(self, transaction: Transaction, content: Content) -> Refuse | None:
        return await self._answer("content", transaction, content)


class Starter:
    """Starts coroutines, and keeps what failed of them."""

    def __init__(self) -> None:
        self.running: list[Deferred[Any]] = []
        self.failures: list[Failure] = []

    def __call__(self, coroutine: Coroutine[Any, Any, Any], what: str) -> Deferred[Any]:
        running = Deferred.fromCoroutine(coroutine)
        self.running.append(running)
        running.addErrback(self.failures.append)
        return running


@implementer(ISubmitter)
class Submitter:
    def __init__(self, account: str) -> None:
        self.account = account


@implementer(IRealm)
class FakeRealm:
    """Gives everyone the avatar of `make`."""

    def __init__(self, interface: Any = ISubmitter, make: Any = Submitter) -> None:
        self.interface = interface
        self.make = make
        self.logouts = 0

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        if self.interface not in interfaces:
            raise NotImplementedError
        return self.interface, self.make(avatarId.decode() if isinstance(avatarId, bytes) else avatarId), self._logout

    def _logout(self) -> None:
        self.logouts += 1


class House:
    """A factory with everything around it."""

    def __init__(self, service: Service = Service.SMTP, **more: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.start = Starter()
        self.judge = FakeJudge()
        self.intake = FakeIntake()
        self._sessions = 0
        arguments: dict[str, Any] = {
            "portal": None,
            "service": service,
            "hostname": "mx.example.org",
            "clock": self.clock,
            "start": self.start,
            "session_names": self._name,
            "judge": self.judge,
            "limits": Limits(),
            "intake": self.intake,
            "router": FakeRouter(),
        }
        self.factory = ReceiverFactory(**(arguments | more))

    def _name(self) -> str:
        self._sessions += 1
        return f"s{self._sessions}"

    def connect(self, host: str = "192.0.2.1") -> Session:
        return Session(self, host)


class RecordingTransport(StringTransportWithDisconnection):
    """Knows its protocol, and whether it was aborted."""

    aborted = False
    protocol: Any

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class Session:
    def __init__(self, house: House, host: str = "192.0.2.1") -> None:
        self.house = house
        address = IPv4Address("TCP", host, 1025)
        self.protocol: Any = house.factory.buildProtocol(address)
        self.transport = RecordingTransport(peerAddress=address)
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)

    @property
    def is_connected(self) -> bool:
        return bool(self.transport.connected)

    def take(self) -> str:
        octets: bytes = self.transport.value()
        self.transport.clear()
        return octets.decode("ascii")

    def codes(self) -> list[str]:
        """Take the codes of the replies since the last time."""
        return [line[:3] for line in self.take().split("\r\n") if line and line[3:4] == " "]

    def say(self, *lines: str) -> list[str]:
        self.protocol.dataReceived(b"".join(line.encode() + b"\r\n" for line in lines))
        return self.codes()

    def lose(self) -> None:
        self.transport.loseConnection()


def certificates() -> CertificateOptions:
    """Make a server's side of TLS with a new certificate for `mx.example.org`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mx.example.org")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(key),  # type: ignore[arg-type]
        certificate=crypto.X509.from_cryptography(certificate),
    )


def a_portal(realm: FakeRealm, *checkers: Any) -> Portal:
    return Portal(realm, checkers)
