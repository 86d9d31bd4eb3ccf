"""
MTA-STS: what a domain says in the DNS and by HTTPS about TLS with its mail hosts. Pure.

Shape:   of the record only its id matters: when it changes, there is a new policy.
Source:  RFC 8461 §3.1 (the record), §3.2 (the policy), §4.1 (which hosts match).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mailstack.mail.address import AddressError, parse_domain
from mailstack.mail.tls_results import TLSFailure

POLICY_OCTETS: Final = 65_536
MAX_AGE_SECONDS: Final = 31_557_600
MAX_PATTERNS: Final = 200

_VERSION: Final = re.compile(rb"v=STSv1[ \t]*;")
_RECORD_FIELD: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([\x21-\x3a\x3c\x3e-\x7e]+)")
_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}")
_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*(.*?)[ \t]*")
_MAX_AGE: Final = re.compile(r"[0-9]{1,10}")


class Mode(enum.Enum):
    """What is done about a host that does not keep to the policy (RFC 8461 §5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class PolicyError(ValueError):
    """A text is no policy; the message says why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """
    A policy.

    Shape:  `hosts` are names, or `*.` and a name, which stands for one more label in front of it.
    Units:  `max_age_seconds` counts from when it was fetched.
    """

    mode: Mode
    hosts: tuple[str, ...]
    max_age_seconds: int

    def matches(self, host: str) -> bool:
        """Say whether the name of an MX, in lower case, is one of the policy's (RFC 8461 §4.1)."""
        return host in self.hosts or f"*.{host.partition('.')[2]}" in self.hosts

    def lines(self) -> tuple[str, ...]:
        """Return it as text, as reports of TLS show it."""
        hosts = [f"mx: {host}" for host in self.hosts]
        return "version: STSv1", f"mode: {self.mode.value}", *hosts, f"max_age: {self.max_age_seconds}"


@dataclass(frozen=True, slots=True)
class Standing:
    """
    What is known of a domain's policy now.

    Shape:  no `policy`: it has none, or none could be had; `flaw` says why one that is announced could not be had, and
            `is_unknown` that nobody could say whether one is.
    """

    policy: Policy | None = None
    flaw: TLSFailure | None = None
    cause: str = ""
    is_unknown: bool = False


def parse_record(texts: Sequence[bytes]) -> str | None:
    """
    Return the id of the one MTA-STS record among the TXT records of `_mta-sts.DOMAIN`.

    Shape:  None: there is none, or there are several, or it is malformed; the domain has no MTA-STS then.
    """
    records = [each for each in texts if _VERSION.match(each)]
    if len(records) != 1 or not records[0].isascii():
        return None
    fields: dict[str, str] = {}
    for part in records[0].decode("ascii").split(";")[1:]:
        text = part.strip(" \t")
        if not text:
            continue
        if (found := _RECORD_FIELD.fullmatch(text)) is None:
            return None
        fields.setdefault(found.group(1), found.group(2))
    name = fields.get("id", "")
    return name if _ID.fullmatch(name) else None


def parse_policy(octets: bytes) -> Policy:
    """
    Read a policy as it was fetched.

    Raises:  PolicyError.
    """
    if len(octets) > POLICY_OCTETS:
        raise PolicyError("it is too long")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyError("it is not UTF-8") from None
    fields: dict[str, str] = {}
    hosts: list[str] = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise PolicyError("a line is not a name, a colon and a value")
        name, value = found.groups()
        if name == "mx":
            hosts.append(_pattern(value))
        else:
            fields.setdefault(name, value)  # RFC 8461 §3.2: of several that may be there once the first counts
    return _policy(fields, tuple(hosts))


def _policy(fields: dict[str, str], hosts: tuple[str, ...]) -> Policy:
    if fields.get("version") != "STSv1":
        raise PolicyError("its version is not STSv1")
    try:
        mode = Mode(fields.get("mode", ""))
    except ValueError:
        raise PolicyError('its mode is not "enforce", "testing" or "none"') from None
    if not _MAX_AGE.fullmatch(fields.get("max_age", "")):
        raise PolicyError("its max_age is no number")
    if len(hosts) > MAX_PATTERNS:
        raise PolicyError("it names too many hosts")
    if not hosts and mode is not Mode.NONE:
        raise PolicyError("it names no host")
    return Policy(mode, hosts, min(int(fields["max_age"]), MAX_AGE_SECONDS))


def _pattern(text: str) -> str:
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        domain = parse_domain(name.removesuffix("."))
    except AddressError as error:
        raise PolicyError(f"an mx is no name: {error}") from None
    if domain.startswith("["):
        raise PolicyError("an mx is an address")
    return wildcard + domain
