"""`mailstack domain`: the domains whose mail is delivered here."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mailstack.console.asking import (
    Commands,
    config_option,
    date_of,
    json_option,
    make_like_its_folder,
    read_settings,
    show_result,
    show_table,
)


@click.group(cls=Commands)
def domain() -> None:
    """Say which domains are ours."""


@domain.command(epilog="Example: mailstack domain add example.org")
@click.argument("name")
@config_option
@json_option
def add(name: str, config: Path | None, as_json: bool) -> None:
    """Take mail for a domain. The first one also makes the directory and the mail folder."""
    from mailstack.directory.database import create
    from mailstack.directory.editing import add_domain
    from mailstack.directory.records import domain_name

    settings = read_settings(config)
    path = settings.directory_file
    domain_name(name)
    if not path.exists():
        create(path)
        make_like_its_folder(path)
        _make_mail_folder(settings.mail_folder)
    added = add_domain(path, name, time.time())
    show_result(
        as_json,
        f"Mail for {added} is now delivered here. Next: mailstack account add somebody@{added}",
        result="added",
        domain=added,
    )


@domain.command("list", epilog="Example: mailstack domain list --json")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the domains."""
    from mailstack.directory.editing import list_domains

    rows = [
        {"domain": each.name, "accounts": each.accounts, "aliases": each.aliases, "created": date_of(each.created_at)}
        for each in list_domains(read_settings(config).directory_file)
    ]
    show_table(as_json, rows, ("domain", "accounts", "aliases", "created"), "There is no domain yet: mailstack domain add NAME")


@domain.command(epilog="Example: mailstack domain remove example.org --force")
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove its accounts and aliases with it.")
@config_option
@json_option
def remove(name: str, force: bool, config: Path | None, as_json: bool) -> None:
    """Take no more mail for a domain. Stored mail is not touched."""
    from mailstack.directory.editing import remove_domain
    from mailstack.directory.records import domain_name

    settings = read_settings(config)
    removed = remove_domain(settings.directory_file, name, force=force)
    shown = domain_name(name)
    text = f"Mail for {shown} is no longer delivered here."
    if removed.accounts or removed.aliases:
        text += f"\nRemoved: {', '.join((*removed.accounts, *removed.aliases))}"
    kept = settings.mail_folder / shown
    if kept.exists():
        text += f"\nThe stored mail remains in {kept}"
    show_result(
        as_json,
        text,
        result="removed",
        domain=shown,
        accounts=removed.accounts,
        aliases=removed.aliases,
        remaining=str(kept) if kept.exists() else None,
    )


def _make_mail_folder(folder: Path) -> None:
    """Make the mail folder of a new installation; one that exists stays as it is, its marker may be missing for a reason."""
    from mailstack.store.folders import MARKER_NAME, prepare_root

    if folder.exists():
        return
    prepare_root(folder)
    make_like_its_folder(folder)
    make_like_its_folder(folder / MARKER_NAME)
