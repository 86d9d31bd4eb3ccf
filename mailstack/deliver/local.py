"""
The local courier: attempts whose destination is an account.

All files of an attempt are one shipment, so that they share a batch and its flushes.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from twisted.internet.defer import CancelledError

from mailstack.deliver.loops import Loops, MessageLoops
from mailstack.mail.address import Address
from mailstack.mail.disposition import Action, Disposition, delayed
from mailstack.mail.envelope import Account, Delivery, Recipient
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.trace import delivered_to_field, return_path_field
from mailstack.store.folders import MailFolder
from mailstack.store.maildir import Delivered, MaildirItem, Outcome, Shipment
from mailstack.store.names import delivery_name
from mailstack.store.open_maildirs import MailRootError

_DELIVERED: Final = EnhancedStatus(2, 0, 0)
_MAILBOX_FULL: Final = EnhancedStatus(4, 2, 2)
_SYSTEM_FULL: Final = EnhancedStatus(4, 3, 1)
_SYSTEM_FAILED: Final = EnhancedStatus(4, 3, 0)
_LOOPS: Final = EnhancedStatus(5, 4, 6)

Submit = Callable[[Shipment], Awaitable[Sequence[Outcome]]]


class LocalCourier:
    """
    Delivers into maildirs.

    Shape:  `submit` writes the files of a shipment with others, in a thread, and gives the outcome of each; `hostname` stands
            in file names, and must stay what it is for as long as an attempt may be repeated.
    """

    def __init__(self, folders: MailFolder, submit: Submit, hostname: str) -> None:
        self._folders = folders
        self._submit = submit
        self._hostname = hostname

    def head(self, reverse_path: Address | None, recipient: Recipient) -> bytes:
        """Return what stands in front of the content in the file of a recipient."""
        return return_path_field(reverse_path) + delivered_to_field(recipient.address)

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        """Deliver to each recipient; what fails in any way that is not understood is to be tried again."""
        done: dict[int, Disposition] = {}
        items: dict[int, MaildirItem] = {}
        loops = Loops(delivery.content)
        for ordinal, recipient in delivery.recipients.items():
            try:
                items[ordinal] = self._item(delivery, ordinal, recipient, loops)
            except Exception as error:  # a bulkhead: a recipient's failure is not the others'
                done[ordinal] = _failed(ordinal, error)
        if items and not (done and delivery.all_or_none):
            outcomes = await self._outcomes(Shipment(tuple(items.values()), delivery.all_or_none))
            done |= {ordinal: _disposition(ordinal, outcome) for ordinal, outcome in zip(items, outcomes, strict=True)}
        return [done[ordinal] for ordinal in delivery.recipients if ordinal in done]

    async def _outcomes(self, shipment: Shipment) -> Sequence[Outcome]:
        try:
            return await self._submit(shipment)
        except CancelledError:
            raise
        except Exception as error:  # a bulkhead: unknown is temporary
            return [error] * len(shipment.items)

    def _item(self, delivery: Delivery, ordinal: int, recipient: Recipient, loops: Loops) -> MaildirItem:
        """
        Make the file of a recipient.

        Raises:  ValueError: there is no folder for the destination. MessageLoops.
        """
        destination = recipient.destination
        if not isinstance(destination, Account):
            raise ValueError(f"{destination} is not an account")
        envelope = delivery.envelope
        head = self.head(envelope.reverse_path, recipient)
        octets = len(head) + delivery.content.octets
        return MaildirItem(
            folder=self._folders.folder_of(destination.name),
            name=delivery_name(delivery.entry, ordinal, envelope.accepted_at, self._hostname, octets),
            head=head,
            content=loops.content_for(recipient.address),
            may_repeat=delivery.may_repeat,
        )


def _disposition(ordinal: int, outcome: Outcome) -> Disposition:
    if isinstance(outcome, Exception):
        return _failed(ordinal, outcome)
    text = "Delivered" if isinstance(outcome, Delivered) else "Delivered by an earlier attempt"
    return Disposition(
        ordinal=ordinal, action=Action.DELIVERED, status=_DELIVERED, diagnostic=text, cause=f"file={outcome.name}"
    )


def _failed(ordinal: int, error: Exception) -> Disposition:
    """Say what an error means for a recipient: only a loop is final."""
    if isinstance(error, MessageLoops):
        text = "Mail loop: the message was delivered to this address before"
        return Disposition(ordinal=ordinal, action=Action.FAILED, status=_LOOPS, diagnostic=text)
    status, text = _SYSTEM_FAILED, "Local delivery failed, will be tried again"
    if isinstance(error, OSError) and error.errno == errno.EDQUOT:
        status, text = _MAILBOX_FULL, "Mailbox full, will be tried again"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        status, text = _SYSTEM_FULL, "Mail system full, will be tried again"
    elif isinstance(error, MailRootError):
        text = "Mail storage not available, will be tried again"
    return delayed(ordinal, text, status, cause=f"{type(error).__name__}: {error}")
