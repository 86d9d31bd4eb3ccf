"""
How mail is relayed: values that whoever composes the house fills in.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from mailstack.wire.smtp_mailing import Login, Phase

SMTP_PORT: Final = 25
SUBMISSION_PORT: Final = 587
SUBMISSIONS_PORT: Final = 465  # TLS from the first octet (RFC 8314 §3.3)

TIMEOUTS_SECONDS: Final[Mapping[Phase, float]] = MappingProxyType(
    {
        # RFC 5321 §4.5.3.2, where it names one.
        Phase.GREETING: 300.0,
        Phase.EHLO: 300.0,
        Phase.HELO: 300.0,
        Phase.STARTTLS: 120.0,
        Phase.HANDSHAKE: 60.0,
        Phase.AUTH: 300.0,
        Phase.READY: 300.0,
        Phase.RSET: 60.0,
        Phase.MAIL: 300.0,
        Phase.RCPT: 300.0,
        Phase.DATA: 120.0,
        Phase.CONTENT: 180.0,  # for each block, until it has left our buffer
        Phase.CONTENT_END: 600.0,
        Phase.ABANDONED: 600.0,
        Phase.QUIT: 30.0,  # §4.5.3.2 names none, and by now the message is delivered
    }
)


class TLSPolicy(enum.Enum):
    """
    What is asked of TLS.

    MAY: used when the host offers it and it works, without verification; else clear. It protects against those who only listen
    (RFC 7435). ENCRYPT: never clear, without verification. VERIFY: never clear, and the certificate must be the host's.
    """

    MAY = "may"
    ENCRYPT = "encrypt"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Smarthost:
    """
    The one host that takes all our mail.

    Shape:  `host` is a name or an IP address without brackets. On port 465 TLS begins with the connection.
    """

    host: str
    port: int = SUBMISSION_PORT
    login: Login | None = None
    tls: TLSPolicy = TLSPolicy.VERIFY

    @property
    def is_implicit_tls(self) -> bool:
        """Whether TLS begins with the connection; there is no clear way then, whatever the policy."""
        return self.port == SUBMISSIONS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleLimits:
    """
    Which sessions are kept for a next message (`relay.idle`).

    Shape:  `seconds` is how long one waits, 0 keeps none; a way is a host's address with what we ask of TLS. Hosts end a
            session by themselves after so many messages or so long; `mailings` and `age_seconds` are below what is usual.
    """

    seconds: float = 3.0
    sessions: int = 100
    sessions_per_way: int = 20
    mailings: int = 100
    age_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """
    How mail leaves.

    Shape:  `max_hosts` bounds the addresses tried in one attempt; `max_recipients` those of one transaction;
            `allow_private` connects to loopback and private addresses that the DNS names; `local_address` is where we connect
            from; `remembered_seconds` says for how long a host that could not be used is passed over, at first and at most.
    """

    port: int = SMTP_PORT
    smarthost: Smarthost | None = None
    tls: TLSPolicy = TLSPolicy.MAY
    connect_timeout_seconds: float = 30.0
    timeouts_seconds: Mapping[Phase, float] = field(default_factory=lambda: TIMEOUTS_SECONDS)
    max_hosts: int = 5
    max_recipients: int = 100  # RFC 5321 §4.5.3.1.8: every host takes so many
    allow_private: bool = False
    local_address: str | None = None
    idle: IdleLimits = IdleLimits()
    remembered_seconds: tuple[float, float] = (60.0, 1_800.0)
