"""A POP3 client that pipelines without end keeps nobody else waiting."""

from __future__ import annotations

from pop3_fakes import House

from mailstack.retrieve.protocol import COMMANDS_AT_ONCE

SMALL = b"a: b\r\n\r\nx\r\n"


def test_one_client_does_not_keep_the_others_waiting() -> None:
    house = House(SMALL)
    client = house.log_in()
    flooded = 2 * COMMANDS_AT_ONCE + 1
    assert client.say(b"NOOP\r\n" * flooded).count(b"+OK") == COMMANDS_AT_ONCE
    house.clock.advance(0)
    assert client.hear().count(b"+OK") == flooded - COMMANDS_AT_ONCE
    assert client.say(b"QUIT\r\n").startswith(b"+OK")
    assert client.was_closed


def test_a_flooding_client_that_leaves_is_forgotten() -> None:
    house = House(SMALL)
    client = house.log_in()
    client.say(b"NOOP\r\n" * (COMMANDS_AT_ONCE + 1))
    client.abortConnection()
    house.clock.advance(0)
    assert len(house.factory) == 0
    assert house.clock.getDelayedCalls() == []


def test_what_is_removed_at_the_end_of_a_flood_is_removed() -> None:
    house = House(SMALL)
    client = house.log_in()
    client.say(b"NOOP\r\n" * (COMMANDS_AT_ONCE - 1) + b"DELE 1\r\nQUIT\r\n")
    house.clock.advance(0)
    assert client.was_closed
    assert house.maildrop.committed == [{0}]
