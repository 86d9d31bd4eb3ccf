"""
The operator's hands: what the operator does with recipients, as operations on their rows.

    act        with recipients that are            afterwards they are
    hold       waiting, warned, unreported         held: `held_at` set, `due_at` NULL
    release    held                                due now
               those of a corrupt entry            all of them due now, if it is whole; else corrupt as before, and why
    retry      waiting, warned, unreported         due now
    reroute    waiting or warned, to other domains due now (or held as before), in a lane and with a `via` of their own
               by another way
    bounce     waiting or warned                   unreported and due now: the runner tells the sender, as of any failure
    delete     any of these                        deleted; an entry with nothing else left is removed, with its content
               those of a corrupt entry            removed with the entry, also those that were not meant

What its sender wants to go later (FUTURERELEASE) is due then instead of now, unless the operator has named the entry: whoever
moves the mail of a domain does not mean to send a letter before its day.

All others are left as they are. Whoever applies these has claimed the recipients from the runner, and nothing else writes their
rows meanwhile. An act can be done twice: the second time there is nothing left to be done.
"""

from __future__ import annotations

import enum
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Account, Recipient, Remote
from mailstack.mail.status import EnhancedStatus
from mailstack.spool.entry import lane_of
from mailstack.spool.ledger import DIAGNOSTIC_CHARACTERS, is_told
from mailstack.spool.loading import RELEASED, take_back, unfinished
from mailstack.spool.operations import ROW_OCTETS, is_open, leave_trace
from mailstack.spool.queries import Unreported, count_paused
from mailstack.spool.record import RecordError, parse_envelope
from mailstack.spool.selection import Row

BOUNCED: Final = EnhancedStatus(5, 0, 0)


