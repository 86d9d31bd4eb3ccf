"""Any octets in any pieces, and any replies at any time, against the model of the POP3 server."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuzz.pop3_server import Conversation, fitting
from mailstack.wire.pop3_commands import Prove, Show

# What a client of SCRAM shows who has the password of fuzz.exchanges, and one who has another.
RIGHT = b"Yz1iaXdzLHI9Y3MscD01eDJLUkJxeVpZNm5zeG9uVXhUUUNCejNFUXRRMldCWHJyNlVvT0xCdGxZPQ==\r\n"
WRONG = b"Yz1iaXdzLHI9Y3MscD11aGFKTTlZUXpGU3pqZ0xHVWkwYzljb2QvN0pVbCtQMG1UbWZ6cXFFNHlRPQ==\r\n"
COMMANDS = [
    b"USER a\r\n",
    b"PASS  b \r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AGEAYg==\r\n",
    b"AUTH X\r\n",
    b"*\r\n",
    b"AUTH SCRAM-SHA-256 biwsbj11LHI9Yw==\r\n",
    RIGHT,
    WRONG,
    b"\r\n",
    b"AUTH OAUTHBEARER bixhPWEsAWF1dGg9QmVhcmVyIHQBAQ==\r\n",
    b"AUTH OAUTHBEARER biwsAWF1dGg9AQE=\r\n",
    b"AUTH XOAUTH2\r\n",
    b"AUTH EXTERNAL =\r\n",
    b"AUTH EXTERNAL\r\n",
    b"dXNlcj1hAWF1dGg9QmVhcmVyIHQBAQ==\r\n",
    b"AQ==\r\n",
    b"STLS\r\n",
    b"CAPA\r\n",
    b"STAT\r\n",
    b"LIST\r\n",
    b"UIDL 1\r\n",
    b"RETR 1\r\n",
    b"RETR 0\r\n",
    b"TOP 1 0\r\n",
    b"DELE 1\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
]
PIECES = [b"\r", b"\n", b"\r\n", b"RETR", b" ", b"1", b"\0", b"\xff", b"\r\nQUIT\r\n"]


class POP3ServerMachine(RuleBasedStateMachine):
    @initialize(secure=st.booleans(), tls_offered=st.booleans(), require_tls=st.booleans(), knows_more=st.booleans())
    def connect(self, secure: bool, tls_offered: bool, require_tls: bool, knows_more: bool) -> None:
        self.conversation = Conversation(secure=secure, tls_offered=tls_offered, require_tls=require_tls, knows_more=knows_more)

    @rule(octets=st.sampled_from(COMMANDS) | st.lists(st.sampled_from(PIECES)).map(b"".join) | st.binary(max_size=20))
    def say(self, octets: bytes) -> None:
        self.conversation.receive(octets)

    @rule(octets=st.sampled_from(COMMANDS), cut=st.integers(1, 10))
    def say_half(self, octets: bytes, cut: int) -> None:
        self.conversation.receive(octets[:cut])

    @rule(octets=st.sampled_from(COMMANDS))
    def say_swiftly(self, octets: bytes) -> None:
        self.conversation.receive(octets, swiftly=not self.conversation.owes)

    @rule(count=st.sampled_from([513, 12_288, 12_289, 70_000]), octet=st.sampled_from([b"x", b"\r", b"\n"]))
    def say_much(self, count: int, octet: bytes) -> None:
        self.conversation.receive(octet * count)

    @rule(in_one=st.booleans())
    def log_in(self, in_one: bool) -> None:
        self.conversation.receive(b"AUTH PLAIN AGEAYg==\r\n" if in_one else b"USER a\r\nPASS b\r\n")

    @rule(octets=st.sampled_from(COMMANDS) | st.binary(max_size=4).map(lambda octets: octets + b"\r\n"))
    def exchange(self, octets: bytes) -> None:
        self.conversation.receive(b"AUTH PLAIN\r\n" + octets)
        while self.conversation.owes or self.conversation.look():
            self.give(0, 0)

    @rule(last=st.sampled_from([RIGHT, WRONG, b"*\r\n"]), which=st.integers(0, 3))
    def prove(self, last: bytes, which: int) -> None:
        self.conversation.receive(b"AUTH SCRAM-SHA-256 biwsbj11LHI9Yw==\r\n" + last + b"\r\n")
        self.agree_but_to_the_login(which)

    @rule(answer=st.sampled_from([b"AQ==\r\n", b"*\r\n", b"QUIT\r\n"]), which=st.integers(0, 3))
    def show_a_token(self, answer: bytes, which: int) -> None:
        self.conversation.receive(b"AUTH OAUTHBEARER bixhPWEsAWF1dGg9QmVhcmVyIHQBAQ==\r\n" + answer)
        self.agree_but_to_the_login(which)

    def agree_but_to_the_login(self, which: int) -> None:
        while self.conversation.owes or self.conversation.look():
            self.give(which if isinstance(self.conversation.event, Prove | Show) else 0, 0)

    @rule(late=st.sampled_from([b"", b"U", b"\r\n", b"USER a\r\n"]))
    def ask_for_tls(self, late: bytes) -> None:
        if not self.conversation.owes:
            self.conversation.receive(b"STLS\r\n")
            self.conversation.look()
        self.conversation.receive(late)

    @rule()
    def look(self) -> None:
        if not self.conversation.owes:
            self.conversation.look()

    @precondition(lambda self: self.conversation.owes)
    @rule(which=st.integers(0, 3), way=st.integers(0, 3))
    def answer(self, which: int, way: int) -> None:
        self.give(which, way)

    @rule(way=st.integers(0, 3))
    def agree_to_everything(self, way: int) -> None:
        while self.conversation.owes or self.conversation.look():
            self.give(0, way)

    def give(self, which: int, way: int) -> None:
        event = self.conversation.event
        assert event is not None
        fit = fitting(event)
        self.conversation.answer(fit[which % len(fit)], way)

    @rule()
    def start_tls(self) -> None:
        self.conversation.start_tls()

    @rule(really=st.integers(0, 9))
    def shut_down(self, really: int) -> None:
        if really == 9:
            self.conversation.interrupt()

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        self.conversation.check_memory()


POP3ServerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPOP3ServerMachine = POP3ServerMachine.TestCase
