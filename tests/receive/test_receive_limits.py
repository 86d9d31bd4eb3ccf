"""Every limit of a session: the reply that its RFC names, and what the log says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from receive_fakes import House, Session
from test_receive_auth import WRONG, submission
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher

from mailstack.mail.envelope import Service
from mailstack.wire.limits import Limits

SENDER, RECIPIENT = "MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>"
TO_DATA = ("EHLO c", SENDER, RECIPIENT, "DATA")


@dataclass
class Seen:
    """What a session was told last, and what the log has."""

    replies: list[str]
    events: list[dict[str, Any]]

    def one(self, name: str) -> dict[str, Any]:
        (found,) = [each for each in self.events if each.get("event") == name]
        return found


def run(act: Callable[[House, Session], object], limits: Limits, service: Service = Service.SMTP) -> Seen:
    events = EventLoggingObserver()
    globalLogPublisher.addObserver(events)
    try:
        house = House(service, limits=limits)
        session = house.connect()
        act(house, session)
    finally:
        globalLogPublisher.removeObserver(events)
    return Seen([line for line in session.take().split("\r\n") if line], list(events))


def saying(*lines: str) -> Callable[[House, Session], object]:
    return lambda house, session: session.protocol.dataReceived(b"".join(line.encode() + b"\r\n" for line in lines))


def waiting(seconds: float, *lines: str, drip: bytes = b"x") -> Callable[[House, Session], object]:
    """Say lines, and then so little that no time should be won by it."""

    def act(house: House, session: Session) -> None:
        saying(*lines)(house, session)
        for _ in range(20):
            if session.is_connected:
                session.protocol.dataReceived(drip)
                house.clock.advance(seconds / 20)

    return act


REFUSED: dict[str, tuple[Callable[[House, Session], object], dict[str, Any], str, str]] = {
    "recipients": (
        saying("EHLO c", SENDER, *[RECIPIENT] * 3),
        {"recipients": 2},
        "452 4.5.3 Too many recipients",
        "command_refused",
    ),
    "command_line_octets": (
        saying("NOOP " + "x" * 3_000),
        {"command_line_octets": 2_048},
        "500 5.5.2 Line too long",
        "command_refused",
    ),
    "message_octets, declared": (
        saying("EHLO c", f"{SENDER} SIZE=101"),
        {"message_octets": 100},
        "552 5.3.4 Message size exceeds the limit",
        "command_refused",
    ),
    "message_octets": (
        saying(*TO_DATA, "x" * 150, "."),
        {"message_octets": 100},
        "552 5.3.4 Message size exceeds the limit",
        "transaction_refused",
    ),
    "message_octets, by BDAT": (
        saying("EHLO c", SENDER, RECIPIENT, "BDAT 152 LAST", "x" * 150),
        {"message_octets": 100},
        "552 5.3.4 Message size exceeds the limit",
        "transaction_refused",
    ),
    "header_octets": (
        saying(*TO_DATA, "Subject: " + "x" * 150, "", "."),
        {"header_octets": 100},
        "552 5.3.4 Header section exceeds the limit",
        "transaction_refused",
    ),
    "header_fields": (
        saying(*TO_DATA, *["a: b"] * 5, "", "."),
        {"header_fields": 3},
        "554 5.6.0 Too many header fields",
        "transaction_refused",
    ),
}


@pytest.mark.parametrize(("act", "limits", "said", "event"), REFUSED.values(), ids=REFUSED)
def test_what_is_too_much_is_refused(
    act: Callable[[House, Session], object], limits: dict[str, Any], said: str, event: str
) -> None:
    seen = run(act, Limits(**limits))
    assert seen.replies[-1] == said
    assert seen.one(event)["reply"] == said


ENDED: dict[str, tuple[Callable[[House, Session], object], Limits, str]] = {
    "errors": (saying(*["X"] * 9), Limits(errors=4), "421 4.7.0 Too many errors"),
    "idle_commands": (saying(*["NOOP"] * 9), Limits(idle_commands=4), "421 4.7.0 Too many errors"),
    "command_timeout_seconds": (waiting(101), Limits(command_seconds=100), "421 4.4.2 Timeout, closing connection"),
    "data_octets_per_second": (
        waiting(101, *TO_DATA, drip=b"x" * 49),
        Limits(content_seconds=100, content_octets_per_second=10),
        "421 4.4.2 Timeout, closing connection",
    ),
    "session_timeout_seconds": (
        waiting(120, "EHLO c", drip=b"NOOP\r\n"),
        Limits(session_seconds=100, idle_commands=1_000),
        "421 4.4.2 Timeout, closing connection",
    ),
}


@pytest.mark.parametrize("limit", ENDED)
def test_who_goes_too_far_is_sent_away_and_the_log_names_the_limit(limit: str) -> None:
    act, limits, said = ENDED[limit]
    seen = run(act, limits)
    assert seen.replies[-1] == said
    assert seen.one("limit_reached")["limit"] == limit
    assert seen.one("session_closed")
    assert seen.events[-1]["event"] == "session_closed"


def test_a_pace_that_is_enough_is_enough() -> None:
    act = waiting(301, *TO_DATA, drip=b"x" * 200)
    seen = run(act, Limits(content_seconds=100, content_octets_per_second=10))
    assert seen.replies[-1][:3] == "354"
    assert "limit_reached" not in [each.get("event") for each in seen.events]


def test_a_handshake_that_takes_too_long_is_not_answered() -> None:
    seen = run(waiting(11, drip=b""), Limits(handshake_seconds=10), Service.SUBMISSIONS)
    assert seen.replies == []
    assert seen.one("limit_reached")["limit"] == "handshake_timeout_seconds"


def test_logins_that_fail_in_one_session() -> None:
    events = EventLoggingObserver()
    globalLogPublisher.addObserver(events)
    house, wire = submission(limits=Limits(authentication_failures=2, failure_delay_seconds=1))
    said = []
    for seconds in (1, 2):
        wire.say(WRONG)
        house.clock.advance(seconds)
        wire.flush()
        said += wire.codes()
    globalLogPublisher.removeObserver(events)
    assert said == ["535", "421"]
    seen = Seen([], list(events))
    assert seen.one("limit_reached")["limit"] == "failed_logins_per_session"
    assert [each.get("event") for each in events].count("authentication_failed") == 2


@pytest.mark.parametrize("lines", [("MAIL",), ("DATA",), ("BDAT",)], ids=lambda lines: lines[0])
def test_no_room_on_the_disk(lines: tuple[str]) -> None:
    def act(house: House, session: Session) -> None:
        saying("EHLO c")(house, session)
        if lines != ("MAIL",):
            saying(SENDER, RECIPIENT)(house, session)
        house.intake.full = True
        saying({"MAIL": SENDER, "DATA": "DATA", "BDAT": "BDAT 3 LAST\r\nx"}[lines[0]])(house, session)

    seen = run(act, Limits())
    assert seen.replies[-1] == "452 4.3.1 Insufficient system storage, try again later"
    assert seen.one("transaction_refused")["reply"] == seen.replies[-1]


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({"sessions": 1}, "connections"),
        ({"sessions_per_peer": 1}, "connections_per_peer"),
        ({"sessions_per_network": 1}, "connections_per_network"),
    ],
)
def test_connections(limits: dict[str, int], limit: str) -> None:
    def act(house: House, session: Session) -> None:
        session.transport = house.connect().transport

    seen = run(act, replace(Limits(), **limits))
    assert seen.replies == ["421 4.7.0 Too many connections, try again later"]
    assert seen.one("connection_refused")["limit"] == limit


def test_who_does_not_wait_for_the_greeting() -> None:
    def act(house: House, session: Session) -> None:
        saying("EHLO c")(house, session)
        house.clock.advance(5)

    seen = run(act, Limits(greeting_pause_seconds=5))
    assert seen.replies == ["554 5.5.1 You must wait for the greeting"]
    assert seen.one("early_talker")
