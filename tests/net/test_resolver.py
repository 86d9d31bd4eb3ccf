from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from functools import cache

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailstack.mail.answers import TLSA, Empty, Exchange, Failed, Found, NoSuchDomain
from mailstack.net.dns_exchange import Server
from mailstack.net.resolver import Resolver, system_nameservers
from mailstack.testing.dns import FakeResolver, Nameserver, Zone, parse_zone

ZONE = (
    """
    # what the tests ask for
    example.test       MX    20 mx2.example.test
    example.test       MX    10 MX1.example.test
    mx1.example.test   A     192.0.2.1
    mx1.example.test   A     192.0.2.2
    mx1.example.test   AAAA  2001:db8::1
    null.test          MX    0 .
    alias.test         CNAME example.test
    dangling.test      CNAME nowhere.test
    loop.test          CNAME loop2.test
    loop2.test         CNAME loop.test
    text.test          TXT   "v=spf1 " "-all"
    1.2.0.192.in-addr.arpa PTR MX1.example.test
    _25._tcp.mx1.example.test TLSA 3 1 1 """
    + "00ff" * 16
    + """
    _25._tcp.alias.test CNAME _25._tcp.mx1.example.test
    insecure.test      INSECURE
    mx.insecure.test   A     192.0.2.7
    away.test          CNAME mx.insecure.test
    servfail.test      SERVFAIL
    refused.test       REFUSED
    dead.test          DROP
    garbage.test       GARBAGE
    old.test           FORMERR
    old.test           MX    10 mx1.example.test
    forged.test        FORGE
    forged.test        A     192.0.2.9
    cut.test           TRUNCATE
    cut.test           A     192.0.2.8
"""
    + "\n".join(f"    big.test MX {n} host-with-a-rather-long-name-{n}.example.test" for n in range(60))
    + "\n"
    + "\n".join(f"    huge.test MX 20 m{n}.test" for n in range(1000))
    + "\n    huge.test MX 10 best.test\n"
)


@cache
def the_zone() -> Zone:
    return parse_zone(ZONE)


class NoDescriptors(MemoryReactorClock):
    """A machine on which there is no descriptor left."""

    asked = 0

    def listenUDP(self, *about, **more):
        self.asked += 1
        raise CannotListenError("", 0, OSError(errno.EMFILE, "Too many open files"))


class OwnFaults(SynchronousTestCase):
    def test_without_descriptors_nobody_can_say_and_that_is_not_remembered(self):
        reactor = NoDescriptors()
        resolver = Resolver(reactor, [Server("127.0.0.1")])
        for times in (1, 2):
            answer = self.successResultOf(Deferred.fromCoroutine(resolver.mx("example.test")))
            self.assertIsInstance(answer, Failed)
            self.assertIn("Too many open files", answer.cause)
            self.assertEqual(reactor.asked, times * len(answer.cause.split("; ")))


