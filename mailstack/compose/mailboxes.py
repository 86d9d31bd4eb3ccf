"""Mailboxes: the maildirs of our users, as mail is delivered into them, and as POP3 opens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred, succeed

from mailstack.compose.machine import Machine
from mailstack.deliver.local import HasAccount, LocalCourier
from mailstack.net.batch import BatchThread
from mailstack.net.threads import kept
from mailstack.retrieve.threaded import ThreadedMaildrop
from mailstack.store.folders import MailFolder
from mailstack.store.maildir import Maildirs, Outcome, Shipment
from mailstack.store.maildrop import Maildrop
from mailstack.store.maildrops import Maildrops


class Mailboxes:
    """All maildirs below one folder."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folders = MailFolder(folder)
        self.maildirs = Maildirs(self.folders, seconds=machine.steady_seconds)
        self._deliveries: BatchThread[Shipment, list[Outcome]] = machine.batch(self.maildirs.deliver_many, name="deliveries")
        self._maildrops = Maildrops(now=machine.seconds)
        self._run_in_thread = machine.disk.run

    def start(self) -> None:
        """Begin to take deliveries."""
        self._deliveries.start()

    async def stop(self) -> None:
        """Do the deliveries that wait, and let go of what is open."""
        await self._deliveries.stop()
        self.maildirs.close()

    def make_courier(self, hostname: str, has_account: HasAccount) -> LocalCourier:
        """Make the courier to accounts."""
        return LocalCourier(self.folders, self._deliveries.submit, hostname, has_account)

    def open_maildrop(self, account: str) -> Deferred[tuple[ThreadedMaildrop, Callable[[], None]]]:
        """
        Open the maildrop of an account; with it comes what closes it.

        Raises:  MaildropLocked; and the Deferred as `Maildrop.open`.
        """
        path = str(self.folders.path_of(account))
        at_once = self._maildrops.open_at_once(path)
        if at_once is not None:
            return succeed((ThreadedMaildrop(at_once, self._run_in_thread, account), at_once.close))
        opening = kept(self._run_in_thread(self._maildrops.opening(path)), Maildrop.close)
        opening.addCallback(self._maildrops.remember)
        return opening.addCallback(lambda opened: (ThreadedMaildrop(opened, self._run_in_thread, account), opened.close))
