"""
What an attempt has brought so far: dispositions, and the recipients that still have none.

The rule for hosts: what a host says of a recipient, or of the message, stands; for those it said nothing of, the next host is
tried. When no host is left, it is FAILED only if every one of them had a final reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from twisted.internet.defer import CancelledError

from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Recipient
from mailstack.mail.reply import Reply
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.protocol import Trouble
from mailstack.relay.standing import standing_of_obstacle, standing_of_reply
from mailstack.route.hosts import Hop, NoRoute
from mailstack.wire.smtp_mailing import Phase, Result

DIAGNOSTIC_CHARACTERS: Final = 400
_TOO_MANY_RECIPIENTS: Final = EnhancedStatus(5, 5, 3)


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
        self._obstacles: list[tuple[Hop | None, Trouble | NoRoute]] = []

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

    def take(self, hop: Hop, ordinals: Sequence[int], results: Sequence[Result | None], tls: str = "") -> None:
        """Note what a host said of recipients."""
        for ordinal, result in zip(ordinals, results, strict=True):
            if result is not None:
                self._done[ordinal] = _disposition(ordinal, hop, result, tls, self._is_delivery)

    def delay(self, hop: Hop, ordinals: Sequence[int], trouble: Trouble) -> None:
        """Note that a host failed with the content under way: the next host is for the next attempt."""
        for ordinal in ordinals:
            if ordinal not in self._done:
                self._done[ordinal] = _from_obstacle(ordinal, hop, trouble, is_final=False)

    def note(self, hop: Hop | None, obstacle: Trouble | NoRoute) -> None:
        """Note why a host took nothing, or that it cannot even be reached."""
        self._obstacles.append((hop, obstacle))

    def conclude(self) -> list[Disposition]:
        """Return a disposition for every recipient."""
        temporary = [each for each in self._obstacles if not each[1].status.is_permanent]
        hop, obstacle = (temporary or self._obstacles or [(None, _NOTHING_TRIED)])[-1]
        standing, wait_seconds = standing_of_obstacle(obstacle), _wait_seconds([each for _, each in temporary])
        for ordinal in self.open:
            found = _from_obstacle(ordinal, hop, obstacle, is_final=obstacle.status.is_permanent)
            self._done[ordinal] = replace(found, standing=standing, wait_seconds=wait_seconds)
        return [self._done[ordinal] for ordinal in self._recipients]


_NOTHING_TRIED: Final = Trouble(EnhancedStatus(4, 4, 0), "No host was tried")


def _wait_seconds(obstacles: Sequence[Trouble | NoRoute]) -> float:
    """Return the time for which it is of no use to ask again, if nobody was asked: all is known from before."""
    waits = [each.wait_seconds if isinstance(each, Trouble) else 0.0 for each in obstacles]
    return min(waits, default=0.0)


def _disposition(ordinal: int, hop: Hop, result: Result, tls: str, is_delivery: bool) -> Disposition:
    reply = result.reply
    taken = Action.DELIVERED if is_delivery and "DSN" not in result.honours else Action.RELAYED
    action = taken if result.is_accepted else Action.FAILED if _is_final(result) else Action.DELAYED
    return Disposition(
        ordinal=ordinal,
        action=action,
        status=_status(action, reply),
        diagnostic=str(reply)[:DIAGNOSTIC_CHARACTERS],
        remote_mta=hop.host,
        cause=f"address={hop.address} {'before' if result.is_local else 'in reply to'} {result.phase.value}",
        honours=result.honours,
        tls=tls or "none",
        standing=None if result.is_local else standing_of_reply(reply),
        address=hop.address,
    )


def _is_final(result: Result) -> bool:
    if not result.reply.is_permanent:
        return False
    # RFC 5321 §4.5.3.1.10: some hosts say 552 where they mean 452, too many recipients.
    too_many = result.phase is Phase.RCPT and result.reply.code == 552 and result.reply.enhanced in (None, _TOO_MANY_RECIPIENTS)
    return not too_many


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
