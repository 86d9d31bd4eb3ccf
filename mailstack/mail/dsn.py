"""
Delivery status notifications (RFC 3464, in the multipart/report of RFC 6522). Pure.

Three parts: words for a person, fields for a program, and the header section of the message that it is about, by which its
sender knows it again. All is ASCII, by quoted-printable where need be, so that a notification passes every host; only an
address that is not ASCII itself makes its `To` field UTF-8.

What others said (diagnostics, addresses, the header section) is written so that it cannot end a line, a field or a part.
"""

from __future__ import annotations

import binascii
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

from mailstack.mail.address import Address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Envelope, Recipient
from mailstack.mail.headers import header_section
from mailstack.mail.requests import utf8_xtext
from mailstack.mail.trace import format_date

ORIGINAL_OCTETS: Final = 32_768  # of the header section; more does not help to know a message again
DIAGNOSTIC_CHARACTERS: Final = 600
LINE_OCTETS: Final = 998  # RFC 5322 §2.1.1

_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")

_SUBJECTS: Final = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.RELAYED: "Your message was relayed",
    Action.DELIVERED: "Your message was delivered",
}
_OUTCOMES: Final = {
    Action.FAILED: "It could not be delivered to the following recipient{s}, and will not be tried again:",
    Action.DELAYED: "It could not be delivered yet to the following recipient{s}, and will be tried again:",
    Action.RELAYED: "It was handed on, to a host that sends no notifications, for the following recipient{s}:",
    Action.DELIVERED: "It was delivered to the following recipient{s}:",
}


def build(
    outcomes: Sequence[tuple[Recipient, Disposition]],
    *,
    envelope: Envelope,
    hostname: str,
    entry: str,
    date: str,
    message_id: str,
    boundary: str,
    original: bytes,
    whole: bool = False,
) -> bytes:
    """
    Write a notification, with CRLF line ends.

    Shape:   `outcomes` are what it tells of, at least one; `envelope` and `entry` are those of the message it is about, and
             the reverse-path is not null. `date` is an RFC 5322 date, `message_id` stands without brackets. `original` are the
             message's first octets: the header section is quoted, or all of it when `whole`, which then must be all.
    Raises:  ValueError: there are no outcomes, or nobody to tell.
    Source:  RFC 3464 §2; RFC 6522 §3; RFC 3834 §5 (Auto-Submitted); RFC 5321 §6.1.
    """
    if not outcomes or envelope.reverse_path is None:
        raise ValueError("a notification needs outcomes and a return address")
    parts = [
        _human_part(outcomes, envelope, hostname, entry),
        _machine_part(outcomes, envelope, hostname, date),
        _original_part(original, whole),
    ]
    boundary = next(each for each in _boundaries(boundary) if not any(each.encode() in part for part in parts))
    delimiter = f"--{boundary}".encode()
    body = b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts)
    return _header(outcomes, envelope.reverse_path, hostname, date, message_id, boundary) + body + delimiter + b"--\r\n"


def _boundaries(boundary: str) -> Iterator[str]:
    """Yield what may stand between the parts: a quoted message that has it could end one, and it must not grow with that."""
    yield boundary
    for number in itertools.count(1):
        yield f"{boundary}_{number}"


def _header(
    outcomes: Sequence[tuple[Recipient, Disposition]],
    to: Address,
    hostname: str,
    date: str,
    message_id: str,
    boundary: str,
) -> bytes:
    actions = {disposition.action for _, disposition in outcomes}
    action = next(action for action in _SUBJECTS if action in actions)
    return _lines(
        f"Date: {date}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{_safe(str(to))}>",
        f"Subject: {_SUBJECTS[action]}",
        f"Message-ID: <{message_id}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
        "",
        "This is a delivery status notification in MIME format.",
    )


def _human_part(outcomes: Sequence[tuple[Recipient, Disposition]], envelope: Envelope, hostname: str, entry: str) -> bytes:
    lines = [
        f"This is the mail system at {hostname}.",
        "",
        f"It took your message on {format_date(envelope.accepted_at)}.",
    ]
    for action, words in _OUTCOMES.items():
        about = [(recipient, disposition) for recipient, disposition in outcomes if disposition.action is action]
        if about:
            lines += ["", words.format(s="s" if len(about) > 1 else "")]
        for recipient, disposition in about:
            lines += ["", f"  <{_safe(str(_final(recipient, disposition)))}>"]
            if recipient.original != _final(recipient, disposition):
                lines.append(f"    (you wrote to <{_safe(str(recipient.original))}>)")
            said = f"The host {_safe(disposition.remote_mta)} said" if disposition.remote_mta else "Reason"
            lines.append(f"    {said}: {_safe(disposition.diagnostic)[:DIAGNOSTIC_CHARACTERS]} ({disposition.status})")
    lines += [
        "",
        "What follows is for programs, and the beginning of your message.",
        f"Should you ask your postmaster about it, name the message {entry}.",
    ]
    return _text_part("text/plain; charset=utf-8", _lines(*lines))


