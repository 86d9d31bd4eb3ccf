"""`mailstack alias`: addresses that lead to others."""

from __future__ import annotations

from pathlib import Path

import click

from mailstack.console.asking import Commands, config_option, json_option, read_settings, show_result, show_table


@click.group(cls=Commands)
def alias() -> None:
    """Say which addresses lead to others. A change is in force at once, also in a running server."""


@alias.command(
    short_help="Let an address lead to others.",
    epilog="Examples: mailstack alias add sales@example.org alice@example.org bob@example.org, "
    "or mailstack alias add '*@example.org' alice@example.org",
)
@click.argument("address")
@click.argument("targets", nargs=-1, required=True)
@click.option("--replace", is_flag=True, help="If the alias exists, give it these targets instead of its own.")
@config_option
@json_option
def add(address: str, targets: tuple[str, ...], replace: bool, config: Path | None, as_json: bool) -> None:
    """Let an address lead to others, here or elsewhere; "*@DOMAIN" is every address that is nothing else."""
    from mailstack.directory.editing import add_alias

    settings = read_settings(config)
    added = add_alias(
        settings.directory_file,
        address,
        targets,
        replace=replace,
        delimiter=settings.delivery.subaddress_delimiter,
        is_taken=settings.transports.is_taken,
    )
    shown = [str(each) for each in added.targets]
    show_result(as_json, f"{added.name} now leads to {', '.join(shown)}", result="added", alias=added.name, targets=shown)


@alias.command("list", epilog="Example: mailstack alias list --json")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the aliases."""
    from mailstack.directory.editing import list_aliases

    aliases = list_aliases(read_settings(config).directory_file)
    found = [(each.name, [str(address) for address in each.targets]) for each in aliases]
    rows = [{"alias": name, "targets": targets if as_json else ", ".join(targets)} for name, targets in found]
    show_table(as_json, rows, ("alias", "targets"), "There is no alias yet: mailstack alias add ADDRESS TARGET…")


@alias.command(epilog="Example: mailstack alias remove sales@example.org")
@click.argument("address")
@config_option
@json_option
def remove(address: str, config: Path | None, as_json: bool) -> None:
    """Remove an alias."""
    from mailstack.directory.editing import remove_alias

    name = remove_alias(read_settings(config).directory_file, address)
    show_result(as_json, f"{name} leads nowhere now.", result="removed", alias=name)
