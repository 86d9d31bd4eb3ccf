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
    """
    What became of a recipient (RFC 3464 §2.3.3).

    EXPANDED is told of an alias, and is no outcome of an attempt; DISCARDED is nobody told of.
    """

    DELIVERED = "delivered"
    RELAYED = "relayed"
    DELAYED = "delayed"
    FAILED = "failed"
    EXPANDED = "expanded"
    DISCARDED = "discarded"

    @property
    def is_final(self) -> bool:
        """Whether nothing more is to be done for the recipient (but for the DSN of a failure)."""
        return self is not Action.DELAYED


class Standing(enum.Enum):
    """What an attempt has shown of the destination itself, whatever became of its recipients."""

    UP = "up"
    """It answers, be it with a refusal."""
    CROWDED = "crowded"
    """It has as many sessions of ours as it wants."""
    DOWN = "down"
    """None of its hosts could be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disposition:
    """
    The outcome for one recipient.

    Shape:  `ordinal` is the recipient's number within its entry; `diagnostic` is printable, at most a few hundred
            characters, and may be shown to the sender: the remote host's reply, or our own words;
            `remote_mta` is the host that said so, or None; `cause` is for the log only; `honours` are the extensions by which
            the host that has it now does what the sender asked ("DSN", "DELIVERBY"); `address` is the IP address that was
            tried; `tls` is which TLS the host was spoken to in, and what its certificate is worth, "none" where there was none,
            and empty where nobody was spoken to; `is_held`: the operator wants it to wait until he says otherwise. `standing`
            None: nothing was learned of the destination. `wait_seconds`, with DOWN, says that nobody was asked, since that is
            known from before; so long it is of no use.
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
    is_held: bool = False
    standing: Standing | None = None
    wait_seconds: float = 0.0


def delayed(ordinal: int, diagnostic: str, status: EnhancedStatus | None = None, *, cause: str = "") -> Disposition:
    """Make the disposition that every unknown failure becomes: temporary."""
    return Disposition(
        ordinal=ordinal, action=Action.DELAYED, status=status or EnhancedStatus(4, 3, 0), diagnostic=diagnostic, cause=cause
    )
