"""
Selection: which entries the operator means, and of them which recipients. Pure.

A selection comes from outside, as fields, and is parsed once. Everything in it must be so at once. What is not to be said is
left out: a field that is there and empty is refused, since whoever lost what he meant would mean all there is.
An entry is selected by what it is, and a recipient of it by whom it is for and how it stands. Who is finished never is.

    shown as     is                                            in the ledger
    new          not attempted yet                             waiting, no attempts
    delayed      to be attempted again                         waiting or warned
    unreported   failed, and the sender cannot be told yet     unreported
    held         kept by the operator                          any of these, with `held_at`
    corrupt      damaged, and set aside                        any of these, of a corrupt entry
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

from mailstack.mail.address import Address, AddressError, parse_domain
from mailstack.mail.envelope import Envelope, Origin
from mailstack.spool.identifiers import NAME_LENGTH, parse_name
from mailstack.spool.ledger import State

NAMES: Final = 500
"""The most entries that are named in one selection."""
CHARACTERS: Final = 400
"""The longest text in a selection."""

NEW, DELAYED, UNREPORTED, HELD, CORRUPT = "new", "delayed", "unreported", "held", "corrupt"
SELECTABLE: Final = (NEW, DELAYED, UNREPORTED, HELD, CORRUPT)
_OPEN: Final = frozenset((State.WAITING.value, State.WARNED.value, State.UNREPORTED.value))
_SLOW_SECONDS: Final = 86_400.0  # an entry has its number from when its content began to come
_NUMBERS_PER_SECOND: Final = 1_000_000 << 10  # see identifiers.py


class SelectionError(ValueError):
    """The fields are no selection; the message says why."""


_FIELDS: Final = frozenset(
    (
        "names",
        "sender",
        "account",
        "peer",
        "session",
        "recipient",
        "domain",
        "states",
        "reason",
        "accepted_after",
        "accepted_before",
        "octets_from",
        "octets_to",
    )
)


@dataclass(frozen=True, slots=True)
class AddressPattern:
    """Whom an address must be: `local@domain`, anybody of `@domain`, or, with neither, the null reverse-path."""

    local_part: str | None
    domain: str | None

    def fits(self, address: Address | None) -> bool:
        """Say whether it is the address; of a local-part the case does not matter, since an operator may not know it."""
        if self.domain is None:
            return address is None
        return (
            address is not None
            and address.domain == self.domain
            and (self.local_part is None or address.local_part.lower() == self.local_part.lower())
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A recipient as the database has it."""

    ordinal: int
    lane: str
    state: str
    attempts: int
    due_at: float | None
    status: str | None
    diagnostic: str | None
    remote_mta: str | None
    held_at: float | None
    via: str | None

    def shown(self, *, is_corrupt: bool) -> str:
        """Say how the recipient stands, in the words of the operator."""
        if self.state not in _OPEN:
            return self.state
        if is_corrupt:
            return CORRUPT
        if self.held_at is not None:
            return HELD
        if self.state == State.UNREPORTED.value:
            return UNREPORTED
        return DELAYED if self.attempts else NEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    What the operator means.

    Shape:   `numbers` are entries; times are in seconds since 1970, sizes in octets, both ends included; `reason` is part of
             the status or of what the other side said last, in any case of letters. `account` is who was logged in, `peer` a
             network from which it came, `session` what the log calls the session; "" and None say nothing.
    """

    numbers: tuple[int, ...] = ()
    sender: AddressPattern | None = None
    account: str = ""
    peer: IPv4Network | IPv6Network | None = None
    session: str = ""
    recipient: AddressPattern | None = None
    domain: str | None = None
    states: frozenset[str] = frozenset()
    reason: str = ""
    accepted_after: float | None = None
    accepted_before: float | None = None
    octets_from: int | None = None
    octets_to: int | None = None

    @property
    def first_number(self) -> int:
        """Say before which number nothing can be selected."""
        if self.accepted_after is None:
            return 0
        return max(0, int((self.accepted_after - _SLOW_SECONDS) * _NUMBERS_PER_SECOND))

    @property
    def last_number(self) -> int:
        """Say behind which number nothing can be selected."""
        if self.accepted_before is None:
            return (1 << 63) - 1
        return max(0, int((self.accepted_before + 1.0) * _NUMBERS_PER_SECOND))

    @property
    def hints(self) -> tuple[str, ...]:
        """Return texts that the record of an entry must contain (`record`), as a cheap look before it is read."""
        domains = [each.domain for each in (self.sender, self.recipient) if each is not None]
        return tuple(json.dumps(each) for each in (*domains, self.domain, self.account, self.session) if each)

    def takes(self, envelope: Envelope | None, accepted_at: float, octets: int) -> bool:
        """Say whether an entry is selected, so far as it is one; the envelope of one that cannot be read is None."""
        return (
            (self.sender is None or (envelope is not None and self.sender.fits(envelope.reverse_path)))
            and (not self._asks_for_origin or (envelope is not None and self._takes_origin(envelope.origin)))
            and (self.accepted_after is None or accepted_at >= self.accepted_after)
            and (self.accepted_before is None or accepted_at <= self.accepted_before)
            and (self.octets_from is None or octets >= self.octets_from)
            and (self.octets_to is None or octets <= self.octets_to)
        )

    @property
    def _asks_for_origin(self) -> bool:
        return bool(self.account or self.session or self.peer is not None)

    def _takes_origin(self, origin: Origin) -> bool:
        return (
            (not self.account or origin.account == self.account)
            and (not self.session or origin.session == self.session)
            and (self.peer is None or _is_in(origin.peer, self.peer))
        )

    def selected(self, envelope: Envelope | None, rows: Sequence[Row], *, is_corrupt: bool) -> list[Row]:
        """Return the recipients that are selected."""
        return [row for row in rows if self._takes_state(row, is_corrupt) and self._takes_recipient(envelope, row.ordinal)]

    def _takes_state(self, row: Row, is_corrupt: bool) -> bool:
        shown = row.shown(is_corrupt=is_corrupt)
        return (
            shown in SELECTABLE
            and (not self.states or shown in self.states)
            and (not self.reason or self.reason.lower() in f"{row.status or ''} {row.diagnostic or ''}".lower())
        )

    def _takes_recipient(self, envelope: Envelope | None, ordinal: int) -> bool:
        if self.domain is None and self.recipient is None:
            return True
        if envelope is None or not 0 <= ordinal < len(envelope.recipients):
            return False
        recipient = envelope.recipients[ordinal]
        return (self.domain is None or recipient.address.domain == self.domain) and (
            self.recipient is None or self.recipient.fits(recipient.address) or self.recipient.fits(recipient.original)
        )


def parse_selection(fields: object) -> Selection:
    """
    Read a selection from the fields of a request.

    Raises:  SelectionError.
    """
    if not isinstance(fields, dict):
        raise SelectionError("a selection is an object")
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise SelectionError(f"a selection has no {min(map(str, unknown))[:40]}")
    for key, value in fields.items():
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            raise SelectionError(f"{key} is empty, and selects nothing; leave it out for all that waits")
    named = fields.get("names", [])
    if not isinstance(named, list) or len(named) > NAMES:
        raise SelectionError(f"names are a list of at most {NAMES}")
    states = fields.get("states", [])
    if not isinstance(states, list) or not all(each in SELECTABLE for each in states):
        raise SelectionError(f"states are of {', '.join(SELECTABLE)}")
    return Selection(
        numbers=tuple(sorted({parse_entry_name(each) for each in named})),
        sender=_pattern(fields, "sender"),
        account=_text(fields, "account").lower(),  # as accounts are called
        peer=_network(text) if (text := _text(fields, "peer")) else None,
        session=_text(fields, "session"),
        recipient=_pattern(fields, "recipient"),
        domain=_domain(text) if (text := _text(fields, "domain")) else None,
        states=frozenset(states),
        reason=_text(fields, "reason"),
        accepted_after=_number(fields, "accepted_after"),
        accepted_before=_number(fields, "accepted_before"),
        octets_from=_whole(fields, "octets_from"),
        octets_to=_whole(fields, "octets_to"),
    )


def parse_entry_name(name: object) -> int:
    """
    Read the name of an entry.

    Raises:  SelectionError.
    """
    number = parse_name(name) if isinstance(name, str) and len(name) == NAME_LENGTH else None
    if number is None:
        raise SelectionError(f"{str(name)[:40]!r} is not the name of an entry: it has {NAME_LENGTH} letters and digits")
    return number


def parse_pattern(text: str) -> AddressPattern:
    """
    Read `local@domain`, `@domain` or `<>`.

    Raises:  SelectionError.
    """
    if text == "<>":
        return AddressPattern(None, None)
    local_part, at, domain = text.removeprefix("<").removesuffix(">").rpartition("@")
    if not at:
        raise SelectionError(f"{text[:80]!r} is no address: LOCAL@DOMAIN, @DOMAIN for all of a domain, or <>")
    if local_part.startswith('"') and local_part.endswith('"') and len(local_part) > 1:
        local_part = local_part[1:-1].replace("\\", "")
    return AddressPattern(local_part or None, _domain(domain))


def _network(text: str) -> IPv4Network | IPv6Network:
    """Read an address or a network, as the settings do; an address within a network stands for itself, not for that."""
    try:
        return ip_network(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise SelectionError(f"{text[:80]!r} is no IP address or network: 192.0.2.1, 192.0.2.0/24, 2001:db8::/32") from None


def _is_in(peer: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(peer) in network
    except ValueError:  # made here, or through a UNIX socket
        return False


def _domain(text: str) -> str:
    try:
        return parse_domain(text)
    except AddressError as error:
        raise SelectionError(f"{text[:80]!r}: {error}") from None


def _pattern(fields: dict[str, Any], key: str) -> AddressPattern | None:
    text = _text(fields, key)
    return parse_pattern(text) if text else None


def _text(fields: dict[str, Any], key: str) -> str:
    text = fields.get(key, "")
    if not isinstance(text, str) or len(text) > CHARACTERS:
        raise SelectionError(f"{key} is a text of at most {CHARACTERS} characters")
    return text


def _number(fields: dict[str, Any], key: str) -> float | None:
    number = fields.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1e10:
        raise SelectionError(f"{key} is a number of seconds since 1970")
    return float(number)


def _whole(fields: dict[str, Any], key: str) -> int | None:
    number = fields.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 1 << 50:
        raise SelectionError(f"{key} is a number of octets")
    return number
