"""
The core of the SMTP server beside a model of it.

The model holds all that the client sent and was not read, in one piece, and what the server has agreed to. From these it
says itself where each line, content and chunk ends, and holds every event of the core against that. It shares with the core
the names of events and nothing of how they are found: where the core goes on from piece to piece, the model splits the whole.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Sequence
from typing import Final

from fuzz.exchanges import BINDINGS, KEYS, NONCE, SCOPE, check
from fuzz.target import Choices, Target, kept, pieces
from mailstack.mail import reply as replies
from mailstack.mail.binary import BinaryConverter
from mailstack.mail.envelope import BodyType
from mailstack.mail.reply import Reply, reply
from mailstack.wire.errors import LocalProtocolError
from mailstack.wire.events import AWAITING_REPLY, Pause
from mailstack.wire.limits import DISCARDED_OCTETS, BareNewline, Limits
from mailstack.wire.sasl import Bearer, Challenge, KeysWanted
from mailstack.wire.smtp_commands import (
    Answered,
    Authenticate,
    ChunkEnd,
    ContentChunk,
    ContentEnd,
    Data,
    Event,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Refused,
    Reset,
    StartTLS,
)
from mailstack.wire.smtp_server import SMTPServerCore
from mailstack.wire.smtp_table import Role, State

SMALL: Final = Limits(message_octets=200, command_line_octets=100, sasl_octets=120, recipients=3)
GREETING: Final = Reply(220, ("mx.test ESMTP",))
LATER: Final = reply(451, "4.3.0", "Later")
NEVER: Final = reply(550, "5.7.1", "Never")
SHUT: Final = replies.SHUTTING_DOWN
GIVE_KEYS: Final = reply(250, None, "the keys of the user, and no reply")
"""Stands for what a shell gives to KeysWanted, other than a reply."""
OVERHEAD_OCTETS: Final = 2_500  # constant replies and names that a core holds on to

_REPLY: Final = re.compile(rb"(?:([2-5][0-9]{2})-[ -~]*\r\n)*([2-5][0-9]{2})(?: [ -~]*)?\r\n")
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Place(enum.Enum):
    """Where the client is, by what it was told."""

    LINE = "a line"
    CONTENT = "a content"
    CHUNK = "a chunk"
    TLS = "the beginning of TLS"
    CLOSED = "nowhere"


class Model:
    """What an SMTP server is to make of the octets and the replies."""

    def __init__(self, role: Role, limits: Limits, *, tls: bool, tls_available: bool, knows_more: bool) -> None:
        self.role, self.limits, self.knows_more = role, limits, knows_more
        self.tls, self.tls_available = tls, tls_available
        self.normalises = (
            role is Role.SUBMISSION if limits.bare_newline is None else limits.bare_newline is BareNewline.NORMALISE
        )
        self.place = Place.LINE
        self.unread = b""
        self.dropping, self.dropped = False, 0
        self.greeted = self.authenticated = False
        self.line = b""
        self.end_transaction()

    def end_transaction(self) -> None:
        """Be as before MAIL."""
        self.sender, self.recipients, self.binary = False, 0, False
        self.exchange: list[bytes] | None = None
        self.verdict: Reply | None = None  # of a token, when the client is told why and is not told yet
        self.in_chunks = False
        self.left, self.is_last = 0, False
        self.refusal: Reply | None = None
        self.raw = b""
        self.given = b""

    # What the client sends

    def sent(self, octets: bytes) -> None:
        """Take octets of the client."""
        if self.place is not Place.CLOSED:
            self.unread += octets
        if self.dropping:
            self._drop()

    def _drop(self) -> None:
        line, found, rest = self.unread.partition(b"\r\n")
        if found:
            self.dropping, self.dropped, self.unread = False, 0, rest
        else:
            keep = b"\r" if line.endswith(b"\r") else b""
            self.dropped += len(line) - len(keep)
            self.unread = keep

    @property
    def _most(self) -> int:
        may_show_token = self.knows_more and self.role is Role.SUBMISSION and self.tls and not self.authenticated
        is_long = may_show_token or self.exchange is not None
        return self.limits.sasl_octets if is_long else self.limits.command_line_octets

    # What the core makes of it

    def waits(self) -> None:
        """Check that there is nothing to be said."""
        if self.place is Place.LINE and not self.dropping:
            line, found, rest = self.unread.partition(b"\r\n")
            if found:
                # The only line that says nothing for itself: a chunk that has not come, and that is not the first.
                size = self._bdat(line)
                assert size is not None, line
                assert len(line) <= self._most
                assert not (self.recipients and not self.in_chunks), "the first BDAT is asked about"
                assert self.exchange is None
                self._begin_chunk(size, rest)
        if self.place is Place.LINE:
            assert b"\r\n" not in self.unread
            assert len(self.unread) <= self._most + 1
            assert self.dropped <= DISCARDED_OCTETS
        elif self.place is Place.CONTENT:
            assert b"\r\n.\r\n" not in b"\r\n" + self.unread
            assert len(self.unread) < 3 * self.limits.message_octets, "it goes on for ever"
        elif self.place is Place.CHUNK:
            assert len(self.unread) < self.left

    def hears(self, event: Event) -> None:
        """Check an event, and read what it has read."""
        if self.place is Place.LINE:
            self._line(event)
        elif self.place is Place.CONTENT:
            self._content(event)
        elif self.place is Place.CHUNK:
            self._chunk(event)
        else:
            raise AssertionError(f"{event} in {self.place.value}")

    def _line(self, event: Event) -> None:
        if self.dropping:
            assert isinstance(event, Refused), event
            assert event.closes
            assert self.dropped > DISCARDED_OCTETS
            return
        if self.unread.startswith(b"\x16"):
            assert isinstance(event, Refused), event
            assert event.reply.code == 421
            return
        line, found, rest = self.unread.partition(b"\r\n")
        if not found or len(line) > self._most:
            assert isinstance(event, Refused), event
            assert event.reply.code == 500
            assert event.closes == (self.exchange is None and line[:4].upper() == b"BDAT")
            assert len(self.unread) > self._most + (0 if found else 1)
            self.unread = rest
            if not found:
                self.unread, self.dropping, self.dropped = line, True, 0
                self._drop()
            return
        self.line, self.unread = line, rest
        if self.exchange is not None:
            self._response(line, event)
        else:
            self._command(line, event)

    def _command(self, line: bytes, event: Event) -> None:
        word, _, argument = line.partition(b" ")
        word, argument = word.upper(), argument.strip(b" ")
        size = self._bdat(line)
        if size is not None and not (isinstance(event, Refused) and event.closes):
            self._begin_chunk(size, self.unread)
            if isinstance(event, Data):
                assert self.recipients, "a content for nobody"
                assert self.raw == b""
            else:
                self._chunk(event)
            return
        if len(line) > self.limits.command_line_octets and line[:5].upper() != b"AUTH ":
            assert isinstance(event, Refused), "only a token may be so long"
        match event:
            case Refused(answer, closes):
                assert answer.code >= 400
                assert closes == (line[:4].upper() == b"BDAT"), "nothing else needs to"
                assert not self._must_do(line), line
            case Hello(name=name, extended=extended):
                assert word in ((b"LHLO",) if self.role is Role.LMTP else (b"EHLO", b"HELO"))
                assert extended == (word != b"HELO")
                assert name.encode() == argument
            case Mail(reverse_path=path):
                assert word == b"MAIL"
                assert argument.upper().startswith(b"FROM:")
                assert self.greeted
                assert not self.sender
                assert self.authenticated or self.role is not Role.SUBMISSION
                assert (path is None) == argument[5:].lstrip(b" ").startswith(b"<>")
                assert (event.body is BodyType.BINARY_MIME) == (b"BODY=BINARYMIME" in argument.upper().split(b" "))
            case Rcpt(forward_path=path):
                assert word == b"RCPT"
                assert argument.upper().startswith(b"TO:")
                assert self.sender
                assert not self.in_chunks
                assert self.recipients < self.limits.recipients
                assert path.domain or path.local_part == "postmaster"
            case Data():
                assert (word, argument) == (b"DATA", b"")
                assert self.recipients
                assert not self.in_chunks
                assert not self.binary
            case Reset() | Quit():
                assert word == (b"RSET" if isinstance(event, Reset) else b"QUIT")
            case StartTLS():
                assert word == b"STARTTLS"
                assert self.tls_available
                assert not self.tls
                assert not self.sender
            case Authenticate() | KeysWanted() | Answered(reply=Reply(code=334)):
                assert word == b"AUTH"
                assert self.role is Role.SUBMISSION
                assert self.tls
                assert not self.authenticated
                assert not self.sender
                mechanism, space, initial = argument.partition(b" ")
                self.exchange = [mechanism.upper()]
                if space:
                    self._response(initial.strip(b" "), event)
                else:
                    self._says(event)
            case Answered():
                assert word in (b"NOOP", b"VRFY", b"HELP")
            case _:
                raise AssertionError(event)

    def _must_do(self, line: bytes) -> bool:
        """Say of some lines that they cannot be refused."""
        if line == b"MAIL FROM:<a@b.example>":
            return self.greeted and not self.sender and (self.authenticated or self.role is not Role.SUBMISSION)
        if line == b"RCPT TO:<c@d.example>":
            return self.sender and not self.in_chunks and self.recipients < self.limits.recipients
        if line == b"DATA":
            return bool(self.recipients) and not self.in_chunks and not self.binary
        return line in (b"NOOP", b"RSET", b"QUIT", b"LHLO x" if self.role is Role.LMTP else b"EHLO x")

    def _response(self, line: bytes, event: Event) -> None:
        assert self.exchange is not None
        self.exchange.append(line)
        if self.verdict is not None:
            assert event == Refused(replies.AUTH_CANCELLED if line == b"*" else self.verdict)
        elif isinstance(event, Refused):
            assert event.reply.is_permanent
        else:
            self._says(event)

    def _says(self, event: Event) -> None:
        assert self.exchange is not None
        mechanism, *lines = self.exchange
        match event:
            case Authenticate(named, credentials):
                assert named.encode() == mechanism
                check(named, lines, credentials)
            case KeysWanted():
                check(mechanism.decode(), lines, event)
            case Answered(reply=Reply(code=334, lines=(encoded,))):
                check(mechanism.decode(), lines, Challenge(base64.b64decode(encoded)))
                if mechanism in (b"OAUTHBEARER", b"XOAUTH2") and lines:
                    self.verdict = replies.AUTH_FAILED  # there was no token
            case _:
                raise AssertionError(f"{event} in an exchange")

    def _content(self, event: Event) -> None:
        if isinstance(event, ContentChunk):
            self._take(event)
            return
        if isinstance(event, Refused):
            assert event.closes
            assert len(self.unread) > self.limits.message_octets
            return
        assert isinstance(event, ContentEnd), event
        framed, end, self.unread = (b"\r\n" + self.unread).partition(b"\r\n.\r\n")
        assert end, "it has not ended"
        lines = re.split(rb"\r\n|\r|\n", framed) if self.normalises else framed.split(b"\r\n")
        content = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[1:])
        assert len(content) <= 2 * self.limits.message_octets, "the session was to end"
        self._judge(event, content, is_bare=_BARE.search(framed) is not None)

    def _judge(self, event: ContentEnd, content: bytes, *, is_bare: bool) -> None:
        """Compare a content with what its chunks were and what became of it."""
        if len(content) > self.limits.message_octets:
            assert event.refusal is replies.MESSAGE_TOO_BIG
        elif is_bare and not self.normalises:
            assert event.refusal is replies.BARE_NEWLINE
        else:
            assert event.refusal is None
            assert self.given == content
            assert event.octets == len(content)
        assert event.replies == (self.recipients if self.role is Role.LMTP else 1)
        self.place = Place.LINE

    def _take(self, event: ContentChunk) -> None:
        assert event.octets
        self.given += event.octets
        assert len(self.given) <= self.limits.message_octets * (2 if self.binary else 1)

    # Chunks

    def _bdat(self, line: bytes) -> tuple[int, bool] | None:
        """Read BDAT, when it says how many octets follow, and that we would read so many."""
        words = [word for word in line.split(b" ") if word]
        if line.startswith(b" ") or not words or words[0].upper() != b"BDAT" or not 2 <= len(words) <= 3:
            return None
        if not words[1].isdigit() or len(words[1]) > 15 or [word.upper() for word in words[2:]] not in ([], [b"LAST"]):
            return None
        octets = int(words[1])
        return (octets, len(words) == 3) if octets <= 2 * self.limits.message_octets else None

    def _begin_chunk(self, size: tuple[int, bool], rest: bytes) -> None:
        self.place, self.unread = Place.CHUNK, rest
        self.left, self.is_last = size

    def _chunk(self, event: Event) -> None:
        if isinstance(event, ContentChunk):
            assert self.in_chunks
            self._take(event)
            return
        assert len(self.unread) >= self.left, f"{event} before its octets"
        chunk, self.unread = self.unread[: self.left], self.unread[self.left :]
        self.place = Place.LINE
        if not self.in_chunks and self.recipients and self.is_last and self.role is Role.LMTP:
            assert isinstance(event, ContentEnd), event
            assert event.refusal is self.refusal
            assert event.replies == self.recipients
            return
        if not self.in_chunks:
            assert isinstance(event, Answered), event
            assert event.reply.code >= 400
            assert self.refusal in (None, event.reply)
            return
        self.raw += chunk
        if self.binary:
            self._binary_chunk(event)
            return
        content = b"\r\n".join(re.split(rb"\r\n|\r|\n", self.raw)) if self.normalises else self.raw
        if self.is_last:
            content += b"" if content.endswith(b"\r\n") or not content else b"\n" if self._half_line(content) else b"\r\n"
            bare = _BARE.search(self.raw) is not None
        else:
            bare = _BARE.search(self.raw.removesuffix(b"\r")) is not None
        if isinstance(event, ChunkEnd):
            assert not self.is_last
            assert not bare or self.normalises
            return
        assert isinstance(event, ContentEnd), event
        if self.is_last and not (event.refusal and self.role is not Role.LMTP):
            self._judge(event, content, is_bare=bare)
        else:
            assert event.refusal is (
                replies.MESSAGE_TOO_BIG if event.refusal is replies.MESSAGE_TOO_BIG else replies.BARE_NEWLINE
            )
            assert bare or len(content) > self.limits.message_octets
            assert self.is_last or event.replies == 1

    def _binary_chunk(self, event: Event) -> None:
        """Compare what has come of a binary content with what it becomes; how that is found is another target's matter."""
        converter = BinaryConverter()
        content = converter.feed(self.raw) + (converter.finish() if self.is_last else b"")
        is_bare = _BARE.search(content if self.is_last else content.removesuffix(b"\r")) is not None
        refusal = replies.BARE_NEWLINE if is_bare else None
        if converter.problem:
            refusal = reply(554, "5.6.0", converter.problem)
        if len(self.raw) > self.limits.message_octets:
            refusal = replies.MESSAGE_TOO_BIG
        if refusal is None and not self.is_last:
            assert isinstance(event, ChunkEnd), event
            return
        assert isinstance(event, ContentEnd), event
        assert event.refusal == refusal
        assert event.replies == (self.recipients if self.role is Role.LMTP and self.is_last else 1)
        if refusal is None:
            assert self.given == content + (b"" if content.endswith(b"\r\n") or not content else b"\r\n")
            assert event.octets == len(self.given)

    def _half_line(self, content: bytes) -> bool:
        return not self.normalises and content.endswith(b"\r")

    # What the server answers

    def answered(self, event: Event | None, answer: Reply, left: int) -> None:
        """Note a reply; so many more are owed to the same event."""
        if answer.code == 421 or (isinstance(event, Refused) and event.closes) or isinstance(event, Quit):
            self.close()
        elif left:
            return
        elif isinstance(event, Data) and self.place is Place.CHUNK:
            self.in_chunks, self.refusal = answer.code == 354, None if answer.code == 354 else answer
        elif isinstance(event, Data) and answer.code == 354:
            self.place, self.given = Place.CONTENT, b""
        elif self._ends_content(event, answer):
            self.end_transaction()
        elif isinstance(event, Answered) and answer.code == 334:
            pass
        elif isinstance(event, Authenticate) and isinstance(event.credentials, Bearer) and answer.is_permanent:
            self.verdict = answer
        elif self.exchange is not None:
            self.authenticated |= isinstance(event, Authenticate) and answer.is_success
            self.exchange = self.verdict = None
        elif answer.is_success:
            self._agreed(event)

    def _ends_content(self, event: Event | None, answer: Reply) -> bool:
        match event:
            case ContentEnd():
                return True
            case ChunkEnd():
                return not answer.is_success
            case _:
                return isinstance(event, Answered) and self.refusal is not None

    def _agreed(self, event: Event | None) -> None:
        match event:
            case Hello():
                self.greeted = True
                self.end_transaction()
            case Reset():
                self.end_transaction()
            case Mail(body=body):
                self.sender, self.binary = True, body is BodyType.BINARY_MIME
            case Rcpt():
                self.recipients += 1
            case StartTLS() if self.unread:
                self.close()
            case StartTLS():
                self.place = Place.TLS
            case _:
                pass

    def close(self) -> None:
        """Be at the end."""
        self.end_transaction()
        self.place, self.unread, self.dropping = Place.CLOSED, b"", False

    def tls_started(self) -> None:
        """Begin anew."""
        self.end_transaction()
        self.place, self.unread = Place.LINE, b""
        self.greeted = self.authenticated = False
        self.tls = True


