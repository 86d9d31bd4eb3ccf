"""
A maildrop that blocks, made one that does not: the one place where POP3 enters a thread.

`hop` is the whole strategy: it runs a function elsewhere and gives a Deferred. A strategy that gathers the calls of all
sessions, or one that runs small reads on the spot, goes in here and changes nothing else. Reading ahead would go in `read`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

from zope.interface import implementer

from mailstack.retrieve.interfaces import Found, IMaildrop

Hop = Callable[..., Awaitable[Any]]


class BlockingReader(Protocol):
    """A reader whose `read` blocks and whose `close` does not."""

    def read(self) -> bytes:
        """Return the next chunk."""
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

    def commit(self, deleted: Collection[int]) -> int:
        """Remove messages."""
        ...


@implementer(IMaildrop)
class ThreadedMaildrop:
    """
    The avatar of an account, over a maildrop that was opened in a thread.

    Shape:  `hop(function, *arguments)` calls the function in a thread and returns an awaitable of its outcome.
    """

    def __init__(self, maildrop: BlockingMaildrop, hop: Hop) -> None:
        self._maildrop = maildrop
        self._hop = hop

    def listing(self) -> Sequence[tuple[int, bytes]]:
        """Return octets and unique id of each message."""
        return self._maildrop.listing

    async def read(self, index: int) -> Found:
        """Return a message; a small one in one hop."""
        found = await self._hop(self._maildrop.read, index)
        if found is None or isinstance(found, bytes):
            return found
        return _ThreadedReader(found, self._hop)

    def commit(self, deleted: Collection[int]) -> Awaitable[int]:
        """Remove messages."""
        return self._hop(self._maildrop.commit, deleted)


class _ThreadedReader:
    def __init__(self, reader: BlockingReader, hop: Hop) -> None:
        self._reader = reader
        self._hop = hop

    def read(self) -> Awaitable[bytes]:
        return self._hop(self._reader.read)

    def close(self) -> None:
        self._reader.close()
