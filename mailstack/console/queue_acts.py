"""
The acts of the postmaster: hold, release, retry, reroute, bounce, delete.

Those that cannot be taken back, or send mail elsewhere, show first what they would do, and ask. What is accepted after that
look is not touched by them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mailstack.console.asking import Refused, config_option, json_option, show_result
from mailstack.console.queue_asking import act_on, asking, found_by, progress_bar, with_all_recipients
from mailstack.console.queue_selecting import STDIN, Select, select_fields, selecting
from mailstack.console.queue_views import LIST_COLUMNS, count, list_rows, show_rows, size

if TYPE_CHECKING:
    from mailstack.console.control_client import Client

NOTHING: Final = 3
"""The exit code when no mail is selected."""
PREVIEWED: Final = 5
BOUNCE_TEXT: Final = "The postmaster of this host has returned your message"


@dataclass(frozen=True, slots=True)
class Act:
    """What can be done: to recipients in which states, what is said of it, and whether it is asked about first."""

    name: str
    past: str
    states: tuple[str, ...]
    question: str = ""


HOLD: Final = Act("hold", "held", ("new", "delayed", "unreported"))
RELEASE: Final = Act("release", "released", ("held",))
RETRY: Final = Act("retry", "due now", ("new", "delayed", "unreported"))
REROUTE: Final = Act("reroute", "rerouted", ("new", "delayed", "held"), "Reroute:")
BOUNCE: Final = Act("bounce", "returned to the sender", ("new", "delayed", "held"), "Return to the sender, as failed for good:")
DELETE: Final = Act(
    "delete", "deleted", ("new", "delayed", "unreported", "held", "corrupt"), "Delete for good, and tell nobody:"
)


def add_acts(group: click.Group) -> None:
    """Add the commands."""
    for command in (hold, release, retry, reroute, bounce, delete):
        group.add_command(command)


_Body = Callable[..., None]


def _act(*, asks: bool) -> Callable[[_Body], _Body]:
    """Add what the commands have in common."""

    def decorate(body: _Body) -> _Body:
        if asks:
            body = click.option("--yes", "-y", is_flag=True, help="Do not ask.")(body)
        body = click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")(body)
        body = click.option("--all", "is_all", is_flag=True, help="All that waits, when nothing else is said.")(body)
        return click.argument("ids", nargs=-1, metavar="[ID]...")(selecting(config_option(json_option(body))))

    return decorate


@click.command(epilog="Examples: mailstack queue hold 1k52wm9h0000g, or mailstack queue hold --sender '@example.com'")
@_act(asks=False)
def hold(**options: Any) -> None:
    """Keep messages, or recipients of them, until they are released. Nothing that is held is given up."""
    _run(HOLD, options)


@click.command(epilog="Example: mailstack queue release --sender '@example.com'")
@_act(asks=False)
def release(**options: Any) -> None:
    """Let go of what is held: it is attempted at once."""
    _run(RELEASE, options)


@click.command(epilog="Example: mailstack queue retry --domain example.net --reason 'greylist'")
@_act(asks=False)
def retry(**options: Any) -> None:
    """Attempt what waits now, instead of when it would be due."""
    _run(RETRY, options)


@click.command(
    epilog="Examples: mailstack queue reroute --domain example.net --via 'smtp:[192.0.2.1]:2525', or "
    "mailstack queue reroute --domain example.net --back"
)
@click.option("--via", metavar="WAY", help="smtp:HOST, smtp:HOST:PORT or smtp:[ADDRESS]:PORT.")
@click.option("--back", is_flag=True, help="To where it was to go at first.")
@_act(asks=True)
def reroute(via: str | None, back: bool, **options: Any) -> None:
    """Send mail for other domains another way: only what waits now, and at once. What is held stays held."""
    if (via is None) is not back:
        raise click.UsageError("Say where to: --via WAY, or --back.")
    _run(REROUTE, options, via or "")


@click.command(epilog="Example: mailstack queue bounce --domain example.net --text 'This domain does not exist any more'")
@click.option("--text", default=BOUNCE_TEXT, show_default=True, help="What the sender is told.")
@_act(asks=True)
def bounce(text: str, **options: Any) -> None:
    """Give up now: the sender gets a notification of the failure, with your words."""
    _run(BOUNCE, options, text)


@click.command(epilog="Example: mailstack queue delete --sender '@spam.example' --state held")
@_act(asks=True)
def delete(**options: Any) -> None:
    """Remove for good, and tell nobody. Also the way to be rid of what is corrupt."""
    _run(DELETE, options)


def _run(act: Act, options: dict[str, Any], text: str = "") -> None:
    ids, config, as_json = options["ids"], options["config"], options["as_json"]
    now = time.time()
    select = select_fields(ids, options, now)
    if bool(select) is options["is_all"]:
        raise click.UsageError("Say which: IDs, filters, or --all alone.")
    if STDIN in ids and act.question and not (options["yes"] or options["dry_run"]):
        raise click.UsageError("Standard input has the IDs, so nobody can be asked: say --yes, or look first with --dry-run.")
    wanted = [state for state in act.states if state in (select.get("states") or act.states)]
    if not wanted:
        raise click.UsageError(f"What is {', '.join(select['states'])} cannot be {act.past}.")
    select = {**select, "states": wanted, "accepted_before": min(now, select.get("accepted_before", now))}
    config_path: Path | None = config
    with asking(config_path) as client:
        if options["dry_run"] or (act.question and not options["yes"]):
            _preview(client, act, select, options)
        with progress_bar(act.name, is_quiet=as_json) as progress:
            sums = act_on(client, select, act.name, text, progress)
    _tell(act, sums, as_json)


def _preview(client: Client, act: Act, select: Select, options: dict[str, Any]) -> None:
    """Show what would be done; return when it is to be done."""
    as_json, now = options["as_json"], time.time()
    first: list[dict[str, Any]] = []
    messages = recipients = octets = 0
    with progress_bar("looking", is_quiet=as_json) as progress:
        for entry in found_by(client, select, progress):
            messages += 1
            recipients += len(entry["selected"])
            octets += entry["octets"]
            if len(first) < PREVIEWED:
                first.append(with_all_recipients(client, select, entry) if as_json else entry)
    if as_json:
        if not options["dry_run"]:
            raise Refused(f"nothing was done: with --json nobody can be asked. Say --yes, or look first: {act.name} --dry-run")
        show_result(True, "", result="none", act=act.name, messages=messages, recipients=recipients, octets=octets, first=first)
    elif messages:
        show_rows(LIST_COLUMNS, list(list_rows(first, now)))
        more = f" These are the first {len(first)}." if messages > len(first) else ""
        click.echo(f"{count(messages, 'message')}, {count(recipients, 'recipient')}, {size(octets)} octets.{more}", err=True)
    if not messages:
        _nothing(as_json)
    if options["dry_run"]:
        click.get_current_context().exit(0)
    click.confirm(f"{act.question} {count(recipients, 'recipient')} of {count(messages, 'message')}?", abort=True, err=True)


def _tell(act: Act, sums: dict[str, int], as_json: bool) -> None:
    if as_json:
        show_result(True, "", result=act.name, **sums)
    if not sums["messages"]:
        _nothing(as_json)
    if as_json:
        return
    changed = f"{count(sums['changed_recipients'], 'recipient')} of {count(sums['changed_messages'], 'message')}"
    click.echo(f"{changed}: {act.past}.")
    if sums["under_way"] and act is RETRY:
        click.echo(f"{count(sums['under_way'], 'recipient')} more: attempted at this moment.")
    elif sums["under_way"]:
        click.echo(f"{count(sums['under_way'], 'recipient')} more: in an attempt. What that leaves is {act.past} when it ends.")


def _nothing(as_json: bool) -> None:
    if not as_json:
        click.echo("No mail that waits is like that.", err=True)
    click.get_current_context().exit(NOTHING)
