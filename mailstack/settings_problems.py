"""
Problems of a configuration: what is wrong, in which file, on which line, with which key, and what to do.

tomllib gives values without their places; an operator wants `file:line`. `lines_of_keys` is a scanner of lines, not a parser:
the file has already been parsed, so it only has to recognise headers, keys and the lines inside of multi-line strings.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mailstack.settings_kinds import shown

KeyPath = tuple[str, ...]
Place = tuple[str | int, ...]

_PART: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED: Final = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER: Final = re.compile(rf"[ \t]*\[{{1,2}}[ \t]*({_DOTTED})[ \t]*\]{{1,2}}\s*(?:#.*)?$")
_KEY: Final = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=[ \t]*(.*)")
_SYNTAX_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration; `line` 0 and `key` "" mean the file as a whole."""

    file: str
    line: int
    key: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.reason}" if self.key else f"{place}: {self.reason}"


class SettingsError(Exception):
    """The configuration cannot be used; `problems` is all that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def lines_of_keys(text: str) -> dict[KeyPath, int]:
    """Map every key and table of a valid TOML file to the number, from 1, of the line where it first stands."""
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    closing = ""
    for number, line in enumerate(text.split("\n"), 1):
        if closing:
            closing = "" if closing in line else closing
        elif header := _HEADER.match(line):
            table = _parts(header.group(1))
            _note(found, table, number)
        elif key := _KEY.match(line):
            _note(found, table + _parts(key.group(1)), number)
            quotes = key.group(2)[:3]
            if quotes in ('"""', "'''") and quotes not in key.group(2)[3:]:
                closing = quotes
    return found


def locate(lines: dict[KeyPath, int], path: Sequence[str | int]) -> int:
    """Return the line of a key, or of the nearest table or key around it, or 1."""
    names = [str(part) for part in path]
    for length in range(len(names), 0, -1):
        if (line := lines.get(tuple(names[:length]))) is not None:
            return line
    return 1


def line_of_syntax_error(message: str, text: str) -> int:
    """Return the line that a message of tomllib names; without one it means the end of the file."""
    named = _SYNTAX_LINE.search(message)
    return int(named.group(1)) if named else text.rstrip("\n").count("\n") + 1


def _parts(dotted: str) -> KeyPath:
    return tuple(next(iter(tomllib.loads(f"{part} = 0"))) for part in re.findall(_PART, dotted))


def _note(found: dict[KeyPath, int], path: KeyPath, number: int) -> None:
    for length in range(1, len(path) + 1):
        found.setdefault(path[:length], number)


_WANTED: Final = {
    "int_type": "a whole number",
    "string_type": "text in quotes",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "bool_type": "true or false",
}


def reason(error: Any, known: Sequence[KeyPath]) -> str:
    """Say what is wrong, from an error of pydantic and the paths of all keys; never shows the value of an unknown key."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {shown(error['input'])}"
    if kind == "extra_forbidden":
        return _unknown_key(error["loc"], known)
    if kind == "missing":
        return "is required and not set"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}, not {shown(error['input'])}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}, not {shown(error['input'])}"
    if kind == "literal_error":
        return f"must be {context['expected']}, not {shown(error['input'])}".replace("'", '"')
    return str(context.get("error", error["msg"]))


def _unknown_key(place: Place, known: Sequence[KeyPath]) -> str:
    name, above = str(place[-1]), place[:-1]
    for path in known:
        if path[-1] == name:
            where = f"under [{path[0]}]" if len(path) > 1 else "at the top of the file, above the first [table]"
            return f"unknown key here; it belongs {where}"
    if close := difflib.get_close_matches(name, [path[-1] for path in known if path[:-1] == above], 1):
        return f"unknown key; did you mean {shown_key((*above, close[0]))}?"
    return "unknown key"


def shown_key(place: Place) -> str:
    """Write the path of a key, `listen.smtp[0]`, printable."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    return "".join(c if c.isprintable() else "?" for c in key)
