"""
What the commands share: which configuration is meant, where a password comes from, and how a result is shown.

A password comes from a prompt, twice, when a person sits at the terminal, and else from the first line of standard input. It is
never an argument: everybody on the machine can read those.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mailstack.directory.records import DirectoryError

if TYPE_CHECKING:
    from mailstack.settings import Settings

LOCAL_CONFIG: Final = Path("mailstack.toml")
SYSTEM_CONFIG: Final = Path("/etc/mailstack/mailstack.toml")
PASSWORD_OCTETS: Final = 1024
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Refused(click.ClickException):
    """The command did nothing; the message says why and what to do."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Write the message to standard error."""
        click.echo(f"mailstack: {self.format_message()}", file=file or sys.stderr)


class Commands(click.Group):
    """A group of commands that tells what it knows of failures without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DirectoryError as error:
            raise Refused(str(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Refused(f"{error.filename or 'the system'}: {error.strerror or error}.") from error


def config_option(command: _Command) -> _Command:
    """Add --config, as `config`."""
    kind: click.Path = click.Path(path_type=Path, dir_okay=False)
    return click.option(
        "--config",
        "-c",
        type=kind,
        envvar="MAILSTACK_CONFIG",
        help=f"The configuration. Default: $MAILSTACK_CONFIG, else ./{LOCAL_CONFIG}, else {SYSTEM_CONFIG}.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def find_config(config: Path | None) -> Path:
    """
    Return the path of the configuration that is meant.

    Raises:  Refused: none was named and none is where it is looked for.
    """
    if config is not None:
        return config
    for path in (LOCAL_CONFIG, SYSTEM_CONFIG):
        if path.exists():
            return path
    raise Refused(
        f"no configuration: there is neither ./{LOCAL_CONFIG} nor {SYSTEM_CONFIG}. "
        "Name one with --config FILE, or make an installation: mailstack init DIR"
    )


def read_settings(config: Path | None) -> Settings:
    """
    Read the configuration that is meant.

    Raises:  Refused: with everything that is wrong with it.
    """
    from mailstack.settings import SettingsError, load

    try:
        return load(find_config(config))
    except SettingsError as error:
        raise Refused(f"the configuration is refused; nothing was done.\n{error}") from error


def find_control_file(config: Path | None) -> Path:
    """
    Say where the running server can be asked. More is not read: of what the configuration names, much is closed to who may ask.

    Raises:  Refused.
    """
    from mailstack.settings import SettingsError, control_file_in, load_folder

    try:
        return control_file_in(load_folder(find_config(config)))
    except SettingsError as error:
        raise Refused(f"where the server can be asked is not to be known; nothing was done.\n{error}") from error


def ask_password(account: str, *, from_stdin: bool) -> bytes:
    """
    Get a new password.

    Raises:  Refused: it is empty, too long, or could not be sent by a mail program.
    """
    if sys.stdin.isatty() and not from_stdin:
        text = click.prompt(f"New password of {account}", hide_input=True, confirmation_prompt="Again", err=True, type=str)
        password = str(text).encode("utf-8", "surrogateescape")
    else:
        line = sys.stdin.buffer.readline(PASSWORD_OCTETS + 3)
        password = line.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise Refused("the password is empty; nothing was done. Type one, or give it as the first line of standard input.")
    if len(password) > PASSWORD_OCTETS:
        raise Refused(f"the password is longer than {PASSWORD_OCTETS} octets; nothing was done.")
    if any(octet < 32 or octet == 127 for octet in password):
        raise Refused("the password contains a control character, which mail programs cannot send; nothing was done.")
    return password


def show_result(as_json: bool, text: str, **facts: Any) -> None:
    """Say what was done, in words or as one JSON object."""
    click.echo(_json(facts) if as_json else text)


def show_table(as_json: bool, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """Print a list: columns of text, or a JSON array with every fact."""
    if as_json:
        click.echo(_json(rows))
        return
    if not rows:
        click.echo(empty, err=True)
        return
    cells = [[str(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[number]) for line in [list(columns), *cells]) for number in range(len(columns))]
    for line in ([column.upper() for column in columns], *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def date_of(seconds: float) -> str:
    """Write a time, UTC, as RFC 3339."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_like_its_folder(path: Path) -> None:
    """Give a file that root has made to the owner of its folder, since the server does not run as root."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
