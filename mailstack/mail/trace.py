"""
Trace fields: Received, Return-Path and Delivered-To (RFC 5321 §4.4).

Everything from outside is reduced to printable ASCII before it is written into a field.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from mailstack.mail.address import Address, format_path
from mailstack.mail.envelope import Origin, Service
from mailstack.mail.headers import fields

# Printable, without space, and without what begins a comment, a quoted string or the date (RFC 5322 §3.2.2, §3.2.4, §3.6.7).
_ODD: Final = re.compile(r"[^!#-'*-:<-\[\]-~]")
_ODD_IN_COMMENT: Final = re.compile(r"[^ -'*-\[\]-~]")
HELLO_CHARACTERS: Final = 255


def format_date(seconds: float) -> str:
    """Write a moment as an RFC 5322 §3.3 date, in UTC."""
    return _format_date(int(seconds))


@lru_cache(maxsize=16)  # of many messages in one second
def _format_date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))


def with_protocol(origin: Origin) -> str:
    """Return the WITH keyword of a Received field (RFC 3848; UTF8 forms of RFC 6531 §4.3 are not used)."""
    base = "LMTP" if origin.service is Service.LMTP else "ESMTP" if origin.extended else "SMTP"
    if base == "SMTP":
        return base
    return base + ("S" if origin.tls else "") + ("A" if origin.account is not None else "")


def received_field(origin: Origin, *, hostname: str, entry: str, accepted_at: float, recipient: Address | None = None) -> bytes:
    """
    Write the Received field that we put in front of a message, with its CRLF.

    Shape:  `recipient` is named only when it is the only one, so that no recipient learns of another (RFC 5321 §7.2).
    Source: RFC 5321 §4.4.
    """
    peer = f"[IPv6:{origin.peer}]" if ":" in origin.peer else f"[{origin.peer}]" if origin.peer else _without_address(origin)
    if origin.name:
        peer = f"{_ODD.sub('?', origin.name)[:HELLO_CHARACTERS]} {peer}"
    hello = _ODD.sub("?", origin.hello)[:HELLO_CHARACTERS] or "unknown"
    lines = [f"Received: from {hello} ({peer})"]
    by = f"by {hostname} with {with_protocol(origin)}"
    if origin.tls:
        by += f" ({_ODD_IN_COMMENT.sub('?', origin.tls)})"
    lines.append(f"{by} id {entry}")
    if recipient is not None and recipient.is_ascii:
        lines.append(f"for {format_path(recipient)}")
    return ("\r\n\t".join(lines) + f"; {format_date(accepted_at)}\r\n").encode("ascii")


def _without_address(origin: Origin) -> str:
    return "local" if origin.service in (Service.LOCAL, Service.LMTP) else "unknown"


def return_path_field(reverse_path: Address | None) -> bytes:
    """Write the Return-Path field of final delivery, with its CRLF (RFC 5321 §4.4; UTF-8 as RFC 6532 §3.2 allows)."""
    return f"Return-Path: {format_path(reverse_path)}\r\n".encode()


def delivered_to_field(address: Address) -> bytes:
    """Write the Delivered-To field of final delivery, with its CRLF (RFC 9228)."""
    return f"Delivered-To: {address}\r\n".encode()


def was_delivered_to(address: Address, section: bytes) -> bool:
    """Say whether a header section has the Delivered-To field of an address, in letters of any case."""
    if b"delivered-to" not in section.lower():  # nearly always; saves the walk
        return False
    ours = str(address).encode().lower()
    return any(name == b"delivered-to" and value.strip(b" \t\r\n").lower() == ours for name, value in fields(section))