class Act(enum.Enum):
    """What can be done."""

    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    REROUTE = "reroute"
    BOUNCE = "bounce"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What the operator wants to be done.

    Shape:   `text` is what the sender of a bounce is told, or the `via` of a reroute ("" takes it back); `by` is who wants it;
             `is_named`: the entries were named, one by one, and not found by what they are.
    """

    act: Act
    text: str = ""
    by: str = ""
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """
    What was done with one entry.

    Shape:   `ordinals` are its recipients for whom something is different now; with `is_removed` nothing is left of it;
             `refused` says why nothing was done, where that has a reason; `later` are so many who are due only when the sender
             wants it; of what was bounced `untold` are those of whom the sender wants to hear nothing, and `senderless` those
             that have no sender, so that the postmaster is told if anybody is.
    """

    number: int
    ordinals: tuple[int, ...]
    is_removed: bool = False
    has_file: bool = False
    refused: str = ""
    later: int = 0
    untold: int = 0
    senderless: int = 0


def concerns(order: Order, row: Row, recipient: Recipient | None) -> bool:
    """Say whether an order is about a recipient whose state is right: a reroute is about those who go elsewhere until now."""
    if order.act is not Act.REROUTE:
        return True
    return recipient is not None and isinstance(recipient.destination, Remote) and row.via != (order.text or None)


class _Writes:
    creates: ClassVar[int | None] = None
    frees: ClassVar[bool] = True  # a row is changed in place, or removed


@dataclass(frozen=True, slots=True)
class Obey(_Writes):
    """
    Do what was ordered with recipients of entries; return what was done, of those with whom anything was, or was refused.
    And what is due by that, and waits all the same, by what of `paused` it waits for.

    Shape:   `folder` is that of the contents, at which only what was set aside is looked for.
    """

    order: Order
    targets: tuple[tuple[int, tuple[int, ...]], ...]
    now: float
    folder: Path
    paused: frozenset[str] = frozenset()

    @property
    def octets(self) -> int:
        """Rows."""
        return ROW_OCTETS * len(self.targets)

    def apply(self, connection: sqlite3.Connection) -> tuple[list[Done], Counter[str]]:
        """Do it."""
        done = [self._one(connection, number, ordinals) for number, ordinals in self.targets]
        asks = bool(self.paused) and self.order.act in _MAKE_DUE
        paused = count_paused(connection, self.targets, self.paused) if asks else Counter[str]()
        return [each for each in done if each is not None], paused

    def _one(self, connection: sqlite3.Connection, number: int, ordinals: tuple[int, ...]) -> Done | None:
        entry = connection.execute("SELECT state, content IS NULL FROM entry WHERE number = ?", (number,)).fetchone()
        if entry is None:
            return None
        is_corrupt, has_file = entry[0] == "corrupt", bool(entry[1])
        act = self.order.act
        if is_corrupt:
            if act is Act.RELEASE:
                return self._take_back(connection, number)
            if act is not Act.DELETE:
                return None
            ordinals = unfinished(connection, number) or ordinals
            _remove(connection, number)
            return Done(number, ordinals, True, has_file)
        due_at = self._due_at(connection, number)
        changed = tuple(ordinal for ordinal in ordinals if self._change(connection, (number, ordinal), due_at))
        if act is Act.RETRY and due_at > self.now:
            return Done(number, (), later=len(ordinals))
        if not changed:
            return None
        if act is Act.DELETE and not is_open(connection, number):
            _remove(connection, number)
            return Done(number, changed, True, has_file)
        return self._done(connection, number, changed, due_at)

    def _due_at(self, connection: sqlite3.Connection, number: int) -> float:
        """Say when what is made due is due: now, or when its sender wants it to go."""
        if self.order.is_named or self.order.act not in _MAKE_DUE:
            return self.now
        (record,) = connection.execute("SELECT envelope FROM entry WHERE number = ?", (number,)).fetchone()
        if isinstance(record, str) and any(each in record for each in _GO_AT_ONCE):
            return self.now  # a cheap look, since nearly all do
        try:
            return max(self.now, parse_envelope(record).due_at)
        except RecordError:
            return self.now  # it is set aside when it is loaded

    def _take_back(self, connection: sqlite3.Connection, number: int) -> Done:
        """Release all of an entry that was set aside: nobody knows any more which of its recipients were held."""
        try:
            due_at = self._due_at(connection, number)
            ordinals = take_back(connection, number, self.folder, due_at)
        except (ValueError, TypeError, OSError) as error:
            return Done(number, (), refused=f"is damaged as before: {error}")
        return self._done(connection, number, ordinals, due_at)

    def _done(self, connection: sqlite3.Connection, number: int, changed: tuple[int, ...], due_at: float) -> Done:
        for ordinal in changed:
            leave_trace(connection, (number, ordinal, self.now), _PAST[self.order.act], self._words)
        untold, senderless = self._untold(connection, number, changed) if self.order.act is Act.BOUNCE else (0, 0)
        later = len(changed) if due_at > self.now else 0
        return Done(number, changed, later=later, untold=untold, senderless=senderless)

    def _untold(self, connection: sqlite3.Connection, number: int, changed: tuple[int, ...]) -> tuple[int, int]:
        """Count the recipients of whose failure the sender wants to hear nothing, and the others if there is no sender."""
        (record,) = connection.execute("SELECT envelope FROM entry WHERE number = ?", (number,)).fetchone()
        try:
            envelope = parse_envelope(record)
        except RecordError:
            return 0, 0  # it is set aside when it is loaded
        failures = (
            Disposition(ordinal=each, action=Action.FAILED, status=BOUNCED, diagnostic="")
            for each in changed
            if 0 <= each < len(envelope.recipients)
        )
        told = sum(is_told(envelope, each) for each in failures)
        return len(changed) - told, told if envelope.reverse_path is None else 0

    @property
    def _words(self) -> str:
        order = self.order
        via = f"via {order.text}" if order.text else "to where it was to go at first"
        what = {Act.REROUTE: via, Act.BOUNCE: order.text}.get(order.act, "")
        return f"by {order.by}: {what}" if what else f"by {order.by}"

    def _change(self, connection: sqlite3.Connection, key: tuple[int, int], due_at: float) -> bool:
        now = self.now
        values: list[object]
        match self.order.act:
            case Act.HOLD:
                change, values = "due_at = NULL, held_at = ? WHERE due_at IS NOT NULL", [now]
            case Act.RELEASE:
                change, values = "due_at = ?, held_at = NULL WHERE held_at IS NOT NULL", [due_at]
            case Act.RETRY:
                change, values = "due_at = ? WHERE due_at > ?", [due_at, due_at]
            case Act.REROUTE:
                return self._reroute(connection, key, due_at)
            case Act.BOUNCE:
                text = self.order.text[:DIAGNOSTIC_CHARACTERS]
                return _update(
                    connection,
                    "state = 'unreported', status = ?, diagnostic = ?, remote_mta = NULL, due_at = ?, held_at = NULL"
                    f" WHERE {_TO_BE_TRIED}",
                    [str(BOUNCED), text, now],
                    key,
                )
            case Act.DELETE:
                change, values = f"state = 'deleted', due_at = NULL, held_at = NULL WHERE {_OPEN}", []
        return _update(connection, change, values, key)

    def _reroute(self, connection: sqlite3.Connection, key: tuple[int, int], due_at: float) -> bool:
        via, (number, ordinal) = self.order.text or None, key
        (record,) = connection.execute("SELECT envelope FROM entry WHERE number = ?", (number,)).fetchone()
        try:
            recipients = parse_envelope(record).recipients
        except RecordError:
            return False  # it is set aside when it is loaded
        if not 0 <= ordinal < len(recipients) or isinstance(recipients[ordinal].destination, Account):
            return False
        lane = lane_of(replace(recipients[ordinal], via=via))
        return _update(
            connection,
            f"via = ?, lane = ?, due_at = iif(due_at IS NULL, NULL, ?) WHERE {_TO_BE_TRIED} AND via IS NOT ?",
            [via, lane, due_at, via],
            key,
        )


_OPEN: Final = "(due_at IS NOT NULL OR held_at IS NOT NULL)"
_TO_BE_TRIED: Final = f"{_OPEN} AND state != 'unreported'"
_MAKE_DUE: Final = frozenset((Act.RELEASE, Act.RETRY, Act.REROUTE))
_GO_AT_ONCE: Final = ('"requests":null', '"held_until":null')  # no text in a record has these: its quotes would be escaped
_PAST: Final = {
    Act.HOLD: "held",
    Act.RELEASE: RELEASED,
    Act.RETRY: "retried",
    Act.REROUTE: "rerouted",
    Act.BOUNCE: "bounced",
    Act.DELETE: "deleted",
}


def _update(connection: sqlite3.Connection, change: str, values: list[object], key: tuple[int, int]) -> bool:
    statement = f"UPDATE recipient SET {change} AND entry = ? AND ordinal = ?"  # noqa: S608 (nothing in it is a value)
    return connection.execute(statement, (*values, *key)).rowcount > 0


def _remove(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("DELETE FROM entry WHERE number = ?", (number,))
    connection.execute("DELETE FROM recipient WHERE entry = ?", (number,))
    connection.execute("DELETE FROM attempt WHERE entry = ?", (number,))


@dataclass(frozen=True, slots=True)
class Pause(_Writes):
    """
    Note that nothing of a domain is to be attempted, or that it may be again.

    Shape:   returns whether that is new, and, of what is paused, entries and their lanes with failures still to be told.
    """

    domain: str
    since: float | None
    octets: ClassVar[int] = ROW_OCTETS

    def apply(self, connection: sqlite3.Connection) -> tuple[bool, list[tuple[int, str]]]:
        """Do it."""
        if self.since is None:
            return connection.execute("DELETE FROM paused WHERE lane = ?", (self.domain,)).rowcount > 0, []
        insert = "INSERT OR IGNORE INTO paused (lane, since) VALUES (?, ?)"
        is_new = connection.execute(insert, (self.domain, self.since)).rowcount > 0
        return is_new, Unreported(self.domain).apply(connection)