def fitting(event: Event) -> Sequence[Reply]:
    """Return the replies that a shell may give; the first of them agrees."""
    match event:
        case ContentEnd(refusal=Reply() as refusal):
            return (refusal, SHUT)
        case Answered(answer) | Refused(answer):
            return (answer, LATER, SHUT) if answer.code == 334 else (answer, SHUT)
        case Hello(reply=answer) | ChunkEnd(answer):
            return (answer, LATER, NEVER, SHUT)
        case Data():
            return (replies.START_CONTENT, LATER, NEVER, SHUT)
        case StartTLS():
            return (replies.START_TLS, LATER, SHUT)
        case Quit():
            return (replies.CLOSING, SHUT)
        case KeysWanted():
            return (GIVE_KEYS, LATER, NEVER, SHUT)
        case _:
            return (replies.OK, LATER, NEVER, SHUT)


def a_core(role: Role, limits: Limits, *, tls: bool, tls_available: bool = True, knows_more: bool) -> SMTPServerCore:
    """Make a core; `knows_more` than passwords: it offers every mechanism that there is."""
    core = SMTPServerCore(
        role,
        limits,
        "mx.test",
        tls_active=tls,
        tls_available=tls_available,
        scram=knows_more,
        token_scope=SCOPE if knows_more else None,
    )
    if knows_more:
        core.bind_channel(BINDINGS)
        core.certificate_shown()
    return core


