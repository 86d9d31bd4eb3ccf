"""
Limits: sizes and times, each with its source. A core reads the sizes, its shell the times.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

COMMAND_LINE_OCTETS: Final = 2_048  # RFC 5321 §4.5.3.1.4 says 512 and extensions add to it; long addresses with parameters
SASL_OCTETS: Final = 12_288  # RFC 4954 §4, of one base64 line
RECIPIENTS: Final = 1_000  # RFC 5321 §4.5.3.1.8: at least 100
HOPS: Final = 50  # RFC 5321 §6.3: at least 100 suggested; Postfix allows 50
HOLD_SECONDS: Final = 2_592_000  # 30 days, of FUTURERELEASE
MESSAGE_OCTETS: Final = 52_428_800  # 50 MiB
FIELDS: Final = 2_000  # of a header section; what forwarders and filters add to a message is some 200
DISCARDED_OCTETS: Final = 131_072  # of one over-long command line, before the session ends
PIECE_OCTETS: Final = 64  # a piece of a content that is no longer may wait for others
GATHERED_OCTETS: Final = 4_096  # so many of them
LAST_WORD_SECONDS: Final = 5.0  # for a peer to read our 421 and to end its TLS, when we are told to stop
CLOSE_AT_TIMES_SIZE: Final = 2  # a content is read to its end up to so many times the limit


class BareNewline(enum.Enum):
    """What is done about a CR or LF that is not part of a CRLF in a content (RFC 5321 §2.3.8)."""

    REJECT = "reject"
    NORMALISE = "normalise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What one session may use.

    Units:  octets and seconds, as the names say. `command_seconds` is from the last reply to the end of the next command and is
            not reset by single octets. `content_seconds` is how long the first `content_octets_per_second` x content_seconds
            octets of a content may take, and so on: a minimum rate, measured over windows.
    Source: RFC 5321 §4.5.3.2 for the times.
    """

    message_octets: int = MESSAGE_OCTETS
    command_line_octets: int = COMMAND_LINE_OCTETS
    sasl_octets: int = SASL_OCTETS
    recipients: int = RECIPIENTS
    header_octets: int = 1_048_576
    header_fields: int = FIELDS
    hops: int = HOPS
    hold_seconds: int = HOLD_SECONDS
    binary: bool = True  # BINARYMIME is offered; what comes so is converted
    bare_newline: BareNewline | None = None  # None: normalise what users submit, since some clients err; reject all else

    errors: int = 20
    free_errors: int = 5  # further replies each wait error_delay_seconds, until a message is accepted
    error_delay_seconds: float = 1.0
    greeting_pause_seconds: float = 0.0  # who speaks meanwhile is refused; at the MX only
    authentication_failures: int = 3
    failure_delay_seconds: float = 1.0  # of the first, twice that of the second …
    idle_commands: int = 100  # NOOP, RSET, VRFY, HELP, EHLO … between two contents

    command_seconds: float = 300.0  # §4.5.3.2.7
    content_seconds: float = 180.0  # §4.5.3.2.5 says 3 minutes for a block
    content_octets_per_second: int = 100
    handshake_seconds: float = 30.0
    session_seconds: float = 14_400.0

    window_octets: int = 65_536  # unread octets at which the transport is paused
    sessions: int = 2_000
    sessions_per_peer: int = 50
    sessions_per_network: int = 200
    sessions_per_minute: int = 1_200  # that one peer begins
