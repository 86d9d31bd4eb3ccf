"""
XCLIENT and XFORWARD: what a proxy or a content filter in front of us says of the client for which it speaks.

Both are lists of attributes in xtext. XCLIENT puts the client in the place of its speaker, XFORWARD only names it for the log.
Who may say so is not decided here.

Source:  Postfix, XCLIENT_README and XFORWARD_README.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final

from mailstack.mail import reply as replies
from mailstack.mail.reply import Reply
from mailstack.wire import grammar

VALUE_CHARACTERS: Final = 255

_UNAVAILABLE: Final = frozenset(("[UNAVAILABLE]", "[TEMPUNAVAIL]"))
_ATTRIBUTE: Final = re.compile(rb"([A-Za-z]{1,16})=([!-<>-~]{1,1024})\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+\Z")
_WORD: Final = re.compile(r"[!-~]+\Z")
_PORT: Final = re.compile(r"[0-9]{1,5}\Z")
_IPV6: Final = "IPV6:"

_Parse = Callable[[str], str | None]


def _address(value: str) -> str | None:
    is_ipv6 = value[: len(_IPV6)].upper() == _IPV6
    text = value[len(_IPV6) :] if is_ipv6 else value
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if "%" in text or (address.version == 6) is not is_ipv6:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 client of a socket of both kinds
    return str(mapped or address)


def _port(value: str) -> str | None:
    return value if _PORT.match(value) and int(value) <= 65_535 else None


def _matches(pattern: re.Pattern[str]) -> _Parse:
    return lambda value: value if pattern.match(value) else None


def _one_of(*words: str) -> _Parse:
    return lambda value: value.upper() if value.upper() in words else None


def _login(value: str) -> str | None:
    return value if value.isprintable() and " " not in value else None


_SHARED: Final[Mapping[str, _Parse]] = {
    "NAME": _matches(_NAME),
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _one_of("SMTP", "ESMTP", "LMTP"),
    "HELO": _matches(_WORD),
}
XCLIENT: Final[Mapping[str, _Parse]] = {**_SHARED, "LOGIN": _login, "DESTADDR": _address, "DESTPORT": _port}
XFORWARD: Final[Mapping[str, _Parse]] = {**_SHARED, "IDENT": _matches(_WORD), "SOURCE": _one_of("LOCAL", "REMOTE")}


def parse_attributes(argument: bytes, known: Mapping[str, _Parse]) -> Mapping[str, str] | Reply:
    """
    Parse `NAME=value ADDR=value …`: names in upper case, and their values, decoded; what is unavailable is "".

    Shape:   an address is an IP address without a prefix.
    """
    attributes: dict[str, str] = {}
    for each in argument.split(b" "):
        if not each:
            continue
        found = _ATTRIBUTE.match(each)
        if found is None:
            return replies.BAD_ARGUMENTS
        name = found[1].decode("ascii").upper()
        value = _value(found[2], known[name]) if name in known else None
        if value is None or name in attributes:
            return replies.BAD_ARGUMENTS
        attributes[name] = value
    return attributes or replies.BAD_ARGUMENTS


def _value(encoded: bytes, parse: _Parse) -> str | None:
    decoded = grammar.decode_xtext(encoded)
    if decoded is None:
        return None
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if text.upper() in _UNAVAILABLE:
        return ""
    return parse(text) if len(text) <= VALUE_CHARACTERS else None
