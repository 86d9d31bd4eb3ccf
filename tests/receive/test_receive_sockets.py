"""Real sockets, real TLS, and a client that is not ours."""

from __future__ import annotations

import smtplib
import socket
import ssl
from typing import Any

from receive_fakes import FakeRealm, House, a_portal, certificates
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailstack.mail.envelope import Service

REACTOR: Any = reactor


class SocketTests(TestCase):
    timeout = 20

    def listen(self, service: Service, **more: Any) -> tuple[House, int]:
        users = InMemoryUsernamePasswordDatabaseDontUse(**{"alice@example.org": b"secret"})
        house = House(service, portal=a_portal(FakeRealm(), users), certificates=certificates(), clock=REACTOR, **more)
        port = REACTOR.listenTCP(0, house.factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return house, port.getHost().port

    @inlineCallbacks
    def test_smtplib_submits_under_tls(self) -> Any:
        house, port = self.listen(Service.SUBMISSION)
        body = "".join(f".line {n}\n" for n in range(20_000))

        def client() -> dict[str, Any]:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as session:
                session.starttls(context=context)
                session.login("alice@example.org", "secret")
                return session.sendmail(
                    "alice@example.org", ["x@remote.example", "bob@example.org"], f"Subject: x\n\n{body}".encode()[:-1]
                )

        refused = yield deferToThread(client)
        self.assertEqual({}, refused)
        yield house.factory.drain()
        [(envelope, content)] = house.intake.accepted
        self.assertEqual(2, len(envelope.recipients))
        self.assertEqual("alice@example.org", envelope.origin.account)
        self.assertTrue(content.endswith(f"Subject: x\n\n{body}".replace("\n", "\r\n").encode()))
        self.assertIn(b"with ESMTPSA (TLSv1.3", content)

    @inlineCallbacks
    def test_a_client_that_never_reads_is_bounded(self) -> Any:
        house, port = self.listen(Service.SMTP)

        def client() -> int:
            sent = 0
            with socket.create_connection(("127.0.0.1", port), timeout=1) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                try:
                    while sent < 50_000_000:
                        sent += peer.send(b"RCPT TO:<x@example.org>\r\n" * 1000)
                except OSError:
                    pass
            return sent

        sent = yield deferToThread(client)
        self.assertLess(sent, 30_000_000)
        yield house.factory.drain()

    @inlineCallbacks
    def test_a_client_that_says_no_more_gets_its_answers(self) -> Any:
        house, port = self.listen(Service.SMTP)

        def client(said: bytes) -> list[bytes]:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                peer.sendall(said)
                peer.shutdown(socket.SHUT_WR)
                return [line[:3] for line in peer.makefile("rb")]

        house.intake.commit_waits = Deferred()
        REACTOR.callLater(0.1, lambda: house.intake.commit_waits.callback(None))
        road = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\n"
        said = yield deferToThread(client, road + b"BDAT 14 LAST\r\nSubject: x\r\n\r\nQUIT\r\n")
        self.assertEqual([b"220", b"250", b"250", b"250", b"221"], said[:1] + said[-4:])
        self.assertEqual(1, len(house.intake.accepted))
        said = yield deferToThread(client, road)
        self.assertEqual([b"220", b"250", b"250", b"250"], said[:1] + said[-3:])
        said = yield deferToThread(client, road + b"BDAT 15 LAST\r\nSubject: x\r\n\r\n")
        self.assertEqual([b"220", b"250", b"250", b"250"], said[:1] + said[-3:])
        self.assertEqual(1, len(house.intake.accepted))
        yield house.factory.drain()

    @inlineCallbacks
    def test_starttls_injection_by_a_socket(self) -> Any:
        house, port = self.listen(Service.SMTP)

        def client() -> bytes:
            heard = b""
            with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                peer.sendall(b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<evil@example.com>\r\n")
                while octets := peer.recv(4096):
                    heard += octets
            return heard

        heard = yield deferToThread(client)
        self.assertTrue(heard.endswith(b"503 5.5.1 Nothing may be pipelined behind STARTTLS\r\n"), heard)
        yield house.factory.drain()
        self.assertNotIn("mail", [stage for stage, _ in house.judge.asked])
