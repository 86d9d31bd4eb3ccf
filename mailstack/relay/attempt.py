"""
What an attempt has brought so far: dispositions, and the recipients that still have none.

The rule for hosts: what a host says of a recipient, or of the message, stands; for those it said nothing of, the next host is
tried. So it is for those to whom the host cannot take the message, since it lacks an extension or room that another may have,
and when it refuses MAIL for now, perhaps since its disk is full. When no host is left, it is FAILED only if every one of them
had a final reason, and none was left out.

A refusal that asks for TLS or a login (530, 538, 5.7.10) is not one: it is about the way, and ways mend. Nor is one of MAIL in
a session that is in clear because TLS could not be had: some hosts say so that they want it, others in words about recipients,
and some offer within TLS what they lack in clear. Nor is 503 to MAIL, which is about the session: one that is used again may
not be where we take it to be.

Source:  RFC 5321 §5.1 (after a temporary failure the next host); RFC 8689 §4.2.1 (after a host without REQUIRETLS the next);
         RFC 3207 §4, RFC 4954 §6 (530, 538).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from twisted.internet.defer import CancelledError

from mailstack.mail.disposition import Action, Disposition, Standing
from mailstack.mail.envelope import Recipient
from mailstack.mail.reply import NEEDS_DELIVERBY, NEEDS_REQUIRETLS, NEEDS_SMTPUTF8, TOO_LATE, Reply
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.protocol import Trouble
from mailstack.relay.standing import standing_of_obstacle, standing_of_reply
from mailstack.route.hosts import Hop, NoRoute
from mailstack.wire.smtp_mailing import Phase, Result

DIAGNOSTIC_CHARACTERS: Final = 400
_TOO_MANY_RECIPIENTS: Final = EnhancedStatus(5, 5, 3)
_WANTS_TLS_OR_LOGIN: Final = (530, 538)
_WANTS_TLS: Final = EnhancedStatus(5, 7, 10)  # "Encryption Needed"; some hosts say so of a recipient
_OUT_OF_ORDER: Final = 503  # RFC 5321 §4.2.2
_MENTIONS_TLS: Final = re.compile(r"\b(start)?tls\b|\bssl\b|encrypt", re.IGNORECASE)


class BrokenOffError(CancelledError):
    """The attempt was cancelled; `outcomes` are what it has come to, which stands, or it would be sent once more."""

    def __init__(self, outcomes: list[Disposition]) -> None:
        super().__init__("broken off")
        self.outcomes = outcomes


class Attempt:
    """
    The state of one attempt.

    Shape:  with `is_delivery` the host delivers and does not relay. Then it is DELIVERED what it takes, unless it will itself
            tell the sender of it: so it is said once, and not of what is only handed on (RFC 3461 §5.2.3, §6.2.2).
    """

    def __init__(self, recipients: Mapping[int, Recipient], *, is_delivery: bool = False) -> None:
        self._recipients = recipients
        self._asked: set[tuple[Hop, int]] = set()
        self._is_delivery = is_delivery
        self._done: dict[int, Disposition] = {}
        self._obstacles: list[_Obstacle] = []
        self._left_out = False

    @property
    def open(self) -> tuple[int, ...]:
        """The ordinals without a disposition."""
        return tuple(ordinal for ordinal in self._recipients if ordinal not in self._done)

    def ask(self, hop: Hop, ordinals: Sequence[int]) -> None:
        """Note for whom a host was asked; whatever it said, it is not asked again."""
        self._asked.update((hop, ordinal) for ordinal in ordinals)

    def left(self, hop: Hop) -> tuple[int, ...]:
        """Return the open ordinals for which a host was not asked."""
        return tuple(ordinal for ordinal in self.open if (hop, ordinal) not in self._asked)

    def groups(self, hop: Hop, size: int) -> Iterable[tuple[int, ...]]:
        """Return those for which a host is to be asked in groups, one for each transaction."""
        left = self.left(hop)
        return [left[start : start + size] for start in range(0, len(left), size)]

    def take(
        self, hop: Hop, ordinals: Sequence[int], results: Sequence[Result | None], tls: str = "", *, lost_tls: bool = False
    ) -> None:
        """
        Note what a host said of recipients, and for whom it leaves the next host to be tried.

        Shape:  `lost_tls`: the session was in clear because TLS failed or was refused.
        """
        led_on: dict[Disposition, list[int]] = {}
        for ordinal, result in zip(ordinals, results, strict=True):
            if result is None:
                continue
            is_final = _is_final(result, lost_tls=lost_tls)
            if _leads_on(result, is_final=is_final):
                outcome = _disposition(_NOBODY, hop, result, tls, self._is_delivery, is_final=is_final)
                led_on.setdefault(outcome, []).append(ordinal)
            else:
                self._done[ordinal] = _disposition(ordinal, hop, result, tls, self._is_delivery, is_final=is_final)
        self._obstacles.extend(_Obstacle(outcome, frozenset(whom)) for outcome, whom in led_on.items())

    def delay(self, hop: Hop, ordinals: Sequence[int], trouble: Trouble) -> None:
        """Note that a host failed with the content under way: the next host is for the next attempt."""
        for ordinal in ordinals:
            if ordinal not in self._done:
                self._done[ordinal] = _from_obstacle(ordinal, hop, trouble, is_final=False)

    def note(self, hop: Hop | None, obstacle: Trouble | NoRoute, whom: Iterable[int] | None = None) -> None:
        """Note why a host took nothing, for these or for all that are open, or that it cannot even be reached."""
        self._obstacles.append(_Obstacle(_outcome_of(hop, obstacle), None if whom is None else frozenset(whom)))

    def leave_out(self) -> None:
        """Note that there are hosts which were not tried: then no obstacle is final."""
        self._left_out = True

    def conclude(self) -> list[Disposition]:
        """Return a disposition for every recipient."""
        for ordinal in self.open:
            met = [each for each in self._obstacles if each.whom is None or ordinal in each.whom]
            outcome = _outcome(met or [_Obstacle(_outcome_of(None, _NOTHING_TRIED))])
            self._done[ordinal] = replace(_for_now(outcome) if self._left_out else outcome, ordinal=ordinal)
        return [self._done[ordinal] for ordinal in self._recipients]


_NOTHING_TRIED: Final = Trouble(EnhancedStatus(4, 4, 0), "No host was tried")
_NOBODY: Final = -1


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """
    Why one host did not take the message.

    Shape:  `outcome` is what it comes to if nothing else does, for nobody yet; `whom` are the ordinals that it is about, None:
            all that were open.
    """

    outcome: Disposition
    whom: frozenset[int] | None = None

    @property
    def is_lack(self) -> bool:
        """Whether the host was there, and lacks what one message or recipient needs."""
        return self.whom is not None and self.outcome.action is Action.FAILED


def _outcome_of(hop: Hop | None, obstacle: Trouble | NoRoute) -> Disposition:
    outcome = _from_obstacle(_NOBODY, hop, obstacle, is_final=obstacle.status.is_permanent)
    wait_seconds = obstacle.wait_seconds if isinstance(obstacle, Trouble) else 0.0
    return replace(outcome, standing=standing_of_obstacle(obstacle), wait_seconds=wait_seconds)


def _outcome(met: Sequence[_Obstacle]) -> Disposition:
    """Return what the obstacles that one recipient has met come to."""
    outcomes = [each.outcome for each in met]
    temporary = [each for each in outcomes if each.action is Action.DELAYED]
    # For that time it is of no use to ask again, if nobody was asked: all is known from before.
    wait_seconds = min((each.wait_seconds for each in temporary), default=0.0)
    # A host that answered may have meant this sender: for others the destination is up, even if its other hosts are not.
    answers = [each for each in temporary if each.standing is Standing.UP]
    outcome = replace((answers or temporary or outcomes)[-1], wait_seconds=wait_seconds)
    if temporary and any(each.is_lack for each in met):  # what others send needs it perhaps not, and there is a host for that
        outcome = replace(outcome, standing=Standing.UP, wait_seconds=0.0)
    return outcome


def _for_now(outcome: Disposition) -> Disposition:
    """Make an outcome temporary."""
    status = EnhancedStatus(4, outcome.status.subject, outcome.status.detail)
    return replace(outcome, action=Action.DELAYED, status=status)


def _leads_on(result: Result, *, is_final: bool) -> bool:
    """Say whether a result leaves the next host to be tried: that it is too late is no lack of the host's."""
    if result.is_local:
        return result.reply is not TOO_LATE
    return result.phase is Phase.MAIL and not is_final


