"""Tokens through the whole house, over real sockets: an authorization server on loopback, submission and POP3 within TLS."""

from __future__ import annotations

import base64
import json
import poplib
import re
import smtplib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from test_compose import ALICE, BOB, CONTENT, Installation
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mailstack.directory import editing
from mailstack.settings import load
from mailstack.system import MailSystem

GOOD = {"active": True, "scope": "mail send", "aud": "mail.example.test", "token_type": "Bearer"}
FAILED = "-ERR [AUTH] Authentication failed"


class AuthorizationServer(Resource):
    """Knows tokens, and one client that may ask for them."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.secret = "hush"
        self.is_silent = False

    def render_POST(self, request: Any) -> Any:
        if (request.getUser(), request.getPassword()) != (b"mailstack", self.secret.encode()):
            request.setResponseCode(401)
            return b""
        self.asked.append(request.args[b"token"][0].decode())
        if self.is_silent:
            return NOT_DONE_YET
        return json.dumps(self.tokens.get(self.asked[-1], {"active": False})).encode()


class OAuthTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.installation = Installation(Path(folder.name) / "house")
        self.server = AuthorizationServer()
        site = Site(self.server)
        site.noisy = False
        self.listening = reactor.listenTCP(0, site, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(lambda: maybeDeferred(self.listening.stopListening))
        self.server.tokens = {
            "alices": GOOD | {"username": ALICE},
            "bobs": GOOD | {"username": BOB.upper()},
            "strangers": GOOD | {"username": "stranger@example.test"},
            "readers": GOOD | {"username": ALICE, "scope": "read"},
            "elsewhere": GOOD | {"username": ALICE, "aud": "shop.example.test"},
            "nameless": GOOD,
        }
        self.configure('scope = "mail"', 'audience = "mail.example.test"', "timeout_seconds = 1")
        self.system: MailSystem | None = None

    def configure(self, *lines: str) -> None:
        secret = self.installation.folder / "oauth.secret"
        secret.touch(0o600)
        secret.write_text("hush\n")
        url = f"http://127.0.0.1:{self.listening.getHost().port}/introspect"
        table = [f'introspection_url = "{url}"', 'client_id = "mailstack"', 'client_secret_file = "oauth.secret"', *lines]
        self.installation.change(lambda text: re.sub(r"\n\[oauth\]\n", "\n[oauth]\n" + "\n".join(table) + "\n", text))

    def begin(self) -> MailSystem:
        config = self.installation.config
        system = MailSystem(load(config), lambda: load(config), reactor)
        system.privilegedStartService()
        self.ports = system.ports
        system.startService()
        for factory in system._serving._factories:
            factory.limits = replaced(factory.limits)
        self.addCleanup(system.stopService)
        return system

    # What clients do, in a thread

    def submit(self, token: str, user: str = ALICE, mechanism: str = "OAUTHBEARER") -> list[int]:
        """Log in, and send a message when that was good; return the codes."""
        with smtplib.SMTP("localhost", self.ports["submission"], timeout=20) as client:
            client.starttls(context=self.installation.trusting())
            client.ehlo()
            assert f" {mechanism}" in client.esmtp_features["auth"]
            codes = [client.docmd("AUTH", f"{mechanism} {response(mechanism, token, user)}")[0]]
            if codes == [334]:
                codes.append(client.docmd("AQ==")[0])
            if codes == [235]:
                client.sendmail(user or ALICE, [BOB], CONTENT)
            return codes

    def fetch(self, token: str, user: str = BOB, mechanism: str = "XOAUTH2") -> tuple[str, int]:
        """Log in by POP3; return the answer, and how many messages there are."""
        client: Any = poplib.POP3_SSL("localhost", self.ports["pop3s"], timeout=20, context=self.installation.trusting())
        try:
            assert mechanism in client.capa()["SASL"]
            answer = client._shortcmd(f"AUTH {mechanism} {response(mechanism, token, user)}")
            if answer.startswith(b"+ "):
                answer = client._shortcmd("AQ==")
            return answer.decode(), client.stat()[0]
        except poplib.error_proto as error:
            return error.args[0].decode(), 0
        finally:
            client.close()

    async def until_fetched(self, token: str) -> None:
        for _ in range(200):
            answer, count = await deferToThread(self.fetch, token, "")
            assert answer.startswith("+OK"), answer
            if count:
                return
        raise AssertionError("nothing came")

    # The tests

    async def test_a_message_goes_in_and_comes_out_by_tokens(self) -> None:
        self.begin()
        self.assertEqual([235], await deferToThread(self.submit, "alices"))
        self.assertEqual([235], await deferToThread(self.submit, "alices", "", "XOAUTH2"))
        await self.until_fetched("bobs")
        answer, _ = await deferToThread(self.fetch, "bobs", BOB, "OAUTHBEARER")
        self.assertTrue(answer.startswith("+OK"), answer)
        self.assertEqual(["alices", "bobs"], self.server.asked, "each was asked about once")

    async def test_who_is_refused(self) -> None:
        self.begin()
        for token, user in (
            ("unknown", ALICE),
            ("alices", BOB),
            ("strangers", "stranger@example.test"),
            ("strangers", ALICE),
            ("readers", ALICE),
            ("elsewhere", ALICE),
            ("nameless", ALICE),
            ("nameless", ""),
        ):
            self.assertEqual([334, 535], await deferToThread(self.submit, token, user), (token, user))
        self.assertEqual(FAILED, (await deferToThread(self.fetch, "alices", BOB))[0])

    async def test_a_bad_one_again_and_again_is_asked_about_once_and_others_until_the_lockout(self) -> None:
        self.begin()
        for _ in range(12):
            self.assertEqual([334, 535], await deferToThread(self.submit, "expired"))
        self.assertEqual(FAILED, (await deferToThread(self.fetch, "expired", ALICE))[0])
        self.assertEqual(["expired"], self.server.asked)
        for number in range(12):
            self.assertEqual([334, 535], await deferToThread(self.submit, f"bad{number}"))
        self.assertEqual(10, len(self.server.asked), "the old one is the first failure of ten")

    async def test_who_is_disabled_or_no_more_is_refused_at_once(self) -> None:
        self.begin()
        self.assertEqual([235], await deferToThread(self.submit, "alices"))
        editing.set_enabled(self.installation.folder / "directory.db", ALICE, False)
        self.assertEqual([334, 535], await deferToThread(self.submit, "alices"))
        self.assertEqual(FAILED, (await deferToThread(self.fetch, "alices", ""))[0])

    async def test_a_server_that_cannot_be_asked_is_temporary_and_named_in_the_log(self) -> None:
        logged: list[Any] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        self.begin()
        self.server.is_silent = True
        self.assertEqual([454], await deferToThread(self.submit, "alices"))
        self.server.is_silent, self.server.secret = False, "another"
        self.assertEqual([454], await deferToThread(self.submit, "alices"))
        await maybeDeferred(self.listening.stopListening)
        answer, _ = await deferToThread(self.fetch, "alices", ALICE)
        self.assertEqual("-ERR [SYS/TEMP] Temporary authentication failure", answer)
        told = [each["why"] for each in logged if each.get("event") == "token_unchecked"]
        self.assertEqual(3, len(told))
        for why, wanted in zip(told, ("no answer within 1 s", "answers 401", "refused"), strict=True):
            self.assertIn(wanted, why)
        self.assertNotIn("alices", repr(logged))
        self.assertNotIn("hush", repr(logged))

    async def test_a_reload_takes_another_secret_and_another_rule_and_takes_it_all_back(self) -> None:
        system = self.begin()
        self.server.secret = "new"
        self.assertEqual([454], await deferToThread(self.submit, "alices"))
        (self.installation.folder / "oauth.secret").write_text("new\n")
        system.reload()
        self.assertEqual([235], await deferToThread(self.submit, "alices"))
        self.installation.change(lambda text: text.replace('scope = "mail"', 'scope = "mail admin"'))
        system.reload()
        self.assertEqual([334, 535], await deferToThread(self.submit, "alices"))
        self.installation.change(lambda text: re.sub(r"\n\[oauth\]\n(?:[a-z].*\n)+", "\n[oauth]\n", text))
        system.reload()
        with self.assertRaises(AssertionError):
            await deferToThread(self.submit, "alices")


def replaced(limits: Any) -> Any:
    """Wait less after a failure, for the test's sake."""
    return replace(limits, failure_delay_seconds=0.01)


def response(mechanism: str, token: str, user: str) -> str:
    header = f"user={user}" if mechanism == "XOAUTH2" else f"n,a={user}," if user else "n,,"
    return base64.b64encode(f"{header}\1auth=Bearer {token}\1\1".encode()).decode()
