"""
The core of the SMTP and LMTP client before a server that says anything.

The model writes down what the client asked, in order, and reads the server's octets as a whole. So it knows which reply
belongs to which command, and that nothing counts as accepted for which the server has not said so at each step.
"""

from __future__ import annotations

import re
from typing import Final

from fuzz.target import Choices, Target, kept, pieces
from mailstack.mail.address import Address
from mailstack.mail.requests import Notify, OriginalRecipient, Requests, Return
from mailstack.wire.dots import DotUnstuffer
from mailstack.wire.errors import RemoteProtocolError
from mailstack.wire.events import Pause
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_mailing import (
    TLS,
    Asked,
    Chunkless,
    Closed,
    Event,
    Finished,
    Login,
    Mailing,
    Phase,
    Ready,
    Refused,
    Send,
    SendContent,
    StartTLS,
    Unusable,
)
from mailstack.wire.smtp_replies import PENDING_OCTETS

CONTENT: Final = b"Subject: x\r\n\r\n.\r\n..\nbare\rend"
WHOLE: Final = b"Subject: x\r\n\r\n.\r\n..\r\nbare\r\nend\r\n"
OVERHEAD_OCTETS: Final = 4_000  # a mailing with its names
MAILINGS: Final = 3
SLOW_PIECES: Final = 3  # of the server, while a slow shell has the content ready
END: Final = "the end of the content"

_COMMAND: Final = re.compile(rb"[^\x00-\x1f\x7f]+\r\n")


def mailing(count: int, *, utf8: bool) -> Mailing:
    """Make a mailing to so many, with all that one may ask for."""
    names = [Address(f"r{number}", "x.example") for number in range(count)]
    if utf8:
        names.append(Address("ü", "x.example"))
    asked = Asked(frozenset({Notify.FAILURE, Notify.DELAY}), OriginalRecipient("rfc822", "a+b=c d"))
    return Mailing(
        reverse_path=Address("a b", "y.example"),
        recipients=tuple(names),
        octets=len(WHOLE),
        eight_bit=True,
        requests=Requests(returns=Return.HEADERS, envelope_id="x+y", priority=3),
        asked=(asked,) * len(names),
    )


