"""A server that says anything in any pieces, against the model of the SMTP client."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuzz.smtp_client import OVERHEAD_OCTETS, Conversation, mailing
from fuzz.target import kept
from mailstack.wire.errors import LocalProtocolError, RemoteProtocolError
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_mailing import TLS, Login, Phase
from mailstack.wire.smtp_replies import PENDING_OCTETS

CODES = [200, 220, 221, 235, 250, 251, 334, 354, 421, 450, 451, 500, 503, 535, 550, 599]
ENDS = ["", " x", " 2.1.0 x", " 4.3.0 x", " 5.1.1 x"]
EHLO = [
    "PIPELINING",
    "STARTTLS",
    "AUTH PLAIN LOGIN",
    "AUTH=LOGIN",
    "SIZE 10",
    "SIZE",
    "SMTPUTF8",
    "8BITMIME",
    "DSN",
    "CHUNKING",
    "LIMITS RCPTMAX=1",
    "",
]
AGREES = {Phase.GREETING: 220, Phase.STARTTLS: 220, Phase.AUTH: 235, Phase.DATA: 354, Phase.QUIT: 221}
ROAD = [b"220 x\r\n", b"250-x\r\n250 PIPELINING\r\n", b"250 x\r\n", b"354 x\r\n"]


class SMTPClientMachine(RuleBasedStateMachine):
    @initialize(
        lmtp=st.booleans(),
        tls=st.sampled_from(TLS),
        active=st.booleans(),
        has_login=st.booleans(),
        recipients=st.integers(1, 3),
        utf8=st.booleans(),
        is_slow=st.booleans(),
    )
    def connect(
        self, lmtp: bool, tls: TLS, active: bool, has_login: bool, recipients: int, utf8: bool, is_slow: bool
    ) -> None:  # fmt: skip
        login = Login("alice", "secret") if has_login else None
        core = SMTPClientCore("us.example", tls=tls, tls_active=active, login=login, login_in_clear=True, lmtp=lmtp)
        self.conversation = Conversation(core, mailing(recipients, utf8=utf8), lmtp=lmtp, is_slow=is_slow)
        self.is_broken = False

    @precondition(lambda self: not self.is_broken)
    @rule(code=st.sampled_from(CODES), end=st.sampled_from(ENDS), lines=st.sampled_from([1, 1, 1, 2, 101]))
    def reply(self, code: int, end: str, lines: int) -> None:
        self.hear(b"%d-x\r\n" % code * (lines - 1) + f"{code}{end}\r\n".encode())

    @precondition(lambda self: not self.is_broken)
    @rule(
        count=st.integers(1, 15),
        offered=st.lists(st.sampled_from(EHLO), max_size=4),
        refused=st.integers(0, 15),
        code=st.sampled_from(CODES),
    )
    def agree_but_once(self, count: int, offered: list[str], refused: int, code: int) -> None:
        for number in range(count):
            core = self.conversation.core
            if core.phase is Phase.CONTENT and number != refused:
                self.send_content()
            elif core.phase is Phase.EHLO:
                self.hear("".join(f"250-{each}\r\n" for each in ("x", *offered)).encode() + b"250 HELP\r\n")
            else:
                self.hear(b"%d x\r\n" % (code if number == refused else AGREES.get(core.phase, 250)))

    @precondition(lambda self: not self.is_broken)
    @rule(octets=st.binary(max_size=12) | st.sampled_from(ROAD), count=st.integers(1, 6))
    def say(self, octets: bytes, count: int) -> None:
        self.hear(octets * count)

    @precondition(lambda self: not self.is_broken)
    @rule(count=st.sampled_from([2_049, 100_000, PENDING_OCTETS + 1]), octet=st.sampled_from([b"x", b"250 x\r\n", b"\r\n"]))
    def say_much(self, count: int, octet: bytes) -> None:
        self.hear((octet * count)[:count])

    def hear(self, octets: bytes) -> None:
        if self.is_broken:
            return
        try:
            self.conversation.receive(octets)
        except RemoteProtocolError:
            self.is_broken = True

    @rule()
    def send_content(self) -> None:
        if self.is_broken or self.conversation.core.phase is not Phase.CONTENT:
            return
        try:
            self.conversation.send_content()
        except RemoteProtocolError:
            self.is_broken = True

    @rule()
    def misuse(self) -> None:
        core = self.conversation.core
        for phase, use in (
            (Phase.READY, lambda: core.begin(self.conversation.mail)),
            (Phase.CONTENT, lambda: core.content(b"x")),
            (Phase.CONTENT, core.end_content),
            (Phase.HANDSHAKE, core.tls_started),
        ):
            if core.phase is not phase:
                try:
                    use()
                except LocalProtocolError:
                    continue
                raise AssertionError("what is out of place is refused")

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        assert kept(self.conversation.core) <= 2 * PENDING_OCTETS + OVERHEAD_OCTETS

    def teardown(self) -> None:
        if hasattr(self, "conversation"):
            self.conversation.end()


SMTPClientMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestSMTPClientMachine = SMTPClientMachine.TestCase
