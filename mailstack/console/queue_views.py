"""
How the queue is shown: times, sizes, tables and the text of one message. Pure, but for the width of the terminal.

What others said is shown on one line, without what could move a cursor. On a terminal a table is drawn; elsewhere it is columns
of text, as long as they are, for other programs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from mailstack.console.asking import date_of
from mailstack.console.sums import recipients
from mailstack.spool.entry import domain_of, is_own, parts_of_lane, paused_as

if TYPE_CHECKING:
    from mailstack.console.queue_sums import Sums

SHOWN_RECIPIENTS: Final = 3
"""So many of each message in a list."""
Fields = Mapping[str, Any]
_UNITS: Final = ((604_800, "w"), (86_400, "d"), (3_600, "h"), (60, "min"))
_OCTETS: Final = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k"))
CELL: Final = 120
"""So many characters of what a host said on a terminal; `show` has all of it."""
HERE: Final = "(accounts here)"


def safe(text: object) -> str:
    """Return text on one line without control characters."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def duration(seconds: float) -> str:
    """Write a duration in one unit: `3 h`."""
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def size(octets: int) -> str:
    """Write a size in one unit: `12 k`."""
    for unit, name in _OCTETS:
        if octets >= unit:
            return f"{octets / unit:.1f} {name}"
    return str(octets)