def _machine_part(outcomes: Sequence[tuple[Recipient, Disposition]], envelope: Envelope, hostname: str, date: str) -> bytes:
    about = [f"Reporting-MTA: dns; {hostname}", f"Arrival-Date: {format_date(envelope.accepted_at)}"]
    if envelope.requests.envelope_id is not None:
        about.insert(0, f"Original-Envelope-Id: {_printable(envelope.requests.envelope_id)}")  # RFC 3464 §2.2.1
    groups = [about]
    for recipient, disposition in outcomes:
        fields = [
            f"Original-Recipient: {_original_recipient(recipient)}",
            f"Final-Recipient: {_address_field(_final(recipient, disposition))}",
            f"Action: {disposition.action.value}",
            f"Status: {disposition.status}",
        ]
        diagnostic = _printable(disposition.diagnostic)[:DIAGNOSTIC_CHARACTERS] or "none given"
        if disposition.remote_mta:
            fields += [f"Remote-MTA: dns; {_printable(disposition.remote_mta)[:255]}", f"Diagnostic-Code: smtp; {diagnostic}"]
        else:
            fields.append(f"Diagnostic-Code: x-mailstack; {diagnostic}")
        groups.append([*fields, f"Last-Attempt-Date: {date}"])
    body = b"\r\n".join(_lines(*fields) for fields in groups)
    return b"Content-Type: message/delivery-status\r\n\r\n" + body


def _final(recipient: Recipient, disposition: Disposition) -> Address:
    """Return whom an outcome is told of. Of a success that is who was written to: where an alias leads is not for strangers."""
    return recipient.original if disposition.action in (Action.DELIVERED, Action.RELAYED) else recipient.address


def _original_recipient(recipient: Recipient) -> str:
    """Write what ORCPT said, or else the forward-path (RFC 3464 §2.3.1)."""
    asked = recipient.original_recipient
    if asked is None:
        return _address_field(recipient.original)
    return f"{_printable(asked.kind)};{_printable(utf8_xtext(asked.address) if asked.kind == 'utf-8' else asked.address)}"


def _original_part(original: bytes, whole: bool) -> bytes:
    if whole and original.isascii() and b"\0" not in original and _longest_line(original) <= LINE_OCTETS:
        return b"Content-Type: message/rfc822\r\n\r\n" + original
    section = header_section(original)
    if len(section) > ORIGINAL_OCTETS:
        end = section.rfind(b"\r\n", 0, ORIGINAL_OCTETS)
        section = section[: end + 2] if end >= 0 else section[:ORIGINAL_OCTETS]
    return _text_part("text/rfc822-headers; charset=utf-8", section)


def _text_part(kind: str, text: bytes) -> bytes:
    """Write a part as it is, or in quoted-printable when it is not plain ASCII in lines (RFC 6522 §4, RFC 2045 §6.7)."""
    if re.fullmatch(rb"(?:[\t -~]|\r\n)*", text) and _longest_line(text) <= LINE_OCTETS:
        return f"Content-Type: {kind}\r\n\r\n".encode() + text
    encoded = b"".join(
        binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") + b"\r\n"
        for line in text.removesuffix(b"\r\n").split(b"\r\n")
    )
    return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n".encode() + encoded


def _longest_line(text: bytes) -> int:
    return max(map(len, text.split(b"\r\n")))


def _lines(*lines: str) -> bytes:
    return "".join(line + "\r\n" for line in lines).encode()


def _address_field(address: Address) -> str:
    """Write an address with its type (RFC 3464 §2.3.2; RFC 6533 §3 for those that are not ASCII)."""
    text = str(address)
    if text.isascii():
        return f"rfc822; {_printable(text)}"
    return f"utf-8; {utf8_xtext(text)}"


def _printable(text: str) -> str:
    """Return printable ASCII."""
    return _NOT_PRINTABLE.sub("?", text)


def _safe(text: str) -> str:
    """Return text on one line without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)
