"""Lines of POP3, and replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire import pop3_commands as words
from mailstack.wire.pop3_commands import Order, POP3Reply, Verb, format_pop3_reply, parse_order


@pytest.mark.parametrize(
    ("line", "order"),
    [
        (b"STAT", Order(Verb.STAT)),
        (b"stat", Order(Verb.STAT)),
        (b"Stat  ", Order(Verb.STAT)),
        (b"STAT 1", words.EXTRA_ARGUMENT),
        (b"NOOP x", words.EXTRA_ARGUMENT),
        (b"QUIT now", words.EXTRA_ARGUMENT),
        (b"LIST", Order(Verb.LIST)),
        (b"LIST ", Order(Verb.LIST)),
        (b"LIST 1", Order(Verb.LIST, number=1)),
        (b"LIST 1 ", Order(Verb.LIST, number=1)),
        (b"LIST 007", Order(Verb.LIST, number=7)),
        (b"LIST 0", words.BAD_NUMBER),
        (b"LIST -1", words.BAD_NUMBER),
        (b"LIST +1", words.BAD_NUMBER),
        (b"LIST 1 2", words.EXTRA_ARGUMENT),
        (b"LIST  1", words.EXTRA_ARGUMENT),
        (b"LIST x", words.BAD_NUMBER),
        (b"LIST 1x", words.BAD_NUMBER),
        (b"LIST 1\t", words.BAD_NUMBER),
        (b"LIST \xd9\xa1", words.BAD_NUMBER),
        (b"UIDL 9999999999", Order(Verb.UIDL, number=9_999_999_999)),
        (b"UIDL 10000000000", words.BAD_NUMBER),
        (b"RETR 18446744073709551617", words.BAD_NUMBER),
        (b"RETR", words.NO_ARGUMENT),
        (b"RETR ", words.NO_ARGUMENT),
        (b"RETR 1", Order(Verb.RETR, number=1)),
        (b"RETR 0", words.BAD_NUMBER),
        (b"RETR 1 2", words.EXTRA_ARGUMENT),
        (b"DELE", words.NO_ARGUMENT),
        (b"DELE 0", words.BAD_NUMBER),
        (b"DELE 1", Order(Verb.DELE, number=1)),
        (b"TOP", words.NO_ARGUMENT),
        (b"TOP 1", words.NO_ARGUMENT),
        (b"TOP 1 ", words.NO_ARGUMENT),
        (b"TOP 1 0", Order(Verb.TOP, number=1, lines=0)),
        (b"TOP 1 10", Order(Verb.TOP, number=1, lines=10)),
        (b"TOP 1 -1", words.BAD_ARGUMENT),
        (b"TOP 1 99999999999", words.BAD_ARGUMENT),
        (b"TOP 1 1 1", words.BAD_ARGUMENT),
        (b"TOP 0 1", words.BAD_NUMBER),
        (b"TOP x 1", words.BAD_NUMBER),
        (b"USER", words.NO_ARGUMENT),
        (b"USER ", words.NO_ARGUMENT),
        (b"USER alice@example.org", Order(Verb.USER, b"alice@example.org")),
        (b"USER al ice ", Order(Verb.USER, b"al ice")),
        (b"USER a\0b", words.BAD_ARGUMENT),
        (b"USER " + b"a" * 600, words.LINE_TOO_LONG),
        (b"PASS", words.NO_ARGUMENT),
        (b"PASS ", words.NO_ARGUMENT),
        (b"PASS  a b ", Order(Verb.PASS, b" a b ")),
        (b"pass \xff\xfe\0", Order(Verb.PASS, b"\xff\xfe\0")),
        (b"PASS " + b"p" * 10_240, Order(Verb.PASS, b"p" * 10_240)),
        (b"AUTH", words.NO_ARGUMENT),
        (b"AUTH PLAIN", Order(Verb.AUTH, b"PLAIN")),
        (b"", words.UNKNOWN_COMMAND),
        (b" STAT", words.UNKNOWN_COMMAND),
        (b"STAT\t", words.UNKNOWN_COMMAND),
        (b"APOP a b", words.UNKNOWN_COMMAND),
        (b"GET / HTTP/1.1", words.UNKNOWN_COMMAND),
        (b"\xff\xfe", words.UNKNOWN_COMMAND),
        (b"x" * 600, words.LINE_TOO_LONG),
        (b"RETR " + b"1" * 600, words.LINE_TOO_LONG),
    ],
)
def test_a_line_is_an_order_or_its_refusal(line: bytes, order: Order | POP3Reply) -> None:
    assert parse_order(line) == order


@given(st.binary(max_size=700) | st.tuples(st.sampled_from(list(words.VERBS)), st.binary(max_size=40)).map(b" ".join))
def test_any_line_is_one_or_the_other(line: bytes) -> None:
    order = parse_order(line)
    assert isinstance(order, Order) or (isinstance(order, POP3Reply) and not order.is_success)


def test_a_reply_is_one_line_of_bounded_length() -> None:
    assert format_pop3_reply(words.ok("2 320")) == b"+OK 2 320\r\n"
    assert format_pop3_reply(words.AUTH_FAILED) == b"-ERR [AUTH] Authentication failed\r\n"
    assert format_pop3_reply(words.CHALLENGE) == b"+ \r\n"
    assert format_pop3_reply(words.err("a\r\nb\x00ü")) == b"-ERR a??b??\r\n"
    assert len(format_pop3_reply(words.err("x" * 1000))) == 512


def test_a_reply_of_lines_ends_with_a_dot_and_stuffs() -> None:
    assert format_pop3_reply(words.ok("Yes", "a", ".", "..b")) == b"+OK Yes\r\na\r\n..\r\n...b\r\n.\r\n"


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(words.Login(b"alice", b"secret"))
