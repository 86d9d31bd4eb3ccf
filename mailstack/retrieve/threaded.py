"""
A maildrop that blocks, made one that does not: the one place where POP3 enters a thread.

What is in the kernel's memory is read at once; only what is not takes a hop, which costs more than a small message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

from zope.interface import implementer

from mailstack.retrieve.interfaces import Found, IMaildrop

Hop = Callable[..., Awaitable[Any]]


class BlockingReader(Protocol):
    """A reader whose `read` blocks, and whose `read_cached` and `close` do not."""

    def read(self) -> bytes:
        """Return the next chunk."""
        ...

    def read_cached(self) -> bytes | None:
        """Return the next chunk if it is in memory."""
        ...

    def close(self) -> None:
        """Read no more."""


class BlockingMaildrop(Protocol):
    """A maildrop whose `read` and `commit` block, as `store.maildrop.Maildrop`."""

    @property
    def listing(self) -> Sequence[tuple[int, bytes]]:
        """Octets and unique id of each message; does not block."""

    def read(self, index: int) -> bytes | BlockingReader | None:
        """Return a message."""

    def read_cached(self, index: int) -> bytes | BlockingReader | None:
        """Return a message if it is in memory; does not block."""

    def commit(self, deleted: Collection[int]) -> int:
        """Remove messages."""
        ...


@implementer(IMaildrop)
class ThreadedMaildrop:
    """
    The avatar of an account, over a maildrop that was opened in a thread.

    Shape:  `hop(function, *arguments)` calls the function in a thread and returns an awaitable of its outcome; `account` is the
            name of the account.
    """

    def __init__(self, maildrop: BlockingMaildrop, hop: Hop, account: str = "") -> None:
        self.account = account
        self._maildrop = maildrop
        self._hop = hop

    def listing(self) -> Sequence[tuple[int, bytes]]:
        """Return octets and unique id of each message."""
        return self._maildrop.listing

    def read(self, index: int) -> Found | Awaitable[Found]:
        """Return a message: at once when it is in memory, else by a hop."""
        found = self._maildrop.read_cached(index)
        if isinstance(found, bytes):
            return found
        return self._fetched(index) if found is None else _ThreadedReader(found, self._hop)

    async def _fetched(self, index: int) -> Found:
        found = await self._hop(self._maildrop.read, index)
        if found is None or isinstance(found, bytes):
            return found
        return _ThreadedReader(found, self._hop)

    def commit(self, deleted: Collection[int]) -> int | Awaitable[int]:
        """Remove messages."""
        return self._hop(self._maildrop.commit, deleted) if deleted else 0


class _ThreadedReader:
    def __init__(self, reader: BlockingReader, hop: Hop) -> None:
        self._reader = reader
        self._hop = hop

    def read(self) -> bytes | Awaitable[bytes]:
        chunk = self._reader.read_cached()
        return self._hop(self._reader.read) if chunk is None else chunk

    def close(self) -> None:
        self._reader.close()
