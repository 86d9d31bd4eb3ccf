"""
Backoff: when to try again, and when to give up. Pure.

Source:  RFC 5321 §4.5.4.1: retries spread over time, give up after 4 to 5 days. Deviates: RFC 5321 §4.5.4.1 wants 30 minutes
         before the first retry; the first few come sooner, since most delays are greylisting, which ends after 5 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailstack.mail.envelope import Envelope

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """
    How often and how long.

    Shape:  `spread` is the part of a delay by which chance shortens or lengthens it, so that entries which failed together do
            not all come back together. `warning_seconds`: when the sender is told of a delay; 0: never.
    """

    first_seconds: float = 300.0
    factor: float = 2.0
    longest_seconds: float = 14_400.0
    spread: float = 0.1
    lifetime_seconds: float = 5.0 * DAY_SECONDS
    null_lifetime_seconds: float = 2.0 * DAY_SECONDS
    warning_seconds: float = 14_400.0

    def delay_seconds(self, attempts: int, chance: float) -> float:
        """
        Say how long to wait after so many attempts.

        Shape:   `attempts` counts from 1; `chance` is 0 <= x < 1. Never more than `longest_seconds`.
        """
        doublings = min(attempts - 1, 64)  # beyond, the power is no longer a number
        delay = min(self.first_seconds * self.factor**doublings, self.longest_seconds)
        return min(delay * (1.0 + self.spread * (2.0 * chance - 1.0)), self.longest_seconds)

    def expires_at(self, envelope: Envelope) -> float:
        """
        Say when to give up: at the latest when the sender wants it back.

        A notification that cannot be delivered is of use to nobody, and is given up sooner.
        """
        seconds = self.lifetime_seconds
        if envelope.reverse_path is None:
            seconds = min(self.null_lifetime_seconds, seconds)
        at, by = envelope.due_at + seconds, envelope.requests.deliver_by
        return min(at, by.deadline) if by is not None and by.returns else at
