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
from mailstack.console.control import ControlError
from mailstack.console.queue_acted import Acted
from mailstack.console.queue_asking import Fields, act_on, asking, found_by, progress_bar, with_all_recipients
from mailstack.console.queue_selecting import FILTERS, STDIN, Select, select_fields, selecting
from mailstack.console.queue_views import LIST_COLUMNS, count, list_rows, show_rows, size

if TYPE_CHECKING:
    from mailstack.console.control_client import Client

REFUSED: Final = Refused.exit_code
NOTHING: Final = 3
"""The exit code when no mail is selected, or not all that was named."""
PREVIEWED: Final = 5
_UNLIKE: Final = "waits here, but is not like that"
BOUNCE_TEXT: Final = "The postmaster of this host has returned your message"


@dataclass(frozen=True, slots=True)
class Act:
    """What can be done: to recipients in which states, what is said of it, and whether it is asked about first."""

    name: str
    past: str
    states: tuple[str, ...]
    question: str = ""


HOLD: Final = Act("hold", "held", ("new", "delayed", "unreported"))
RELEASE: Final = Act("release", "released", ("held", "corrupt"))
RETRY: Final = Act("retry", "due now", ("new", "delayed", "unreported"))
REROUTE: Final = Act("reroute", "rerouted", ("new", "delayed", "held"), "Reroute:")
BOUNCE: Final = Act("bounce", "given up", ("new", "delayed", "held"), "Give up, as failed for good:")
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
    """
    Let go of what is held: it is attempted at once, or when its sender wants it to go, unless you name it by its ID.

    Also of what is corrupt, if it is whole again (its file is back): all of the message is attempted then. With an ID also of
    what is attempted now, and is to be held when that has ended.
    """
    _run(RELEASE, options)


@click.command(epilog="Example: mailstack queue retry --domain example.net --reason 'greylist'")
@_act(asks=False)
def retry(**options: Any) -> None:
    """
    Attempt what waits now, instead of when it would be due.

    What its sender wants to go later keeps its time, unless you name it by its ID.
    """
    _run(RETRY, options)


@click.command(
    epilog="Examples: mailstack queue reroute --domain example.net --via 'smtp:[192.0.2.1]:2525', or "
    "mailstack queue reroute --domain example.net --back"
)
@click.option("--via", metavar="WAY", help="mx, smtp:[HOST], smtp:[HOST]:PORT, smtp:DOMAIN (its MX), or lmtp:...")
@click.option("--back", is_flag=True, help="To where it was to go at first.")
@_act(asks=True)
def reroute(via: str | None, back: bool, **options: Any) -> None:
    """
    Send mail for other domains another way: only what waits now, and at once. What is held stays held.

    What its sender wants to go later keeps its time, unless you name it by its ID.
    """
    if (via is None) is not back:
        raise click.UsageError("Say where to: --via WAY, or --back.")
    if via is not None and not via.strip():
        raise click.UsageError("--via is empty. What goes to where it was to go at first goes --back.")
    _run(REROUTE, options, via or "")


@click.command(epilog="Example: mailstack queue bounce --domain example.net --text 'This domain does not exist any more'")
@click.option("--text", default=BOUNCE_TEXT, show_default=True, help="What the sender is told.")
@_act(asks=True)
def bounce(text: str, **options: Any) -> None:
    """
    Give up now: the sender gets a notification of the failure, with your words.

    Unless it wants none (NOTIFY=NEVER). Of what has no sender the postmaster is told, as of any failure.
    """
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
    if act is RELEASE and ids:
        wanted += ["new", "delayed"]  # whose attempt runs may be to be held when it has ended
    select = {**select, "states": wanted, "accepted_before": min(now, select.get("accepted_before", now))}
    config_path: Path | None = config
    about = {"act": act.name, "text": text, "named": bool(ids)}
    acted = Acted()
    with asking(config_path) as client:
        left_out = _left_out(client, act, select, about, is_filtered=any(options[each] not in (None, ()) for each in FILTERS))
        if not as_json:
            for name, why in left_out.items():
                click.echo(f"{name} {why}.", err=True)
        if options["dry_run"] or (act.question and not options["yes"]):
            _preview(client, act, select, about, options, left_out)
        try:
            with progress_bar(act.name, is_quiet=as_json) as progress:
                act_on(client, select, about, progress, acted)
        except (KeyboardInterrupt, ControlError):
            _tell_of_the_end(act, acted, as_json)
            raise
    _tell(act, acted, left_out, as_json)


