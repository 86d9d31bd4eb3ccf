"""The core of the SMTP server, beyond its dialogues: the whole table, bounds, and anything at all as input."""

from __future__ import annotations

import base64
import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smtp_dialogue import GREETING, Session, split_replies

from mailstack.mail import reply as replies
from mailstack.mail.address import Address
from mailstack.mail.reply import Reply
from mailstack.mail.requests import OriginalRecipient
from mailstack.wire.errors import LocalProtocolError, SaslMalformedError
from mailstack.wire.events import AWAITING_REPLY, NEED_OCTETS
from mailstack.wire.grammar import decode_xtext
from mailstack.wire.limits import Limits
from mailstack.wire.sasl import LoginExchange, PlainExchange, plain_initial_response
from mailstack.wire.smtp_commands import (
    Answered,
    ChunkEnd,
    Command,
    ContentChunk,
    ContentEnd,
    Data,
    Mail,
    Rcpt,
    Refused,
    Verb,
    parse_command,
)
from mailstack.wire.smtp_server import SMTPServerCore
from mailstack.wire.smtp_table import REFUSAL, RULES, Role, Rule, State, Step, next_state, out_of_place

LINES = {
    Verb.HELO: b"HELO c",
    Verb.EHLO: b"EHLO c",
    Verb.LHLO: b"LHLO c",
    Verb.MAIL: b"MAIL FROM:<a@example.com>",
    Verb.RCPT: b"RCPT TO:<b@example.org>",
    Verb.AUTH: b"AUTH PLAIN",
    Verb.HTTP: b"GET / HTTP/1.0",
    Verb.BDAT: b"BDAT 0",
}
ROAD = {
    State.START: [],
    State.READY: [Verb.EHLO],
    State.SENDER: [Verb.EHLO, Verb.MAIL],
    State.RECIPIENTS: [Verb.EHLO, Verb.MAIL, Verb.RCPT],
    State.CONTENT: [Verb.EHLO, Verb.MAIL, Verb.RCPT, Verb.DATA],
    State.CHUNKS: [Verb.EHLO, Verb.MAIL, Verb.RCPT, Verb.BDAT],
}
ALLOWED = {
    State.START: "HELO EHLO NOOP VRFY HELP QUIT RSET STARTTLS",
    State.READY: "HELO EHLO NOOP VRFY HELP QUIT RSET STARTTLS MAIL",
    State.SENDER: "HELO EHLO NOOP VRFY HELP QUIT RSET RCPT",
    State.RECIPIENTS: "HELO EHLO NOOP VRFY HELP QUIT RSET RCPT DATA BDAT",
    State.CHUNKS: "HELO EHLO NOOP VRFY HELP QUIT RSET BDAT",
}
AFTER = {
    (State.START, "EHLO"): State.READY,
    (State.START, "HELO"): State.READY,
    (State.READY, "MAIL"): State.SENDER,
    (State.SENDER, "RCPT"): State.RECIPIENTS,
    (State.RECIPIENTS, "DATA"): State.CONTENT,
    (State.RECIPIENTS, "BDAT"): State.CHUNKS,
} | {
    (state, verb): State.READY for state in (State.SENDER, State.RECIPIENTS, State.CHUNKS) for verb in ("EHLO", "HELO", "RSET")
}


def a_core(
    role: Role = Role.MX, limits: Limits | None = None, *, tls_active: bool = False, scram: bool = False
) -> SMTPServerCore:
    return SMTPServerCore(role, limits or Limits(), "mx.example.org", tls_active=tls_active, tls_available=True, scram=scram)


def session_in(state: State) -> Session:
    session = Session(a_core())
    for verb in ROAD[state]:
        session.feed(LINES.get(verb, verb.value.encode()) + b"\r\n")
    assert session.core.state is state
    session.output = b""
    return session


