"""Attempting: one attempt for the recipients of one entry in one lane; each has an outcome, whatever the courier does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.disposition import Disposition, Standing, delayed
from mailstack.mail.envelope import Delivery
from mailstack.spool import ledger
from mailstack.spool.entry import Work
from mailstack.spool.ports import Clock, Couriers


class Attempting:
    """
    Attempts works.

    Shape:   `is_stopping` says whether what is cancelled is cancelled since the house is being stopped: then it has no outcome,
             and is attempted again after a restart.
    """

    def __init__(self, couriers: Couriers, clock: Clock, *, is_stopping: Callable[[], bool]) -> None:
        self._couriers = couriers
        self._clock = clock
        self._is_stopping = is_stopping

    async def attempt(self, work: Work) -> dict[int, Disposition]:
        """
        Return an outcome for each recipient that is to be attempted.

        Raises:  CancelledError: the house is being stopped.
        """
        envelope = work.entry.envelope
        recipients = {
            ordinal: each.rerouted(envelope.recipients[ordinal])
            for ordinal, each in work.pending.items()
            if each.failure is None
        }
        if not recipients:
            return {}
        by = envelope.requests.deliver_by
        if by is not None and by.is_over(self._clock.seconds()):
            return {ordinal: ledger.too_late(ordinal) for ordinal in recipients}
        delivery = Delivery(
            entry=work.entry.name,
            envelope=envelope,
            recipients=recipients,
            content=work.entry.content,
            attempt=1 + max(work.pending[ordinal].attempts for ordinal in recipients),
            may_repeat=work.may_repeat,
            afterwards=work.afterwards,
            released=frozenset(ordinal for ordinal in recipients if work.pending[ordinal].is_released),
        )
        outcomes = ledger.complete(await self._ask(work, delivery), recipients)
        for ordinal, disposition in outcomes.items():
            events.attempt_finished(work.entry.name, disposition, recipients[ordinal].address)
        return outcomes

    async def _ask(self, work: Work, delivery: Delivery) -> Sequence[Disposition]:
        try:
            courier = self._couriers(next(iter(delivery.recipients.values())).destination)
            return await courier.attempt(delivery)
        except CancelledError:
            if self._is_stopping():
                raise
            why = "The attempt took too long" if work.is_overdue else "The attempt was broken off"
            standing = Standing.DOWN if work.is_overdue else None
            return [replace(delayed(ordinal, why), standing=standing) for ordinal in delivery.recipients]
        except Exception as error:  # a bulkhead: unknown is temporary
            events.unexpected(f"{work.entry.name}: attempt", Failure())
            return [delayed(ordinal, "Local error", cause=repr(error)) for ordinal in delivery.recipients]
