"""
A domain name system of one's own: a zone, a resolver that answers from it, and a real nameserver on loopback that serves it.

    zone = parse_zone('''
        example.test     MX        10 mx.example.test
        mx.example.test  A         127.0.0.1
        www.example.test CNAME     mx.example.test
        broken.test      SERVFAIL
        dead.test        DROP
    ''')

A line is a name and a type with its text form (RFC 1035 §5), or a name and a behaviour: SERVFAIL, REFUSED, FORMERR (to EDNS
only), DROP (no answer), GARBAGE, FORGE (a forged answer comes first), TRUNCATE (the answer is only to be had by TCP), INSECURE
(nothing at the name and below is ever said to be validated). A name that stands nowhere, nor above one that does, does not
exist. `python -m mailstack.testing.dns ZONEFILE PORT` serves a file until it is ended, and says on its first line of output
where.
"""

from __future__ import annotations

import enum
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from mailstack.mail.answers import TLSA, Answer, Empty, Exchange, Failed, Found, NoSuchDomain

TTL_SECONDS = 60
MAX_ALIASES = 16


class Behaviour(enum.Enum):
    """What a nameserver does instead of answering."""

    SERVFAIL = "SERVFAIL"
    REFUSED = "REFUSED"
    FORMERR = "FORMERR"
    DROP = "DROP"
    GARBAGE = "GARBAGE"
    FORGE = "FORGE"
    TRUNCATE = "TRUNCATE"
    INSECURE = "INSECURE"


FAILING = (Behaviour.SERVFAIL, Behaviour.REFUSED, Behaviour.DROP, Behaviour.GARBAGE)


@dataclass(frozen=True)
class Zone:
    """
    What the DNS knows.

    Shape:  `records` maps (name, type) to texts, names in lower case without final dots; `behaviours` maps names.
    """

    records: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)

    def exists(self, name: str) -> bool:
        """Say whether there is anything at or below the name."""
        known = {each for each, _ in self.records} | set(self.behaviours)
        return any(each == name or each.endswith("." + name) for each in known)

    def follow(self, name: str, kind: str) -> tuple[list[str], str, tuple[str, ...]]:
        """Follow aliases; return those passed, the name at their end, and its records."""
        passed: list[str] = []
        while (name, "CNAME") in self.records and kind != "CNAME" and len(passed) <= MAX_ALIASES:
            passed.append(name)
            name = _plain(self.records[name, "CNAME"][0])
        return passed, name, self.records.get((name, kind), ())

    def is_secure(self, *names: str) -> bool:
        """Say whether a resolver could validate what stands at all these names."""
        insecure = [each for each, behaviour in self.behaviours.items() if behaviour is Behaviour.INSECURE]
        return not any(name == each or name.endswith("." + each) for name in names for each in insecure)


def parse_zone(text: str) -> Zone:
    """
    Read a zone; an empty line, and one that begins with `#` or `;`, says nothing.

    Raises:  ValueError: a line cannot be understood.
    """
    records: dict[tuple[str, str], tuple[str, ...]] = {}
    behaviours: dict[str, Behaviour] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(None, 2)
        if not words or words[0][0] in "#;":
            continue
        if len(words) == 2 and words[1].upper() in Behaviour.__members__:
            behaviours[_plain(words[0])] = Behaviour[words[1].upper()]
        elif len(words) == 3:
            key = (_plain(words[0]), words[1].upper())
            try:
                _rrset(key[0], key[1], (words[2],))
            except Exception as error:
                raise ValueError(f"line {number}: {error}") from error
            records[key] = (*records.get(key, ()), words[2])
        else:
            raise ValueError(f"line {number}: want NAME TYPE DATA or NAME BEHAVIOUR")
    return Zone(records, behaviours)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _rrset(name: str, kind: str, texts: tuple[str, ...]) -> dns.rrset.RRset:
    owner = dns.name.from_text(name)
    return dns.rrset.from_text_list(owner, TTL_SECONDS, "IN", kind, texts, origin=dns.name.root, relativize=False)


class FakeResolver:
    """
    Answers from a zone at once, without a network; what `mailstack.net.resolver.Resolver` answers from a server of it.

    Shape:  with `authenticated` it has validated all its answers, but for INSECURE names.
    """

    def __init__(self, zone: Zone | str = "", *, authenticated: bool = False) -> None:
        self.authenticated = authenticated
        self.zone = parse_zone(zone) if isinstance(zone, str) else zone
        self.asked: list[tuple[str, str]] = []

    async def mx(self, domain: str) -> Answer[Exchange]:
        """Return the mail exchanges of a domain."""
        return self._answer(domain, "MX", lambda each: Exchange(each.preference, _plain(each.exchange.to_text())))

    async def ipv4(self, name: str) -> Answer[str]:
        """Return the IPv4 addresses of a host."""
        return self._answer(name, "A", lambda each: str(each.address))

    async def ipv6(self, name: str) -> Answer[str]:
        """Return the IPv6 addresses of a host."""
        return self._answer(name, "AAAA", lambda each: str(each.address))

    async def txt(self, name: str) -> Answer[bytes]:
        """Return the texts of a name."""
        return self._answer(name, "TXT", lambda each: b"".join(each.strings))

    async def tlsa(self, name: str) -> Answer[TLSA]:
        """Return the TLSA records of a service."""
        return self._answer(name, "TLSA", lambda each: TLSA(each.usage, each.selector, each.mtype, bytes(each.cert)))

    async def alias(self, name: str) -> Answer[str]:
        """Return the name that a name is an alias of."""
        return self._answer(name, "CNAME", lambda each: _plain(each.target.to_text()))

    async def ptr(self, address: str) -> Answer[str]:
        """Return the names of an IP address."""
        import dns.reversename

        name = dns.reversename.from_address(address).to_text()
        return self._answer(name, "PTR", lambda each: _plain(each.target.to_text()))

    def forget_failures(self) -> None:
        """Do nothing: it remembers none."""

    def _answer(self, name: str, kind: str, record: Any) -> Answer[Any]:
        name = _plain(name)
        self.asked.append((name, kind))
        try:
            dns.name.from_text(name)
        except Exception:
            return NoSuchDomain()
        behaviour = self.zone.behaviours.get(name)
        if behaviour in FAILING:
            return Failed(behaviour.value)
        passed, name, texts = self.zone.follow(name, kind)
        if len(passed) > MAX_ALIASES:
            return Failed("aliases without end")
        if texts:
            authenticated = self.authenticated and self.zone.is_secure(*passed, name)
            return Found(tuple(record(each) for each in _rrset(name, kind, texts)), authenticated, name)
        return Empty() if self.zone.exists(name) else NoSuchDomain()


