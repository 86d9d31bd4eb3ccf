"""The house as a whole, in this process: a message goes in by SMTP and comes out by POP3; start, reload and stop."""

from __future__ import annotations

import email
import hashlib
import json
import poplib
import re
import shutil
import smtplib
import ssl
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.x509 import load_pem_x509_certificate
from harness.certificates import make_revocations, make_user
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory
from twisted.internet.testing import EventLoggingObserver
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailstack.compose.judge import House
from mailstack.compose.limits import lane_limits
from mailstack.compose.place import Place
from mailstack.console.certificates import make_authority
from mailstack.console.command import main
from mailstack.directory import editing
from mailstack.directory.directory import Directory
from mailstack.doors import House as HouseProtocol
from mailstack.mail.address import parse_address
from mailstack.mail.envelope import Service
from mailstack.mail.tls_reports import Line
from mailstack.mail.tls_results import AppliedPolicy
from mailstack.net.dns_exchange import Server
from mailstack.net.listeners import bind
from mailstack.reports.counts import CountsFile, day_of
from mailstack.retrieve.limits import POP3Limits
from mailstack.settings import Limits, load
from mailstack.spool.concurrency import Rate
from mailstack.spool.hands import Act, Order
from mailstack.spool.lanes import Limits as LanesLimits
from mailstack.spool.selection import Selection
from mailstack.spool.shards import shard_folder
from mailstack.system import MailSystem
from mailstack.tap import Options, makeService
from mailstack.testing.dns import Nameserver
from mailstack.testing.policy import FakeHouse
from mailstack.wire.limits import Limits as SMTPLimits
from mailstack.wire.scram import ScramClient

ALICE, BOB = "alice@example.test", "bob@example.test"
CONTENT = b"Subject: the road\r\n\r\n.dots\r\n..\r\n.\r\nlast line\r\n"


@cache
def a_demo() -> tempfile.TemporaryDirectory[str]:
    """Make an installation that is only copied; it goes when this process does."""
    folder = tempfile.TemporaryDirectory()
    made = CliRunner().invoke(main, ["init", f"{folder.name}/house", "--demo"])
    assert made.exit_code == 0, made.output
    return folder


@dataclass(frozen=True)
class Installation:
    """What `mailstack init --demo` made, but on ports that the system chooses, and with an alias."""

    folder: Path

    def __post_init__(self) -> None:
        made = Path(a_demo().name) / "house"
        shutil.copytree(made, self.folder)
        demo = self.folder / "demo.json"
        demo.write_text(demo.read_text().replace(str(made), str(self.folder)))
        self.change(lambda text: re.sub(r'"127\.0\.0\.1:\d+"', '"127.0.0.1:0"', text))
        editing.add_alias(self.folder / "directory.db", "sales@example.test", [ALICE])

    @property
    def config(self) -> Path:
        return self.folder / "mailstack.toml"

    def change(self, edit: Callable[[str], str]) -> None:
        self.config.write_text(edit(self.config.read_text()))

    def password(self, user: str) -> str:
        accounts = json.loads((self.folder / "demo.json").read_text())["accounts"]
        return next(str(each["password"]) for each in accounts if each["address"] == user)

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "tls/ca.pem"))

    def send(self, port: int, sender: str, recipient: str, user: str | None = None, content: bytes = CONTENT) -> None:
        with smtplib.SMTP("localhost", port, timeout=20) as client:
            if user is not None:
                client.starttls(context=self.trusting())
                client.login(user, self.password(user))
            client.sendmail(sender, [recipient], content)

    def fetch(self, port: int, user: str) -> list[bytes]:
        client = poplib.POP3("localhost", port, timeout=20)
        client.stls(context=self.trusting())
        client.user(user)
        client.pass_(self.password(user))
        count, _ = client.stat()
        messages = [b"\r\n".join(client.retr(number + 1)[1]) + b"\r\n" for number in range(count)]
        client.quit()
        return messages

    def delivered(self, user: str) -> int:
        name, _, domain = user.partition("@")
        return len(list((self.folder / "mail" / domain / name / "new").iterdir()))


def end_point(connection: Any) -> dict[str, bytes]:
    """Return what binds a client to a server's certificate, as the client sees it (RFC 5929 §4)."""
    return {"tls-server-end-point": hashlib.sha256(connection.getpeercert(binary_form=True)).digest()}


def with_pop3(line: str) -> Callable[[str], str]:
    return lambda text: text.replace("\n[pop3]\n", f"\n[pop3]\n{line}\n")


