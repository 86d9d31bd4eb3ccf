"""
The demonstration: two accounts with random passwords, and the lines to paste that send a message and fetch it again.

demo.json holds the passwords in the clear, for its owner's eyes only; only `mailstack init --demo` writes it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from mailstack.console.asking import Refused

DEMO_FILE: Final = "demo.json"
_TITLES: Final = {
    "smtp": "mail from other servers",
    "submission": "sending, STARTTLS",
    "submissions": "sending, TLS",
    "pop3": "fetching, STLS",
    "pop3s": "fetching, TLS",
}


@click.command(short_help="Print what to type to try it out.", epilog="Example: mailstack demo var")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def demo(folder: Path) -> None:
    """Print what to type to try out an installation made by `mailstack init --demo`."""
    click.echo(paste_lines(folder))


def paste_lines(folder: Path) -> str:
    """
    Say where a demonstration listens, who has an account, and two commands that send a message and fetch it.

    Raises:  Refused: the folder holds no demonstration.
    """
    facts = _read(folder / DEMO_FILE)
    sender, recipient, *_ = facts["accounts"]
    ports = facts["ports"]
    width = max(len(each["address"]) for each in facts["accounts"])
    listeners = "\n".join(f"  127.0.0.1:{ports[name]:<5}  {name:<11}  {title}" for name, title in _TITLES.items())
    accounts = "\n".join(f"  {each['address']:<{width}}  {each['password']}" for each in facts["accounts"])
    return f"""\
{facts["hostname"]} listens on this machine only:

{listeners}

Accounts and passwords:

{accounts}

Send a message with an attachment, from {sender["address"]} to {recipient["address"]}:

{_send(facts, sender, recipient)}

Fetch it, as {recipient["address"]}:

{_fetch(facts, recipient)}
"""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Refused(f"{path} does not exist: this is no demonstration. Make one: mailstack init DIR --demo") from None
    except ValueError as error:
        raise Refused(f"{path} is damaged ({error}). Make a new one: mailstack init DIR --demo") from None
    if not isinstance(found, dict) or len(found.get("accounts", ())) < 2:
        raise Refused(f"{path} does not describe a demonstration. Make a new one: mailstack init DIR --demo")
    return found


def _send(facts: Mapping[str, Any], sender: Mapping[str, str], recipient: Mapping[str, str]) -> str:
    readme = Path("README.md")
    attachment = readme.absolute() if readme.is_file() else Path(facts["ca"])
    return _command(
        ["--ssl-reqd", "--url", f"smtp://127.0.0.1:{facts['ports']['submission']}", "--cacert", facts["ca"]],
        ["--user", f"{sender['address']}:{sender['password']}"],
        ["--mail-from", sender["address"], "--mail-rcpt", recipient["address"]],
        ["-H", f"From: {sender['address']}", "-H", f"To: {recipient['address']}", "-H", "Subject: Hello from mailstack"],
        ["-F", "=It works.;type=text/plain", "-F", f"file=@{attachment};encoder=base64"],
    )


def _fetch(facts: Mapping[str, Any], recipient: Mapping[str, str]) -> str:
    return _command(
        ["--url", f"pop3s://127.0.0.1:{facts['ports']['pop3s']}/1", "--cacert", facts["ca"]],
        ["--user", f"{recipient['address']}:{recipient['password']}"],
    )


def _command(*lines: list[str]) -> str:
    return "curl --silent --show-error " + " \\\n  ".join(" ".join(shlex.quote(word) for word in line) for line in lines)
