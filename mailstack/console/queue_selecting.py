"""
Which mail is meant: the options by which the commands of the queue select, and the fields that become of them.

All that is said must be so at once. A duration is a number with s, m, h, d or w; a size a number with k, M or G (of 1024).
Of IDs there may be any number: they are asked for in parts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import click

from mailstack.mail.address import AddressError, parse_domain
from mailstack.spool.entry import ALL_DOMAINS
from mailstack.spool.identifiers import format_number
from mailstack.spool.selection import SELECTABLE, SelectionError, parse_entry_name, parse_selection

_Value = TypeVar("_Value")
_Command = TypeVar("_Command", bound=Callable[..., Any])
Select = dict[str, Any]
"""A selection as it goes over the control socket."""

STDIN: Final = "-"
"""As an ID: those that standard input has."""
LINE_OCTETS: Final = 200
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_OCTETS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Duration(click.ParamType[float]):
    """`90s`, `15m`, `2h`, `3d`, `1w`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,9})([smhdw])", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no duration: 90s, 15m, 2h, 3d or 1w", param, ctx)
        return float(int(found[1]) * _SECONDS[found[2]])


class Size(click.ParamType[int]):
    """`4096`, `10k`, `5M`, in octets."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12})([kmg]?)", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no size: 4096, 10k, 5M or 1G", param, ctx)
        return int(found[1]) * _OCTETS[found[2]]


def _once(context: click.Context, option: click.Parameter, given: tuple[_Value, ...]) -> _Value | None:
    """Return the value of an option: click takes the last of several, and then not all would be meant that was named."""
    if len(given) > 1:
        raise click.UsageError(
            f"{option.opts[0]} is given {len(given)} times: once, since all filters must hold at once", context
        )
    return given[0] if given else None


_ONCE: Final[dict[str, Any]] = {"multiple": True, "callback": _once}


def selecting(command: _Command) -> _Command:
    """Add the options that select, as one argument `chosen` of the fields that were given."""
    options = (
        click.option(
            "--sender", metavar="ADDRESS", **_ONCE, help="From this address; @DOMAIN: anybody of it; <>: notifications."
        ),
        click.option("--account", metavar="ADDRESS", **_ONCE, help="Submitted by who was logged in to this account."),
        click.option(
            "--peer", metavar="NETWORK", **_ONCE, help="That came from this IP address, or this network: 192.0.2.0/24."
        ),
        click.option("--session", metavar="NAME", **_ONCE, help="That came in this session, as the log calls it."),
        click.option("--recipient", metavar="ADDRESS", **_ONCE, help="For this address; @DOMAIN: anybody of it."),
        click.option("--domain", metavar="DOMAIN", **_ONCE, help="For recipients of this domain."),
        click.option("--state", "states", multiple=True, type=click.Choice(SELECTABLE), help="In this state; may be repeated."),
        click.option(
            "--reason", metavar="TEXT", **_ONCE, help="Whose status, or what the other side said last, contains this."
        ),
        click.option(
            "--older-than", "older", metavar="AGE", type=Duration(), **_ONCE, help="Accepted longer ago than that: 90s, 2h, 3d."
        ),
        click.option("--newer-than", "newer", metavar="AGE", type=Duration(), **_ONCE, help="Accepted within that time."),
        click.option("--larger-than", "larger", metavar="SIZE", type=Size(), **_ONCE, help="Of that size or more: 10k, 5M."),
        click.option("--smaller-than", "smaller", metavar="SIZE", type=Size(), **_ONCE, help="Of that size or less."),
    )
    for option in reversed(options):
        command = option(command)
    return command


FILTERS: Final = (
    "sender", "account", "peer", "session", "recipient", "domain", "states", "reason", "older", "newer", "larger", "smaller",
)  # fmt: skip
"""The options that select, but for IDs."""


def select_fields(ids: Sequence[str], options: dict[str, Any], now: float) -> Select:
    """
    Return the selection that was asked for; what was not said is not in it.

    Shape:   any number of names, in order and each once. None of them, where standard input should have had some: nothing is
             selected, and not everything.
    Raises:  click.UsageError.
    """
    fields: Select = {
        "sender": options["sender"],
        "account": options["account"],
        "peer": options["peer"],
        "session": options["session"],
        "recipient": options["recipient"],
        "domain": options["domain"],
        "states": list(options["states"]),
        "reason": options["reason"],
        "accepted_before": None if options["older"] is None else now - options["older"],
        "accepted_after": None if options["newer"] is None else now - options["newer"],
        "octets_from": options["larger"],
        "octets_to": options["smaller"],
    }
    said = {key: value for key, value in fields.items() if value not in (None, [])}
    try:
        parse_selection(said)  # so that what is wrong with it is said before anybody is asked
    except SelectionError as error:
        raise click.UsageError(str(error)) from None
    if ids:
        said["names"] = sorted(set(_names(ids)))
    return said


def _names(ids: Sequence[str]) -> Iterator[str]:
    """Yield the names of entries; for STDIN those that stand there, one on a line."""
    for each in ids:
        if each != STDIN:
            yield check_id(each)
    if STDIN in ids:
        lines: Iterator[bytes] = iter(lambda: sys.stdin.buffer.readline(LINE_OCTETS), b"")
        for number, line in enumerate(lines, 1):
            if name := line.decode("ascii", "replace").strip():
                yield check_id(name, f"line {number} of standard input: ")


def check_pausable(text: str) -> str:
    """
    Return what can be paused in its one form: a domain, an address literal, or "*".

    Raises:  click.UsageError: it is none of them.
    """
    if text == ALL_DOMAINS:
        return text
    try:
        return parse_domain(text)
    except AddressError as error:
        raise click.UsageError(f"{text!r} is not a domain name: {error}. '*' is for all that goes elsewhere") from None


def check_id(name: str, where: str = "") -> str:
    """
    Return the name of an entry.

    Raises:  click.UsageError: it cannot be one.
    """
    try:
        return format_number(parse_entry_name(name))
    except SelectionError as error:
        raise click.UsageError(f"{where}{error}") from None