def _left_out(client: Client, act: Act, select: Select, about: Fields, *, is_filtered: bool) -> dict[str, str]:
    """
    Say of each message that was named, and with which nothing can be done, why not.

    Where a filter has taken some of those that were named, the others are left out as it was meant.
    """
    if "names" not in select:
        return {}
    selected = {entry["id"] for entry in found_by(client, select, _unseen, about=about)}
    names = [name for name in dict.fromkeys(select["names"]) if name not in selected]
    there = {entry["id"]: entry for entry in found_by(client, {"names": names}, _unseen)} if names else {}
    left_out = {name: _why_not(act, there.get(name), is_filtered=is_filtered) for name in names}
    return {name: why for name, why in left_out.items() if why != _UNLIKE or not selected}


def _why_not(act: Act, entry: Fields | None, *, is_filtered: bool) -> str:
    if entry is None:
        return "does not wait here"
    states = {each["state"] for each in entry["recipients"]}
    if not states & set(act.states):
        if entry["is_corrupt"]:
            return "is corrupt: it can be released when it is whole again, or deleted"
        if act is RELEASE:
            return "is not held"
        if "held" in states:
            return "is held already" if act is HOLD else "is held: release it"
        return "has failed already, and its sender is to be told"
    if act is REROUTE and all(each["is_local"] for each in entry["recipients"]):
        return "is delivered here, and goes no other way"
    if act is REROUTE and not is_filtered:
        return "goes that way already"
    return _UNLIKE


def _unseen(part: float) -> None:
    """Show no progress of what is quick."""


def _preview(
    client: Client, act: Act, select: Select, about: Fields, options: dict[str, Any], left_out: dict[str, str]
) -> None:
    """Show what would be done; return when it is to be done."""
    as_json, now = options["as_json"], time.time()
    first: list[dict[str, Any]] = []
    messages = recipients = octets = whole = 0
    with progress_bar("looking", is_quiet=as_json) as progress:
        for entry in found_by(client, select, progress, about=about):
            messages += 1
            whole += entry["is_corrupt"] and len(entry["selected"]) < entry["recipient_count"]
            recipients += len(entry["selected"])
            octets += entry["octets"]
            if len(first) < PREVIEWED:
                first.append(with_all_recipients(client, select, entry) if as_json else entry)
    if as_json:
        if not options["dry_run"]:
            raise Refused(f"nothing was done: with --json nobody can be asked. Say --yes, or look first: {act.name} --dry-run")
        sums = {"messages": messages, "recipients": recipients, "octets": octets}
        show_result(True, "", result="none", act=act.name, **sums, first=first, refused=left_out)
    elif messages:
        show_rows(LIST_COLUMNS, list(list_rows(first, now)))
        more = f" These are the first {len(first)}." if messages > len(first) else ""
        click.echo(f"{count(messages, 'message')}, {count(recipients, 'recipient')}, {size(octets)} octets.{more}", err=True)
        if whole:
            click.echo(
                f"{count(whole, 'message')} of these: corrupt, and {act.past} as a whole, with all recipients.", err=True
            )
    if not messages:
        _nothing(as_json or bool(left_out))
    if options["dry_run"]:
        click.get_current_context().exit(NOTHING if left_out else 0)
    click.confirm(f"{act.question} {count(recipients, 'recipient')} of {count(messages, 'message')}?", abort=True, err=True)


def _tell(act: Act, acted: Acted, left_out: dict[str, str], as_json: bool) -> None:
    if as_json:
        show_result(True, "", result=act.name, **{**acted.as_fields(), "refused": {**left_out, **acted.refused}})
    if not acted.messages:
        _nothing(as_json or bool(left_out))
    if not as_json:
        _tell_in_words(act, acted)
    if left_out:
        click.get_current_context().exit(NOTHING)
    if acted.refused and not acted.changed_messages and not acted.under_way:
        click.get_current_context().exit(REFUSED)


def _tell_of_the_end(act: Act, acted: Acted, as_json: bool) -> None:
    """Tell what was done before it was stopped."""
    if not acted.messages:
        return
    if as_json:
        show_result(True, "", result="stopped", act=act.name, **acted.as_fields())
        return
    click.echo("Stopped. Before that, not counting the part that ran then:", err=True)
    _tell_in_words(act, acted)


def _tell_in_words(act: Act, acted: Acted) -> None:
    for line in acted.lines(act.past, is_retry=act is RETRY):
        click.echo(line)
    for line in acted.refusals():
        click.echo(line, err=True)


def _nothing(as_json: bool) -> None:
    if not as_json:
        click.echo("No mail that waits is like that.", err=True)
    click.get_current_context().exit(NOTHING)
