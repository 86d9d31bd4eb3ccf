"""
Requests: what the sender asks of every host on the way, besides delivery.

They come as parameters of MAIL and RCPT, stay with the envelope in the spool, and go on to the next host as far as it knows
them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Notify(enum.Enum):
    """Of what the sender wants to be notified (RFC 3461 §4.1); NEVER stands alone."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


class Return(enum.Enum):
    """What a notification of failure brings back (RFC 3461 §4.3)."""

    FULL = "FULL"
    HEADERS = "HDRS"


def utf8_xtext(text: str) -> str:
    """Write an address of any language in ASCII (RFC 6533 §3, utf-8-addr-xtext); as xtext it stands for itself."""
    return "".join(each if "!" <= each <= "~" and each not in "\\=+" else f"\\x{{{ord(each):02X}}}" for each in text)


@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    """
    ORCPT: the recipient as the sender wrote it, wherever aliases have led since (RFC 3461 §4.2).

    Shape:  `kind` is an address type in lower case, "rfc822" or "utf-8"; `address` is decoded, printable, not parsed.
    """

    kind: str
    address: str


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """
    A time by which the message should be there (RFC 2852).

    Shape:  `deadline` in seconds since 1970, UTC; `returns`: what is late comes back (mode R), else the sender is told (N);
            `traces`: the sender wants to know of each host that hands it on to one without DELIVERBY.
    """

    deadline: float
    returns: bool
    traces: bool = False

    def is_over(self, now: float) -> bool:
        """Say whether it must come back now."""
        return self.returns and now >= self.deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """
    Those that concern a whole message.

    Shape:  `envelope_id` is decoded and printable; `priority` is -9..9; `held_until` in seconds since 1970, UTC;
            `tls_optional`: rather without the TLS that its domain wants than not at all (TLS-Required: No, RFC 8689 §5).
    Source: RFC 3461 §4.3 and §4.4; RFC 8689; RFC 6710; RFC 2852; RFC 4865.
    """

    returns: Return | None = None
    envelope_id: str | None = None
    requires_tls: bool = False
    priority: int = 0
    deliver_by: DeliverBy | None = None
    held_until: float | None = None
    tls_optional: bool = False


NO_REQUESTS: Final = Requests()
