"""
Names of files in a maildir.

    {seconds}.M{microseconds}E{entry}R{ordinal}.{host},S={octets},W={octets}:2,{flags}
    └────────────────── base ──────────────────┘

The base names the message for as long as it lives; everything behind it may change under us. `,S=` is the size of the file
and `,W=` the size with CRLF line ends, as Dovecot and Courier write them. We write files with CRLF, so ours have both and
equal.

The base of our own names is made of the delivery only (entry, ordinal, moment of acceptance, host): a delivery that is
repeated after a crash makes the same base again and finds what it did before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HOST_CHARACTERS: Final = 100  # of the host's name in ours: a file name has at most 255 octets (NAME_MAX)

_USUAL: Final = re.compile(r"([^,:]+)(?:,S=([0-9]{1,18}))?(?:,W=([0-9]{1,18}))?(?::2,(.*))?", re.DOTALL)
_SIZE: Final = re.compile(r",([SW])=([0-9]{1,18})(?=,|\Z)")
_OURS: Final = re.compile(r"[0-9]{1,12}\.M[0-9]{1,6}E[0-9a-z]{13}R[0-9]{1,6}\.[A-Za-z0-9._-]{1,100}(?=[,:]|\Z)")
_NOT_IN_HOST: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Name:
    """
    A file name, taken apart.

    Shape:  `octets` is `,S=`, `crlf_octets` is `,W=`, None where the name does not say; `flags` is what follows `:2,`.
    """

    base: str
    octets: int | None
    crlf_octets: int | None
    flags: str


def parse_name(name: str) -> Name:
    """
    Take a file name apart; any text has a meaning.

    Shape:   fields other than `,S=` and `,W=` stay in the base; of several equal fields the first counts.
    """
    usual = _USUAL.fullmatch(name)
    if usual:
        base, octets, crlf_octets, flags = usual.groups()
        return Name(base, int(octets) if octets else None, int(crlf_octets) if crlf_octets else None, flags or "")
    unique, _, info = name.partition(":")
    sizes: dict[str, int] = {}
    for field, digits in _SIZE.findall(unique):
        sizes.setdefault(field, int(digits))
    return Name(_SIZE.sub("", unique), sizes.get("S"), sizes.get("W"), info[2:] if info.startswith("2,") else "")


def delivery_name(entry: str, ordinal: int, accepted_at: float, host: str, octets: int) -> str:
    """
    Name the file of a delivery.

    Shape:   `entry` is `[0-9a-z]{13}`, `ordinal` the recipient's number in it; `accepted_at` in seconds since 1970;
             `octets` the whole file's, whose lines end with CRLF.
    """
    seconds, microseconds = divmod(int(accepted_at * 1_000_000), 1_000_000)
    place = _NOT_IN_HOST.sub("_", host)[:HOST_CHARACTERS] or "localhost"
    return f"{seconds}.M{microseconds}E{entry}R{ordinal}.{place},S={octets},W={octets}"


def delivery_key(name: str) -> str | None:
    """Return the part of one of our names that identifies the delivery (its base), or None for a name made by others."""
    ours = _OURS.match(name)
    return ours.group() if ours else None
