"""
Delivery status notifications (RFC 3464, in the multipart/report of RFC 6522). Pure.

Three parts: words for a person, fields for a program, and the header section of the message that it is about, by which its
sender knows it again. All is ASCII, by quoted-printable where need be, so that a notification passes every host; only an
address that is not ASCII itself makes its `To` field UTF-8. One that goes only where UTF-8 can go has it everywhere, in the
media types that are for that (RFC 6533).

What the sender cannot be told is told to the postmaster, in the same form with other words.

What others said (diagnostics, addresses, the header section) is written so that it cannot end a line, a field or a part.
"""

from __future__ import annotations

import binascii
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mailstack.mail.address import Address, format_path
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Envelope, Origin, Recipient
from mailstack.mail.headers import header_section
from mailstack.mail.requests import utf8_xtext
from mailstack.mail.trace import format_date

ORIGINAL_OCTETS: Final = 32_768  # of the header section; more does not help to know a message again
DIAGNOSTIC_CHARACTERS: Final = 600
LINE_OCTETS: Final = 998  # RFC 5322 §2.1.1
VALUE_OCTETS: Final = 900  # of a field, with its name a line

_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")
_IPV4: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")
_REPLY: Final = re.compile(r"[2-5][0-9]{2} ")  # RFC 5321 §4.2
_BARE_OR_NUL: Final = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")

_SUBJECTS: Final = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.RELAYED: "Your message was relayed",
    Action.DELIVERED: "Your message was delivered",
    Action.EXPANDED: "Your message was passed on to several recipients",
}
_OUTCOMES: Final = {
    Action.FAILED: "It could not be delivered to the following recipient{s}, and will not be tried again:",
    Action.DELAYED: "It could not be delivered yet to the following recipient{s}, and will be tried again{until}:",
    Action.RELAYED: "It was handed on, to a host that sends no notifications, for the following recipient{s}:",
    Action.DELIVERED: "It was delivered to the following recipient{s}:",
    Action.EXPANDED: "It was passed on to everybody for whom this stands; what they receive is not told:",
}
_TO_THE_POSTMASTER: Final = "A message could not be delivered, nor its sender be told"
_OF_WHO_WAS_WRITTEN_TO: Final = (Action.DELIVERED, Action.RELAYED, Action.EXPANDED)


@dataclass(frozen=True, slots=True)
class Postmaster:
    """
    Who is told when the sender cannot be.

    Shape:  `untold` is of how many others nothing was said, because they were too many.
    """

    address: Address
    untold: int = 0


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
    is_global: bool = False,
    retry_until: float | None = None,
    postmaster: Postmaster | None = None,
) -> bytes:
    """
    Write a notification, with CRLF line ends.

    Shape:   `outcomes` are what it tells of, at least one; `envelope` and `entry` are those of the message it is about, and
             the reverse-path is not null, unless the postmaster is told. `date` is an RFC 5322 date, `message_id` stands
             without brackets. `original` are the message's first octets: the header section is quoted, or all of it when
             `whole`, which then must be all. `is_global`: it goes only where UTF-8 can go. `retry_until` says how long what is
             delayed will be tried, in seconds since 1970, UTC.
    Raises:  ValueError: there are no outcomes, or nobody to tell.
    Source:  RFC 3464 §2; RFC 6522 §3; RFC 6533 §4; RFC 3834 §5 (Auto-Submitted); RFC 5321 §6.1.
    """
    to = postmaster.address if postmaster is not None else envelope.reverse_path
    if not outcomes or to is None:
        raise ValueError("a notification needs outcomes and a return address")
    until = format_date(retry_until) if retry_until is not None else ""
    about = _about(envelope, hostname) if postmaster is None else _about_for_postmaster(envelope, hostname, postmaster)
    written = "you wrote" if postmaster is None else "it was written"
    words = [*about, *_outcomes_in_words(outcomes, until, written), *_last_words(entry, is_senders=postmaster is None)]
    parts = [
        _text_part("text/plain; charset=utf-8", _lines(*words), is_global),
        _machine_part(outcomes, envelope, hostname, date, until, is_global),
        _original_part(original, whole, is_global),
    ]
    boundary = next(each for each in _boundaries(boundary) if not any(each.encode() in part for part in parts))
    delimiter = f"--{boundary}".encode()
    body = b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts)
    subject = _subject(outcomes) if postmaster is None else _TO_THE_POSTMASTER
    return _header(to, subject, hostname, date, message_id, boundary, is_global) + body + delimiter + b"--\r\n"


def _boundaries(boundary: str) -> Iterator[str]:
    """Yield what may stand between the parts: a quoted message that has it could end one, and it must not grow with that."""
    yield boundary
    for number in itertools.count(1):
        yield f"{boundary}_{number}"


