"""Over real sockets, with real TLS and a real resolver."""

from __future__ import annotations

import resource
import socket
import tempfile

from relay_house import CLOSE, HANG, OnDisk, delivery, relay_settings
from relay_servers import Served, certificate
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailstack.mail.disposition import Action, Standing
from mailstack.net.dns_exchange import Server
from mailstack.net.prompt import PromptTCP
from mailstack.net.resolver import Resolver
from mailstack.relay.connect import Connector
from mailstack.relay.courier import RelayCourier
from mailstack.relay.protocol import Surroundings
from mailstack.relay.sessions import Sessions
from mailstack.relay.settings import TIMEOUTS_SECONDS, NextHop, SourceAddresses, TLSPolicy, smarthost
from mailstack.relay.tls import TLSContexts
from mailstack.testing.dns import FakeResolver, Nameserver
from mailstack.wire.smtp_commands import Authenticate, Data
from mailstack.wire.smtp_mailing import Login, Phase
from mailstack.wire.smtp_table import Role

ZONE = """
    example.test MX 10 dead.test
    example.test MX 20 mx.test
    dead.test A 127.0.0.66
    mx.test   A 127.0.0.1
    broken.test SERVFAIL
"""
STARTTLS = b"250-mx\r\n250 STARTTLS\r\n"


class Case(TestCase):
    timeout = 20

    def serve(self, *scripts, **more):
        served = Served(reactor, *scripts, **more)
        self.addCleanup(lambda: Deferred.fromCoroutine(served.stop()))
        return served

    def courier(self, served, *, resolver=None, contexts=None, limits=None, port=None, nonce=None, **more):
        around = Surroundings(
            clock=reactor,
            start=lambda coroutine, what: Deferred.fromCoroutine(coroutine),
            run_in_thread=deferToThread,
            timeouts_seconds={**TIMEOUTS_SECONDS, **(limits or {})},
            make_nonce=(lambda: nonce) if nonce else None,
        )
        connector = Connector(PromptTCP(reactor), more.pop("connect_seconds", 2.0))
        trust = {name: more.pop(name) for name in ("policies", "witness", "memory") if name in more}
        settings = relay_settings(port=port or served.number, **more)

        def connect(hop, port, factory, source):
            return connector(hop, served.number, factory, source)

        return RelayCourier(
            "us.test", resolver or FakeResolver(ZONE), connect, around, list, settings=settings, contexts=contexts, **trust
        )

    def smarthost(self, served, policy, port=None, **more):
        return {"smarthost": smarthost("mx.test", port or served.number, tls=policy, **more)}


class Plain(Case):
    async def test_from_the_dns_to_the_content(self):
        served = self.serve()
        nameserver = Nameserver(ZONE)
        port = nameserver.listen(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(nameserver.stop()))
        resolver = Resolver(reactor, [Server("127.0.0.1", port)], timeout_seconds=1)
        courier = self.courier(served, resolver=resolver)
        (only,) = await courier.attempt(delivery())
        # 127.0.0.66 is this machine too; nothing listens there.
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx.test"))
        self.assertEqual(served.contents, [b"Subject: x\r\n\r\n.hello\r\n"])
        (only,) = await courier.attempt(delivery(domain="broken.test"))
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.4.3"))

    async def test_many_at_once(self):
        served = self.serve()
        courier = self.courier(served)
        found = [Deferred.fromCoroutine(courier.attempt(delivery())) for _ in range(30)]
        self.assertEqual({(await each)[0].action for each in found}, {Action.RELAYED})
        self.assertEqual(len(served.contents), 30)

    async def test_large_content_to_a_slow_reader(self):
        whole = b"".join(b".%d\r\n" % n for n in range(1_000_000))
        served = self.serve(slow=True)
        (only,) = await self.courier(served).attempt(delivery(content=OnDisk(whole)))
        self.assertIs(only.action, Action.RELAYED)
        self.assertEqual(served.contents, [whole])

    async def test_a_line_of_100_megabytes(self):
        served = self.serve({"EHLO": b"250-" + b"x" * 100_000_000})
        (only,) = await self.courier(served, max_hosts=2).attempt(delivery())
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.5.0"))

    async def test_local_address(self):
        served = self.serve()
        (only,) = await self.courier(served, sources=SourceAddresses(("127.0.0.5",))).attempt(delivery())
        self.assertIs(only.action, Action.RELAYED)
        self.assertEqual(served.peers[0].host, "127.0.0.5")

    async def test_local_address_of_the_other_family_is_not_used(self):
        served = self.serve()
        (only,) = await self.courier(served, sources=SourceAddresses(("::1",))).attempt(delivery())
        self.assertIs(only.action, Action.RELAYED)