class SinkSession(LineReceiver):
    """One connection to the sink."""

    factory: Sink

    def connectionMade(self) -> None:
        self.is_content, self.sender = False, ""
        self.sendLine(b"220 sink")

    def lineReceived(self, line: bytes) -> None:
        verb = line[:4].upper()
        if self.is_content:
            self.is_content = line != b"."
            if not self.is_content:
                self.sendLine(b"250 ok")
        elif verb == b"RCPT":
            self.factory.envelopes.append((self.sender, line.decode().partition("<")[2].partition(">")[0]))
            self.transport.write(self.factory.rcpt)  # type: ignore[union-attr]
        elif verb == b"DATA":
            self.is_content = True
            self.sendLine(b"354 go on")
        else:
            if verb == b"MAIL":
                self.sender = line.decode().partition("<")[2].partition(">")[0]
            self.sendLine(b"250 ok")


class Sink(ServerFactory):
    """A host that takes what comes, and remembers the envelopes, each with one recipient."""

    protocol = SinkSession
    noisy = False

    def __init__(self, rcpt: bytes) -> None:
        self.rcpt = rcpt
        self.port = 0
        self.envelopes: list[tuple[str, str]] = []

    async def until(self, count: int) -> None:
        for _ in range(500):
            if len(self.envelopes) >= count:
                return
            await deferToThread(time.sleep, 0.02)
        raise AssertionError(f"only {self.envelopes}")


