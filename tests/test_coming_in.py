"""Ways into the house as a whole: LMTP by a UNIX socket, the header of a proxy, and XCLIENT."""

from __future__ import annotations

import poplib
import smtplib
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_compose import ALICE, BOB, CONTENT, Installation
from twisted.internet.testing import EventLoggingObserver
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from mailstack.settings import load
from mailstack.system import MailSystem

CLIENT = "192.0.2.7"
LINE = f"PROXY TCP4 {CLIENT} 198.51.100.1 50000 25\r\n".encode()
BLOCK = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\2\x07\xc6\x33\x64\1\xc3\x50\0\x19\4\0\0"
TO_ME = "127.0.0.1"


def proxied(kind: type[smtplib.SMTP], header: bytes) -> Callable[..., Any]:
    """Return a client whose connections begin with these octets."""

    class Proxied(kind):  # type: ignore[misc, valid-type]  # the class is given
        def _get_socket(self, *place: Any) -> socket.socket:
            made: socket.socket = super()._get_socket(*place)
            made.sendall(header)
            return made

    return Proxied


def with_tables(text: str) -> Callable[[str], str]:
    """Return the change that sets keys: lines under `[table]`, which the configuration has."""
    tables = [part.partition("]\n") for part in f"\n{text}".split("\n[")[1:]]

    def change(config: str) -> str:
        for name, _, lines in tables:
            assert config.count(f"\n[{name}]\n") == 1
            config = config.replace(f"\n[{name}]\n", f"\n[{name}]\n{lines}\n")
        return config

    return change


