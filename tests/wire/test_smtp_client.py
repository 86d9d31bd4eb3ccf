from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.mail.address import Address, parse_address
from mailstack.mail.reply import NEEDS_SMTPUTF8, Reply
from mailstack.mail.requests import DeliverBy, Notify, OriginalRecipient, Requests, Return
from mailstack.mail.status import EnhancedStatus
from mailstack.wire.errors import LocalProtocolError, RemoteProtocolError
from mailstack.wire.events import NEED_OCTETS
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_mailing import (
    TLS,
    Asked,
    Chunkless,
    Closed,
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

BARE = b"220 mx.test\r\n", b"250 mx.test\r\n"
PIPELINING = b"220 mx.test\r\n", b"250-mx.test\r\n250 PIPELINING\r\n"
LOGIN = Login("alice", "secret")


def mailing(*recipients: str, octets: int = 100, sender: str | None = "alice@us.test", **more) -> Mailing:
    return Mailing(
        reverse_path=None if sender is None else parse_address(sender),
        recipients=tuple(parse_address(each) for each in recipients or ("bob@example.test",)),
        octets=octets,
        **more,
    )


class Session:
    """Drives a core: `said` are the commands it sent, `seen` the other events."""

    def __init__(self, *replies: bytes, cut: int | None = None, **options) -> None:
        self.core = SMTPClientCore("us.test", **options)
        self.said = b""
        self.seen: list[object] = []
        self.cut = cut
        for reply in replies:
            self.hear(reply)

    def hear(self, octets: bytes) -> list[object]:
        for piece in [octets[at : at + self.cut] for at in range(0, len(octets), self.cut)] if self.cut else [octets]:
            self.core.receive(piece)
            self.look()
        return self.seen

    def look(self) -> None:
        while (event := self.core.next_event()) is not NEED_OCTETS:
            if isinstance(event, Send):
                self.said += event.octets
            else:
                self.seen.append(event)

    def begin(self, value: Mailing | None = None) -> None:
        self.core.begin(value or mailing())
        self.look()

    def take_said(self) -> bytes:
        said, self.said = self.said, b""
        return said

    def codes_of_results(self) -> list[int]:
        return [each.reply.code for each in self.core.results if each is not None]

    def codes(self) -> list[tuple[str, int]]:
        finished = self.seen[-1]
        assert isinstance(finished, Finished), self.seen
        return [(each.phase.value, each.reply.code) for each in finished.results]


def ready(hello=BARE, **options) -> Session:
    session = Session(*hello, **options)
    assert session.seen == [Ready()]
    session.take_said()
    session.seen.clear()
    return session


@pytest.mark.parametrize("cut", [None, 1, 7])
class TestWholeSessions:
    """Whole, octet by octet, and cut oddly."""

    def test_one_command_at_a_time(self, cut):
        session = ready(cut=cut)
        session.begin(mailing("bob@example.test", "carol@example.test"))
        assert session.take_said() == b"MAIL FROM:<alice@us.test>\r\n"
        session.hear(b"250 ok\r\n")
        assert session.take_said() == b"RCPT TO:<bob@example.test>\r\n"
        session.hear(b"250 ok\r\n")
        assert session.take_said() == b"RCPT TO:<carol@example.test>\r\n"
        session.hear(b"550-5.1.1 no\r\n550 5.1.1 such\r\n")
        assert session.take_said() == b"DATA\r\n"
        assert session.hear(b"354 go\r\n") == [SendContent()]
        assert session.core.content(b".a\r\n") + session.core.end_content() == b"..a\r\n.\r\n"
        session.hear(b"250 2.0.0 queued\r\n")
        assert session.codes() == [("end of content", 250), ("RCPT", 550)]
        assert [each.is_accepted for each in session.core.results] == [True, False]
        refusal = session.core.results[1].reply
        assert (str(refusal.enhanced), refusal.lines) == ("5.1.1", ("no", "such"))
        session.core.quit()
        session.look()
        assert session.take_said() == b"QUIT\r\n"
        assert session.hear(b"221 bye\r\n")[-1] == Closed()
        assert session.core.phase is Phase.ENDED

    def test_all_at_once_with_pipelining(self, cut):
        session = ready(PIPELINING, cut=cut)
        session.begin(mailing("a@x.test", "b@x.test", "c@x.test"))
        assert session.take_said() == (
            b"MAIL FROM:<alice@us.test>\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nRCPT TO:<c@x.test>\r\nDATA\r\n"
        )
        session.hear(b"250 ok\r\n450 later\r\n250 ok\r\n550 no\r\n354 go\r\n")
        assert session.seen == [SendContent()]
        session.core.end_content()
        session.hear(b"250 ok\r\n")
        assert session.codes() == [("RCPT", 450), ("end of content", 250), ("RCPT", 550)]

    def test_a_second_transaction_needs_no_rset_after_a_content(self, cut):
        session = ready(PIPELINING, cut=cut)
        for _ in range(2):
            session.begin()
            assert session.take_said().startswith(b"MAIL")
            session.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
            session.core.end_content()
            session.hear(b"250 ok\r\n")
            assert session.codes() == [("end of content", 250)]

    def test_starttls_and_authentication(self, cut):
        session = Session(b"220 mx\r\n", b"250-mx\r\n250 starttls\r\n", cut=cut, tls=TLS.MUST, login=LOGIN)
        assert session.take_said() == b"EHLO us.test\r\nSTARTTLS\r\n"
        assert session.hear(b"220 go\r\n") == [StartTLS()]
        assert session.core.phase is Phase.HANDSHAKE
        session.core.tls_started()
        assert session.core.offered == {}
        session.look()
        assert session.take_said() == b"EHLO us.test\r\n"
        session.hear(b"250-mx\r\n250 Auth PLAIN LOGIN\r\n")
        assert session.take_said() == b"AUTH PLAIN " + base64.b64encode(b"\0alice\0secret") + b"\r\n"
        assert session.hear(b"235 yes\r\n")[-1] == Ready()


class TestBeginning:
    def test_helo_only_after_5yz(self):
        session = Session(b"220 mx\r\n", b"502 what\r\n")
        assert session.said == b"EHLO us.test\r\nHELO us.test\r\n"
        assert session.hear(b"250 mx\r\n") == [Ready()]
        assert session.core.offered == {}

    @pytest.mark.parametrize("reply", [b"421 no\r\n", b"450 no\r\n"])
    def test_no_helo_after_4yz(self, reply):
        session = Session(b"220 mx\r\n", reply)
        assert [(each.phase, each.reply.code) for each in session.seen] == [(Phase.EHLO, int(reply[:3]))]
        assert session.said == b"EHLO us.test\r\n"

    @pytest.mark.parametrize("reply", [b"421 no\r\n", b"450 no\r\n", b"554 no\r\n"])
    def test_refused_at_the_greeting(self, reply):
        session = Session(reply)
        assert isinstance(session.seen[0], Refused)
        assert session.seen[0].phase is Phase.GREETING
        assert session.said == b""
        assert session.core.phase is Phase.ENDED

    def test_refused_at_helo(self):
        assert Session(b"220 mx\r\n", b"500 x\r\n", b"550 x\r\n").seen[0].phase is Phase.HELO

    def test_lhlo_has_no_fallback(self):
        session = Session(b"220 mx\r\n", b"500 x\r\n", lmtp=True)
        assert session.said == b"LHLO us.test\r\n"
        assert session.seen[0].phase is Phase.EHLO

    def test_capabilities(self):
        session = Session(
            b"220 mx\r\n", b"250-mx HELLO\r\n250-size 1000\r\n250-\r\n250-AUTH=LOGIN\r\n250-auth  Plain\r\n250 x y z\r\n"
        )
        assert session.core.offered == {"SIZE": ("1000",), "AUTH": ("LOGIN", "PLAIN"), "X": ("Y", "Z")}

    def test_hostname_with_line_end_goes_no_further(self):
        core = SMTPClientCore("a\r\nMAIL FROM:<x@y>")
        core.receive(b"220 x\r\n")
        with pytest.raises(LocalProtocolError):
            core.next_event()


class TestTLS:
    OFFERED = b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n"

    @pytest.mark.parametrize("surplus", [b"2", b"250-evil\r\n250 AUTH PLAIN\r\n", b"\x16\x03\x01"])
    def test_octets_behind_the_220_are_an_injection(self, surplus):
        session = Session(*self.OFFERED)
        with pytest.raises(RemoteProtocolError):
            session.hear(b"220 go\r\n" + surplus)

    def test_octets_before_the_handshake_too(self):
        session = Session(*self.OFFERED, b"220 go\r\n")
        with pytest.raises(RemoteProtocolError):
            session.hear(b"250 x\r\n")
        with pytest.raises(RemoteProtocolError):
            session.core.tls_started()

    def test_refused_starttls_goes_on_in_clear_when_it_may(self):
        assert Session(*self.OFFERED, b"454 not now\r\n").seen == [Ready()]

    def test_refused_starttls_ends_when_it_must(self):
        session = Session(*self.OFFERED, b"454 not now\r\n", tls=TLS.MUST)
        assert session.seen[0].phase is Phase.STARTTLS

    def test_not_offered_when_it_must(self):
        (event,) = Session(*BARE, tls=TLS.MUST).seen
        assert isinstance(event, Unusable)
        assert str(event.status) == "4.7.10"

    def test_never(self):
        assert Session(*self.OFFERED, tls=TLS.NEVER).seen == [Ready()]

    def test_not_twice(self):
        session = Session(*self.OFFERED, b"220 go\r\n")
        session.core.tls_started()
        session.look()
        assert session.hear(self.OFFERED[1])[-1] == Ready()

    def test_out_of_place(self):
        with pytest.raises(LocalProtocolError):
            Session(*BARE).core.tls_started()


class TestAuthentication:
    def hello(self, mechanisms: bytes) -> tuple[bytes, bytes]:
        return b"220 mx\r\n", b"250-mx\r\n250 AUTH " + mechanisms + b"\r\n"

    def test_never_in_clear(self):
        session = Session(*self.hello(b"PLAIN"), login=LOGIN)
        assert isinstance(session.seen[0], Unusable)
        assert b"AUTH" not in session.said

    def test_login(self):
        session = Session(*self.hello(b"LOGIN"), login=LOGIN, tls_active=True)
        session.take_said()
        session.hear(b"334 VXNlcm5hbWU6\r\n")
        session.hear(b"334 UGFzc3dvcmQ6\r\n")
        assert session.said == b"YWxpY2U=\r\nc2VjcmV0\r\n"
        assert session.hear(b"235 ok\r\n") == [Ready()]

    # The example of RFC 7677 §3, whose user is called "user".
    NONCE = "rOprNGfwEbeRWgbNEkqO"
    FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    LAST = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

    def proving(self, mechanisms: bytes = b"PLAIN SCRAM-SHA-256") -> Session:
        login = Login("user", "pencil")
        session = Session(*self.hello(mechanisms), login=login, nonce=self.NONCE, tls_active=True)
        session.take_said()
        return session

    def challenge(self, session: Session, octets: bytes) -> bytes:
        """Say a challenge, and return the answer."""
        session.hear(b"334 " + base64.b64encode(octets) + b"\r\n")
        return base64.b64decode(session.take_said())

    def test_scram(self):
        login = Login("user", "pencil")
        session = Session(*self.hello(b"PLAIN SCRAM-SHA-256 LOGIN"), login=login, nonce=self.NONCE, tls_active=True)
        assert session.take_said().endswith(b"\r\nAUTH SCRAM-SHA-256 " + base64.b64encode(self.FIRST) + b"\r\n")
        assert self.challenge(session, self.CHALLENGE) == self.FINAL
        assert self.challenge(session, self.LAST) == b""
        assert session.hear(b"235 ok\r\n") == [Ready()]

    def test_scram_in_clear_only_when_told(self):
        session = Session(*self.hello(b"SCRAM-SHA-256"), login=LOGIN, nonce=self.NONCE)
        assert isinstance(session.seen[0], Unusable)
        session = Session(*self.hello(b"SCRAM-SHA-256"), login=LOGIN, nonce=self.NONCE, login_in_clear=True)
        assert b"AUTH SCRAM-SHA-256 " in session.said

    def test_a_host_without_keys_of_the_user_gets_the_password(self):
        session = self.proving()
        self.challenge(session, self.CHALLENGE)
        session.hear(b"535 no\r\n")
        assert session.take_said() == b"AUTH PLAIN " + base64.b64encode(b"\0user\0pencil") + b"\r\n"
        assert session.hear(b"235 ok\r\n") == [Ready()]

    def test_and_it_is_asked_twice_at_most(self):
        session = self.proving(b"SCRAM-SHA-256 LOGIN")
        session.hear(b"535 no\r\n")
        assert session.take_said() == b"AUTH LOGIN\r\n"
        assert session.hear(b"535 no\r\n")[0].phase is Phase.AUTH
        assert session.take_said() == b""

    def test_a_host_that_takes_the_proof_only(self):
        session = self.proving(b"SCRAM-SHA-256")
        assert session.hear(b"535 no\r\n")[0].phase is Phase.AUTH
        assert session.take_said() == b""

    BINDINGS = {"tls-exporter": b"what only both know", "tls-server-end-point": b"a hash"}

    def bound(self, mechanisms: bytes = b"SCRAM-SHA-256 SCRAM-SHA-256-PLUS PLAIN", **more) -> Session:
        session = Session(login=Login("user", "pencil"), nonce=self.NONCE, tls_active=True, **more)
        session.core.bind_channel(self.BINDINGS)
        for reply in self.hello(mechanisms):
            session.hear(reply)
        return session

    def began(self, session: Session) -> bytes:
        """Return the mechanism and the first message."""
        _, _, line = session.take_said().rpartition(b"\r\nAUTH ")
        mechanism, _, first = line.removesuffix(b"\r\n").partition(b" ")
        return mechanism + b" " + base64.b64decode(first)

    def test_bound_to_the_session_where_the_host_offers_that(self):
        session = self.bound()
        assert self.began(session) == b"SCRAM-SHA-256-PLUS p=tls-exporter,," + self.FIRST[3:]
        final = self.challenge(session, self.CHALLENGE)
        channel = base64.b64decode(final.partition(b",")[0].removeprefix(b"c="))
        assert channel == b"p=tls-exporter,,what only both know"

    def test_where_it_does_not_it_hears_that_we_could(self):
        assert self.began(self.bound(b"SCRAM-SHA-256 PLAIN")) == b"SCRAM-SHA-256 y,," + self.FIRST[3:]
        assert self.began(self.bound(b"SCRAM-SHA-256-PLUS")).startswith(b"SCRAM-SHA-256-PLUS p=")

    def test_nothing_to_bind_to(self):
        session = Session(*self.hello(b"SCRAM-SHA-256-PLUS PLAIN"), login=LOGIN, nonce=self.NONCE, tls_active=True)
        assert b"AUTH PLAIN " in session.said

    def test_a_host_that_does_not_know_our_kind_of_binding_gets_the_proof_without(self):
        session = self.bound()
        session.take_said()
        session.hear(b"535 no\r\n")
        assert session.take_said() == b"AUTH SCRAM-SHA-256 " + base64.b64encode(self.FIRST) + b"\r\n"
        assert self.challenge(session, self.CHALLENGE) == self.FINAL
        session.hear(b"535 no\r\n")
        assert session.take_said().startswith(b"AUTH PLAIN ")
        assert session.hear(b"535 no\r\n")[0].phase is Phase.AUTH

    def test_but_not_one_that_has_refused_the_proof(self):
        session = self.bound()
        session.take_said()
        self.challenge(session, self.CHALLENGE)
        session.hear(b"535 no\r\n")
        assert session.take_said().startswith(b"AUTH PLAIN ")
        session = self.bound(b"SCRAM-SHA-256 SCRAM-SHA-256-PLUS")
        session.take_said()
        self.challenge(session, self.CHALLENGE)
        assert session.hear(b"535 no\r\n")[0].phase is Phase.AUTH

    def test_what_is_temporary_does_not_get_the_password(self):
        session = self.proving()
        assert session.hear(b"454 later\r\n")[0].phase is Phase.AUTH
        assert session.take_said() == b""

    def test_a_host_that_does_not_show_that_it_has_keys(self):
        session = self.proving()
        self.challenge(session, self.CHALLENGE)
        with pytest.raises(RemoteProtocolError):
            session.hear(b"235 ok\r\n")
        session = self.proving()
        self.challenge(session, self.CHALLENGE)
        with pytest.raises(RemoteProtocolError):
            session.hear(b"334 " + base64.b64encode(b"v=" + bytes(44)) + b"\r\n")

    @pytest.mark.parametrize("challenge", [b"", b"!!!", b"AAAA", base64.b64encode(CHALLENGE.replace(b"4096", b"1"))])
    def test_a_challenge_that_is_none(self, challenge: bytes):
        session = self.proving()
        with pytest.raises(RemoteProtocolError):
            session.hear(b"334 " + challenge + b"\r\n")
        assert session.take_said() == b""

    def test_in_clear_when_told(self):
        assert b"AUTH PLAIN" in Session(*self.hello(b"PLAIN"), login=LOGIN, login_in_clear=True).said

    def test_no_mechanism(self):
        for session in (
            Session(*self.hello(b"CRAM-MD5"), login=LOGIN, tls_active=True),
            Session(*BARE, login=LOGIN, tls_active=True),
        ):
            assert isinstance(session.seen[0], Unusable)

    def test_refused(self):
        session = Session(*self.hello(b"PLAIN"), b"535 no\r\n", login=LOGIN, tls_active=True)
        assert session.seen[0].phase is Phase.AUTH

    def test_challenges_without_end(self):
        session = Session(*self.hello(b"PLAIN"), login=LOGIN, tls_active=True)
        with pytest.raises(RemoteProtocolError):
            session.hear(b"334 \r\n")

    def test_the_password_is_not_in_the_repr(self):
        assert "secret" not in repr(LOGIN)


class TestMail:
    def offering(self, *keywords: bytes) -> Session:
        return ready((b"220 mx\r\n", b"250-mx\r\n" + b"".join(b"250-" + each + b"\r\n" for each in keywords) + b"250 HELP\r\n"))

    def test_parameters(self):
        session = self.offering(b"SIZE 1000", b"8BITMIME", b"SMTPUTF8")
        session.begin(mailing(octets=77, eight_bit=True, smtputf8=True))
        assert session.said == b"MAIL FROM:<alice@us.test> SIZE=77 BODY=8BITMIME SMTPUTF8\r\n"

    def test_parameters_that_are_not_offered(self):
        session = ready()
        session.begin(mailing(eight_bit=True))
        assert session.said == b"MAIL FROM:<alice@us.test>\r\n"

    def test_a_content_that_needs_smtputf8_is_not_sent_without(self):
        session = ready()
        session.begin(mailing(smtputf8=True))
        assert session.said == b""
        (result,) = session.core.results
        assert result.reply == NEEDS_SMTPUTF8
        assert result.is_local

    def test_a_message_that_requires_tls_goes_only_to_who_does_too(self):
        requests = Requests(requires_tls=True)
        session = ready()
        session.begin(mailing(requests=requests))
        assert session.said == b""
        assert session.core.results[0].reply.enhanced == EnhancedStatus(5, 7, 30)
        session = self.offering(b"REQUIRETLS")
        session.begin(mailing(requests=requests))
        assert session.said == b"MAIL FROM:<alice@us.test> REQUIRETLS\r\n"

    @pytest.mark.parametrize(
        ("by", "seconds", "said"),
        [
            (DeliverBy(0.0, returns=True), 60, b"MAIL FROM:<alice@us.test> BY=60;R\r\n"),
            (DeliverBy(0.0, returns=False, traces=True), -5, b"MAIL FROM:<alice@us.test> BY=-5;NT\r\n"),
            (DeliverBy(0.0, returns=True), 0, b""),
        ],
    )
    def test_a_deadline_goes_on(self, by, seconds, said):
        session = self.offering(b"DELIVERBY")
        session.begin(mailing(requests=Requests(deliver_by=by), by_seconds=seconds))
        assert session.said == said

    def test_what_must_come_back_in_time_goes_only_to_who_sees_to_that(self):
        session = ready()
        session.begin(mailing(requests=Requests(deliver_by=DeliverBy(0.0, returns=True)), by_seconds=60))
        assert session.said == b""
        assert session.core.results[0].reply.enhanced == EnhancedStatus(5, 3, 3)
        session = ready()
        session.begin(mailing(requests=Requests(deliver_by=DeliverBy(0.0, returns=False)), by_seconds=60))
        assert session.said == b"MAIL FROM:<alice@us.test>\r\n"

    def test_what_the_sender_wants_to_be_told(self):
        session = self.offering(b"DSN")
        requests = Requests(returns=Return.HEADERS, envelope_id="a b+c=", priority=3)
        asked = (Asked(frozenset((Notify.SUCCESS, Notify.FAILURE)), OriginalRecipient("rfc822", "Bob+x@us.test")),)
        session.begin(mailing(requests=requests, asked=asked))
        assert session.said == b"MAIL FROM:<alice@us.test> RET=HDRS ENVID=a+20b+2Bc+3D\r\n"
        session.hear(b"250 ok\r\n")
        assert session.said.endswith(b" NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;Bob+2Bx@us.test\r\n")

    def test_an_original_recipient_of_utf8_in_ascii_where_that_fits(self):
        long, words = "é" * 90 + "+@us.test", []
        for offered, address, is_utf8 in (
            ((b"DSN",), "bö=b@us.test", False),
            ((b"DSN", b"SMTPUTF8"), "bö=b@us.test", True),
            ((b"DSN", b"SMTPUTF8"), long, True),
            ((b"DSN", b"SMTPUTF8"), long, False),
        ):
            session = self.offering(*offered)
            session.begin(mailing(smtputf8=is_utf8, asked=(Asked(None, OriginalRecipient("utf-8", address)),)))
            session.hear(b"250 ok\r\n")
            words.append(session.said[session.said.rindex(b">") + 1 :])
        short = b" ORCPT=utf-8;b\\x{F6}\\x{3D}b@us.test\r\n"
        assert words == [short, short, " ORCPT=utf-8;{}+2B@us.test\r\n".format("é" * 90).encode(), b"\r\n"]

    @pytest.mark.parametrize("refusal", [b"501 5.5.4 no\r\n", b"555 no\r\n"])
    def test_a_host_that_offers_dsn_and_refuses_it_has_not_promised_to_tell(self, refusal):
        session = self.offering(b"DSN")
        session.begin(mailing(asked=(Asked(frozenset((Notify.SUCCESS, Notify.FAILURE))),)))
        session.hear(b"250 ok\r\n")
        session.hear(refusal)
        (result,) = session.core.results
        assert "DSN" not in result.honours
        assert result.reply.is_permanent

    def test_what_was_offered_in_the_clear_or_at_the_last_host_is_not_believed(self):
        session = Session(b"220 mx\r\n", b"250-mx\r\n250-DSN\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n", b"220 go\r\n")
        session.core.tls_started()
        session.look()
        session.hear(b"250 mx\r\n")
        session.take_said()
        session.begin(mailing(asked=(Asked(frozenset((Notify.SUCCESS,))),), requests=Requests(envelope_id="x")))
        assert session.said == b"MAIL FROM:<alice@us.test>\r\n"

    def test_a_refusal_of_the_content_is_not_told_by_the_host_that_refuses(self):
        session = self.offering(b"DSN")
        session.begin(mailing(asked=(Asked(frozenset((Notify.SUCCESS,))),)))
        for reply in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            session.hear(reply)
        session.core.content(b"x\r\n")
        session.core.end_content()
        session.hear(b"554 no\r\n")
        (result,) = session.seen[-1].results
        assert not result.is_accepted

    def test_null_reverse_path(self):
        session = ready()
        session.begin(mailing(sender=None))
        assert session.said == b"MAIL FROM:<>\r\n"

    def test_quoted_local_part(self):
        session = ready()
        session.begin(mailing(sender='"a,b <x@y>\\""@us.test'))
        assert session.said == b'MAIL FROM:<"a,b <x@y>\\""@us.test>\r\n'

    @pytest.mark.parametrize(
        ("size", "tried"), [(b"SIZE 99", False), (b"SIZE 100", True), (b"SIZE", True), (b"SIZE 0", True), (b"SIZE x", True)]
    )
    def test_size(self, size, tried):
        session = self.offering(size)
        session.begin(mailing(octets=100))
        assert bool(session.said) is tried
        if not tried:
            assert session.codes() == [("MAIL", 552)]
            assert session.core.results[0].is_local
            assert str(session.core.results[0].reply.enhanced) == "5.3.4"

    def test_addresses_that_are_not_ascii(self):
        session = ready()
        session.begin(mailing("bob@x.test", "jürgen@x.test"))
        assert session.take_said() == b"MAIL FROM:<alice@us.test>\r\n"
        session.hear(b"250 ok\r\n")
        assert session.take_said() == b"RCPT TO:<bob@x.test>\r\n"
        session.hear(b"250 ok\r\n")
        assert session.take_said() == b"DATA\r\n"
        session.hear(b"354 ok\r\n")
        session.core.end_content()
        session.hear(b"250 ok\r\n")
        assert session.codes() == [("end of content", 250), ("RCPT", 553)]
        assert str(session.core.results[1].reply.enhanced) == "5.6.7"

    def test_a_sender_that_is_not_ascii_fails_all(self):
        session = ready()
        session.begin(mailing("bob@x.test", "eve@x.test", sender="jürgen@us.test"))
        assert session.said == b""
        assert session.codes() == [("RCPT", 553)] * 2

    def test_addresses_that_are_not_ascii_with_smtputf8(self):
        session = self.offering(b"SMTPUTF8")
        session.begin(mailing("jürgen@x.test"))
        assert session.said == b"MAIL FROM:<alice@us.test> SMTPUTF8\r\n"

    def test_an_address_with_a_line_end_goes_no_further(self):
        session = ready(PIPELINING)
        evil = Mailing(reverse_path=None, recipients=(Address("a\r\nRCPT TO:<b@c>", "x"),), octets=1)
        with pytest.raises(LocalProtocolError):
            session.core.begin(evil)

    def test_out_of_place(self):
        session = ready()
        session.begin()
        for call in (lambda: session.core.begin(mailing()), lambda: session.core.content(b""), session.core.end_content):
            with pytest.raises(LocalProtocolError):
                call()
        with pytest.raises(LocalProtocolError):
            ready().core.begin(Mailing(reverse_path=None, recipients=(), octets=1))


class TestRefusals:
    @pytest.mark.parametrize("code", [450, 550])
    def test_mail_refused(self, code):
        session = ready()
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"%d no\r\n" % code)
        assert session.codes() == [("MAIL", code)] * 2
        session.seen.clear()
        session.take_said()
        session.begin()
        assert session.said.startswith(b"MAIL")

    def test_mail_refused_with_pipelining(self):
        session = ready(PIPELINING)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"550 no\r\n503 a\r\n503 b\r\n503 c\r\n")
        assert session.codes() == [("MAIL", 550)] * 2

    def test_mail_refused_but_data_accepted(self):
        session = ready(PIPELINING)
        session.begin(mailing("a@x.test"))
        session.take_said()
        session.hear(b"450 no\r\n250 ok\r\n354 go\r\n")
        assert session.said == b".\r\n"
        session.hear(b"250 what a message\r\n")
        assert session.codes() == [("MAIL", 450)]
        assert not session.core.results[0].is_accepted

    def test_all_recipients_refused_asks_no_content(self):
        session = ready()
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n")
        session.hear(b"550 no\r\n")
        session.take_said()
        session.hear(b"450 no\r\n")
        assert session.take_said() == b""
        assert session.codes() == [("RCPT", 550), ("RCPT", 450)]
        session.seen.clear()
        session.begin()
        assert session.take_said() == b"RSET\r\n"
        session.hear(b"250 ok\r\n")
        assert session.take_said() == b"MAIL FROM:<alice@us.test>\r\n"

    def test_all_recipients_refused_but_data_accepted(self):
        session = ready(PIPELINING)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.take_said()
        session.hear(b"250 ok\r\n550 no\r\n450 no\r\n354 go\r\n")
        assert session.take_said() == b".\r\n"
        session.hear(b"250 queued as nothing\r\n")
        assert session.codes() == [("RCPT", 550), ("RCPT", 450)]
        session.seen.clear()
        session.begin()
        assert session.take_said().startswith(b"MAIL")

    @pytest.mark.parametrize("code", [451, 554])
    def test_data_refused(self, code):
        session = ready(PIPELINING)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.take_said()
        session.hear(b"250 ok\r\n250 ok\r\n550 no\r\n%d no\r\n" % code)
        assert session.codes() == [("DATA", code), ("RCPT", 550)]
        session.seen.clear()
        session.begin()
        assert session.take_said().startswith(b"RSET\r\nMAIL")
        session.hear(b"250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        assert session.seen == [SendContent()]

    @pytest.mark.parametrize("code", [451, 552])
    def test_content_refused(self, code):
        session = self.in_content()
        session.core.end_content()
        session.hear(b"%d no\r\n" % code)
        assert session.codes() == [("end of content", code)] * 2
        assert not any(each.is_accepted for each in session.core.results)

    def in_content(self, **options) -> Session:
        session = ready(PIPELINING, **options)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        assert session.seen == [SendContent()]
        session.take_said()
        return session

    def test_reset_refused(self):
        session = ready(PIPELINING)
        session.begin()
        session.hear(b"250 ok\r\n250 ok\r\n451 no\r\n")
        session.begin()
        assert session.hear(b"500 no reset\r\n")[-1].phase is Phase.RSET

    @pytest.mark.parametrize("early", [b"250 ok\r\n", b"2", b"354 again\r\n", b"\r\n"])
    def test_a_reply_before_the_end_of_the_content_accepts_nothing(self, early):
        session = self.in_content()
        session.hear(early)
        with pytest.raises(RemoteProtocolError):
            session.core.end_content()
        session.core.connection_lost()
        assert session.core.results == (None, None)

    def test_by_lmtp_an_early_acceptance_behind_a_refusal_accepts_nothing(self):
        session = ready(PIPELINING, lmtp=True)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n552 no\r\n250 queued\r\n")
        with pytest.raises(RemoteProtocolError):
            session.core.end_content()
        session.core.connection_lost()
        assert not any(each and each.is_accepted for each in session.core.results)

    def test_by_lmtp_early_refusals_are_the_answers(self):
        session = ready(PIPELINING, lmtp=True)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n552-no\r\n552 no\r\n452 no\r\n")
        session.core.end_content()
        session.look()
        assert session.codes() == [("end of content", 552), ("end of content", 452)]

    def test_pipelined_acceptance_accepts_nothing(self):
        session = ready(PIPELINING)
        session.begin()
        session.hear(b"250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n")
        assert session.seen == [SendContent()]
        with pytest.raises(RemoteProtocolError):
            session.core.end_content()

    def test_an_early_refusal_is_the_answer(self):
        session = self.in_content()
        session.hear(b"552 too big\r\n")
        assert session.seen == [SendContent()]
        session.core.end_content()
        session.look()
        assert session.codes() == [("end of content", 552)] * 2
        assert session.core.phase is Phase.OUT_OF_STEP, "another answer may come at the end"

    @pytest.mark.parametrize(
        ("heard", "codes"),
        [(b"552 too big\r\n", [552, 552]), (b"552 too", [None, None]), (b"250 ok\r\n", [None, None]), (b"", [None, None])],
    )
    def test_connection_lost_in_the_content(self, heard, codes):
        session = self.in_content()
        session.hear(heard)
        session.core.connection_lost()
        assert [each and each.reply.code for each in session.core.results] == codes
        assert session.core.next_event() is NEED_OCTETS

    def test_connection_lost_after_the_dot(self):
        session = self.in_content()
        session.core.end_content()
        session.hear(b"250 o")
        session.core.connection_lost()
        assert session.core.results == (None, None)

    def test_connection_lost_keeps_what_was_said(self):
        session = ready()
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n")
        session.hear(b"550 no\r\n")
        session.core.connection_lost()
        assert [each and each.reply.code for each in session.core.results] == [550, None]

    @pytest.mark.parametrize("before", range(5))
    def test_421_anywhere(self, before):
        replies = [b"250 ok\r\n", b"550 no\r\n", b"250 ok\r\n", b"354 go\r\n"]
        session = ready()
        session.begin(mailing("a@x.test", "b@x.test"))
        for reply in replies[:before]:
            session.hear(reply)
        if before == 4:
            session.core.end_content()
        session.hear(b"421 bye\r\n")
        last = session.seen[-1]
        if before == 4:
            assert last == Finished(last.results, is_open=False)
            assert session.codes() == [("RCPT", 550), ("end of content", 421)]
        else:
            assert isinstance(last, Refused)
            assert session.core.results[1] is None
        assert session.core.phase is Phase.ENDED

    def test_421_in_pipelining_is_not_attributed(self):
        session = ready(PIPELINING)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n550 no\r\n421 bye\r\n")
        assert session.seen[-1].phase is Phase.RCPT
        assert [each and each.reply.code for each in session.core.results] == [550, None]
        session.hear(b"250 ok\r\n354 go\r\n")
        assert session.core.phase is Phase.ENDED

    def test_421_unasked(self):
        session = ready()
        assert isinstance(session.hear(b"421 idle\r\n")[0], Refused)

    def test_421_to_an_abandoned_content(self):
        session = ready(PIPELINING)
        session.begin()
        session.hear(b"250 ok\r\n550 no\r\n354 go\r\n")
        assert session.hear(b"421 bye\r\n")[-1].phase is Phase.ABANDONED
        assert session.core.results[0].reply.code == 550

    def test_quit_after_a_refusal(self):
        session = Session(b"554 no\r\n")
        session.core.quit()
        session.look()
        assert session.said == b"QUIT\r\n"
        assert session.hear(b"221 bye\r\n")[-1] == Closed()

    def test_quit_may_be_answered_with_anything(self):
        session = ready()
        session.core.quit()
        session.look()
        assert session.hear(b"421 bye\r\n")[-1] == Closed()


class TestChunks:
    """The content by BDAT, to who offers it."""

    HELLO = b"220 mx.test\r\n", b"250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n"

    @pytest.mark.parametrize("cut", [None, 1, 7])
    def test_one_chunk_when_the_recipients_have_been_answered(self, cut):
        session = ready(self.HELLO, cut=cut)
        session.begin(mailing("a@x.test", "b@x.test", octets=11))
        assert session.take_said() == b"MAIL FROM:<alice@us.test>\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n"
        assert session.hear(b"250 ok\r\n550 no\r\n") == []
        assert session.hear(b"250 ok\r\n") == [SendContent()]
        written = session.core.content(b".a\r") + session.core.content(b"") + session.core.content(b"\n.\r\n..\r\n")
        assert written + session.core.end_content() == b"BDAT 11 LAST\r\n.a\r\n.\r\n..\r\n"
        session.hear(b"250 2.0.0 queued\r\n")
        assert session.codes() == [("RCPT", 550), ("end of content", 250)]
        session.begin()
        assert session.take_said().startswith(b"MAIL")

    def test_without_pipelining_too(self):
        session = ready((b"220 mx.test\r\n", b"250-mx.test\r\n250 CHUNKING\r\n"))
        session.begin(mailing(octets=0))
        session.hear(b"250 ok\r\n")
        assert session.hear(b"250 ok\r\n") == [SendContent()]
        assert session.core.end_content() == b"BDAT 0 LAST\r\n"

    def test_by_data_when_told(self):
        session = ready(self.HELLO, chunking=False)
        session.begin()
        assert session.take_said().endswith(b"DATA\r\n")

    @pytest.mark.parametrize("replies", [b"250 ok\r\n550 no\r\n", b"550 no\r\n503 what\r\n"])
    def test_nobody_accepted_and_no_octet_of_the_content_is_sent(self, replies):
        session = ready(self.HELLO)
        session.begin()
        session.hear(replies)
        assert session.codes()[0][1] == 550
        assert b"BDAT" not in session.said

    def in_chunk(self, hello=HELLO, **options) -> Session:
        session = ready(hello, **options)
        session.begin(mailing(octets=3))
        session.hear(b"250 ok\r\n")
        session.hear(b"250 ok\r\n")
        assert session.seen == [SendContent()]
        session.take_said()
        return session

    @pytest.mark.parametrize("lmtp", [False, True])
    @pytest.mark.parametrize("refusal", [b"552 too big\r\n", b"452 4.3.1 full\r\n", b"550-no\r\n550 no\r\n", b"501 what\r\n"])
    def test_after_a_chunk_that_was_refused_nothing_more_counts(self, refusal, lmtp):
        session = self.in_chunk(lmtp=lmtp)
        assert session.core.content(b"x\r\n") + session.core.end_content() == b"BDAT 3 LAST\r\nx\r\n"
        session.hear(refusal)
        assert session.seen[-1] == Finished(session.core.results, is_open=False)
        assert session.codes() == [("end of content", int(refusal[:3]))]
        assert session.core.phase is Phase.OUT_OF_STEP
        with pytest.raises(LocalProtocolError):
            session.core.begin(mailing())
        with pytest.raises(RemoteProtocolError):
            session.hear(b"250 to a line of the content\r\n")
        assert [each.reply.code for each in session.core.results] == [int(refusal[:3])]

    def test_and_what_comes_with_the_refusal_is_no_answer_to_anything(self):
        session = self.in_chunk()
        session.core.content(b"x\r\n") + session.core.end_content()
        session.core.receive(b"552 too big\r\n250 ok\r\n250 ok\r\n")
        assert session.core.next_event() == Finished(session.core.results, is_open=False)
        session.core.quit()
        session.look()
        assert session.take_said() == b"QUIT\r\n"
        assert session.seen[-1] == Closed()
        assert session.codes_of_results() == [552]

    def test_nor_does_a_421_that_comes_with_it_end_the_session_once_more(self):
        session = self.in_chunk()
        session.core.content(b"x\r\n") + session.core.end_content()
        session.core.receive(b"552 too big\r\n")
        assert session.core.next_event() == Finished(session.core.results, is_open=False)
        session.core.receive(b"421 4.3.2 x\r\n")
        session.look()
        assert not any(isinstance(event, Refused) for event in session.seen)

    def test_nor_does_one_that_came_before_its_end(self):
        session = self.in_chunk()
        written = session.core.content(b"x\r\n")
        session.hear(b"552 too big\r\n250 queued\r\n")
        assert written + session.core.end_content() == b"BDAT 3 LAST\r\nx\r\n"
        assert session.core.next_event() == Finished(session.core.results, is_open=False)
        assert session.codes_of_results() == [552]

    def test_a_reply_before_the_end_accepts_nothing(self):
        session = ready(self.HELLO)
        session.begin(mailing(octets=0))
        session.hear(b"250 ok\r\n250 ok\r\n250 queued\r\n")
        with pytest.raises(RemoteProtocolError):
            session.core.end_content()

    @pytest.mark.parametrize("code", [500, 502, 503, 504])
    def test_a_host_that_offers_it_and_does_not_know_it_has_said_nothing_of_the_recipients(self, code):
        session = ready(self.HELLO)
        session.begin(mailing("a@x.test", "b@x.test", octets=3))
        session.hear(b"250 ok\r\n550 no\r\n250 ok\r\n")
        session.core.content(b"x\r\n") + session.core.end_content()
        session.hear(b"%d what\r\n250 ok\r\n250 ok\r\n" % code)
        assert session.seen[-1] == Chunkless(Reply(code, ("what",)))
        assert [each and each.reply.code for each in session.core.results] == [550, None]
        assert session.core.phase is Phase.ENDED

    @pytest.mark.parametrize("cut", [None, 1, 7])
    def test_and_no_more_of_a_chunk_is_written_when_it_has_said_so(self, cut):
        session = self.in_chunk(cut=cut)
        session.core.content(b"x\r")
        session.hear(b"500-5.5.1 what\r\n500 5.5.1 is that\r\n500 what\r\n")
        assert session.seen[-1] == Chunkless(Reply(500, ("what", "is that"), EnhancedStatus(5, 5, 1)))
        assert session.core.results == (None,)
        with pytest.raises(LocalProtocolError):
            session.core.content(b"\n")

    @pytest.mark.parametrize("refusal", [b"552 too big\r\n", b"500 wh", b"500-what\r\n"])
    def test_what_else_is_said_within_it_is_read_at_its_end(self, refusal):
        session = self.in_chunk()
        session.hear(refusal)
        assert session.seen == [SendContent()]
        session.core.content(b"x\r\n") + session.core.end_content()

    def test_nor_does_it_matter_what_such_a_host_says_to_data(self):
        session = ready(PIPELINING)
        session.begin()
        session.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
        session.core.end_content()
        session.hear(b"500 what\r\n")
        assert session.codes() == [("end of content", 500)]

    def test_by_data_to_several_in_lmtp_where_an_acceptance_may_follow_a_refusal(self):
        session = ready(self.HELLO, lmtp=True)
        session.begin(mailing("a@x.test", "b@x.test", octets=0))
        assert session.take_said().endswith(b"DATA\r\n")
        session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        session.core.end_content()
        session.hear(b"452 full\r\n250 ok\r\n")
        assert session.codes() == [("end of content", 452), ("end of content", 250)]
        session.begin(mailing("a@x.test", octets=0))
        session.hear(b"250 ok\r\n250 ok\r\n")
        assert session.core.end_content() == b"BDAT 0 LAST\r\n"

    @pytest.mark.parametrize(
        "chunks", [[b"a\nb"], [b"a\rb\n"], [b"a\r", b"b\r\n"], [b"a\r\n", b"\n"], [b"ab\r\n", b"c"], [b"\r\n"]]
    )
    def test_another_content_than_was_said_is_not_sent_to_its_end(self, chunks):
        session = ready(self.HELLO)
        session.begin(mailing(octets=4))
        session.hear(b"250 ok\r\n250 ok\r\n")
        *first, last = chunks
        for chunk in first:
            session.core.content(chunk)
        with pytest.raises(LocalProtocolError):
            session.core.content(last) + session.core.end_content()


class TestLMTP:
    def test_a_reply_for_each_recipient(self):
        session = ready(PIPELINING, lmtp=True)
        session.begin(mailing("a@x.test", "b@x.test", "c@x.test"))
        session.hear(b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
        session.core.end_content()
        session.hear(b"250 ok\r\n452 full\r\n")
        assert session.codes() == [("end of content", 250), ("RCPT", 550), ("end of content", 452)]

    def test_lost_between_them(self):
        session = ready(PIPELINING, lmtp=True)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        session.core.end_content()
        session.hear(b"250 ok\r\n")
        session.core.connection_lost()
        assert [each and each.reply.code for each in session.core.results] == [250, None]

    def test_421_between_them(self):
        session = ready(PIPELINING, lmtp=True)
        session.begin(mailing("a@x.test", "b@x.test", "c@x.test"))
        session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        session.core.end_content()
        session.hear(b"250 ok\r\n421 bye\r\n")
        assert session.codes() == [("end of content", 250), ("end of content", 421), ("end of content", 421)]

    def test_nobody_accepted_but_data(self):
        session = ready(PIPELINING, lmtp=True)
        session.begin()
        session.take_said()
        session.hear(b"250 ok\r\n550 no\r\n354 go\r\n")
        assert session.said == b".\r\n"
        assert session.codes() == [("RCPT", 550)]
        session.begin()

    def test_lost_with_early_refusal(self):
        session = ready(PIPELINING, lmtp=True)
        session.begin(mailing("a@x.test", "b@x.test"))
        session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n552 no\r\n250 yes\r\n")
        session.core.connection_lost()
        assert [each and each.reply.code for each in session.core.results] == [552, None]


MALFORMED = [
    b"\r\n",
    b"hello\r\n",
    b"22 x\r\n",
    b"2200 x\r\n",
    b"220xok\r\n",
    b"220\tok\r\n",
    b"120 x\r\n",
    b"620 x\r\n",
    b"999 x\r\n",
    b"020 x\r\n",
    b" 220 x\r\n",
    b"-220 x\r\n",
    b"220 x\n\r\n",
    b"220 x\n220 y\r\n",
    b"220-x\r\n221 y\r\n",
    b"220-x\r\n220\r\n220-\r\n550 z\r\n",
    b"220-x\r\n\r\n",
    b"220-" + b"x" * 3000 + b"\r\n",
    b"x" * 3000,
    b"220-x\r\n" * 101,
    b"HTTP/1.1 400 Bad Request\r\n",
    b"\x16\x03\x01\x00\xa5\r\n",
    b"354 go\r\n",
    "\uff12\uff12\uff10 x\r\n".encode(),
]


@pytest.mark.parametrize("cut", [None, 1, 1000])
@pytest.mark.parametrize("octets", MALFORMED)
def test_malformed_replies(octets, cut):
    with pytest.raises(RemoteProtocolError) as caught:
        Session(octets, cut=cut)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "octets",
    [b"220\r\n", b"220 \r\n", b"220-\r\n220\r\n", b"229 x\r\n", b"220 \xff\x00\x1b[2J\r\n", b"220-x\r\n" * 99 + b"220 x\r\n"],
)
def test_odd_replies(octets):
    assert Session(octets).said == b"EHLO us.test\r\n"


@pytest.mark.parametrize("surplus", [b"2", b"250 o"])
def test_half_an_answer_before_the_question(surplus):
    session = ready()
    session.hear(surplus)
    with pytest.raises(RemoteProtocolError):
        session.core.begin(mailing())
    session = ready()
    session.begin()
    with pytest.raises(RemoteProtocolError):
        session.hear(b"250 ok\r\n" + surplus)


def test_an_answer_before_the_question():
    with pytest.raises(RemoteProtocolError):
        Session(b"220 x\r\n250 y\r\n")


def test_text_from_outside_is_made_printable():
    reply = Session(b"554 \x1b[2J\xe4\r\x00 5.1.1\r\n").seen[0].reply
    assert reply.lines == ("?[2J??? 5.1.1",)
    assert reply.enhanced is None


def test_status_of_another_class_is_text():
    assert Session(b"554 4.1.1 x\r\n").seen[0].reply.lines == ("4.1.1 x",)


def test_unasked_octets_are_bounded():
    session = ready()
    session.begin()
    session.hear(b"250 ok\r\n")
    session.hear(b"250 ok\r\n")
    session.hear(b"354 go\r\n")
    for _ in range(262):
        session.hear(b"4" * 1000)
    with pytest.raises(RemoteProtocolError):
        session.hear(b"4" * 1000)


def test_3yz_where_nothing_goes_on():
    session = ready()
    session.begin()
    with pytest.raises(RemoteProtocolError):
        session.hear(b"354 go\r\n")


@pytest.mark.parametrize("reply", [b"250 ok\r\n", b"334 x\r\n"])
def test_data_wants_354(reply):
    session = ready(PIPELINING)
    session.begin()
    with pytest.raises(RemoteProtocolError):
        session.hear(b"250 ok\r\n250 ok\r\n" + reply)


REPLIES = st.sampled_from(
    [
        b"220 x\r\n",
        b"250 ok\r\n",
        b"250-x\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
        b"354 go\r\n",
        b"421 x\r\n",
        b"450 x\r\n",
        b"550 x\r\n",
        b"334 \r\n",
        b"235 x\r\n",
        b"503",
    ]
)
OCTETS = st.lists(st.one_of(REPLIES, st.binary(max_size=30)), max_size=12)


@given(OCTETS, st.booleans(), st.sampled_from(list(TLS)), st.booleans(), st.sampled_from([None, 1, 5]))
@settings(max_examples=400, deadline=None)
def test_any_octets_give_results_or_a_remote_error(pieces, lmtp, tls, login, cut):
    session = Session(cut=cut, lmtp=lmtp, tls=tls, login=LOGIN if login else None, login_in_clear=True)
    ended = False
    try:
        for octets in pieces:
            session.hear(octets)
            match session.seen[-1:]:
                case [Ready() | Finished(_, True)] if session.core.phase is Phase.READY:
                    session.begin(mailing("a@x.test", "b@x.test"))
                case [SendContent()] if session.core.phase is Phase.CONTENT:
                    session.core.end_content()
                    ended = True
                    session.look()
                case [StartTLS()] if session.core.phase is Phase.HANDSHAKE:
                    session.core.tls_started()
                    session.look()
    except RemoteProtocolError:
        pass
    session.core.connection_lost()
    assert ended or not any(each and each.is_accepted for each in session.core.results)