class RunningTests(TestCase):
    """A system that runs on the reactor of the tests."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.installation = Installation(Path(folder.name) / "house")

    def begin(self) -> MailSystem:
        from twisted.internet import reactor

        config = self.installation.config
        system = MailSystem(load(config), lambda: load(config), reactor)
        system.privilegedStartService()
        self.ports = system.ports
        system.startService()
        return system

    async def until_fetched(self, user: str) -> list[bytes]:
        for _ in range(200):
            messages: list[bytes] = await deferToThread(self.installation.fetch, self.ports["pop3"], user)
            if messages:
                return messages
        raise AssertionError("nothing came")

    async def test_a_message_goes_in_by_smtp_and_comes_out_by_pop3(self) -> None:
        system = self.begin()
        await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", "sales+offer@example.test")
        await deferToThread(self.installation.send, self.ports["submission"], "sales@example.test", BOB, ALICE)
        (to_alice,), (to_bob,) = await self.until_fetched(ALICE), await self.until_fetched(BOB)
        await system.stopService()
        self.assertTrue(to_alice.startswith(b"Return-Path: <carol@remote.test>\r\nDelivered-To: alice@example.test\r\n"))
        self.assertTrue(to_alice.endswith(CONTENT))
        self.assertTrue(to_bob.startswith(b"Return-Path: <sales@example.test>\r\nDelivered-To: bob@example.test\r\n"))
        self.assertIn(b"\r\nMessage-ID: <", to_bob)

    async def test_a_report_of_tls_goes_through_the_spool(self) -> None:
        from twisted.internet import reactor

        nameserver = Nameserver(f'_smtp._tls.remote.test TXT "v=TLSRPTv1; rua=mailto:{BOB}"')
        port = nameserver.listen(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(nameserver.stop()))
        table = f'\n[relay]\nnameservers = ["127.0.0.1:{port}"]\n'
        self.installation.change(lambda text: text.replace("\n[relay]\n", table))
        counts = CountsFile(self.installation.folder / "tls-reports" / "7.db")
        counts.add({(day_of(time.time() - 86_400), Line(AppliedPolicy("no-policy-found", "remote.test"), None, 0)): 3})
        system = self.begin()
        reports = system._parts._reports
        assert reports is not None
        reports._delay = 0.0
        await reports._tell()
        (message,) = await self.until_fetched(BOB)
        await system.stopService()
        self.assertIn(b"\r\nTLS-Report-Domain: remote.test\r\n", message)

    async def test_a_password_that_is_proved_and_not_told_bound_to_the_certificate(self) -> None:
        system = self.begin()
        await deferToThread(self._submit_by_scram)
        await self.until_fetched(BOB)
        self.assertEqual(["-ERR [AUTH] Authentication failed", "+OK 1 messages"], await deferToThread(self._fetch_by_scram))
        await system.stopService()

    async def test_who_shows_a_certificate_needs_no_password(self) -> None:
        folder = self.installation.folder
        authority = make_authority("users.test", time.time())
        (folder / "users.pem").write_bytes(authority.certificate_pem())
        self.installation.change(lambda text: text.replace("\n[tls]\n", '\n[tls]\nclient_authority = "users.pem"\n'))
        make_user(folder / "alice.pem", authority, ALICE)
        make_user(folder / "stranger.pem", make_authority("other.test", time.time()), ALICE)
        system = self.begin()
        for service in ("submission", "submissions"):
            offered, code = await deferToThread(self._show, service, "alice.pem")
            self.assertEqual((["EXTERNAL", "SCRAM-SHA-256-PLUS"], 235), (offered[:2], code))
            offered, code = await deferToThread(self._show, service, None)
            self.assertEqual(("SCRAM-SHA-256-PLUS", 504), (offered[0], code))
            with self.assertRaises((OSError, smtplib.SMTPException)):
                await deferToThread(self._show, service, "stranger.pem")
        offered, code = await deferToThread(self._show, "smtp", "stranger.pem")
        self.assertEqual(([], 502), (offered, code), "another server may show what it likes")
        await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", ALICE)
        await self.until_fetched(ALICE)
        for service in ("pop3", "pop3s"):
            self.assertEqual("+OK 1 messages", await deferToThread(self._retrieve, service, "alice.pem"))
            self.assertEqual("-ERR Mechanism not supported", await deferToThread(self._retrieve, service, None))
            with self.assertRaises((OSError, poplib.error_proto)):
                await deferToThread(self._retrieve, service, "stranger.pem")
        editing.set_enabled(folder / "directory.db", ALICE, False)
        self.assertEqual(535, (await deferToThread(self._show, "submission", "alice.pem"))[1])
        self.assertEqual("-ERR [AUTH] Authentication failed", await deferToThread(self._retrieve, "pop3s", "alice.pem"))
        await system.stopService()

    def _retrieve(self, service: str, user: str | None) -> str:
        """Show a certificate and log in to a maildrop by it; return the answer."""
        context = self.installation.trusting()
        if user is not None:
            context.load_cert_chain(self.installation.folder / user)
        if service == "pop3s":
            client: Any = poplib.POP3_SSL("localhost", self.ports[service], timeout=20, context=context)
        else:
            client = poplib.POP3("localhost", self.ports[service], timeout=20)
            client.stls(context=context)
        try:
            return str(client._shortcmd("AUTH EXTERNAL =").decode().partition(" (")[0])
        except poplib.error_proto as error:
            if isinstance(error.args[0], str):  # poplib's own: the connection is gone
                raise
            return str(error.args[0].decode())
        finally:
            client.close()

    async def test_who_is_revoked_stays_out_after_a_reload_and_the_log_says_why(self) -> None:
        folder, log = self.installation.folder, EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        authority = make_authority("users.test", time.time())
        (folder / "users.pem").write_bytes(authority.certificate_pem())
        make_user(folder / "alice.pem", authority, ALICE)
        serial = load_pem_x509_certificate((folder / "alice.pem").read_bytes()).serial_number
        (folder / "users.crl").write_bytes(make_revocations(authority))
        keys = 'client_authority = "users.pem"\nclient_revocations = "users.crl"\n'
        self.installation.change(lambda text: text.replace("\n[tls]\n", f"\n[tls]\n{keys}"))
        system = self.begin()
        self.assertEqual(235, (await deferToThread(self._show, "submission", "alice.pem"))[1])
        for made, why in (
            (make_revocations(authority, serial), "cert revoked"),
            (make_revocations(authority, age_days=9), "crl has expired"),
        ):
            (folder / "users.crl").write_bytes(made)
            system.reload()
            for service in ("submission", "submissions"):
                with self.assertRaises((OSError, smtplib.SMTPException)):
                    await deferToThread(self._show, service, "alice.pem")
                refused = [each for each in log if each.get("event") == "client_certificate_refused"][-1]
                self.assertEqual(("127.0.0.1", why), (refused["peer"], refused["why"]))
        self.assertEqual(504, (await deferToThread(self._show, "submission", None))[1], "who has none comes in without")
        (folder / "users.crl").write_bytes(b"nonsense")
        system.reload()
        self.assertIn("users.crl: holds no X509 CRL", str([each for each in log if each.get("event") == "reload_failed"]))
        await system.stopService()

    def _show(self, service: str, user: str | None) -> tuple[list[str], int]:
        """Show a certificate and log in by it; return what was offered, and the answer."""
        context = self.installation.trusting()
        if user is not None:
            context.load_cert_chain(self.installation.folder / user)
        if service == "submissions":
            client: smtplib.SMTP = smtplib.SMTP_SSL("localhost", self.ports[service], timeout=20, context=context)
        else:
            client = smtplib.SMTP("localhost", self.ports[service], timeout=20)
            client.starttls(context=context)
        with client:
            client.ehlo()
            return client.esmtp_features.get("auth", "").split(), client.docmd("AUTH", "EXTERNAL =")[0]

    async def test_it_is_offered_until_the_configuration_says_otherwise(self) -> None:
        system = self.begin()
        self.assertIn("SCRAM-SHA-256", await deferToThread(self._offered))
        self.installation.change(lambda text: text.replace("\n[login]\n", "\n[login]\nscram = false\n"))
        system.reload()
        self.assertEqual(["PLAIN", "LOGIN"], await deferToThread(self._offered))
        await system.stopService()

    def _offered(self) -> list[str]:
        with smtplib.SMTP_SSL(
            "localhost", self.ports["submissions"], timeout=20, context=self.installation.trusting()
        ) as client:
            client.ehlo()
            return client.esmtp_features["auth"].split()

    def _submit_by_scram(self) -> None:
        with smtplib.SMTP("localhost", self.ports["submission"], timeout=20) as client:
            client.starttls(context=self.installation.trusting())
            client.ehlo()
            self.assertTrue(client.esmtp_features["auth"].startswith(" SCRAM-SHA-256-PLUS SCRAM-SHA-256 "))
            assert client.sock is not None
            scram = ScramClient(ALICE, self.installation.password(ALICE), "nonce", end_point(client.sock))
            code, challenge = client.docmd("AUTH", f"SCRAM-SHA-256-PLUS {b64encode(scram.first()).decode()}")
            self.assertEqual(334, code)
            code, challenge = client.docmd(b64encode(scram.final(b64decode(challenge))).decode())
            self.assertEqual(334, code)
            scram.verify(b64decode(challenge))
            self.assertEqual(235, client.docmd("")[0])
            client.sendmail(ALICE, [BOB], CONTENT)

    def _fetch_by_scram(self) -> list[str]:
        client = poplib.POP3_SSL("localhost", self.ports["pop3s"], timeout=20, context=self.installation.trusting())
        answers = []
        for password in ("wrong", self.installation.password(BOB)):
            scram = ScramClient(BOB, password, "nonce", end_point(client.sock))
            line = f"AUTH SCRAM-SHA-256-PLUS {b64encode(scram.first()).decode()}"
            challenge = client._shortcmd(line)  # type: ignore[attr-defined]
            try:
                answer = client._shortcmd(b64encode(scram.final(b64decode(challenge[2:]))).decode())  # type: ignore[attr-defined]
                scram.verify(b64decode(answer[2:]))
                answer = client._shortcmd("")  # type: ignore[attr-defined]
            except poplib.error_proto as error:
                answer = error.args[0]
            answers.append(answer.decode().partition(" (")[0])
        client.quit()
        return answers

    async def test_a_password_in_clear_is_taken_only_when_the_configuration_says_so(self) -> None:
        system = self.begin()
        await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", ALICE)
        await self.until_fetched(ALICE)
        with self.assertRaises(poplib.error_proto):
            await deferToThread(self._log_in_in_clear)
        self.installation.change(with_pop3("require_tls = false"))
        system.reload()
        self.assertEqual(1, await deferToThread(self._log_in_in_clear))
        await system.stopService()

    def _log_in_in_clear(self) -> int:
        client = poplib.POP3("localhost", self.ports["pop3"], timeout=20)
        try:
            client.user(ALICE)
            client.pass_(self.installation.password(ALICE))
            return client.stat()[0]
        finally:
            client.quit()

    async def test_who_guesses_by_pop3_is_locked_out_of_submission_too(self) -> None:
        self.installation.change(lambda text: text.replace("#failed_logins = 10", "failed_logins = 2"))
        system = self.begin()
        for factory in system._serving._factories:
            factory.limits = replace(factory.limits, failure_delay_seconds=0.01)

        def guess(password: str) -> None:
            client = poplib.POP3("localhost", self.ports["pop3"], timeout=20)
            client.stls(context=self.installation.trusting())
            client.user(ALICE)
            with self.assertRaisesRegex(poplib.error_proto, "AUTH"):
                client.pass_(password)
            client.close()

        await deferToThread(guess, "a guess")
        await deferToThread(self.installation.send, self.ports["submission"], ALICE, BOB, ALICE)
        await deferToThread(guess, "another guess")
        with self.assertRaises(smtplib.SMTPAuthenticationError) as refused:
            await deferToThread(self.installation.send, self.ports["submission"], ALICE, BOB, ALICE)
        self.assertEqual(535, refused.exception.smtp_code)
        await deferToThread(self.installation.send, self.ports["submission"], BOB, ALICE, BOB)
        await system.stopService()

    async def test_a_submission_in_the_name_of_another_is_refused_unless_the_configuration_allows_it(self) -> None:
        system = self.begin()
        forged = b"From: The Boss <boss@example.test>\r\nSubject: x\r\n\r\nbody\r\n"
        with self.assertRaises(smtplib.SMTPDataError) as refused:
            await deferToThread(self.installation.send, self.ports["submission"], ALICE, BOB, ALICE, forged)
        self.assertEqual(550, refused.exception.smtp_code)
        own = b"From: Sales <sales@example.test>\r\nSubject: x\r\n\r\nbody\r\n"
        await deferToThread(self.installation.send, self.ports["submission"], ALICE, BOB, ALICE, own)
        self.installation.change(lambda text: text.replace("#check_header_from = true", "check_header_from = false"))
        system.reload()
        await deferToThread(self.installation.send, self.ports["submission"], ALICE, BOB, ALICE, forged)
        await system.stopService()

    async def test_listeners_of_one_kind_count_together_and_all_share_one_lockout(self) -> None:
        self.installation.change(lambda text: text.replace("#lmtp = []", 'lmtp = ["127.0.0.1:0"]'))
        system = self.begin()
        parts: Any = system._serving._parts
        made: dict[Service, Any] = {each: parts.factories.make(each) for each in Service if each is not Service.LOCAL}

        def together(name: str) -> set[frozenset[Service]]:
            return {
                frozenset(service for service, each in made.items() if getattr(each._sessions, name) is counter)
                for counter in {id(each): each for each in (getattr(each._sessions, name) for each in made.values())}.values()
            }

        kinds = {frozenset(kind) for kind in ({Service.SUBMISSION, Service.SUBMISSIONS}, {Service.POP3, Service.POP3S})}
        self.assertEqual(kinds | {frozenset({Service.SMTP}), frozenset({Service.LMTP})}, together("_counts"))
        self.assertEqual(kinds | {frozenset({Service.SMTP}), frozenset({Service.LMTP})}, together("_arrivals"))
        self.assertIsNone(made[Service.LMTP]._sessions._arrivals)
        self.assertEqual(1, len({id(each.lockout) for each in made.values()}))
        await system.stopService()

    async def test_lmtp_answers_for_each_recipient(self) -> None:
        self.installation.change(lambda text: text.replace("#lmtp = []", 'lmtp = ["127.0.0.1:0"]'))
        system = self.begin()
        replies = await deferToThread(self._hand_over)
        await system.stopService()
        self.assertEqual([250, 550, 250, 250, 250], replies)
        self.assertEqual((1, 1), (self.installation.delivered(ALICE), self.installation.delivered(BOB)))

    def _hand_over(self) -> list[int]:
        with smtplib.LMTP("127.0.0.1", self.ports["lmtp"], timeout=20) as client:
            client.ehlo()
            client.mail("carol@remote.test")
            replies = [client.rcpt(each)[0] for each in (ALICE, "nobody@example.test", BOB)]
            client.putcmd("data")
            assert client.getreply()[0] == 354
            client.send(CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            return [*replies, client.getreply()[0], client.getreply()[0]]

    async def test_what_is_forwarded_abroad_goes_on_under_our_address_and_comes_back_to_its_sender(self) -> None:
        folder, sink = self.installation.folder, await self._sink()
        editing.add_alias(folder / "directory.db", "away@example.test", ["dora@remote.test"])
        self.installation.change(lambda text: text.replace("\n[relay]\n", f'\n[relay]\nsmarthost = "127.0.0.1:{sink.port}"\n'))
        system = self.begin()
        await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", "away@example.test")
        await deferToThread(self.installation.send, self.ports["submission"], ALICE, "away@example.test", ALICE)
        await sink.until(2)
        (sender, recipient), (own, _) = sorted(sink.envelopes)
        self.assertEqual((recipient, own), ("dora@remote.test", ALICE))
        self.assertRegex(sender, r"^SRS0=[A-Za-z0-9+/]{6}=[A-Z2-7]{2}=remote\.test=carol@example\.test$")
        with self.assertRaises(smtplib.SMTPRecipientsRefused):
            await deferToThread(self.installation.send, self.ports["smtp"], "eve@remote.test", sender)
        with self.assertRaises(smtplib.SMTPRecipientsRefused):
            await deferToThread(self.installation.send, self.ports["smtp"], "", sender.replace("carol", "victim"))
        await deferToThread(self.installation.send, self.ports["smtp"], "", sender.lower())
        await sink.until(3)
        self.assertEqual(sink.envelopes[-1], ("", "carol@remote.test"))
        (folder / "srs.secret").write_text("another one, quite as long\n")
        system.reload()
        with self.assertRaises(smtplib.SMTPRecipientsRefused):
            await deferToThread(self.installation.send, self.ports["smtp"], "", sender)
        await system.stopService()

    async def test_what_no_sender_can_be_told_of_ends_at_the_postmaster(self) -> None:
        sink = await self._sink(b"550 5.1.1 no dora\r\n")
        editing.add_alias(self.installation.folder / "directory.db", "away@example.test", ["dora@remote.test"])
        self.installation.change(lambda text: text.replace("\n[relay]\n", f'\n[relay]\nsmarthost = "127.0.0.1:{sink.port}"\n'))
        system = self.begin()
        await deferToThread(self.installation.send, self.ports["smtp"], "", "away@example.test")
        (notice,) = await self.until_fetched(ALICE)
        self.assertIn(b"\r\nSubject: A message could not be delivered, nor its sender be told\r\n", notice)
        self.assertIn(b"no dora", notice)
        self.assertNotIn(b"last line", notice)
        await system.stopService()

    async def _sink(self, rcpt: bytes = b"250 ok\r\n") -> Sink:
        from twisted.internet import reactor

        sink = Sink(rcpt)
        listening = reactor.listenTCP(0, sink, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(listening.stopListening)
        sink.port = listening.getHost().port
        return sink

    async def test_what_was_there_is_there_after_a_restart(self) -> None:
        system = self.begin()
        await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", BOB)
        await system.stopService()
        system = self.begin()
        self.assertEqual(1, len(await self.until_fetched(BOB)))
        await system.stopService()

    async def test_strangers_neither_relay_nor_invent_users(self) -> None:
        system = self.begin()
        for recipient, code in (("x@remote.test", 550), ("nobody@example.test", 550)):
            with self.assertRaises(smtplib.SMTPRecipientsRefused) as caught:
                await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", recipient)
            self.assertEqual(code, caught.exception.recipients[recipient][0])
        with self.assertRaises(smtplib.SMTPSenderRefused):
            await deferToThread(self.installation.send, self.ports["submission"], BOB, BOB, ALICE)
        await system.stopService()

    async def test_where_mail_goes_is_the_operators_to_say(self) -> None:
        folder = self.installation.folder
        entries = (
            '\n[transport]\n"other.test" = "smtp:[127.0.0.1]:9"\n"alice@example.test" = "error: 5.1.6 Moved"\n'
            '"void@example.test" = "discard"\n"bob+held@example.test" = "hold"\n'
        )
        editing.add_alias(folder / "directory.db", "both@example.test", [ALICE, BOB])
        self.installation.change(lambda text: f"{text}{entries}")
        system = self.begin()
        for recipient, said in (
            ("x@other.test", "5.7.1 Relaying denied"),
            (ALICE, "5.1.6 Moved"),
            ("nobody@example.test", "5.1.1 No such user here"),
        ):
            with self.assertRaises(smtplib.SMTPRecipientsRefused) as caught:
                await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", recipient)
            self.assertEqual((550, said.encode()), caught.exception.recipients[recipient])
        for recipient in ("void@example.test", "bob+held@example.test", "both@example.test"):
            await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", recipient)
        self.assertEqual(1, len(await self.until_fetched(BOB)))
        self.assertFalse((folder / "mail/example.test/alice").exists())
        spool = system._serving._parts.spools.own
        (found,) = (await spool.queue.find(Selection(), after=0, limit=10)).found
        self.assertEqual([True], [row.held_at is not None for row in found.rows])
        self.installation.change(lambda text: text.replace(entries, ""))
        system.reload()
        await deferToThread(self.installation.send, self.ports["smtp"], "carol@remote.test", ALICE)
        self.assertEqual(1, len(await self.until_fetched(ALICE)))
        await spool.runner.flush()
        await spool.queue.obey(Order(act=Act.RELEASE, by="root"), [(found.number, (0,))])
        for _ in range(200):
            messages = await deferToThread(self.installation.fetch, self.ports["pop3"], BOB)
            if len(messages) == 2:
                break
        self.assertEqual(2, len(messages))
        await system.stopService()

    async def test_a_reload_is_for_the_spools_of_former_workers_too(self) -> None:
        (self.installation.folder / "spool" / "shard-1").mkdir(parents=True, mode=0o700)
        system = self.begin()
        spools = system._parts.spools
        own, (left_over,) = spools.own, spools.others
        self.installation.change(lambda text: text.replace("\n[relay]\n", '\n[relay]\nrates = {"slow.test" = "1/hour"}\n'))
        system.reload()
        for spool in (own, left_over):
            self.assertEqual({"slow.test": Rate(1, 3600.0)}, spool.runner._lanes._limits.rates)
        self.assertEqual(5, left_over.runner._lanes._limits.attempts_at_once)
        await system.stopService()

    async def test_a_reload_has_reports_ask_the_nameservers_of_now(self) -> None:
        system = self.begin()
        reports = system._parts._reports
        assert reports is not None
        table = '\n[relay]\nnameservers = ["127.0.0.1:9"]\n'
        self.installation.change(lambda text: text.replace("\n[relay]\n", table))
        system.reload()
        self.assertEqual((Server("127.0.0.1", 9),), reports._means.texts._servers)
        await system.stopService()

    async def test_a_reload_changes_limits_and_a_wrong_one_changes_nothing(self) -> None:
        system = self.begin()
        self.installation.change(lambda text: text.replace("[limits]", "[limits]\nmessage_octets = 70000"))
        system.reload()
        self.assertEqual("70000", await deferToThread(self._announced_size))
        self.installation.change(lambda text: text.replace("= 70000", "= 80000\ncolour = 1"))
        system.reload()
        self.installation.change(lambda text: text.replace("colour = 1", "").replace("[policy]", '[policy]\nuse = ["nothere"]'))
        system.reload()
        self.assertEqual("70000", await deferToThread(self._announced_size))
        await system.stopService()

    async def test_what_waits_for_a_restart_is_in_force_nowhere_after_a_reload(self) -> None:
        system = self.begin()
        parts = system._parts
        self.installation.change(
            lambda text: text.replace('hostname = "', 'hostname = "new.').replace("[queue]", "[queue]\nretry_first_seconds = 7")
        )
        system.reload()
        self.assertNotIn("new.", parts._outgoing._relay._next_hops._hostname)
        self.assertEqual(300.0, parts.spools.own.runner._lanes._limits.pauses.first_seconds)
        await system.stopService()

    async def test_a_reload_holds_for_what_others_left_and_for_reports_of_tls(self) -> None:
        shard_folder(load(self.installation.config).spool_folder, 1).mkdir(parents=True)
        system = self.begin()
        parts, spools = system._parts, system._parts.spools
        assert parts._reports is not None
        before = parts._reports._means
        self.installation.change(lambda text: text.replace("[relay]", '[relay.rates]\n"*" = "1/hour"\n[relay]'))
        system.reload()
        self.assertEqual([["*"]] * 2, [list(each.runner._lanes._limits.rates) for each in (spools.own, *spools.others)])
        self.assertIsNot(before.texts, parts._reports._means.texts)
        self.assertIsNot(before.post, parts._reports._means.post)
        await system.stopService()

    async def test_every_limit_is_in_force_after_a_reload(self) -> None:
        system = self.begin()
        wanted = {name: value + 7 for name, value in Limits().model_dump().items() if isinstance(value, int)}
        lines = "".join(f"{name} = {value}\n" for name, value in wanted.items())
        self.installation.change(lambda text: text.replace("[limits]", f"[limits]\n{lines}"))
        system.reload()
        smtp, pop3 = (
            next(each.limits for each in system._serving._factories if each.service is service)
            for service in (Service.SMTP, Service.POP3)
        )
        assert isinstance(smtp, SMTPLimits)
        assert isinstance(pop3, POP3Limits)
        not_of_sessions = {name for name in wanted if name.startswith("failed_logins") and not name.endswith("per_session")}
        self.assertEqual(
            sorted(value for name, value in wanted.items() if name not in not_of_sessions),
            sorted(
                value
                for name, value in asdict(smtp).items()
                if isinstance(value, int | float) and value != getattr(SMTPLimits(), name)
            ),
        )
        self.assertEqual(wanted["failed_logins_per_session"], pop3.failed_logins)
        await system.stopService()

    async def test_a_binary_message_comes_out_by_pop3_as_base64_and_is_taken_until_the_configuration_says_otherwise(
        self,
    ) -> None:
        system = self.begin()
        octets = bytes(range(256)) * 300 + b"\r\n.\r\n"
        self.assertEqual([250, 250, 250], await deferToThread(self._send_binary, octets))
        (message,) = await self.until_fetched(BOB)
        self.assertTrue(message.isascii())
        self.assertEqual(octets, email.message_from_bytes(message).get_payload(decode=True))
        self.installation.change(lambda text: text.replace("\n[receive]\n", "\n[receive]\nbinarymime = false\n"))
        system.reload()
        self.assertEqual([501, 503, 503], await deferToThread(self._send_binary, octets))
        await system.stopService()

    def _send_binary(self, octets: bytes) -> list[int]:
        content = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n" + octets
        with smtplib.SMTP("localhost", self.ports["smtp"], timeout=20) as client:
            client.ehlo()
            codes = [client.mail("carol@remote.test", ["BODY=BINARYMIME"])[0], client.rcpt(BOB)[0]]
            self.assertEqual(codes[0] == 250, client.has_extn("binarymime"))
            client.send(b"BDAT %d LAST\r\n" % len(content) + content)
            return [*codes, client.getreply()[0]]

    def _announced_size(self) -> str:
        with smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=20) as client:
            client.ehlo()
            return client.esmtp_features["size"]

    async def test_stopping_lets_a_transaction_end_and_sends_the_idle_away(self) -> None:
        system = self.begin()
        idle, busy = await deferToThread(self._two_clients)
        stopping = system.stopService()
        replies = await deferToThread(self._last_words, idle, busy)
        await stopping
        self.assertEqual([(421, b"4.3.2"), (250, b"2.0.0")], [(code, text[:5]) for code, text in replies])
        self.assertEqual(1, self.installation.delivered(BOB))

    def _two_clients(self) -> tuple[smtplib.SMTP, smtplib.SMTP]:
        idle, busy = (smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=20) for _ in range(2))
        idle.ehlo()
        busy.ehlo()
        busy.mail("carol@remote.test")
        busy.rcpt(BOB)
        busy.putcmd("data")
        self.assertEqual(354, busy.getreply()[0])
        return idle, busy

    def _last_words(self, idle: smtplib.SMTP, busy: smtplib.SMTP) -> list[tuple[int, bytes]]:
        first = idle.getreply()
        busy.send(CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        second = busy.getreply()
        idle.close()
        busy.close()
        return [first, second]

    def test_a_taken_port_refuses_the_start(self) -> None:
        taken = bind("127.0.0.1", 0)
        self.addCleanup(taken.socket.close)
        self.installation.change(lambda text: text.replace('"127.0.0.1:0"', f'"127.0.0.1:{taken.port}"', 1))
        with pytest.raises(SystemExit, match=f"mailstack: .*port {taken.port}: Address already in use"):
            self.begin()

    def test_a_directory_that_cannot_be_read_refuses_the_start(self) -> None:
        file = self.installation.folder / "directory.db"
        for spoil in (file.unlink, lambda: file.write_bytes(b"no database, this")):
            spoil()
            with pytest.raises(SystemExit, match=r"mailstack: .*directory\.db"):
                self.begin()

    def test_a_spool_has_one_owner(self) -> None:
        system = self.begin()
        with pytest.raises(SystemExit, match=r"mailstack: .*spool"):
            self.begin()
        return system.stopService()  # type: ignore[return-value]  # trial waits for it


def test_what_is_wrong_with_the_configuration_is_told_by_twistd(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "house")
    installation.change(lambda text: text.replace("[policy]", '[policy]\nuse = ["nothere"]\ncolour = 1'))
    options = Options()
    options.parseOptions(["--config", str(installation.config)])
    with pytest.raises(SystemExit, match=r"mailstack\.toml:\d+: policy\.colour: "):
        makeService(options)
    installation.change(lambda text: text.replace("colour = 1", ""))
    with pytest.raises(SystemExit, match="'nothere' is not installed"):
        makeService(options)


class HouseContract:
    """What a policy may ask; the same of the real house and of the fake."""

    house: HouseProtocol

    def answer(self, question: Any) -> bool:
        return self.successResultOf(Deferred.fromCoroutine(question))  # type: ignore[attr-defined, no-any-return]

    def test_answers(self) -> None:
        assert isinstance(self, SynchronousTestCase)
        self.assertEqual("mail.example.test", self.house.hostname)
        self.assertTrue(self.answer(self.house.is_local_domain("example.test")))
        self.assertFalse(self.answer(self.house.is_local_domain("remote.test")))
        for address, owned in ((ALICE, True), ("sales@example.test", True), (BOB, False), ("alice@remote.test", False)):
            self.assertEqual(owned, self.answer(self.house.owns(ALICE, parse_address(address))), address)


class FakeHouseTests(HouseContract, SynchronousTestCase):
    house = FakeHouse(owned={ALICE: frozenset({"sales@example.test"})})


class RealHouseTests(HouseContract, SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        installation = Installation(Path(folder.name) / "house")

        async def at_once(function: Any, *arguments: Any) -> Any:
            return function(*arguments)

        directory = Directory(
            installation.folder / "directory.db",
            lambda function, *arguments: Deferred.fromCoroutine(at_once(function, *arguments)),
            verifier=None,  # type: ignore[arg-type]  # nobody logs in here
            seconds=lambda: 0.0,
        )
        self.addCleanup(directory.close)
        self.house = House("mail.example.test", directory)


class TestLimitsOfTheRelay:
    def limits(self, tmp_path: Path, relay: str, place: Place) -> LanesLimits:
        installation = Installation(tmp_path / "house")
        installation.change(lambda text: text.replace("[relay]", f"[relay]\n{relay}"))
        settings = load(installation.config)
        return lane_limits(settings.relay, settings.queue, place)

    def test_each_worker_has_its_part(self, tmp_path: Path) -> None:
        relay = 'attempts_at_once = 100\nper_destination = 10\nrates = {"*" = "8/second", "example.net" = "100/minute"}'
        limits = self.limits(tmp_path, relay, Place(1, 4))
        assert (limits.attempts_at_once, limits.per_destination, limits.initial_per_destination) == (25, 3, 2)
        assert limits.rates == {"*": Rate(8, 4.0), "example.net": Rate(100, 240.0)}