class Contract:
    """What every resolver keeps to; `self.resolver` answers from ZONE."""

    async def test_mx(self):
        answer = await self.resolver.mx("Example.TEST")
        self.assertIsInstance(answer, Found)
        self.assertEqual(set(answer.records), {Exchange(10, "mx1.example.test"), Exchange(20, "mx2.example.test")})

    async def test_addresses(self):
        answer = await self.resolver.ipv4("mx1.example.test")
        self.assertEqual(sorted(answer.records), ["192.0.2.1", "192.0.2.2"])
        self.assertEqual(await self.resolver.ipv6("mx1.example.test"), Found(("2001:db8::1",)))

    async def test_null_mx(self):
        self.assertEqual(await self.resolver.mx("null.test"), Found((Exchange(0, ""),)))

    async def test_alias_is_followed(self):
        self.assertEqual(
            set((await self.resolver.mx("alias.test")).records), set((await self.resolver.mx("example.test")).records)
        )

    async def test_alias_to_nowhere(self):
        self.assertEqual(await self.resolver.mx("dangling.test"), NoSuchDomain())

    async def test_alias_loop_fails(self):
        self.assertIsInstance(await self.resolver.mx("loop.test"), Failed)

    async def test_no_such_domain(self):
        self.assertEqual(await self.resolver.mx("nowhere.test"), NoSuchDomain())

    async def test_no_records_of_that_type(self):
        self.assertEqual(await self.resolver.mx("mx1.example.test"), Empty())
        self.assertEqual(await self.resolver.ipv4("test"), Empty())

    async def test_failures_are_no_answers(self):
        for name in ("servfail.test", "refused.test", "dead.test", "garbage.test"):
            answer = await self.resolver.mx(name)
            self.assertIsInstance(answer, Failed, name)
            self.assertTrue(answer.cause)

    async def test_texts_are_joined(self):
        self.assertEqual(await self.resolver.txt("text.test"), Found((b"v=spf1 -all",)))

    async def test_tlsa(self):
        for name in ("_25._tcp.mx1.example.test", "_25._tcp.alias.test"):
            self.assertEqual(await self.resolver.tlsa(name), Found((TLSA(3, 1, 1, b"\0\xff" * 16),)))

    async def test_the_end_of_aliases(self):
        for name, canonical in (("mx1.Example.test", "mx1.example.test"), ("away.test", "mx.insecure.test")):
            self.assertEqual((await self.resolver.ipv4(name)).canonical, canonical)

    async def test_an_alias(self):
        self.assertEqual(await self.resolver.alias("away.test"), Found(("mx.insecure.test",)))
        self.assertEqual(await self.resolver.alias("mx1.example.test"), Empty())

    async def test_an_answer_is_validated_when_all_of_it_is(self):
        self.vouch()
        found = [
            (await self.resolver.ipv4(name)).authenticated for name in ("mx1.example.test", "mx.insecure.test", "away.test")
        ]
        self.assertEqual(found, [True, False, False])

    async def test_ptr(self):
        self.assertEqual(await self.resolver.ptr("192.0.2.1"), Found(("mx1.example.test",)))

    async def test_many_records(self):
        self.assertEqual(len((await self.resolver.mx("big.test")).records), 60)

    async def test_all_exchanges_however_many(self):
        """The best may stand last."""
        records = (await self.resolver.mx("huge.test")).records
        self.assertEqual((len(records), min(each.preference for each in records)), (1001, 10))

    async def test_odd_servers_give_answers(self):
        self.assertEqual(await self.resolver.mx("old.test"), Found((Exchange(10, "mx1.example.test"),)))
        self.assertEqual(await self.resolver.ipv4("forged.test"), Found(("192.0.2.9",)))
        self.assertEqual(await self.resolver.ipv4("cut.test"), Found(("192.0.2.8",)))

    async def test_impossible_names_do_not_exist(self):
        for name in ("a" * 64 + ".test", "a..test", ".".join(["abcdefgh"] * 40)):
            self.assertEqual(await self.resolver.mx(name), NoSuchDomain())


class FakeResolverTests(Contract, TestCase):
    def setUp(self):
        self.resolver = FakeResolver(the_zone())

    def vouch(self):
        self.resolver.authenticated = True


class Served(TestCase):
    timeout = 20

    def setUp(self):
        self.nameserver = Nameserver(the_zone())
        self.port = self.nameserver.listen(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.nameserver.stop()))
        self.resolver = self.make()

    def make(self, **more):
        return Resolver(reactor, [Server("127.0.0.1", self.port)], timeout_seconds=0.2, **more)


class ResolverTests(Contract, Served):
    """Over real sockets."""

    def vouch(self):
        self.nameserver.authenticated = True