class Conversation:
    """A core and the model of it, with a shell that gives what replies it is told to."""

    def __init__(
        self, role: Role, limits: Limits, *, tls: bool = False, tls_available: bool = True, knows_more: bool = False
    ) -> None:
        self.core = a_core(role, limits, tls=tls, tls_available=tls_available, knows_more=knows_more)
        self.model = Model(role, limits, tls=tls, tls_available=tls_available, knows_more=knows_more)
        self.event: Event | None = None
        self.owed = 1
        self.output = b""
        self.answer(GREETING)

    def receive(self, octets: bytes) -> None:
        """Let the client send."""
        self.core.receive(octets)
        self.model.sent(octets)
        self._check_bounds()

    def look(self) -> bool:
        """Take the next event; say whether one came. While a reply is owed there is none."""
        event = self.core.next_event()
        if self.owed:
            assert event is AWAITING_REPLY
            return False
        if isinstance(event, Pause):
            assert event is not AWAITING_REPLY
            self.model.waits()
            self._check_bounds()
            return False
        self.model.hears(event)
        if not isinstance(event, ContentChunk):
            self.event, self.owed = event, event.replies if isinstance(event, ContentEnd) else 1
        self._check_bounds()
        return True

    def answer(self, answer: Reply) -> None:
        """Give a reply that is owed, or keys."""
        assert self.core.owes_reply
        if answer is GIVE_KEYS:
            self.event = self.core.give_keys(KEYS, NONCE)
            assert isinstance(self.event, Answered)
            assert self.event.reply.code == 334
            return
        said = self.core.send(answer)
        self.owed -= 1
        self.output += said
        self.model.answered(self.event, answer, self.owed)
        if self.model.place is Place.CLOSED:
            self.owed = 0
        is_silent = isinstance(self.event, Data) and self.model.place is Place.CHUNK
        found = _REPLY.fullmatch(said)
        assert is_silent == (said == b""), said
        assert is_silent or found, said
        assert found is None or found[1] in (None, found[2]), said
        if not self.owed:
            self.nothing_is_owed()
        self._check_bounds()

    def nothing_is_owed(self) -> None:
        """Check that one reply more is refused, and changes nothing."""
        before = self.core.state, self.core.pending
        try:
            self.core.send(replies.OK)
        except LocalProtocolError:
            assert before == (self.core.state, self.core.pending)
        else:
            raise AssertionError("a reply that nobody waits for")

    def end(self) -> None:
        """Be told to stop."""
        assert self.core.end(SHUT).startswith(b"421 ")
        self.model.close()
        self.owed = 0
        self._check_bounds()

    def start_tls(self) -> None:
        """Begin TLS where it was agreed upon, and find that it is misuse elsewhere."""
        try:
            self.core.tls_started()
        except LocalProtocolError:
            assert self.model.place is not Place.TLS
        else:
            assert self.model.place is Place.TLS
            self.model.tls_started()

    def _check_bounds(self) -> None:
        model, core = self.model, self.core
        assert core.closed == (model.place is Place.CLOSED)
        assert (core.state is State.STARTING_TLS) == (model.place is Place.TLS)
        assert core.pending <= len(model.unread)
        assert not core.closed or core.pending == 0

    def check_memory(self) -> None:
        """Check that the core holds on to no more than what was not read, and some lines."""
        limits = self.model.limits
        most = 3 * len(self.model.unread) + 4 * limits.command_line_octets + 2 * limits.sasl_octets + OVERHEAD_OCTETS
        assert kept(self.core) <= most, (kept(self.core), most)


