"""The POP3 server core."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.mail.scram import make_keys
from mailstack.wire import pop3_commands as words
from mailstack.wire.errors import LocalProtocolError
from mailstack.wire.events import AWAITING_REPLY, NEED_OCTETS, Pause
from mailstack.wire.pop3_commands import (
    Answered,
    Certify,
    Event,
    Leave,
    Login,
    Order,
    POP3Reply,
    Prove,
    Refused,
    Show,
    Verb,
    format_pop3_reply,
    ok,
)
from mailstack.wire.pop3_server import POP3ServerCore
from mailstack.wire.pop3_table import RULES, Rule, State, Step, next_state
from mailstack.wire.sasl import Bearer, External, KeysWanted
from mailstack.wire.scram import Bindings, ScramClient


def fresh(**more: bool) -> POP3ServerCore:
    core = POP3ServerCore(**({"secure": True} | more))
    assert core.next_event() is AWAITING_REPLY
    assert core.send(words.GREETING) == b"+OK POP3 server ready\r\n"
    return core


def logged_in() -> POP3ServerCore:
    core = fresh()
    assert ask(core, b"AUTH PLAIN " + plain(b"alice", b"secret") + b"\r\n") == [Login(b"alice", b"secret")]
    return core


def plain(username: bytes, password: bytes, authorize: bytes = b"") -> bytes:
    return base64.b64encode(authorize + b"\0" + username + b"\0" + password)


def answer(core: POP3ServerCore, event: Event) -> bytes:
    """Answer as a shell does whose maildrop has everything."""
    if isinstance(event, Answered | Refused):
        return core.send(event.reply)
    if isinstance(event, Leave):
        return core.send(words.BYE)
    if isinstance(event, Order) and event.verb is Verb.STLS:
        return core.send(words.START_TLS)
    return core.send(ok("Yes"))


def drain(core: POP3ServerCore) -> Iterator[Event]:
    while not isinstance(event := core.next_event(), Pause):
        assert core.next_event() is AWAITING_REPLY
        yield event
        if isinstance(event, KeysWanted):
            return  # the test gives them
        answer(core, event)


def ask(core: POP3ServerCore, octets: bytes) -> list[Event]:
    core.receive(octets)
    return list(drain(core))


def whole(core: POP3ServerCore, octets: bytes) -> list[Event]:
    return ask(core, octets)


def single(core: POP3ServerCore, octets: bytes) -> list[Event]:
    return [event for octet in octets for event in ask(core, bytes([octet]))]


def trailing(core: POP3ServerCore, octets: bytes) -> list[Event]:
    events = ask(core, octets + b"RE")
    assert core.waiting_octets == (2 if core.state is not State.CLOSED else 0)
    return events


FEEDS = [whole, single, trailing]


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize(
    ("octets", "events", "state"),
    [
        (b"USER alice\r\nPASS  a b \r\n", [Answered(words.USER_OK), Login(b"alice", b" a b ")], State.TRANSACTION),
        (b"user a\r\nUSER b\r\nPASS c\r\n", [Answered(words.USER_OK)] * 2 + [Login(b"b", b"c")], State.TRANSACTION),
        (b"PASS c\r\n", [Refused(words.BAD_STATE)], State.AUTHORIZATION),
        (b"STAT\r\nNOOP\r\n", [Refused(words.BAD_STATE)] * 2, State.AUTHORIZATION),
        (b"AUTH PLAIN " + plain(b"a", b"b") + b"\r\n", [Login(b"a", b"b")], State.TRANSACTION),
        (b"auth plain\r\n" + plain(b"a", b"b") + b"\r\n", [Answered(words.CHALLENGE), Login(b"a", b"b")], State.TRANSACTION),
        (b"AUTH PLAIN " + plain(b"a", b"b", b"a") + b"\r\n", [Login(b"a", b"b")], State.TRANSACTION),
        (b"AUTH PLAIN\r\n*\r\n", [Answered(words.CHALLENGE), Refused(words.AUTH_CANCELLED)], State.AUTHORIZATION),
        (b"AUTH PLAIN *\r\n", [Refused(words.AUTH_CANCELLED)], State.AUTHORIZATION),
        (b"AUTH PLAIN =\r\n", [Refused(words.BAD_AUTH_RESPONSE)], State.AUTHORIZATION),
        (b"AUTH PLAIN\r\n\r\n", [Answered(words.CHALLENGE), Refused(words.BAD_AUTH_RESPONSE)], State.AUTHORIZATION),
        (b"AUTH PLAIN\r\nQUIT\r\n", [Answered(words.CHALLENGE), Refused(words.BAD_AUTH_RESPONSE)], State.AUTHORIZATION),
        (b"AUTH PLAIN\r\n??\n\r\n", [Answered(words.CHALLENGE), Refused(words.BAD_LINE)], State.AUTHORIZATION),
        (b"AUTH PLAIN " + base64.b64encode(b"a\0b") + b"\r\n", [Refused(words.BAD_AUTH_RESPONSE)], State.AUTHORIZATION),
        (b"AUTH CRAM-MD5\r\n", [Refused(words.UNKNOWN_MECHANISM)], State.AUTHORIZATION),
        (b"USER a\r\nAUTH CRAM-MD5\r\nPASS b\r\n",
         [Answered(words.USER_OK), Refused(words.UNKNOWN_MECHANISM), Refused(words.BAD_STATE)], State.AUTHORIZATION),
        (b"USER a\r\nCAPA x\r\nPASS b\r\n",
         [Answered(words.USER_OK), Refused(words.EXTRA_ARGUMENT), Login(b"a", b"b")], State.TRANSACTION),
        (b"QUIT\r\n", [Leave(False)], State.CLOSED),
        (b"\r\n\n\r\n", [Refused(words.UNKNOWN_COMMAND), Refused(words.BAD_LINE)], State.AUTHORIZATION),
        (b"NOOP\nNOOP\r\n", [Refused(words.BAD_LINE)], State.AUTHORIZATION),
        (b"NO\rOP\r\n", [Refused(words.BAD_LINE)], State.AUTHORIZATION),
        (b"NOOP\r\r\n", [Refused(words.BAD_LINE)], State.AUTHORIZATION),
        (b"\xff\x00\r\n", [Refused(words.UNKNOWN_COMMAND)], State.AUTHORIZATION),
        (b"STLS\r\n", [Refused(words.TLS_ACTIVE)], State.AUTHORIZATION),
    ],
)  # fmt: skip
def test_before_login(
    feed: Callable[[POP3ServerCore, bytes], list[Event]], octets: bytes, events: list[Event], state: State
) -> None:
    core = fresh()
    assert feed(core, octets) == events
    assert core.state is state


@pytest.mark.parametrize("feed", FEEDS)
def test_a_logged_in_client_is_answered_in_order(feed: Callable[[POP3ServerCore, bytes], list[Event]]) -> None:
    core = logged_in()
    octets = b"STAT\r\nLIST\r\nuidl 2\r\nRETR 1\r\nTOP 1 0\r\nDELE 1\r\nRSET\r\nNOOP\r\nUSER a\r\nRETR x\r\n"
    assert feed(core, octets) == [
        Order(Verb.STAT),
        Order(Verb.LIST),
        Order(Verb.UIDL, number=2),
        Order(Verb.RETR, number=1),
        Order(Verb.TOP, number=1, lines=0),
        Order(Verb.DELE, number=1),
        Order(Verb.RSET),
        Answered(words.NOOP_OK),
        Refused(words.BAD_STATE),
        Refused(words.BAD_NUMBER),
    ]
    assert core.state is State.TRANSACTION


def test_quit_after_login_commits_and_ends() -> None:
    core = logged_in()
    assert ask(core, b"QUIT\r\nNOOP\r\n") == [Leave(True)]
    assert core.state is State.CLOSED
    assert ask(core, b"NOOP\r\n") == []


def test_octets_that_come_while_the_reply_to_stls_is_made() -> None:
    core = fresh(secure=False, tls_offered=True)
    core.receive(b"STLS\r\n")
    assert core.next_event() == Order(Verb.STLS)
    core.receive(b"USER evil\r\n")
    assert core.send(words.START_TLS) == format_pop3_reply(words.TLS_INJECTION)
    assert core.is_closed
    assert (core.next_event(), core.waiting_octets) == (NEED_OCTETS, 0)


def test_a_failed_login_forgets_the_user() -> None:
    core = fresh()
    core.receive(b"USER a\r\nPASS b\r\nPASS c\r\n")
    assert core.next_event() == Answered(words.USER_OK)
    core.send(words.USER_OK)
    assert core.next_event() == Login(b"a", b"b")
    assert core.send(words.AUTH_FAILED) == b"-ERR [AUTH] Authentication failed\r\n"
    assert core.next_event() == Refused(words.BAD_STATE)


@pytest.mark.parametrize("octets", [b"USER a\r\n", b"AUTH PLAIN\r\n", b"AUTH PLAIN " + plain(b"a", b"b") + b"\r\n"])
def test_nothing_secret_is_taken_in_clear_text(octets: bytes) -> None:
    core = fresh(secure=False, tls_offered=True)
    assert ask(core, octets) == [Refused(words.TLS_REQUIRED)]
    assert str(words.TLS_REQUIRED).startswith("-ERR [SYS/PERM] ")
    core = fresh(secure=False)
    assert ask(core, octets) == [Refused(words.TLS_NEEDED)]
    assert ask(core, b"STLS\r\n") == [Refused(words.TLS_UNAVAILABLE)]


def capabilities(core: POP3ServerCore) -> set[str]:
    (event,) = ask(core, b"CAPA\r\n")
    assert isinstance(event, Answered)
    assert event.reply.lines is not None
    return set(event.reply.lines)


ALWAYS = {"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"}
LOGIN = {"USER", "SASL PLAIN"}


def test_capabilities_say_what_can_be_done_now() -> None:
    assert capabilities(fresh(secure=False, tls_offered=True)) == ALWAYS | {"STLS"}
    assert capabilities(fresh(secure=False, tls_offered=True, require_tls=False)) == ALWAYS | LOGIN | {"STLS"}
    assert capabilities(fresh(secure=False)) == ALWAYS
    assert capabilities(fresh(tls_offered=True)) == ALWAYS | LOGIN
    assert capabilities(logged_in()) == ALWAYS | LOGIN | {"IMPLEMENTATION mailstack"}


KEYS = make_keys(b"secret", b"salt of sixteen ", 4096)
BINDINGS = {"tls-exporter": b"session"}


def with_scram(bindings: Bindings) -> POP3ServerCore:
    core = fresh(scram=True)
    core.bind_channel(bindings)
    return core


def scram(core: POP3ServerCore, client: ScramClient, mechanism: bytes = b"SCRAM-SHA-256") -> list[Event]:
    """Log in, and return the events after the keys were given."""
    wanted = ask(core, b"AUTH %b %b\r\n" % (mechanism, base64.b64encode(client.first())))
    assert wanted == [KeysWanted(b"alice")]
    assert core.next_event() is AWAITING_REPLY
    octets = core.send(core.give_keys(KEYS, "server").reply)
    assert octets.startswith(b"+ ")
    assert core.state is State.SASL
    final = client.final(base64.b64decode(octets[2:]))
    (event,) = ask(core, base64.b64encode(final) + b"\r\n")
    if isinstance(event, Answered):
        client.verify(base64.b64decode(event.reply.text))
        return ask(core, b"\r\n")
    return [event]


def test_scram_is_offered_where_keys_can_be_had() -> None:
    assert "SASL SCRAM-SHA-256 PLAIN" in capabilities(with_scram({}))
    assert "SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN" in capabilities(with_scram(BINDINGS))
    assert ask(with_scram({}), b"AUTH SCRAM-SHA-256-PLUS\r\n") == [Refused(words.UNKNOWN_MECHANISM)]
    assert ask(fresh(), b"AUTH SCRAM-SHA-256\r\n") == [Refused(words.UNKNOWN_MECHANISM)]


@pytest.mark.parametrize("bindings", [{}, BINDINGS])
def test_scram(bindings: Bindings) -> None:
    mechanism = b"SCRAM-SHA-256-PLUS" if bindings else b"scram-sha-256"
    core = with_scram(bindings)
    (event,) = scram(core, ScramClient("alice", "secret", "client", bindings), mechanism)
    assert isinstance(event, Prove)
    assert event.proof.is_by(KEYS)
    assert core.state is State.TRANSACTION


def test_scram_with_a_wrong_password() -> None:
    (event,) = scram(with_scram({}), ScramClient("alice", "wrong", "client"))
    assert isinstance(event, Prove), "and no signature before it"
    assert not event.proof.is_by(KEYS)


@pytest.mark.parametrize("client", [ScramClient("alice", "secret", "client", {"tls-exporter": b"another"})])
def test_scram_in_another_session(client: ScramClient) -> None:
    assert scram(with_scram(BINDINGS), client, b"SCRAM-SHA-256-PLUS") == [Refused(words.AUTH_FAILED)]


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (b"n,,n=alice", words.BAD_AUTH_RESPONSE),
        (b"y,,n=alice,r=x", words.AUTH_FAILED),
        (b"p=tls-exporter,,n=alice,r=x", words.BAD_AUTH_RESPONSE),
    ],
)
def test_scram_that_is_refused_at_once(message: bytes, reply: POP3Reply) -> None:
    core = with_scram(BINDINGS)
    assert ask(core, b"AUTH SCRAM-SHA-256 %b\r\n" % base64.b64encode(message)) == [Refused(reply)]
    assert core.state is State.AUTHORIZATION
    assert ask(core, b"AUTH SCRAM-SHA-256\r\n*\r\n")[1] == Refused(words.AUTH_CANCELLED)


def test_acting_for_another_by_scram() -> None:
    core = with_scram({})
    ask(core, b"AUTH SCRAM-SHA-256 %b\r\n" % base64.b64encode(b"n,a=admin,n=alice,r=client"))
    core.send(core.give_keys(KEYS, "server").reply)
    response = b"c=bixhPWFkbWluLA==,r=clientserver,p=" + base64.b64encode(bytes(32))
    assert ask(core, base64.b64encode(response) + b"\r\n") == [Refused(words.AUTH_FAILED)]


def test_keys_that_cannot_be_had_end_the_exchange() -> None:
    core = with_scram({})
    assert ask(core, b"AUTH SCRAM-SHA-256 %b\r\n" % base64.b64encode(b"n,,n=alice,r=x")) == [KeysWanted(b"alice")]
    core.send(words.LOCAL_ERROR)
    assert core.state is State.AUTHORIZATION
    ask(core, b"AUTH SCRAM-SHA-256 %b\r\n" % base64.b64encode(b"n,,n=alice,r=x"))
    core.send(words.USER_OK)
    assert core.state is State.AUTHORIZATION, "nobody is logged in by that"
    with pytest.raises(LocalProtocolError):
        fresh().give_keys(KEYS, "server")


def token(word: bytes, name: bytes = b"alice") -> bytes:
    return base64.b64encode(b"n,a=" + name + b",\1auth=Bearer " + word + b"\1\1")


def shown(word: bytes, name: bytes = b"alice") -> Show:
    return Show(Bearer(word, name))


def with_tokens(**more: Any) -> POP3ServerCore:
    core = POP3ServerCore(**({"secure": True, "token_scope": "mail"} | more))
    core.send(words.GREETING)
    return core


@pytest.mark.parametrize("feed", FEEDS)
def test_a_token(feed: Callable[[POP3ServerCore, bytes], list[Event]]) -> None:
    core = with_tokens()
    assert "SASL PLAIN OAUTHBEARER XOAUTH2" in capabilities(core)
    assert feed(core, b"AUTH OAUTHBEARER " + token(b"t") + b"\r\n") == [shown(b"t")]
    assert core.state is State.TRANSACTION
    core = with_tokens()
    assert feed(core, b"auth oauthbearer\r\n" + token(b"t") + b"\r\n") == [Answered(words.CHALLENGE), shown(b"t")]
    assert core.state is State.TRANSACTION


@pytest.mark.parametrize(
    ("said", "refusal"),
    [(b"AQ==", words.AUTH_FAILED), (b"", words.AUTH_FAILED), (b"QUIT", words.AUTH_FAILED), (b"*", words.AUTH_CANCELLED)],
)
def test_a_token_that_is_refused(said: bytes, refusal: POP3Reply) -> None:
    core = with_tokens()
    core.receive(b"AUTH OAUTHBEARER " + token(b"t") + b"\r\n" + said + b"\r\nCAPA\r\n")
    assert core.next_event() == shown(b"t")
    assert core.send(words.AUTH_FAILED) == b"+ " + base64.b64encode(b'{"status": "invalid_token", "scope": "mail"}') + b"\r\n"
    assert core.state is State.SASL
    assert core.next_event() == Refused(refusal)
    assert core.send(refusal).startswith(b"-ERR")
    assert core.state is State.AUTHORIZATION
    assert isinstance(core.next_event(), Answered)


@pytest.mark.parametrize("reply", [words.LOGIN_UNAVAILABLE, words.IN_USE, words.LOCAL_ERROR, words.TOO_MANY_FAILURES])
def test_what_is_no_refusal_of_the_token_is_said_at_once(reply: POP3Reply) -> None:
    core = with_tokens()
    core.receive(b"AUTH OAUTHBEARER " + token(b"t") + b"\r\n")
    assert core.next_event() == shown(b"t")
    assert core.send(reply).startswith(b"-ERR")
    assert core.state is (State.CLOSED if reply.closes else State.AUTHORIZATION)
    if not reply.closes:
        assert ask(core, b"AUTH PLAIN " + plain(b"a", b"b") + b"\r\n") == [Login(b"a", b"b")]


def test_a_refused_password_is_no_refused_token() -> None:
    core = with_tokens()
    core.receive(b"AUTH OAUTHBEARER " + token(b"t") + b"\r\n\r\nAUTH PLAIN " + plain(b"a", b"b") + b"\r\n")
    for reply in (words.AUTH_FAILED, words.AUTH_FAILED, words.AUTH_FAILED):
        core.next_event()
        said = core.send(reply)
    assert said == b"-ERR [AUTH] Authentication failed\r\n"


def test_no_token_and_none_in_the_clear() -> None:
    empty = base64.b64encode(b"n,,\1auth=\1\1")
    events = ask(with_tokens(), b"AUTH OAUTHBEARER " + empty + b"\r\nAQ==\r\n")
    assert events[1:] == [Refused(words.AUTH_FAILED)]
    core = with_tokens(secure=False, require_tls=False)
    assert capabilities(core) >= LOGIN
    assert ask(core, b"AUTH OAUTHBEARER " + token(b"t") + b"\r\n") == [Refused(words.UNKNOWN_MECHANISM)]
    assert ask(with_tokens(secure=False), b"AUTH OAUTHBEARER x\r\n") == [Refused(words.TLS_NEEDED)]


def test_external_where_a_certificate_was_shown() -> None:
    core = fresh()
    assert ask(core, b"AUTH EXTERNAL =\r\n") == [Refused(words.UNKNOWN_MECHANISM)]
    core.certificate_shown()
    assert "SASL EXTERNAL PLAIN" in capabilities(core)
    name = base64.b64encode(b"alice")
    assert ask(core, b"AUTH EXTERNAL !!\r\n") == [Refused(words.BAD_AUTH_RESPONSE)]
    core.receive(b"AUTH EXTERNAL " + name + b"\r\n")
    assert core.next_event() == Certify(External(b"alice"))
    assert core.send(words.AUTH_FAILED) == b"-ERR [AUTH] Authentication failed\r\n"
    assert ask(core, b"AUTH EXTERNAL\r\n\r\n") == [Answered(words.CHALLENGE), Certify(External())]
    assert core.state is State.TRANSACTION


def test_tls_forgets_what_was_said_before() -> None:
    core = fresh(secure=False, tls_offered=True, require_tls=False)
    assert ask(core, b"USER a\r\nSTLS\r\n") == [Answered(words.USER_OK), Order(Verb.STLS)]
    assert core.state is State.STARTING_TLS
    core.receive(b"PASS b\r\n")
    assert core.next_event() is NEED_OCTETS
    core.tls_started()
    assert ask(core, b"PASS b\r\nSTLS\r\n") == [Refused(words.BAD_STATE), Refused(words.TLS_ACTIVE)]
    assert "STLS" not in capabilities(core)


@pytest.mark.parametrize("behind", [b"USER a\r\nPASS b\r\n", b"US", b"\r", b"\x16\x03\x01"])
def test_octets_behind_stls_are_an_attack(behind: bytes) -> None:
    core = fresh(secure=False, tls_offered=True)
    assert ask(core, b"STLS\r\n" + behind) == [Refused(words.TLS_INJECTION)]
    assert core.state is State.CLOSED
    assert core.waiting_octets == 0


def test_stls_can_fail() -> None:
    core = fresh(secure=False, tls_offered=True)
    core.receive(b"STLS\r\n")
    core.next_event()
    core.send(words.TLS_UNAVAILABLE)
    assert core.state is State.AUTHORIZATION


def test_tls_does_not_start_by_itself() -> None:
    with pytest.raises(LocalProtocolError):
        fresh(secure=False, tls_offered=True).tls_started()


@pytest.mark.parametrize("size", [12_290, 12_291, 12_292, 20_000, 1_000_000])
def test_a_line_without_end_costs_bounded_memory_and_one_refusal(size: int) -> None:
    core = fresh()
    events = []
    for at in range(0, size, 1000):
        events += ask(core, b"x" * min(1000, size - at))
        assert core.waiting_octets <= 12_290
    events += ask(core, b"\r\nNOOP x\r\n")
    assert events == [Refused(words.LINE_TOO_LONG), Refused(words.EXTRA_ARGUMENT)]


def test_a_line_too_long_in_one_piece_is_refused() -> None:
    assert ask(fresh(), b"PASS " + b"x" * 20_000 + b"\r\nCAPA x\r\n")[:1] == [Refused(words.LINE_TOO_LONG)]


def test_a_message_is_stuffed_and_ended() -> None:
    core = logged_in()
    core.receive(b"RETR 1\r\n")
    core.next_event()
    assert core.send_message(ok("x"), b".a\r\n..\r\nb\r\n") == b"+OK x\r\n..a\r\n...\r\nb\r\n.\r\n"
    core.receive(b"RETR 1\r\nNOOP\r\n")
    core.next_event()
    assert core.send_message(ok("x"), b"") == b"+OK x\r\n.\r\n"


@pytest.mark.parametrize("border", [1, 2, 3, 4096, 8192, 16384, 65536])
def test_dots_at_borders_of_parts_are_stuffed(border: int) -> None:
    content = b"a" * (border - 2) + b"\r\n.\r\n..\r\n" + b"b" * 10 + b"\r\n" if border >= 2 else b".\r\n.\r\n"
    for shift in (-2, -1, 0, 1, 2, 3):
        core = logged_in()
        core.receive(b"RETR 1\r\nNOOP\r\n")
        core.next_event()
        cut = max(border + shift, 0)
        out = core.begin_lines(ok("x")) + core.send_lines(content[:cut])
        assert core.next_event() is AWAITING_REPLY
        assert not core.owes_reply
        out += core.send_lines(content[cut:]) + core.end_lines()
        sent = out.partition(b"\r\n")[2]
        assert sent.endswith(b"\r\n.\r\n")
        assert b"\r\n".join(line.removeprefix(b".") for line in sent[:-3].split(b"\r\n")) == content
        assert core.next_event() == Answered(words.NOOP_OK)


def test_replies_are_sent_only_where_one_is_owed() -> None:
    core = fresh()
    for call in (lambda: core.send(ok("x")), lambda: core.begin_lines(ok("x")), lambda: core.send_lines(b""), core.end_lines):
        with pytest.raises(LocalProtocolError):
            call()
    core.receive(b"QUIT\r\n")
    core.next_event()
    with pytest.raises(LocalProtocolError):
        core.interrupt(words.SHUTTING_DOWN)
    with pytest.raises(ValueError, match="continuation"):
        core.send(words.CHALLENGE)


@pytest.mark.parametrize("make", [fresh, logged_in, POP3ServerCore])
def test_a_session_can_be_ended_between_commands(make: Callable[[], POP3ServerCore]) -> None:
    core = make()
    core.receive(b"DELE")
    assert core.interrupt(words.SHUTTING_DOWN) == b"-ERR [SYS/TEMP] shutting down\r\n"
    assert core.state is State.CLOSED
    assert core.waiting_octets == 0


LOGINS = {Verb.USER, Verb.AUTH, Verb.STLS, Verb.CAPA, Verb.QUIT}
ALLOWED: dict[State, set[Verb | Step]] = {
    State.GREETING: {Step.GREET},
    State.AUTHORIZATION: set(LOGINS),
    State.USER_GIVEN: LOGINS | {Verb.PASS},
    State.SASL: {Step.RESPOND},
    State.STARTING_TLS: set(),
    State.TRANSACTION: set(Verb) - {Verb.USER, Verb.PASS, Verb.AUTH, Verb.STLS},
    State.CLOSED: set(),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", [*Verb, *Step])
def test_the_table_holds_what_may_come_where_and_no_more(state: State, move: Verb | Step) -> None:
    assert ((state, move) in RULES) == (move in ALLOWED[state])


@pytest.mark.parametrize(("key", "rule"), RULES.items(), ids=str)
def test_each_rule_leads_where_the_rfc_says(key: tuple[State, Verb | Step], rule: Rule) -> None:
    state, move = key
    logs_in = move in (Verb.PASS, Verb.AUTH, Step.RESPOND)
    if logs_in:
        assert rule.on_ok is State.TRANSACTION
    elif move is Verb.QUIT:
        assert (rule.on_ok, rule.on_err) == (State.CLOSED, State.CLOSED)
    elif state is State.TRANSACTION or move is Verb.CAPA:
        assert (rule.on_ok, rule.on_err) == (state, state)
    assert (rule.on_ok is State.TRANSACTION) == (logs_in or (state is State.TRANSACTION and move is not Verb.QUIT))
    assert next_state(rule, POP3Reply(words.Indicator.OK, "", closes=True)) is State.CLOSED


COMMANDS = {
    Verb.USER: b"USER a", Verb.PASS: b"PASS b", Verb.AUTH: b"AUTH PLAIN", Verb.RETR: b"RETR 1", Verb.DELE: b"DELE 1",
    Verb.TOP: b"TOP 1 1",
}  # fmt: skip


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("state", [State.AUTHORIZATION, State.USER_GIVEN, State.SASL, State.TRANSACTION])
def test_every_command_in_every_state(state: State, verb: Verb) -> None:
    core = logged_in() if state is State.TRANSACTION else fresh(secure=False, tls_offered=True, require_tls=False)
    ask(core, {State.USER_GIVEN: b"USER a\r\n", State.SASL: b"AUTH PLAIN\r\n"}.get(state, b""))
    assert core.state is state
    core.receive(COMMANDS.get(verb, verb.value.encode()) + b"\r\n")
    event = core.next_event()
    if state is State.SASL:
        assert event == Refused(words.BAD_AUTH_RESPONSE)
    else:
        assert (event == Refused(words.BAD_STATE)) == (verb not in ALLOWED[state])


OCTETS = st.lists(
    st.binary(max_size=30)
    | st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"1", b"*\r\n", b"x" * 13_000, plain(b"a", b"b") + b"\r\n"])
    | st.sampled_from([verb.value.encode() + tail for verb in Verb for tail in (b"", b" ", b"\r\n", b" 1\r\n", b" 1 1\r\n")])
    | st.sampled_from([b"AUTH PLAIN\r\n", b"USER a\r\nPASS b\r\n", b"AUTH PLAIN " + plain(b"a", b"b") + b"\r\n"])
    | st.sampled_from([b"AUTH SCRAM-SHA-256 ", base64.b64encode(b"n,,n=a,r=b") + b"\r\n"]),
    max_size=25,
)


@given(OCTETS, st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_octets_are_events_or_refusals(
    parts: list[bytes], secure: bool, tls_offered: bool, require_tls: bool, agree: bool
) -> None:
    core = POP3ServerCore(secure=secure, tls_offered=tls_offered, require_tls=require_tls, scram=True)
    core.send(words.GREETING)
    for octets in parts:
        core.receive(octets)
        while not isinstance(event := core.next_event(), Pause):
            if isinstance(event, Login):
                assert secure or not require_tls
            if isinstance(event, KeysWanted) and agree:
                event = core.give_keys(KEYS, "server")
            sent = answer(core, event) if agree or isinstance(event, Answered | Refused) else core.send(words.LOCAL_ERROR)
            assert sent.startswith((b"+OK", b"-ERR", b"+ "))
            assert sent.endswith(b"\r\n")
            if core.state is State.STARTING_TLS:
                core.tls_started()
                secure = True
        assert core.waiting_octets <= 12_290


LINES = [
    b"RETR 1\r\n",
    b"DELE 9999999999\r\n",
    b"RETR 1  \r\n",
    b"retr 1\r\n",
    b"RETR 0\r\n",
    b"RETR 99999999999\r\n",
    b"RETR\r\n",
    b"RETR \r\n",
    b"RETR x\r\n",
    b"RETR 1 2\r\n",
    b"RETR 1\n",
    b"RETR 1\n\r\n",
    b"RETR 1\r\r\n",
    b"RETR\r\n1\r\n",
    b"RETR 1\r\nSTAT\r\n",
    b"RETR 1",
    b"1\r\n",
    b"\r\n",
    b"STAT\r\n",
    b"PASS \r\n",
    b"RETR " + b"1" * 20_000,
    b"RETR 1\r\n" * 3,
    b"DELE 2\r\nRE",
    b"TR 3\r\n",
    b"QUIT\r\n",
]


def swiftly(core: POP3ServerCore, octets: bytes) -> list[Event]:
    """Feed as the shell does."""
    order = core.receive_order(octets)
    if order is None:
        return ask(core, octets)
    assert core.next_event() is AWAITING_REPLY
    assert core.receive_order(octets) is None
    answer(core, order)
    return [order, *drain(core)]


@given(st.lists(st.sampled_from(LINES), max_size=8))
@settings(max_examples=300, deadline=None)
def test_the_swift_way_of_a_command_gives_what_the_usual_one_gives(pieces: list[bytes]) -> None:
    usual, swift = logged_in(), logged_in()
    for piece in pieces:
        assert swiftly(swift, piece) == ask(usual, piece)
        assert (swift.state, swift.waiting_octets, swift.owes_reply) == (usual.state, usual.waiting_octets, usual.owes_reply)


@pytest.mark.parametrize("octets", [b"RETR 1\r\n", b"DELE 10\r\n"])
def test_the_swift_way_is_taken(octets: bytes) -> None:
    assert logged_in().receive_order(octets) is not None
    assert fresh().receive_order(octets) is None