def _subject(outcomes: Sequence[tuple[Recipient, Disposition]]) -> str:
    actions = {disposition.action for _, disposition in outcomes}
    return _SUBJECTS[next(action for action in _SUBJECTS if action in actions)]


def _header(to: Address, subject: str, hostname: str, date: str, message_id: str, boundary: str, is_global: bool) -> bytes:
    return _lines(
        f"Date: {date}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{_safe(str(to))}>",
        f"Subject: {subject}",
        f"Message-ID: <{message_id}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
        *(["Content-Transfer-Encoding: 8bit"] if is_global else []),
        "",
        "This is a delivery status notification in MIME format.",
    )


# Words for a person


def _about(envelope: Envelope, hostname: str) -> list[str]:
    return [
        f"This is the mail system at {hostname}.",
        "",
        f"It took your message on {format_date(envelope.accepted_at)}.",
    ]


def _about_for_postmaster(envelope: Envelope, hostname: str, postmaster: Postmaster) -> list[str]:
    more = [f"Of {postmaster.untold} more, before this one, you were not told; they are in the log.", ""]
    return [
        f"This is the mail system at {hostname}, to its postmaster.",
        "",
        *(more if postmaster.untold else []),
        f"It took a message from {_safe(format_path(envelope.reverse_path))} on {format_date(envelope.accepted_at)}.",
        "Nobody can be told there what became of it.",
    ]


def _outcomes_in_words(outcomes: Sequence[tuple[Recipient, Disposition]], until: str, written: str) -> Iterator[str]:
    for action, words in _OUTCOMES.items():
        about = [(recipient, disposition) for recipient, disposition in outcomes if disposition.action is action]
        if about:
            yield ""
            yield words.format(s="s" if len(about) > 1 else "", until=f" until {until}" if until else "")
        for recipient, disposition in about:
            final = _final(recipient, disposition)
            yield ""
            yield f"  <{_safe(str(final))}>"
            if recipient.original != final:
                yield f"    ({written} to <{_safe(str(recipient.original))}>)"
            yield f"    {_whose(disposition)}: {_safe(disposition.diagnostic)[:DIAGNOSTIC_CHARACTERS]} ({disposition.status})"


def _whose(disposition: Disposition) -> str:
    """Say whose words a diagnostic is made of: a host that could not be reached, or has no TLS, has not said so itself."""
    if not disposition.remote_mta:
        return "Reason"
    host = f"host {_safe(disposition.remote_mta)}"
    return f"The {host} said" if _is_reply(disposition) else f"With the {host}"


def _is_reply(disposition: Disposition) -> bool:
    """Say whether a diagnostic is what a host replied; else it is our own words."""
    return bool(disposition.remote_mta) and _REPLY.match(disposition.diagnostic) is not None


def _last_words(entry: str, *, is_senders: bool) -> list[str]:
    if not is_senders:
        return ["", "What follows is for programs, and the beginning of the message.", f"The log names it {entry}."]
    return [
        "",
        "What follows is for programs, and the beginning of your message.",
        f"Should you ask your postmaster about it, name the message {entry}.",
    ]


# Fields for a program


def _machine_part(
    outcomes: Sequence[tuple[Recipient, Disposition]],
    envelope: Envelope,
    hostname: str,
    date: str,
    until: str,
    is_global: bool,
) -> bytes:
    about = [
        f"Reporting-MTA: dns; {hostname}",
        *_received_from(envelope.origin),
        f"Arrival-Date: {format_date(envelope.accepted_at)}",
    ]
    if envelope.requests.envelope_id is not None:
        about.insert(0, f"Original-Envelope-Id: {_printable(envelope.requests.envelope_id)}")  # RFC 3464 §2.2.1
    groups = [about]
    for recipient, disposition in outcomes:
        fields = [
            *_original_recipient(recipient, is_global),
            f"Final-Recipient: {_address_field(_final(recipient, disposition), is_global)}",
            f"Action: {disposition.action.value}",
            f"Status: {disposition.status}",
        ]
        diagnostic = _printable(disposition.diagnostic)[:DIAGNOSTIC_CHARACTERS] or "none given"
        if disposition.remote_mta and _is_reply(disposition):  # RFC 3464 §2.3.5, §2.3.6: what it reported itself
            fields += [f"Remote-MTA: {_host_field(disposition.remote_mta)}", f"Diagnostic-Code: smtp; {diagnostic}"]
        else:
            fields.append(f"Diagnostic-Code: x-mailstack; {diagnostic}")
        fields.append(f"Last-Attempt-Date: {date}")
        if disposition.action is Action.DELAYED and until:
            fields.append(f"Will-Retry-Until: {until}")  # RFC 3464 §2.3.9
        groups.append(fields)
    body = b"\r\n".join(_lines(*fields) for fields in groups)
    if is_global:
        return b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + body
    return b"Content-Type: message/delivery-status\r\n\r\n" + body


