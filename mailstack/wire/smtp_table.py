"""
The states of an SMTP, submission or LMTP session, and which command may come in which.

    state         command                         2yz           3yz        4yz, 5yz
    GREETING      (the greeting)                  START                    CLOSED
    START         HELO EHLO LHLO                  READY                    the same
                  STARTTLS                        STARTING_TLS             the same
                  XCLIENT                         the same                 CLOSED
                  XFORWARD                        the same                 the same
    READY         HELO EHLO LHLO                  the same                 the same
                  STARTTLS                        STARTING_TLS             the same
                  XCLIENT                         START                    CLOSED
                  XFORWARD                        the same                 the same
                  AUTH                            READY         EXCHANGE   READY
                  MAIL                            SENDER                   the same
    SENDER        RCPT                            RECIPIENTS               the same
                  HELO EHLO LHLO RSET             READY                    the same
    RECIPIENTS    RCPT                            the same                 the same
                  DATA                                          CONTENT    the same
                  BDAT                                          CHUNKS     READY
                  HELO EHLO LHLO RSET             READY                    the same
    CHUNKS        BDAT                            the same                 READY
                  HELO EHLO LHLO RSET             READY                    the same
    START READY SENDER RECIPIENTS CHUNKS
                  RSET NOOP VRFY HELP             the same (but RSET, above)
                  QUIT                            CLOSED                   CLOSED
    CONTENT CHUNKS (the end of the content)       READY                    READY
    EXCHANGE      (a response)                    READY         the same   READY
    STARTING_TLS  nothing: what comes now is TLS, or an attack
    CLOSED        nothing

XCLIENT is answered by a greeting, or by the refusal of the session.

What is not in the table is refused, and changes nothing. A 421 leads to CLOSED from everywhere. A refused hello leaves the
session as it was (RFC 5321 §4.1.4). Whatever became of a content, the transaction is over after it.

This module knows nothing but the tables: whatever moves a session stands here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mailstack.mail import reply as replies
from mailstack.mail.reply import Reply
from mailstack.wire.smtp_commands import Verb


class Role(enum.Enum):
    """Whom we serve: anybody (RFC 5321), our own users (RFC 6409), a neighbour in the house (RFC 2033)."""

    MX = "mx"
    SUBMISSION = "submission"
    LMTP = "lmtp"


class State(enum.Enum):
    """Where a session is."""

    GREETING = enum.auto()
    START = enum.auto()
    READY = enum.auto()
    SENDER = enum.auto()
    RECIPIENTS = enum.auto()
    CONTENT = enum.auto()
    CHUNKS = enum.auto()
    EXCHANGE = enum.auto()
    STARTING_TLS = enum.auto()
    CLOSED = enum.auto()

    __hash__ = object.__hash__  # as of `Verb`


class Step(enum.Enum):
    """What moves a session and is no command."""

    GREET = enum.auto()
    END_CONTENT = enum.auto()
    RESPOND = enum.auto()

    __hash__ = object.__hash__  # as of `Verb`


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a reply leads; None is where the session already is."""

    on_success: State | None = None
    on_continue: State | None = None
    on_failure: State | None = None


REFUSAL: Final = Rule()
"""The rule of a command that is refused for its form or its place."""

_HELLO: Final = (Verb.HELO, Verb.EHLO, Verb.LHLO)
_SAME: Final = Rule()
_TO_READY: Final = Rule(on_success=State.READY)
_ANYWHERE: Final = {
    Verb.NOOP: _SAME,
    Verb.VRFY: _SAME,
    Verb.HELP: _SAME,
    Verb.QUIT: Rule(State.CLOSED, on_failure=State.CLOSED),
} | dict.fromkeys(_HELLO, _TO_READY)

_OF_PROXIES: Final = {Verb.XCLIENT: Rule(State.START, on_failure=State.CLOSED), Verb.XFORWARD: _SAME}

_COMMANDS: Final[Mapping[State, Mapping[Verb, Rule]]] = {
    State.START: {Verb.RSET: _SAME, Verb.STARTTLS: Rule(State.STARTING_TLS), **_OF_PROXIES},
    State.READY: {
        **_OF_PROXIES,
        Verb.RSET: _SAME,
        Verb.STARTTLS: Rule(State.STARTING_TLS),
        Verb.AUTH: Rule(on_continue=State.EXCHANGE),
        Verb.MAIL: Rule(State.SENDER),
    },
    State.SENDER: {Verb.RSET: _TO_READY, Verb.RCPT: Rule(State.RECIPIENTS)},
    State.RECIPIENTS: {
        Verb.RSET: _TO_READY,
        Verb.RCPT: _SAME,
        Verb.DATA: Rule(on_continue=State.CONTENT),
        Verb.BDAT: Rule(on_continue=State.CHUNKS, on_failure=State.READY),
    },
    State.CHUNKS: {Verb.RSET: _TO_READY, Verb.BDAT: Rule(on_failure=State.READY)},
}

RULES: Final[Mapping[tuple[State, Verb | Step], Rule]] = {
    (state, verb): rule for state, rules in _COMMANDS.items() for verb, rule in {**_ANYWHERE, **rules}.items()
} | {
    (State.GREETING, Step.GREET): Rule(State.START, on_failure=State.CLOSED),
    (State.CONTENT, Step.END_CONTENT): Rule(State.READY, on_failure=State.READY),
    (State.CHUNKS, Step.END_CONTENT): Rule(State.READY, on_failure=State.READY),
    (State.EXCHANGE, Step.RESPOND): Rule(State.READY, on_failure=State.READY),
}

# What a role does not know, and the answer. RFC 2033 §4.1: LMTP refuses HELO and EHLO, SMTP does not know LHLO.
UNKNOWN: Final[Mapping[Role, Mapping[Verb, Reply]]] = {
    Role.MX: {Verb.LHLO: replies.UNKNOWN_COMMAND, Verb.AUTH: replies.NOT_IMPLEMENTED, Verb.EXPN: replies.NOT_IMPLEMENTED},
    Role.SUBMISSION: {Verb.LHLO: replies.UNKNOWN_COMMAND, Verb.EXPN: replies.NOT_IMPLEMENTED},
    Role.LMTP: {
        Verb.HELO: replies.UNKNOWN_COMMAND,
        Verb.EHLO: replies.UNKNOWN_COMMAND,
        Verb.AUTH: replies.NOT_IMPLEMENTED,
        Verb.EXPN: replies.NOT_IMPLEMENTED,
    },
}

# A peer that pipelines cannot know that all its recipients were refused (RFC 2920 §3.1 wants 554 then).
_OUT_OF_PLACE: Final[Mapping[tuple[State, Verb], Reply]] = {
    (State.SENDER, Verb.DATA): replies.NO_RECIPIENTS,
    (State.SENDER, Verb.BDAT): replies.NO_RECIPIENTS,
}


def out_of_place(state: State, verb: Verb) -> Reply:
    """Return the refusal of a command for which the state has no rule."""
    return _OUT_OF_PLACE.get((state, verb), replies.BAD_SEQUENCE)


def next_state(state: State, rule: Rule, reply: Reply) -> State:
    """Return where a reply leads."""
    if reply.code == 421:
        return State.CLOSED
    if reply.is_success:
        return rule.on_success or state
    if reply.code < 400:
        return rule.on_continue or state
    return rule.on_failure or state