def count(number: int, word: str) -> str:
    """Write a number of things."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def when(recipient: Fields, now: float) -> str:
    """Say when the next attempt is due."""
    if recipient["place"] == "attempt":
        return "runs"
    due_at = recipient["next_attempt_at"]
    if due_at is None:
        return "-"
    if recipient["is_paused"]:
        return "paused"
    return f"in {duration(due_at - now)}" if due_at > now + 1 else "now"


def reason(recipient: Fields) -> str:
    """Say what the other side said last."""
    return safe(" ".join(each for each in (recipient["status"], recipient["said"]) if each))


def list_rows(entries: Sequence[Fields], now: float) -> Iterator[list[str]]:
    """Yield the rows of a list: one for each of the first recipients of a message."""
    for entry in entries:
        about = [entry["id"], duration(now - entry["accepted_at"]), size(entry["octets"]), safe(entry["sender"] or "?")]
        for number, recipient in enumerate(entry["recipients"][:SHOWN_RECIPIENTS]):
            head = about if number == 0 else [""] * len(about)
            to = safe(recipient["address"] or "?")
            yield [*head, to, recipient["state"], when(recipient, now), reason(recipient)]
        more = len(entry["selected"]) - SHOWN_RECIPIENTS
        if more > 0:
            yield ["", "", "", "", f"and {more} more", "", "", ""]


LIST_COLUMNS: Final = ("ID", "AGE", "SIZE", "SENDER", "RECIPIENT", "STATE", "NEXT", "REASON")


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    if sys.stdout.isatty():
        _draw(columns, rows)
        return
    widths = [max(len(line[number]) for line in (columns, *rows)) for number in range(len(columns))]
    for line in (columns, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, no_wrap=column == "ID", overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(cell if len(cell) <= CELL else f"{cell[:CELL]}…") for cell in row)
        )  # Text: nothing in it is markup
    Console().print(table)


def entry_lines(entry: Fields, now: float) -> Iterator[str]:
    """Yield what is known of a message."""
    yield f"{entry['id']}  {count(entry['octets'], 'octet')}, {count(entry['recipient_count'], 'recipient')}"
    yield f"  from      {safe(entry['sender'] or 'its record cannot be read')}"
    if entry.get("subject"):
        yield f"  subject   {safe(entry['subject'])}"
    if entry.get("message_id"):
        yield f"  msg-id    {safe(entry['message_id'])}"
    yield f"  accepted  {date_of(entry['accepted_at'])}, {duration(now - entry['accepted_at'])} ago{_by_whom(entry)}"
    yield f"  given up  {date_of(entry['expires_at'])}, when an attempt after that does not succeed"
    if entry["is_corrupt"]:
        yield "  corrupt   it is damaged and was set aside, and the log says why; when it is whole again it can be released"
    if entry.get("requires_tls"):
        yield "  only      by verified TLS, as its sender wants"
    asked = [f"{name}={safe(entry[key])}" for name, key in (("ENVID", "envelope_id"), ("RET", "returns")) if entry.get(key)]
    if asked:
        yield f"  asked     {' '.join(asked)}"


def _by_whom(entry: Fields) -> str:
    origin = entry.get("origin")
    if not origin:
        return ""
    words = [f", by {origin['service']}"]
    if origin["peer"]:
        words.append(f"from {origin['peer']}")
    if origin["hello"]:
        words.append(f"({origin['hello']})")
    if origin["account"]:
        words.append(f"as {origin['account']}")
    if origin["session"]:
        words.append(f"in session {origin['session']}")
    words.append(f"with {origin['tls']}" if origin["tls"] else "without TLS" if origin["peer"] else "")
    return safe(" ".join(each for each in words if each))


def recipient_lines(recipient: Fields, now: float) -> Iterator[str]:
    """Yield what is known of a recipient of it: how it stands, what comes next and why, and what was tried."""
    yield ""
    address, original = safe(recipient["address"] or "?"), safe(recipient["original"] or "?")
    for_whom = f" (for {original})" if original != address else ""
    yield f"{address}{for_whom}: {recipient['state']}, {count(recipient['attempts'], 'attempt')}"
    if recipient["via"]:
        yield f"  goes      {safe(recipient['via'])}, as the operator wants"
    due_at = recipient["next_attempt_at"]
    if recipient["held_since"] is not None:
        yield f"  held      since {date_of(recipient['held_since'])}"
    at = "" if due_at is None or recipient["place"] == "attempt" else f"{date_of(due_at)}, {when(recipient, now)}: "
    then = f"; then it is to be: {', '.join(recipient['orders'])}" if recipient["orders"] else ""
    yield f"  next      {at}{safe(recipient['why'])}{then}"
    if recipient["notify"] is not None:
        yield f"  asked     NOTIFY={','.join(recipient['notify'])}"
    if reason(recipient):
        by = f" by {safe(recipient['by'])}" if recipient["by"] else ""
        yield f"  last      {reason(recipient)}{by}"
    for number, each in enumerate(recipient["tried"]):
        yield f"  {'tried' if number == 0 else '':8}  {tried(each)}"


def tried(each: Fields) -> str:
    """Write what was done once."""
    where = [safe(each["by"])] if each["by"] else []
    if each["address"]:
        where.append(f"[{each['address']}]")
    if each["tls"]:
        where.append(f"({safe(each['tls'])})")
    to = f" {' '.join(where)}" if where else ""
    return f"{date_of(each['at'])}  {each['action']}{to}: {safe(' '.join(filter(None, (each['status'], each['said']))))}"


def lane_fields(lane: str, paused: Mapping[str, float]) -> dict[str, Any]:
    """Say where a delivery goes, in fields."""
    domain, way = parts_of_lane(lane)
    return {
        "domain": domain or None,
        "way": way or None,
        "is_local": is_own(lane),
        "paused_since": paused.get(paused_as(lane, paused) or ""),
    }


STATES: Final = ("new", "delayed", "unreported", "held", "corrupt")
BY: Final = ("domain", "sender", "sender-domain", "account", "peer", "reason", "age")
"""What there are sums for each of (`spool.sums`)."""
NOT_KNOWN: Final = {
    "domain": HERE,
    "account": "(nobody logged in)",
    "peer": "(this machine)",
    "reason": "(not attempted yet)",
}
"""What the sum is of that has no name."""


def stats_rows(sums: Sums, now: float) -> list[list[str]]:
    """Return the rows of the sums: most recipients first, but ages in their order; then all others, and what else is paused."""
    rows = [_sum_row(_name_of(sums.by, key), sums.groups[key], now, _note(sums, key, now)) for key in _in_order(sums)]
    if sums.rest["entries"]:
        rows.append(_sum_row("(others)", sums.rest, now, ""))
    if sums.by == "domain":
        shown = {domain_of(lane) for lane in sums.groups}
        rows += [
            [safe(domain), *["-"] * (len(STATES) + 3), f"paused for {duration(now - since)}"]
            for domain, since in sums.paused.items()
            if domain not in shown
        ]
    return rows


def _in_order(sums: Sums) -> list[str]:
    if sums.by == "age":
        return sorted(sums.groups, key=lambda key: int(key or 1 << 40))
    return sorted(sums.groups, key=lambda key: (-recipients(sums.groups[key]), key))


def _sum_row(name: str, tally: Fields, now: float, note: str) -> list[str]:
    counts = [str(tally["states"].get(state, 0) or "-") for state in STATES]
    return [name, str(tally["entries"]), *counts, size(tally["octets"]), duration(now - tally["oldest"]), note]


def _name_of(by: str, key: str) -> str:
    if by == "age":
        return f"under {duration(int(key))}" if key else "more"
    return safe(key) or NOT_KNOWN.get(by, "?")


def _note(sums: Sums, key: str, now: float) -> str:
    since = lane_fields(key, sums.paused)["paused_since"] if sums.by == "domain" else None
    return "" if since is None else f"paused for {duration(now - since)}"


def sums_fields(sums: Sums) -> dict[str, Any]:
    """Return the sums as fields."""
    groups = [{**_key_fields(sums, key), **_tally_fields(sums.groups[key])} for key in _in_order(sums)]
    return {
        "messages": sums.entries,
        "octets": sums.octets,
        "corrupt_messages": sums.corrupt,
        "attempts": sums.attempts,
        "paused": sums.paused,
        "by": sums.by,
        f"{sums.by.replace('-', '_')}s": groups,
        "rest": _tally_fields(sums.rest) if sums.rest["entries"] else None,
        "is_exact": sums.is_exact,
    }


def _key_fields(sums: Sums, key: str) -> dict[str, Any]:
    if sums.by == "domain":
        return lane_fields(key, sums.paused)
    if sums.by == "age":
        return {"younger_than": int(key) if key else None}
    return {sums.by.replace("-", "_"): key or None}


def _tally_fields(tally: Fields) -> dict[str, Any]:
    return {
        "messages": tally["entries"],
        "recipients": recipients(tally),
        "octets": tally["octets"],
        "states": tally["states"],
        "oldest": tally["oldest"],
    }
