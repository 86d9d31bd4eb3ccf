"""`mailstack queue`: what waits in the running server, and the postmaster's hands in it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mailstack.console.asking import Commands, Refused, config_option, date_of, json_option, show_result
from mailstack.console.queue_acts import NOTHING, add_acts
from mailstack.console.queue_asking import asking, found_by, progress_bar, with_all_recipients
from mailstack.console.queue_selecting import Select, check_id, check_pausable, select_fields, selecting
from mailstack.console.queue_sums import sum_up
from mailstack.console.queue_views import (
    BY,
    LIST_COLUMNS,
    STATES,
    count,
    entry_lines,
    list_rows,
    recipient_lines,
    safe,
    show_rows,
    size,
    stats_rows,
    sums_fields,
    tried,
)
from mailstack.spool.entry import ALL_DOMAINS

if TYPE_CHECKING:
    from mailstack.console.control_client import Client

LISTED: Final = 100


@click.group(
    cls=Commands,
    epilog="Exit codes: 0 done, 1 refused or no server runs (the message says why and what to do), 2 not understood, "
    "3 no mail is selected, or not all that was named.",
)
def queue() -> None:
    """
    See what waits in the running server, and take it in hand. Everything is in force at once.

    A message has an ID, by which the log knows it, too. Each of its recipients is new, delayed (to be tried again), unreported
    (failed, and the sender is to be told), held (by you), or corrupt (damaged, and set aside). As an ID, - stands for those on
    standard input, one on a line.
    """


@queue.command(
    "list",
    epilog="Examples: mailstack queue list --domain example.net --state delayed, or "
    "mailstack queue list --sender '<>' --older-than 1d --json",
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@selecting
@click.option(
    "--limit", type=click.IntRange(0), help=f"No more messages than that; 0: all. [default: {LISTED}; all with --json]"
)
@config_option
@json_option
def list_(ids: tuple[str, ...], limit: int | None, config: Path | None, as_json: bool, **options: Any) -> None:
    """List messages that wait, the oldest first: all, or those that are selected."""
    now = time.time()
    select = select_fields(ids, options, now)
    limit = limit if limit is not None else 0 if as_json else LISTED
    with asking(config) as client, progress_bar("looking", is_quiet=as_json) as progress:
        seen: set[str] = set()
        found = _noting(found_by(client, select, progress, limit + 1 if limit else 0), seen)
        if as_json:
            _print_array((with_all_recipients(client, select, entry) for entry in found), limit)
            _end_if_missing(select, seen, limit)
            return
        entries = list(found)
    is_all = not limit or len(entries) <= limit
    entries = entries[: limit or None]
    if not entries and set(select) != {"names"}:
        click.echo("No mail waits." if not select else "No mail that waits is like that.", err=True)
        return
    if entries:
        show_rows(LIST_COLUMNS, list(list_rows(entries, now)))
    if not is_all:
        click.echo(f"There are more than {limit}: --limit 0 lists all, and `mailstack queue stats` sums them up.", err=True)
    _end_if_missing(select, seen, limit)


def _noting(found: Iterator[dict[str, Any]], seen: set[str]) -> Iterator[dict[str, Any]]:
    for entry in found:
        seen.add(entry["id"])
        yield entry


def _end_if_missing(select: Select, seen: set[str], limit: int) -> None:
    """Say which of those that were named are not here, where nothing but names was said and all of them were looked for."""
    if set(select) != {"names"} or (limit and len(seen) > limit):
        return
    missing = [name for name in select["names"] if name not in seen]
    for name in missing:
        click.echo(f"{name} does not wait here.", err=True)
    if missing:
        click.get_current_context().exit(NOTHING)


def _print_array(entries: Iterator[dict[str, Any]], limit: int) -> None:
    """Print a JSON array of any length, an element on each line."""
    click.echo("[", nl=False)
    for number, entry in enumerate(entries):
        if limit and number == limit:
            break
        click.echo(("," if number else "") + "\n" + json.dumps(entry, ensure_ascii=False), nl=False)
    click.echo("\n]")


@queue.command(
    epilog="Examples: mailstack queue show 1k52wm9h0000g, or mailstack queue show 1k52wm9h0000g --content > message.eml"
)
@click.argument("id_", metavar="ID")
@click.option("--headers", is_flag=True, help="Show its header section instead.")
@click.option("--content", is_flag=True, help="Write the message itself to standard output, octet by octet.")
@click.option("--yes", "-y", is_flag=True, help="With --content: also to a terminal, which may act on what is in it.")
@config_option
@json_option
def show(id_: str, headers: bool, content: bool, yes: bool, config: Path | None, as_json: bool) -> None:
    """
    Show all that is known of a message.

    For each recipient: what was tried, where, with what TLS, what the other side said; when the next attempt is due, and why.
    The log notes who reads in a message.
    """
    if content and (headers or as_json):
        raise click.UsageError("--content stands alone.")
    if content and sys.stdout.isatty() and not yes:
        raise Refused("a terminal may act on what others wrote. Write it to a file or to a program, or say --yes")
    with asking(config) as client:
        if content:
            _write_content(client, check_id(id_))
            return
        if headers:
            lines = client.ask("headers", id=check_id(id_))["headers"]
            if lines is None:
                raise _is_not_there(id_)
            show_result(as_json, "\n".join(lines), headers=lines)
            return
        entry, recipients = _shown(client, check_id(id_))
    if as_json:
        show_result(True, "", **entry, recipients=recipients)
        return
    now = time.time()
    for line in entry_lines(entry, now):
        click.echo(line)
    for recipient in recipients:
        for line in recipient_lines(recipient, now):
            click.echo(line)


@queue.command(epilog="Example: mailstack queue trace 1k52wm9h0000g")
@click.argument("id_", metavar="ID")
@config_option
@json_option
def trace(id_: str, config: Path | None, as_json: bool) -> None:
    """
    Show what was done for a message, in the order of time.

    The last 20 times of each recipient are kept. What succeeds at its first attempt is in the log only.
    """
    with asking(config) as client:
        entry, recipients = _shown(client, check_id(id_))
    steps = [{"recipient": each["address"], **step} for each in recipients for step in each["tried"]]
    steps.sort(key=lambda step: step["at"])
    if as_json:
        click.echo(json.dumps(steps, indent=2, ensure_ascii=False))
        return
    click.echo(f"{date_of(entry['accepted_at'])}  accepted from {safe(entry['sender'] or '?')}")
    for step in steps:
        at, _, what = tried(step).partition("  ")
        click.echo(f"{at}  {safe(step['recipient'] or '?')} {what}")


def _write_content(client: Client, name: str) -> None:
    """Write a message, of which a part is in memory."""
    after: int | None = 0
    written = 0
    while after is not None:
        answer = client.ask("content", id=name, after=after)
        if answer["octets"] is None and not written:
            raise _is_not_there(name)
        if answer["octets"] is None:
            raise Refused(f"{name} was delivered, relayed, returned or deleted meanwhile: what was written is not all of it.")
        octets = b64decode(answer["part"])
        sys.stdout.buffer.write(octets)
        written += len(octets)
        after = answer["to"]
    sys.stdout.buffer.flush()
    if written != answer["octets"]:
        raise Refused(f"{name} is damaged: it has {written} of {answer['octets']} octets.")


def _is_not_there(name: str) -> Refused:
    return Refused(f"{name} does not wait here: it was delivered, relayed, returned or deleted, and the log says which.")


def _shown(client: Client, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    entry: dict[str, Any] | None = None
    recipients: list[dict[str, Any]] = []
    after: int | None = -1
    while after is not None:
        answer = client.ask("show", id=name, after=after)
        if answer["entry"] is None:
            break
        entry = entry or answer["entry"]  # only the first has all
        recipients += answer["recipients"]
        after = answer["to"]
    if entry is None:
        raise _is_not_there(name)
    return entry, recipients


@queue.command(
    epilog="Examples: mailstack queue stats, or mailstack queue stats --by sender --newer-than 1h, or "
    "mailstack queue stats --by age --domain example.net"
)
@click.option("--by", type=click.Choice(BY), default=BY[0], show_default=True, help="What there is a sum for each of.")
@selecting
@click.option(
    "--limit", type=click.IntRange(0), help=f"No more of them than that, those of most recipients; 0: all. [default: {LISTED}]"
)
@config_option
@json_option
def stats(by: str, limit: int | None, config: Path | None, as_json: bool, **options: Any) -> None:
    """
    Sum up what waits, or what is selected of it: by domain, or by who sends it, why it waits, or how long.

    The age is that of the oldest message. What is paused is said to be.
    """
    select = select_fields((), options, time.time())
    with asking(config) as client, progress_bar("counting", is_quiet=as_json):
        sums = sum_up(client, select, by)
    sums.keep_largest(LISTED if limit is None else limit)
    now = time.time()
    if as_json:
        show_result(True, "", **sums_fields(sums))
        return
    click.echo(
        f"{count(sums.entries, 'message')}, {size(sums.octets)} octets; {count(sums.attempts, 'attempt')} at this moment"
    )
    rows = stats_rows(sums, now)
    if rows:
        columns = (by.replace("-", " ").upper(), "MESSAGES", *(state.upper() for state in STATES), "SIZE", "OLDEST", "")
        show_rows(columns, rows)
    if not sums.is_exact:
        click.echo("There are very many: what is rare is among the others, and a number may be a little low.", err=True)
    elif sums.rest["entries"]:
        click.echo(f"There are more than {len(sums.groups)}: --limit 0 lists all.", err=True)


@queue.command(epilog="Examples: mailstack queue pause example.net, or mailstack queue pause '*'")
@click.argument("domain")
@config_option
@json_option
def pause(domain: str, config: Path | None, as_json: bool) -> None:
    """
    Attempt nothing more to a domain until it is resumed; '*': to any, but what is delivered here goes on.

    Attempts that run come to their end. Mail for it is accepted and waits, also over a restart, and is not given up meanwhile.
    """
    _set_paused(domain, config, as_json, is_paused=True)


@queue.command(epilog="Example: mailstack queue resume example.net")
@click.argument("domain")
@config_option
@json_option
def resume(domain: str, config: Path | None, as_json: bool) -> None:
    """Attempt what waits for a domain again, at once, also what would be due later; '*': for all but those paused by name."""
    _set_paused(domain, config, as_json, is_paused=False)


def _set_paused(domain: str, config: Path | None, as_json: bool, *, is_paused: bool) -> None:
    name = check_pausable(domain)
    with asking(config) as client:
        answer = client.ask("pause" if is_paused else "resume", domain=name)
    what, is_new = "paused" if is_paused else "resumed", answer["changed"]
    mail = "All mail that goes elsewhere" if name == ALL_DOMAINS else f"Mail for {name}"
    text = f"{mail} is {what}." if is_new else f"{mail} {'was paused already' if is_paused else 'was not paused'}."
    if is_paused:
        text += f" It waits until: mailstack queue resume {shlex.quote(name)}"
    elif answer["is_all_paused"]:
        text += " All mail that goes elsewhere is still paused; it waits until: mailstack queue resume '*'"
    show_result(as_json, text, result=what, domain=name, changed=is_new)


add_acts(queue)
