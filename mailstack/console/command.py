"""The command `mailstack`: what the operator types."""

from __future__ import annotations

import click

from mailstack import __version__
from mailstack.console.accounts import account
from mailstack.console.aliases import alias
from mailstack.console.asking import Commands
from mailstack.console.check import check
from mailstack.console.demo import demo
from mailstack.console.domains import domain
from mailstack.console.init import init
from mailstack.console.queue import queue


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 refused (the message says why and what to do), 2 not understood.",
)
@click.version_option(__version__, prog_name="mailstack")
def main() -> None:
    """
    Operate a mailstack: make an installation, check it, say who exists, and see to the mail that waits.

    The server itself is run by twistd: twistd -n mailstack --config FILE
    """


for command in (init, check, domain, account, alias, queue, demo):
    main.add_command(command)
