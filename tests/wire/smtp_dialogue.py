"""
Dialogues as text, run against the core of the SMTP server.

    role: mx | submission | lmtp      (and `tls: active | available`, `bare: reject | normalise`, `size: n`, `recipients: n`,
                                      `scram: unbound | bound`, `certificate: shown`, `trusted: yes | no`, `header: n` octets of
                                      the header section, `fields: n` of it, `tokens: scope`, or `tokens: any`, `binary: no`
                                      BINARYMIME)
    C: a line of the client           R: raw octets with Python's escapes, without CRLF
    S: beginning of the next reply    S+: a line of that reply, without code       S-: no line of it begins so
    TLS                               the handshake is done
    CONTENT: octets                   what the last accepted message was, with Python's escapes
    CLOSED                            the session is over
    step by step                      is not run pipelined
"""

from __future__ import annotations

import ast
import base64
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from mailstack.mail import reply as replies
from mailstack.mail.reply import Reply, reply
from mailstack.mail.scram import ScramProof, make_keys
from mailstack.wire.events import Pause
from mailstack.wire.limits import BareNewline, Limits
from mailstack.wire.sasl import Bearer, External, KeysWanted
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
    XClient,
    XForward,
)
from mailstack.wire.smtp_server import SMTPServerCore
from mailstack.wire.smtp_table import Role

