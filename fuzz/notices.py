"""What we write ourselves out of what others said: notifications, trace fields. It must be read as what it was written as."""

from __future__ import annotations

import email.policy
import quopri
import re
from email.message import Message
from email.parser import BytesParser
from typing import Final

from fuzz.target import Choices, Target
from mailstack.mail.address import Address, AddressError, parse_address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.dsn import LINE_OCTETS, ORIGINAL_OCTETS, build
from mailstack.mail.envelope import Account, Envelope, Origin, Recipient, Service
from mailstack.mail.headers import fields, header_section
from mailstack.mail.requests import OriginalRecipient, Requests
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.trace import received_field, return_path_field

ENTRY: Final = "0123456789abc"
DATE: Final = "Mon, 09 Nov 2026 10:00:00 +0000"
WHOLE_OCTETS: Final = 998  # RFC 5322 §2.1.1
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_QUOTED_OR_COMMENT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|\([^()]*\)')
_TOLD: Final = [each for each in Action if each is not Action.DISCARDED]
_OF_RECIPIENT: Final = ("Final-Recipient", "Action", "Status")


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError:
        return Address("a", "b.example")


def run_dsn(octets: bytes) -> None:
    """
    Write a notification with hostile values, and read it by Python's parser of mail.

    An octet of choices; then a line each for the two addresses, what the host and its name are said to be, ORCPT and ENVID; the
    rest is the message that it is about.
    """
    choices = Choices(octets)
    whole, has_host, has_asked, two, is_global = choices.flags(5)
    lines = [choices.line().decode("utf-8", "replace")[:2_000] for _ in range(6)]
    address, original, diagnostic, host, asked, envelope_id = lines
    content = choices.rest()
    recipient = Recipient(
        address=_address(address),
        original=_address(original),
        destination=Account("a"),
        original_recipient=OriginalRecipient("utf-8" if is_global else "rfc822", asked[:500]) if has_asked else None,
    )
    outcome = Disposition(
        ordinal=0,
        action=_TOLD[len(diagnostic) % len(_TOLD)],
        status=EnhancedStatus(5, 1, 1),
        diagnostic=diagnostic,
        remote_mta=host if has_host else None,
    )
    envelope = Envelope(
        reverse_path=_address(original),
        recipients=(recipient,),
        origin=Origin(service=Service.SMTP),
        accepted_at=1_800_000_000.0,
        requests=Requests(envelope_id=envelope_id[:100] if has_asked else None),
    )
    notice = build(
        [(recipient, outcome)] * (1 + two),
        envelope=envelope,
        hostname="mx.example",
        entry=ENTRY,
        date=DATE,
        message_id="x@mx.example",
        boundary="=_b",
        original=content,
        whole=whole,
        is_global=is_global,
    )
    if is_global:
        notice = _as_if_ascii(notice)
    _check_notice(notice, 1 + two, content, has_host=has_host and host != "", has_asked=has_asked, whole=whole)


