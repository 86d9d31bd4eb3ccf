"""How POP3 sessions end other than by QUIT, and what they may use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pop3_fakes import Client, House
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure

from mailstack.lockout import Lockout, LockoutLimits
from mailstack.mail.envelope import Service
from mailstack.mail.maildrop import MaildropLocked
from mailstack.net.tallies import Tally
from mailstack.retrieve.limits import LAST_WORD_SECONDS, POP3Limits
from mailstack.retrieve.session import PARTS_AT_ONCE
from mailstack.retrieve.view import LINES_AT_ONCE

SMALL = b"a: b\r\n\r\nx\r\n"
LARGE = b"y" * 49_999_998 + b"\r\n"


def lose(client: Client) -> None:
    client.connected = False
    client.protocol.connectionLost(Failure(ConnectionLost()))


STAGES: dict[str, Callable[[House], Client]] = {}


def stage(make: Callable[[House], Client]) -> Callable[[House], Client]:
    STAGES[make.__name__] = make
    return make


@stage
def greeted(house: House) -> Client:
    return house.connect()


@stage
def in_the_middle_of_a_line(house: House) -> Client:
    client = house.connect()
    client.say(b"USER al")
    return client


@stage
def challenged(house: House) -> Client:
    client = house.connect()
    client.say(b"AUTH PLAIN\r\n")
    return client


@stage
def logging_in(house: House) -> Client:
    client = house.connect()
    house.realm.logging_in = Deferred()
    client.say(b"USER alice\r\nPASS sec ret\r\nDELE 1\r\nQUIT\r\n")
    return client


@stage
def failed_and_waiting(house: House) -> Client:
    client = house.connect()
    client.say(b"USER alice\r\nPASS wrong\r\n")
    return client


@stage
def logged_in(house: House) -> Client:
    return house.log_in()


@stage
def with_marks(house: House) -> Client:
    client = house.log_in()
    client.say(b"DELE 1\r\nQUI")
    return client


@stage
def fetching(house: House) -> Client:
    client = house.log_in()
    house.maildrop.held = True
    client.say(b"DELE 2\r\nRETR 1\r\nQUIT\r\n")
    return client


@stage
def sending(house: House) -> Client:
    house.maildrop.contents[0] = LARGE[-400_000:]
    client = house.log_in()
    write = client.write

    def fill(octets: bytes) -> None:
        write(octets)
        if len(octets) > 65_536:
            client.producer.pauseProducing()

    client.write = fill  # type: ignore[method-assign]  # a peer that does not read
    client.say(b"DELE 2\r\nRETR 1\r\nQUIT\r\n")
    return client


@pytest.mark.parametrize("name", STAGES)
def test_a_lost_connection_removes_nothing_and_gives_all_back(name: str) -> None:
    house = House(SMALL, SMALL)
    client = STAGES[name](house)
    lose(client)
    if house.realm.logging_in is not None:
        assert len(house.factory) == 1
        house.realm.logging_in.callback(None)
    house.maildrop.release()
    assert house.maildrop.committed == []
    assert house.realm.logouts == (
        0 if name in ("greeted", "in_the_middle_of_a_line", "challenged", "failed_and_waiting") else 1
    )
    assert len(house.factory) == len(house.supervisor) == 0
    assert house.clock.getDelayedCalls() == []
    assert all(reader.is_closed for reader in house.maildrop.readers)


@pytest.mark.parametrize("name", STAGES)
def test_draining_ends_every_session_after_its_command_and_removes_nothing(name: str) -> None:
    house = House(SMALL, SMALL)
    client = STAGES[name](house)
    client.hear()
    over: list[None] = []
    house.factory.drain().addCallback(over.append)
    if name == "sending":
        assert over == []
        for _ in range(3):
            if client.producer:
                client.producer.resumeProducing()
    if house.realm.logging_in is not None:
        house.realm.logging_in.callback(None)
    house.maildrop.release()
    house.clock.advance(2)
    heard = client.hear()
    assert heard.endswith(b"-ERR [SYS/TEMP] shutting down\r\n")
    if name in ("fetching", "sending"):
        assert heard.count(b"\r\n.\r\n-ERR") == 1
    assert house.maildrop.committed == []
    assert client.was_closed
    assert over == [None]
    assert house.clock.getDelayedCalls() == []


@pytest.mark.parametrize("last", [b"", b"QUIT\r\n"])
def test_who_does_not_close_after_the_last_word_is_not_waited_for_long(last: bytes) -> None:
    house = House(SMALL)
    client = house.log_in()
    client.loseConnection = lambda: None  # type: ignore[method-assign]  # its TLS does not end
    if last:
        client.say(last)
    house.factory.drain()
    house.clock.advance(LAST_WORD_SECONDS - 0.1)
    assert not client.was_aborted
    house.clock.advance(0.2)
    assert client.was_aborted


def test_draining_lets_a_quit_in_progress_remove() -> None:
    house = House(SMALL)
    client = house.log_in()
    house.maildrop.held = True
    client.say(b"DELE 1\r\nQUIT\r\n")
    client.hear()
    over: list[None] = []
    house.factory.drain().addCallback(over.append)
    assert over == []
    house.maildrop.release()
    assert client.hear() == b"+OK Bye\r\n"
    assert house.maildrop.committed == [{0}]
    assert over == [None]


def test_a_lost_connection_does_not_stop_a_quit_in_progress() -> None:
    house = House(SMALL)
    client = house.log_in()
    house.maildrop.held = True
    client.say(b"DELE 1\r\nQUIT\r\n")
    lose(client)
    assert house.realm.logouts == 0  # the lock is kept until the removal is over
    house.maildrop.release()
    assert house.maildrop.committed == [{0}]
    assert house.realm.logouts == 1


def test_after_draining_nobody_comes_in_and_draining_again_is_over_at_once() -> None:
    house = House()
    over: list[None] = []
    house.factory.drain().addCallback(over.append)
    house.factory.drain().addCallback(over.append)
    assert over == [None, None]
    assert house.factory.buildProtocol(None) is None


def test_who_does_not_log_in_in_time_is_dropped_without_a_word() -> None:
    house = House(SMALL)
    client = house.connect()
    client.hear()
    for _ in range(11):
        house.clock.advance(10)
        assert client.say(b"CAPA\r\n")
    house.clock.advance(9)
    assert not client.was_aborted
    house.clock.advance(1)
    assert client.was_aborted
    assert client.hear() == b""


def test_ten_minutes_of_silence_end_a_session_without_a_word_and_without_removing() -> None:
    house = House(SMALL)
    client = house.log_in()
    house.clock.advance(400)
    client.say(b"DELE 1\r\n")
    house.clock.advance(400)
    assert not client.was_aborted
    client.say(b"N")  # an octet is no command
    house.clock.advance(199)
    assert not client.was_aborted
    house.clock.advance(2)
    assert client.was_aborted
    assert client.hear() == b""
    assert house.maildrop.committed == []


def test_our_own_work_is_no_silence() -> None:
    house = House(SMALL)
    client = house.log_in()
    house.maildrop.held = True
    client.say(b"RETR 1\r\n")
    house.clock.pump([300] * 5)
    assert not client.was_aborted
    house.maildrop.release()
    house.clock.advance(599)
    assert not client.was_aborted
    house.clock.pump([300] * 4)
    assert client.was_aborted


def test_idle_time_cannot_be_less_than_the_standard_allows() -> None:
    with pytest.raises(ValueError, match="600"):
        POP3Limits(idle_seconds=599)


def test_a_client_that_stops_reading_costs_bounded_memory_and_is_dropped() -> None:
    house = House(LARGE)
    client = house.log_in()
    write = client.write

    def fill(octets: bytes) -> None:
        write(octets)
        if len(client.value()) > 65_536:
            client.producer.pauseProducing()

    client.write = fill  # type: ignore[method-assign]  # a peer that does not read
    client.protocol.dataReceived(b"RETR 1\r\n")
    for _ in range(20):
        assert len(client.value()) <= 262_144 + 100
        client.hear()
        client.producer.resumeProducing()
    waiting = len(client.value())
    house.clock.advance(299)
    assert not client.was_aborted
    assert len(client.value()) == waiting
    house.clock.advance(1)
    assert client.was_aborted
    assert len(house.factory) == 0
    assert house.maildrop.readers[0].is_closed


def test_a_client_that_reads_gets_everything() -> None:
    house = House(LARGE[-2_000_000:])
    client = house.log_in()
    write = client.write

    def fill(octets: bytes) -> None:
        write(octets)
        client.producer.pauseProducing()

    client.write = fill  # type: ignore[method-assign]  # a slow peer
    client.protocol.dataReceived(b"RETR 1\r\nSTAT\r\n")
    heard = b""
    for _ in range(20):
        heard += client.hear()
        house.clock.advance(100)
        client.producer.resumeProducing()
    assert heard == b"+OK Message follows\r\n" + LARGE[-2_000_000:] + b".\r\n+OK 1 2000000\r\n"


def test_replies_to_pipelined_commands_wait_for_the_reader_too() -> None:
    house = House(SMALL)
    client = house.log_in()
    client.producer.pauseProducing()
    assert client.say(b"STAT\r\n" * 20_000) == b""
    assert client.producerState == "paused"
    client.producer.resumeProducing()
    house.clock.advance(0)  # each time some of them, and between them the others
    assert client.hear() == b"+OK 1 11\r\n" * 20_000
    assert client.producerState == "producing"


def test_long_lists_wait_for_the_reader() -> None:
    house = House(*[b"x\r\n"] * 10_000)
    client = house.log_in()
    write = client.write

    def fill(octets: bytes) -> None:
        write(octets)
        client.producer.pauseProducing()

    client.write = fill  # type: ignore[method-assign]  # a slow peer
    client.protocol.dataReceived(b"UIDL\r\n")
    heard, most = b"", 0
    for _ in range(12):
        part = client.hear()
        heard, most = heard + part, max(most, len(part))
        client.producer.resumeProducing()
        house.clock.advance(0)
    assert heard.count(b"\r\n") == 10_002
    assert heard.endswith(b"10000 uid-10000\r\n.\r\n")
    assert most < 60_000


def test_a_long_list_lets_the_others_have_their_turn() -> None:
    house = House(*[b"x\r\n"] * (LINES_AT_ONCE * PARTS_AT_ONCE * 2 + 1))
    client = house.log_in()
    at_once = LINES_AT_ONCE * PARTS_AT_ONCE
    assert client.say(b"LIST\r\nSTAT\r\n").count(b"\r\n") == 1 + at_once
    house.clock.advance(0)
    assert client.hear().count(b"\r\n") == at_once + 1 + 1 + 1


def test_a_last_reply_that_nobody_reads_does_not_keep_the_connection() -> None:
    house = House(SMALL)
    client = house.log_in()
    client.loseConnection = lambda: None  # type: ignore[method-assign]  # its buffer never empties
    client.say(b"QUIT\r\n")
    house.clock.advance(300)
    assert client.was_aborted


def test_too_many_bad_commands_end_a_session() -> None:
    house = House(SMALL)
    client = house.connect()
    client.hear()
    assert client.say(b"GET / HTTP/1.1\r\n" * 10) == b"-ERR Unknown command\r\n" * 4 + b"-ERR Too many errors\r\n"
    assert client.was_closed
    client = house.log_in()
    assert client.say(b"X\r\n" * 30) == b"-ERR Unknown command\r\n" * 19 + b"-ERR Too many errors\r\n"
    assert client.was_closed


def test_connections_are_counted_by_peer_and_in_all() -> None:
    house = House(limits=POP3Limits(sessions=3, sessions_per_peer=2))
    first, _ = house.connect(), house.connect()
    refused = house.connect()
    assert refused.hear() == b"-ERR [SYS/TEMP] Too many connections, try again later\r\n"
    assert not refused.connected
    house.connect("192.0.2.2")
    assert house.connect("192.0.2.3").hear().startswith(b"-ERR")
    lose(first)
    assert house.connect().hear().startswith(b"+OK")


def test_one_ipv6_network_is_one_peer() -> None:
    house = House(limits=POP3Limits(sessions_per_peer=1))
    assert house.factory.buildProtocol(IPv6Address("TCP", "2001:db8::1", 1)) is not None
    refusal = house.factory.buildProtocol(IPv6Address("TCP", "2001:db8::2", 1))
    transport = StringTransportWithDisconnection()
    transport.protocol = refusal
    assert refusal is not None
    refusal.makeConnection(transport)
    assert transport.value().startswith(b"-ERR [SYS/TEMP]")
    assert len(house.factory) == 1
    house.factory.buildProtocol(IPv6Address("TCP", "2001:db8:0:1::1", 1))
    house.factory.buildProtocol(IPv6Address("TCP", "fe80::1%lo", 1))
    assert len(house.factory) == 3


def test_with_implicit_tls_the_greeting_waits_for_the_handshake_and_refusals_are_mute() -> None:
    house = House(SMALL, service=Service.POP3S, limits=POP3Limits(sessions=1), require_tls=True)
    client = house.connect()
    assert client.hear() == b""
    assert house.factory.buildProtocol(None) is None
    client.protocol.handshakeCompleted()
    assert client.hear() == b"+OK POP3 server ready\r\n"
    assert client.say(b"USER alice\r\nPASS sec ret\r\n").endswith(b"+OK 1 messages (11 octets)\r\n")


def test_a_handshake_that_does_not_end_is_dropped_and_draining_waits_for_none() -> None:
    house = House(service=Service.POP3S, limits=POP3Limits(sessions_per_peer=2))
    client, other = house.connect(), house.connect()
    house.clock.advance(120)
    assert client.was_aborted
    assert other.was_aborted
    late = house.connect()
    house.factory.drain()
    assert late.was_closed
    late.protocol.handshakeCompleted()
    assert late.hear() == b"-ERR [SYS/TEMP] shutting down\r\n"


def test_without_tls_nothing_secret_is_taken() -> None:
    house = House(SMALL, require_tls=True)
    client = house.connect()
    client.hear()
    assert client.say(b"USER alice\r\nPASS sec ret\r\n") == (
        b"-ERR [SYS/PERM] Log in over TLS only\r\n-ERR Command not valid in this state\r\n"
    )
    assert b"SASL" not in client.say(b"CAPA\r\n")
    assert client.say(b"STLS\r\n") == b"-ERR TLS is not available\r\n"


def test_cancelling_what_runs_ends_the_session() -> None:
    house = House(SMALL)
    client = house.log_in()
    house.maildrop.held = True
    client.say(b"RETR 1\r\n")
    for running in list(house.supervisor._running):
        running.cancel()
    assert client.was_aborted
    assert house.realm.logouts == 1
    assert len(house.factory) == 0


def test_a_session_that_is_over_hears_no_more() -> None:
    house = House(SMALL)
    client = house.log_in()
    client.loseConnection = lambda: None  # type: ignore[method-assign]  # the peer goes on sending
    client.say(b"QUIT\r\n")
    assert client.say(b"STAT\r\n" * 100_000) == b""
    client.protocol.connectionLost(Failure(connectionDone.value))
    assert len(house.factory) == 0


def test_a_command_alone_waits_for_who_does_not_read_like_any_other() -> None:
    house = House(SMALL)
    client = house.log_in()
    client.producer.pauseProducing()
    assert client.say(b"DELE 1\r\n") == b""
    client.producer.resumeProducing()
    assert client.hear() == b"+OK Marked for deletion\r\n"


def test_a_command_alone_comes_after_the_one_that_waits_and_not_at_all_when_we_leave() -> None:
    house = House(SMALL)
    client = house.log_in()
    house.maildrop.held = True
    assert client.say(b"RETR 1\r\n") == b""
    assert client.say(b"DELE 1\r\n") == b""
    house.factory.drain()
    house.maildrop.release()
    assert client.hear() == b"+OK 11 octets\r\n" + SMALL + b".\r\n-ERR [SYS/TEMP] shutting down\r\n"


def test_commands_that_come_alone_keep_a_session_from_being_idle() -> None:
    house = House(SMALL)
    client = house.log_in()
    for _ in range(3):
        house.clock.advance(500)
        client.say(b"RETR 1\r\n")
    assert not client.was_aborted
    house.clock.advance(601)
    assert client.was_aborted


def test_a_network_and_a_client_that_comes_often() -> None:
    clock = Clock()
    limits = POP3Limits(sessions_per_network=2, sessions_per_minute=3)
    house = House(limits=limits, arrivals=Tally.alone(bytes(32), clock.seconds))
    first, _ = house.connect("192.0.2.1"), house.connect("192.0.2.2")
    assert house.connect("192.0.2.3").hear() == b"-ERR [SYS/TEMP] Too many connections, try again later\r\n"
    lose(first)
    for answer in (b"+OK", b"+OK", b"-ERR [SYS/TEMP]"):
        client = house.connect("192.0.2.1")
        assert client.hear().startswith(answer)
        if client.connected:
            lose(client)
    clock.advance(60)
    assert house.connect("192.0.2.1").hear().startswith(b"+OK")


GUESSES = [b"USER alice\r\nPASS guess %d\r\n" % number for number in range(3)]
RIGHT = b"USER alice\r\nPASS sec ret\r\n"


def a_lockout(clock: Clock) -> Lockout:
    limits = LockoutLimits(failures=2, failures_per_network=9, window_seconds=600)
    return Lockout(*(Tally.alone(bytes(32), clock.seconds) for _ in range(2)), limits)


def test_after_some_failures_nobody_is_asked_and_the_client_sees_no_difference() -> None:
    clock = Clock()
    house = House(SMALL, lockout=a_lockout(clock))
    for credentials in (*GUESSES, RIGHT):
        client = house.connect()
        client.hear()
        assert client.say(credentials) == b"+OK Send PASS\r\n"
        house.clock.advance(1.9)
        assert client.hear() == b""
        house.clock.advance(0.1)
        assert client.hear() == b"-ERR [AUTH] Authentication failed\r\n"
    elsewhere = house.connect("198.51.100.1")
    elsewhere.hear()
    assert elsewhere.say(RIGHT).endswith(b"+OK 1 messages (11 octets)\r\n")
    lose(elsewhere)
    clock.advance(600)
    client = house.connect()
    client.hear()
    assert client.say(RIGHT).endswith(b"+OK 1 messages (11 octets)\r\n")


def test_who_is_locked_out_is_counted_and_sent_away_like_who_guesses() -> None:
    house = House(SMALL, lockout=a_lockout(Clock()))
    client = house.connect()
    client.hear()
    for guess in GUESSES:
        client.say(guess)
        house.clock.advance(2)
    assert client.was_closed
    assert client.hear() == b"-ERR [AUTH] Authentication failed\r\n"


def test_a_maildrop_in_use_is_no_failure() -> None:
    lockout = a_lockout(Clock())
    house = House(SMALL, lockout=lockout)
    house.realm.fault = MaildropLocked("/var/mail/alice")
    client = house.connect()
    for _ in range(3):
        assert client.say(RIGHT).endswith(b"-ERR [IN-USE] Another session has the maildrop open\r\n")
    assert not lockout.is_locked("192.0.2.1", "alice")
