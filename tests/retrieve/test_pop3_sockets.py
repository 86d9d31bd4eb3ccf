"""POP3 against the standard library's client, over sockets of the loopback and real TLS."""

from __future__ import annotations

import datetime
import poplib
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pop3_fakes import OneRealm
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from mailstack.mail.envelope import Service
from mailstack.net.supervise import Supervisor
from mailstack.net.tls import CertificateStore
from mailstack.retrieve.factory import POP3Factory
from mailstack.retrieve.interfaces import IMaildrop
from mailstack.retrieve.threaded import ThreadedMaildrop
from mailstack.store.maildrop import Maildrop
from mailstack.store.names import delivery_name

SMALL = b"Subject: small\r\n\r\n.dot\r\n..\r\nend\r\n"
BIG = b"Subject: big\r\n\r\n" + b".0123456789abcde\r\n" * 200_000


def write_pair(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pop.test")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(start).not_valid_after(start + datetime.timedelta(days=36_500)).sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


class MaildirRealm(OneRealm):
    """Opens the maildir of everybody in a thread, as the composed house does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None)
        self.folder = folder

    async def _answer(self) -> tuple[Any, Any, Callable[[], None]]:
        drop = await deferToThread(Maildrop.open, self.folder, now=reactor.seconds)
        return IMaildrop, ThreadedMaildrop(drop, deferToThread), drop.close


class SocketTests(TestCase):
    """A server on a free port."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ("new", "cur", "tmp"):
            (self.folder / name).mkdir()
        for ordinal, content in enumerate((SMALL, BIG)):
            name = delivery_name("0123456789abc", ordinal, 1_700_000_000 + ordinal, "mx.test", len(content))
            (self.folder / "new" / name).write_bytes(content)
        (self.folder / "cur" / "1800000000.other.host:2,S").write_bytes(b"Subject: other\n\nlf\nno end")
        self.certificates = CertificateStore(*write_pair(self.folder))
        self.certificates.load()
        self.trust = ssl.create_default_context()
        self.trust.check_hostname = False
        self.trust.verify_mode = ssl.CERT_NONE
        self.trust.set_alpn_protocols(["pop3"])

    def listen(self, service: Service, *, require_tls: bool = True) -> int:
        names = iter(range(1000))
        self.factory = POP3Factory(
            portal=Portal(MaildirRealm(self.folder), [InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret")]),
            service=service,
            clock=reactor,
            start=Supervisor().start,
            session_names=lambda: f"s{next(names)}",
            certificates=self.certificates,
            require_tls=require_tls,
        )
        wrapped = TLSMemoryBIOFactory(self.certificates, False, self.factory) if service.is_implicit_tls else self.factory
        self.port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
        self.addCleanup(self.close)
        return int(self.port.getHost().port)

    async def close(self) -> None:
        await self.port.stopListening()
        await self.factory.drain()

    def walk(self, client: poplib.POP3) -> None:
        """Do all that poplib can; runs in a thread."""
        client.user("alice")
        client.pass_("secret")
        self.assertEqual((3, len(SMALL) + len(BIG) + 30), client.stat())
        self.assertEqual([b"1 %d" % len(SMALL), b"2 %d" % len(BIG), b"3 30"], client.list()[1])
        self.assertEqual(3, len({line.split()[1] for line in client.uidl()[1]}))
        for number, content in ((1, SMALL), (2, BIG), (3, b"Subject: other\r\n\r\nlf\r\nno end\r\n")):
            self.assertEqual(content.split(b"\r\n")[:-1], client.retr(number)[1])
        self.assertEqual(BIG.split(b"\r\n")[:5], client.top(2, 3)[1])
        self.assertRaises(poplib.error_proto, client.retr, 4)
        client.dele(2)
        self.assertRaises(poplib.error_proto, client.retr, 2)
        client.rset()
        client.dele(1)
        self.assertIn("UIDL", client.capa())
        self.assertTrue(client.quit().startswith(b"+OK"))

    def messages(self) -> int:
        return sum(1 for name in ("new", "cur") for _ in (self.folder / name).iterdir())

    async def test_in_clear_text(self) -> None:
        port = self.listen(Service.POP3, require_tls=False)
        await deferToThread(lambda: self.walk(poplib.POP3("127.0.0.1", port, timeout=20)))
        self.assertEqual(2, self.messages())

    async def test_a_client_that_says_no_more_gets_its_answers(self) -> None:
        port = self.listen(Service.POP3, require_tls=False)

        def talk(last: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
                peer.sendall(b"USER alice\r\nPASS secret\r\nDELE 1\r\nRETR 2\r\n" + last)
                peer.shutdown(socket.SHUT_WR)
                return peer.makefile("rb").read()

        heard = await deferToThread(talk, b"")
        self.assertTrue(heard.endswith(b"\r\n.\r\n"))
        self.assertEqual(3, self.messages())
        heard = await deferToThread(talk, b"QUIT\r\n")
        self.assertGreater(len(heard), len(BIG))
        self.assertTrue(heard.splitlines()[-1].startswith(b"+OK"))
        self.assertEqual(2, self.messages())

    async def test_after_stls(self) -> None:
        port = self.listen(Service.POP3)

        def talk() -> None:
            client = poplib.POP3("127.0.0.1", port, timeout=20)
            self.assertNotIn("SASL", client.capa())
            self.assertRaises(poplib.error_proto, client.user, "alice")
            client.stls(self.trust)
            self.assertEqual(["PLAIN"], client.capa()["SASL"])
            self.assertNotIn("STLS", client.capa())
            self.walk(client)

        await deferToThread(talk)
        self.assertEqual(2, self.messages())

    async def test_with_implicit_tls(self) -> None:
        port = self.listen(Service.POP3S)
        await deferToThread(lambda: self.walk(poplib.POP3_SSL("127.0.0.1", port, timeout=20, context=self.trust)))
        self.assertEqual(2, self.messages())

    async def test_one_maildrop_is_open_once_and_free_again_after_quit_and_after_a_lost_connection(self) -> None:
        port = self.listen(Service.POP3, require_tls=False)

        def opened() -> poplib.POP3:
            client = poplib.POP3("127.0.0.1", port, timeout=20)
            client.user("alice")
            client.pass_("secret")
            return client

        def talk() -> None:
            for _ in range(10):
                opened().quit()
            first = opened()
            with self.assertRaisesRegex(poplib.error_proto, "IN-USE"):
                opened()
            first.dele(1)
            first.close()

        await deferToThread(talk)
        while len(self.factory):
            turned: Deferred[None] = Deferred()
            reactor.callLater(0, turned.callback, None)
            await turned
        await deferToThread(lambda: opened().quit())
        self.assertEqual(3, self.messages())

    async def test_what_stands_behind_stls_is_never_obeyed(self) -> None:
        port = self.listen(Service.POP3, require_tls=False)

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"STLS\r\nUSER alice\r\nPASS secret\r\nDELE 1\r\nQUIT\r\n")
                heard = b""
                while octets := client.recv(4096):
                    heard += octets
                return heard

        heard = await deferToThread(talk)
        self.assertEqual(b"+OK POP3 server ready\r\n-ERR [SYS/PERM] Octets after STLS\r\n", heard)
        self.assertEqual(3, self.messages())

    async def test_everything_in_one_segment_is_answered_in_order(self) -> None:
        port = self.listen(Service.POP3, require_tls=False)

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"USER alice\r\nPASS secret\r\n" + b"RETR 1\r\n" * 200 + b"RETR 2\r\nDELE 1\r\nQUIT\r\n")
                heard = bytearray()
                while octets := client.recv(65_536):
                    heard += octets
                return bytes(heard)

        heard = await deferToThread(talk)
        self.assertEqual(200, heard.count(b"+OK %d octets\r\nSubject: small\r\n\r\n..dot\r\n...\r\nend\r\n.\r\n" % len(SMALL)))
        self.assertTrue(heard.endswith(b"\r\n.\r\n+OK Marked for deletion\r\n+OK Bye\r\n"))
        self.assertEqual(2, self.messages())

    async def test_draining_ends_an_idle_client(self) -> None:
        port = self.listen(Service.POP3, require_tls=False)

        def connect() -> poplib.POP3:
            client = poplib.POP3("127.0.0.1", port, timeout=20)
            client.user("alice")
            client.pass_("secret")
            client.dele(1)
            return client

        client = await deferToThread(connect)
        drained = self.factory.drain()

        def hear() -> bytes:
            return bytes(client.sock.recv(100))

        self.assertEqual(b"-ERR [SYS/TEMP] shutting down\r\n", await deferToThread(hear))
        await deferToThread(client.close)
        await drained
        self.assertEqual(3, self.messages())
