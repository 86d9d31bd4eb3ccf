"""
Pausing: domains of which the operator wants nothing attempted, and what is told of them all the same. Pure.

What has failed for good is told also where nothing is attempted. That cannot be seen by the row of a recipient that is due, and
to load each of a paused domain for it, again and again, would be too much; so it is known here, until it has been told.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailstack.mail.envelope import Account, Recipient
from mailstack.spool.entry import OWN_WAY, Pending, WayOf, paused_as
from mailstack.spool.leases import Key


class Pausing:
    """
    Knows what is paused, and whose failures are to be told all the same.

    Shape:   `usual` names the way of a recipient as long as nothing is paused.
    """

    def __init__(self, usual: WayOf) -> None:
        self._usual = usual
        self._domains: set[str] = set()
        self._failed: dict[int, set[str]] = {}  # lanes, by entry

    @property
    def domains(self) -> frozenset[str]:
        """What is paused: domains, and ALL_DOMAINS."""
        return frozenset(self._domains)

    def pause(self, domains: Iterable[str]) -> None:
        """Pause domains."""
        self._domains.update(domains)

    def resume(self, domain: str) -> bool:
        """End the pause of a domain; say whether there was one."""
        if domain not in self._domains:
            return False
        self._domains.discard(domain)
        return True

    def way_of(self, recipient: Recipient) -> str | None:
        """
        Name the way of a recipient for the time being (a WayOf).

        Accounts of all domains share a lane, in which none could be paused; so those of a domain that is have another way.
        """
        way = self._usual(recipient)
        if way is None and self._domains and recipient.address.domain in self._domains:
            return OWN_WAY if isinstance(recipient.destination, Account) else None
        return way

    def is_paused(self, lane: str) -> bool:
        """Say whether nothing of a lane is to be attempted."""
        return bool(self._domains) and paused_as(lane, self._domains) is not None

    def wants(self, key: Key) -> bool:
        """Say whether something may be to be done for recipients of an entry in a lane."""
        number, lane = key
        return not self.is_paused(lane) or self.is_to_tell(number, lane)

    def of_these(self, lane: str, pending: dict[int, Pending]) -> dict[int, Pending]:
        """Return the recipients for whom something may be done: of a lane that is paused those whose failure is to be told."""
        if not self.is_paused(lane):
            return pending
        return {ordinal: each for ordinal, each in pending.items() if each.failure is not None}

    def tell(self, keys: Iterable[Key]) -> None:
        """Note failures that are to be told."""
        for number, lane in keys:
            self._failed.setdefault(number, set()).add(lane)

    def is_to_tell(self, number: int, lane: str) -> bool:
        """Say whether there is such a failure."""
        return lane in self._failed.get(number, ())

    def told(self, number: int, lane: str, *, is_finished: bool) -> None:
        """Note that the failures of a lane have been told; with `is_finished` nothing is left of the entry."""
        lanes = self._failed.get(number)
        if lanes is not None:
            lanes.discard(lane)
            if is_finished or not lanes:
                del self._failed[number]

    def forget(self, number: int) -> None:
        """Note that there is nothing of an entry any more."""
        self._failed.pop(number, None)
