"""
Answers of the domain name system, as a mail server needs to tell them apart (RFC 1035, RFC 2308).

The difference that matters is between "there is none" and "nobody could say": the first may fail a message, the second never.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

Record = TypeVar("Record", covariant=True)


@dataclass(frozen=True, slots=True)
class Found(Generic[Record]):
    """
    There are records, in the order of the answer; aliases (CNAME) were followed.

    Shape:  `authenticated` is set when a resolver that we trust has validated the answer (RFC 4035 §3.2.3), with the aliases
            that led to it; `canonical` is the name at their end, in lower case without its final dot.
    """

    records: tuple[Record, ...]
    authenticated: bool = False
    canonical: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Empty:
    """The name exists, and has no record of this type (NOERROR without answers)."""


@dataclass(frozen=True, slots=True)
class NoSuchDomain:
    """The name does not exist (NXDOMAIN)."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody could say: a timeout, SERVFAIL, or an answer that is none. To be asked again later. `cause` is for the log."""

    cause: str


Answer = Found[Record] | Empty | NoSuchDomain | Failed


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    One MX record.

    Shape:  `host` in lower case without its final dot; empty for the null MX (RFC 7505).
    """

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class TLSA:
    """
    One TLSA record: which certificate a service has (RFC 6698 §2.1).

    Shape:  the numbers are as they stand in the record, whatever they mean.
    """

    usage: int
    selector: int
    matching: int
    octets: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.octets.hex()}"
