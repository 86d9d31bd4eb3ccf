"""
The control socket's language: a line of JSON asks, a line of JSON answers.

    {"version": 1, "ask": "find", ...}      what is asked, and with what
    {"version": 1, ...}                     the answer
    {"version": 1, "error": "..."}          nothing was done, for that reason; or it says that some workers have done it

Each request is small, is answered by a bounded part of the whole, and needs nothing of those before it: who wants more asks for
what comes behind `to`. So the server keeps nothing for anybody, and whoever goes away in the middle leaves nothing behind.

    ask       with                                    answer
    find      select, after, limit, behind; and act,    entries, to (behind a recipient: more recipients of one entry)
              text: only what the act is about
    show      id, after                               entry, recipients, to (entry null: there is none)
    headers   id                                      headers, lines (null: there is no such entry)
    content   id, after                               octets in all (null: as above), part in base64, to
    act       act, targets, text, named               entries, recipients, under_way, later, untold, senderless, paused, refused
    pause     domain ("*": all that goes elsewhere)   changed
    resume    domain                                  changed, is_all_paused
    stats     select, per, after                      groups, rest, entries, octets, corrupt, attempts, paused, to
    span                                              first, last (null: nothing is there)
"""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

VERSION: Final = 1
REQUEST_OCTETS: Final = 65_536
ANSWER_OCTETS: Final = 16_777_216
TARGETS: Final = 500
"""The most entries of one act."""
ORDINALS: Final = 1_000
"""The most recipients of one act."""
SOCKET_NAME: Final = "control"

Request = dict[str, Any]
Answer = dict[str, Any]


class ControlError(Exception):
    """What is asked is not to be had; the message says why."""


class Desk(Protocol):
    """Where requests are answered."""

    async def answer(self, request: Request) -> Answer:
        """
        Answer a request.

        Raises:  ControlError.
        """
        ...


def encode(message: dict[str, Any]) -> bytes:
    """Write a request or an answer as a line."""
    return json.dumps({"version": VERSION, **message}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """
    Read a line.

    Raises:  ControlError.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("that is no JSON") from None
    if not isinstance(message, dict):
        raise ControlError("that is no JSON object")
    version = message.pop("version", None)
    if version != VERSION:
        raise ControlError(f"version {str(version)[:20]} of the control socket's language is not known here, but {VERSION} is")
    return message
