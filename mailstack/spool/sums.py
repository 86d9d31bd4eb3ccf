"""
Sums over what waits: for whom most of it is, from whom it came, why it waits, and for how long. A page at a time, as queries.

    by             one sum for each
    domain         lane: a domain, and the way there; "" for accounts
    sender         reverse-path; "<>" for notifications
    sender-domain  domain of that
    account        who was logged in; "" for nobody
    peer           IP address from which it came; "" for none
    reason         status and what the other side said last; "" when nothing was tried yet
    age            the first of AGES_SECONDS that is more; "" when none is

What is not known, since the record of an entry cannot be read, is "", too. Who is finished is not counted.
"""

from __future__ import annotations

import enum
import sqlite3
from dataclasses import dataclass, field
from typing import Final

from mailstack.spool.operations import Reads
from mailstack.spool.queries import SCAN_ENTRIES, Found, Select
from mailstack.spool.selection import Row, Selection

AGES_SECONDS: Final = (300, 900, 3_600, 14_400, 43_200, 86_400, 172_800, 259_200)
REASON_CHARACTERS: Final = 120
NULL_PATH: Final = "<>"


class By(enum.Enum):
    """What there is a sum for each of."""

    DOMAIN = "domain"
    SENDER = "sender"
    SENDER_DOMAIN = "sender-domain"
    ACCOUNT = "account"
    PEER = "peer"
    REASON = "reason"
    AGE = "age"


@dataclass(slots=True)
class Tally:
    """How many recipients stand how, of how many entries; `oldest` is when the first of these was accepted."""

    entries: int = 0
    octets: int = 0
    states: dict[str, int] = field(default_factory=dict)
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class SumsPage:
    """Sums over a page of entries; of these that are selected there are so many, and `to` is as of FoundPage."""

    groups: dict[str, Tally]
    entries: int
    octets: int
    corrupt: int
    to: int | None


@dataclass(frozen=True, slots=True)
class SumUp(Reads):
    """Sum up what is selected, of the entries after a number."""

    selection: Selection
    by: By
    after: int
    now: float

    def apply(self, connection: sqlite3.Connection) -> SumsPage:
        """Do it."""
        page = Select(self.selection, self.after, SCAN_ENTRIES).apply(connection)
        groups: dict[str, Tally] = {}
        for found in page.found:
            counted: set[str] = set()
            for row in found.rows:
                key = self._key(found, row)
                tally = groups.setdefault(key, Tally())
                shown = row.shown(is_corrupt=found.is_corrupt)
                tally.states[shown] = tally.states.get(shown, 0) + 1
                if key not in counted:
                    counted.add(key)
                    _count(tally, found)
        return SumsPage(
            groups,
            len(page.found),
            sum(found.octets for found in page.found),
            sum(found.is_corrupt for found in page.found),
            page.to,
        )

    def _key(self, found: Found, row: Row) -> str:
        match self.by:
            case By.DOMAIN:
                return row.lane
            case By.REASON:
                return f"{row.status or ''} {row.diagnostic or ''}".strip()[:REASON_CHARACTERS]
            case By.AGE:
                age = self.now - found.accepted_at
                return next((str(limit) for limit in AGES_SECONDS if age < limit), "")
        envelope = found.envelope
        if envelope is None:
            return ""
        match self.by:
            case By.ACCOUNT:
                return envelope.origin.account or ""
            case By.PEER:
                return envelope.origin.peer
        sender = envelope.reverse_path
        if sender is None:
            return NULL_PATH
        return sender.domain if self.by is By.SENDER_DOMAIN else str(sender)


def _count(tally: Tally, found: Found) -> None:
    tally.entries += 1
    tally.octets += found.octets
    if tally.oldest is None or found.accepted_at < tally.oldest:
        tally.oldest = found.accepted_at