class Nameserver:
    """
    Serves a zone on loopback, by UDP and TCP on one port.

    Shape:  `zone` may be exchanged while it serves; `asked` lists (name, type, "udp" or "tcp"). With `authenticated` every
            answer says that it was validated (AD), but for INSECURE names.
    """

    def __init__(self, zone: Zone | str, *, authenticated: bool = False) -> None:
        self.authenticated = authenticated
        self.zone = parse_zone(zone) if isinstance(zone, str) else zone
        self.asked: list[tuple[str, str, str]] = []
        self._ports: list[IListeningPort] = []

    def listen(self, reactor: Any, port: int = 0, host: str = "127.0.0.1") -> int:
        """Begin to serve, and return the port."""
        tcp = reactor.listenTCP(port, _StreamFactory(self), interface=host)
        number: int = tcp.getHost().port
        self._ports = [tcp, reactor.listenUDP(number, _Datagrams(self), interface=host, maxPacketSize=65_535)]
        return number

    async def stop(self) -> None:
        """End serving."""
        for port in self._ports:
            await maybeDeferred(port.stopListening)

    def respond(self, octets: bytes, transport: str) -> list[bytes]:
        """Return the datagrams or messages that answer a query."""
        query = dns.message.from_wire(octets)
        question = query.question[0]
        name, kind = _plain(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, transport))
        match self.zone.behaviours.get(name):
            case Behaviour.DROP:
                return []
            case Behaviour.GARBAGE:
                return [b"\xff" * 40]
            case Behaviour.SERVFAIL:
                return [self._refusal(query, dns.rcode.SERVFAIL)]
            case Behaviour.REFUSED:
                return [self._refusal(query, dns.rcode.REFUSED)]
            case Behaviour.FORMERR if query.edns >= 0:
                return [self._refusal(query, dns.rcode.FORMERR)]
            case Behaviour.TRUNCATE if transport == "udp":
                return [self._cut(query)]
            case Behaviour.FORGE:
                forged = dns.message.make_response(query)
                forged.id ^= 1
                return [forged.to_wire(), self._answer(query, name, kind, transport)]
        return [self._answer(query, name, kind, transport)]

    def _answer(self, query: dns.message.Message, name: str, kind: str, transport: str) -> bytes:
        response = dns.message.make_response(query, recursion_available=True)
        passed, name, texts = self.zone.follow(name, kind)
        if self.authenticated and self.zone.is_secure(*passed, name):
            response.flags |= dns.flags.AD
        for each in passed:
            response.answer.append(_rrset(each, "CNAME", self.zone.records[each, "CNAME"]))
        if texts:
            response.answer.append(_rrset(name, kind, texts))
        elif not self.zone.exists(name):
            response.set_rcode(dns.rcode.NXDOMAIN)
        octets = response.to_wire(max_size=65_535)
        limit = 65_535 if transport == "tcp" else max(512, query.payload if query.edns >= 0 else 512)
        return octets if len(octets) <= limit else self._cut(query)

    @staticmethod
    def _refusal(query: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        return response.to_wire()

    @staticmethod
    def _cut(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        return response.to_wire()


class _Datagrams(DatagramProtocol):
    noisy = False

    def __init__(self, nameserver: Nameserver) -> None:
        self._nameserver = nameserver

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        transport: Any = self.transport
        for each in self._nameserver.respond(datagram, "udp"):
            transport.write(each, addr)


class _Stream(Protocol):
    def __init__(self, nameserver: Nameserver) -> None:
        self._nameserver = nameserver
        self._octets = b""

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        while len(self._octets) >= 2 and len(self._octets) >= 2 + int.from_bytes(self._octets[:2], "big"):
            end = 2 + int.from_bytes(self._octets[:2], "big")
            query, self._octets = self._octets[2:end], self._octets[end:]
            transport: Any = self.transport
            for each in self._nameserver.respond(query, "tcp"):
                transport.write(struct.pack("!H", len(each)) + each)


class _StreamFactory(Factory):
    noisy = False

    def __init__(self, nameserver: Nameserver) -> None:
        self._nameserver = nameserver

    def buildProtocol(self, addr: object) -> Protocol:
        return _Stream(self._nameserver)


def main(arguments: list[str]) -> None:
    """Serve a zone file on a port of 127.0.0.1 (0: any) until the process is ended."""
    if len(arguments) != 2:
        raise SystemExit("usage: python -m mailstack.testing.dns ZONEFILE PORT")
    from twisted.internet import reactor

    zone = parse_zone(Path(arguments[0]).read_text())
    port = Nameserver(zone).listen(reactor, int(arguments[1]))
    sys.stdout.write(f"127.0.0.1 {port}\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
