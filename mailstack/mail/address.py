"""
Addresses of the envelope (RFC 5321 §4.1.2).

An `Address` is a local-part, unquoted, and a domain in lower case. Parsing is linear, refuses every control octet, and is
the only way by which text from outside becomes an `Address`. The null reverse-path `<>` is `None`.

A domain has one form, whatever its letters: that of the DNS, in which `bücher.example` is `xn--bcher-kva.example` (RFC 5890
§2.3.2.1). So it is found in the directory and by the resolver, looks like no other, and asks nothing of the next host.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from typing import Final

import idna

LOCAL_PART_OCTETS: Final = 64  # RFC 5321 §4.5.3.1.1
DOMAIN_OCTETS: Final = 255  # RFC 5321 §4.5.3.1.2
LABEL_OCTETS: Final = 63  # RFC 1035 §2.3.4

# RFC 5321 §4.1.2 with the UTF8-non-ascii of RFC 6531 §3.3. C1 controls (U+0080..U+009F) and the separators U+2028 and
# U+2029 are excluded, since terminals and str.splitlines() act on them.
_UTF8: Final = "\u00a0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010fffd"
_ATEXT: Final = rf"[A-Za-z0-9!#$%&'*+\-/=?^_`{{|}}~{_UTF8}]+"
DOT_STRING: Final = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_QUOTED_STRING: Final = re.compile(rf'"((?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*)"')
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")


class AddressError(ValueError):
    """The text is not an address; the message says why, in words that may be shown to the peer."""


@dataclass(frozen=True, slots=True)
class Address:
    """
    A mailbox: `local_part@domain`.

    Shape:  `local_part` without its quotes and backslashes; `domain` in lower-case ASCII, a name or an address literal in
            brackets, without a final dot; empty only for the bare `<postmaster>` of RFC 5321 §4.5.1.
    """

    local_part: str
    domain: str

    def __str__(self) -> str:
        local = self.local_part if DOT_STRING.fullmatch(self.local_part) else quote(self.local_part)
        return f"{local}@{self.domain}" if self.domain else local

    @property
    def is_ascii(self) -> bool:
        """Whether it can be sent to a host without SMTPUTF8."""
        return self.local_part.isascii() and self.domain.isascii()

    @property
    def is_literal(self) -> bool:
        """Whether the domain is an address literal, `[192.0.2.1]` (RFC 5321 §4.1.3)."""
        return self.domain.startswith("[")


def quote(local_part: str) -> str:
    """Write a local-part as a quoted string (RFC 5321 §4.1.2)."""
    return '"' + local_part.replace("\\", "\\\\").replace('"', '\\"') + '"'


def format_path(address: Address | None) -> str:
    """Write a reverse-path or forward-path with its brackets; `None` is the null reverse-path."""
    return f"<{address}>" if address is not None else "<>"


def parse_address(text: str) -> Address:
    """
    Parse `local-part@domain`.

    Raises:  AddressError: it is not one, or a part is longer than RFC 5321 §4.5.3.1 allows.
    Source:  RFC 5321 §4.1.2; RFC 6531 §3.3.
    """
    quoted = _QUOTED_STRING.match(text)
    if quoted:
        local_part, rest = re.sub(r"\\(.)", r"\1", quoted.group(1)), text[quoted.end() :]
    else:
        local_part, rest = text, ""
        at = text.find("@")
        if at >= 0:
            local_part, rest = text[:at], text[at:]
        if not DOT_STRING.fullmatch(local_part):
            raise AddressError("bad local-part")
    if not rest.startswith("@"):
        raise AddressError("no domain")
    if not local_part:
        raise AddressError("empty local-part")
    if len(local_part.encode()) > LOCAL_PART_OCTETS:
        raise AddressError("local-part too long")
    return Address(local_part, parse_domain(rest[1:]))


@functools.lru_cache(maxsize=1_024)  # of 255 octets each; nearly every address is of a domain that was seen before
def parse_domain(text: str) -> str:
    """
    Parse a domain name or an address literal into its one lower-case form.

    Raises:  AddressError: it is neither.
    Source:  RFC 5321 §4.1.2, §4.1.3; the final dot that some peers send is dropped. RFC 5891 §4.4, UTS #46 for names beyond
             ASCII.
    """
    if text.startswith("["):
        return _parse_literal(text)
    name = (text[:-1] if text.endswith(".") else text).lower()  # first, since some letters are longer then
    if not name or len(name.encode()) > DOMAIN_OCTETS:
        raise AddressError("bad domain")
    if not name.isascii():
        name = _in_ascii(name)
    for label in name.split("."):
        if not _LABEL.fullmatch(label) or len(label.encode()) > LABEL_OCTETS:
            raise AddressError("bad domain")
    if re.fullmatch(r"[0-9.]+", name):
        raise AddressError("an IP address must stand in brackets")
    return name


def _in_ascii(name: str) -> str:
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError:  # an idna.IDNAError is one
        raise AddressError("bad international domain") from None


def _parse_literal(text: str) -> str:
    inner = text[1:-1]
    if not text.endswith("]") or len(text) > 64 or not text.isascii() or "%" in text:  # a zone is of one machine only
        raise AddressError("bad address literal")
    try:
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:]).compressed}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise AddressError("bad address literal") from None
