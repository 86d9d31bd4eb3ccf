"""Attacks at the border of TLS, over real sockets with real TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

from receive_fakes import FakeRealm, House, a_portal, certificates
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet import reactor
from twisted.internet.ssl import CertificateOptions
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from mailstack.mail.envelope import Service

REACTOR: Any = reactor
PLAIN = b"AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldA==\r\n"
CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE
CONTEXT.maximum_version = ssl.TLSVersion.TLSv1_2  # in which a session is there as soon as the handshake is done


class Peer:
    """A client that says what a test tells it to, octet for octet."""

    def __init__(self, port: int) -> None:
        self.socket: Any = socket.create_connection(("127.0.0.1", port), timeout=10)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def secure(self, session: ssl.SSLSession | None = None) -> None:
        self.socket = CONTEXT.wrap_socket(self.socket, server_hostname="mx.example.org", session=session)

    def say(self, octets: bytes = b"", replies: int = 1) -> list[str]:
        """Return the codes of so many replies."""
        self.socket.sendall(octets)
        heard = b""
        codes: list[str] = []
        while len(codes) < replies and (octet := self.socket.recv(1)):
            heard += octet
            if heard.endswith(b"\r\n"):
                codes += [heard[:3].decode()] if heard[3:4] == b" " else []
                heard = b""
        return codes

    def rest(self) -> bytes:
        """Return all that comes until the end."""
        heard = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while octets := self.socket.recv(4096):
                heard += octets
        return heard


class TLSAttackTests(TestCase):
    timeout = 30

    def listen(self, service: Service, certificate: CertificateOptions | None = None) -> tuple[House, int]:
        users = InMemoryUsernamePasswordDatabaseDontUse(**{"alice@example.org": b"secret"})
        certificate = certificate or certificates()
        house = House(service, portal=a_portal(FakeRealm(), users), certificates=certificate, clock=REACTOR)
        factory: Any = house.factory
        if service.is_implicit_tls:
            factory = TLSMemoryBIOFactory(certificate, False, factory)
        port = REACTOR.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return house, port.getHost().port

    async def talk(self, house: House, talk: Callable[[], Any]) -> Any:
        said = await deferToThread(talk)
        await house.factory.drain()
        self.assertEqual([], house.start.failures)
        return said

    async def test_what_was_said_in_the_clear_is_forgotten(self) -> None:
        house, port = self.listen(Service.SMTP)

        def talk() -> list[str]:
            with Peer(port) as peer:
                peer.say()
                peer.say(b"EHLO evil.example\r\n")
                codes = peer.say(b"STARTTLS\r\n")
                peer.secure()
                codes += peer.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n", 3)
                codes += peer.say(b"EHLO client.example\r\nSTARTTLS\r\n", 2)
                codes += peer.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n", 3)
                return codes + peer.say(b"Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n", 2)

        codes = await self.talk(house, talk)
        self.assertEqual(["220", "503", "503", "503", "250", "503", "250", "250", "354", "250", "221"], codes)
        [(envelope, content)] = house.intake.accepted
        self.assertEqual("client.example", envelope.origin.hello)
        self.assertNotIn(b"evil", content)

    async def test_nothing_behind_starttls_is_obeyed_wherever_the_segment_ends(self) -> None:
        house, port = self.listen(Service.SMTP)

        def talk() -> list[bytes]:
            heard = []
            for behind in (b"N", b"NOOP\r\n", b"EHLO evil\r\nMAIL FROM:<evil@example.com>\r\n", b"\r\n", b"\x16\x03\x01"):
                with Peer(port) as peer:
                    peer.say()
                    peer.socket.sendall(b"EHLO c\r\nSTARTTLS\r\n" + behind)
                    heard.append(peer.rest())
            return heard

        for each in await self.talk(house, talk):
            self.assertTrue(each.endswith(b"503 5.5.1 Nothing may be pipelined behind STARTTLS\r\n"), each)
        self.assertNotIn("mail", [stage for stage, _ in house.judge.asked])

    async def test_commands_in_the_place_of_the_handshake_are_no_commands(self) -> None:
        house, port = self.listen(Service.SMTP)

        def talk() -> bytes:
            with Peer(port) as peer:
                peer.say()
                peer.say(b"EHLO c\r\n")
                peer.say(b"STARTTLS\r\n")
                peer.socket.sendall(b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<bob@example.org>\r\n")
                return peer.rest()

        heard = await self.talk(house, talk)
        self.assertNotIn(b"250", heard)
        self.assertNotIn("mail", [stage for stage, _ in house.judge.asked])

    async def test_a_session_of_tls_that_is_used_again_proves_nothing(self) -> None:
        certificate = certificates()
        _, port = self.listen(Service.SUBMISSION, certificate)
        house, other = self.listen(Service.SUBMISSIONS, certificate)

        def talk() -> list[str]:
            with Peer(port) as peer:
                peer.say()
                peer.say(b"EHLO c\r\n")
                peer.say(b"STARTTLS\r\n")
                peer.secure()
                codes = peer.say(b"EHLO c\r\n" + PLAIN, 2)
                session = peer.socket.session
            with Peer(other) as peer:
                peer.secure(session)
                codes += peer.say()
                return codes + peer.say(b"EHLO c\r\nMAIL FROM:<alice@example.org>\r\n", 2)

        self.assertEqual(["250", "235", "220", "250", "530"], await self.talk(house, talk))

    async def test_http_in_tls_ends_at_once_and_its_body_is_not_obeyed(self) -> None:
        house, port = self.listen(Service.SUBMISSIONS)

        def talk() -> bytes:
            with Peer(port) as peer:
                peer.secure()
                peer.say()
                peer.socket.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO c\r\n" + PLAIN)
                return peer.rest()

        self.assertEqual(b"421 4.7.0 This is not what you seek\r\n", await self.talk(house, talk))
        self.assertEqual(["connect"], [stage for stage, _ in house.judge.asked])

    async def test_starttls_in_chunks_and_behind_them(self) -> None:
        house, port = self.listen(Service.SMTP)

        def talk() -> list[str]:
            with Peer(port) as peer:
                peer.say()
                codes = peer.say(b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<bob@example.org>\r\n", 3)
                codes += peer.say(b"BDAT 10\r\nSTARTTLS\r\nSTARTTLS\r\nBDAT 6\r\nNOO", 2)
                codes += peer.say(b"P\r\nRSET\r\nSTARTTLS\r\n", 3)
                peer.secure()
                return codes + peer.say(b"BDAT 3 LAST\r\nx\r\nNOOP\r\n", 2)

        codes = await self.talk(house, talk)
        self.assertEqual(["250", "250", "250", "250", "503", "250", "250", "220", "503", "250"], codes)
        self.assertEqual([], house.intake.accepted)
