"""
Verdicts: what a policy may answer, and the stages at which it is asked.

`None` from a policy means "no opinion, ask the next". Of several policies the first verdict that is not None stands.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from mailstack.mail.reply import Reply, reply


class Stage(enum.Enum):
    """The moments of a session at which policies are asked, in order."""

    CONNECT = "connect"
    HELLO = "hello"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    CONTENT = "content"

    __hash__ = object.__hash__  # it is looked up for each command, and Enum's own is of Python


@dataclass(frozen=True, slots=True)
class Accept:
    """Accept at this stage; policies further down the list are not asked."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """
    Refuse at this stage with this reply: 4yz asks the peer to try again, 5yz is final.

    `cause` is for the log and is never shown to the peer.
    """

    reply: Reply
    cause: str = ""


Verdict = Accept | Refuse

ACCEPT: Final = Accept()


def reject(text: str, code: int = 550, enhanced: str = "5.7.1", cause: str = "") -> Refuse:
    """
    Make a final refusal.

    Raises:  ValueError: the code is not 5yz, or the status does not go with it.
    """
    if code // 100 != 5:
        raise ValueError("a rejection has a 5yz code")
    return Refuse(reply(code, enhanced, text), cause)


def defer(text: str, code: int = 451, enhanced: str = "4.7.1", cause: str = "") -> Refuse:
    """
    Make a temporary refusal.

    Raises:  ValueError: the code is not 4yz, or the status does not go with it.
    """
    if code // 100 != 4:
        raise ValueError("a deferral has a 4yz code")
    return Refuse(reply(code, enhanced, text), cause)