class ResolverOwnTests(Served):
    async def test_large_answers_come_by_udp_when_they_fit_edns_and_else_by_tcp(self):
        await self.resolver.mx("example.test")
        self.assertEqual([how for _, _, how in self.nameserver.asked], ["udp"])
        self.nameserver.asked.clear()
        await self.resolver.mx("big.test")
        self.assertEqual([how for _, _, how in self.nameserver.asked], ["udp", "tcp"])

    async def test_answers_are_kept(self):
        for name in ("example.test", "nowhere.test", "text.test"):
            first = await self.resolver.mx(name)
            self.assertEqual(await self.resolver.mx(name), first)
        self.assertEqual(len(self.nameserver.asked), 3)

    async def test_the_number_kept_is_bounded(self):
        resolver = self.make(max_answers=2)
        for name in ("a.test", "b.test", "a.test", "c.test", "a.test", "b.test"):
            await resolver.mx(name)
        self.assertEqual([name for name, _, _ in self.nameserver.asked], ["a.test", "b.test", "c.test", "b.test"])

    async def test_so_is_the_memory_they_take(self):
        texts = "\n".join(f"{name}.test TXT " + " ".join(['"' + "x" * 250 + '"'] * 40) for name in "abcd")
        self.nameserver.zone = parse_zone(texts)
        resolver = self.make(max_octets=35_000)
        for name in ("a.test", "b.test", "c.test", "a.test", "d.test", "a.test", "c.test", "b.test"):
            self.assertEqual(await resolver.txt(name), Found((b"x" * 10_000,)))
        asked = [name for name, _, how in self.nameserver.asked if how == "udp"]
        self.assertEqual(asked, ["a.test", "b.test", "c.test", "d.test", "b.test"])
        resolver = self.make(max_octets=10_000)
        for _ in range(2):
            self.assertIsInstance(await resolver.txt("a.test"), Found, "one that is larger than all that may be kept")

    async def test_one_question_for_many_who_ask_at_once(self):
        answers = await gatherResults([Deferred.fromCoroutine(self.resolver.mx("example.test")) for _ in range(50)])
        self.assertEqual(len(set(map(repr, answers))), 1)
        self.assertEqual(len(self.nameserver.asked), 1)

    async def test_the_cancelled_asker_does_not_take_the_others_along(self):
        self.nameserver.zone = parse_zone("dead.test DROP")
        first, second = (Deferred.fromCoroutine(self.resolver.mx("dead.test")) for _ in range(2))
        first.cancel()
        self.failureResultOf(first)
        self.nameserver.zone = parse_zone(ZONE.replace("dead.test          DROP", "dead.test TXT x"))
        self.assertEqual(await second, Empty())

    async def test_a_cancelled_waiter_goes_alone(self):
        first, second = (Deferred.fromCoroutine(self.resolver.mx("example.test")) for _ in range(2))
        second.cancel()
        self.failureResultOf(second)
        self.assertIsInstance(await first, Found)

    async def test_the_second_server_is_asked_when_the_first_is_closed(self):
        probe = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
        closed = probe.getHost().port
        await probe.stopListening()
        resolver = Resolver(reactor, [Server("127.0.0.1", closed), Server("127.0.0.1", self.port)], timeout_seconds=60)
        began = reactor.seconds()
        self.assertIsInstance(await resolver.mx("example.test"), Found)
        self.assertLess(reactor.seconds() - began, 30, "the closed port was not noticed")

    async def test_a_tlsa_record_that_cannot_be_read_is_not_none(self):
        good, bad = TLSA(3, 1, 1, b"\xcd" * 32), b"\xab" * 32
        for records, expected in (((bad,), ()), ((bad, good.octets), (good,)), ((), None)):
            lines = [f"_25._tcp.bad.test TLSA 3 1 1 {each.hex()}" for each in records]
            self.nameserver.zone = parse_zone("\n".join(["bad.test A 192.0.2.1", *lines]))
            respond = type(self.nameserver).respond

            def cut(octets, transport, respond=respond):
                whole, short = b"\0\x23\3\1\1" + b"\xab" * 32, b"\0\6\3\1\1" + b"\xab" * 3
                return [each.replace(whole, short) for each in respond(self.nameserver, octets, transport)]

            self.nameserver.respond = cut
            answer = await self.make().tlsa("_25._tcp.bad.test")
            if expected is None:
                self.assertEqual(answer, NoSuchDomain())
            else:
                self.assertEqual(answer, Found((*expected, TLSA(0, 0, 0, b""))))

    async def test_tcp_that_is_closed_is_a_failure(self):
        self.nameserver.zone = parse_zone("cut.test TRUNCATE")
        await self.nameserver._ports[0].stopListening()
        self.assertIsInstance(await self.resolver.ipv4("cut.test"), Failed)

    async def test_unicode_names_are_asked_in_ascii(self):
        self.assertEqual(await self.resolver.mx("bücher.test"), NoSuchDomain())
        self.assertEqual(self.nameserver.asked[0][0], "xn--bcher-kva.test")

    def test_as_a_process(self):
        with tempfile.NamedTemporaryFile("w") as zone:
            zone.write("example.test MX 10 mx.example.test\n")
            zone.flush()
            process = subprocess.Popen([sys.executable, "-m", "mailstack.testing.dns", zone.name, "0"], stdout=subprocess.PIPE)
            host, port = process.stdout.readline().split()

        def end(answer):
            process.kill()
            process.wait()
            process.stdout.close()
            return answer

        resolver = Resolver(reactor, [Server(host.decode(), int(port))], timeout_seconds=5)
        answer = Deferred.fromCoroutine(resolver.mx("example.test")).addBoth(end)
        return answer.addCallback(self.assertEqual, Found((Exchange(10, "mx.example.test"),)))


