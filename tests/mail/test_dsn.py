"""Notifications: read back by the standard library, and with hostile octets in all that comes from outside."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.address import Address, parse_address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.dsn import DIAGNOSTIC_CHARACTERS, ORIGINAL_OCTETS, Postmaster, build
from mailstack.mail.envelope import Envelope, Origin, Recipient, Remote, Service
from mailstack.mail.requests import NO_REQUESTS, OriginalRecipient, Requests
from mailstack.mail.status import EnhancedStatus

ORIGINAL = b"Received: from a\r\n\tby b\r\nSubject: hello\r\nMessage-ID: <1@x>\r\n\r\nSecret body\r\n"


def recipient(text: str = "bob@example.net", original: str | None = None) -> Recipient:
    address = parse_address(text)
    return Recipient(address=address, original=parse_address(original or text), destination=Remote(address.domain))


def outcome(
    action: Action = Action.FAILED,
    diagnostic: str = "550 5.1.1 No such user",
    remote_mta: str | None = "mx.example.net",
    ordinal: int = 0,
) -> Disposition:
    kind = {Action.FAILED: 5, Action.DELAYED: 4}.get(action, 2)
    return Disposition(
        ordinal=ordinal, action=action, status=EnhancedStatus(kind, 1, 1), diagnostic=diagnostic, remote_mta=remote_mta
    )


def make(
    *outcomes,
    sender: Address | None = None,
    original: bytes = ORIGINAL,
    boundary: str = "=_b",
    requests: Requests = NO_REQUESTS,
    origin: Origin | None = None,
    **more,
) -> bytes:
    return build(
        outcomes or [(recipient(), outcome())],
        envelope=Envelope(
            reverse_path=sender or Address("alice", "example.org"),
            recipients=(recipient(),),
            origin=origin or Origin(service=Service.SMTP),
            accepted_at=1_800_000_000.0,
            requests=requests,
        ),
        hostname="mx.example.org",
        entry="0123456789abc",
        date="Fri, 15 Jan 2027 08:00:00 +0000",
        message_id="xyz@mx.example.org",
        boundary=boundary,
        original=original,
        **more,
    )


def parts(octets: bytes) -> tuple[Message, str, list[Message], Message]:
    """Parse strictly what must hold of every notification, and return it: the whole, the words, the groups, the original."""
    assert b"\r" not in octets.replace(b"\r\n", b"")
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert octets.endswith(b"\r\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    message = message_from_bytes(octets)
    assert not message.defects
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    human, machine, original = message.get_payload()
    assert human.get_content_type() == "text/plain"
    assert machine.get_content_type() == "message/delivery-status"
    groups = machine.get_payload()
    assert not any(group.defects for group in groups)
    return message, human.get_payload(decode=True).decode("utf-8"), groups, original


class TestForm:
    def test_header(self):
        message, *_ = parts(make())
        assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mx.example.org>"
        assert message["To"] == "<alice@example.org>"
        assert message["Auto-Submitted"] == "auto-replied"
        assert message["Message-ID"] == "<xyz@mx.example.org>"
        assert message["Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
        assert message["MIME-Version"] == "1.0"

    def test_words(self):
        _, human, _, _ = parts(make())
        assert "could not be delivered" in human
        assert "will not be tried again" in human
        assert "<bob@example.net>" in human
        assert "The host mx.example.net said: 550 5.1.1 No such user" in human
        assert "0123456789abc" in human

    def test_fields(self):
        _, _, [message, about], _ = parts(make((recipient("bob@example.net", "team@example.org"), outcome())))
        assert message["Reporting-MTA"] == "dns; mx.example.org"
        assert message["Arrival-Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
        assert dict(about.items()) == {
            "Final-Recipient": "rfc822; bob@example.net",
            "Action": "failed",
            "Status": "5.1.1",
            "Remote-MTA": "dns; mx.example.net",
            "Diagnostic-Code": "smtp; 550 5.1.1 No such user",
            "Last-Attempt-Date": "Fri, 15 Jan 2027 08:00:00 +0000",
        }

    def test_the_original_recipient_is_what_the_sender_gave_as_it_and_nothing_else(self):
        alias = recipient("bob@example.net", "team@example.org")
        asked = replace(alias, original_recipient=OriginalRecipient("rfc822", "Team+x@example.org"))
        _, human, [_, about], _ = parts(make((alias, outcome())))
        assert about["Original-Recipient"] is None
        assert "(you wrote to <team@example.org>)" in human
        _, _, [_, about], _ = parts(make((asked, outcome())))
        assert about["Original-Recipient"] == "rfc822;Team+x@example.org"

    def test_our_own_words_are_not_said_to_be_smtp(self):
        _, human, [_, about], _ = parts(make((recipient(), outcome(diagnostic="No route", remote_mta=None))))
        assert about["Diagnostic-Code"] == "x-mailstack; No route"
        assert about["Remote-MTA"] is None
        assert "Reason: No route" in human

    @pytest.mark.parametrize("text", ["No connection to mx.example.net", "Its destination is down: 421 4.3.2 Busy"])
    def test_what_we_say_of_a_host_is_not_said_to_be_its_reply(self, text):
        _, human, [_, about], _ = parts(make((recipient(), outcome(Action.DELAYED, diagnostic=text))))
        assert about["Diagnostic-Code"] == f"x-mailstack; {text}"
        assert about["Remote-MTA"] is None
        assert f"With the host mx.example.net: {text}" in human
        assert "said" not in human

    @pytest.mark.parametrize(
        ("host", "literal"), [("192.0.2.1", "[192.0.2.1]"), ("2001:db8::1", "[IPv6:2001:db8::1]"), ("1.example", "1.example")]
    )
    def test_a_host_that_is_an_ip_address_is_a_literal(self, host, literal):
        _, human, [_, about], _ = parts(make((recipient(), outcome(remote_mta=host))))
        assert about["Remote-MTA"] == f"dns; {literal}"
        assert f"The host {host} said" in human

    def test_several_recipients_and_actions(self):
        octets = make(*[(recipient(f"{action.value}@example.net"), outcome(action)) for action in Action])
        message, human, groups, _ = parts(octets)
        assert [group["Action"] for group in groups[1:]] == [action.value for action in Action]
        assert message["Subject"] == "Your message could not be delivered"
        assert "will be tried again" in human
        assert "was delivered to" in human

    def test_a_delay_says_so(self):
        message, human, _, _ = parts(make((recipient(), outcome(Action.DELAYED))))
        assert message["Subject"] == "Your message is delayed"
        assert "could not be delivered yet" in human

    def test_a_delay_says_how_long_it_will_be_tried(self):
        until = 1_800_400_000.0
        outcomes = [(recipient(), outcome(Action.DELAYED)), (recipient("c@example.net"), outcome())]
        _, human, groups, _ = parts(make(*outcomes, retry_until=until))
        assert groups[1]["Will-Retry-Until"] == "Tue, 19 Jan 2027 23:06:40 +0000"
        assert groups[2]["Will-Retry-Until"] is None
        assert "will be tried again until Tue, 19 Jan 2027 23:06:40 +0000" in human

    def test_an_alias_to_several_was_expanded(self):
        message, human, groups, _ = parts(make((recipient("bob@example.net", "team@example.org"), outcome(Action.EXPANDED))))
        assert message["Subject"] == "Your message was passed on to several recipients"
        assert groups[1]["Action"] == "expanded"
        assert groups[1]["Status"] == "2.1.1"
        assert groups[1]["Final-Recipient"] == "rfc822; team@example.org"
        assert "bob" not in human

    @pytest.mark.parametrize(
        ("origin", "named"),
        [
            (Origin(service=Service.SMTP, peer="192.0.2.1", hello="buy.example"), "dns; [192.0.2.1]"),
            (Origin(service=Service.SMTP, peer="2001:db8::1", hello="buy.example"), "dns; [IPv6:2001:db8::1]"),
            (Origin(service=Service.SUBMISSION, peer="192.0.2.1", account="alice@example.org"), None),
            (Origin(service=Service.LOCAL), None),
        ],
    )
    def test_the_host_that_gave_it_to_us_is_named_by_its_address(self, origin, named):
        octets = make(origin=origin)
        _, _, [about, _], _ = parts(octets)
        assert about["Received-From-MTA"] == named
        assert b"buy" not in octets

    def test_what_a_host_says_is_cut(self):
        text = "550 " + "x" * (DIAGNOSTIC_CHARACTERS - 4)
        _, human, groups, _ = parts(make((recipient(), outcome(diagnostic=text + "x" * 10_000))))
        assert groups[1]["Diagnostic-Code"] == f"smtp; {text}"
        assert f"{text} (" in human

    def test_wants_outcomes_and_somebody_to_tell(self):
        null = Envelope(reverse_path=None, recipients=(), origin=Origin(service=Service.SMTP), accepted_at=0.0)
        common = {"hostname": "h", "entry": "e", "date": "d", "message_id": "m", "boundary": "b", "original": b""}
        with pytest.raises(ValueError, match="return address"):
            build([(recipient(), outcome())], envelope=null, **common)
        with pytest.raises(ValueError, match="outcomes"):
            build([], envelope=null, **common)


class TestPostmaster:
    @pytest.mark.parametrize("untold", [0, 7])
    def test_is_told_what_no_sender_can_be(self, untold):
        null = Envelope(reverse_path=None, recipients=(), origin=Origin(service=Service.SMTP), accepted_at=1_800_000_000.0)
        octets = build(
            [(recipient("bob@example.net", "team@example.org"), outcome())],
            envelope=null,
            hostname="mx.example.org",
            entry="0123456789abc",
            date="Fri, 15 Jan 2027 08:00:00 +0000",
            message_id="xyz@mx.example.org",
            boundary="=_b",
            original=ORIGINAL,
            postmaster=Postmaster(Address("carol", "example.org"), untold),
        )
        message, human, groups, _ = parts(octets)
        assert message["To"] == "<carol@example.org>"
        assert message["Subject"] == "A message could not be delivered, nor its sender be told"
        assert "It took a message from <> on" in human
        assert "(it was written to <team@example.org>)" in human
        assert "you wrote" not in human
        assert "your message" not in human
        assert ("Of 7 more" in human) is bool(untold)
        assert groups[1]["Action"] == "failed"


class TestGlobal:
    """To whom UTF-8 can be sent it is sent, in the media types that are for that."""

    UTF8 = "Subject: gr\u00fc\u00dfe\r\n\r\n\u00fc\r\n".encode()

    def of(self, *outcomes, **more):
        octets = make(*outcomes, is_global=True, **more)
        assert max(map(len, octets.split(b"\r\n"))) <= 998
        assert b"\n" not in octets.replace(b"\r\n", b"")
        assert b"\r" not in octets.replace(b"\r\n", b"")
        message = message_from_bytes(octets)
        assert message["Content-Transfer-Encoding"] == "8bit"
        assert message.get_param("report-type") == "delivery-status"
        octets.decode()
        return octets, message.get_payload()

    def test_types_and_addresses(self):
        about = replace(
            recipient("bj\u00f8rn+x@example.net"),
            original_recipient=OriginalRecipient("utf-8", "bj\u00f8rn=\u2028@example.org"),
        )
        octets, [human, machine, original] = self.of(
            (about, outcome()), original=self.UTF8, sender=Address("zo\u00eb", "x.org")
        )
        assert [each.get_content_type() for each in (human, machine, original)] == [
            "text/plain",
            "message/global-delivery-status",
            "message/global-headers",
        ]
        assert "\r\nFinal-Recipient: utf-8; bj\u00f8rn\\x{2B}x@example.net\r\n".encode() in octets
        assert "\r\nOriginal-Recipient: utf-8;bj\u00f8rn\\x{3D}\\x{2028}@example.org\r\n".encode() in octets
        assert "\r\n  <bj\u00f8rn+x@example.net>\r\n".encode() in octets
        assert "\r\n\r\nSubject: gr\u00fc\u00dfe\r\n".encode() in octets

    def test_the_whole(self):
        octets, [*_, original] = self.of(original=self.UTF8, whole=True)
        assert original.get_content_type() == "message/global"
        assert self.UTF8 in octets

    @pytest.mark.parametrize(
        "odd", [b"Subject: \xff\r\n\r\n", b"A: b\rc\r\n\r\n", b"A: \0\r\n\r\n", b"A: " + b"x" * 999 + b"\r\n\r\n"]
    )
    @pytest.mark.parametrize("whole", [False, True])
    def test_what_is_no_utf8_in_lines_is_quoted_as_ever(self, odd, whole):
        _, [*_, original] = self.of(original=odd, whole=whole)
        assert original.get_content_type() == "text/rfc822-headers"
        assert original["Content-Transfer-Encoding"] == "quoted-printable"

    @given(st.text(max_size=1_500), st.one_of(st.none(), st.text(max_size=300)), st.binary(max_size=3_000), st.booleans())
    def test_whatever_others_say(self, diagnostic, remote_mta, original, whole):
        octets, _ = self.of(
            (recipient(), outcome(diagnostic=diagnostic, remote_mta=remote_mta)), original=original, whole=whole
        )
        assert octets.count(b"\r\nAction: ") == 1 + original.count(b"\r\nAction: ")


class TestOriginal:
    def test_quotes_the_header_section_only(self):
        octets = make()
        *_, original = parts(octets)
        assert original.get_content_type() == "text/rfc822-headers"
        assert original.get_payload().encode() == ORIGINAL.partition(b"\r\n\r\n")[0] + b"\r\n"
        assert b"Secret" not in octets

    def test_quotes_the_whole_on_demand(self):
        *_, original = parts(make(whole=True))
        assert original.get_content_type() == "message/rfc822"
        assert original.get_payload()[0]["Subject"] == "hello"

    @pytest.mark.parametrize("octets", [b"S: \xe9\r\n\r\nbody\r\n", b"S: x\r\n\r\n" + b"y" * 2_000 + b"\r\n"])
    def test_quotes_the_header_section_when_the_whole_would_not_pass_every_host(self, octets):
        *_, original = parts(make(original=octets, whole=True))
        assert original.get_content_type() == "text/rfc822-headers"

    def test_is_cut_at_a_line(self):
        section = b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
        *_, original = parts(make(original=section + b"\r\nbody"))
        quoted = original.get_payload(decode=True)
        assert ORIGINAL_OCTETS - 20 < len(quoted) <= ORIGINAL_OCTETS
        assert section.startswith(quoted)
        assert quoted.endswith(b": y\r\n")

    @pytest.mark.parametrize(
        "octets", [b"", b"\r\nno header", b"x" * 100_000, b"Subject: \xff\xfe\r\n\r\n", b"A: b\rc\nd\0e\r\n\r\n"]
    )
    def test_whatever_it_is(self, octets):
        *_, original = parts(make(original=octets))
        section = octets.partition(b"\r\n\r\n")[0][:ORIGINAL_OCTETS]
        if b"\r\n\r\n" in octets:
            assert original.get_payload(decode=True).rstrip(b"\r\n") == section.rstrip(b"\r\n")

    def test_cannot_end_its_part(self):
        message, _, _, original = parts(make(original=b"X: y\r\n--=_b--\r\n--=_b_\r\n\r\n"))
        assert message.get_boundary() == "=_b_1"
        assert "--=_b--" in original.get_payload()

    def test_cannot_make_the_boundary_grow(self):
        hostile = b"".join(b"X: --=_b_%d\r\n" % number for number in range(1, 2_000)) + b"Y: =_b" + b"_" * 900 + b"\r\n\r\n"
        message, *_ = parts(make(original=hostile))
        assert len(message.get_boundary()) <= 70  # RFC 2046 §5.1.1


HOSTILE = "550 no\r\nAction: delivered\r\n\r\n--=_b--\r\n\x00\x1b[2J\x85\u2028é"


class TestInjection:
    def test_by_the_diagnostic(self):
        _, human, groups, _ = parts(make((recipient(), outcome(diagnostic=HOSTILE, remote_mta=HOSTILE))))
        assert len(groups) == 2
        assert groups[1].get_all("Action") == ["failed"]
        assert "\x1b" not in human
        assert "\x00" not in human

    @pytest.mark.parametrize(
        "address", [Address("a\r\nBcc: x", "y.net"), Address('"<>"', "y.net"), Address("a b\0", "y\n.net")]
    )
    def test_by_addresses(self, address):
        about = Recipient(address=address, original=address, destination=Remote("y.net"))
        message, _, groups, _ = parts(make((about, outcome()), sender=address))
        assert message["Bcc"] is None
        assert len(groups) == 2

    def test_addresses_that_are_not_ascii(self):
        octets = make((recipient("bjørn@example.net"), outcome()), sender=Address("zoë", "example.org"))
        message = message_from_bytes(octets)
        assert b"To: <zo\xc3\xab@example.org>\r\n" in octets
        assert message.get_payload(1).get_payload(1)["Final-Recipient"] == "utf-8; bj\\x{F8}rn@example.net"
        assert "bjørn@example.net" in message.get_payload(0).get_payload(decode=True).decode()

    def test_an_original_recipient_that_is_not_ascii(self):
        about = Recipient(
            address=Address("bob", "example.net"),
            original=Address("bob", "example.net"),
            destination=Remote("example.net"),
            original_recipient=OriginalRecipient("utf-8", "bj\u00f8rn+x=\\@example.net"),
        )
        _, _, groups, _ = parts(make((about, outcome())))
        assert groups[1]["Original-Recipient"] == "utf-8;bj\\x{F8}rn\\x{2B}x\\x{3D}\\x{5C}@example.net"

    def test_an_original_recipient_whose_ascii_form_would_be_too_long_a_line(self):
        about = replace(recipient(), original_recipient=OriginalRecipient("utf-8", "\u00f8" * 240 + "@example.net"))
        _, _, groups, _ = parts(make((about, outcome())))
        assert groups[1]["Original-Recipient"] is None

    @pytest.mark.parametrize("action", [Action.DELIVERED, Action.RELAYED])
    def test_a_success_does_not_say_where_an_alias_leads(self, action):
        octets = make((recipient("private@example.net", "team@example.org"), outcome(action)))
        assert b"private" not in octets
        _, human, groups, _ = parts(octets)
        assert "<team@example.org>" in human
        assert groups[1]["Final-Recipient"] == "rfc822; team@example.org"

    @given(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=100),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=500),
    )
    def test_by_what_the_sender_asked(self, envelope_id, original_recipient):
        about = replace(recipient(), original_recipient=OriginalRecipient("rfc822", original_recipient))
        octets = make((about, outcome()), requests=Requests(envelope_id=envelope_id))
        assert octets.isascii()
        _, _, groups, _ = parts(octets)
        assert [each[0] for each in groups[0].items()] == ["Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"]
        assert len(groups) == 2
        assert groups[1].get_all("Action") == ["failed"]

    @given(st.text(max_size=1_500), st.one_of(st.none(), st.text(max_size=300)), st.binary(max_size=3_000))
    def test_by_anything(self, diagnostic, remote_mta, original):
        octets = make((recipient(), outcome(diagnostic=diagnostic, remote_mta=remote_mta)), original=original)
        assert octets.isascii()
        _, _, groups, _ = parts(octets)
        assert [group.get_all("Action") for group in groups] == [None, ["failed"]]
