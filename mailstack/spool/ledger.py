"""
The ledger: what became of each recipient. Pure; the rows are written by `operations.Record`.

    state        due_at   meaning                                                    next
    waiting      set      to be attempted when due                                   any of these
    warned       set      the same, and the sender has been told of the delay        any of these
    unreported   set      failed for good, but its DSN could not be queued yet       unreported, failed
    delivered    NULL     a courier put it into a maildir                            -
    relayed      NULL     another host took responsibility                           -
    failed       NULL     failed, and its DSN is in the spool (same transaction) or there is nobody to tell
    discarded    NULL     dropped as the operator wants it, and nobody is told               -
    deleted      NULL     the operator wanted it gone, and nobody is told                  -

What is waiting, warned or unreported may be held by the operator: then `held_at` is set and `due_at` NULL, until it is
released, which makes it due. The operator also makes it due, unreported (a bounce), or deleted (`hands`).

An entry is finished, and its rows are removed in the same transaction, when no recipient of it has a `due_at` or a `held_at`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Final

from mailstack.mail.disposition import Action, Disposition, Standing, delayed
from mailstack.mail.envelope import Envelope
from mailstack.mail.reply import TOO_LATE
from mailstack.mail.requests import Notify
from mailstack.mail.status import EnhancedStatus

EXPIRED: Final = EnhancedStatus(4, 4, 7)  # RFC 3463 §3.5, delivery time expired
DIAGNOSTIC_CHARACTERS: Final = 1_000


class State(enum.Enum):
    """The states of a recipient on disk."""

    WAITING = "waiting"
    WARNED = "warned"
    UNREPORTED = "unreported"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    FAILED = "failed"
    DISCARDED = "discarded"
    DELETED = "deleted"


_FINAL: Final = {
    Action.DELIVERED: State.DELIVERED,
    Action.RELAYED: State.RELAYED,
    Action.FAILED: State.FAILED,
    Action.DISCARDED: State.DISCARDED,
}


@dataclass(frozen=True, slots=True)
class Change:
    """The new state of one recipient; `is_held`: it is not due, but waits for the operator to release it."""

    state: State
    attempts: int
    due_at: float | None
    disposition: Disposition
    is_held: bool = False


def complete(dispositions: Iterable[Disposition], ordinals: Iterable[int]) -> dict[int, Disposition]:
    """Return exactly one disposition for each ordinal: the first that was given and is an outcome, or DELAYED."""
    given: dict[int, Disposition] = {}
    for each in dispositions:
        if each.action is Action.DELAYED or each.action in _FINAL:
            given.setdefault(each.ordinal, each)
    return {
        ordinal: given.get(ordinal) or delayed(ordinal, "No outcome is known", cause="the courier said nothing about it")
        for ordinal in ordinals
    }


def expanded(ordinal: int) -> Disposition:
    """Make what is told of an alias that led to several (RFC 3464 §2.3.3)."""
    return Disposition(
        ordinal=ordinal, action=Action.EXPANDED, status=EnhancedStatus(2, 0, 0), diagnostic="The address stands for several"
    )


def shown_by(outcomes: Iterable[Disposition]) -> Disposition | None:
    """
    Return the outcome that tells what an attempt has shown of its destination; None: nothing was learned.

    That it is down or crowded is shown by a delay only: the others who wait for it have that outcome, too.
    """
    found: Disposition | None = None
    for each in outcomes:
        if each.standing is Standing.UP or each.action in (Action.RELAYED, Action.DELIVERED):
            return each if each.standing is Standing.UP else replace(each, standing=Standing.UP)
        is_delayed = each.standing is not None and each.action is Action.DELAYED
        if is_delayed and (found is None or each.standing is Standing.CROWDED):
            found = each
    return found


def too_late(ordinal: int) -> Disposition:
    """Make the outcome for a recipient to whom nothing may be delivered any more (RFC 2852 §4)."""
    return Disposition(ordinal=ordinal, action=Action.FAILED, status=TOO_LATE.enhanced or EXPIRED, diagnostic=TOO_LATE.text)


def expire(disposition: Disposition, *, now: float, expires_at: float) -> Disposition:
    """
    Turn a delay into a failure when the time is up. Looks only at an outcome, so each entry gets an attempt after a long stop.
    What the operator holds waits for the operator, for as long as that takes.

    Source:  RFC 5321 §4.5.4.1; RFC 3463 §3.5.
    """
    if disposition.action is not Action.DELAYED or disposition.is_held or now < expires_at:
        return disposition
    return replace(
        disposition,
        action=Action.FAILED,
        status=EXPIRED,
        diagnostic=f"Delivery time expired; the last attempt said: {disposition.status} {disposition.diagnostic}",
        cause=f"expired. {disposition.cause}",
    )


def is_told(envelope: Envelope, disposition: Disposition) -> bool:
    """
    Say whether the sender is to be told of the end of a recipient, by us.

    Source:  RFC 3461 §4.1, §5.2.2, §6.2; RFC 2852 §4 for what is handed on with a deadline.
    """
    notify = envelope.recipients[disposition.ordinal].notify
    if disposition.action is Action.DISCARDED or (notify is not None and Notify.NEVER in notify):
        return False
    if disposition.action is Action.FAILED:
        return notify is None or Notify.FAILURE in notify
    if disposition.action is Action.RELAYED:
        by = envelope.requests.deliver_by
        if by is not None and (by.traces or "DELIVERBY" not in disposition.honours):
            return True
        if "DSN" in disposition.honours:
            return False
    return disposition.action.is_final and notify is not None and Notify.SUCCESS in notify


def is_warned(envelope: Envelope, disposition: Disposition, *, now: float, warning_seconds: float) -> bool:
    """
    Say whether the sender is to be told of a delay now, if that has not been done.

    Shape:   `warning_seconds` after it was due for the first time; 0: never, but for a deadline that the sender has set.
    Source:  RFC 3461 §4.1; RFC 2852 §4 (mode N).
    """
    if disposition.action is not Action.DELAYED:
        return False
    notify, by = envelope.recipients[disposition.ordinal].notify, envelope.requests.deliver_by
    if notify is not None and Notify.DELAY not in notify:
        return False
    is_late = bool(warning_seconds) and now >= envelope.due_at + warning_seconds
    return is_late or (by is not None and not by.returns and now >= by.deadline)


def changes(
    outcomes: Mapping[int, Disposition],
    attempts: Mapping[int, int],
    *,
    retry_at: float,
    report_is_settled: bool,
    warned: Set[int] = frozenset(),
) -> tuple[Change, ...]:
    """
    Enter the outcomes of an attempt.

    Shape:   `attempts` are those made by now, per ordinal; failures are final only when `report_is_settled`; of the delay of
             those in `warned` the sender knows.
    """
    entered = []
    for ordinal, disposition in outcomes.items():
        if disposition.action is Action.DELAYED:
            state = State.WARNED if ordinal in warned else State.WAITING
            change = Change(state, attempts[ordinal], retry_at, disposition, is_held=disposition.is_held)
        elif disposition.action is Action.FAILED and not report_is_settled:
            change = Change(State.UNREPORTED, attempts[ordinal], retry_at, disposition)
        else:
            change = Change(_FINAL[disposition.action], attempts[ordinal], None, disposition)
        entered.append(change)
    return tuple(entered)
