"""Any octets in any pieces, and any replies at any time, against the model of the SMTP server."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuzz.smtp_server import SMALL, Conversation, fitting
from mailstack.mail import reply as replies
from mailstack.mail.reply import reply
from mailstack.wire.errors import LocalProtocolError
from mailstack.wire.events import NEED_OCTETS
from mailstack.wire.limits import BareNewline, Limits
from mailstack.wire.smtp_server import SMTPServerCore
from mailstack.wire.smtp_table import Role, State

NORMALISING = Limits(
    message_octets=200, command_line_octets=100, sasl_octets=120, recipients=3, bare_newline=BareNewline.NORMALISE
)
# What a client of SCRAM shows who has the password of fuzz.exchanges, and one who has another.
RIGHT = b"Yz1iaXdzLHI9Y3MscD01eDJLUkJxeVpZNm5zeG9uVXhUUUNCejNFUXRRMldCWHJyNlVvT0xCdGxZPQ==\r\n"
WRONG = b"Yz1iaXdzLHI9Y3MscD11aGFKTTlZUXpGU3pqZ0xHVWkwYzljb2QvN0pVbCtQMG1UbWZ6cXFFNHlRPQ==\r\n"
COMMANDS = [
    b"EHLO x\r\n",
    b"LHLO x\r\n",
    b"MAIL FROM:<a@b.example>\r\n",
    b"MAIL FROM:<> SIZE=10\r\n",
    b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n",
    b"RCPT TO:<c@d.example>\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"QUIT\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH LOGIN\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AGEAYg==\r\n",
    b"YQ==\r\n",
    b"*\r\n",
    b"AUTH EXTERNAL =\r\n",
    b"AUTH SCRAM-SHA-256 biwsbj11LHI9Yw==\r\n",
    RIGHT,
    WRONG,
    b"\r\n",
    b"AUTH OAUTHBEARER bixhPWEsAWF1dGg9QmVhcmVyIHQBAQ==\r\n",
    b"AUTH OAUTHBEARER biwsAWF1dGg9AQE=\r\n",
    b"AUTH XOAUTH2 dXNlcj1hAWF1dGg9QmVhcmVyIHQBAQ==\r\n",
    b"dXNlcj1hAWF1dGg9QmVhcmVyIHQBAQ==\r\n",
    b"AQ==\r\n",
    b"NOOP " + b"x" * 100 + b"\r\n",
    b"BDAT\r\n",
    b"BDAT 9\tLAST\r\n",
    b"BDAT 999\r\n",
    b"GET / HTTP/1.0\r\n",
    b"\x16\x03\x01",
]
PIECES = [b"\r", b"\n", b"\r\n", b".", b"..", b"\r\n.\r\n", b"\n.\r\n", b"\r\n.\n", b"x", b"\xff", b"BDAT 3\r\n", b"QUIT\r\n"]
CLEAN = [b"x", b"\r\n", b".", b"..", b"QUIT\r\n", b"BDAT 3\r\n", b"\r\n..\r\n"]
BINARY = [
    b"Content-Transfer-Encoding: binary\r\n",
    b"Content-Type: multipart/x; boundary=b\r\n",
    b"\r\n",
    b"--b\r\n",
    b"\n",
    b"x",
]
CONTENTS = st.one_of(st.lists(st.sampled_from(each), max_size=12).map(b"".join) for each in (CLEAN, PIECES, BINARY))


class SMTPServerMachine(RuleBasedStateMachine):
    @initialize(
        role=st.sampled_from(Role),
        limits=st.sampled_from([SMALL, NORMALISING]),
        tls=st.booleans(),
        offers=st.booleans(),
        knows_more=st.booleans(),
    )
    def connect(self, role: Role, limits: Limits, tls: bool, offers: bool, knows_more: bool) -> None:
        self.role = role
        self.conversation = Conversation(role, limits, tls=tls, tls_available=offers, knows_more=knows_more)

    @rule(octets=st.sampled_from(COMMANDS) | CONTENTS | st.binary(max_size=20))
    def say(self, octets: bytes) -> None:
        self.conversation.receive(octets)

    @rule(
        octets=st.lists(st.sampled_from(COMMANDS), max_size=8).map(b"".join), events=st.integers(0, 8), which=st.integers(0, 3)
    )
    def say_commands(self, octets: bytes, events: int, which: int) -> None:
        self.conversation.receive(octets)
        self.agree_but_once(events, which)

    @rule(
        mechanism=st.sampled_from([b"PLAIN", b"LOGIN", b"EXTERNAL", b"SCRAM-SHA-256", b"OAUTHBEARER", b"XOAUTH2"]),
        octets=st.sampled_from([*COMMANDS, b"A" * 130]),
        which=st.integers(0, 3),
    )
    def authenticate(self, mechanism: bytes, octets: bytes, which: int) -> None:
        self.conversation.receive(b"RSET\r\nAUTH " + mechanism + b"\r\n" + octets)
        self.agree_but_once(2, which)

    @rule(last=st.sampled_from([RIGHT, WRONG, b"*\r\n"]), events=st.integers(1, 5), which=st.integers(0, 3))
    def prove(self, last: bytes, events: int, which: int) -> None:
        self.conversation.receive(b"EHLO x\r\nAUTH SCRAM-SHA-256 biwsbj11LHI9Yw==\r\n" + last + b"\r\n")
        self.agree_but_once(events, which)

    @rule(
        said=st.sampled_from([b"OAUTHBEARER bixhPWEsAWF1dGg9QmVhcmVyIHQBAQ==", b"XOAUTH2 dXNlcj1hAWF1dGg9QmVhcmVyIHQBAQ=="]),
        answer=st.sampled_from([b"AQ==\r\n", b"\r\n", b"*\r\n", b"QUIT\r\n"]),
        which=st.integers(0, 3),
    )
    def show_a_token(self, said: bytes, answer: bytes, which: int) -> None:
        self.conversation.receive(b"EHLO x\r\nAUTH " + said + b"\r\n" + answer)
        self.agree_but_once(1, which)

    @rule(octets=st.sampled_from(COMMANDS), cut=st.integers(1, 10))
    def say_half(self, octets: bytes, cut: int) -> None:
        self.conversation.receive(octets[:cut])

    @rule(count=st.sampled_from([90, 101, 121, 401, 70_000]), octet=st.sampled_from([b"x", b"\r", b"\n"]))
    def say_much(self, count: int, octet: bytes) -> None:
        self.conversation.receive(octet * count)

    @rule(
        recipients=st.integers(0, 4),
        content=CONTENTS,
        by_chunks=st.booleans(),
        body=st.sampled_from([b"", b" BODY=BINARYMIME"]),
        events=st.integers(0, 12),
        which=st.integers(0, 3),
    )
    def send_a_message(self, recipients: int, content: bytes, by_chunks: bool, body: bytes, events: int, which: int) -> None:
        hello = b"LHLO x\r\n" if self.role is Role.LMTP else b"EHLO x\r\n"
        login = b"AUTH PLAIN AGEAYg==\r\n" if self.role is Role.SUBMISSION else b""
        mail = b"MAIL FROM:<a@b.example>" + body + b"\r\n" + b"RCPT TO:<c@d.example>\r\n" * recipients
        if by_chunks:
            said = b"BDAT %d\r\n%bBDAT 2 LAST\r\n\r\n" % (len(content), content)
        else:
            said = b"DATA\r\n" + content + b"\r\n.\r\n"
        self.conversation.receive(hello + login + mail + said)
        self.agree_but_once(events, which)

    @rule(behind=st.sampled_from([b"", b"", b"E", b"\r\n", b"EHLO x\r\n"]), events=st.integers(0, 3), which=st.integers(0, 2))
    def ask_for_tls(self, behind: bytes, events: int, which: int) -> None:
        self.conversation.receive(b"RSET\r\nSTARTTLS\r\n" + behind)
        self.agree_but_once(events, which)

    @rule(octets=CONTENTS, last=st.sampled_from([b"", b" LAST"]), more=st.sampled_from([0, 0, 1, -1]))
    def say_a_chunk(self, octets: bytes, last: bytes, more: int) -> None:
        self.conversation.receive(b"BDAT %d%b\r\n%b" % (max(0, len(octets) + more), last, octets))

    @rule()
    def look(self) -> None:
        self.conversation.look()

    @precondition(lambda self: self.conversation.owed)
    @rule(which=st.integers(0, 3))
    def answer(self, which: int) -> None:
        self.give(which)

    @rule()
    def agree_to_everything(self) -> None:
        while self.conversation.owed or self.conversation.look():
            while self.conversation.owed:
                self.give(0)

    def agree_but_once(self, events: int, which: int) -> None:
        """Agree to so many events, and not to the next reply."""
        for _ in range(events):
            if not self.conversation.owed and not self.conversation.look():
                return
            while self.conversation.owed:
                self.give(0)
        while not self.conversation.owed:
            if not self.conversation.look():
                return
        self.give(which)

    def give(self, which: int) -> None:
        event = self.conversation.event
        assert event is not None
        fit = fitting(event)
        self.conversation.answer(fit[which % len(fit)])

    @rule()
    def start_tls(self) -> None:
        self.conversation.start_tls()

    @rule(really=st.integers(0, 9))
    def shut_down(self, really: int) -> None:
        if really == 9:
            self.conversation.end()

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        self.conversation.check_memory()


SMTPServerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSMTPServerMachine = SMTPServerMachine.TestCase


@pytest.mark.parametrize("role", Role)
def test_a_refused_greeting_is_the_end(role: Role) -> None:
    for answer in (replies.TOO_MANY_CONNECTIONS, reply(554, "5.7.1", "Not you")):
        core = SMTPServerCore(role, SMALL, "mx.test")
        core.send(answer)
        core.receive(b"EHLO x\r\n")
        assert (core.next_event(), core.pending, core.closed) == (NEED_OCTETS, 0, True)
        with pytest.raises(LocalProtocolError):
            core.send(replies.OK)
        assert core.state is State.CLOSED
