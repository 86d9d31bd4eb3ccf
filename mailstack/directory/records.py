"""
Records of the directory, and the form of their names.

An account's name is its address in lower case, of an alphabet from which no path can be made that leads out of the mail folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from mailstack.mail.address import Address, AddressError, parse_address, parse_domain

ANY: Final = "*"
"""The local-part of an alias for every address of a domain that is nothing else."""

_LOCAL_PART: Final = re.compile(r"[a-z0-9_+=-]+(?:\.[a-z0-9_+=-]+)*")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


class DirectoryError(Exception):
    """A change of the directory was refused; the message tells the operator what, why and what to do."""


class DirectoryUnavailable(Exception):  # noqa: N818 (it is a state, and a temporary one, rather than an error of anybody's)
    """The directory cannot be read now; whoever asked must answer "temporary"."""


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """
    An account.

    Shape:  `name` is its address in lower case; `password` is an encoded Argon2 hash; `created_at` in seconds since 1970, UTC;
            `scram` is the same password's keys for SCRAM (`mail.scram`), or None when it was set before there were any.
            An account that is not `enabled` still gets its mail but nobody can log in as it or send under its name.
    """

    name: str
    password: str
    enabled: bool
    created_at: float
    scram: str | None = field(default=None, repr=False)


ACCOUNTS: Final = "SELECT name, password, enabled, created_at, scram FROM accounts"
"""Reads accounts, in rows for `account_of`."""


def account_of(row: tuple[str, str, int, float, str | None]) -> AccountRecord:
    """Return the account that a row of the file says."""
    name, password, enabled, created_at, scram = row
    return AccountRecord(name, password, bool(enabled), created_at, scram)


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """An alias: an address in lower case, or "*@domain", and where it leads, in order."""

    name: str
    targets: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """A domain whose mail is delivered here."""

    name: str
    created_at: float
    accounts: int = 0
    aliases: int = 0


def domain_name(text: str) -> str:
    """
    Parse the name of a domain of ours: ASCII, at least one label, no address literal.

    Raises:  DirectoryError.
    """
    try:
        name = parse_domain(text)
    except AddressError as error:
        raise DirectoryError(f"{text!r} is not a domain name: {error}.") from None
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise DirectoryError(f"{text!r} is not a domain name of letters, digits, hyphens and dots.")
    return name


def account_name(text: str) -> str:
    """
    Parse the name of an account.

    Shape:   `[a-z0-9._+=-]+@domain`; no dot at either end of the local-part and no two together, so that neither "." nor ".."
             nor a hidden file nor a slash can come of it.
    Raises:  DirectoryError.
    """
    address = _address(text)
    local_part = _in_lower_case(address.local_part)
    if not _LOCAL_PART.fullmatch(local_part):
        raise DirectoryError(
            f"{text!r} cannot be the name of an account: before the @ only a-z, 0-9, and . _ + = - are allowed. "
            "Make an alias for the unusual address instead."
        )
    return f"{local_part}@{domain_name(address.domain)}"


def alias_name(text: str) -> str:
    """
    Parse the address of an alias, or "*@domain".

    Raises:  DirectoryError.
    """
    address = _address(text)
    domain_name(address.domain)
    return key_of(address)


def target(text: str) -> Address:
    """
    Parse an address to which an alias leads; its domain may be any.

    Raises:  DirectoryError.
    """
    return _address(text)


def key_of(address: Address) -> str:
    """Return the form in which addresses are compared: everything in lower case (RFC 5321 §2.3.11 leaves that to us)."""
    return str(Address(_in_lower_case(address.local_part), address.domain))


def base_of(address: Address, delimiter: str) -> Address | None:
    """Return the address without its subaddress (RFC 5233), or None when it has none."""
    local_part, found, _ = address.local_part.partition(delimiter) if delimiter else (address.local_part, "", "")
    return Address(local_part, address.domain) if found and local_part else None


def _in_lower_case(local_part: str) -> str:
    # Of ASCII only: str.lower() would make a plain "k" of the Kelvin sign, and so one account of two addresses.
    return local_part.encode().lower().decode()


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise DirectoryError(f"{text!r} is not an address such as alice@example.org: {error}.") from None
