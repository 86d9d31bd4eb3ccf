"""
The server side of SMTP, submission and LMTP, without I/O.

Theory of operation: the peer's octets go in by `receive`; `next_event` takes the next line off them, or in a content whatever
has come of it, and says what it is; `send` writes the reply and moves the state by the table. While a reply is owed nothing
further is looked at, so pipelined commands are answered one by one and in order, however long one of them takes.

The octets of a BDAT belong to it wherever it comes: also where it is out of place they are read and dropped before it is
refused, since no octet of a content may run as a command.

Once a content has begun, only CRLF.CRLF ends it. A content that is too big, or has a bare CR or LF, or a header section beyond
its limits, is read to that end and then refused, since octets of a content must never run as commands. A line of a content may
have any length, and is passed on as it is: RFC 5322 §2.1.1 allows 998 octets, much mail has more, nothing waits for its end.

A content that is announced as BINARYMIME comes by BDAT only, and is converted here, so that nobody behind the core sees one.
The limit of its size counts the octets that came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime
from typing import Final, TypeVar

from mailstack.mail import reply as replies
from mailstack.mail.envelope import BodyType
from mailstack.mail.headers import HeaderMeter
from mailstack.mail.reply import Reply, format_reply, reply
from mailstack.mail.scram import ScramKeys
from mailstack.mail.status import EnhancedStatus
from mailstack.wire import grammar
from mailstack.wire.chunks import BinaryReader, ChunkReader
from mailstack.wire.dots import DotUnstuffer
from mailstack.wire.errors import LocalProtocolError, SaslBindingError, SaslCancelledError, SaslError, SaslRefusedError
from mailstack.wire.events import AWAITING_REPLY, NEED_OCTETS, Pause
from mailstack.wire.limits import CLOSE_AT_TIMES_SIZE, DISCARDED_OCTETS, GATHERED_OCTETS, PIECE_OCTETS, BareNewline, Limits
from mailstack.wire.lines import TOO_LONG, LineBuffer, Overlong
from mailstack.wire.mechanisms import offered_mechanisms
from mailstack.wire.sasl import Challenge, Exchange, KeysWanted
from mailstack.wire.sasl_bearer import BearerExchange
from mailstack.wire.scram import Bindings, ScramExchange
from mailstack.wire.smtp_clients import XCLIENT, XFORWARD, parse_attributes
from mailstack.wire.smtp_commands import (
    Answered,
    Authenticate,
    Chunk,
    ChunkEnd,
    Command,
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
    Verb,
    XClient,
    XForward,
    parse_bdat,
    parse_command,
    parse_hello,
    parse_mail,
    parse_rcpt,
)
from mailstack.wire.smtp_table import REFUSAL, RULES, UNKNOWN, Role, Rule, State, Step, next_state, out_of_place

NOT_SMTP: Final = reply(421, "4.7.0", "This is not what you seek")
BEHIND_STARTTLS: Final = reply(503, "5.5.1", "Nothing may be pipelined behind STARTTLS")
RESPONSE_TOO_LONG: Final = reply(500, "5.5.6", "Authentication exchange line is too long")
ALREADY_AUTHENTICATED: Final = reply(503, "5.5.1", "Already authenticated")
ALREADY_TLS: Final = reply(503, "5.5.1", "TLS is already active")
NOT_AUTHORISED: Final = reply(550, "5.7.0", "Not authorised")
CHUNK_STATUS: Final = EnhancedStatus(2, 0, 0)
HELP: Final = reply(214, "2.0.0", "See RFC 5321")
_E = TypeVar("_E", bound=Event)
_BDAT: Final = b"BDAT"
_AUTH: Final = b"AUTH "
_NO_METER: Final = HeaderMeter()  # of a session that takes no content; never fed
_TLS_HANDSHAKE: Final = b"\x16"  # RFC 8446 §5.1, the first octet of a ClientHello


class SMTPServerCore:
    """
    One session. The first thing owed is the greeting.

    Shape:  `tls_active`: TLS came with the connection; `tls_available`: STARTTLS can be done; `scram`: the keys of users can be
            had; `token_scope`: of which scope tokens must be that log a user in, or None when none do; `is_trusted`: the peer
            may speak for others, by XCLIENT and XFORWARD. `closed` says that after what `send` returned last the connection
            ends.
    Units:  `opened_at` in seconds since 1970, UTC.
    """

    def __init__(
        self,
        role: Role,
        limits: Limits,
        hostname: str,
        *,
        tls_active: bool = False,
        tls_available: bool = False,
        scram: bool = False,
        token_scope: str | None = None,
        is_trusted: bool = False,
        opened_at: float = 0.0,
    ) -> None:
        self._role = role
        self._limits = limits
        self._hostname = hostname
        self._tls_active = tls_active
        self._tls_available = tls_available
        self._scram = scram
        self._token_scope = token_scope
        self._bindings: Bindings = {}
        self._is_trusted = is_trusted
        self._has_certificate = False
        self._opened_at = opened_at
        default = BareNewline.NORMALISE if role is Role.SUBMISSION else BareNewline.REJECT
        self._bare_newline = limits.bare_newline or default
        self._lines = LineBuffer(limits.command_line_octets)
        self._rule: Rule | None = None
        self._forget()
        self._state, self._rule = State.GREETING, RULES[State.GREETING, Step.GREET]

    def _forget(self) -> None:
        """Be as at the start of a session."""
        self._state = State.START
        self._rule = None
        self._event: Event | None = None
        self._owed = 1
        self._authenticated = False
        self._end_transaction()

    def _end_transaction(self) -> None:
        self._recipients = 0
        self._exchange: Exchange | None = None
        self._mechanism = ""
        self._verdict = replies.AUTH_FAILED  # of the token that the client knows to be refused
        self._is_utf8 = self._is_binary = False
        self._unstuffer: DotUnstuffer | None = None
        self._reader: ChunkReader | None = None
        self._chunk: Chunk | None = None
        self._chunk_left = 0
        self._unread = b""
        self._content_octets = 0
        self._meter = _NO_METER
        self._refusal: Reply | None = None
        self._lines.limit_octets = self._line_octets

    @property
    def _line_octets(self) -> int:
        """
        How long a command may be that comes next.

        Deviates: RFC 4954 §4 — a client whose token makes AUTH too long for a command must wait until asked; many do not.
        """
        return self._limits.sasl_octets if self._may_show_token else self._limits.command_line_octets

    @property
    def _may_show_token(self) -> bool:
        return self._token_scope is not None and self._may_log_in

    @property
    def _may_log_in(self) -> bool:
        return self._role is Role.SUBMISSION and self._tls_active and not self._authenticated

    @property
    def state(self) -> State:
        """Where the session is."""
        return self._state

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._state is State.CLOSED

    @property
    def owes_reply(self) -> bool:
        """Whether the peer waits for us."""
        return self._rule is not None

    @property
    def is_in_content(self) -> bool:
        """Whether what the peer sends next is content."""
        return self._state is State.CONTENT or self._chunk is not None

    @property
    def pending(self) -> int:
        """The octets that were received and not looked at."""
        return len(self._unread) + self._lines.pending

    def receive(self, octets: bytes) -> bool:
        """
        Take octets from the peer; the caller stops reading when too many are pending.

        Shape:   False: it is not worth asking for the next event yet. A peer may put each octet into a TLS record of its own,
                 and thousands of these into one packet.
        """
        if self._state is State.CLOSED:
            return False
        unstuffer = self._unstuffer
        if not self._chunk_left and (unstuffer is None or unstuffer.ended):
            is_first = self._lines.is_between_lines
            self._lines.receive(octets)
            return is_first or self._lines.has_line() or self._lines.discarded > DISCARDED_OCTETS
        if not self._unread and not self._lines.pending:
            self._unread = octets  # the common case of a content: not copied
        else:
            self._lines.receive(self._unread + octets if self._unread else octets)
            self._unread = b""
        if len(octets) > PIECE_OCTETS:
            return True
        if self._chunk is not None:
            return self.pending >= min(self._chunk_left, GATHERED_OCTETS)
        if self.pending >= GATHERED_OCTETS:
            return True
        assert unstuffer is not None, "it is content, and no chunk"
        return b"\n" in octets and unstuffer.would_end_in(self._unread or self._lines.peek())

    def next_event(self) -> Event | Pause:
        """Return what the peer says next."""
        if self._rule is not None:
            return AWAITING_REPLY
        if self._unstuffer is not None:
            return self._next_of_content(self._unstuffer)
        if self._chunk is not None:
            return self._next_of_chunk(self._chunk)
        if self._state in (State.CLOSED, State.STARTING_TLS):
            return NEED_OCTETS
        if self._lines.begins_with(_TLS_HANDSHAKE):  # whatever else it may be, too long for instance
            return self._refuse(NOT_SMTP)
        line = self._lines.next_line()
        if line is None:
            return self._judge_beginning()
        if self._state is State.EXCHANGE:
            return self._respond(line)
        if line is TOO_LONG:
            return self._refuse(replies.LINE_TOO_LONG, closes=self._lines.overlong.upper() == _BDAT)
        if len(line) > self._limits.command_line_octets and line[:5].upper() != _AUTH:
            return self._refuse(replies.LINE_TOO_LONG, closes=line[:4].upper() == _BDAT)
        command = parse_command(line)
        if isinstance(command, Reply):
            return self._refuse(command, closes=line[:4].upper() == _BDAT)  # nobody knows how many octets of a content follow
        return self._take_chunk(command) if command.verb is Verb.BDAT else self._obey(command)

    def send(self, answer: Reply) -> bytes:
        """
        Write the reply that is owed.

        Raises:  LocalProtocolError: none is owed.
        """
        rule, event = self._rule, self._event
        if rule is None:
            raise LocalProtocolError("no reply is owed")
        if isinstance(event, StartTLS) and answer.is_success and self._lines.pending:
            # They came in the clear, so whoever sits on the line may have written them (RFC 3207 §6).
            answer, event = BEHIND_STARTTLS, Refused(BEHIND_STARTTLS, closes=True)
        if isinstance(event, Authenticate) and answer.is_permanent:
            answer = self._told_why(answer)
        if isinstance(event, Data) and self._chunk is not None and answer.code != 421:
            return self._begin_chunks(rule, answer)
        self._owed -= 1
        if answer.code == 421 or (isinstance(event, Refused) and event.closes):
            self._close()
        elif self._owed == 0:
            self._move(rule, event, answer)
        return format_reply(answer)

    def end(self, answer: Reply) -> bytes:
        """End the session from our side with a 421, whatever it is doing (RFC 5321 §3.8)."""
        self._close()
        return format_reply(answer)

    def tls_started(self) -> None:
        """
        Forget everything learned in the clear (RFC 3207 §4.2).

        Raises:  LocalProtocolError: no 220 to STARTTLS was sent.
        """
        if self._state is not State.STARTING_TLS:
            raise LocalProtocolError("TLS out of place")
        self._lines.clear()
        self._forget()
        self._tls_active = True
        self._lines.limit_octets = self._line_octets

    def bind_channel(self, bindings: Bindings) -> None:
        """Take what is known of the TLS session, once it is there; without it no -PLUS is offered."""
        self._bindings = bindings

    def certificate_shown(self) -> None:
        """Take note that the client has shown a certificate in TLS that names somebody: EXTERNAL is offered."""
        self._has_certificate = True

    def give_keys(self, keys: ScramKeys, nonce: str) -> Event:
        """
        Go on with the exchange that wanted the keys of a user, and return the next event; it is answered like any other.

        Shape:   who has none, or may not log in, gets keys that nobody has; the nonce is new each time.
        Raises:  LocalProtocolError: none are wanted.
        """
        if not isinstance(self._event, KeysWanted) or not isinstance(self._exchange, ScramExchange):
            raise LocalProtocolError("no keys are wanted")
        challenge = self._exchange.give_keys(keys, nonce)
        self._event = Answered(Reply(334, (challenge.encoded,)))
        return self._event

    # How the state moves

    def _move(self, rule: Rule, event: Event | None, answer: Reply) -> None:
        before = self._state
        self._rule, self._event, self._owed = None, None, 1
        self._state = next_state(before, rule, answer)
        if self._state is State.CLOSED:
            self._close()
            return
        if answer.is_success:
            if isinstance(event, Rcpt):
                self._recipients += 1
            elif isinstance(event, Mail):
                self._is_utf8, self._is_binary = event.smtputf8, event.body is BodyType.BINARY_MIME
            elif isinstance(event, Authenticate):
                self._authenticated = True
                self._lines.limit_octets = self._line_octets
            elif isinstance(event, XClient):
                self._authenticated = bool(event.attributes.get("LOGIN"))
        if self._state is before:
            return
        if self._state is State.READY:
            self._end_transaction()
        elif self._state is State.CONTENT:
            self._unstuffer = DotUnstuffer(normalise=self._bare_newline is BareNewline.NORMALISE)
            self._meter = HeaderMeter()
        elif self._state is State.EXCHANGE:
            self._lines.limit_octets = self._limits.sasl_octets

    def _close(self) -> None:
        self._state, self._rule, self._event = State.CLOSED, None, None
        self._end_transaction()
        self._lines.clear()

    def _owe(self, event: _E, rule: Rule) -> _E:
        self._rule, self._event = rule, event
        return event

    def _refuse(self, answer: Reply, *, closes: bool = False) -> Refused:
        return self._owe(Refused(answer, closes), REFUSAL)

    def _judge_beginning(self) -> Event | Pause:
        """Look at a line that is not complete: does it go on for ever?"""
        if self._lines.discarded > DISCARDED_OCTETS:
            return self._refuse(replies.LINE_TOO_LONG, closes=True)
        return NEED_OCTETS

    # Commands

    def _obey(self, command: Command) -> Event:
        verb = command.verb
        if verb is Verb.HTTP:
            return self._refuse(NOT_SMTP)
        unknown = UNKNOWN[self._role].get(verb)
        if unknown is not None:
            return self._refuse(unknown)
        rule = RULES.get((self._state, verb))
        if rule is None:
            return self._refuse(out_of_place(self._state, verb))
        if command.argument and verb in _WITHOUT_ARGUMENT:
            return self._refuse(replies.BAD_ARGUMENTS)
        made = _MAKE[verb](self, command)
        if isinstance(made, Reply):
            return self._refuse(made)
        return self._owe(made, REFUSAL if isinstance(made, Refused) else rule)

    def _hello(self, command: Command) -> Event | Reply:
        name = parse_hello(command.argument)
        if isinstance(name, Reply):
            return name
        if command.verb is Verb.HELO:
            return Hello(name, False, Reply(250, (self._hostname,)))
        offered = [f"{keyword} {value}" if value else keyword for keyword, value in self._extensions().items()]
        return Hello(name, True, Reply(250, (self._hostname, *offered)))

    def _extensions(self) -> dict[str, str]:
        """List the extensions that there are at this moment, by keyword, with what their line says more."""
        limits = self._limits
        extensions = {
            "PIPELINING": "",
            "SIZE": str(limits.message_octets),
            "8BITMIME": "",
            "SMTPUTF8": "",
            "CHUNKING": "",
            "DSN": "",
            "ENHANCEDSTATUSCODES": "",
            "LIMITS": f"RCPTMAX={limits.recipients}",  # RFC 9422
            "DELIVERBY": "",
            "MT-PRIORITY": "",
        }
        if limits.binary:
            extensions["BINARYMIME"] = ""
        if self._role is Role.SUBMISSION:
            until = datetime.fromtimestamp(self._opened_at + limits.hold_seconds, UTC)
            extensions["FUTURERELEASE"] = f"{limits.hold_seconds} {until:%Y-%m-%dT%H:%M:%SZ}"  # RFC 4865 §4
        if self._tls_active:
            extensions["REQUIRETLS"] = ""  # RFC 8689 §4.2.1: only where the message came by TLS, too
        elif self._tls_available:
            extensions["STARTTLS"] = ""
        if self._may_log_in:
            extensions["AUTH"] = " ".join(self._mechanisms())
        if self._is_trusted:
            extensions |= {"XCLIENT": " ".join(XCLIENT), "XFORWARD": " ".join(XFORWARD)}
        if self._role is not Role.LMTP:
            extensions["HELP"] = ""
        return extensions

    def _mail(self, command: Command) -> Event | Reply:
        if self._role is Role.SUBMISSION and not self._authenticated:
            return replies.AUTH_REQUIRED if self._tls_active else replies.TLS_REQUIRED
        return parse_mail(command.argument, announced=self._announced, size_limit_octets=self._limits.message_octets)

    @property
    def _announced(self) -> Set[str]:
        """The extensions whose parameters MAIL and RCPT may have."""
        announced = _WITH_PARAMETERS[self._role] if self._limits.binary else _WITH_PARAMETERS[self._role] - {"BINARYMIME"}
        return announced | _WITHIN_TLS if self._tls_active else announced

    def _rcpt(self, command: Command) -> Event | Reply:
        if self._recipients >= self._limits.recipients:
            return replies.TOO_MANY_RECIPIENTS
        return parse_rcpt(command.argument, announced=self._announced, is_utf8=self._is_utf8)

    def _data(self, command: Command) -> Event | Reply:
        return replies.BINARY_BY_DATA if self._is_binary else Data()  # RFC 3030 §3

    def _starttls(self, command: Command) -> Event | Reply:
        if self._tls_active:
            return ALREADY_TLS
        if not self._tls_available:
            return replies.NOT_IMPLEMENTED
        return StartTLS()

    def _xclient(self, command: Command) -> Event | Reply:
        if not self._is_trusted:
            return NOT_AUTHORISED
        attributes = parse_attributes(command.argument, XCLIENT)
        return attributes if isinstance(attributes, Reply) else XClient(attributes)

    def _xforward(self, command: Command) -> Event | Reply:
        if not self._is_trusted:
            return NOT_AUTHORISED
        attributes = parse_attributes(command.argument, XFORWARD)
        return attributes if isinstance(attributes, Reply) else XForward(attributes)

    # Authentication

    def _auth(self, command: Command) -> Event | Reply:
        if self._authenticated:
            return ALREADY_AUTHENTICATED
        if not self._tls_active:
            return replies.ENCRYPTION_REQUIRED
        mechanism, _, initial = command.argument.partition(b" ")
        if not grammar.SASL_MECHANISM.match(mechanism):
            return replies.BAD_ARGUMENTS
        self._mechanism = mechanism.decode("ascii").upper()
        make = self._mechanisms().get(self._mechanism)
        if make is None:
            return replies.UNKNOWN_MECHANISM
        self._exchange = make()
        return self._step(initial.lstrip(b" ") or None)

    def _mechanisms(self) -> Mapping[str, Callable[[], Exchange]]:
        return offered_mechanisms(
            self._bindings, scram=self._scram, external=self._has_certificate, token_scope=self._token_scope
        )

    def _told_why(self, verdict: Reply) -> Reply:
        """Return the answer to what a client has shown that is refused; to a token it is a challenge (RFC 7628 §3.2.3)."""
        if not isinstance(self._exchange, BearerExchange):
            return verdict
        self._verdict = verdict
        return Reply(334, (self._exchange.refuse().encoded,))

    def _respond(self, line: bytes | Overlong) -> Event:
        """Take a line of an exchange."""
        rule = RULES[State.EXCHANGE, Step.RESPOND]
        made = RESPONSE_TOO_LONG if line is TOO_LONG else self._step(line)
        return self._owe(Refused(made) if isinstance(made, Reply) else made, rule)

    def _step(self, line: bytes | None) -> Event | Reply:
        assert self._exchange is not None
        try:
            said = self._exchange.step(line)
        except SaslCancelledError:
            return replies.AUTH_CANCELLED
        except SaslBindingError:
            return replies.AUTH_FAILED
        except SaslRefusedError:
            return self._verdict
        except SaslError:
            return replies.BAD_AUTH_RESPONSE
        if isinstance(said, Challenge):
            return Answered(Reply(334, (said.encoded,)))
        if isinstance(said, KeysWanted):
            return said
        return Authenticate(self._mechanism, said)

    # Content

    def _next_of_content(self, unstuffer: DotUnstuffer) -> Event | Pause:
        limit_octets = self._limits.message_octets
        while not unstuffer.ended:
            octets = self._unread or self._lines.take()
            self._unread = b""
            if not octets:
                return NEED_OCTETS
            content = unstuffer.feed(octets)
            self._content_octets += len(content)
            self._meter.feed(content)
            self._lines.receive(unstuffer.rest)
            self._refusal = self._judge_content(unstuffer)
            if self._refusal is None and content:
                return ContentChunk(content)
            if self._content_octets > limit_octets * CLOSE_AT_TIMES_SIZE:
                return self._refuse(replies.MESSAGE_TOO_BIG, closes=True)
        self._owed = self._recipients if self._role is Role.LMTP else 1
        end = ContentEnd(self._content_octets, self._owed, self._refusal)
        return self._owe(end, RULES[State.CONTENT, Step.END_CONTENT])

    # Chunks

    def _take_chunk(self, command: Command) -> Event | Pause:
        """Take BDAT: begin a content, go on with one, or find out that neither is to be done."""
        chunk = parse_bdat(command.argument)
        if chunk is None:
            return self._refuse(replies.BAD_ARGUMENTS, closes=True)
        if chunk.octets > self._limits.message_octets * CLOSE_AT_TIMES_SIZE:
            return self._refuse(replies.MESSAGE_TOO_BIG, closes=True)
        self._chunk, self._chunk_left = chunk, chunk.octets
        rule = RULES.get((self._state, Verb.BDAT))
        if rule is None:
            self._refusal = out_of_place(self._state, Verb.BDAT)
        elif self._state is State.RECIPIENTS:
            return self._owe(Data(), rule)
        return self._next_of_chunk(chunk)

    def _begin_chunks(self, rule: Rule, answer: Reply) -> bytes:
        """Take the answer to the first BDAT: a refusal is said when its octets have come, and anything else then, too."""
        self._rule, self._event = None, None
        if answer.code == 354:
            self._state = next_state(self._state, rule, answer)
            mends = self._bare_newline is BareNewline.NORMALISE
            self._reader = BinaryReader() if self._is_binary else ChunkReader(normalise=mends)
            self._meter = HeaderMeter()
        else:
            self._refusal = answer
        return b""

    def _next_of_chunk(self, chunk: Chunk) -> Event | Pause:
        while self._chunk_left:
            octets = self._unread or self._lines.take()
            self._unread = b""
            if not octets:
                return NEED_OCTETS
            if len(octets) > self._chunk_left:
                self._lines.receive(octets[self._chunk_left :])
                octets = octets[: self._chunk_left]
            self._chunk_left -= len(octets)
            content = self._judge_chunk(self._reader.feed(octets)) if self._reader is not None else b""
            if content:
                return ContentChunk(content)
        return self._end_chunk(chunk)

    def _judge_chunk(self, content: bytes) -> bytes:
        self._content_octets += len(content)
        self._meter.feed(content)
        if self._reader is not None:
            self._refusal = self._judge_content(self._reader)
        return content if self._refusal is None else b""

    def _end_chunk(self, chunk: Chunk) -> Event:
        """Say what has come with the last octet of a chunk."""
        self._lines.receive(self._unread)  # it came after that octet
        self._unread = b""
        reader, refusal = self._reader, self._refusal
        if reader is None:
            assert refusal is not None, "it is either content or refused"
            self._chunk = self._refusal = None
            rule = RULES.get((self._state, Verb.BDAT))
            if rule is not None and chunk.is_last and self._role is Role.LMTP:
                self._owed = self._recipients
                return self._owe(ContentEnd(0, self._owed, refusal), rule)
            return self._owe(Answered(refusal), rule or REFUSAL)
        if chunk.is_last and refusal is None:
            last = self._judge_chunk(reader.finish())
            if last:
                return ContentChunk(last)
            refusal = self._refusal
        self._chunk = None
        if refusal is None and not chunk.is_last:
            end_of_chunk = ChunkEnd(Reply(250, (f"{chunk.octets} octets received",), CHUNK_STATUS), chunk.octets)
            return self._owe(end_of_chunk, RULES[State.CHUNKS, Verb.BDAT])
        self._owed = self._recipients if self._role is Role.LMTP and chunk.is_last else 1
        end = ContentEnd(self._content_octets, self._owed, refusal)
        return self._owe(end, RULES[State.CHUNKS, Step.END_CONTENT])

    def _judge_content(self, reader: DotUnstuffer | ChunkReader) -> Reply | None:
        # Size first, so that the answer does not depend on the pieces in which the content came.
        octets = reader.octets if isinstance(reader, BinaryReader) else self._content_octets
        if octets > self._limits.message_octets:
            return replies.MESSAGE_TOO_BIG
        if self._meter.octets > self._limits.header_octets:
            return replies.HEADER_TOO_BIG
        if self._meter.fields > self._limits.header_fields:
            return replies.TOO_MANY_FIELDS
        if isinstance(reader, BinaryReader) and reader.problem:
            return reply(554, "5.6.0", reader.problem)
        if reader.has_bare_newline and (self._bare_newline is BareNewline.REJECT or isinstance(reader, BinaryReader)):
            return replies.BARE_NEWLINE
        return None


_MX_PARAMETERS: Final = frozenset(("SIZE", "8BITMIME", "BINARYMIME", "SMTPUTF8", "DSN", "DELIVERBY", "MT-PRIORITY"))
_WITH_PARAMETERS: Final[Mapping[Role, Set[str]]] = {
    Role.MX: _MX_PARAMETERS,
    Role.LMTP: _MX_PARAMETERS,
    Role.SUBMISSION: _MX_PARAMETERS | {"AUTH", "FUTURERELEASE"},
}
_WITHIN_TLS: Final = frozenset(("REQUIRETLS",))
_WITHOUT_ARGUMENT: Final = frozenset((Verb.DATA, Verb.RSET, Verb.QUIT, Verb.STARTTLS))

_MAKE: Final[Mapping[Verb, Callable[[SMTPServerCore, Command], Event | Reply]]] = {
    Verb.HELO: SMTPServerCore._hello,
    Verb.EHLO: SMTPServerCore._hello,
    Verb.LHLO: SMTPServerCore._hello,
    Verb.MAIL: SMTPServerCore._mail,
    Verb.RCPT: SMTPServerCore._rcpt,
    Verb.DATA: SMTPServerCore._data,
    Verb.RSET: lambda core, command: Reset(),
    Verb.QUIT: lambda core, command: Quit(),
    Verb.NOOP: lambda core, command: Answered(replies.OK),
    Verb.VRFY: lambda core, command: Answered(replies.CANNOT_VERIFY),
    Verb.HELP: lambda core, command: Answered(HELP),
    Verb.STARTTLS: SMTPServerCore._starttls,
    Verb.AUTH: SMTPServerCore._auth,
    Verb.XCLIENT: SMTPServerCore._xclient,
    Verb.XFORWARD: SMTPServerCore._xforward,
}