FOLDER = Path(__file__).parent.parent / "dialogues"
KEYS = (
    "role", "tls", "bare", "size", "recipients", "scram", "certificate", "trusted", "header", "fields", "tokens", "binary",
)  # fmt: skip
ENDLESS = Refused(replies.MESSAGE_TOO_BIG, closes=True)
OVER_QUOTA = reply(452, "4.2.2", "Mailbox full")
GREETING = Reply(220, ("mx.example.org ESMTP",))
# The example of RFC 7677 §3; its user is called "user".
SCRAM_KEYS = make_keys(b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
SCRAM_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
# Those of RFC 7628 §4 and of Google's description of XOAUTH2, and whose they are.
TOKENS = {
    b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==": b"user@example.com",
    b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg": b"someuser@example.com",
}
# Alice's, and that of the examples of RFC 4954 §4.
PASSWORDS = (b"secret", b"1234")
BINDINGS = {"tls-exporter": b"what only the two ends know", "tls-server-end-point": b"hash of the certificate"}


Cut = Callable[[bytes], list[bytes]]


class Session:
    """A core with a shell that agrees to almost everything."""

    def __init__(self, core: SMTPServerCore) -> None:
        self.core = core
        self.output = core.send(GREETING)
        self.events: list[Event] = []
        self.messages: list[bytes] = []
        self.chunks: list[bytes] = []
        self.recipients: list[str] = []
        self.unanswered = 0  # events whose answer is said later: the first of a content by BDAT

    def feed(self, octets: bytes) -> None:
        is_worth_a_look = self.core.receive(octets)
        while not isinstance(event := self.core.next_event(), Pause):
            assert is_worth_a_look or isinstance(event, ContentChunk) or event == ENDLESS
            self.take(event)

    def feed_ahead(self, pieces: list[bytes]) -> None:
        """Feed pieces as they come to a slow server: the next is there before an event is answered."""
        waiting = deque(pieces)
        while True:
            event = self.core.next_event()
            if waiting:
                self.core.receive(waiting.popleft())
            elif isinstance(event, Pause):
                return
            if not isinstance(event, Pause):
                self.take(event)

    def take(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ContentChunk):
            assert event.octets
            self.chunks.append(event.octets)
        else:
            said = b"".join(self.core.send(each) for each in self.answer(event))
            self.unanswered += not said
            self.output += said

    def answer(self, event: Event) -> list[Reply]:
        match event:
            case Answered(answer) | ChunkEnd(answer) | Refused(answer) | Hello(reply=answer):
                return [answer]
            case Mail(reverse_path=path):
                self.recipients = []
                refused = path is not None and path.local_part == "refused"
                return [replies.RELAYING_DENIED if refused else replies.SENDER_OK]
            case Rcpt(forward_path=path) if path.local_part == "unknown":
                return [replies.NO_SUCH_USER]
            case Rcpt(forward_path=path):
                self.recipients.append(path.local_part)
                return [replies.RECIPIENT_OK]
            case Data():
                self.chunks = []
                return [replies.START_CONTENT]
            case ContentEnd():
                return self.answer_content(event)
            case KeysWanted(username=b"unavailable"):
                return [replies.AUTH_UNAVAILABLE]
            case KeysWanted():
                return self.answer(self.core.give_keys(SCRAM_KEYS, SCRAM_NONCE))
            case Authenticate(credentials=External(authorization_id=wanted)):
                return [replies.AUTHENTICATED if wanted in (b"", b"alice@example.org") else replies.AUTH_FAILED]
            case Authenticate(credentials=ScramProof() as proof):
                right = proof.username == b"user" and not proof.acts_for_other and proof.is_by(SCRAM_KEYS)
                return [replies.AUTHENTICATED if right else replies.AUTH_FAILED]
            case Authenticate(credentials=Bearer(token=b"later")):
                return [replies.AUTH_UNAVAILABLE]
            case Authenticate(credentials=Bearer(token=b"barred")):
                return [reply(550, "5.7.1", "Not now")]
            case Authenticate(credentials=Bearer(token=token, authorization_id=wanted)):
                right = token in TOKENS and wanted in (b"", TOKENS[token])
                return [replies.AUTHENTICATED if right else replies.AUTH_FAILED]
            case Authenticate(credentials=credentials):
                right = credentials.password in PASSWORDS and not credentials.acts_for_other
                return [replies.AUTHENTICATED if right else replies.AUTH_FAILED]
            case StartTLS():
                return [replies.START_TLS]
            case Quit():
                return [replies.CLOSING]
            case Reset() | XForward():
                return [replies.OK]
            case XClient(attributes=attributes):
                refused = attributes.get("ADDR") == "192.0.2.66"
                return [reply(554, "5.7.1", "Not from there") if refused else GREETING]
        raise AssertionError(event)

    def answer_content(self, event: ContentEnd) -> list[Reply]:
        content = b"".join(self.chunks)
        if event.refusal is not None:
            return [event.refusal] * event.replies
        assert event.octets == len(content)
        if b"REJECT ME" in content:
            return [reply(554, "5.7.1", "Content refused")] * event.replies
        self.messages.append(content)
        return [OVER_QUOTA if each == "full" else replies.OK for each in self.recipients[-event.replies :]]


@dataclass
class Dialogue:
    """What a file says."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    pipelined: bool = True

    def octets(self) -> bytes:
        """All that the client says."""
        return b"".join(octets_of(*step) for step in self.steps if step[0] in "CR")

    def core(self) -> SMTPServerCore:
        limits = Limits(
            message_octets=int(self.options.get("size", "10000000")),
            recipients=int(self.options.get("recipients", "100")),
            binary=self.options.get("binary") != "no",
            header_octets=int(self.options.get("header", "1000000")),
            header_fields=int(self.options.get("fields", "1000")),
            bare_newline=BareNewline(self.options.get("bare", "reject")),
        )
        tls = self.options.get("tls", "")
        core = SMTPServerCore(
            Role(self.options.get("role", "mx")),
            limits,
            "mx.example.org",
            tls_active=tls == "active",
            tls_available=tls == "available",
            scram="scram" in self.options,
            token_scope=self.options.get("tokens", "").replace("any", "") if "tokens" in self.options else None,
            is_trusted=self.options.get("trusted") == "yes",
        )
        core.bind_channel(BINDINGS if self.options.get("scram") == "bound" else {})
        if "certificate" in self.options:
            core.certificate_shown()
        return core


@lru_cache(maxsize=10_000)
def octets_of(kind: str, text: str) -> bytes:
    if kind == "R":
        octets = ast.literal_eval('b"' + text.replace('"', '\\"') + '"')
        assert isinstance(octets, bytes)
        return octets
    return text.encode() + b"\r\n"


def load(path: Path) -> list[Dialogue]:
    """Read a file; a line of `=== name` begins a dialogue."""
    dialogues: list[Dialogue] = []
    options: dict[str, str] = {}
    for line in path.read_text().split("\n"):
        if not line or line.startswith("#"):
            continue
        if line.startswith("=== "):
            dialogues.append(Dialogue(line[4:], options=dict(options)))
            continue
        if line in ("TLS", "CLOSED"):
            dialogues[-1].steps.append((line, ""))
        elif line == "step by step":
            dialogues[-1].pipelined = False
        else:
            kind, colon, text = line.partition(":")
            assert colon, line
            text = text.removeprefix(" ")
            if kind in KEYS:
                (dialogues[-1].options if dialogues else options)[kind] = text
            else:
                assert kind in ("C", "R", "S", "S+", "S-", "CONTENT"), line
                dialogues[-1].steps.append((kind, text))
    return dialogues


def all_dialogues() -> list[tuple[str, Dialogue]]:
    return [(f"{path.stem}: {each.name}", each) for path in sorted(FOLDER.glob("*.txt")) for each in load(path)]


def split_replies(octets: bytes) -> list[list[str]]:
    """Cut the output into replies, each a list of its lines."""
    whole: list[list[str]] = [[]]
    assert octets.endswith(b"\r\n") or not octets
    for line in octets.decode("ascii").split("\r\n")[:-1]:
        whole[-1].append(line)
        if line[3:4] == " ":
            whole.append([])
    assert whole[-1] == []
    return whole[:-1]


def run(dialogue: Dialogue, cut: Cut, *, pipelined: bool = False, is_slow: bool = False) -> Session:
    """
    Run a dialogue, with the client's octets cut by `cut`; pipelined means that the client does not wait at all, and is_slow
    that the server lets octets come before it answers.
    """
    session = Session(dialogue.core())
    pieces = cut(dialogue.octets())
    if pipelined:
        if is_slow:
            session.feed_ahead(pieces)
        else:
            for piece in pieces:
                session.feed(piece)
    seen = 0
    found = split_replies(session.output)

    def where() -> str:
        way = f"pipelined: {pipelined}, slow: {is_slow}, in {len(pieces)} pieces, the first of {len(pieces[0])} octets"
        return f"{dialogue.name}, step {step}\n{way}\n{session.output.decode()}"

    step = ""
    for number, (kind, text) in enumerate(dialogue.steps):
        step = f"{number}: {kind}: {text}"
        if kind in ("C", "R"):
            if not pipelined:
                for piece in cut(octets_of(kind, text)):
                    session.feed(piece)
                found = split_replies(session.output)
        elif kind == "TLS":
            session.core.tls_started()
        elif kind == "CLOSED":
            assert session.core.closed, where()
        elif kind == "CONTENT":
            assert octets_of("R", text) in session.messages, where() + repr(session.messages)
        elif kind == "S":
            assert len(found) > seen, where()
            assert found[seen][0].replace("-", " ", 1).startswith(text), where()
            seen += 1
        else:
            lines = [line[4:] for line in found[seen - 1]]
            assert (text in lines) if kind == "S+" else not any(line.startswith(text) for line in lines), where()
    assert len(found) == seen, where()
    return session
