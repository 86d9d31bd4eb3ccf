"""
The core of the POP3 server beside a model of it: lines cut by hand from all that the client has sent.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from fuzz.exchanges import BINDINGS, KEYS, NONCE, SCOPE, check
from fuzz.target import Choices, Target, kept, pieces
from mailstack.wire import pop3_commands as words
from mailstack.wire.errors import LocalProtocolError
from mailstack.wire.events import AWAITING_REPLY, Pause
from mailstack.wire.pop3_commands import (
    COMMAND_OCTETS,
    SECRET_OCTETS,
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
    ok,
)
from mailstack.wire.pop3_server import POP3ServerCore
from mailstack.wire.pop3_table import State
from mailstack.wire.sasl import Challenge, Credentials, KeysWanted

CONTENT: Final = b".Subject: x\r\n\r\n.\r\n..\r\nend"
WHOLE: Final = CONTENT + b"\r\n"
OVERHEAD_OCTETS: Final = 2_000
GIVE_KEYS: Final = words.ok("the keys of the user, and no reply")
"""Stands for what a shell gives to KeysWanted, other than a reply."""
CLOSING: Final = words.err("Closing", closes=True)


class Model:
    """
    What a POP3 server is to make of the octets and the replies.

    Shape:  `place` is one of "authorization", "user", "sasl", "transaction", "tls" and "closed".
    """

    def __init__(self, *, secure: bool, tls_offered: bool, require_tls: bool) -> None:
        self.secure, self.tls_offered, self.require_tls = secure, tls_offered, require_tls
        self.exchange: list[bytes] = []
        self.is_told_why = False  # a token is refused, and the client is to answer
        self.place = "authorization"
        self.unread = b""
        self.dropping = False
        self.username = b""
        self.line = b""

    def sent(self, octets: bytes) -> None:
        """Take octets of the client."""
        if self.place not in ("closed", "tls"):
            self.unread += octets
            self._drop()

    def _drop(self) -> None:
        if self.dropping:
            line, found, rest = self.unread.partition(b"\r\n")
            self.dropping = not found
            self.unread = rest if found else b"\r" if line.endswith(b"\r") else b""

    def waits(self) -> None:
        """Check that there is nothing to be said."""
        assert self.dropping or b"\r\n" not in self.unread
        assert len(self.unread) <= SECRET_OCTETS + 1

    def hears(self, event: Event) -> None:
        """Check an event, and read the line that it is about."""
        assert self.place not in ("closed", "tls"), event
        assert not self.dropping, event
        line, found, rest = self.unread.partition(b"\r\n")
        if not found or len(line) > SECRET_OCTETS:
            assert event == Refused(words.LINE_TOO_LONG)
            assert len(self.unread) > SECRET_OCTETS + (0 if found else 1)
            self.unread, self.dropping = (rest, False) if found else (line, True)
            self._drop()
            return
        self.line, self.unread = line, rest
        word, _, argument = line.partition(b" ")
        if b"\r" in line or b"\n" in line:
            assert event == Refused(words.BAD_LINE)
        elif self.place == "sasl":
            self.exchange.append(line)
            if self.is_told_why:
                assert event == Refused(words.AUTH_CANCELLED if line == b"*" else words.AUTH_FAILED)
            elif not isinstance(event, Refused):
                self._says(event)
        else:
            self._command(word.upper(), argument, event)

    def _says(self, event: Event) -> None:
        assert self.secure or not self.require_tls
        name, *lines = self.exchange
        mechanism = name.decode()
        match event:
            case Login(username, password):
                message = base64.b64decode(lines[-1])
                assert not message.split(b"\0")[0] or message.startswith(username + b"\0"), "for another"
                check(mechanism, lines, Credentials(username, password, message.split(b"\0")[0]))
            case Prove(proof):
                check(mechanism, lines, proof)
                assert not proof.acts_for_other
            case KeysWanted():
                check(mechanism, lines, event)
            case Certify(external):
                check(mechanism, lines, external)
            case Show(bearer):
                check(mechanism, lines, bearer)
                assert self.secure
            case Answered(POP3Reply(indicator=words.Indicator.CONTINUE, text=encoded)):
                check(mechanism, lines, Challenge(base64.b64decode(encoded)))
                self.is_told_why = mechanism in ("OAUTHBEARER", "XOAUTH2") and bool(lines)
            case _:
                raise AssertionError(f"{event} in an exchange")

    def _command(self, word: bytes, argument: bytes, event: Event) -> None:
        is_in = self.place == "transaction"
        match event:
            case Refused(answer):
                assert not answer.is_success
                assert self.line not in (b"QUIT", b"CAPA")
                assert not is_in or self.line not in (b"NOOP", b"STAT", b"RSET", b"LIST", b"RETR 1", b"TOP 1 0")
                assert not answer.closes or (word == b"STLS" and self.unread)
            case Login(username, password) if word == b"PASS":
                assert self.place == "user"
                assert (username, password) == (self.username, argument)
                assert self.secure or not self.require_tls
            case Login() | Prove() | Show() | Certify() | KeysWanted():
                assert word == b"AUTH"
                assert not is_in
                self._begins(argument, event)
            case Leave(commit):
                assert word == b"QUIT"
                assert commit == is_in
            case Answered():
                assert word in ((b"CAPA", b"NOOP") if is_in else (b"CAPA", b"USER", b"AUTH"))
                if word == b"USER":
                    self.username = argument.rstrip(b" ")
                if word == b"AUTH":
                    self._begins(argument, event)
            case Order(verb=Verb.STLS):
                assert word == b"STLS"
                assert not is_in
                assert self.tls_offered
                assert not self.secure
                assert not self.unread
            case Order(verb, _, number, lines):
                assert is_in, "nobody has logged in"
                assert len(self.line) <= COMMAND_OCTETS
                said = [int(each) for each in argument.split(b" ") if each]
                assert word == verb.value.encode()
                assert said == ([] if number is None else [number] if verb is not Verb.TOP else [number, lines])
                assert number != 0

    def _begins(self, argument: bytes, event: Event) -> None:
        mechanism, space, initial = argument.rstrip(b" ").partition(b" ")
        self.exchange = [mechanism.upper(), *([initial] if space else [])]
        self.is_told_why = False
        self._says(event)

    def answered(self, event: Event | None, answer: POP3Reply) -> None:
        """Note a reply."""
        word = self.line.partition(b" ")[0].upper()
        if answer.closes:
            self.close()
        elif event is None:
            self.place = "authorization" if answer.is_success else "closed"
        elif isinstance(event, Leave):
            self.close()
        elif isinstance(event, Show) and answer == words.AUTH_FAILED:
            self.place, self.is_told_why = "sasl", True
        elif isinstance(event, Login | Prove | Show | Certify | KeysWanted):
            self.place = "transaction" if answer.is_success else "authorization"
        elif isinstance(event, Order) and event.verb is Verb.STLS and answer.is_success and self.unread:
            self.close()
        elif isinstance(event, Order) and event.verb is Verb.STLS:
            self.place = "tls" if answer.is_success else "authorization"
        elif isinstance(event, Answered) and self.place in ("authorization", "user") and word in (b"USER", b"AUTH"):
            self.place = "user" if word == b"USER" else "sasl"
        elif isinstance(event, Refused) and (self.place == "sasl" or self._begun(event)):
            self.place, self.is_told_why = "authorization", False

    def _begun(self, event: Refused) -> bool:
        """Say whether a command was refused for what it says, and not for its form or its place."""
        return self.line[:5].upper() == b"AUTH " and event.reply in (
            words.UNKNOWN_MECHANISM,
            words.AUTH_CANCELLED,
            words.BAD_AUTH_RESPONSE,
            words.AUTH_FAILED,
        )

    def close(self) -> None:
        """Be at the end."""
        self.place, self.unread, self.dropping = "closed", b"", False

    def tls_started(self) -> None:
        """Begin anew."""
        assert self.place == "tls"
        self.place, self.secure, self.username = "authorization", True, b""


def fitting(event: Event) -> Sequence[POP3Reply]:
    """Return the replies that a shell may give; the first of them agrees."""
    match event:
        case Answered(answer) | Refused(answer):
            return (answer, CLOSING) if not answer.closes else (answer,)
        case Leave():
            return (words.BYE, words.NOT_REMOVED)
        case KeysWanted():
            return (GIVE_KEYS, words.AUTH_FAILED, words.LOCAL_ERROR, CLOSING)
        case Login() | Prove() | Show() | Certify():
            return (ok("Welcome"), words.AUTH_FAILED, words.LOCAL_ERROR, CLOSING)
        case Order(verb=Verb.STLS):
            return (words.START_TLS, words.LOCAL_ERROR, CLOSING)
        case _:
            return (ok("Yes"), words.NO_SUCH_MESSAGE, CLOSING)


class Conversation:
    """A core and the model of it, with a shell that gives what replies it is told to."""

    def __init__(self, *, secure: bool, tls_offered: bool, require_tls: bool, knows_more: bool = False) -> None:
        self.core = POP3ServerCore(
            secure=secure,
            tls_offered=tls_offered,
            require_tls=require_tls,
            scram=knows_more,
            token_scope=SCOPE if knows_more else None,
        )
        if knows_more:
            self.core.bind_channel(BINDINGS)
            self.core.certificate_shown()
        self.model = Model(secure=secure, tls_offered=tls_offered, require_tls=require_tls)
        self.event: Event | None = None
        self.owes = True
        self.output = b""
        self.answer(words.GREETING)

    def receive(self, octets: bytes, *, swiftly: bool = False) -> None:
        """Let the client send; `swiftly` by the way of whole commands, where it is open."""
        order = self.core.receive_order(octets) if swiftly else None
        self.model.sent(octets)
        if order is None:
            self.core.receive(octets)
        else:
            assert not self.owes
            self._hear(order)
        self._check()

    def look(self) -> bool:
        """Take the next event; say whether one came. While a reply is owed there is none."""
        event = self.core.next_event()
        if self.owes:
            assert event is AWAITING_REPLY
            return False
        if isinstance(event, Pause):
            assert event is not AWAITING_REPLY
            self.model.waits()
            return False
        self._hear(event)
        return True

    def _hear(self, event: Event) -> None:
        self.model.hears(event)
        self.event, self.owes = event, True
        self._check()

    def answer(self, answer: POP3Reply, way: int = 0) -> None:
        """Give the reply that is owed; to what a maildrop says, in one of four ways."""
        if answer is GIVE_KEYS:
            self.event = self.core.give_keys(KEYS, NONCE)
            assert self.event.reply.indicator is words.Indicator.CONTINUE
            return
        is_of_maildrop = isinstance(self.event, Order) and self.event.verb is not Verb.STLS and answer.is_success
        if is_of_maildrop and way % 4:
            self._answer_with_content(answer, way % 4)
        else:
            said = self.core.send(answer)
            assert said.endswith(b"\r\n")
            assert said.count(b"\r\n") == 1 or said.endswith(b"\r\n.\r\n")
            assert said.startswith((b"+OK", b"-ERR", b"+ "))
            self.output += said
        self.owes = False
        self.model.answered(self.event, answer)
        try:
            self.core.send(words.NOOP_OK)
        except LocalProtocolError:
            pass
        else:
            raise AssertionError("a reply that nobody waits for")
        self._check()

    def _answer_with_content(self, answer: POP3Reply, way: int) -> None:
        core = self.core
        if way == 1:
            said = core.send_message(answer, CONTENT)
        elif way == 2:
            said = core.send_content(CONTENT)
        else:
            said = core.begin_lines(answer)
            for piece in pieces(CONTENT, 4):
                said += core.send_lines(piece)
                assert core.next_event() is AWAITING_REPLY
            said += core.end_lines()
        first, _, rest = said.partition(b"\r\n")
        assert first.startswith(b"+OK")
        lines = rest.split(b"\r\n")
        assert lines[-2:] == [b".", b""]
        assert b".." not in lines[-2]
        assert b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:-2]) == WHOLE
        assert b"." not in lines[:-2]
        self.output += said

    def interrupt(self) -> None:
        """Be told to stop, which one may say only when nothing is owed."""
        try:
            said = self.core.interrupt(words.SHUTTING_DOWN)
        except LocalProtocolError:
            assert self.owes
        else:
            assert not self.owes
            assert said.startswith(b"-ERR")
            self.model.close()
        self._check()

    def start_tls(self) -> None:
        """Begin TLS where it was agreed upon, and find that it is misuse elsewhere."""
        try:
            self.core.tls_started()
        except LocalProtocolError:
            assert self.model.place != "tls"
        else:
            self.model.tls_started()

    def _check(self) -> None:
        core, model = self.core, self.model
        assert core.is_closed == (model.place == "closed")
        assert (core.state is State.STARTING_TLS) == (model.place == "tls")
        assert (core.state is State.TRANSACTION) == (model.place == "transaction")
        assert core.waiting_octets <= len(model.unread)

    def check_memory(self) -> None:
        """Check that the core holds on to no more than what was not read, and a name."""
        assert kept(self.core) <= 2 * len(self.model.unread) + SECRET_OCTETS + OVERHEAD_OCTETS


def run(octets: bytes) -> None:
    """Run one: flags, the cut, the answers as a line, and then what the client says."""
    choices = Choices(octets)
    secure, tls_offered, require_tls, swiftly, knows_more = choices.flags(5)
    cut, answers = choices.number(), [each - ord("0") for each in choices.line()]
    conversation = Conversation(secure=secure, tls_offered=tls_offered, require_tls=require_tls, knows_more=knows_more)
    given = 0
    for piece in pieces(choices.rest(), cut):
        conversation.receive(piece, swiftly=swiftly)
        while conversation.owes or conversation.look():
            assert conversation.event is not None
            fit = fitting(conversation.event)
            chosen = answers[given % len(answers)] % 64 if answers else 0
            given += 1
            conversation.answer(fit[chosen // 4 % len(fit)], chosen)
        if conversation.core.state is State.STARTING_TLS:
            conversation.start_tls()
    conversation.check_memory()


TARGET: Final = Target(
    "pop3-server",
    "the core of the POP3 server, beside a model of it",
    run,
)
