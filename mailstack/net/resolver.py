"""
The resolver: questions to the DNS, with their answers as values.

dnspython reads and writes the messages; the sockets, the timers and the order of attempts are ours. Its own resolver is not
used: its loop takes a cancellation for one more failed server, and it measures time by itself.

Source:  RFC 1035; RFC 2308 (negative answers); RFC 6891 (EDNS); RFC 7766 (TCP); RFC 6840 §5.7 (AD); RFC 6698 §2 (TLSA).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename
from twisted.internet.defer import CancelledError, Deferred

from mailstack.mail.answers import TLSA, Answer, Empty, Exchange, Failed, Found, NoSuchDomain
from mailstack.net.dns_exchange import Exchanges, NoAnswerError, Server

R = TypeVar("R")

UDP_PAYLOAD_OCTETS: Final = 1232  # the DNS flag day of 2020: fits any path without fragments
MAX_RECORDS: Final = 200
LONGEST_SECONDS: Final = 86_400  # RFC 8767 §4 advises a bound; a day keeps a wrong zone from staying for weeks
LONGEST_NEGATIVE_SECONDS: Final = 900
ANSWER_OCTETS: Final = 600
RECORD_OCTETS: Final = 120
FAILURE_SECONDS: Final = 30  # RFC 2308 §7.1 allows 300; one that is over must not keep mail waiting for long
_RETRY_WITHOUT_EDNS: Final = (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS)


_UNREADABLE: Final = TLSA(0, 0, 0, b"")
_Key = tuple[str, dns.rdatatype.RdataType]
"""A question as text, since the hash of a Name is made in Python."""


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: Answer[Any]
    until_seconds: float
    octets: int


def system_nameservers(path: Path = Path("/etc/resolv.conf")) -> tuple[Server, ...]:
    """
    Read the nameservers of this machine; the one on loopback when the file names none, as resolv.conf(5) has it.

    Raises:  OSError: the file cannot be read.
    """
    read = dns.resolver.Resolver(configure=False)
    with path.open() as opened:
        try:
            read.read_resolv_conf(opened)
        except dns.resolver.NoResolverConfiguration:
            return (Server("127.0.0.1"),)
    return tuple(Server(str(each)) for each in read.nameservers)


class Resolver:
    """
    Asks nameservers, and remembers a bounded number of answers for as long as they allow; failures for a moment, so that not
    each message waits for a server that says nothing.

    Shape:  `reactor` is clock, UDP and TCP; each server is asked in turn, `rounds` times. But where one is on this machine,
            none elsewhere is ever asked: SERVFAIL is how it says that an answer was forged, and another, which nobody can
            trust, would bring the forged one. So whoever can stop it, or make it slow, gets no answer of his own believed.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[Server],
        *,
        timeout_seconds: float = 3.0,
        rounds: int = 2,
        max_answers: int = 10_000,
        max_octets: int = 16_777_216,
    ) -> None:
        if not servers:
            raise ValueError("a resolver needs a nameserver")
        self._clock = reactor
        self._exchanges = Exchanges(reactor, timeout_seconds)
        self._servers = tuple(each for each in servers if each.is_loopback) or tuple(servers)
        self._rounds = rounds
        self._max_answers = max_answers
        self._max_octets = max_octets
        self._octets = 0
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._asking: dict[_Key, list[Deferred[Answer[Any] | None]]] = {}

    async def mx(self, domain: str) -> Answer[Exchange]:
        """Return the mail exchanges of a domain."""
        return await self._lookup(domain, dns.rdatatype.MX, lambda each: Exchange(each.preference, _text(each.exchange)))

    async def ipv4(self, name: str) -> Answer[str]:
        """Return the IPv4 addresses of a host."""
        return await self._lookup(name, dns.rdatatype.A, lambda each: str(each.address))

    async def ipv6(self, name: str) -> Answer[str]:
        """Return the IPv6 addresses of a host."""
        return await self._lookup(name, dns.rdatatype.AAAA, lambda each: str(each.address))

    async def txt(self, name: str) -> Answer[bytes]:
        """Return the texts of a name, the strings of each joined."""
        return await self._lookup(name, dns.rdatatype.TXT, lambda each: b"".join(each.strings))

    async def tlsa(self, name: str) -> Answer[TLSA]:
        """Return the TLSA records of a service, `_25._tcp.mx.example.org`."""
        return await self._lookup(
            name, dns.rdatatype.TLSA, lambda each: TLSA(each.usage, each.selector, each.mtype, bytes(each.cert))
        )

    async def alias(self, name: str) -> Answer[str]:
        """Return the name that a name is an alias of (CNAME), if it is one."""
        return await self._lookup(name, dns.rdatatype.CNAME, lambda each: _text(each.target))

    async def ptr(self, address: str) -> Answer[str]:
        """Return the names of an IP address, in lower case and without a final dot."""
        name = dns.reversename.from_address(address).to_text()
        return await self._lookup(name, dns.rdatatype.PTR, lambda each: _text(each.target))

    def forget_failures(self) -> None:
        """Ask anew what nobody could say a moment ago."""
        for key in [key for key, kept in self._kept.items() if isinstance(kept.answer, Failed)]:
            self._forget(key)

    async def _lookup(self, name: str, kind: dns.rdatatype.RdataType, record: Callable[[Any], R]) -> Answer[R]:
        if (found := _name(name)) is None:
            return NoSuchDomain()  # a name that cannot be written in a question does not exist
        text, parsed = found
        key = (text, kind)
        while True:
            if (kept := self._remembered(key)) is not None:
                return kept
            if (waiting := self._asking.get(key)) is None:
                return await self._ask_for_all(key, parsed, record)
            # Somebody asks this already: many messages to one domain are one question.
            shared: Deferred[Answer[R] | None] = Deferred()
            waiting.append(shared)
            if (answer := await shared) is not None:
                return answer

    async def _ask_for_all(self, key: _Key, name: dns.name.Name, record: Callable[[Any], R]) -> Answer[R]:
        """Ask, and tell the others who wait for the same answer; None tells them that this asker was cancelled."""
        self._asking[key] = []
        answer: Answer[R] | None = None
        try:
            answer = await self._ask(key, name, record)
        finally:
            for each in self._asking.pop(key):
                each.callback(answer)
        return answer

    async def _ask(self, key: _Key, name: dns.name.Name, record: Callable[[Any], R]) -> Answer[R]:
        failures: list[str] = []
        is_ours = False
        for _ in range(self._rounds):
            for server in self._servers:
                try:
                    response = await self._query(server, name, key[1])
                    answer, seconds = _read(response, record, server.is_loopback)
                except CancelledError:
                    raise
                except (NoAnswerError, dns.exception.DNSException, OSError, ValueError) as error:
                    failures.append(f"{server}: {error or type(error).__name__}")
                    is_ours = is_ours or isinstance(error, OSError)
                    continue
                self._remember(key, answer, seconds)
                return answer
        failed = Failed("; ".join(failures)[:500])
        if not is_ours:  # what is wrong with this machine says nothing of the domain
            self._remember(key, failed, FAILURE_SECONDS)
        return failed

    async def _query(self, server: Server, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.message.QueryMessage:
        """
        Ask one server; without EDNS when it does not understand that, by TCP when the answer is cut.

        Raises:  NoAnswerError, DNSException, OSError.
        """
        for payload in (UDP_PAYLOAD_OCTETS, 0):
            query = dns.message.make_query(name, kind, use_edns=0 if payload else False, payload=payload or None)
            query.flags |= dns.flags.AD
            response = await self._exchanges.udp(server, query)
            if response.flags & dns.flags.TC:
                response = await self._exchanges.tcp(server, query)
            if payload and response.rcode() in _RETRY_WITHOUT_EDNS:
                continue
            break
        return response

    def _remembered(self, key: _Key) -> Answer[Any] | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_seconds <= self._clock.seconds():
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return kept.answer

    def _remember(self, key: _Key, answer: Answer[Any], seconds: int) -> None:
        bound = LONGEST_SECONDS if isinstance(answer, Found) else LONGEST_NEGATIVE_SECONDS
        self._forget(key)
        kept = self._kept[key] = _Kept(answer, self._clock.seconds() + min(seconds, bound), _octets(key, answer))
        self._octets += kept.octets
        while len(self._kept) > self._max_answers or self._octets > self._max_octets:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: _Key) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._octets -= kept.octets


