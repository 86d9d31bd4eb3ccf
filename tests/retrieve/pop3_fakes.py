"""What the tests of POP3 share: a maildrop in memory, a portal that hands it out, and a client that is a transport."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from zope.interface import implementer

from mailstack.mail.envelope import Service
from mailstack.net.supervise import Supervisor
from mailstack.retrieve.factory import POP3Factory
from mailstack.retrieve.interfaces import Found, IMaildrop, Reader
from mailstack.retrieve.limits import POP3Limits

LARGE = 65_536


class ChunkReader:
    """A large message in memory."""

    def __init__(self, content: bytes, size: int = 262_144) -> None:
        self.chunks = [content[at : at + size] for at in range(0, len(content), size)]
        self.is_closed = False

    def read(self) -> bytes:
        assert not self.is_closed
        return self.chunks.pop(0) if self.chunks else b""

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@implementer(IMaildrop)
class MemoryMaildrop:
    """
    A maildrop in memory.

    `held` makes `read` and `commit` wait until `release`; `faults` are raised by the method of that name.
    """

    def __init__(self, *contents: bytes) -> None:
        self.contents = list(contents)
        self.gone: set[int] = set()
        self.committed: list[set[int]] = []
        self.failing = 0
        self.held = False
        self.waiting: list[Deferred[None]] = []
        self.faults: dict[str, Exception] = {}
        self.readers: list[ChunkReader] = []
        self.is_open = False

    def listing(self) -> Sequence[tuple[int, bytes]]:
        self._fail("listing")
        return [(len(content), b"uid-%d" % number) for number, content in enumerate(self.contents, 1)]

    async def read(self, index: int) -> Found:
        await self._hold()
        self._fail("read")
        content = self.contents[index]
        if index in self.gone:
            return None
        if len(content) <= LARGE:
            return content
        reader: Reader = ChunkReader(content)
        self.readers.append(reader)
        return reader

    async def commit(self, deleted: Collection[int]) -> int:
        await self._hold()
        self._fail("commit")
        self.committed.append(set(deleted))
        return self.failing

    def release(self) -> None:
        self.held = False
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)

    async def _hold(self) -> None:
        if self.held:
            self.waiting.append(Deferred())
            await self.waiting[-1]

    def _fail(self, name: str) -> None:
        if name in self.faults:
            raise self.faults[name]


@implementer(IRealm)
class OneRealm:
    """Gives everybody the same avatar, or raises."""

    def __init__(self, avatar: Any, interface: Any = IMaildrop) -> None:
        self.avatar = avatar
        self.interface = interface
        self.logouts = 0
        self.fault: Exception | None = None
        self.logging_in: Deferred[None] | None = None

    async def _answer(self) -> tuple[Any, Any, Callable[[], None]]:
        if self.logging_in is not None:
            await self.logging_in
        if self.fault is not None:
            raise self.fault
        return self.interface, self.avatar, self._log_out

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        assert self.interface in interfaces
        return Deferred.fromCoroutine(self._answer())

    def _log_out(self) -> None:
        self.logouts += 1


@implementer(ITCPTransport)
class Client(StringTransportWithDisconnection):
    """The client's end, which sees what the protocol writes and does."""

    def __init__(self) -> None:
        super().__init__()
        self.has_no_delay = False
        self.was_aborted = False
        self.was_closed = False
        self.writes: list[int] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.has_no_delay = bool(enabled)

    def write(self, data: bytes) -> None:
        self.writes.append(len(data))
        super().write(data)

    def abortConnection(self) -> None:
        self.was_aborted = True
        super().loseConnection()

    def loseConnection(self) -> None:
        assert self.producer is None, "a transport waits for its producer before it closes"
        self.was_closed = True
        super().loseConnection()

    def say(self, octets: bytes) -> bytes:
        """Send octets, and return what comes back."""
        self.protocol.dataReceived(octets)
        return self.hear()

    def hear(self) -> bytes:
        heard = self.value()
        self.clear()
        return heard


class House:
    """A factory with its clock and its realm, for one maildrop."""

    def __init__(
        self,
        *contents: bytes,
        limits: POP3Limits | None = None,
        service: Service = Service.POP3,
        realm: OneRealm | None = None,
        **more: Any,
    ) -> None:
        self.maildrop = MemoryMaildrop(*contents)
        self.realm = realm or OneRealm(self.maildrop)
        self.clock = Clock()
        self.supervisor = Supervisor()
        portal = Portal(self.realm, [InMemoryUsernamePasswordDatabaseDontUse(alice=b"sec ret", bob=b"hidden")])
        self.names = iter(range(1, 1000))
        self.factory = POP3Factory(
            portal=portal,
            service=service,
            clock=self.clock,
            start=self.supervisor.start,
            session_names=lambda: f"s{next(self.names)}",
            limits=limits,
            **({"require_tls": False} | more),
        )

    def connect(self, host: str = "192.0.2.1") -> Client:
        """Connect, and leave the greeting unread."""
        protocol = self.factory.buildProtocol(IPv4Address("TCP", host, 40_000))
        assert protocol is not None
        client = Client()
        client.protocol = protocol
        protocol.makeConnection(client)
        return client

    def log_in(self) -> Client:
        """Connect and log in."""
        client = self.connect()
        assert client.hear() == b"+OK POP3 server ready\r\n"
        heard = client.say(b"USER alice\r\nPASS sec ret\r\n")
        assert heard.startswith(b"+OK Send PASS\r\n+OK "), heard
        return client