def converse(
    octets: bytes,
    cut: int,
    answers: Sequence[int],
    role: Role,
    limits: Limits,
    *,
    tls: bool,
    is_slow: bool = False,
    knows_more: bool = False,
) -> Conversation:
    """
    Let a client say this, in pieces, to a shell that chooses its replies so.

    Shape:  a shell that `is_slow` takes one event after each piece, and only at the end what is left.
    """
    conversation = Conversation(role, limits, tls=tls, knows_more=knows_more)
    given = 0
    said = pieces(octets, cut)
    for number, piece in enumerate(said, 1):
        conversation.receive(piece)
        while conversation.look() or conversation.owed:
            while conversation.owed:
                assert conversation.event is not None
                choices = fitting(conversation.event)
                conversation.answer(choices[answers[given % len(answers)] % len(choices) if answers else 0])
                given += 1
            if is_slow and number < len(said):
                break
        if conversation.core.state is State.STARTING_TLS:
            conversation.start_tls()
    conversation.check_memory()
    return conversation


def said_octet_by_octet(
    octets: bytes, answers: Sequence[int], role: Role, limits: Limits, *, tls: bool, knows_more: bool
) -> bytes:
    """Return what a core says to single octets."""
    core = a_core(role, limits, tls=tls, knows_more=knows_more)
    output = core.send(GREETING)
    given = 0
    for octet in octets:
        core.receive(bytes((octet,)))
        while not isinstance(event := core.next_event(), Pause):
            while core.owes_reply:
                choices = fitting(event)
                chosen = choices[answers[given % len(answers)] % len(choices) if answers else 0]
                if chosen is GIVE_KEYS:
                    event = core.give_keys(KEYS, NONCE)
                else:
                    output += core.send(chosen)
                given += 1
    return output


def run(octets: bytes) -> None:
    """
    Run one: role, bare newlines, tls, pace and mechanisms as an octet, the cut as another, the answers as a line, and what the
    client says.

    Without STARTTLS, where it matters what has come already, the cut changes no reply.
    """
    choices = Choices(octets)
    number = choices.number()
    role = list(Role)[number % 3]
    limits = SMALL if number // 3 % 2 == 0 else Limits(message_octets=200, bare_newline=BareNewline.NORMALISE)
    cut, answers, said = choices.number(), [each - ord("0") for each in choices.line()], choices.rest()
    tls, is_slow = number // 6 % 2 == 1, number // 12 % 2 == 1
    knows_more = number // 24 % 2 == 1
    conversation = converse(said, cut, answers, role, limits, tls=tls, is_slow=is_slow, knows_more=knows_more)
    if tls or b"starttls" not in said.lower():
        assert conversation.output == said_octet_by_octet(said, answers, role, limits, tls=tls, knows_more=knows_more)


TARGET: Final = Target(
    "smtp-server",
    "the core of the SMTP, submission and LMTP server, beside a model of it",
    run,
    most_octets=600,
)