def _read(
    response: dns.message.QueryMessage, record: Callable[[Any], R], is_loopback: bool
) -> tuple[Found[R] | Empty | NoSuchDomain, int]:
    """
    Turn a response into an answer and the seconds for which it is good.

    Raises:  NoAnswerError: the server could not or would not say; DNSException: the response makes no sense.
    """
    rcode = response.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise NoAnswerError(dns.rcode.to_text(rcode))
    chain = response.resolve_chaining()
    if rcode == dns.rcode.NXDOMAIN:
        return NoSuchDomain(), chain.minimum_ttl
    if chain.answer is None and not response.errors:
        return Empty(), chain.minimum_ttl
    # AD is worth what the path to the resolver is worth: only loopback cannot be forged.
    authenticated = is_loopback and bool(response.flags & dns.flags.AD)
    # Of MX all count: the best may stand last, and so may our own name. How many there can be the length of a message bounds.
    most = None if response.question[0].rdtype == dns.rdatatype.MX else MAX_RECORDS
    records: tuple[Any, ...] = tuple(record(each) for each in list(chain.answer or ())[:most])
    if response.errors:  # of TLSA only: there are records that cannot be read, which is not the same as none
        records += (_UNREADABLE,)
    return Found(records, authenticated, _text(chain.canonical_name)), chain.minimum_ttl


@lru_cache(maxsize=10_000)
def _name(text: str) -> tuple[str, dns.name.Name] | None:
    """Parse a name, and write it in the one way in which it is remembered; None: it is none."""
    try:
        name = dns.name.from_text(text, idna_codec=dns.name.IDNA_2008_UTS_46)
        return name.canonicalize().to_text(), name
    except (dns.exception.DNSException, UnicodeError):
        return None


def _octets(key: _Key, answer: Answer[Any]) -> int:
    """Say about how much memory an answer takes: each object of Python's costs more than the octets in it."""
    match answer:
        case Found(records):
            return ANSWER_OCTETS + len(key[0]) + len(answer.canonical) + sum(RECORD_OCTETS + _length(each) for each in records)
        case Failed(cause):
            return ANSWER_OCTETS + len(key[0]) + len(cause)
    return ANSWER_OCTETS + len(key[0])


def _length(record: Any) -> int:
    match record:
        case Exchange():
            return len(record.host)
        case TLSA():
            return len(record.octets)
    return len(record)


def _text(name: dns.name.Name) -> str:
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()