def _disposition(ordinal: int, hop: Hop, result: Result, tls: str, is_delivery: bool, *, is_final: bool) -> Disposition:
    reply = result.reply
    taken = Action.DELIVERED if is_delivery and "DSN" not in result.honours else Action.RELAYED
    action = taken if result.is_accepted else Action.FAILED if is_final else Action.DELAYED
    return Disposition(
        ordinal=ordinal,
        action=action,
        status=_status(action, reply),
        diagnostic=(reply.text if result.is_local else str(reply))[:DIAGNOSTIC_CHARACTERS],
        remote_mta=hop.host,
        cause=f"address={hop.address} {'before' if result.is_local else 'in reply to'} {result.phase.value}",
        honours=result.honours,
        tls=tls or "none",
        standing=None if result.is_local else _standing(result),
        address=hop.address,
    )


def _standing(result: Result) -> Standing:
    """Say what a reply shows: a host that takes no MAIL before it has TLS or a login cannot be used."""
    is_wanting = result.phase is Phase.MAIL and result.reply.code in _WANTS_TLS_OR_LOGIN
    return Standing.DOWN if is_wanting else standing_of_reply(result.reply)


def _is_final(result: Result, *, lost_tls: bool) -> bool:
    if not result.reply.is_permanent or result.reply.code in _WANTS_TLS_OR_LOGIN or result.reply.enhanced == _WANTS_TLS:
        return False
    if result.phase is Phase.MAIL and result.reply.code == _OUT_OF_ORDER:
        return False
    if lost_tls and _may_be_for_want_of_tls(result):
        return False
    # RFC 5321 §4.5.3.1.10: some hosts say 552 where they mean 452, too many recipients.
    too_many = result.phase is Phase.RCPT and result.reply.code == 552 and result.reply.enhanced in (None, _TOO_MANY_RECIPIENTS)
    return not too_many


