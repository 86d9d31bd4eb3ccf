"""
The parameters of MAIL and RCPT: one row of a table for each, with the extension that announces it and what it may say.

A parameter counts only where its extension was announced; everywhere else it is unknown (RFC 5321 §4.1.1.11).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mailstack.mail import reply as replies
from mailstack.mail.envelope import BodyType
from mailstack.mail.reply import Reply
from mailstack.mail.requests import Notify, OriginalRecipient, Return, utf8_xtext
from mailstack.wire import grammar

ENVELOPE_ID_OCTETS: Final = 100  # RFC 3461 §4.4
ORIGINAL_RECIPIENT_OCTETS: Final = 500  # RFC 3461 §4.2

_BODY: Final = {kind.value: kind for kind in BodyType}
_RETURN: Final = {each.value: each for each in Return}
_NOTIFY: Final = {each.value: each for each in Notify}

_BY: Final = re.compile(r"([+-]?[0-9]{1,9});([RN])(T?)\Z", re.IGNORECASE)  # RFC 2852 §4
_SECONDS: Final = re.compile(r"[1-9][0-9]{0,8}\Z")  # RFC 4865 §4.1
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)\Z"
)  # RFC 3339, as RFC 4865 §4.2 wants
_PRIORITY: Final = re.compile(r"(?:-?[1-9]|0)\Z")  # RFC 6710 §6
_ADDRESS_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}\Z")
_UNICODE_POINT: Final = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 §3
_UTF8_ADDRESS: Final = re.compile(r"(?:[!-\[\]-~]|\\x\{[0-9A-F]{2,6}\})*\Z")  # RFC 6533 §3: a backslash stands for nothing else
_PRINTABLE_UTF8: Final = re.compile(r"[!-\[\]-~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010fffd\\]*\Z")


@dataclass(frozen=True, slots=True)
class By:
    """BY: seconds from now, negative when they have passed; `returns` and `traces` as in DeliverBy."""

    seconds: int
    returns: bool
    traces: bool


@dataclass(frozen=True, slots=True)
class _Parameter:
    """
    A row.

    Shape:  `extension` is the keyword of EHLO that announces it; `parse` makes fields of the event of a value, or None. With
            `may_be_utf8` it gets values that are not ASCII, too.
    """

    extension: str
    parse: Callable[[str], Mapping[str, Any] | None]
    may_be_utf8: bool = False


def _flag(field: str) -> Callable[[str], Mapping[str, Any] | None]:
    return lambda value: None if value else {field: True}


def _choice(field: str, choices: Mapping[str, Any]) -> Callable[[str], Mapping[str, Any] | None]:
    def parse(value: str) -> Mapping[str, Any] | None:
        chosen = choices.get(value.upper())
        return None if chosen is None else {field: chosen}

    return parse


def _size(value: str) -> Mapping[str, Any] | None:
    return {"size_octets": int(value)} if grammar.SIZE_VALUE.match(value.encode("ascii")) else None


def _auth(value: str) -> Mapping[str, Any] | None:
    # Nobody is trusted to vouch for a third party, so what it says is checked and left alone (RFC 4954 §5).
    return {} if value == "<>" or grammar.decode_xtext(value.encode("ascii")) else None


def _envelope_id(value: str) -> Mapping[str, Any] | None:
    decoded = _xtext(value) if value and len(value) <= ENVELOPE_ID_OCTETS else None
    return {"envelope_id": decoded} if decoded else None


def _by(value: str) -> Mapping[str, Any] | None:
    found = _BY.match(value)
    if found is None:
        return None
    seconds, returns = int(found[1]), found[2].upper() == "R"
    if returns and seconds <= 0:  # RFC 2852 §4: only mode N may have passed
        return None
    return {"by": By(seconds, returns, bool(found[3]))}


def _hold_for(value: str) -> Mapping[str, Any] | None:
    return {"hold_seconds": int(value)} if _SECONDS.match(value) else None


def _hold_until(value: str) -> Mapping[str, Any] | None:
    if not _MOMENT.match(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return {"hold_until": moment.timestamp()}


def _priority(value: str) -> Mapping[str, Any] | None:
    return {"priority": int(value)} if _PRIORITY.match(value) else None


def _notify(value: str) -> Mapping[str, Any] | None:
    words = value.upper().split(",")
    wanted = {_NOTIFY.get(word) for word in words}
    if None in wanted or len(wanted) != len(words) or (Notify.NEVER in wanted and len(wanted) > 1):
        return None
    return {"notify": frozenset(wanted)}


def _original_recipient(value: str) -> Mapping[str, Any] | None:
    kind, found, encoded = value.partition(";")
    if not found or not _ADDRESS_TYPE.match(kind) or not encoded or len(value.encode()) > ORIGINAL_RECIPIENT_OCTETS:
        return None
    if not encoded.isascii():  # RFC 6533 §3: utf-8-addr-unitext; each character that is not ASCII means what its escape means
        if kind.lower() != "utf-8":
            return None
        encoded = "".join(each if each.isascii() else utf8_xtext(each) for each in encoded)
    address = _xtext(encoded)
    if address is None or not address:
        return None
    if kind.lower() == "utf-8":
        if not _UTF8_ADDRESS.match(address):
            return None
        try:
            address = _UNICODE_POINT.sub(lambda point: chr(int(point[1], 16)), address)
        except (ValueError, OverflowError):
            return None
        if not _PRINTABLE_UTF8.match(address):
            return None
    return {"original_recipient": OriginalRecipient(kind.lower(), address)}


def _xtext(value: str) -> str | None:
    """Decode xtext that must be printable ASCII."""
    decoded = grammar.decode_xtext(value.encode("ascii"))
    return decoded.decode("ascii") if decoded is not None and decoded.isascii() else None


_OF_MAIL: Final[Mapping[str, _Parameter]] = {
    "SIZE": _Parameter("SIZE", _size),  # RFC 1870 §6
    "BODY": _Parameter("8BITMIME", _choice("body", _BODY)),  # RFC 6152 §3, RFC 3030 §3
    "SMTPUTF8": _Parameter("SMTPUTF8", _flag("smtputf8")),  # RFC 6531 §3.4
    "AUTH": _Parameter("AUTH", _auth),  # RFC 4954 §5
    "RET": _Parameter("DSN", _choice("returns", _RETURN)),  # RFC 3461 §4.3
    "ENVID": _Parameter("DSN", _envelope_id),  # RFC 3461 §4.4
    "REQUIRETLS": _Parameter("REQUIRETLS", _flag("requires_tls")),  # RFC 8689 §2
    "BY": _Parameter("DELIVERBY", _by),  # RFC 2852 §4
    "HOLDFOR": _Parameter("FUTURERELEASE", _hold_for),  # RFC 4865 §4.1
    "HOLDUNTIL": _Parameter("FUTURERELEASE", _hold_until),  # RFC 4865 §4.2
    "MT-PRIORITY": _Parameter("MT-PRIORITY", _priority),  # RFC 6710 §6
}
_OF_RCPT: Final[Mapping[str, _Parameter]] = {
    "NOTIFY": _Parameter("DSN", _notify),  # RFC 3461 §4.1
    "ORCPT": _Parameter("DSN", _original_recipient, may_be_utf8=True),  # RFC 3461 §4.2; RFC 6533 §3
}


def split_parameters(rest: bytes, *, is_utf8: bool = False) -> dict[str, str] | Reply:
    """
    Split what follows a path: keywords in upper case, and their values; none may come twice (RFC 5321 §4.1.2).

    Shape:  values are ASCII, unless `is_utf8` (RFC 6531 §3.3).
    """
    parameters: dict[str, str] = {}
    for each in rest.split(b" "):
        if not each:
            continue
        found = grammar.ESMTP_PARAMETER.match(each)
        if found is None:
            return replies.BAD_ARGUMENTS
        keyword = found[1].decode("ascii").upper()
        if keyword in parameters:
            return replies.BAD_ARGUMENTS
        try:
            parameters[keyword] = (found[2] or b"").decode("utf-8" if is_utf8 else "ascii")
        except UnicodeDecodeError:
            return replies.BAD_ARGUMENTS
    return parameters


def mail_fields(parameters: Mapping[str, str], announced: Set[str]) -> dict[str, Any] | Reply:
    """Make fields of a Mail event."""
    if "HOLDFOR" in parameters and "HOLDUNTIL" in parameters:  # RFC 4865 §4
        return replies.BAD_ARGUMENTS
    fields = _fields(_OF_MAIL, parameters, announced)
    if isinstance(fields, dict) and fields.get("body") is BodyType.BINARY_MIME and "BINARYMIME" not in announced:
        return replies.BAD_ARGUMENTS  # a value that another extension has added to BODY
    return fields


def rcpt_fields(parameters: Mapping[str, str], announced: Set[str]) -> dict[str, Any] | Reply:
    """Make fields of a Rcpt event."""
    return _fields(_OF_RCPT, parameters, announced)


def _fields(rows: Mapping[str, _Parameter], parameters: Mapping[str, str], announced: Set[str]) -> dict[str, Any] | Reply:
    made: dict[str, Any] = {}
    for keyword, value in parameters.items():
        row = rows.get(keyword)
        if row is None or row.extension not in announced:
            return replies.UNKNOWN_PARAMETER
        fields = row.parse(value) if value.isascii() or row.may_be_utf8 else None
        if fields is None:
            return replies.BAD_ARGUMENTS
        made.update(fields)
    return made