class ComingInTests(TestCase):
    def setUp(self) -> None:
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.installation = Installation(Path(folder.name) / "house")
        self.file = self.installation.folder / "lmtp"

    def begin(self, tables: str = "") -> MailSystem:
        from twisted.internet import reactor

        config = self.installation.config
        self.installation.change(with_tables(tables))
        system = MailSystem(load(config), lambda: load(config), reactor)
        system.privilegedStartService()
        self.ports = system.ports
        system.startService()
        self.addCleanup(lambda: system.stopService() if system.running else None)
        return system

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.log if each.get("event") == event]

    def files(self, user: str) -> list[Path]:
        name, _, domain = user.partition("@")
        return list((self.installation.folder / "mail" / domain / name).glob("new/*"))

    def one(self, user: str) -> bytes:
        (file,) = self.files(user)
        return file.read_bytes()

    # LMTP

    def _hand_over(self, *recipients: str, place: str = "") -> list[int]:
        with smtplib.LMTP(place or str(self.file), 0 if not place else self.ports["lmtp"], timeout=20) as client:
            client.ehlo("c")
            client.mail("carol@remote.test")
            codes = [client.rcpt(each)[0] for each in recipients]
            client.putcmd("data")
            assert client.getreply()[0] == 354
            client.send(CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            return codes + [client.getreply()[0] for code in codes if code == 250]

    async def test_lmtp_by_a_socket_that_others_cannot_use(self) -> None:
        system = self.begin('[listen]\nlmtp = ["unix:lmtp", "127.0.0.1:0"]\n')
        self.assertEqual(0o600, stat.S_IMODE(self.file.stat().st_mode))
        codes = await deferToThread(self._hand_over, ALICE, "nobody@example.test", "x@remote.test", BOB)
        self.assertEqual([250, 550, 550, 250, 250, 250], codes)
        self.assertEqual([250, 250], await deferToThread(self._hand_over, BOB, place="127.0.0.1"))
        self.assertIn(b"\r\nReceived: from c (local)\r\n\tby mail.example.test with LMTP id ", self.one(ALICE))
        self.assertIn(f"unix:{self.file}", [each["address"] for each in self.logged("listening")])
        with pytest.raises(SystemExit, match=f"cannot listen on unix:{self.file}: another server listens there"):
            self.begin()
        self.assertEqual([250, 250], await deferToThread(self._hand_over, BOB), "the other did no harm")
        await system.stopService()
        self.assertFalse(self.file.exists())

    async def test_what_is_accepted_is_kept_for_all_when_one_delivery_fails(self) -> None:
        system = self.begin('[listen]\nlmtp = ["unix:lmtp"]\n[queue]\nretry_first_seconds = 1\nretry_most_seconds = 1\n')
        new = self.installation.folder / "mail/example.test/alice/new"
        await deferToThread(self._hand_over, ALICE)
        for each in new.iterdir():
            each.unlink()
        new.rmdir()
        new.write_text("in the way")
        self.assertEqual([250] * 4, await deferToThread(self._hand_over, ALICE, BOB))
        await deferToThread(self._until, lambda: len(self.files(BOB)) == 1)
        new.unlink()
        new.mkdir(mode=0o700)
        await deferToThread(self._until, lambda: len(self.files(ALICE)) == 1)
        self.assertEqual(1, len(self.files(BOB)))
        await system.stopService()

    def _until(self, look: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not look():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_a_start_that_is_refused_leaves_no_socket(self) -> None:
        (self.installation.folder / "directory.db").unlink()
        with pytest.raises(SystemExit, match=r"directory\.db"):
            self.begin('[listen]\nlmtp = ["unix:lmtp"]\n')
        self.assertFalse(self.file.exists())

    async def test_strangers_may_use_lmtp_when_they_are_named(self) -> None:
        config = '[listen]\nlmtp = ["127.0.0.1:0"]\n[proxy]\nlmtp_from = ["127.0.0.1"]\n'
        system = self.begin(config)
        with self.assertRaises(smtplib.SMTPConnectError) as caught:
            await deferToThread(proxied(smtplib.LMTP, LINE), "127.0.0.1", self.ports["lmtp"], timeout=20)
        self.assertEqual(554, caught.exception.smtp_code)
        self.assertEqual([CLIENT], [each["peer"] for each in self.logged("peer_refused")])
        self.installation.change(with_tables('[receive]\nlmtp_from = ["192.0.2.0/24"]\n'))
        system.reload()
        client = await deferToThread(proxied(smtplib.LMTP, LINE), "127.0.0.1", self.ports["lmtp"], timeout=20)
        self.assertEqual(250, (await deferToThread(client.ehlo, "c"))[0])
        client.close()
        await system.stopService()

    # Proxies

    async def test_behind_a_proxy_the_client_is_the_peer(self) -> None:
        tables = f'[proxy]\nsmtp_from = ["{TO_ME}"]\n[limits]\nconnections_per_peer = 2\n'
        system = self.begin(tables)
        await deferToThread(self._send_as, proxied(smtplib.SMTP, LINE))
        await deferToThread(self._send_as, proxied(smtplib.SMTP, b"PROXY UNKNOWN\r\n"))
        first, second = sorted((file.read_bytes() for file in self.files(BOB)), key=lambda octets: b"127.0.0.1" in octets)
        self.assertIn(f"\r\nReceived: from c ([{CLIENT}])\r\n".encode(), first)
        self.assertIn(b"\r\nReceived: from c ([127.0.0.1])\r\n", second)
        self.assertIn(CLIENT, [each["peer"] for each in self.logged("session_opened")])
        held = [
            await deferToThread(proxied(smtplib.SMTP, BLOCK), "127.0.0.1", self.ports["smtp"], timeout=20) for _ in range(2)
        ]
        with self.assertRaises(smtplib.SMTPConnectError) as caught:
            await deferToThread(proxied(smtplib.SMTP, LINE), "127.0.0.1", self.ports["smtp"], timeout=20)
        self.assertEqual(421, caught.exception.smtp_code, "of one client there are two already")
        other = LINE.replace(CLIENT.encode(), b"192.0.2.8")
        held.append(await deferToThread(proxied(smtplib.SMTP, other), "127.0.0.1", self.ports["smtp"], timeout=20))
        for each in held:
            each.close()
        await system.stopService()

    def _send_as(self, kind: Callable[..., Any]) -> None:
        with kind("127.0.0.1", self.ports["smtp"], local_hostname="c", timeout=20) as client:
            client.sendmail("carol@remote.test", [BOB], CONTENT)

    async def test_a_proxy_without_a_header_gets_no_word(self) -> None:
        system = self.begin(f'[proxy]\nsmtp_from = ["{TO_ME}"]\n')
        for octets in (b"EHLO c\r\n", LINE.replace(b"TCP4", b"TCP6"), b"\x16\x03\x01\0"):
            self.assertEqual(b"", await deferToThread(self._said_to, octets))
        self.assertEqual([TO_ME] * 3, [each["peer"] for each in self.logged("proxy_dropped")])
        self.assertEqual([], self.logged("session_opened"))
        await system.stopService()

    def _said_to(self, octets: bytes) -> bytes:
        heard = b""
        with socket.create_connection(("127.0.0.1", self.ports["smtp"]), timeout=20) as client:
            client.sendall(octets)
            try:
                while (got := client.recv(4096)) and heard.count(b"\r\n") < 6:
                    heard += got
            except ConnectionResetError:
                pass
        return heard

    async def test_from_elsewhere_a_header_is_an_unknown_command(self) -> None:
        system = self.begin('[proxy]\nsmtp_from = ["10.0.0.0/8", "::1"]\n')
        self.assertRegex(await deferToThread(self._said_to, LINE + b"QUIT\r\n"), rb"\A220 .*\r\n500 .*\r\n221 .*\r\n\Z")
        self.assertRegex(
            await deferToThread(self._said_to, BLOCK + b"\r\nQUIT\r\n"), rb"\A220 .*\r\n(500 .*\r\n){4}221 .*\r\n\Z"
        )
        self.assertEqual([TO_ME] * 2, [each["peer"] for each in self.logged("session_opened")])
        self.installation.change(lambda text: text.replace('"10.0.0.0/8"', '"127.0.0.0/8"'))
        system.reload()
        self.assertRegex(await deferToThread(self._said_to, LINE + b"QUIT\r\n"), rb"\A220 .*\r\n221 .*\r\n\Z")
        await system.stopService()

    async def test_the_header_comes_before_tls(self) -> None:
        services = ("submission", "submissions", "pop3", "pop3s")
        system = self.begin("[proxy]\n" + "".join(f'{each}_from = ["{TO_ME}"]\n' for each in services))
        for header in (LINE, BLOCK):
            await deferToThread(self._submit, header)
            self.assertEqual(1, await deferToThread(self._fetch, header, "pop3"))
            self.assertEqual(1, await deferToThread(self._fetch, header, "pop3s"))
        self.assertEqual([CLIENT] * 8, [each["peer"] for each in self.logged("session_opened")])
        await system.stopService()

    def _submit(self, header: bytes) -> None:
        password = self.installation.password(ALICE)
        with proxied(smtplib.SMTP, header)("localhost", self.ports["submission"], timeout=20) as client:
            client.starttls(context=self.installation.trusting())
            client.login(ALICE, password)
            for file in self.files(BOB):
                file.unlink()
            client.sendmail(ALICE, [BOB], CONTENT)
        assert f"([{CLIENT}])".encode() in self.one(BOB)
        with self._tls(header, "submissions") as wrapped:
            assert wrapped.recv(4096).startswith(b"220 ")

    def _tls(self, header: bytes, service: str) -> ssl.SSLSocket:
        made = socket.create_connection(("127.0.0.1", self.ports[service]), timeout=20)
        made.sendall(header)
        return self.installation.trusting().wrap_socket(made, server_hostname="localhost")

    def _fetch(self, header: bytes, service: str) -> int:
        class Client(poplib.POP3):
            def _create_socket(client, timeout: float) -> socket.socket:  # noqa: N805 (`self` is the test)
                if service == "pop3s":
                    return self._tls(header, service)
                made = socket.create_connection(("127.0.0.1", self.ports[service]), timeout=20)
                made.sendall(header)
                return made

        client = Client("localhost", self.ports[service], timeout=20)
        if service == "pop3":
            client.stls(context=self.installation.trusting())
        client.user(BOB)
        client.pass_(self.installation.password(BOB))
        count = client.stat()[0]
        client.quit()
        return count

    # XCLIENT

    async def test_who_is_trusted_speaks_for_others_until_a_reload(self) -> None:
        system = self.begin(f'[receive]\nxclient_from = ["{TO_ME}"]\n')
        self.assertEqual([220, 250], await deferToThread(self._speak_for_a_client))
        self.assertIn(b"\r\nReceived: from spike ([IPv6:2001:db8::7])\r\n", self.one(BOB))
        self.installation.change(lambda text: text.replace(f'xclient_from = ["{TO_ME}"]', 'xclient_from = ["10.0.0.0/8"]'))
        system.reload()
        self.assertEqual([550, 550], await deferToThread(self._speak_for_a_client))
        self.assertEqual(["certificates, limits, policies, relay, receive"], [each["what"] for each in self.logged("reloaded")])
        await system.stopService()

    async def test_who_comes_by_a_unix_socket_speaks_for_others_when_that_is_said(self) -> None:
        system = self.begin('[listen]\nlmtp = ["unix:lmtp"]\n[receive]\nxclient_from = ["192.0.2.0/24"]\n')

        def speak_by_the_socket() -> list[int]:
            with smtplib.LMTP(str(self.file), 0, timeout=20) as client:
                client.ehlo("filter")
                codes = [client.docmd("XCLIENT ADDR=192.0.2.7 HELO=spike")[0]]
                client.ehlo("filter")
                client.sendmail("carol@remote.test", [BOB], CONTENT)
            return codes

        self.assertEqual([550], await deferToThread(speak_by_the_socket), "a name of no address is none of them")
        for file in self.files(BOB):
            file.unlink()
        self.installation.change(lambda text: text.replace('"192.0.2.0/24"]', '"unix"]'))
        system.reload()
        self.assertEqual([220], await deferToThread(speak_by_the_socket))
        self.assertIn(b"\r\nReceived: from spike ([192.0.2.7])\r\n", self.one(BOB))
        self.assertEqual([550, 550], await deferToThread(self._speak_for_a_client), "who has an address is none of those")
        await system.stopService()

    def _speak_for_a_client(self) -> list[int]:
        with smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=20) as client:
            client.ehlo("filter")
            codes = [client.docmd("XCLIENT ADDR=IPV6:2001:db8::7 HELO=spike")[0]]
            client.ehlo("filter")
            codes.append(client.docmd("XFORWARD ADDR=192.0.2.8 SOURCE=REMOTE")[0])
            client.sendmail("carol@remote.test", [BOB], CONTENT)
        return codes
