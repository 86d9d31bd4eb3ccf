"""
The client side of SMTP and LMTP, without I/O.

    core.receive(octets)                keep octets that came
    core.next_event()                   an event, or NEED_OCTETS
    core.begin(mailing), core.quit()    after Ready or Finished; what to write comes as events
    core.content(chunk) → octets        after SendContent; then core.end_content() → octets
    core.tls_started()                  after StartTLS, when the handshake is done
    core.connection_lost()              the server is gone; what it said before may still count

Theory of operation: `_awaited` holds what is to be answered, in order; each reply belongs to its first. With PIPELINING a whole
transaction is there at once, without it one command. So attribution is the same code for both, and a reply that nothing
awaits is an error: a server that says too much could otherwise answer for a recipient, or for the content, that it has not
seen.

Deviates: RFC 6152 §3 — a message with 8-bit octets is sent as it is to a host that does not offer 8BITMIME. Converting it
would break its signatures, and hosts that cannot take 8 bits are no longer met. Likewise RFC 6531 §3.5 for header fields in
UTF-8; but an address that is not ASCII is refused, since without SMTPUTF8 it cannot be written.

The content goes by BDAT to a host that offers CHUNKING: its octets are counted, so that nothing in them can be taken for its
end. It is sent when a recipient was accepted, and not before, though RFC 3030 §4.2 lets it be pipelined too: a host that
refuses them all and then does not drop the chunk would read commands in it, written by the author of the message.

One that refuses the chunk itself should drop it, and then say so (§2). Whether it has, its reply does not show, and if it has
not, its answers to lines of the content are yet to come, and the next message would take them for its own: accepted, while
nobody has it. So with a refusal of a chunk the session is over, and a chunk is always the first and the last of its message.
One that says that it does not know BDAT, or not here, though it offers it, has said nothing of the message: that may go by
DATA, in a session of its own. No more of the chunk is written then, since the host reads commands in it.
A content that is refused before its end came, by whatever way, leaves as much unknown. In LMTP, where a refusal may be followed
by an acceptance for another recipient, a content for several goes by DATA: a host that does not know that says so before.

Authentication: by SCRAM-SHA-256 where it is offered, so that the host does not get to see the password. Bound to the session of
TLS (-PLUS) where that is offered; where it is not, the host hears that we could have, and one that did offer it knows then that
somebody sits in between. One that knows no kind of binding that we know refuses it at once, and gets the proof without.

Many hosts offer SCRAM and have no keys of the user, so one that refuses the proof for good gets the password after all, by
PLAIN or LOGIN if it takes them; within TLS, as without SCRAM. One that accepts the proof must show that it has keys.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from mailstack.mail.reply import Reply
from mailstack.mail.status import EnhancedStatus
from mailstack.wire.chunks import ChunkWriter
from mailstack.wire.dots import DotStuffer
from mailstack.wire.errors import LocalProtocolError, RemoteProtocolError
from mailstack.wire.events import NEED_OCTETS, Pause
from mailstack.wire.sasl import plain_initial_response
from mailstack.wire.scram import Bindings, ScramClient, challenge_of
from mailstack.wire.smtp_mailing import (
    TLS,
    Chunkless,
    Closed,
    Event,
    Finished,
    Login,
    Mailing,
    Phase,
    Ready,
    Refused,
    Result,
    Send,
    SendContent,
    StartTLS,
    Unusable,
)
from mailstack.wire.smtp_replies import ReplyReader, capabilities
from mailstack.wire.smtp_transaction import Offered, Transaction, command_line

_ENCRYPTION_NEEDED: Final = EnhancedStatus(4, 7, 10)  # RFC 7672 §2.2 defers, since an attacker on the line can strip STARTTLS
_NO_LOGIN: Final = EnhancedStatus(4, 7, 0)
_NO_MAILING: Final = Mailing(reverse_path=None, recipients=(), octets=0)


class SMTPClientCore:
    """
    One session.

    Shape:  `tls_active`: TLS came with the connection. `login` is used in TLS only, unless `login_in_clear`. `nonce` is
            printable ASCII without comma, new for each session; without it SCRAM is not used. `chunking`: a content goes by
            BDAT where that is offered.
    """

    def __init__(
        self,
        hostname: str,
        *,
        tls: TLS = TLS.MAY,
        tls_active: bool = False,
        login: Login | None = None,
        login_in_clear: bool = False,
        nonce: str = "",
        lmtp: bool = False,
        chunking: bool = True,
    ) -> None:
        self._hostname = hostname
        self._tls = tls
        self._tls_active = tls_active
        self._login = login
        self._login_in_clear = login_in_clear
        self._lmtp = lmtp
        self._chunking = chunking
        self._replies = ReplyReader()
        self._events: deque[Event] = deque()
        self._awaited: deque[tuple[Phase, int]] = deque([(Phase.GREETING, 0)])
        self._unsent: deque[tuple[Phase, int, bytes]] = deque()
        self._idle = Phase.READY
        self._offered: Offered = {}
        self._nonce = nonce
        self._bindings: Bindings = {}
        self._is_bound = False
        self._answers: Iterator[Callable[[str], bytes]] = iter(())
        self._scram: ScramClient | None = None
        self._needs_reset = False
        self._replies_taken = 0
        self._transaction: Transaction = Transaction(_NO_MAILING, {})
        self._writer: DotStuffer | ChunkWriter = DotStuffer()

    @property
    def phase(self) -> Phase:
        """What is awaited, or done."""
        return self._awaited[0][0] if self._awaited else self._idle

    @property
    def offered(self) -> Offered:
        """What the server offers: keywords in upper case with their parameters."""
        return self._offered

    @property
    def replies_taken(self) -> int:
        """How many whole replies the server has given; every one is progress."""
        return self._replies_taken

    @property
    def tls_active(self) -> bool:
        """Whether the session is within TLS."""
        return self._tls_active

    @property
    def may_prove(self) -> bool:
        """Whether it may come to SCRAM, so that it is worth while to find out what is known of the TLS session."""
        return bool(self._login and self._nonce)

    @property
    def results(self) -> tuple[Result | None, ...]:
        """What is known of each recipient of the last mailing."""
        return tuple(self._transaction.results)

    # What the shell says

    def receive(self, octets: bytes) -> None:
        """
        Keep octets.

        Raises:  RemoteProtocolError.
        """
        if self.phase is not Phase.ENDED:
            self._replies.receive(octets)

    def next_event(self) -> Event | Pause:
        """
        Return what is to be done next.

        Raises:  RemoteProtocolError: the server cannot be understood; the session is over.
        """
        while not self._events:
            phase = self.phase
            if phase is Phase.CONTENT and self._is_chunk_unknown():
                break
            if phase is Phase.ENDED or phase is Phase.CONTENT:
                return NEED_OCTETS
            if phase is Phase.HANDSHAKE:
                self._refuse_surplus()
                return NEED_OCTETS
            reply = self._replies.next_reply()
            if reply is None:
                return NEED_OCTETS
            self._take(reply)
        return self._events.popleft()

    def begin(self, mailing: Mailing) -> None:
        """
        Begin a transaction.

        Raises:  LocalProtocolError: the session is not ready, or nobody is to get it.
        """
        if self.phase is not Phase.READY or not mailing.recipients:
            raise LocalProtocolError("a mailing out of place")
        may_chunk = self._chunking and not (self._lmtp and len(mailing.recipients) > 1)
        self._transaction = Transaction(mailing, self._offered, chunking=may_chunk)
        if self._transaction.is_decided:
            self._finish()
            return
        if self._needs_reset:
            self._unsent.append((Phase.RSET, 0, b"RSET\r\n"))
        self._unsent.extend(self._transaction.commands())
        self._send_commands()

    def content(self, chunk: bytes) -> bytes:
        """
        Return what to write for the next chunk of the content; what the last one gives goes out together with what ends it.

        Raises:  LocalProtocolError: it is not the content that the mailing says, or out of place.
        """
        if self.phase is not Phase.CONTENT:
            raise LocalProtocolError("content out of place")
        return self._writer.feed(chunk)

    def end_content(self) -> bytes:
        """
        Return what ends the content; from now on the server may have taken it.

        Raises:  RemoteProtocolError: it accepted the content before its end, so the replies would be one off.
                 LocalProtocolError: as for `content`.
        """
        if self.phase is not Phase.CONTENT:
            raise LocalProtocolError("content out of place")
        # In LMTP several replies are to come, and behind a refusal that came early an acceptance would count.
        is_refused = self._replies.holds_refusals_only() if self._lmtp else self._replies.begins_with_refusal()
        if self._replies.pending and not is_refused:
            raise RemoteProtocolError("a reply before the end of the content")
        end = self._writer.finish()
        self._await_end()
        return end

    def _await_end(self) -> None:
        self._idle = Phase.OUT_OF_STEP if self._replies.pending else Phase.READY
        self._needs_reset = False
        ends = self._transaction.accepted if self._lmtp else [-1]
        self._awaited.extend((Phase.CONTENT_END, number) for number in ends)

    def quit(self) -> None:
        """End the session; anything but an answer to QUIT no longer matters."""
        self._idle = Phase.ENDED
        self._unsent.clear()
        self._awaited.clear()
        self._awaited.append((Phase.QUIT, 0))
        self._events.append(Send(b"QUIT\r\n"))

    def bind_channel(self, bindings: Bindings) -> None:
        """Take what is known of the TLS session, once it is there; without it no -PLUS is used."""
        self._bindings = bindings

    def tls_started(self) -> None:
        """
        Forget what was learned in the clear, and greet again (RFC 3207 §4.2).

        Raises:  RemoteProtocolError: octets came between the 220 and TLS. Whoever sits on the line may have written them, to
                 speak for the server within TLS (CVE-2021-38371 and others).
        """
        if self.phase is not Phase.HANDSHAKE:
            raise LocalProtocolError("TLS out of place")
        self._refuse_surplus()
        self._tls_active = True
        self._offered = {}
        self._idle = Phase.READY
        self._greet()

    def connection_lost(self) -> None:
        """
        Note that the server is gone. A refusal that it sent during the content is the answer to it; an acceptance then was
        none, and is not looked at.
        """
        if self.phase is Phase.CONTENT and self._replies.begins_with_refusal():
            self._await_end()
            try:
                while self._awaited and (reply := self._replies.next_reply()) is not None and not reply.is_success:
                    self._take(reply)
            except RemoteProtocolError:
                pass
        self._end()
        self._events.clear()

    # What the server says

    def _take(self, reply: Reply) -> None:
        self._replies_taken += 1
        if not self._awaited:
            if reply.code == 421 and self._idle is Phase.OUT_OF_STEP:
                return  # the outcome is known, and QUIT comes next
            if reply.code == 421:
                self._refuse(self._idle, reply)
                return
            raise RemoteProtocolError(f"a reply to nothing: {str(reply)[:80]!r}")
        phase, number = self._awaited.popleft()
        if reply.code == 421 and phase not in (Phase.CONTENT_END, Phase.QUIT):
            self._refuse(phase, reply)
            return
        if 300 <= reply.code < 400 and reply.code != _GOES_ON.get(phase):
            raise RemoteProtocolError(f"{reply.code} to {phase.value}")
        _TAKE[phase](self, reply, number)

    def _take_greeting(self, reply: Reply, number: int) -> None:
        if reply.is_success:
            self._greet()
        else:
            self._refuse(Phase.GREETING, reply)

    def _greet(self) -> None:
        self._send(Phase.EHLO, f"{'LHLO' if self._lmtp else 'EHLO'} {self._hostname}")

    def _take_ehlo(self, reply: Reply, number: int) -> None:
        if reply.is_success:
            self._offered = capabilities(reply)
            self._secure()
        elif reply.is_permanent and not self._lmtp:
            self._send(Phase.HELO, f"HELO {self._hostname}")
        else:
            self._refuse(Phase.EHLO, reply)

    def _take_helo(self, reply: Reply, number: int) -> None:
        if reply.is_success:
            self._offered = {}
            self._secure()
        else:
            self._refuse(Phase.HELO, reply)

    def _secure(self) -> None:
        if self._tls_active or self._tls is TLS.NEVER:
            self._authenticate()
        elif "STARTTLS" in self._offered:
            self._send(Phase.STARTTLS, "STARTTLS")
        elif self._tls is TLS.MAY:
            self._authenticate()
        else:
            self._give_up(_ENCRYPTION_NEEDED, "The host does not offer STARTTLS, which is required")

    def _take_starttls(self, reply: Reply, number: int) -> None:
        if reply.is_success:
            self._refuse_surplus()
            self._idle = Phase.HANDSHAKE
            self._events.append(StartTLS())
        elif self._tls is TLS.MAY:
            self._authenticate()
        else:
            self._refuse(Phase.STARTTLS, reply)

    def _authenticate(self) -> None:
        login = self._login
        if login is None:
            self._events.append(Ready())
            return
        if not self._tls_active and not self._login_in_clear:
            self._give_up(_ENCRYPTION_NEEDED, "A password is not sent without TLS")
        elif not self._prove(login) and not self._tell_password(login):
            self._give_up(_NO_LOGIN, "The host offers no authentication that we know")

    def _prove(self, login: Login, *, may_bind: bool = True) -> bool:
        """Begin to prove the password, or say that the host does not take it so."""
        mechanisms = self._offered.get("AUTH", ()) if self._nonce else ()
        bindings = self._bindings if may_bind else {}
        self._is_bound = bool(bindings) and "SCRAM-SHA-256-PLUS" in mechanisms
        if not self._is_bound and "SCRAM-SHA-256" not in mechanisms:
            return False
        bound_to = bindings if self._is_bound else {}
        scram = ScramClient(login.username, login.password, self._nonce, bound_to, knows_binding=bool(bindings))
        self._scram = scram
        self._answers = iter((lambda said: scram.final(challenge_of(said)), lambda said: scram.verify(challenge_of(said))))
        name = "SCRAM-SHA-256-PLUS" if self._is_bound else "SCRAM-SHA-256"
        self._send(Phase.AUTH, f"AUTH {name} {b64encode(scram.first()).decode('ascii')}")
        return True

    def _try_another(self) -> bool:
        """Go on with another mechanism when the host has refused a proof for good, or say that there is none."""
        if self._scram is None or self._login is None:
            return False
        if self._is_bound and not self._scram.is_challenged and self._prove(self._login, may_bind=False):
            return True
        return self._tell_password(self._login)

    def _tell_password(self, login: Login) -> bool:
        """Send the password, or say that the host does not take it so."""
        self._scram = None
        mechanisms = self._offered.get("AUTH", ())
        if "PLAIN" in mechanisms:
            self._send(Phase.AUTH, f"AUTH PLAIN {plain_initial_response(login.username, login.password).decode('ascii')}")
        elif "LOGIN" in mechanisms:
            username, password = login.username.encode(), login.password.encode()
            self._answers = iter((lambda said: username, lambda said: password))
            self._send(Phase.AUTH, "AUTH LOGIN")
        else:
            return False
        return True

    def _take_auth(self, reply: Reply, number: int) -> None:
        if reply.code == 334:
            answer = next(self._answers, None)
            if answer is None:
                raise RemoteProtocolError("more challenges than the mechanism has")
            self._send(Phase.AUTH, b64encode(answer(reply.text)).decode("ascii"))
        elif reply.is_success:
            if self._scram is not None and not self._scram.is_verified:
                raise RemoteProtocolError("the host does not show that it knows the password")
            self._events.append(Ready())
        elif not (reply.is_permanent and self._try_another()):
            self._refuse(Phase.AUTH, reply)

    def _take_rset(self, reply: Reply, number: int) -> None:
        if reply.is_success:
            self._needs_reset = False
            self._send_commands()
        else:
            self._refuse(Phase.RSET, reply)

    def _take_mail(self, reply: Reply, number: int) -> None:
        self._needs_reset = reply.is_success
        self._transaction.take_mail(reply)
        self._go_on()

    def _take_rcpt(self, reply: Reply, number: int) -> None:
        self._transaction.take_rcpt(number, reply)
        self._go_on()

    def _take_data(self, reply: Reply, number: int) -> None:
        if reply.is_success:
            raise RemoteProtocolError(f"{reply.code} to DATA")
        if reply.code != 354:
            self._transaction.decide(Phase.DATA, reply)
            self._finish()
        elif self._transaction.accepted:
            self._begin_content(DotStuffer())
        else:
            # RFC 2920 §3.1: DATA was pipelined, and the server wants a content although it took no recipient.
            self._send(Phase.ABANDONED, ".")
            if self._lmtp:
                self._awaited.pop()
                self._finish()
            self._needs_reset = False

    def _begin_content(self, writer: DotStuffer | ChunkWriter) -> None:
        self._idle = Phase.CONTENT
        self._writer = writer
        self._events.append(SendContent())

    def _is_chunk_unknown(self) -> bool:
        """Look whether the server has said already that it does not know BDAT; then the session is over."""
        reply = self._replies.next_of(_NOT_KNOWN) if self._transaction.by_chunks else None
        if reply is not None:
            self._lack_chunks(reply)
        return reply is not None

    def _lack_chunks(self, reply: Reply) -> None:
        self._end()
        self._events.append(Chunkless(reply))

    def _take_end(self, reply: Reply, number: int) -> None:
        if self._transaction.by_chunks and b"%d" % reply.code in _NOT_KNOWN:
            self._lack_chunks(reply)
            return
        if self._transaction.by_chunks and not reply.is_success:
            self._idle = Phase.OUT_OF_STEP
        self._transaction.take_end(self._transaction.accepted if number < 0 else [number], reply)
        if reply.code == 421:
            self._transaction.decide(Phase.CONTENT_END, reply)
            self._awaited.clear()
            self._end()
        if not self._awaited:
            self._finish()

    def _take_abandoned(self, reply: Reply, number: int) -> None:
        self._finish()

    def _take_quit(self, reply: Reply, number: int) -> None:
        self._end()
        self._events.append(Closed())

    # The transaction

    def _send_commands(self) -> None:
        """Send what is left of the transaction: all of it, or the next command when the server does not do PIPELINING."""
        count = len(self._unsent) if "PIPELINING" in self._offered else 1
        sent = [self._unsent.popleft() for _ in range(min(count, len(self._unsent)))]
        if sent:
            self._refuse_surplus()
            self._awaited.extend((phase, number) for phase, number, _ in sent)
            self._events.append(Send(b"".join(line for _, _, line in sent)))

    def _go_on(self) -> None:
        if self._awaited:
            return
        transaction = self._transaction
        are_asked = not self._unsent or self._unsent[0][0] is Phase.DATA
        if transaction.is_mail_refused or (are_asked and not transaction.accepted):
            self._unsent.clear()
            self._finish()
        elif self._unsent:
            self._send_commands()
        else:
            self._begin_content(ChunkWriter(transaction.octets))

    def _finish(self) -> None:
        results = tuple(result for result in self._transaction.results if result is not None)
        self._events.append(Finished(results, is_open=self._idle is Phase.READY))

    # The session

    def _send(self, phase: Phase, text: str) -> None:
        self._refuse_surplus()
        self._awaited.append((phase, 0))
        self._events.append(Send(command_line(text)))

    def _refuse_surplus(self) -> None:
        if self._replies.pending:
            raise RemoteProtocolError("octets before they were asked for")

    def _refuse(self, phase: Phase, reply: Reply) -> None:
        self._end()
        self._events.append(Refused(phase, reply))

    def _give_up(self, status: EnhancedStatus, text: str) -> None:
        self._end()
        self._events.append(Unusable(status, text))

    def _end(self) -> None:
        self._idle = Phase.ENDED
        self._awaited.clear()
        self._unsent.clear()


_NOT_KNOWN: Final = (b"500", b"502", b"503", b"504")  # RFC 5321 §4.2.2: not known, not implemented, not here, not so
_GOES_ON: Final[Mapping[Phase, int]] = {Phase.DATA: 354, Phase.AUTH: 334}

_TAKE: Final[Mapping[Phase, Callable[[SMTPClientCore, Reply, int], None]]] = {
    Phase.GREETING: SMTPClientCore._take_greeting,
    Phase.EHLO: SMTPClientCore._take_ehlo,
    Phase.HELO: SMTPClientCore._take_helo,
    Phase.STARTTLS: SMTPClientCore._take_starttls,
    Phase.AUTH: SMTPClientCore._take_auth,
    Phase.RSET: SMTPClientCore._take_rset,
    Phase.MAIL: SMTPClientCore._take_mail,
    Phase.RCPT: SMTPClientCore._take_rcpt,
    Phase.DATA: SMTPClientCore._take_data,
    Phase.CONTENT_END: SMTPClientCore._take_end,
    Phase.ABANDONED: SMTPClientCore._take_abandoned,
    Phase.QUIT: SMTPClientCore._take_quit,
}
