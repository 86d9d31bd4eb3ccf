"""Make `twistd mailstack` known; all else is in `mailstack.tap`."""

from twisted.application.service import ServiceMaker

mailstack = ServiceMaker(
    "mailstack",
    "mailstack.tap",
    "A complete mail system: SMTP and submission in, durable spool, relay, Maildir, POP3 out.",
    "mailstack",
)
