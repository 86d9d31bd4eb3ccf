"""Asking a running server about its queue, part by part: whatever its length, one part is in memory, and the bar goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mailstack.console.asking import Refused, find_control_file
from mailstack.console.control import ORDINALS, TARGETS
from mailstack.spool.identifiers import parse_name
from mailstack.spool.selection import NAMES

if TYPE_CHECKING:
    from mailstack.console.control import Answer
    from mailstack.console.control_client import Client
    from mailstack.console.queue_acted import Acted
    from mailstack.console.queue_selecting import Select

PAGE_ENTRIES: Final = 100
Fields = dict[str, Any]
Progress = Callable[[float], None]
"""Takes what part of the whole is done, from 0 to 1."""


@contextmanager
def asking(config: Path | None) -> Iterator[Client]:
    """
    Connect to the running server.

    Raises:  Refused: none runs; or what is asked of it cannot be had.
    """
    from mailstack.console.control import ControlError
    from mailstack.console.control_client import Client, NobodyThereError

    path = find_control_file(config)
    try:
        with Client(path) as client:
            yield client
    except NobodyThereError as error:
        raise Refused(
            f"{error}.\nOnly the running server can be asked of its queue, and what waits is safe without it. Start it: "
            "systemctl start mailstack, or twistd -n mailstack --config FILE"
        ) from None
    except ControlError as error:
        raise Refused(f"{error}.") from None


def found_by(
    client: Client, select: Select, progress: Progress, limit: int = 0, about: Fields | None = None
) -> Iterator[dict[str, Any]]:
    """
    Yield the entries that are selected, the oldest first; with a limit no more than that.

    Shape:   `about` are the fields of an act: only what it is about, and it is refused before anything else if it cannot be.
    """
    for page in _pages(client, select, progress, min(limit or PAGE_ENTRIES, PAGE_ENTRIES), about or {}):
        for entry in page["entries"]:
            yield entry
            limit -= 1
            if not limit:
                return


def with_all_recipients(client: Client, select: Select, entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry that was found with all of its selected recipients, of which a page has the first only."""
    recipients = list(entry["recipients"])
    while len(recipients) < len(entry["selected"]):
        of_one = {**select, "names": [entry["id"]]}
        page = client.ask("find", select=of_one, after="", limit=1, behind=recipients[-1]["ordinal"])
        more = [recipient for found in page["entries"] for recipient in found["recipients"]]
        if not more:
            break  # they are over meanwhile
        recipients += more
    return {**{key: value for key, value in entry.items() if key != "selected"}, "recipients": recipients}


def _pages(client: Client, select: Select, progress: Progress, page_entries: int, about: Fields) -> Iterator[Answer]:
    span = client.ask("span")
    first, last = (parse_name(span[key] or "") or 0 for key in ("first", "last"))
    for part in _parts_of(select):
        after: str | None = ""
        while after is not None:
            page = client.ask("find", select=part, after=after, limit=page_entries, **about)
            yield page
            after = page["to"]
            done = after or max(part.get("names", ""), default="")
            if done and last > first:
                progress(min(1.0, max(0.0, ((parse_name(done) or 0) - first) / (last - first))))
    progress(1.0)


def _parts_of(select: Select) -> Iterator[Select]:
    """Yield selections with no more names than one request may have; names are in order, and so is what is found by them."""
    names = select.get("names")
    if names is None:
        yield select
        return
    for start in range(0, len(names), NAMES):
        yield {**select, "names": names[start : start + NAMES]}


def act_on(client: Client, select: Select, about: Fields, progress: Progress, acted: Acted) -> None:
    """Do something with all that is selected, and add up what came of it: of all that was done when this ends early."""
    for page in _pages(client, select, progress, PAGE_ENTRIES, about):
        acted.messages += len(page["entries"])
        for targets in _parts(page["entries"]):
            acted.add(client.ask("act", **about, targets=targets))


def _parts(entries: list[dict[str, Any]]) -> Iterator[list[tuple[str, list[int]]]]:
    """Yield targets, as many at a time as one request may have."""
    part: list[tuple[str, list[int]]] = []
    size = 0
    for entry in entries:
        for start in range(0, len(entry["selected"]), ORDINALS):
            ordinals = entry["selected"][start : start + ORDINALS]
            if part and (size + len(ordinals) > ORDINALS or len(part) == TARGETS):
                yield part
                part, size = [], 0
            part.append((entry["id"], ordinals))
            size += len(ordinals)
    if part:
        yield part


@contextmanager
def progress_bar(what: str, *, is_quiet: bool) -> Iterator[Progress]:
    """Show how far long work is, on the terminal of standard error, if there is one; what is quick shows nothing."""
    if is_quiet or not sys.stderr.isatty():
        yield lambda part: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda part: bar.update(task, completed=part)