class Conversation:
    """A core, its shell, and what both have said."""

    def __init__(self, core: SMTPClientCore, mail: Mailing, *, lmtp: bool, is_slow: bool = False) -> None:
        self.core, self.mail, self.lmtp = core, mail, lmtp
        self.is_slow = is_slow  # the content is sent by `send_content`, and not at once
        self.asked: list[str] = ["the greeting"]
        self.heard = b""
        self.heard_early = 0  # how many replies had come when the end of the content was sent
        self.done = 0
        self.is_over = False
        self.by_chunks = False

    def receive(self, octets: bytes) -> None:
        """Let the server say something, and do what is to be done."""
        if not self.is_over:
            self.heard += octets
        self.core.receive(octets)
        self._look()

    def _look(self) -> None:
        while not isinstance(event := self.core.next_event(), Pause):
            assert not self.is_over, event
            self._obey(event)
        assert kept(self.core) <= 4 * len(self.heard) + OVERHEAD_OCTETS

    def _obey(self, event: Event) -> None:
        match event:
            case Send(octets):
                lines = octets.split(b"\r\n")
                assert lines.pop() == b""
                assert all(_COMMAND.fullmatch(line + b"\r\n") for line in lines)
                # RFC 2033 §4.2: a content that nobody gets has no answer.
                self.asked += [line.decode() for line in lines if line != b"." or not self.lmtp]
            case StartTLS():
                self.asked, self.heard = [], b""  # what comes now is a session of its own
                self.core.tls_started()
            case Ready():
                self._go_on()
            case SendContent() if self.is_slow:
                assert self.core.phase is Phase.CONTENT
            case SendContent():
                self._write_content()
            case Finished(results, is_open):
                assert len(results) == len(self.mail.recipients)
                self._judge()
                self.is_over = not is_open
                if is_open:
                    self._go_on()
            case Closed() | Chunkless() | Refused() | Unusable():
                self.is_over = True

    def send_content(self) -> None:
        """Send a content that waits."""
        self._write_content()
        self._look()

    def _write_content(self) -> None:
        self.heard_early = len(self._codes())
        self.by_chunks = "CHUNKING" in self.core.offered and not (self.lmtp and len(self.mail.recipients) > 1)
        wire = self.core.content(WHOLE if self.by_chunks else CONTENT) + self.core.end_content()
        if self.by_chunks:
            assert wire == b"BDAT %d LAST\r\n" % len(WHOLE) + WHOLE
        else:
            reader = DotUnstuffer()
            assert (reader.feed(wire), reader.ended, reader.rest) == (WHOLE, True, b"")
        accepted = sum(200 <= code < 300 for code, line, _ in self._answers() if line.startswith("RCPT"))
        self.asked += [END] * (accepted if self.lmtp else 1)

    def _go_on(self) -> None:
        if self.done == MAILINGS:
            self.core.quit()
        else:
            self.done += 1
            self.core.begin(self.mail)

    def _codes(self) -> list[int]:
        lines = self.heard.split(b"\r\n")[:-1]
        return [int(line[:3]) for line in lines if line[:3].isdigit() and line[3:4] != b"-"]

    def _answers(self) -> list[tuple[int, str, int]]:
        """Say what the server answered to each command of the last transaction, and as which of all its replies."""
        answers = [(code, line, number) for number, (code, line) in enumerate(zip(self._codes(), self.asked, strict=False))]
        starts = [number for number, line in enumerate(self.asked) if line.startswith("MAIL ")]
        return answers[starts[-1] :] if starts else []

    def _judge(self) -> None:
        """Check that what counts as accepted was accepted, and what the server has said of each."""
        answers = self._answers()
        ends = [(code, number) for code, line, number in answers if line == END]
        taken = [line for code, line, _ in answers if line.startswith("RCPT") and 200 <= code < 300]
        for recipient, result in zip(self.mail.recipients, self.core.results, strict=True):
            assert result is not None
            own = [line for line in taken if f"<{recipient}>" in line]
            if result.is_accepted:
                assert own, recipient
                assert 200 <= answers[0][0] < 300
                assert self.by_chunks or (354, "DATA") in [(code, line) for code, line, _ in answers]
                code, number = ends[taken.index(own[0])] if self.lmtp else ends[0]
                assert result.reply.code == code
                assert number >= self.heard_early, "it was accepted before it had been sent"
            elif not result.is_local:
                assert result.reply.code in [code for code, _, _ in answers], result

    def end(self) -> None:
        """Let the connection go."""
        self.core.connection_lost()
        assert self.core.phase is Phase.ENDED
        assert isinstance(self.core.next_event(), Pause)
        was_sent = END in self.asked
        assert was_sent or not any(result and result.is_accepted for result in self.core.results) or self.done > 1


def run(octets: bytes) -> None:
    """Run one: three octets of choices, then what the server says."""
    choices = Choices(octets)
    lmtp, has_login, in_clear, utf8, tls_active, is_slow = choices.flags(6)
    number = choices.number()
    core = SMTPClientCore(
        "us.example",
        tls=list(TLS)[number % 3],
        tls_active=tls_active,
        login=Login("alice", "secret") if has_login else None,
        login_in_clear=in_clear,
        lmtp=lmtp,
    )
    conversation = Conversation(core, mailing(1 + number // 3 % 3, utf8=utf8), lmtp=lmtp, is_slow=is_slow)
    cut, waited = choices.number(), 0
    try:
        for piece in pieces(choices.rest(), cut):
            conversation.receive(piece)
            waited = waited + 1 if core.phase is Phase.CONTENT else 0
            if waited == SLOW_PIECES:
                conversation.send_content()
    except RemoteProtocolError as error:
        assert str(error).isprintable()
        assert str(error).isascii()
    assert kept(core) <= PENDING_OCTETS + 4 * len(octets) + OVERHEAD_OCTETS
    conversation.end()


TARGET: Final = Target(
    "smtp-client",
    "the core of the SMTP and LMTP client, before a hostile server",
    run,
)
