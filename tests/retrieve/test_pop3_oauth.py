"""Tokens in POP3; that they come through real TLS is shown in tests/test_compose.py."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pop3_fakes import Client, House
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from zope.interface import implementer

from mailstack.credentials import IBearer, TokensUnavailable
from mailstack.lockout import Lockout, LockoutLimits
from mailstack.mail.envelope import Service
from mailstack.mail.maildrop import MaildropLocked
from mailstack.net.tallies import Tally
from mailstack.wire.pop3_commands import NOOP_OK as POP3_OK
from mailstack.wire.pop3_server import POP3ServerCore
from mailstack.wire.pop3_table import State

FAILED = b"-ERR [AUTH] Authentication failed\r\n"


@implementer(ICredentialsChecker)
class Tokens:
    """Knows whose the token "good" is."""

    credentialInterfaces = (IBearer,)

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.failure: Exception | None = None
        self.waits: Deferred[bytes] | None = None

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        self.asked.append(credentials)
        if self.failure is not None:
            return fail(self.failure)
        if self.waits is not None:
            return self.waits
        right = credentials.token == b"good" and credentials.authorization_id in (b"", b"alice")
        return succeed(b"alice") if right else fail(UnauthorizedLogin())


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


def lockout() -> Lockout:
    failed, good = (Tally.alone(bytes(32), Clock().seconds) for _ in range(2))
    return Lockout(failed, good, LockoutLimits(failures=2, failures_per_network=9, window_seconds=600))


@pytest.fixture
def house(tokens: Tokens) -> House:
    house = House(b"Subject: one\r\n\r\n", service=Service.POP3S, lockout=lockout())
    house.factory.token_scope = "mail"
    house.factory.portal.registerChecker(tokens)
    return house


def connect(house: House) -> Client:
    client = house.connect()
    client.protocol.handshakeCompleted()
    client.hear()
    return client


@pytest.fixture
def client(house: House) -> Client:
    return connect(house)


def message(token: str, name: str = "alice") -> bytes:
    return base64.b64encode(f"user={name}\1auth=Bearer {token}\1\1".encode()) + b"\r\n"


def shown(token: str, name: str = "alice") -> bytes:
    return b"AUTH XOAUTH2 " + message(token, name)


def later(house: House, client: Client) -> bytes:
    house.clock.advance(house.factory.limits.failure_delay_seconds)
    return client.hear()


@pytest.mark.parametrize("in_one", [True, False])
def test_logging_in(house: House, client: Client, in_one: bool) -> None:
    assert b"\r\nSASL PLAIN OAUTHBEARER XOAUTH2\r\n" in client.say(b"CAPA\r\n")
    if in_one:
        heard = client.say(shown("good"))
    else:
        assert client.say(b"AUTH XOAUTH2\r\n") == b"+ \r\n"
        heard = client.say(message("good"))
    assert heard.startswith(b"+OK 1 messages")
    assert client.say(b"QUIT\r\n") == b"+OK Bye\r\n"
    assert house.realm.logouts == 1


def test_a_refusal_is_late_and_says_why_before_it_is_one(house: House, client: Client) -> None:
    assert client.say(shown("bad")) == b""
    heard = later(house, client)
    assert heard.startswith(b"+ ")
    assert json.loads(base64.b64decode(heard[2:])) == {"status": "401", "schemes": "bearer", "scope": "mail"}
    assert client.say(b"\r\n") == FAILED
    assert client.say(b"STAT\r\n").startswith(b"-ERR")
    client.say(shown("bad"))
    later(house, client)
    assert client.say(b"*\r\n") == b"-ERR Authentication cancelled\r\n"
    assert client.say(shown("good")).startswith(b"+OK 1 messages")


def test_for_another_is_refused_like_a_bad_one(house: House, client: Client) -> None:
    assert client.say(shown("good", "bob")) == b""
    assert later(house, client).startswith(b"+ ")
    assert client.say(b"\r\n") == FAILED


def test_the_third_ends_the_session_at_once(house: House, client: Client) -> None:
    house.factory.lockout = None
    for number in (1, 2):
        client.say(shown(f"bad{number}"))
        later(house, client)
        client.say(b"\r\n")
    client.say(shown("bad3"))
    assert later(house, client) == FAILED
    assert client.was_closed


def test_one_that_cannot_be_checked_now_is_temporary_and_late_and_counts_nothing(
    house: House, client: Client, tokens: Tokens
) -> None:
    tokens.failure = TokensUnavailable("http://127.0.0.1/: no answer within 5 s")
    for _ in range(5):
        assert client.say(shown("good")) == b""
        assert later(house, client) == b"-ERR [SYS/TEMP] Temporary authentication failure\r\n"
    tokens.failure = None
    assert client.say(shown("good")).startswith(b"+OK 1 messages")


def test_a_maildrop_in_use_is_no_fault_of_the_token(house: House, client: Client) -> None:
    house.realm.fault = MaildropLocked()
    assert client.say(shown("good")).startswith(b"-ERR [IN-USE]")
    house.realm.fault = None
    assert client.say(shown("good")).startswith(b"+OK 1 messages")


def test_what_is_pipelined_waits(house: House, client: Client, tokens: Tokens) -> None:
    tokens.waits = Deferred()
    assert client.say(shown("bad") + b"\r\nCAPA\r\n") == b""
    tokens.waits.errback(UnauthorizedLogin())
    heard = later(house, client)
    assert heard.startswith(b"+ ")
    assert b"\r\n" + FAILED + b"+OK Capabilities" in heard


def test_lost_while_it_is_checked(house: House, client: Client, tokens: Tokens) -> None:
    tokens.waits = Deferred()
    client.say(shown("good"))
    client.abortConnection()
    tokens.waits.callback(b"alice")
    assert len(house.factory) == 0
    assert house.realm.logouts == 1


@pytest.mark.parametrize("scope", [None, "mail"])
def test_none_is_taken_in_the_clear_whatever_is_done_with_passwords(scope: str | None, tokens: Tokens) -> None:
    house = House(b"Subject: one\r\n\r\n")
    house.factory.token_scope = scope
    house.factory.portal.registerChecker(tokens)
    client = house.connect()
    client.hear()
    assert b"\r\nSASL PLAIN\r\n" in client.say(b"CAPA\r\n")
    assert client.say(shown("good")) == b"-ERR Mechanism not supported\r\n"
    assert tokens.asked == []


def test_the_session_that_stls_made_safe_offers_it() -> None:
    core = POP3ServerCore(tls_offered=True, token_scope="")
    for line in (b"", b"STLS\r\n"):
        core.receive(line)
        core.next_event()
        core.send(POP3_OK)
    assert core.state is State.STARTING_TLS
    core.tls_started()
    core.receive(b"CAPA\r\n")
    event: Any = core.next_event()
    assert "SASL PLAIN OAUTHBEARER XOAUTH2" in event.reply.lines


def test_bad_ones_lock_out_the_token_and_not_the_password(house: House, tokens: Tokens) -> None:
    for number in (1, 2):
        client = connect(house)
        client.say(shown(f"bad{number}"))
        later(house, client)
    client = connect(house)
    assert client.say(shown("good")) == b""
    assert later(house, client).startswith(b"+ ")
    assert len(tokens.asked) == 2
    assert connect(house).say(b"USER alice\r\nPASS sec ret\r\n").startswith(b"+OK Send PASS\r\n+OK ")


def test_the_log_knows_the_account_and_no_token(house: House, client: Client, tokens: Tokens) -> None:
    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    house.maildrop.account = "alice@example.org"  # type: ignore[attr-defined]
    try:
        client.say(shown("sesame", ""))
        later(house, client)
        client.say(b"\r\n" + shown("good", ""))
    finally:
        globalLogPublisher.removeObserver(seen.append)
    told = {each["event"]: each for each in seen if "event" in each}
    assert told["authentication_failed"]["username"] == "a token"
    assert told["authenticated"]["account"] == told["maildrop_opened"]["account"] == "alice@example.org"
    assert "sesame" not in repr(seen)
    assert "sesame" not in repr(tokens.asked)
