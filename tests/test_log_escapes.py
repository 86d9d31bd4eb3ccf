"""What others write is one line of printable text in the log, whatever it is: no line is forged, no terminal is steered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from mailstack import events
from mailstack.loglines import LineObserver
from mailstack.mail.address import Address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.reply import reply
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.verdict import Stage

# A line end, a terminal's escape, C1, the separators of str.splitlines, right-to-left override, zero width, a lone surrogate.
HOSTILE = "x\n2026-01-01 [mailstack#info] forged\r\x1b[2J\x85\u2028\u202e\u200b\ud800"
ADDRESS = Address(HOSTILE, HOSTILE)
SAYS: list[Callable[[], Any]] = [
    lambda: events.authenticated("s1", HOSTILE),
    lambda: events.client_certificate_refused("192.0.2.1", HOSTILE, "cert revoked"),
    lambda: events.authentication_failed("s1", HOSTILE, "192.0.2.1"),
    lambda: events.token_unchecked("s1", HOSTILE),
    lambda: events.command_refused("s1", reply(500, "5.5.2", HOSTILE), HOSTILE),
    lambda: events.transaction_refused("s1", Stage.RCPT, reply(550, "5.1.1", HOSTILE), HOSTILE, ADDRESS, ADDRESS),
    lambda: events.entry_accepted("e", "s1", ADDRESS, 1, 1),
    lambda: events.attempt_finished(
        "e",
        Disposition(
            ordinal=0,
            action=Action.FAILED,
            status=EnhancedStatus(5, 0, 0),
            diagnostic=HOSTILE,
            remote_mta=HOSTILE,
            cause=HOSTILE,
        ),
        ADDRESS,
    ),
    lambda: events.dsn_dropped("e", HOSTILE),
    lambda: events.session_closed("s1", HOSTILE),
    lambda: events.maildrop_opened("s1", HOSTILE, 1, 1),
    lambda: events.maildrop_closed("s1", HOSTILE, 1, 0),
]


@pytest.mark.parametrize("say", SAYS)
def test_it_is_one_line_of_printable_text(say: Callable[[], Any]) -> None:
    written: list[bytes] = []
    observer = LineObserver(written.append, lambda *_: None)
    globalLogPublisher.addObserver(observer)
    try:
        say()
    finally:
        globalLogPublisher.removeObserver(observer)
    observer.flush()
    text = b"".join(written).decode()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert text.count("forged") >= 1, "it is still to be found there"
