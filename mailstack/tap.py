"""
From the command line of `twistd mailstack` to the service: argv → settings → compose.

Nothing is opened here: twistd forks, and drops its privileges, after makeService.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
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
    from mailstack.workers.parent import Workers

    is_log_shared = _logs_to_stdout(options.parent)
    is_daemon = options.parent is not None and not options.parent["nodaemon"]
    try:
        if settings.worker_count == 1:
            service: IService = MailSystem(settings, read, reactor, is_daemon=is_daemon)
        else:
            service = Workers(
                settings, read, reactor, random_octets=os.urandom, is_log_shared=is_log_shared, is_daemon=is_daemon
            )
    except RefusedError as error:
        raise SystemExit(f"mailstack: the configuration is refused:\n{path}: {error}") from None
    return _with_lines(service, reactor) if is_log_shared else service


def _logs_to_stdout(twistd: Mapping[str, Any] | None) -> bool:
    """Say whether twistd, with these options, logs to its standard output: all our processes can then write lines there."""
    if twistd is None or not twistd["nodaemon"] or twistd.get("syslog") or twistd["logger"]:
        return False
    return twistd["logfile"] in (None, "", "-")


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
