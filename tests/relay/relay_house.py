"""A small Internet without sockets: hosts that follow a script, and a courier that can only reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.test import iosim

from mailstack.mail.address import parse_address
from mailstack.mail.envelope import BodyType, Delivery, Envelope, Origin, Recipient, Remote, Service
from mailstack.relay.courier import RelayCourier
from mailstack.relay.protocol import Surroundings
from mailstack.relay.settings import TIMEOUTS_SECONDS, IdleLimits, NextHop, RelaySettings
from mailstack.testing.dns import FakeResolver
from mailstack.wire.smtp_mailing import Phase

HANG = object()
CLOSE = object()
NOTHING_KEPT = IdleLimits(seconds=0)
PLAIN_HELLO = b"250-mx\r\n250-PIPELINING\r\n250 SIZE 1000000\r\n"


def relay_settings(smarthost: NextHop | None = None, **more: Any) -> RelaySettings:
    """Make settings; `port`, `tls` and `allow_private` are those of the way by MX."""
    direct = {"allow_private": True} | {name: more.pop(name) for name in ("port", "tls", "allow_private") if name in more}
    return RelaySettings(next_hop=smarthost or NextHop(**direct), **({"idle": NOTHING_KEPT} | more))


class Host(Protocol):
    """
    A server that answers by its script: octets, HANG, CLOSE, or a function of the command's argument that gives one of them.

    Shape:  keys are verbs, and `greeting`, `dot` for the reply to the content, `content` for what is done when it begins.
    """

    def __init__(self, **script: Any) -> None:
        self.script = {
            "greeting": b"220 mx ESMTP\r\n", "EHLO": PLAIN_HELLO, "HELO": b"250 mx\r\n",
            "MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n",
            "DATA": b"354 go\r\n", "dot": b"250 2.0.0 queued\r\n", "QUIT": b"221 bye\r\n", "RSET": b"250 ok\r\n",
        } | script  # fmt: skip
        self.lines: list[str] = []
        self.contents: list[bytes] = []
        self.octets = b""
        self.in_content = False
        self.chunk_octets: int | None = None
        self.lost = False

    def connectionMade(self) -> None:
        self.answer("greeting", "")

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        while self.octets:
            if self.chunk_octets is not None:
                if len(self.octets) < self.chunk_octets:
                    return
                self.contents.append(self.octets[: self.chunk_octets])
                self.octets, self.chunk_octets = self.octets[self.chunk_octets :], None
                self.answer("dot", "")
                continue
            mark = b"\r\n.\r\n" if self.in_content and not self.octets.startswith(b".\r\n") else b"\r\n"
            head, found, rest = self.octets.partition(mark)
            if not found:
                return
            self.octets = rest
            if self.in_content:
                self.in_content = False
                self.contents.append(head + b"\r\n" if head != b"." else b"")
                self.answer("dot", "")
                continue
            line = head.decode("latin-1")
            self.lines.append(line)
            verb, _, argument = line.partition(" ")
            if verb == "BDAT":
                self.chunk_octets = int(argument.removesuffix(" LAST"))
                continue
            if self.answer(verb, argument) and verb == "DATA":
                self.in_content = True
                if "content" in self.script:
                    self.answer("content", "")

    def answer(self, key: str, argument: str) -> bool:
        said = self.script.get(key, b"500 what\r\n")
        if callable(said):
            said = said(argument)
        if said is CLOSE:
            self.transport.loseConnection()
        elif said is not HANG:
            self.transport.write(said)
            return said.startswith(b"354")
        return False


class Stranger(Host):
    """Offers CHUNKING, and takes what comes behind a BDAT that it refuses for commands; it answers one in a second."""

    def __init__(self, clock: Clock, refusal: bytes, hello: bytes = b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n") -> None:
        super().__init__(EHLO=hello, NOOP=b"250 ok\r\n", BDAT=refusal)
        self.clock = clock
        self.waiting: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        *lines, self.octets = (self.octets + data).split(b"\r\n")
        if lines and not self.waiting:
            self.clock.callLater(1.0, self.answer_one)
        self.waiting += lines

    def answer_one(self) -> None:
        line, *self.waiting = self.waiting
        if self.in_content:
            super().dataReceived(line + b"\r\n")
        else:
            self.lines.append(line.decode("latin-1"))
            verb, _, argument = line.decode("latin-1").partition(" ")
            self.in_content = self.answer(verb, argument) and verb == "DATA"
        if self.waiting and not self.lost:
            self.clock.callLater(1.0, self.answer_one)


class World:
    """
    Where hosts are.

    Shape:  `hosts` maps an address to functions that make a host or raise, one for each connection; the last stays.
    """

    def __init__(self, zone: str, **settings: Any) -> None:
        self.clock = Clock()
        self.resolver = FakeResolver(zone)
        self.hosts: dict[str, list[Callable[[], Host]]] = {}
        self.met: list[tuple[str, int]] = []
        self.sources: list[str | None] = []
        self.opened: list[Host] = []
        self.senders: list[Any] = []
        self.pumps: list[iosim.IOPump] = []
        self.throttled = False
        self.started: list[Deferred[Any]] = []
        self.settings = relay_settings(**settings)
        self.courier = self.make_courier()

    def make_courier(self, **more: Any) -> RelayCourier:
        around = Surroundings(clock=self.clock, start=self.start, run_in_thread=maybe_later, timeouts_seconds=TIMEOUTS_SECONDS)
        return RelayCourier("us.test", self.resolver, self.connect, around, list, settings=self.settings, **more)

    def start(self, coroutine: Any, what: str) -> Deferred[Any]:
        self.started.append(Deferred.fromCoroutine(coroutine))
        return self.started[-1]

    def at(self, address: str, *makes: Callable[[], Host]) -> None:
        self.hosts[address] = list(makes)

    def connect(self, hop: Any, port: int, factory: Any, source: str | None) -> Deferred[Any]:
        self.met.append((hop.address, port))
        self.sources.append(source)
        makes = self.hosts.get(hop.address)
        if not makes:
            return fail(Refused())
        try:
            host = (makes.pop(0) if len(makes) > 1 else makes[0])()
        except Exception as error:
            return fail(error)
        client = factory.buildProtocol(None)
        self.opened.append(host)
        self.senders.append(client)
        pump = iosim.connect(host, iosim.makeFakeServer(host), client, iosim.makeFakeClient(client), greet=True)
        self.pumps.append(pump)
        if self.throttled:
            throttle(client)
        return succeed(client)

    def flush(self) -> None:
        for _ in range(50):
            for pump in list(self.pumps):
                pump.flush()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.flush()

    def attempt(self, delivery: Delivery, courier: RelayCourier | None = None) -> Deferred[Any]:
        outcome = Deferred.fromCoroutine((courier or self.courier).attempt(delivery))
        self.flush()
        return outcome


def throttle(sender: Any) -> None:
    """Let the transport be full after each write of content."""
    write = sender.transport.write

    def write_and_pause(octets: bytes) -> None:
        write(octets)
        if sender._core.phase is Phase.CONTENT:
            sender.pauseProducing()

    sender.transport.write = write_and_pause


def maybe_later(function: Any, *args: Any) -> Deferred[Any]:
    return maybeDeferred(function, *args)


class Memory:
    def __init__(self, octets: bytes) -> None:
        self.in_memory: bytes | None = octets

    @property
    def octets(self) -> int:
        return len(self.in_memory or b"")

    def chunks(self, size_octets: int = 262_144):
        raise AssertionError("it is in memory")


class OnDisk(Memory):
    """A content that is only to be had in chunks; `breaks_at` is the chunk that cannot be read."""

    def __init__(self, octets: bytes, breaks_at: int | None = None) -> None:
        self.whole = octets
        self.in_memory = None
        self.breaks_at = breaks_at

    @property
    def octets(self) -> int:
        return len(self.whole)

    def chunks(self, size_octets: int = 262_144):
        for number, start in enumerate(range(0, len(self.whole), size_octets)):
            if number == self.breaks_at:
                raise OSError("Input/output error")
            yield self.whole[start : start + size_octets]


def delivery(
    *recipients: str, content: Any = None, domain: str = "example.test", sender: str | None = "alice@us.test", **more
) -> Delivery:
    addresses = [parse_address(each) for each in recipients or ("bob@example.test",)]
    found = {2 * n: Recipient(address=each, original=each, destination=Remote(domain)) for n, each in enumerate(addresses)}
    envelope = Envelope(
        reverse_path=None if sender is None else parse_address(sender),
        recipients=tuple(found.values()),
        origin=Origin(service=Service.SMTP),
        accepted_at=0.0,
        **{"body": BodyType.SEVEN_BIT, **more},
    )
    content = Memory(b"Subject: x\r\n\r\n.hello\r\n") if content is None else content
    return Delivery(entry="0123456789abc", envelope=envelope, recipients=found, content=content, attempt=1, may_repeat=False)
