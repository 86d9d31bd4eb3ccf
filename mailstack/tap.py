"""
From the command line of `twistd mailstack` to the service: argv → settings → compose.

Nothing is opened here: twistd forks, and drops its privileges, after makeService.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.application.service import IService
from twisted.python import usage

from mailstack.settings import Settings, SettingsError, load

DEFAULT_CONFIG = "/etc/mailstack/mailstack.toml"


class Options(usage.Options):
    """The options of `twistd mailstack`."""

    longdesc = (
        "Run a complete mail system: SMTP and submission in, a durable spool, relay to other domains, delivery to maildirs, "
        "and POP3. `mailstack init DIR` makes a configuration; `mailstack check --config FILE` finds what is wrong in one."
    )
    optParameters = [["config", "c", None, f"The configuration (default: $MAILSTACK_CONFIG, or {DEFAULT_CONFIG})"]]


def makeService(options: Options) -> IService:
    """
    Read the configuration and build the house.

    Raises:  SystemExit: the configuration is wrong; the message has every error with its file, line and reason. (twistd shows
             a usage.UsageError from here with a traceback, and one from Options with all its options and exit status 0.)
    """
    path = Path(options["config"] or os.environ.get("MAILSTACK_CONFIG") or DEFAULT_CONFIG).absolute()

    def read() -> Settings:
        return load(path)

    try:
        settings = read()
    except SettingsError as error:
        raise SystemExit(f"mailstack: the configuration is refused:\n{error}") from None
    # The reactor is chosen by twistd's own options, which are read after this module is imported.
    from twisted.internet import reactor

    from mailstack.system import MailSystem, RefusedError

    try:
        return MailSystem(settings, read, reactor)
    except RefusedError as error:
        raise SystemExit(f"mailstack: the configuration is refused:\n{path}: {error}") from None