class TLS(Case):
    def setUp(self):
        self.options = certificate("mx.test")

    async def test_used_when_offered_without_verification(self):
        served = self.serve(tls=self.options)
        (only,) = await self.courier(served).attempt(delivery())
        self.assertIs(only.action, Action.RELAYED)
        self.assertEqual(self.options.seen, [b"mx.test"])
        self.assertEqual(len(served.contents), 1)

    async def test_large_content(self):
        whole = b"x" * 70 + b"\r\n"
        served = self.serve(tls=self.options, slow=True)
        (only,) = await self.courier(served).attempt(delivery(content=OnDisk(whole * 100_000)))
        self.assertIs(only.action, Action.RELAYED)
        self.assertEqual(served.contents, [whole * 100_000])

    async def after_failed_handshake(self, policy, **script):
        served = self.serve({"EHLO": STARTTLS, "STARTTLS": b"220 go\r\n", **script}, tls=self.options)
        served.scripts.append({})
        courier = self.courier(served, limits={Phase.HANDSHAKE: 0.3}, **self.smarthost(served, policy))
        (only,) = await courier.attempt(delivery())
        return served, only

    FAILURES = b"this is no TLS\r\n" * 20, CLOSE, HANG

    async def test_clear_to_the_same_host_when_it_may(self):
        for handshake in self.FAILURES:
            served, only = await self.after_failed_handshake(TLSPolicy.MAY, handshake=handshake)
            self.assertIs(only.action, Action.RELAYED, handshake)
            self.assertEqual(len(served.scripted), 2)
            self.assertEqual(served.scripted[1].lines[1:], ["MAIL FROM:<alice@us.test> SIZE=22", *served.scripted[1].lines[2:]])

    async def test_clear_to_a_host_that_does_not_speak_within_tls_when_it_may(self):
        for spoken, limits in ((CLOSE, {}), (HANG, {Phase.EHLO: 0.3}), (b"554 5.5.0 not within TLS\r\n", {})):
            for policy in (TLSPolicy.MAY, TLSPolicy.ENCRYPT):
                served = self.serve({"STARTTLS": b"220 go\r\n", "HELO": spoken}, {}, tls=self.options)

                def ehlo(argument, served=served, spoken=spoken):
                    return spoken if "STARTTLS" in served.scripted[-1].lines else STARTTLS

                served.scripts[0]["EHLO"] = ehlo
                courier = self.courier(served, limits=limits, **self.smarthost(served, policy))
                (only,) = await courier.attempt(delivery())
                action = Action.RELAYED if policy is TLSPolicy.MAY else Action.DELAYED
                self.assertEqual((only.action, len(served.scripted)), (action, 1 + (action is Action.RELAYED)), (spoken, only))
                self.assertEqual(len(courier._hung), spoken is HANG and policy is TLSPolicy.MAY)
                self.assertEqual(len(courier._hosts), 0, "another message may go in clear")

    async def test_mail_refused_in_clear_after_a_handshake_that_failed(self):
        for hello in (STARTTLS, b"250 mx\r\n"):
            for reply in (b"530 5.7.0 Must issue a STARTTLS command first\r\n", b"550 5.7.1 TLS needed\r\n"):
                script = {"EHLO": STARTTLS, "STARTTLS": b"220 go\r\n", "handshake": CLOSE}
                served = self.serve(script, {"EHLO": hello, "MAIL": reply}, tls=self.options)
                (only,) = await self.courier(served).attempt(delivery())
                standing = Standing.DOWN if reply.startswith(b"530") else Standing.UP
                self.assertEqual((only.action, only.standing), (Action.DELAYED, standing))
                self.assertEqual((only.diagnostic, only.tls), (reply.decode().strip(), "none"))

    async def test_a_host_that_hung_and_takes_nothing_in_clear_is_asked_for_tls_by_the_next(self):
        wanting = {"MAIL": b"530 5.7.0 Must issue a STARTTLS command first\r\n"}
        served = self.serve({"EHLO": STARTTLS, "STARTTLS": HANG}, {"EHLO": STARTTLS, **wanting}, tls=self.options)
        courier = self.courier(served, limits={Phase.STARTTLS: 0.2})
        (only,) = await courier.attempt(delivery())
        self.assertEqual((only.action, len(served.peers)), (Action.DELAYED, 2))
        (only,) = await courier.attempt(delivery())
        self.assertEqual((only.action, len(served.peers)), (Action.RELAYED, 3))
        self.assertNotEqual(only.tls, "none")

    async def test_never_clear_when_it_must_be_encrypted(self):
        for policy in (TLSPolicy.ENCRYPT, TLSPolicy.VERIFY):
            for handshake in self.FAILURES:
                served, only = await self.after_failed_handshake(policy, handshake=handshake)
                self.assertIs(only.action, Action.DELAYED)
                self.assertEqual(len(served.scripted), 1)

    async def test_a_handshake_that_fails_where_it_is_a_must_concerns_no_other_domain(self):
        for handshake in self.FAILURES:
            script = {"EHLO": STARTTLS, "STARTTLS": b"220 go\r\n", "handshake": handshake}
            served = self.serve(script, script, {}, tls=self.options)
            zone = "strict.test MX 10 mx.test\nother.test MX 10 mx.test\nmx.test A 127.0.0.1"
            levels = {"strict.test": TLSPolicy.ENCRYPT}
            courier = self.courier(served, resolver=FakeResolver(zone), limits={Phase.HANDSHAKE: 0.3}, tls_levels=levels)
            (only,) = await courier.attempt(delivery(domain="strict.test"))
            self.assertIs(only.action, Action.DELAYED)
            (only,) = await courier.attempt(delivery(domain="other.test"))
            self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"), handshake)

    async def test_a_host_that_wants_our_certificate(self):
        # In TLS 1.3 we hear of it after our side of the handshake is done.
        for policy, action in ((TLSPolicy.MAY, Action.RELAYED), (TLSPolicy.ENCRYPT, Action.DELAYED)):
            served = self.serve(tls=certificate("mx.test", asks_for_one=True))
            served.scripts.append({"EHLO": STARTTLS, "STARTTLS": b"220 go\r\n"})
            served.scripts.append({})
            (only,) = await self.courier(served, **self.smarthost(served, policy)).attempt(delivery())
            self.assertIs(only.action, action)

    async def test_octets_behind_the_220(self):
        for policy in (TLSPolicy.MAY, TLSPolicy.ENCRYPT):
            script = {"EHLO": STARTTLS, "STARTTLS": b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n", "handshake": HANG}
            served = self.serve(script, tls=self.options)
            (only,) = await self.courier(served, **self.smarthost(served, policy)).attempt(delivery())
            self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.5.0"))
            self.assertEqual(served.scripted[0].lines, ["EHLO us.test", "STARTTLS"])

    async def test_454_goes_on_in_clear_only_when_it_may(self):
        for policy, action in ((TLSPolicy.MAY, Action.RELAYED), (TLSPolicy.ENCRYPT, Action.DELAYED)):
            served = self.serve({"EHLO": STARTTLS, "STARTTLS": b"454 not now\r\n"})
            (only,) = await self.courier(served, **self.smarthost(served, policy)).attempt(delivery())
            self.assertIs(only.action, action)


class Addresses(Case):
    """Two addresses of a host: the one takes no connection, and does not refuse it either."""

    async def relay_to(self, **more):
        served = self.serve()
        silent = socket.socket()
        self.addCleanup(silent.close)
        silent.bind(("127.0.0.2", served.number))
        silent.listen(0)
        others = [socket.socket() for _ in range(3)]
        for other in others:
            self.addCleanup(other.close)
            other.setblocking(False)
            other.connect_ex(silent.getsockname())
        zone = "dual.test MX 10 mx.test\nmx.test A 127.0.0.2\nmx.test A 127.0.0.1\n"
        courier = self.courier(served, resolver=FakeResolver(zone), **more)
        (only,) = await courier.attempt(delivery(domain="dual.test"))
        return only

    async def test_the_other_is_taken_and_nothing_is_left_behind(self):
        only = await self.relay_to()  # what is left behind makes the test fail
        self.assertIs(only.action, Action.RELAYED)
        self.assertIn("address=127.0.0.1 ", only.cause)

    async def test_without_the_other_it_takes_its_time(self):
        only = await self.relay_to(max_hosts=1, connect_seconds=0.3)
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.4.1"))
        self.assertIn("TimeoutError", only.cause)

    async def test_a_source_that_is_not_ours(self):
        served = self.serve()
        (only,) = await self.courier(served, sources=SourceAddresses(("192.0.2.1",))).attempt(delivery())
        self.assertEqual((only.action, str(only.status), only.standing), (Action.DELAYED, "4.3.0", None))
        self.assertIn("this machine cannot connect from 192.0.2.1: ConnectBindError", only.cause)
        self.assertIn("Cannot assign requested address", only.cause)

    async def test_no_descriptor_is_left(self):
        served = self.serve()
        courier = self.courier(served)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        await deferLater(reactor, 0)  # the reactor runs, and has its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            (only,) = await courier.attempt(delivery())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertEqual((only.action, str(only.status), only.standing), (Action.DELAYED, "4.3.0", None))
        self.assertIn("this machine cannot connect: ConnectBindError", only.cause)
        self.assertIn("Too many open files", only.cause)
        (only,) = await courier.attempt(delivery())
        self.assertIs(only.action, Action.RELAYED)


class AfterTheEnd(Case):
    """A host that answers QUIT, or says 421, and then keeps the connection of TLS open without a word."""

    async def left_open(self, script):
        senders, make = [], Sessions._sender

        def noting(sessions, way):
            senders.append(make(sessions, way))
            return senders[-1]

        self.patch(Sessions, "_sender", noting)
        served = self.serve(tls=certificate("mx.test"))

        def fall_silent(said):
            def answer(argument):
                served.scripted[0].transport.pauseProducing()
                return said

            return answer

        served.scripts.append(
            {"EHLO": STARTTLS, "STARTTLS": b"220 go\r\n", **{key: fall_silent(said) for key, said in script.items()}}
        )
        limits = {phase: 0.2 for phase in TIMEOUTS_SECONDS if phase in (Phase.QUIT, Phase.ENDED)}
        courier = self.courier(served, limits=limits)
        await courier.attempt(delivery())
        await deferLater(reactor, 1.0)
        left = [sender for sender in senders if not sender._is_lost]
        for sender in left:
            sender.abort()
        served.scripted[0].transport.resumeProducing()
        return len(left)

    async def test_quit(self):
        self.assertEqual(await self.left_open({"QUIT": b"221 bye\r\n"}), 0)

    async def test_421_to_the_content(self):
        self.assertEqual(await self.left_open({"dot": b"421 4.3.2 closing\r\n"}), 0)


class Delivers(Case):
    """LMTP, through a file and over TCP; ours offers DSN, and so will itself tell the sender that it has delivered."""

    async def hand_over(self, served, next_hop, *names):
        found = await self.courier(served).attempt(delivery(*(f"{name}@example.test" for name in names)), next_hop)
        self.assertEqual([each.action for each in found], [Action.RELAYED] * len(names))
        self.assertEqual(sum(isinstance(each, Data) for each in served.events), 1)
        return found

    async def test_through_a_file(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        served = self.serve(role=Role.LMTP, path=f"{folder.name}/lmtp")
        found = await self.hand_over(served, NextHop(host=served.path, is_lmtp=True), "a", "b", "c")
        self.assertEqual(found[0].remote_mta, "localhost")

    async def test_through_a_file_that_is_not_there(self):
        next_hop = NextHop(host="/nowhere/lmtp", is_lmtp=True)
        (only,) = await self.courier(self.serve()).attempt(delivery(), next_hop)
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.4.1"))

    async def test_over_tcp(self):
        served = self.serve(role=Role.LMTP)
        await self.hand_over(served, NextHop(host="127.0.0.1", port=24, is_lmtp=True, allow_private=True), "a", "b")

    async def test_over_tcp_in_tls_with_its_certificate(self):
        options = certificate("mx.test")
        served = self.serve(role=Role.LMTP, tls=options)
        courier = self.courier(served, contexts=TLSContexts(options.authority))
        next_hop = NextHop(host="mx.test", port=24, is_lmtp=True, allow_private=True, tls=TLSPolicy.VERIFY)
        (only,) = await courier.attempt(delivery(), next_hop)
        self.assertIs(only.action, Action.RELAYED)
        self.assertEqual(options.seen, [b"mx.test"])


class Smarthosts(Case):
    def setUp(self):
        self.options = certificate("mx.test")

    async def relay(self, served, policy, authority=None, nonce=None, **more):
        contexts = TLSContexts(authority or self.options.authority)
        courier = self.courier(served, contexts=contexts, nonce=nonce, **self.smarthost(served, policy, **more))
        (only,) = await courier.attempt(delivery(domain="elsewhere.test"))
        return only

    async def test_verified(self):
        served = self.serve(tls=self.options)
        self.assertIs((await self.relay(served, TLSPolicy.VERIFY)).action, Action.RELAYED)
        self.assertEqual(self.options.seen, [b"mx.test"])

    async def test_another_authority(self):
        served = self.serve(tls=self.options)
        only = await self.relay(served, TLSPolicy.VERIFY, certificate("mx.test").authority)
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.7.5"))
        self.assertEqual(served.contents, [])

    async def test_another_name(self):
        other = certificate("other.test")
        served = self.serve(tls=other)
        only = await self.relay(served, TLSPolicy.VERIFY, other.authority)
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.7.5"))

    async def test_encrypt_takes_any_certificate(self):
        served = self.serve(tls=certificate("other.test"))
        self.assertIs((await self.relay(served, TLSPolicy.ENCRYPT)).action, Action.RELAYED)

    async def test_login_within_tls(self):
        served = self.serve(tls=self.options, role=Role.SUBMISSION)
        only = await self.relay(served, TLSPolicy.VERIFY, login=Login("alice", "secret"))
        self.assertIs(only.action, Action.RELAYED)
        (seen,) = [each for each in served.events if isinstance(each, Authenticate)]
        self.assertEqual((seen.credentials.username, seen.credentials.password), (b"alice", b"secret"))

    async def test_a_password_is_proved_bound_to_the_session(self):
        for implicit_tls in (False, True):
            served = self.serve(tls=self.options, role=Role.SUBMISSION, scram=True, implicit_tls=implicit_tls)
            more = {"port": 465} if implicit_tls else {}
            only = await self.relay(served, TLSPolicy.VERIFY, login=Login("alice", "secret"), nonce="of-the-client", **more)
            self.assertIs(only.action, Action.RELAYED)
            (seen,) = [each for each in served.events if isinstance(each, Authenticate)]
            self.assertEqual("SCRAM-SHA-256-PLUS", seen.mechanism)

    async def test_a_wrong_password_is_no_reason_to_fail_mail(self):
        served = self.serve(tls=self.options, role=Role.SUBMISSION)
        only = await self.relay(served, TLSPolicy.VERIFY, login=Login("alice", "old"))
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.7.8"))
        self.assertNotIn("old", repr(only))

    async def test_one_that_hung_at_starttls_and_wants_a_login_is_not_asked_in_clear(self):
        served = self.serve({"EHLO": STARTTLS, "STARTTLS": HANG}, tls=self.options)
        more = self.smarthost(served, TLSPolicy.MAY, login=Login("us", "secret"))
        courier = self.courier(served, limits={Phase.STARTTLS: 0.2}, **more)
        (only,) = await courier.attempt(delivery())
        self.assertEqual((only.action, only.diagnostic), (Action.DELAYED, "The host did not answer in time"))
        hello = b"250-mx\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n"
        served.scripts[:] = [{"EHLO": hello, "STARTTLS": b"220 go\r\n", "AUTH": b"235 ok\r\n"}]
        (only,) = await courier.attempt(delivery())
        self.assertIs(only.action, Action.RELAYED, only.diagnostic)

    async def test_implicit_tls(self):
        served = self.serve(tls=self.options, role=Role.SUBMISSION, implicit_tls=True)
        only = await self.relay(served, TLSPolicy.VERIFY, port=465, login=Login("alice", "secret"))
        self.assertIs(only.action, Action.RELAYED)

    async def test_implicit_tls_has_no_clear_way(self):
        served = self.serve({})
        only = await self.relay(served, TLSPolicy.MAY, port=465)
        self.assertIs(only.action, Action.DELAYED)
        self.assertEqual(len(served.peers), 1)
        self.assertEqual(served.contents, [])
