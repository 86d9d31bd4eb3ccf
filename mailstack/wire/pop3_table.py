"""
The states of a POP3 session, and which command may come in which.

    state          command                        +OK            -ERR           +
    GREETING       (the greeting)                 AUTHORIZATION  CLOSED
    AUTHORIZATION  USER                           USER_GIVEN     AUTHORIZATION
                   AUTH                           TRANSACTION    AUTHORIZATION  SASL
                   STLS                           STARTING_TLS   AUTHORIZATION
                   CAPA                           the same       the same
                   QUIT                           CLOSED         CLOSED
    USER_GIVEN     as AUTHORIZATION, and PASS     TRANSACTION    AUTHORIZATION
    SASL           (a response)                   TRANSACTION    AUTHORIZATION  the same
    STARTING_TLS   nothing: what comes now is TLS, or an attack
    TRANSACTION    CAPA STAT LIST UIDL RETR TOP DELE RSET NOOP
                                                  the same       the same
                   QUIT                           CLOSED         CLOSED
    CLOSED         nothing

What is not in the table is refused and changes nothing. A reply that closes the connection leads to CLOSED from everywhere.
The UPDATE state of RFC 1939 §6 is the time in which the reply to QUIT is owed.

This module knows nothing but the table: whatever moves a session stands here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mailstack.wire.pop3_commands import Indicator, POP3Reply, Verb


class State(enum.Enum):
    """Where a session is (RFC 1939 §3)."""

    GREETING = enum.auto()
    AUTHORIZATION = enum.auto()
    USER_GIVEN = enum.auto()
    SASL = enum.auto()
    STARTING_TLS = enum.auto()
    TRANSACTION = enum.auto()
    CLOSED = enum.auto()

    __hash__ = object.__hash__  # as that of Verb


class Step(enum.Enum):
    """What moves a session and is no command."""

    GREET = enum.auto()
    RESPOND = enum.auto()


class Guard(enum.Enum):
    """A condition besides the state."""

    NONE = enum.auto()
    CONFIDENTIAL = enum.auto()  # there is TLS, or none is required
    TLS_OFFERED = enum.auto()  # TLS can be started and was not


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a reply leads."""

    on_ok: State
    on_err: State
    on_continue: State | None = None
    guard: Guard = Guard.NONE


def next_state(rule: Rule, reply: POP3Reply) -> State:
    """
    Return where a reply leads.

    Raises:  ValueError: this command has no such reply.
    """
    if reply.closes:
        return State.CLOSED
    if reply.indicator is Indicator.OK:
        return rule.on_ok
    if reply.indicator is Indicator.ERR:
        return rule.on_err
    if rule.on_continue is None:
        raise ValueError("no continuation here")
    return rule.on_continue


def _login(state: State) -> dict[tuple[State, Verb | Step], Rule]:
    """Return the rules of a session that is not logged in."""
    begin, logged_in = State.AUTHORIZATION, State.TRANSACTION
    return {
        (state, Verb.USER): Rule(State.USER_GIVEN, begin, guard=Guard.CONFIDENTIAL),
        (state, Verb.AUTH): Rule(logged_in, begin, State.SASL, guard=Guard.CONFIDENTIAL),
        (state, Verb.STLS): Rule(State.STARTING_TLS, begin, guard=Guard.TLS_OFFERED),
        (state, Verb.CAPA): Rule(state, state),
        (state, Verb.QUIT): Rule(State.CLOSED, State.CLOSED),
    }


_STAY: Final = (Verb.CAPA, Verb.STAT, Verb.LIST, Verb.UIDL, Verb.RETR, Verb.TOP, Verb.DELE, Verb.RSET, Verb.NOOP)

RULES: Final[Mapping[tuple[State, Verb | Step], Rule]] = {
    (State.GREETING, Step.GREET): Rule(State.AUTHORIZATION, State.CLOSED),
    **_login(State.AUTHORIZATION),
    **_login(State.USER_GIVEN),
    (State.USER_GIVEN, Verb.PASS): Rule(State.TRANSACTION, State.AUTHORIZATION, guard=Guard.CONFIDENTIAL),
    (State.SASL, Step.RESPOND): Rule(State.TRANSACTION, State.AUTHORIZATION, State.SASL),
    **{(State.TRANSACTION, verb): Rule(State.TRANSACTION, State.TRANSACTION) for verb in _STAY},
    (State.TRANSACTION, Verb.QUIT): Rule(State.CLOSED, State.CLOSED),
}
