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
_NO_MAILBOX: Final = EnhancedStatus(5, 1, 1)

Submit = Callable[[Shipment], Awaitable[Sequence[Outcome]]]
HasAccount = Callable[[str], Awaitable[bool]]


class AccountGone(Exception):  # noqa: N818 (it is a state, named as such)
    """The account has been removed since the message was accepted."""


class LocalCourier:
    """
    Delivers into maildirs.

    Shape:  `submit` writes the files of a shipment with others, in a thread, and gives the outcome of each; `hostname` stands
            in file names, and must stay what it is for as long as an attempt may be repeated; `has_account` says whether there
            is still an account of that name.
    """

    def __init__(self, folders: MailFolder, submit: Submit, hostname: str, has_account: HasAccount) -> None:
        self._folders = folders
        self._submit = submit
        self._hostname = hostname
        self._has_account = has_account

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
                if delivery.may_repeat:  # it has waited; what nobody has would be for whoever gets the name next
                    await self._look_for(recipient)
                items[ordinal] = self._item(delivery, ordinal, recipient, loops)
            except CancelledError:
                raise
            except Exception as error:  # a bulkhead: a recipient's failure is not the others'
                done[ordinal] = _failed(ordinal, error)
        if items and not (done and delivery.all_or_none):
            outcomes = await self._outcomes(Shipment(tuple(items.values()), delivery.all_or_none))
            done |= {ordinal: _disposition(ordinal, outcome) for ordinal, outcome in zip(items, outcomes, strict=True)}
        return [done[ordinal] for ordinal in delivery.recipients if ordinal in done]

    async def _look_for(self, recipient: Recipient) -> None:
        """
        Look whether a recipient still has an account.

        Raises:  AccountGone, and what the directory raises: nobody can say.
        """
        destination = recipient.destination
        if isinstance(destination, Account) and not await self._has_account(destination.name):
            raise AccountGone(destination.name)

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
    """Say what an error means for a recipient: a loop is final, and that there is no account any more."""
    if isinstance(error, MessageLoops):
        text = "Mail loop: the message was delivered to this address before"
        return Disposition(ordinal=ordinal, action=Action.FAILED, status=_LOOPS, diagnostic=text)
    if isinstance(error, AccountGone):
        text = "The account was removed after the message had been accepted"
        return Disposition(ordinal=ordinal, action=Action.FAILED, status=_NO_MAILBOX, diagnostic=text)
    status, text = _SYSTEM_FAILED, "Local delivery failed, will be tried again"
    if isinstance(error, OSError) and error.errno == errno.EDQUOT:
        status, text = _MAILBOX_FULL, "Mailbox full, will be tried again"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        status, text = _SYSTEM_FULL, "Mail system full, will be tried again"
    elif isinstance(error, MailRootError):
        text = "Mail storage not available, will be tried again"
    return delayed(ordinal, text, status, cause=f"{type(error).__name__}: {error}")