def _received_from(origin: Origin) -> list[str]:
    """
    Name the host that gave us the message, by its address (RFC 3464 §2.2.4).

    Not by the name that it gives itself, in which it could write to others; and no user's machine, which is no host of mail.
    """
    if not origin.peer or origin.account is not None:
        return []
    return [f"Received-From-MTA: {_host_field(origin.peer)}"]


def _host_field(host: str) -> str:
    """Write a host, a name or an IP address, with its type; an address is a literal then (RFC 3464 §2.1.2)."""
    literal = f"[IPv6:{host}]" if ":" in host else f"[{host}]" if _IPV4.fullmatch(host) else host
    return f"dns; {_printable(literal)[:255]}"


def _final(recipient: Recipient, disposition: Disposition) -> Address:
    """Return whom an outcome is told of. Of a success that is who was written to: where an alias leads is not for strangers."""
    return recipient.original if disposition.action in _OF_WHO_WAS_WRITTEN_TO else recipient.address


def _original_recipient(recipient: Recipient, is_global: bool) -> list[str]:
    """
    Write what ORCPT said, if it said anything: by that the sender's program knows whom this is about.

    Nothing of ours stands in its place: the forward-path is told in words. What is too long for a line is left out, too.

    Source:  RFC 3464 §2.3.1; RFC 3461 §6.3 (d).
    """
    asked = recipient.original_recipient
    if asked is None:
        return []
    address = _escaped(asked.address, is_global) if asked.kind == "utf-8" else _printable(asked.address)
    value = f"{_printable(asked.kind)};{address}"
    return [f"Original-Recipient: {value}"] if len(value.encode()) <= VALUE_OCTETS else []


def _address_field(address: Address, is_global: bool) -> str:
    """Write an address with its type (RFC 3464 §2.3.2; RFC 6533 §3 for those that are not ASCII)."""
    text = str(address)
    if text.isascii():
        return f"rfc822; {_printable(text)}"
    return f"utf-8; {_escaped(text, is_global)}"


def _escaped(text: str, is_global: bool) -> str:
    """Write an address of the type utf-8 in ASCII, or in UTF-8, which has escapes too (RFC 6533 §3)."""

    if not is_global:
        return utf8_xtext(text)
    return "".join(c if not c.isascii() and c.isprintable() else utf8_xtext(c) for c in text)


# The message that it is about


def _original_part(original: bytes, whole: bool, is_global: bool) -> bytes:
    if whole and is_global and _is_clean_utf8(header_section(original)) and _is_in_lines(original):
        return b"Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + original
    if whole and not is_global and original.isascii() and _is_in_lines(original):
        return b"Content-Type: message/rfc822\r\n\r\n" + original
    section = header_section(original)
    if len(section) > ORIGINAL_OCTETS:
        end = section.rfind(b"\r\n", 0, ORIGINAL_OCTETS)
        section = section[: end + 2] if end >= 0 else section[:ORIGINAL_OCTETS]
    if is_global and _is_clean_utf8(section):
        return b"Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + section
    return _text_part("text/rfc822-headers; charset=utf-8", section)


def _text_part(kind: str, text: bytes, is_global: bool = False) -> bytes:
    """Write a part as it is, or in quoted-printable when it is not plain text in lines (RFC 6522 §4, RFC 2045 §6.7)."""
    if re.fullmatch(rb"(?:[\t -~]|\r\n)*", text) and _longest_line(text) <= LINE_OCTETS:
        return f"Content-Type: {kind}\r\n\r\n".encode() + text
    if is_global and _is_clean_utf8(text):
        return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode() + text
    encoded = b"".join(
        binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") + b"\r\n"
        for line in text.removesuffix(b"\r\n").split(b"\r\n")
    )
    return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n".encode() + encoded


def _is_in_lines(octets: bytes) -> bool:
    """Say whether octets pass every host that takes 8 bits."""
    return _BARE_OR_NUL.search(octets) is None and _longest_line(octets) <= LINE_OCTETS


def _is_clean_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return _is_in_lines(octets)


def _longest_line(text: bytes) -> int:
    return max(map(len, text.split(b"\r\n")))


def _lines(*lines: str) -> bytes:
    return "".join(line + "\r\n" for line in lines).encode()


def _printable(text: str) -> str:
    """Return printable ASCII."""
    return _NOT_PRINTABLE.sub("?", text)


def _safe(text: str) -> str:
    """Return text on one line without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)
