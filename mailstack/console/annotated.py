"""
The annotated configuration: a file that explains itself, written from the fields of the settings.

`# text` is an explanation; `#key = value` is a key that is not set, with its default, or with an example where it has none. The
sample `etc/mailstack.toml` is what `annotate` makes of the example's hostname alone.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo

from mailstack.settings import Endpoint, PolicyTable, Settings, SocketFile, Table

_COLUMNS: Final = 100
_PREFACE: Final = """\
mailstack's configuration. Every key is in here with what it means; one that is not set begins with
"#" and shows its default. What is unknown or wrong refuses the start and is named with its line:
    mailstack check --config FILE
After a change: systemctl reload mailstack, or SIGHUP; the log says what needs a restart.
Domains, accounts and aliases stand elsewhere: mailstack domain, mailstack account, mailstack alias.
"""
_OPTIONS: Final = """\
#[policy.options.NAME]
#option = "value"
"""


def annotate(values: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """
    Write a configuration.

    Shape:   `values` are the keys to set, by their path, `listen.smtp`; `notes` are explanations that go with this
             installation, by the path of a key or table.
    Raises:  ValueError: there is no such key.
    """
    writer = _Writer(dict(values), dict(notes or {}))
    text = "".join(writer.write())
    if unknown := [*writer.values, *writer.notes]:
        raise ValueError(f"no such keys: {', '.join(unknown)}")
    return text


class _Writer:
    """Writes the tables in their order, and takes what it has written out of `values` and `notes`."""

    def __init__(self, values: dict[str, Any], notes: dict[str, str]) -> None:
        self.values = values
        self.notes = notes

    def write(self) -> Iterator[str]:
        yield _prose(_PREFACE)
        tables: list[tuple[str, type[Table]]] = []
        for name, field in Settings.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
                tables.append((name, field.annotation))
            else:
                yield from self._key(name, name, field)
        for name, table in tables:
            yield f"\n{_prose(table.__doc__ or '')}{self._note(name)}[{name}]\n"
            for key, field in table.model_fields.items():
                if (table, key) == (PolicyTable, "options"):
                    yield f"\n{_prose(field.description or '')}{_OPTIONS}"
                else:
                    yield from self._key(f"{name}.{key}", key, field)

    def _key(self, path: str, name: str, field: FieldInfo) -> Iterator[str]:
        yield f"\n{_prose(field.description or '')}{self._note(path)}"
        if path in self.values:
            yield f"{name} = {_toml(self.values.pop(path))}\n"
        elif field.is_required():
            yield f"{name} = {_toml(_example(field))}\n"
        elif field.default is None:
            yield f"# Not set by default; an example:\n#{name} = {_toml(_example(field))}\n"
        else:
            yield f"#{name} = {_toml(field.default)}\n"

    def _note(self, path: str) -> str:
        return _prose(self.notes.pop(path, ""))


def _example(field: FieldInfo) -> Any:
    return (field.examples or [""])[0]


def _prose(text: str) -> str:
    lines = [line for paragraph in text.strip().split("\n") for line in textwrap.wrap(paragraph, _COLUMNS)]
    return "".join(f"# {line}\n" for line in lines)


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if value >= 100_000 else str(value)
    if isinstance(value, str | Path | Endpoint | SocketFile):
        return json.dumps(str(value), ensure_ascii=False)  # a JSON string is a TOML basic string
    raise TypeError(f"{value!r} has no place in a configuration")
