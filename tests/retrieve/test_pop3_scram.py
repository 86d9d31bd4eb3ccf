"""SCRAM in POP3; that it can be bound to the TLS session is shown in tests/test_compose.py."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pop3_fakes import Client, House
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import globalLogPublisher
from zope.interface import implementer

from mailstack.credentials import IScramProof, ScramSource
from mailstack.mail.scram import ScramKeys, make_keys
from mailstack.wire.scram import ScramClient

KEYS = make_keys(b"sec ret", b"salt of sixteen ", 4096)


@implementer(ICredentialsChecker)
class Users:
    """Knows alice; is a checker and a source."""

    credentialInterfaces = (IScramProof,)

    def __init__(self) -> None:
        self.waits: Deferred[ScramKeys] | None = None
        self.failure: Exception | None = None

    async def find(self, username: bytes) -> ScramKeys:
        if self.failure is not None:
            raise self.failure
        return await self.waits if self.waits is not None else KEYS

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        right = credentials.proof.username == b"alice" and credentials.proof.is_by(KEYS)
        return succeed(b"alice") if right else fail(UnauthorizedLogin())


@pytest.fixture
def users() -> Users:
    return Users()


@pytest.fixture
def house(users: Users) -> House:
    house = House(b"Subject: one\r\n\r\n", scram=ScramSource(users.find, lambda: "server"))
    house.factory.portal.registerChecker(users)
    return house


@pytest.fixture
def client(house: House) -> Client:
    client = house.connect()
    client.hear()
    return client


def line(octets: bytes) -> bytes:
    return base64.b64encode(octets) + b"\r\n"


def first(scram: ScramClient) -> bytes:
    return b"AUTH SCRAM-SHA-256 " + line(scram.first())


def final(scram: ScramClient, heard: bytes) -> bytes:
    assert heard.startswith(b"+ "), heard
    return line(scram.final(base64.b64decode(heard[2:])))


def test_logging_in(house: House, client: Client) -> None:
    assert b"\r\nSASL SCRAM-SHA-256 PLAIN\r\n" in client.say(b"CAPA\r\n")
    scram = ScramClient("alice", "sec ret", "client")
    heard = client.say(final(scram, client.say(first(scram))))
    scram.verify(base64.b64decode(heard[2:]))
    assert client.say(b"\r\n").startswith(b"+OK 1 messages")
    assert client.say(b"QUIT\r\n") == b"+OK Bye\r\n"
    assert house.realm.logouts == 1


def test_a_wrong_one_is_refused_as_any_other_and_as_late(house: House, client: Client) -> None:
    scram = ScramClient("alice", "wrong", "client")
    assert client.say(final(scram, client.say(first(scram)))) == b""
    house.clock.advance(house.factory.limits.failure_delay_seconds)
    assert client.hear() == b"-ERR [AUTH] Authentication failed\r\n"


def test_the_checker_has_the_last_word(house: House, client: Client) -> None:
    scram = ScramClient("somebody", "sec ret", "client")
    client.say(final(scram, client.say(first(scram))))
    assert client.say(b"\r\n") == b""
    house.clock.advance(house.factory.limits.failure_delay_seconds)
    assert client.hear() == b"-ERR [AUTH] Authentication failed\r\n"


def test_keys_that_cannot_be_had_are_a_temporary_error(users: Users, client: Client) -> None:
    users.failure = OSError("disk")
    assert client.say(first(ScramClient("alice", "sec ret", "client"))) == b"-ERR [SYS/TEMP] Local error, try again later\r\n"
    users.failure = None
    scram = ScramClient("alice", "sec ret", "client")
    client.say(final(scram, client.say(first(scram))))
    assert client.say(b"\r\n").startswith(b"+OK 1 messages")


def test_what_is_pipelined_waits_while_keys_are_looked_for(users: Users, client: Client) -> None:
    users.waits = Deferred()
    assert client.say(first(ScramClient("alice", "sec ret", "client")) + b"*\r\nCAPA\r\n") == b""
    users.waits.callback(KEYS)
    heard = client.hear()
    assert heard.startswith(b"+ ")
    assert b"\r\n-ERR Authentication cancelled\r\n+OK Capabilities" in heard


def test_lost_while_keys_are_looked_for(house: House, users: Users, client: Client) -> None:
    users.waits = Deferred()
    client.say(first(ScramClient("alice", "sec ret", "client")))
    client.abortConnection()
    users.waits.callback(KEYS)
    assert len(house.factory) == 0


def test_the_log_knows_no_proof(client: Client) -> None:
    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    try:
        scram = ScramClient("alice", "wrong", "client")
        shown = final(scram, client.say(first(scram)))
        client.say(shown)
    finally:
        globalLogPublisher.removeObserver(seen.append)
    assert seen
    assert base64.b64decode(shown).decode().partition(",p=")[2] not in repr(seen)
