"""
How mail is relayed, and to whom: values that whoever composes the house fills in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from mailstack.route.trust import TLSPolicy
from mailstack.wire.smtp_mailing import Login, Phase

__all__ = [
    "SMTP_PORT",
    "SUBMISSIONS_PORT",
    "SUBMISSION_PORT",
    "TIMEOUTS_SECONDS",
    "HostLogin",
    "IdleLimits",
    "NextHop",
    "RelaySettings",
    "SourceAddresses",
    "TLSPolicy",
    "smarthost",
]

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
        Phase.ENDED: 30.0,  # until the connection is closed: TLS waits for the host to agree to that
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """
    Whom mail is handed to, and how.

    Shape:  `host` is a name, an IP address without brackets, or the path of a UNIX socket; None: the mail exchanges of
            `domain`, or of the recipients' own. On port 465 of a host TLS begins with the connection. `allow_private` connects
            to loopback and private addresses that the DNS names. `is_lmtp`: it delivers, and speaks LMTP (RFC 2033).
    """

    host: str | None = None
    domain: str | None = None
    port: int = SMTP_PORT
    is_lmtp: bool = False
    login: Login | None = None
    tls: TLSPolicy = TLSPolicy.MAY
    allow_private: bool = False

    @property
    def is_implicit_tls(self) -> bool:
        """Whether TLS begins with the connection; there is no clear way then, whatever the policy."""
        return self.host is not None and self.port == SUBMISSIONS_PORT and not self.is_lmtp

    @property
    def is_named(self) -> bool:
        """Whether the operator has named it; then what the DNS says of it is no reason to fail anybody's mail."""
        return self.host is not None or self.domain is not None

    @property
    def is_socket(self) -> bool:
        """Whether it is reached through a file of this machine, where TLS is of no use."""
        return self.host is not None and self.host.startswith("/")


def smarthost(
    host: str, port: int = SUBMISSION_PORT, *, login: Login | None = None, tls: TLSPolicy = TLSPolicy.VERIFY
) -> NextHop:
    """Make the next hop of a host that takes mail for others."""
    return NextHop(host=host, port=port, login=login, tls=tls, allow_private=True)


@dataclass(frozen=True, slots=True)
class SourceAddresses:
    """
    Where we connect from.

    Shape:  at most one IP address of each family, for all mail and for that of a sender's domain. Without one of the family
            that is needed the system chooses.
    """

    usual: tuple[str, ...] = ()
    of_senders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to(self, address: str, sender_domain: str | None) -> str | None:
        """Return where to connect from to an IP address, or the path of a UNIX socket, with mail of such a sender."""
        if address.startswith("/"):
            return None
        own = self.of_senders.get(sender_domain, ()) if sender_domain is not None else ()
        return next((each for each in (*own, *self.usual) if (":" in each) == (":" in address)), None)


@dataclass(frozen=True, slots=True)
class HostLogin:
    """How to log in at a host, and what is asked of TLS there; a password never goes in the clear."""

    login: Login
    tls: TLSPolicy = TLSPolicy.VERIFY


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

    Shape:  `next_hop` is where all mail goes that has no transport of its own; `direct` is the way by MX; `logins` are those of
            hosts, by name or IP address. `max_hosts` bounds the addresses tried in the first attempt, `max_recipients` those of
            one transaction; when an address has not answered after `race_seconds` the next is tried beside it. `chunking`:
            contents go by BDAT where that is offered; `tls_levels` are what is asked of TLS with the hosts of certain domains,
            and with certain hosts (`route.trust`); `remembered_seconds` says for how long a host that could not be used is
            passed over, at first and at most.
    """

    next_hop: NextHop = NextHop()
    direct: NextHop = NextHop()
    logins: Mapping[str, HostLogin] = field(default_factory=dict)
    connect_timeout_seconds: float = 30.0
    timeouts_seconds: Mapping[Phase, float] = field(default_factory=lambda: TIMEOUTS_SECONDS)
    max_hosts: int = 5
    max_recipients: int = 100  # RFC 5321 §4.5.3.1.8: every host takes so many
    race_seconds: float = 0.25  # RFC 8305 §5
    sources: SourceAddresses = field(default_factory=SourceAddresses)
    chunking: bool = True
    tls_levels: Mapping[str, TLSPolicy] = field(default_factory=dict)
    idle: IdleLimits = IdleLimits()
    remembered_seconds: tuple[float, float] = (60.0, 1_800.0)
