"""
From the command line of `twistd mailstack` to the service: argv → settings → compose.

Nothing is opened here: twistd forks, and drops its privileges, after makeService.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver
from twisted.python import usage

from mailstack.loglines import LineObserver, standard_output
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
        system = MailSystem(settings, read, reactor)
    except RefusedError as error:
        raise SystemExit(f"mailstack: the configuration is refused:\n{path}: {error}") from None
    return _with_lines(system, reactor) if _logs_to_standard_output(options.parent) else system


def _logs_to_standard_output(twistd: Any) -> bool:
    """Say whether twistd would make the log's lines itself, on standard output."""
    if twistd is None or twistd["logger"] or twistd.get("syslog"):
        return False
    return bool(twistd["nodaemon"] or twistd.get("debug")) and twistd["logfile"] in (None, "", "-")


def _with_lines(service: IService, reactor: Any) -> IService:
    observer = LineObserver(standard_output, reactor.callLater)
    atexit.register(observer.flush)
    outer = _Logging(observer)
    service.setServiceParent(outer)
    return outer


class _Logging(MultiService):
    """Tells the application, before twistd asks it, by which observer to log."""

    def __init__(self, observer: LineObserver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's is untyped
        self._observer = observer

    def setServiceParent(self, parent: Any) -> None:
        parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]  # as above