class ClockTests(SynchronousTestCase):
    """With a reactor in memory: time passes when the test says so."""

    def setUp(self):
        self.reactor = Datagrams()
        self.nameserver = Nameserver(the_zone())
        self.resolver = Resolver(self.reactor, [Server("127.0.0.1"), Server("::1")], timeout_seconds=3, rounds=2)

    def test_silence_ends(self):
        answer = Deferred.fromCoroutine(self.resolver.mx("dead.test"))
        for _ in range(3):
            self.reactor.advance(3)
            self.assertNoResult(answer)
        self.reactor.advance(3)
        self.assertIsInstance(self.successResultOf(answer), Failed)
        self.assertEqual([to for to, _ in self.reactor.sent], ["127.0.0.1", "::1"] * 2)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.reactor.open, 0)

    def ask(self, name):
        answer = Deferred.fromCoroutine(self.resolver.mx(name))
        if not answer.called:
            _, query = self.reactor.sent[-1]
            for each in self.nameserver.respond(query, "udp"):
                self.reactor.protocol.datagramReceived(each, ("127.0.0.1", 53))
        return self.successResultOf(answer)

    def test_only_a_resolver_on_this_machine_can_vouch_for_an_answer(self):
        self.nameserver.authenticated = True
        for server, expected in (("127.0.0.1", True), ("::1", True), ("192.0.2.53", False)):
            self.resolver = Resolver(self.reactor, [Server(server)])
            self.assertIs(self.ask("example.test").authenticated, expected)
        self.nameserver.authenticated = False
        self.resolver = Resolver(self.reactor, [Server("127.0.0.1")])
        self.assertIs(self.ask("example.test").authenticated, False)

    def test_when_the_resolver_here_gives_no_answer_none_elsewhere_is_asked(self):
        """It validates, and others bring what it found to be forged."""
        for name in ("servfail.test", "dead.test"):
            self.reactor.sent.clear()
            self.resolver = Resolver(self.reactor, [Server("127.0.0.1"), Server("192.0.2.53")], rounds=2)
            answer = Deferred.fromCoroutine(self.resolver.mx(name))
            for _ in range(4):
                if not answer.called:
                    _, query = self.reactor.sent[-1]
                    for each in self.nameserver.respond(query, "udp"):
                        self.reactor.protocol.datagramReceived(each, ("127.0.0.1", 53))
                    self.reactor.advance(3)
            self.assertIsInstance(self.successResultOf(answer), Failed)
            self.assertEqual({to for to, _ in self.reactor.sent}, {"127.0.0.1"})

    def test_nor_when_there_is_none_here(self):
        """It may come back in a moment, and who can stop it must not choose the answer; which would be kept, too."""
        for servers in (("127.0.0.1", "192.0.2.53"), ("192.0.2.53", "127.0.0.1")):
            self.reactor.sent.clear()
            self.resolver = Resolver(self.reactor, [Server(each) for each in servers])
            answer = Deferred.fromCoroutine(self.resolver.mx("example.test"))
            for _ in range(2):
                self.assertNoResult(answer)
                self.reactor.protocol.connectionRefused()
            self.assertEqual(self.successResultOf(answer), Failed("127.0.0.1#53: port closed; 127.0.0.1#53: port closed"))
            self.assertEqual({to for to, _ in self.reactor.sent}, {"127.0.0.1"})

    def test_several_elsewhere_are_asked_one_after_the_other(self):
        self.resolver = Resolver(self.reactor, [Server("192.0.2.53"), Server("192.0.2.54")])
        answer = Deferred.fromCoroutine(self.resolver.mx("example.test"))
        self.reactor.protocol.connectionRefused()
        to, query = self.reactor.sent[-1]
        self.assertEqual(to, "192.0.2.54")
        (response,) = self.nameserver.respond(query, "udp")
        self.reactor.protocol.datagramReceived(response, ("192.0.2.54", 53))
        self.assertIsInstance(self.successResultOf(answer), Found)

    def test_an_answer_is_kept_for_its_time(self):
        self.ask("example.test")
        self.reactor.advance(59)
        self.ask("example.test")
        self.assertEqual(len(self.reactor.sent), 1)
        self.reactor.advance(1)
        self.ask("example.test")
        self.assertEqual(len(self.reactor.sent), 2)

    def test_a_failure_is_kept_for_a_moment(self):
        """Else each message would wait for a server that says nothing, and for all its rounds."""
        self.resolver = Resolver(self.reactor, [Server("127.0.0.1")], rounds=1)
        self.assertIsInstance(self.ask("servfail.test"), Failed)
        self.nameserver.zone = parse_zone("servfail.test MX 10 mx1.example.test")
        self.reactor.advance(29)
        self.assertIsInstance(self.ask("servfail.test"), Failed)
        self.assertEqual(len(self.reactor.sent), 1)
        self.reactor.advance(1)
        self.assertIsInstance(self.ask("servfail.test"), Found)

    def test_or_until_it_is_to_be_forgotten(self):
        self.resolver = Resolver(self.reactor, [Server("127.0.0.1")], rounds=1)
        for name in ("servfail.test", "example.test", "nowhere.test"):
            self.ask(name)
        self.resolver.forget_failures()
        for name in ("servfail.test", "example.test", "nowhere.test"):
            self.ask(name)
        self.assertEqual([name for name, _, _ in self.nameserver.asked][3:], ["servfail.test"], "what was answered is kept")

    def test_what_is_forgotten_takes_no_memory(self):
        self.resolver = Resolver(self.reactor, [Server("127.0.0.1")], rounds=1)
        for _ in range(3):
            for name in ("example.test", "null.test", "nowhere.test", "mx1.example.test", "servfail.test"):
                self.ask(name)
            self.resolver.forget_failures()
            self.assertEqual(self.resolver._octets, sum(each.octets for each in self.resolver._kept.values()))
            self.assertIn(self.resolver._octets, range(2_400, 4_000))
            self.reactor.advance(60)

    def test_answers_to_other_questions_and_late_ones_are_ignored(self):
        answer = Deferred.fromCoroutine(self.resolver.mx("example.test"))
        protocol = self.reactor.protocol
        other = Deferred.fromCoroutine(self.resolver.mx("null.test"))
        _, query = self.reactor.sent[-1]
        (response,) = self.nameserver.respond(query, "udp")
        for wrong in (b"", b"x", response, response[:20], b"\0" * 600, self.reactor.sent[0][1]):
            protocol.datagramReceived(wrong, ("127.0.0.1", 53))
        self.assertNoResult(answer)
        self.reactor.protocol.datagramReceived(response, ("127.0.0.1", 53))
        self.reactor.protocol.datagramReceived(response, ("127.0.0.1", 53))
        self.assertIsInstance(self.successResultOf(other), Found)
        answer.cancel()
        self.failureResultOf(answer)


class Datagrams(MemoryReactorClock):
    def __init__(self):
        super().__init__()
        self.sent = []
        self.open = 0

    def listenUDP(self, port, protocol, interface="", maxPacketSize=8192):
        self.protocol = protocol
        self.open += 1
        protocol.makeConnection(Wire(self))
        return protocol.transport


class Wire:
    def __init__(self, reactor):
        self.reactor = reactor

    def connect(self, host, port):
        self.host = host

    def write(self, octets, addr=None):
        self.reactor.sent.append((self.host, octets))

    def stopListening(self):
        self.reactor.open -= 1


def test_a_resolver_needs_a_server():
    with pytest.raises(ValueError, match="nameserver"):
        Resolver(None, [])


def test_nameservers_of_the_machine(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.test\n")
    assert system_nameservers(path) == (Server("192.0.2.53"), Server("2001:db8::53"))
    path.write_text("# nothing\n")
    assert system_nameservers(path) == (Server("127.0.0.1"),)


@pytest.mark.parametrize("line", ["a.test", "a.test MX", "a.test MX nonsense", "a.test A 1.2.3", "a.test NOTHING x"])
def test_zones_that_cannot_be_read(line):
    with pytest.raises(ValueError, match="line 1"):
        parse_zone(line)
