"""`mailstack account`: who has a mailbox here and may send."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mailstack.console.asking import (
    Commands,
    ask_password,
    config_option,
    date_of,
    json_option,
    read_settings,
    show_result,
    show_table,
)

if TYPE_CHECKING:
    from mailstack.settings import Settings

_stdin_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input, even at a terminal."
)

_WITHOUT_SCRAM: Final = (
    "Who has no SCRAM cannot log in by it, and mail programs that know it may try nothing else: the password was set before\n"
    "there was any. Set it again, it may be the same: mailstack account passwd ADDRESS"
)


@click.group(cls=Commands)
def account() -> None:
    """Say who has a mailbox here. A change is in force at once, also in a running server."""


@account.command(
    epilog="Examples: mailstack account add alice@example.org, or pwgen -s 20 1 | mailstack account add alice@example.org"
)
@click.argument("address")
@_stdin_option
@config_option
@json_option
def add(address: str, password_stdin: bool, config: Path | None, as_json: bool) -> None:
    """Give somebody a mailbox. The password comes from a prompt, or the first line of standard input."""
    from mailstack.directory.editing import add_account, check_new_account

    settings = read_settings(config)
    name = check_new_account(settings.directory_file, address)
    encoded, scram = _kept(ask_password(name, from_stdin=password_stdin))
    added = add_account(settings.directory_file, name, encoded, time.time(), scram)
    text = f"{added} can now log in and gets mail."
    earlier = _maildir(settings, added)
    if earlier.exists():
        text += f"\nMail of an earlier account of this name is in {earlier} and now belongs to this one."
    show_result(as_json, text, result="added", account=added)


@account.command("list", epilog="Example: mailstack account list --domain example.org --json")
@click.option("--domain", "only", help="Only the accounts of this domain.")
@config_option
@json_option
def list_(only: str | None, config: Path | None, as_json: bool) -> None:
    """List the accounts."""
    from mailstack.directory.editing import list_accounts
    from mailstack.directory.records import domain_name

    domain = domain_name(only) if only is not None else None
    rows = [
        {
            "account": each.name,
            "enabled": each.enabled,
            "created": date_of(each.created_at),
            "scram": each.scram is not None,
        }
        for each in list_accounts(read_settings(config).directory_file)
        if domain is None or each.name.endswith(f"@{domain}")
    ]
    if not as_json:
        rows = [{**row, **{column: "yes" if row[column] else "no" for column in ("enabled", "scram")}} for row in rows]
    columns = ("account", "enabled", "created", "scram")
    show_table(as_json, rows, columns, "There is no account yet: mailstack account add ADDRESS")
    if not as_json and any(row["scram"] == "no" for row in rows):
        click.echo(_WITHOUT_SCRAM, err=True)


@account.command(epilog="Example: mailstack account remove alice@example.org")
@click.argument("address")
@click.option("--force", is_flag=True, help="Also take it out of the aliases that lead to it.")
@config_option
@json_option
def remove(address: str, force: bool, config: Path | None, as_json: bool) -> None:
    """Remove an account. Its stored mail is not touched."""
    from mailstack.directory.editing import remove_account
    from mailstack.directory.records import account_name

    settings = read_settings(config)
    name = account_name(address)
    removed = remove_account(settings.directory_file, name, force=force, delimiter=settings.delivery.subaddress_delimiter)
    maildir = _maildir(settings, name)
    text = f"{name} can no longer log in and gets no mail."
    if removed.aliases:
        text += f"\nAliases that led only to it were removed: {', '.join(removed.aliases)}"
    if removed.changed_aliases:
        text += f"\nAliases that no longer lead to it: {', '.join(removed.changed_aliases)}"
    text += f"\nIts mail remains in {maildir}" if maildir.exists() else "\nIt had no mail."
    show_result(
        as_json,
        text,
        result="removed",
        account=name,
        removed_aliases=removed.aliases,
        changed_aliases=removed.changed_aliases,
        remaining=str(maildir) if maildir.exists() else None,
    )


@account.command(epilog="Example: mailstack account passwd alice@example.org")
@click.argument("address")
@_stdin_option
@config_option
@json_option
def passwd(address: str, password_stdin: bool, config: Path | None, as_json: bool) -> None:
    """Change a password. The old one stops working at once."""
    from mailstack.directory.editing import find_account, set_password

    path = read_settings(config).directory_file
    name = find_account(path, address).name
    set_password(path, name, *_kept(ask_password(name, from_stdin=password_stdin)))
    show_result(as_json, f"{name} has a new password.", result="changed", account=name)


@account.command(epilog="Example: mailstack account enable alice@example.org")
@click.argument("address")
@config_option
@json_option
def enable(address: str, config: Path | None, as_json: bool) -> None:
    """Let an account log in and send again."""
    from mailstack.directory.editing import set_enabled

    name = set_enabled(read_settings(config).directory_file, address, True)
    show_result(as_json, f"{name} can log in and send.", result="enabled", account=name)


@account.command(epilog="Example: mailstack account disable alice@example.org")
@click.argument("address")
@config_option
@json_option
def disable(address: str, config: Path | None, as_json: bool) -> None:
    """Let an account neither log in nor send. Its mail is still accepted and kept."""
    from mailstack.directory.editing import set_enabled

    name = set_enabled(read_settings(config).directory_file, address, False)
    show_result(as_json, f"{name} can neither log in nor send. Its mail is still accepted.", result="disabled", account=name)


def _kept(password: bytes) -> tuple[str, str]:
    """Return what is kept of a password: its hash, and its keys for SCRAM."""
    from mailstack.directory.passwords import Argon2Hasher, new_scram_keys

    return Argon2Hasher().hash(password), new_scram_keys(password)


def _maildir(settings: Settings, name: str) -> Path:
    from mailstack.store.folders import MailFolder

    return MailFolder(settings.mail_folder).path_of(name)
