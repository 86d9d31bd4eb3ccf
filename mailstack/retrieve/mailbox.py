"""
Someone's `IMailboxPOP3` as a maildrop, so that a mailbox class written for `twisted.mail.pop3` can be served.

Twisted's convention is that a message is a file with LF line ends, and its listed size the file's. What is sent has CRLF, so
the listed size is then smaller; only the mailbox could know better without reading everything. Each of its methods may
return a Deferred.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError
from twisted.mail.interfaces import IMailboxPOP3
from zope.interface import implementer

from mailstack.mail.crlf import CRLFNormaliser
from mailstack.retrieve.interfaces import Found, IMaildrop
from mailstack.retrieve.settle import settled

CHUNK_OCTETS: Final = 65_536
_UID: Final = re.compile(rb"[!-~]{1,70}")


class _File(Protocol):
    def read(self, octets: int, /) -> bytes: ...

    def close(self) -> None: ...


@implementer(IMaildrop)
class MailboxMaildrop:
    """A mailbox of Twisted's kind, which counts from 0 and marks deletions itself until `sync`."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = IMailboxPOP3(mailbox)

    async def listing(self) -> list[tuple[int, bytes]]:
        """Return octets and unique id of each message."""
        sizes = await settled(self._mailbox.listMessages())
        return [(size, _unique(await settled(self._mailbox.getUidl(index)))) for index, size in enumerate(sizes)]

    async def read(self, index: int) -> Found:
        """Return a reader; what the mailbox does not have (IndexError, ValueError: its interface) is gone."""
        try:
            return _FileReader(await settled(self._mailbox.getMessage(index)))
        except (IndexError, ValueError):
            return None

    async def commit(self, deleted: Collection[int]) -> int:
        """
        Mark and sync. The mailbox sees no deletion before this moment.

        Raises:  whatever `sync` raises: then nothing is certain.
        """
        failed = 0
        for index in sorted(deleted):
            try:
                await settled(self._mailbox.deleteMessage(index))
            except CancelledError:
                raise
            except Exception:  # a bulkhead: one message that cannot be removed must not keep the others
                failed += 1
        await settled(self._mailbox.sync())
        return failed


class _FileReader:
    def __init__(self, file: _File) -> None:
        self._file = file
        self._normaliser: CRLFNormaliser | None = CRLFNormaliser()

    def read(self) -> bytes:
        while self._normaliser is not None:
            chunk = self._file.read(CHUNK_OCTETS)
            if not chunk:
                tail, self._normaliser = self._normaliser.finish(), None
                return tail
            if octets := self._normaliser.feed(chunk):
                return octets
        return b""

    def close(self) -> None:
        self._file.close()


def _unique(uid: bytes | str) -> bytes:
    """Return an id that POP3 can carry."""
    octets = uid.encode("utf-8", "surrogateescape") if isinstance(uid, str) else uid
    return octets if _UID.fullmatch(octets) else hashlib.sha256(octets).hexdigest()[:32].encode("ascii")