class TestTable:
    @pytest.mark.parametrize(("state", "verb"), list(itertools.product(ALLOWED, Verb)))
    def test_full_product_of_states_and_verbs_at_the_mx(self, state: State, verb: Verb) -> None:
        session = session_in(state)
        session.feed(LINES.get(verb, verb.value.encode()) + b"\r\n")
        code = int(session.output[:3])
        if verb is Verb.HTTP:
            assert session.core.closed
        elif verb.value in ALLOWED[state].split():
            assert code < 400
            moved = {Verb.QUIT: State.CLOSED, Verb.STARTTLS: State.STARTING_TLS}.get(verb)
            assert session.core.state is (moved or AFTER.get((state, verb.value), state))
        else:
            assert code >= 500
            assert session.core.state is state
            assert isinstance(session.events[-1], Answered if verb is Verb.BDAT else Refused)

    @pytest.mark.parametrize(("state", "verb"), list(itertools.product(State, [*Verb, *Step])))
    def test_every_rule_leads_somewhere_or_is_refused(self, state: State, verb: Verb | Step) -> None:
        rule = RULES.get((state, verb))
        if rule is None:
            assert isinstance(verb, Step) or out_of_place(state, verb).is_permanent
        else:
            for code in (250, 354, 450, 550):
                assert isinstance(next_state(state, rule, Reply(code, ("x",))), State)
            assert next_state(state, rule, replies.SHUTTING_DOWN) is State.CLOSED

    def test_a_refusal_moves_nothing(self) -> None:
        assert Rule() == REFUSAL
        for state in State:
            assert next_state(state, REFUSAL, replies.BAD_SEQUENCE) is state

    def test_nothing_leads_out_of_the_end(self) -> None:
        for verb in [*Verb, *Step]:
            assert (State.CLOSED, verb) not in RULES
            assert (State.STARTING_TLS, verb) not in RULES


class TestReplies:
    def test_no_event_while_a_reply_is_owed(self) -> None:
        core = a_core()
        assert core.next_event() is AWAITING_REPLY
        core.send(GREETING)
        core.receive(b"EHLO c\r\nNOOP\r\n")
        core.next_event()
        assert core.owes_reply
        assert core.next_event() is AWAITING_REPLY
        assert core.pending == 6

    def test_no_reply_when_none_is_owed(self) -> None:
        core = a_core()
        core.send(GREETING)
        with pytest.raises(LocalProtocolError):
            core.send(replies.OK)

    def test_a_refused_greeting_ends_the_session(self) -> None:
        core = a_core()
        assert core.send(replies.TOO_MANY_CONNECTIONS).startswith(b"421 4.7.0")
        assert core.closed
        core.receive(b"EHLO c\r\n")
        assert core.next_event() is NEED_OCTETS
        assert core.pending == 0

    def test_421_ends_the_session_in_any_state(self) -> None:
        for state in ROAD:
            core = session_in(state).core
            assert core.end(replies.TIMED_OUT).startswith(b"421 4.4.2")
            assert core.closed

    def test_a_refused_command_leaves_the_session_where_it_was(self) -> None:
        for state, verb in (
            (State.START, Verb.EHLO),
            (State.READY, Verb.MAIL),
            (State.SENDER, Verb.RCPT),
            (State.RECIPIENTS, Verb.DATA),
            (State.READY, Verb.STARTTLS),
        ):
            core = session_in(state).core
            core.receive(LINES.get(verb, verb.value.encode()) + b"\r\n")
            core.next_event()
            core.send(replies.LOCAL_ERROR)
            assert core.state is state

    def test_tls_out_of_place(self) -> None:
        with pytest.raises(LocalProtocolError):
            session_in(State.READY).core.tls_started()

    def test_octets_that_come_while_the_220_is_made(self) -> None:
        core = session_in(State.READY).core
        core.receive(b"STARTTLS\r\n")
        core.next_event()
        core.receive(b"MAIL FROM:<evil@example.com>\r\n")
        assert core.send(replies.START_TLS).startswith(b"503")
        assert core.closed

    def test_octets_that_come_before_tls_are_forgotten(self) -> None:
        core = session_in(State.READY).core
        core.receive(b"STARTTLS\r\n")
        core.next_event()
        core.send(replies.START_TLS)
        core.receive(b"EH")
        assert core.next_event() is NEED_OCTETS
        core.tls_started()
        core.receive(b"LO c\r\n")
        assert core.next_event() == Refused(replies.UNKNOWN_COMMAND)

    @pytest.mark.parametrize("chunk", [b"BDAT 2 LAST\r\n\r\n", b"BDAT 1 LAST\r\nx", b"BDAT 2\r\n\r\n"])
    def test_what_comes_while_the_end_of_a_chunk_is_taken_is_kept(self, chunk: bytes) -> None:
        core = session_in(State.RECIPIENTS).core
        core.receive(chunk)
        assert isinstance(core.next_event(), Data)
        core.send(replies.START_CONTENT)
        while isinstance(event := core.next_event(), ContentChunk):
            core.receive(b"NO" if core.pending == 0 else b"OP\r\n")
        assert isinstance(event, ContentEnd | ChunkEnd)
        core.send(replies.OK)
        core.receive(b"OP\r\n" if core.pending == 2 else b"")
        assert core.next_event() == Answered(replies.OK)

    def test_a_refused_chunk_ends_the_transaction(self) -> None:
        core = session_in(State.RECIPIENTS).core
        core.receive(b"BDAT 2\r\n\r\nBDAT 2 LAST\r\n\r\n")
        assert isinstance(core.next_event(), Data)
        core.send(replies.START_CONTENT)
        assert isinstance(core.next_event(), ContentChunk)
        assert isinstance(core.next_event(), ChunkEnd)
        assert core.send(replies.LOCAL_ERROR).startswith(b"451")
        assert core.state is State.READY
        assert core.next_event() == Answered(replies.BAD_SEQUENCE)


