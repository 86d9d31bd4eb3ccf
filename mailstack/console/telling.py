"""
Telling: what waits, as the plain values that go over the control socket; docs/queue.md says what each field is.

Times are in seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from mailstack.mail.envelope import Account, Envelope, Recipient
from mailstack.spool.entry import ALL_DOMAINS, waits_as
from mailstack.spool.hands import Act
from mailstack.spool.identifiers import format_number
from mailstack.spool.operations import PUT_OFF
from mailstack.spool.queries import Found, Trace
from mailstack.spool.selection import HELD, NEW, UNREPORTED, Row
from mailstack.spool.sums import NULL_PATH

Fields = dict[str, Any]


def entry_fields(found: Found) -> Fields:
    """Tell of an entry."""
    envelope = found.envelope
    return {
        "id": format_number(found.number),
        "accepted_at": found.accepted_at,
        "expires_at": found.expires_at,
        "octets": found.octets,
        "sender": str(envelope.reverse_path or NULL_PATH) if envelope is not None else None,
        "is_corrupt": found.is_corrupt,
        "recipient_count": found.recipients,
    }


def origin_fields(envelope: Envelope | None) -> Fields:
    """Tell where a message came from, and what its sender asked for."""
    if envelope is None:
        return {"origin": None}
    origin, requests = envelope.origin, envelope.requests
    return {
        "origin": {
            "service": origin.service.value,
            "peer": origin.peer,
            "hello": origin.hello,
            "tls": origin.tls,
            "account": origin.account,
            "session": origin.session,
        },
        "body": envelope.body.value,
        "smtputf8": envelope.smtputf8,
        "requires_tls": requests.requires_tls,
        "envelope_id": requests.envelope_id,
        "returns": requests.returns.value if requests.returns is not None else None,
    }


def recipient_fields(found: Found, row: Row, *, place: str, orders: Sequence[Act], paused: Container[str]) -> Fields:
    """
    Tell of a recipient.

    Shape:   `place` is where it is ("attempt", "memory", or "" on disk), `orders` is what is to be done when its attempt has
             ended, `paused` are domains.
    """
    recipient, state = recipient_of(found, row), row.shown(is_corrupt=found.is_corrupt)
    is_account = recipient is not None and isinstance(recipient.destination, Account)
    return {
        "ordinal": row.ordinal,
        "address": str(recipient.address) if recipient is not None else None,
        "original": str(recipient.original) if recipient is not None else None,
        "is_local": is_account,
        "via": row.via,
        "state": state,
        "attempts": row.attempts,
        "next_attempt_at": row.due_at,
        "is_paused": row.due_at is not None and state != UNREPORTED and waits_as(row.lane, recipient, paused) is not None,
        "held_since": row.held_at,
        "place": place,
        "orders": [each.value for each in orders],
        "status": row.status,
        "said": row.diagnostic,
        "by": row.remote_mta,
    }


def request_fields(found: Found, row: Row) -> Fields:
    """Tell of what the sender wants to be told of a recipient."""
    recipient = recipient_of(found, row)
    notify = recipient.notify if recipient is not None else None
    return {"notify": None if notify is None else sorted(each.value for each in notify)}


def why_fields(found: Found, row: Row, *, place: str, paused: Container[str], now: float) -> Fields:
    """Tell what a recipient waits for, in words."""
    return {"why": _why(found, row, place, paused, now)}


def _why(found: Found, row: Row, place: str, paused: Container[str], now: float) -> str:
    state = row.shown(is_corrupt=found.is_corrupt)
    if found.is_corrupt:
        return "it is damaged and set aside; when it is whole again it can be released, else deleted"
    if row.due_at is None and row.held_at is None:
        return "nothing is to be done"
    if state == HELD:
        return "held by the operator, until it is released"
    if place == "attempt":
        return "an attempt runs now"
    if state != UNREPORTED and (name := waits_as(row.lane, recipient_of(found, row), paused)) is not None:
        what = "all that goes elsewhere" if name == ALL_DOMAINS else name
        return f"{what} is paused by the operator, until it is resumed"
    if place == "memory":
        return "it waits for a free connection"
    if state == UNREPORTED:
        return "it has failed for good, and the sender is to be told"
    if (row.due_at or 0.0) <= now:
        return "it is due, and its turn comes"
    if (row.diagnostic or "").startswith(PUT_OFF):
        return "its destination is down, and is asked again then at the latest; it goes sooner if that answers"
    if state == NEW:
        return "the sender wants it to go then"
    return f"attempt {row.attempts} did not succeed; each wait is longer than the last"


def tried_fields(trace: Trace) -> Fields:
    """Tell what was done once for a recipient."""
    return {
        "at": trace.at,
        "action": trace.action,
        "status": trace.status,
        "by": trace.remote_mta,
        "address": trace.address,
        "tls": trace.tls,
        "said": trace.diagnostic,
    }


def recipient_of(found: Found, row: Row) -> Recipient | None:
    """Return the recipient of a row; None: the record of its entry cannot be read, or does not have it."""
    known = found.envelope.recipients if found.envelope is not None else ()
    return known[row.ordinal] if 0 <= row.ordinal < len(known) else None
