"""
Expansion: the recipients for whom the mail to an address is meant.

A local address is looked up in this order, and the first that is found stands:

    1. the address itself, an account or an alias
    2. the same without its subaddress, `user+tag` as `user`
    3. the catch-all of the domain, `*`
    4. for the postmaster, who must exist (RFC 5321 §4.5.1): the fallback of the installation

An alias leads to addresses, which are looked up likewise. Each address is visited once, so that a circle ends; targets that
do not exist are passed over while others remain.

The operator may have said where the mail of an address goes (`transport`). One that is an error is refused, and is passed over
as a target. One of ours that the directory does not know may then be accepted all the same, and goes there. No entry makes a
domain ours: that is the directory's to say, or a line about where mail goes would open the relay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from mailstack.mail.address import Address
from mailstack.mail.envelope import Account, Recipient, Remote
from mailstack.mail.reply import NO_SUCH_USER, reply
from mailstack.mail.verdict import Refuse
from mailstack.route.transport import Error, TransportMap

MAX_DEPTH: Final = 10
MAX_RECIPIENTS: Final = 1_000  # Postfix's virtual_alias_expansion_limit
POSTMASTER: Final = "postmaster"
CATCH_ALL: Final = "*"

LOOPS: Final = reply(554, "5.4.6", "Mail for this address loops")
TOO_MUCH: Final = reply(451, "4.3.5", "Mail for this address cannot be routed at the moment")


class Directory(Protocol):
    """Who exists."""

    async def is_local_domain(self, domain: str) -> bool:
        """Say whether mail for the domain is delivered here."""

    async def resolve(self, address: Address) -> Account | tuple[Address, ...] | None:
        """Look up exactly this address, in letters of any case: an account, the targets of an alias, or nothing."""


_Key = tuple[str, str]


@dataclass(slots=True)
class _Expansion:
    """
    What one expansion has seen so far.

    Shape:  `waiting` is a stack of addresses, each with the aliases that led to it.
    """

    original: Address
    waiting: list[tuple[Address, tuple[_Key, ...]]] = field(default_factory=list)
    seen: set[_Key] = field(default_factory=set)
    found: dict[Account | Address, Recipient] = field(default_factory=dict)
    has_circle: bool = False
    refusal: Refuse | None = None

    def add(self, address: Address, destination: Account | Remote) -> None:
        """Note a recipient; an account only once."""
        key = destination if isinstance(destination, Account) else address
        self.found.setdefault(key, Recipient(address=address, original=self.original, destination=destination))

    def visit_later(self, targets: Iterable[Address], trail: tuple[_Key, ...]) -> None:
        """Put targets on the stack, to be visited in their order, but for those that would lead in a circle."""
        for target in reversed(tuple(targets)):
            if _key(target) in trail:
                self.has_circle = True
            else:
                self.waiting.append((target, trail))


def _key(address: Address) -> _Key:
    return address.local_part.lower(), address.domain


class Expander:
    """
    Says for whom the mail to a forward-path is meant, or why it is refused.

    Shape:   `delimiter` separates a subaddress, "" for none; `max_depth` is how many aliases may follow each other;
             `postmaster` is where the postmaster's mail goes if the directory does not say, None for nowhere; `transports` may
             be changed at any time.
    Raises:  what the directory raises.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        delimiter: str = "+",
        max_depth: int = MAX_DEPTH,
        max_recipients: int = MAX_RECIPIENTS,
        postmaster: Address | None = None,
        transports: TransportMap | None = None,
    ) -> None:
        self.transports = transports or TransportMap()
        self._directory = directory
        self._delimiter = delimiter
        self._max_depth = max_depth
        self._max_recipients = max_recipients
        self._postmaster = postmaster

    async def route(self, forward_path: Address) -> tuple[Recipient, ...] | Refuse:
        """
        Expand a forward-path.

        Shape:  at least one recipient; each account once. A recipient's address keeps its subaddress.
        """
        expansion = _Expansion(forward_path)
        for start in self._starts(forward_path):
            expansion.waiting.append((start, ()))
            while expansion.waiting:
                refusal = await self._visit(expansion, *expansion.waiting.pop())
                if refusal is not None:
                    return refusal
            if expansion.found:
                return tuple(expansion.found.values())
        if expansion.has_circle:
            return Refuse(LOOPS, f"aliases lead from {forward_path} in a circle")
        return expansion.refusal or Refuse(NO_SUCH_USER)

    def _starts(self, forward_path: Address) -> tuple[Address, ...]:
        """Say where to begin, and where to begin again if that leads nowhere: an alias of the postmaster may be broken."""
        if self._is_postmaster(forward_path) and self._postmaster is not None:
            return forward_path, self._postmaster
        return (forward_path,)

    async def _visit(self, expansion: _Expansion, address: Address, trail: tuple[_Key, ...]) -> Refuse | None:
        """Look up one address: a recipient, or further addresses to visit, or nothing."""
        key = _key(address)
        if key in expansion.seen:
            return None
        expansion.seen.add(key)
        # An operator can mend what is too much, so the mail waits at its sender (RFC 3463 §3.4, X.3.5).
        if len(trail) > self._max_depth:
            return Refuse(TOO_MUCH, f"more than {self._max_depth} aliases follow each other from {expansion.original}")
        if len(expansion.seen) > 2 * self._max_recipients:
            return Refuse(TOO_MUCH, f"aliases lead from {expansion.original} to too many addresses")
        is_elsewhere = await self._is_elsewhere(address)
        transport = self.transports.of(address, is_ours=not is_elsewhere)
        if isinstance(transport, Error):
            expansion.refusal = expansion.refusal or Refuse(transport.reply, f"the transport of {address}")
        elif is_elsewhere:
            expansion.add(address, Remote(address.domain))
        else:
            found = await self._look_up(address)
            if isinstance(found, Account):
                expansion.add(address, found)
            elif not found and self.transports.is_taken(address):
                expansion.add(address, Remote(address.domain))
            else:
                expansion.visit_later(found, (*trail, key))
        if len(expansion.found) > self._max_recipients:
            return Refuse(TOO_MUCH, f"{expansion.original} expands to more than {self._max_recipients} recipients")
        return None

    async def _is_elsewhere(self, address: Address) -> bool:
        """Say whether a domain is not ours; an address literal never is, be it of our own host (it would be a way to relay)."""
        return bool(address.domain) and (address.is_literal or not await self._directory.is_local_domain(address.domain))

    async def _look_up(self, address: Address) -> Account | tuple[Address, ...]:
        """Look up a local address in the order of the table above; nothing is no targets."""
        if address.domain:
            for candidate in self._candidates(address):
                found = await self._directory.resolve(candidate)
                if found is not None:
                    return found
        if self._is_postmaster(address) and self._postmaster is not None:
            return (self._postmaster,)
        return ()

    def _candidates(self, address: Address) -> Iterator[Address]:
        yield address
        base = self._base(address)
        if base != address:
            yield base
        yield Address(CATCH_ALL, address.domain)

    def _base(self, address: Address) -> Address:
        """Return the address without its subaddress."""
        user = address.local_part.partition(self._delimiter)[0] if self._delimiter else address.local_part
        return Address(user, address.domain) if user else address

    def _is_postmaster(self, address: Address) -> bool:
        return self._base(address).local_part.lower() == POSTMASTER