class TestValues:
    def test_mail_and_rcpt(self) -> None:
        session = session_in(State.READY)
        session.feed(b"MAIL FROM:<A@Example.COM> SIZE=5 body=8bitmime\r\nRCPT TO:<postmaster>\r\n")
        mail, rcpt = session.events[-2:]
        assert isinstance(mail, Mail)
        assert (mail.reverse_path, mail.size_octets, mail.body.value) == (Address("A", "example.com"), 5, "8BITMIME")
        assert mail.parameters == {"SIZE": "5", "BODY": "8bitmime"}
        assert rcpt == Rcpt(Address("postmaster", ""))

    def test_an_original_recipient_is_the_same_in_utf8_and_in_ascii(self) -> None:
        session = session_in(State.READY)
        session.feed(b"MAIL FROM:<> SMTPUTF8\r\n")
        forms = ("bö\\x{2B}甲@y", "b\\x{F6}+2B\\x{7532}@y", "b\\x{F6}\\x{2B}甲@y", "b+5Cx{F6}\\x{2B}甲@y")
        for form in forms:
            session.feed(f"RCPT TO:<b@example.org> ORCPT=utf-8;{form}\r\n".encode())
        recipients = [event.original_recipient for event in session.events if isinstance(event, Rcpt)]
        assert recipients == [OriginalRecipient("utf-8", "bö+甲@y")] * len(forms)

    def test_an_original_recipient_is_bounded_in_octets(self) -> None:
        session = session_in(State.READY)
        session.feed(b"MAIL FROM:<> SMTPUTF8\r\n")
        for count, code in ((246, "250"), (247, "501")):
            session.feed("RCPT TO:<b@example.org> ORCPT=utf-8;{}@\r\n".format("é" * count).encode())
            assert split_replies(session.output)[-1][0][:3] == code

    def test_spaces_at_the_end_of_a_line(self) -> None:
        assert parse_command(b"DATA   ") == Command(Verb.DATA)

    def test_xtext(self) -> None:
        assert decode_xtext(b"a+2Bb+3Dc+20d+FF") == b"a+b=c d\xff"
        assert decode_xtext(b"a+0D") is None
        assert decode_xtext(b"a+0d") is None
        assert decode_xtext(b"a b") is None

    def test_sasl_client_and_server_agree(self) -> None:
        said = PlainExchange().step(plain_initial_response("älice", "pässword"))
        assert (said.username.decode(), said.password.decode(), said.acts_for_other) == ("älice", "pässword", False)  # type: ignore[union-attr]
        assert "password" not in repr(said).replace("password=", "")
        login = LoginExchange()
        login.step(None)
        username, password = base64.b64encode(b"alice"), base64.b64encode(b"secret")
        login.step(username)
        assert login.step(password).password == b"secret"  # type: ignore[union-attr]

    def test_sasl_line_is_bounded(self) -> None:
        with pytest.raises(SaslMalformedError):
            PlainExchange().step(b"A" * 12_289)