def _as_if_ascii(notice: bytes) -> bytes:
    """Give the parts of a notification in UTF-8 the types that Python's parser knows."""
    head, human, machine, original = _pieces(notice)
    assert b"\r\nContent-Transfer-Encoding: 8bit\r\n" in head
    assert machine.startswith(b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
    machine = machine.replace(b"message/global-delivery-status", b"message/delivery-status", 1)
    original = re.sub(rb"\AContent-Type: message/global\r\n", b"Content-Type: message/rfc822\r\n", original)
    original = re.sub(rb"\AContent-Type: message/global-headers\r\n", b"Content-Type: text/rfc822-headers\r\n", original)
    head = head.replace(b"Content-Transfer-Encoding: 8bit\r\n", b"", 1)
    return _delimiter(notice).join((head, human, machine, original))


def _delimiter(notice: bytes) -> bytes:
    boundary = re.search(rb'boundary="([^"]*)"', notice)
    assert boundary is not None
    return b"--" + boundary[1] + b"\r\n"


def _pieces(notice: bytes) -> list[bytes]:
    """Return what comes before the parts, and the three parts, the last of them with what comes behind."""
    pieces = notice.split(_delimiter(notice))
    assert len(pieces) == 4
    return pieces


def _check_notice(notice: bytes, outcomes: int, content: bytes, *, has_host: bool, has_asked: bool, whole: bool) -> None:
    is_whole = whole and b"message/rfc822" in notice
    assert not _BARE.search(notice), "a bare CR or LF"
    assert max(map(len, notice.split(b"\r\n"))) <= LINE_OCTETS
    assert b"\0" not in notice
    names = [name for name, _ in fields(header_section(notice))]
    assert names == [
        b"date", b"from", b"to", b"subject", b"message-id", b"auto-submitted", b"mime-version", b"content-type",
    ]  # fmt: skip
    parts = _parts(notice)
    kinds = [part.get_content_type() for part in parts]
    assert kinds[:2] == ["text/plain", "message/delivery-status"]
    assert kinds[2:] == ["message/rfc822" if is_whole else "text/rfc822-headers"]
    groups = _inside(parts[1])
    assert len(groups) == 1 + outcomes
    for group in groups[1:]:
        if has_asked and "Original-Recipient" in group:
            assert group.keys()[0] == "Original-Recipient"
            del group["Original-Recipient"]
        is_said = str(group["Diagnostic-Code"]).startswith("smtp;")  # by a host, which is named then
        assert has_host or not is_said
        expected = (*_OF_RECIPIENT, *(("Remote-MTA",) if is_said else ()), "Diagnostic-Code", "Last-Attempt-Date")
        assert tuple(group.keys()) == expected, group.keys()
    if not is_whole:
        _check_quoted(notice, content)


def _parts(notice: bytes) -> list[Message]:
    message = BytesParser(policy=email.policy.compat32).parsebytes(notice)
    assert message.get_content_type() == "multipart/report"
    assert not message.defects
    return _inside(message)


def _inside(message: Message) -> list[Message]:
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


def _check_quoted(notice: bytes, content: bytes) -> None:
    """Check that the header section of the message is there as it was, or the first lines of a long one."""
    closing = b"\r\n" + _delimiter(notice).removesuffix(b"\r\n") + b"--\r\n"
    part = _pieces(notice)[-1].removesuffix(closing)
    head, _, body = part.partition(b"\r\n\r\n")
    if b"quoted-printable" in head:
        assert body.isascii()
        body = quopri.decodestring(body)
    section = header_section(content)
    if len(section) <= ORIGINAL_OCTETS:
        assert body == section or body == section + b"\r\n", (body, section)


def run_trace(octets: bytes) -> None:
    """Write trace fields: a line each for what the peer calls itself, the parameters of TLS, and an address."""
    choices = Choices(octets)
    hello, tls, text = (choices.line().decode("utf-8", "replace")[:2_000] for _ in range(3))
    address = _address(text)
    origin = Origin(service=Service.SMTP, peer="192.0.2.1", hello=hello, tls=tls[:100] or None)
    section = received_field(origin, hostname="mx.example", entry=ENTRY, accepted_at=1_800_000_000.0, recipient=address)
    assert section.isascii()
    section += return_path_field(address)
    assert not _BARE.search(section)
    assert max(map(len, section.split(b"\r\n"))) <= WHOLE_OCTETS
    assert [name for name, _ in fields(section)] == [b"received", b"return-path"]
    bare = _QUOTED_OR_COMMENT.sub(b"", section.partition(b"\r\nReturn-Path")[0])
    assert b"(" not in bare
    assert b")" not in bare
    assert b'"' not in bare
    assert bare.count(b";") == 1, "the date does not begin where it does"


TARGETS: Final = (
    Target("dsn", "delivery status notifications of hostile values", run_dsn, most_octets=2_048),
    Target("trace", "trace fields of hostile values", run_trace),
)
