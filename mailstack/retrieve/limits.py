"""Limits of POP3 sessions, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

LAST_WORD_SECONDS = 5.0
"""How long a client may take to read why we leave, and to end its TLS, when we are told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class POP3Limits:
    """
    What one session, and all of them, may use.

    Units:  octets and seconds, as the names say. `stalled_seconds` is how long a client may take to read what is in the output
            buffer (at most one chunk of 256 KiB and one reply): less than 900 octets a second is given up.
    """

    login_seconds: float = 120.0  # from the connection, handshake included, until logged in
    idle_seconds: float = 600.0  # RFC 1939 §3: at least 10 minutes
    stalled_seconds: float = 300.0
    failure_delay_seconds: float = 2.0  # before a failed login is answered
    failed_logins: int = 3  # in one session; then it is closed
    errors: int = 20  # bad commands in a session, as Dovecot allows
    errors_before_login: int = 5  # a browser or a port scanner makes more of them
    window_octets: int = 65_536  # unread commands at which reading from the transport pauses
    sessions: int = 2_000
    sessions_per_peer: int = 50
    sessions_per_network: int = 200
    sessions_per_minute: int = 1_200  # that one client begins

    def __post_init__(self) -> None:
        if self.idle_seconds < 600:
            raise ValueError("idle_seconds must be 600 or more (RFC 1939 §3)")
