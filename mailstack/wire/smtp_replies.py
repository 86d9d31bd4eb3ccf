"""
Replies as a client reads them.

Strict, since a reply that is misunderstood can make a message vanish: the code on every line of a reply is the same, only
CRLF ends a line, lines and their number are bounded. Whatever is not a reply is a RemoteProtocolError, and nothing after it
is looked at.

Source:  RFC 5321 §4.2, §4.5.3.1.5; RFC 2034 §4; RFC 5321 §4.1.1.1 (the reply to EHLO); RFC 9422 (LIMITS).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

from mailstack.mail.reply import Reply
from mailstack.mail.status import EnhancedStatus
from mailstack.wire.errors import RemoteProtocolError
from mailstack.wire.lines import LineBuffer

REPLY_LINE_OCTETS: Final = 2_048  # RFC 5321 says 512; some hosts explain themselves at length
REPLY_LINES: Final = 100
PENDING_OCTETS: Final = 262_144  # a reply of so many lines and octets, and the replies to pipelined commands behind it

KNOWN_OCTETS: Final = 80

_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,5}")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")


class ReplyReader:
    """
    Turns octets into replies.

    Shape:  lines of a Reply are printable ASCII, other octets a `?`; the enhanced status is taken off them.
    """

    def __init__(self) -> None:
        self._buffer = LineBuffer(REPLY_LINE_OCTETS)
        self._code = 0
        self._lines: list[str] = []

    @property
    def pending(self) -> int:
        """The octets that are not part of a reply that was returned."""
        pending = self._buffer.pending
        return pending + sum(len(line) + 6 for line in self._lines) if self._lines else pending

    def receive(self, octets: bytes) -> None:
        """
        Keep octets.

        Raises:  RemoteProtocolError: more than any honest server sends unasked.
        """
        if self._buffer.pending + len(octets) > PENDING_OCTETS:
            raise RemoteProtocolError("too many octets for a reply")
        self._buffer.receive(octets)

    def begins_with_refusal(self) -> bool:
        """Say whether what is pending begins like a 4yz or 5yz reply."""
        if self._lines:
            return self._code >= 400
        return self._buffer.begins_with(b"4") or self._buffer.begins_with(b"5")

    def next_of(self, codes: Collection[bytes]) -> Reply | None:
        """
        Return the next reply if it is complete and has one of these codes; else it stays.

        Raises:  RemoteProtocolError: it is not a reply.
        """
        begins = b"%d" % self._code in codes if self._lines else any(self._buffer.begins_with(code) for code in codes)
        return self.next_reply() if begins else None

    def holds_refusals_only(self) -> bool:
        """Say whether each line that is pending begins like one of a 4yz or 5yz reply."""
        octets = self._buffer.take()
        self._buffer.receive(octets)
        return self.begins_with_refusal() and all(line[:1] in (b"", b"4", b"5") for line in octets.split(b"\r\n"))

    def next_reply(self) -> Reply | None:
        """
        Return the next reply, or None when it is not complete.

        Raises:  RemoteProtocolError: it is not a reply.
        """
        while (line := self._buffer.next_line()) is not None:
            if not isinstance(line, bytes):
                raise RemoteProtocolError(f"a reply line longer than {REPLY_LINE_OCTETS} octets")
            code, text, whole = _parse_known(line) if len(line) <= KNOWN_OCTETS else _parse(line)
            if whole is not None and not self._lines:
                return whole
            if self._lines and code != self._code:
                raise RemoteProtocolError(f"a reply of the codes {self._code} and {code}")
            if len(self._lines) >= REPLY_LINES:
                raise RemoteProtocolError(f"a reply of more than {REPLY_LINES} lines")
            self._code = code
            self._lines.append(text)
            if whole is not None:
                lines, self._lines = self._lines, []
                return _reply(code, lines)
        return None


def _parse(line: bytes) -> tuple[int, str, Reply | None]:
    """
    Parse a line: its code, its text, and the reply that it is when it stands alone; None: another line follows.

    Raises:  RemoteProtocolError.
    """
    found = _LINE.fullmatch(line)
    if found is None or b"\n" in line:
        raise RemoteProtocolError(f"not a reply: {printable(line)[:80]!r}")
    code, mark, text = int(found[1]), found[2], printable(found[3] or b"")
    return code, text, None if mark == b"-" else _reply(code, [text])


_parse_known: Final = lru_cache(maxsize=256)(_parse)  # a host says the same few things all the time


def printable(octets: bytes) -> str:
    """Return octets from outside as printable ASCII."""
    return _UNPRINTABLE.sub("?", octets.decode("latin-1"))


def _reply(code: int, lines: list[str]) -> Reply:
    status = EnhancedStatus.parse(lines[0])
    if status is None or status.kind != code // 100:
        return Reply(code, tuple(lines))
    mark = str(status)
    return Reply(code, tuple(line.removeprefix(mark).removeprefix(" ") for line in lines), status)


def capabilities(hello: Reply) -> Mapping[str, tuple[str, ...]]:
    """
    Read what the server offers from its reply to EHLO: keywords in upper case, each with its parameters.

    Shape:  `AUTH=LOGIN`, which old servers write, counts as AUTH.
    """
    offered: dict[str, tuple[str, ...]] = {}
    for line in hello.lines[1:]:
        words = (
            line.upper().replace("AUTH=", "AUTH ", 1).split(" ")
            if line.upper().startswith("AUTH=")
            else line.upper().split(" ")
        )
        keyword, *parameters = [word for word in words if word] or [""]
        if keyword:
            offered[keyword] = offered.get(keyword, ()) + tuple(parameters)
    return offered


def limit(offered: Mapping[str, tuple[str, ...]], name: str) -> int | None:
    """Return a limit that the server announces, RCPTMAX or MAILMAX; None: none, or no number from 1 to 999999 (RFC 9422 §3)."""
    for parameter in offered.get("LIMITS", ()):
        word, _, number = parameter.partition("=")
        if word == name and _LIMIT.fullmatch(number):
            return int(number)
    return None
