"""
The grammar of SMTP commands: one named rule per rule of the RFCs, each of them linear.

Works on octets. A rule that is stricter or laxer than its RFC says why.
"""

from __future__ import annotations

import re
from typing import Final

# Control octets stand in no command: not CR, LF, NUL, ESC, nor TAB (RFC 5321 §4.1.1: SP only).
CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")

# verb [SP argument] (RFC 5321 §4.1.1), for a line without the spaces at its end, which some clients leave.
COMMAND: Final = re.compile(rb"([A-Za-z]{1,16})(?: ++(.++))?\Z", re.DOTALL)

# Path = "<" [A-d-l ":"] Mailbox ">" (RFC 5321 §4.1.2); what is inside is parsed by mail.address. Laxer: a space before "<".
# Quoted strings may hold ">" and SP. Possessive, so that nothing backtracks.
PATH: Final = re.compile(rb' *+<((?:[^<>" \\]|"(?:[^"\\]|\\.)*+")*+)>', re.DOTALL)

# A-d-l = At-domain *( "," At-domain ), to be ignored (RFC 5321 §3.6.1, appendix C)
SOURCE_ROUTE: Final = re.compile(rb"@[^,:@<>\"]++(?:,@[^,:@<>\"]++)*+:")

# esmtp-param = esmtp-keyword ["=" esmtp-value] (RFC 5321 §4.1.2); esmtp-value =/ UTF8-non-ascii (RFC 6531 §3.3)
ESMTP_PARAMETER: Final = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]{0,63})(?:=([!-<>-~\x80-\xff]{1,1024}))?\Z")

# What HELO, EHLO and LHLO say: RFC 5321 §4.1.1.1 wants a domain or an address literal, but §4.1.4 forbids to refuse a name only
# for what it says, and clients behind NAT send odd ones. So: printable, one word.
HELLO_NAME: Final = re.compile(rb"[!-~]{1,255}\Z")

# size-value = 1*20DIGIT (RFC 1870 §6)
SIZE_VALUE: Final = re.compile(rb"[0-9]{1,20}\Z")

# chunk-size [SP "LAST"] (RFC 3030 §2)
CHUNK: Final = re.compile(rb"([0-9]{1,15})(?: ++(LAST))?\Z", re.IGNORECASE)

# sasl-mech = 1*20mech-char (RFC 4422 §3.1)
SASL_MECHANISM: Final = re.compile(rb"[A-Za-z0-9_-]{1,20}\Z")

# xtext = *( xchar / hexchar ) (RFC 3461 §4)
_XTEXT: Final = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*+\Z")
_HEXCHAR: Final = re.compile(rb"\+([0-9A-F]{2})")


def decode_xtext(octets: bytes) -> bytes | None:
    """Decode xtext; None when it is not, or when it hides a control octet (RFC 3461 §4)."""
    if not _XTEXT.match(octets):
        return None
    decoded = _HEXCHAR.sub(lambda found: bytes([int(found[1], 16)]), octets)
    return None if CONTROL.search(decoded) else decoded


def encode_xtext(text: str) -> str:
    """Write printable ASCII text as xtext (RFC 3461 §4); what else it may hold becomes "?"."""
    return "".join(_XCHAR[ord(each)] if ord(each) < 128 else "?" for each in text)


_XCHAR: Final = tuple(
    chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}" if 32 <= octet <= 126 else "?"
    for octet in range(128)
)
