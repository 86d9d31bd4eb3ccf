"""
Dispositions: the outcome of one attempt for one recipient (RFC 3464 §2.3).

An attempt returns one Disposition for every recipient that it was given, always all of them. An outcome of mail is a value,
never an exception.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mailstack.mail.status import EnhancedStatus


class Action(enum.Enum):
    """What became of a recipient (RFC 3464 §2.3.3)."""

    DELIVERED = "delivered"
    RELAYED = "relayed"
    DELAYED = "delayed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing more is to be done for the recipient (but for the DSN of a failure)."""
        return self is not Action.DELAYED


@dataclass(frozen=True, slots=True, kw_only=True)
class Disposition:
    """
    The outcome for one recipient.

    Shape:  `ordinal` is the recipient's number within its entry; `diagnostic` is printable, at most a few hundred
            characters, and may be shown to the sender: the remote host's reply, or our own words;
            `remote_mta` is the host that said so, or None; `cause` is for the log only; `honours` are the extensions by which
            the host that has it now does what the sender asked ("DSN", "DELIVERBY"); `address` is the IP address that was
            tried, and `tls` says what protected the session with it ("TLSv1.3, unverified"), each "" if there was none.
    """

    ordinal: int
    action: Action
    status: EnhancedStatus
    diagnostic: str
    remote_mta: str | None = None
    cause: str = ""
    honours: frozenset[str] = frozenset()
    address: str = ""
    tls: str = ""


def delayed(ordinal: int, diagnostic: str, status: EnhancedStatus | None = None, *, cause: str = "") -> Disposition:
    """Make the disposition that every unknown failure becomes: temporary."""
    return Disposition(
        ordinal=ordinal, action=Action.DELAYED, status=status or EnhancedStatus(4, 3, 0), diagnostic=diagnostic, cause=cause
    )