def _may_be_for_want_of_tls(result: Result) -> bool:
    """Say whether something may be taken within TLS that was refused in clear, or that the host could not be asked for."""
    if result.is_local:
        return result.reply in (NEEDS_SMTPUTF8, NEEDS_DELIVERBY, NEEDS_REQUIRETLS)
    return result.phase is Phase.MAIL or _MENTIONS_TLS.search(result.reply.text) is not None


def _status(action: Action, reply: Reply) -> EnhancedStatus:
    kind = {Action.DELIVERED: 2, Action.RELAYED: 2, Action.DELAYED: 4, Action.FAILED: 5}[action]
    if reply.enhanced is None:
        return EnhancedStatus(kind, 0, 0)
    return EnhancedStatus(kind, reply.enhanced.subject, reply.enhanced.detail)


def _from_obstacle(ordinal: int, hop: Hop | None, obstacle: Trouble | NoRoute, *, is_final: bool) -> Disposition:
    text = obstacle.text if isinstance(obstacle, Trouble) else obstacle.diagnostic
    where = f"address={hop.address} " if hop is not None else ""
    return Disposition(
        ordinal=ordinal,
        action=Action.FAILED if is_final else Action.DELAYED,
        status=obstacle.status,
        diagnostic=text[:DIAGNOSTIC_CHARACTERS],
        remote_mta=hop.host if hop is not None and isinstance(obstacle, Trouble) and not obstacle.is_local else None,
        cause=(where + obstacle.cause)[:DIAGNOSTIC_CHARACTERS],
        tls=obstacle.tls if isinstance(obstacle, Trouble) else "",
        address=hop.address if hop is not None else "",
    )