class TestBounds:
    def test_an_endless_command_line(self) -> None:
        session = Session(a_core())
        for _ in range(100):
            session.feed(b"x" * 10_000)
            assert session.core.pending < 20_000
        assert [line[0][:3] for line in split_replies(session.output)] == ["220", "500", "500"]
        assert session.core.closed

    def test_a_long_command_line_is_refused_once(self) -> None:
        session = Session(a_core())
        session.feed(b"EHLO " + b"x" * 3000 + b"\r\nNOOP\r\n")
        assert [line[0][:3] for line in split_replies(session.output)] == ["220", "500", "250"]

    @pytest.mark.parametrize("cut", [1, 10_000])
    def test_a_long_line_that_begins_a_chunk_ends_the_session(self, cut: int) -> None:
        session = session_in(State.RECIPIENTS)
        octets = b"bdat" + b" " * 3000 + b"6 LAST\r\nQUIT\r\n"
        for start in range(0, len(octets), cut):
            session.feed(octets[start : start + cut])
        assert session.output.startswith(b"500 ")
        assert len(split_replies(session.output)) == 1
        assert session.core.closed

    def test_an_over_long_line_of_an_exchange_ends_the_exchange(self) -> None:
        session = Session(a_core(Role.SUBMISSION, tls_active=True))
        session.feed(b"EHLO c\r\nAUTH PLAIN\r\n" + b"A" * 12_000)
        assert session.core.state is State.EXCHANGE
        session.feed(b"A" * 1000 + b"\r\nNOOP\r\n")
        assert [line[0][:9] for line in split_replies(session.output)][-2:] == ["500 5.5.6", "250 2.0.0"]

    def test_a_line_of_a_content_may_have_any_length(self) -> None:
        session = session_in(State.CONTENT)
        for _ in range(10):
            session.feed(b"x" * 30_000)
        session.feed(b"\r\n.\r\n")
        assert session.messages == [b"x" * 300_000 + b"\r\n"]

    def test_twice_the_limit_closes(self) -> None:
        session = Session(a_core(limits=Limits(message_octets=1000)))
        session.feed(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
        session.feed(b"x" * 1500)
        assert not session.core.closed
        session.feed(b"x" * 1500)
        assert session.core.closed
        assert session.output.endswith(b"552 5.3.4 Message size exceeds the limit\r\n")
        assert not any(isinstance(each, ContentEnd) for each in session.events)

    def test_no_chunk_comes_after_a_refusal_is_certain(self) -> None:
        session = session_in(State.CONTENT)
        session.feed(b"good\r\n")
        session.feed(b"bad\nbad")
        session.feed(b"good\r\n.\r\n")
        assert [each.octets for each in session.events if isinstance(each, ContentChunk)] == [b"good"]
        assert session.events[-1] == ContentEnd(19, 1, replies.BARE_NEWLINE)

    def test_a_thousand_transactions_leave_nothing(self) -> None:
        session = session_in(State.READY)
        before = vars(session.core).keys()
        for _ in range(1000):
            session.feed(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
            session.feed(b"x\r\n.\r\n")
        assert len(session.messages) == 1000
        assert vars(session.core).keys() == before
        assert session.core.pending == 0

    @pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 100000\r\n"])
    def test_a_content_octet_by_octet_takes_linear_time(self, begin: bytes) -> None:
        session = session_in(State.RECIPIENTS)
        session.feed(begin)
        start = time.process_time()
        for _ in range(50_000):
            session.feed(b".")
            session.feed(b"x")
        assert time.process_time() - start < 5  # takes 0.3 s
        assert session.core.pending <= 5

    def test_hostile_lines_take_no_time(self) -> None:
        start = time.process_time()
        for line in (
            b"MAIL FROM:a" + b" " * 2000 + b"x",
            b"MAIL FROM:<" + b"a." * 900 + b"@b>",
            b'MAIL FROM:<"' + b"\\a" * 900,
            b"MAIL FROM:<" + b'"a"' * 600,
            b"RCPT TO:<" + b"@a," * 600 + b":x@y>",
            b"MAIL FROM:<a@b.example> " + b"A=B " * 500,
            b"a" + b" " * 2000 + b"b",
        ):
            session = session_in(State.READY)
            session.feed(line[:2040] + b"\r\n")
            assert session.core.state in (State.READY, State.SENDER)
        assert time.process_time() - start < 0.5


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"EHLO c\r\n",
            b"LHLO c\r\n",
            b"MAIL FROM:<a@example.com>\r\n",
            b"MAIL FROM:<a@example.com> SIZE=9999\r\n",
            b"RCPT TO:<b@example.org>\r\n",
            b"RCPT TO:<unknown@example.org>\r\n",
            b"DATA\r\n",
            b"BDAT 5\r\n",
            b"BDAT 6 LAST\r\ntext\r\n",
            b"BDAT 0 LAST\r\n",
            b".\r\n",
            b"\r\n.\r\n",
            b"text\r\n",
            b"\n",
            b"\r",
            b"RSET\r\n",
            b"NOOP\r\n",
            b"QUIT\r\n",
            b"STARTTLS\r\n",
            b"AUTH PLAIN\r\n",
            b"AUTH LOGIN\r\n",
            b"AUTH SCRAM-SHA-256\r\n",
            b"AUTH SCRAM-SHA-256 biwsbj1hLHI9Yg==\r\n",
            b"biwsbj1hLHI9Yg==\r\n",
            b"*\r\n",
            b"AGFsaWNlAHNlY3JldA==\r\n",
            b"x" * 3000,
            b"\xff\xfe",
        ]
    ),
)


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(PIECES, max_size=40), role=st.sampled_from(Role), secure=st.booleans())
def test_whatever_comes_is_an_event_and_every_reply_is_in_its_place(pieces: list[bytes], role: Role, secure: bool) -> None:
    session = Session(a_core(role, Limits(message_octets=5000, recipients=3), tls_active=secure, scram=True))
    for piece in pieces:
        session.feed(piece)
        if session.core.state is State.STARTING_TLS:
            session.core.tls_started()
        assert not session.core.owes_reply
        assert session.core.pending <= 13_000
    answered = sum(
        each.replies if isinstance(each, ContentEnd) else 0 if isinstance(each, ContentChunk) else 1 for each in session.events
    )
    assert len(split_replies(session.output)) == answered + 1 - session.unanswered
    assert session.core.closed or all(not isinstance(each, Refused) or not each.closes for each in session.events)


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(PIECES, max_size=30), role=st.sampled_from(Role))
def test_the_cut_does_not_matter(pieces: list[bytes], role: Role) -> None:
    octets = b"".join(pieces).replace(b"STARTTLS", b"NOOP")
    whole, single = (Session(a_core(role, Limits(message_octets=100_000))) for _ in range(2))
    whole.feed(octets)
    for i in range(len(octets)):
        single.feed(octets[i : i + 1])
    assert whole.output == single.output
    assert whole.messages == single.messages


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(PIECES, max_size=30), role=st.sampled_from(Role), size=st.sampled_from([1, 2, 5, 20]))
def test_what_comes_before_an_answer_is_what_comes_after_it(pieces: list[bytes], role: Role, size: int) -> None:
    octets = b"".join(pieces).replace(b"STARTTLS", b"NOOP")
    whole, slow = (Session(a_core(role, Limits(message_octets=100_000))) for _ in range(2))
    whole.feed(octets)
    slow.feed_ahead([octets[i : i + size] for i in range(0, len(octets), size)])
    assert whole.output == slow.output
    assert whole.messages == slow.messages


@pytest.mark.parametrize("rest", [b"", b"\x03\x01\r\n", b"x" * 5_000, b"x" * 5_000 + b"\r\n"])
@pytest.mark.parametrize("state", [State.START, State.READY, State.RECIPIENTS])
def test_tls_in_the_clear_is_known_however_it_is_cut(state: State, rest: bytes) -> None:
    octets = b"\x16" + rest
    whole, single = session_in(state), session_in(state)
    whole.feed(octets)
    for i in range(len(octets)):
        single.feed(octets[i : i + 1])
    assert whole.output == single.output
    assert whole.output.endswith(b"421 4.7.0 This is not what you seek\r\n")
    assert whole.core.closed


def test_data_is_an_event_of_its_own() -> None:
    assert Data() in session_in(State.CONTENT).events
