"""
The server side of POP3, without I/O.

Theory of operation: the client's octets go in by `receive`; `next_event` takes the next line off them and says what it asks
for; `send` writes the reply and moves the state by the table. While a reply is owed no further line is looked at, so
pipelined commands are answered one by one and in order, however long one of them takes.

A multi-line reply with content is sent whole by `send_message`, `send_content` or `send_listing`, or in parts by `begin_lines`,
`send_lines` and `end_lines`; the reply is owed until its end. All content has CRLF line ends already: whoever makes a maildrop
promises that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mailstack.mail.scram import ScramKeys, ScramProof
from mailstack.wire import pop3_commands as words
from mailstack.wire.dots import DotStuffer, dots_doubled
from mailstack.wire.errors import LocalProtocolError, SaslBindingError, SaslCancelledError, SaslError, SaslRefusedError
from mailstack.wire.events import AWAITING_REPLY, NEED_OCTETS, Pause
from mailstack.wire.lines import TOO_LONG, LineBuffer
from mailstack.wire.mechanisms import offered_mechanisms
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
)
from mailstack.wire.pop3_table import RULES, Guard, Rule, State, Step, next_state
from mailstack.wire.sasl import Bearer, Challenge, Exchange, External, KeysWanted
from mailstack.wire.sasl_bearer import BearerExchange
from mailstack.wire.scram import Bindings, ScramExchange

_KEYS_WANTED: Final = Rule(State.AUTHORIZATION, State.AUTHORIZATION, State.SASL)  # a +OK to that would log nobody in
_OF_A_MAILDROP: Final = frozenset({Verb.STAT, Verb.LIST, Verb.UIDL, Verb.RETR, Verb.TOP, Verb.DELE, Verb.RSET})


class POP3ServerCore:
    """
    One session.

    Shape:  `secure`: TLS is on from the start; `tls_offered`: STLS can be done; `require_tls`: nobody logs in without TLS;
            `scram`: the keys of users can be had; `token_scope`: of which scope tokens must be that log a user in, or None when
            none do. The first thing owed is the greeting.
    """

    def __init__(
        self,
        *,
        secure: bool = False,
        tls_offered: bool = False,
        require_tls: bool = True,
        scram: bool = False,
        token_scope: str | None = None,
    ) -> None:
        self._secure = secure
        self._tls_offered = tls_offered
        self._require_tls = require_tls
        self._scram = scram
        self._token_scope = token_scope
        self._shown: BearerExchange | None = None  # whose token is being judged
        self._bindings: Bindings = {}
        self._has_certificate = False
        self._exchange: Exchange | None = None
        self._state = State.GREETING
        self._rule: Rule | None = RULES[State.GREETING, Step.GREET]
        self._stuffer: DotStuffer | None = None
        self._after: State = State.GREETING
        self._username = b""
        self._lines = LineBuffer(words.SECRET_OCTETS)

    @property
    def state(self) -> State:
        """Where the session is."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is said."""
        return self._state is State.CLOSED

    @property
    def owes_reply(self) -> bool:
        """Whether a reply is owed of which nothing was sent."""
        return self._rule is not None and self._stuffer is None

    @property
    def waiting_octets(self) -> int:
        """How much was received and not looked at."""
        return self._lines.pending

    def receive(self, octets: bytes) -> None:
        """Take octets from the client; the caller stops reading when too many wait."""
        if self._state not in (State.CLOSED, State.STARTING_TLS):
            self._lines.receive(octets)

    def receive_order(self, octets: bytes) -> Order | None:
        """
        Take octets that are exactly one command on the maildrop, and return it; or take nothing.

        It does what `receive` and `next_event` do, at a fifth of the cost, for what comes by the thousand, one at a time.
        """
        if self._rule is not None or self._state is not State.TRANSACTION or not self._lines.is_between_lines:
            return None
        order = words.whole_order(octets)
        if order is not None:
            self._rule = RULES[State.TRANSACTION, order.verb]
        return order

    def next_event(self) -> Event | Pause:
        """Return what the client asks for next."""
        if self._rule is not None:
            return AWAITING_REPLY
        line = self._lines.next_line()
        if line is None:
            return NEED_OCTETS
        order: Order | POP3Reply
        if line is TOO_LONG:
            order = words.LINE_TOO_LONG
        elif b"\r" in line or b"\n" in line:
            order = words.BAD_LINE
        elif self._state is State.SASL:
            self._rule = RULES[State.SASL, Step.RESPOND]
            return self._response(line)
        else:
            order = words.parse_order(line)
        if isinstance(order, POP3Reply):
            return self._refused(order)
        rule = RULES.get((self._state, order.verb))
        if rule is None:
            return self._refused(words.BAD_STATE)
        if rule.guard is not Guard.NONE and (refusal := self._guarded(rule.guard)):
            return self._refused(refusal)
        self._rule = rule
        return order if order.verb in _OF_A_MAILDROP else self._event(order)

    def send(self, reply: POP3Reply) -> bytes:
        """
        Write the reply that is owed.

        Raises:  LocalProtocolError: none is owed. ValueError: it is not one for this command.
        """
        shown, self._shown = self._shown, None
        if shown is not None and reply == words.AUTH_FAILED:
            reply = words.challenge(shown.refuse().encoded)  # RFC 7628 §3.2.3; the rest comes when the client has answered
        self._state = self._next_state(reply)
        self._rule = None
        if self._state is State.STARTING_TLS and self._lines.pending:
            self._state, reply = State.CLOSED, words.TLS_INJECTION  # it has come since; see `_event`
        if self._state is State.CLOSED:
            self._lines.clear()
        return format_pop3_reply(reply)

    def send_message(self, reply: POP3Reply, content: bytes) -> bytes:
        """Write the reply that is owed, followed by content with CRLF line ends."""
        return self.begin_lines(reply) + self.send_lines(content) + self.end_lines()

    def send_content(self, content: bytes) -> bytes:
        """Write +OK with the octets of a whole message, and the message; what `send_message` does, at a third of the cost."""
        if self._rule is None or self._stuffer is not None:
            raise LocalProtocolError("no reply is owed")
        self._state, self._rule = self._rule.on_ok, None
        dot = b"." if content.startswith(b".") else b""
        end = b".\r\n" if content.endswith(b"\n") or not content else b"\r\n.\r\n"
        return b"+OK %d octets\r\n%b%b%b" % (len(content), dot, dots_doubled(content), end)

    def send_listing(self, reply: POP3Reply, lines: bytes) -> bytes:
        """Write the reply that is owed, followed by whole lines of which none begins with a dot."""
        self._state, self._rule = self._next_state(reply), None
        return b"%b%b.\r\n" % (format_pop3_reply(reply), lines)

    def begin_lines(self, reply: POP3Reply) -> bytes:
        """Write the first line of a multi-line reply."""
        self._after = self._next_state(reply)
        self._stuffer = DotStuffer(has_crlf=True)
        return format_pop3_reply(reply)

    def send_lines(self, octets: bytes) -> bytes:
        """Write a part of its content, split anywhere."""
        if self._stuffer is None:
            raise LocalProtocolError("no multi-line reply was begun")
        return self._stuffer.feed(octets)

    def end_lines(self) -> bytes:
        """Write its end."""
        if self._stuffer is None:
            raise LocalProtocolError("no multi-line reply was begun")
        end = self._stuffer.finish()
        self._stuffer, self._rule, self._state = None, None, self._after
        return end

    def interrupt(self, reply: POP3Reply) -> bytes:
        """
        Write a last reply that no command asked for, and close.

        Raises:  LocalProtocolError: a reply is owed, and only after it may one say more.
        """
        if self._rule is not None and self._state is not State.GREETING:
            raise LocalProtocolError("a reply is owed")
        self._state, self._rule = State.CLOSED, None
        self._lines.clear()
        return format_pop3_reply(reply)

    def tls_started(self) -> None:
        """
        Forget what was learned in clear text (RFC 2595 §4).

        Raises:  LocalProtocolError: STLS was not agreed upon.
        """
        if self._state is not State.STARTING_TLS:
            raise LocalProtocolError("no STLS")
        self._lines.clear()
        self._username = b""
        self._secure, self._state = True, State.AUTHORIZATION

    def bind_channel(self, bindings: Bindings) -> None:
        """Take what is known of the TLS session, once it is there; without it no -PLUS is offered."""
        self._bindings = bindings

    def certificate_shown(self) -> None:
        """Take note that the client has shown a certificate in TLS that names somebody: EXTERNAL is offered."""
        self._has_certificate = True

    def give_keys(self, keys: ScramKeys, nonce: str) -> Answered:
        """
        Go on with the exchange that wanted the keys of a user, and return the next event; it is answered like any other.

        Raises:  LocalProtocolError: none are wanted.
        """
        if not isinstance(self._exchange, ScramExchange):
            raise LocalProtocolError("no keys are wanted")
        return Answered(words.challenge(self._exchange.give_keys(keys, nonce).encoded))

    def _next_state(self, reply: POP3Reply) -> State:
        if self._rule is None or self._stuffer is not None:
            raise LocalProtocolError("no reply is owed")
        return next_state(self._rule, reply)

    def _refused(self, reply: POP3Reply) -> Refused:
        """Refuse what changes nothing, but that an exchange of SASL is over with it."""
        self._rule = RULES[State.SASL, Step.RESPOND] if self._state is State.SASL else Rule(self._state, self._state)
        return Refused(reply)

    def _guarded(self, guard: Guard) -> POP3Reply | None:
        if guard is Guard.CONFIDENTIAL and not self._may_log_in:
            return words.TLS_REQUIRED if self._tls_offered else words.TLS_NEEDED
        if guard is Guard.TLS_OFFERED and not self._may_start_tls:
            return words.TLS_ACTIVE if self._secure else words.TLS_UNAVAILABLE
        return None

    @property
    def _may_log_in(self) -> bool:
        return self._secure or not self._require_tls

    @property
    def _may_start_tls(self) -> bool:
        return self._tls_offered and not self._secure

    def _event(self, order: Order) -> Event:
        verb = order.verb
        if verb is Verb.USER:
            self._username = order.text
            return Answered(words.USER_OK)
        if verb is Verb.PASS:
            return Login(self._username, order.text)
        if verb is Verb.AUTH:
            return self._auth(order.text)
        if verb is Verb.CAPA:
            return Answered(self._capabilities())
        if verb is Verb.NOOP:
            return Answered(words.NOOP_OK)
        if verb is Verb.QUIT:
            return Leave(self._state is State.TRANSACTION)
        if verb is Verb.STLS and self._lines.pending:
            # What came in clear text behind STLS would be taken for what came inside TLS (RFC 2595 §4, CVE-2011-0411).
            return Refused(words.TLS_INJECTION)
        return order

    def _auth(self, text: bytes) -> Event:
        mechanism, space, initial = text.partition(b" ")
        make = self._mechanisms().get(mechanism.decode("ascii", "replace").upper())
        if make is None:
            return Refused(words.UNKNOWN_MECHANISM)
        self._exchange = make()
        return self._response(initial if space else None)

    def _mechanisms(self) -> Mapping[str, Callable[[], Exchange]]:
        # Also where passwords may be told in the clear: RFC 7628 §3 wants TLS for a token, always.
        token_scope = self._token_scope if self._secure else None
        return offered_mechanisms(
            self._bindings, scram=self._scram, external=self._has_certificate, login=False, token_scope=token_scope
        )

    def _response(self, encoded: bytes | None) -> Event:
        """Take the client's part of an exchange (RFC 5034 §4)."""
        assert self._exchange is not None, "begun before"
        try:
            said = self._exchange.step(encoded)
        except SaslCancelledError:
            return Refused(words.AUTH_CANCELLED)
        except (SaslBindingError, SaslRefusedError):
            return Refused(words.AUTH_FAILED)
        except SaslError:
            return Refused(words.BAD_AUTH_RESPONSE)
        if isinstance(said, Challenge):
            return Answered(words.challenge(said.encoded))
        if isinstance(said, KeysWanted):
            self._rule = _KEYS_WANTED
            return said
        if isinstance(said, External):
            return Certify(said)
        if isinstance(said, Bearer):
            assert isinstance(self._exchange, BearerExchange), "no other has a token"
            self._shown = self._exchange
            return Show(said)
        if said.acts_for_other:
            return Refused(words.AUTH_FAILED)  # nobody may here
        return Prove(said) if isinstance(said, ScramProof) else Login(said.username, said.password)

    def _capabilities(self) -> POP3Reply:
        """List what we can (RFC 2449 §5); who we are, only to those who have logged in."""
        lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]
        if self._may_log_in:
            lines += ["USER", f"SASL {' '.join(self._mechanisms())}"]
        if self._may_start_tls and self._state is not State.TRANSACTION:
            lines.append("STLS")
        if self._state is State.TRANSACTION:
            lines.append("IMPLEMENTATION mailstack")
        return words.ok("Capabilities follow", *lines)
