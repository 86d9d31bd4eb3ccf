"""
Straight delivery: a message for accounts only goes into their maildirs before its 250, and never into the database.

What the spool is for is the time between our 250 and the last recipient. Where all recipients are accounts that time can be
none: the maildirs are stable storage, too, and one file with two flushes that it shares with others is half the work of a row,
a file, and the row's end. What does not work at the first attempt, for whatever reason, is spooled as if it had not been tried.

    died                         on disk                what follows
    before the last flush        nothing, or the file   no 250 was given: the peer sends it again, as SMTP has it
    after it, before the 250     the file               the same
    failed, and was spooled      all or none            the spool finds in the maildirs what is there (`may_repeat`)

Recipients stand and fall together (`all_or_none`), so that a message which can neither be delivered to one of them nor spooled
gets a 4yz for all, and is not delivered to the others once more with each attempt of the peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.address import Address
from mailstack.mail.disposition import Action
from mailstack.mail.envelope import Delivery, Envelope, Recipient
from mailstack.mail.requests import Notify
from mailstack.spool.entry import Entry
from mailstack.spool.ports import StraightCourier

RECIPIENTS: Final = 100
"""More of them take so long that the peer should not wait for it."""


class Straight:
    """Delivers by the courier to accounts."""

    def __init__(self, courier: StraightCourier) -> None:
        self._courier = courier
        self.attempts = 0
        """How many run."""

    def head(self, reverse_path: Address | None, recipients: Sequence[Recipient]) -> bytes:
        """
        Return the head of the file in which a message with these recipients may end, or nothing when it cannot be known.

        A large content that has it in front from the beginning need not be copied.
        """
        if len(recipients) != 1 or not self._courier.takes(recipients[0]):
            return b""
        return self._courier.head(reverse_path, recipients[0])

    def takes(self, envelope: Envelope) -> bool:
        """Say whether a message may go this way: not one that is held, nor one of whose delivery the sender is to be told."""
        recipients = envelope.recipients
        return (
            len(recipients) <= RECIPIENTS
            and envelope.requests.held_until is None
            and all(self._courier.takes(each) and not _tells(each) for each in recipients)
        )

    async def deliver(self, entry: Entry) -> bool:
        """Deliver to all recipients; False: to none, as far as is known, and nothing of it is certain."""
        recipients = dict(enumerate(entry.envelope.recipients))
        delivery = Delivery(
            entry=entry.name,
            envelope=entry.envelope,
            recipients=recipients,
            content=entry.content,
            attempt=1,
            may_repeat=False,
            all_or_none=True,
        )
        self.attempts += 1
        try:
            dispositions = await self._courier.attempt(delivery)
        except CancelledError:
            raise
        except Exception:  # a bulkhead: the spool tries it again
            events.unexpected(f"{entry.name}: straight delivery", Failure())
            return False
        finally:
            self.attempts -= 1
        delivered = {each.ordinal for each in dispositions if each.action is Action.DELIVERED}
        if delivered != recipients.keys():
            return False
        for each in dispositions:
            events.attempt_finished(entry.name, each, recipients[each.ordinal].address)
        events.entry_finished(entry.name)
        return True


def _tells(recipient: Recipient) -> bool:
    return recipient.is_expanded or (recipient.notify is not None and Notify.SUCCESS in recipient.notify)
