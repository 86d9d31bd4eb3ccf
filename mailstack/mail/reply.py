"""
Replies of an SMTP or LMTP server, and the catalogue of those that we give.

A reply is what the peer may see: short, and without paths, module names or causes. The cause goes to the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mailstack.mail.status import EnhancedStatus

LINE_OCTETS: Final = 512  # RFC 5321 §4.5.3.1.5, with code and CRLF
_UNPRINTABLE: Final = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One SMTP reply: a code, one or more lines of text, and its enhanced status.

    Shape:  `code` 200..559; `enhanced` is None where RFC 2034 §4 wants none (greeting, EHLO, 3yz).
    """

    code: int
    lines: tuple[str, ...]
    enhanced: EnhancedStatus | None = None

    @property
    def text(self) -> str:
        """The lines in one."""
        return " ".join(self.lines)

    @property
    def is_success(self) -> bool:
        """2yz."""
        return 200 <= self.code < 300

    @property
    def is_temporary(self) -> bool:
        """4yz: the peer should try again."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz."""
        return 500 <= self.code < 600

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"


def reply(code: int, enhanced: str | None, *lines: str) -> Reply:
    """
    Make a reply from literal parts: `reply(550, "5.1.1", "No such user")`.

    Raises:  ValueError: the class digits of code and status differ.
    """
    status = None
    if enhanced is not None:
        status = EnhancedStatus.parse(enhanced)
        if status is None or status.kind != code // 100:
            raise ValueError(f"{code} does not go with {enhanced}")
    return Reply(code, lines, status)


@lru_cache(maxsize=256)  # nearly all are constants
def format_reply(value: Reply) -> bytes:
    """
    Write a reply as octets, each line within 512, whatever its text holds.

    Source:  RFC 5321 §4.2.1; RFC 2034 §4 (the status stands on every line).
    """
    prefix = f"{value.enhanced} " if value.enhanced else ""
    room = LINE_OCTETS - 6 - len(prefix)
    lines = [_UNPRINTABLE.sub("?", line)[:room] for line in value.lines] or ["OK"]
    last = len(lines) - 1
    return b"".join(
        f"{value.code}{' ' if number == last else '-'}{prefix}{line}\r\n".encode("ascii") for number, line in enumerate(lines)
    )


OK: Final = reply(250, "2.0.0", "OK")
SENDER_OK: Final = reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK: Final = reply(250, "2.1.5", "Recipient OK")
CLOSING: Final = reply(221, "2.0.0", "Closing connection")
START_CONTENT: Final = reply(354, None, "End data with <CR><LF>.<CR><LF>")
START_TLS: Final = reply(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED: Final = reply(235, "2.7.0", "Authentication succeeded")
CANNOT_VERIFY: Final = reply(252, "2.1.5", "Cannot VRFY user, but will accept the message and attempt delivery")

SHUTTING_DOWN: Final = reply(421, "4.3.2", "Shutting down, try again later")
TIMED_OUT: Final = reply(421, "4.4.2", "Timeout, closing connection")
TOO_MANY_ERRORS: Final = reply(421, "4.7.0", "Too many errors")
TOO_MANY_CONNECTIONS: Final = reply(421, "4.7.0", "Too many connections, try again later")
LOCAL_ERROR: Final = reply(451, "4.3.0", "Local error, try again later")
NO_SPACE: Final = reply(452, "4.3.1", "Insufficient system storage, try again later")
TOO_MANY_RECIPIENTS: Final = reply(452, "4.5.3", "Too many recipients")
AUTH_UNAVAILABLE: Final = reply(454, "4.7.0", "Temporary authentication failure")
TLS_UNAVAILABLE: Final = reply(454, "4.7.0", "TLS not available due to a temporary reason")

SYNTAX_ERROR: Final = reply(500, "5.5.2", "Syntax error")
UNKNOWN_COMMAND: Final = reply(500, "5.5.1", "Command not recognised")
LINE_TOO_LONG: Final = reply(500, "5.5.2", "Line too long")
BAD_ARGUMENTS: Final = reply(501, "5.5.4", "Syntax error in parameters or arguments")
HELD_TOO_LONG: Final = reply(501, "5.5.4", "May not be held for so long")
BAD_SENDER_ADDRESS: Final = reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT_ADDRESS: Final = reply(501, "5.1.3", "Bad recipient address syntax")
AUTH_CANCELLED: Final = reply(501, "5.7.0", "Authentication cancelled")
BAD_AUTH_RESPONSE: Final = reply(501, "5.5.2", "Cannot decode the response")
NOT_IMPLEMENTED: Final = reply(502, "5.5.1", "Command not implemented")
BAD_SEQUENCE: Final = reply(503, "5.5.1", "Bad sequence of commands")
EARLY_TALKER: Final = reply(554, "5.5.1", "You must wait for the greeting")
BINARY_BY_DATA: Final = reply(503, "5.5.1", "Bad sequence of commands; a BINARYMIME message comes by BDAT")
NO_RECIPIENTS: Final = reply(554, "5.5.1", "No valid recipients")
UNKNOWN_MECHANISM: Final = reply(504, "5.5.4", "Unrecognised authentication mechanism")
NO_SUCH_USER: Final = reply(550, "5.1.1", "No such user here")
NOT_WELCOME: Final = reply(554, "5.7.1", "No mail is taken from this address")
RELAYING_DENIED: Final = reply(550, "5.7.1", "Relaying denied")
AUTH_REQUIRED: Final = reply(530, "5.7.0", "Authentication required")
TLS_REQUIRED: Final = reply(530, "5.7.0", "Must issue a STARTTLS command first")
AUTH_FAILED: Final = reply(535, "5.7.8", "Authentication credentials invalid")
ENCRYPTION_REQUIRED: Final = reply(538, "5.7.11", "Encryption required for the requested authentication mechanism")
BARE_NEWLINE: Final = reply(550, "5.6.0", "Bare CR or LF in the message; lines must end with CRLF")
TOO_MANY_HOPS: Final = reply(554, "5.4.6", "Too many Received fields; the message loops")
WAS_DELIVERED: Final = reply(554, "5.4.6", "Mail loop: the message was delivered to this address before")
MESSAGE_TOO_BIG: Final = reply(552, "5.3.4", "Message size exceeds the limit")
UNKNOWN_PARAMETER: Final = reply(555, "5.5.4", "MAIL FROM or RCPT TO parameters not recognised or not implemented")
AUTHOR_NOT_OWNED: Final = reply(550, "5.7.1", "Neither From nor Sender belongs to the authenticated account")
TOO_MANY_FIELDS: Final = reply(554, "5.6.0", "Too many header fields")
HEADER_TOO_BIG: Final = reply(552, "5.3.4", "Header section exceeds the limit")
SENDER_NOT_OWNED: Final = reply(553, "5.7.1", "Sender address does not belong to the authenticated account")
TOO_LATE: Final = reply(550, "5.4.7", "The time by which it was to be delivered has passed")
NEEDS_DELIVERBY: Final = reply(550, "5.3.3", "DELIVERBY support required")
NEEDS_REQUIRETLS: Final = reply(550, "5.7.30", "REQUIRETLS support required")
NEEDS_SMTPUTF8: Final = reply(553, "5.6.7", "Address needs SMTPUTF8")
