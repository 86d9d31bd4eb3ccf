"""What an avatar must be so that POP3 can show it: a maildrop."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from typing import Protocol

from zope.interface import Interface

from mailstack.mail.maildrop import MaildropLocked


class Reader(Protocol):
    """A large message, read in chunks with CRLF line ends."""

    def read(self) -> bytes | Awaitable[bytes]:
        """Return the next chunk, of at most some 256 KiB; nothing at the end."""

    def close(self) -> None:
        """Read no more; called once, whether the end was reached or not."""


Found = bytes | Reader | None
"""A message: whole, by a reader, or gone."""


class IMaildrop(Interface):
    """
    The locked, numbered view of an account's mail in one session (RFC 1939 §3).

    Each method may return its value or an awaitable of it. Messages are called by index, from 0. They are called one after the
    other. Whoever makes the avatar gives the lock back in the logout that goes with it. A realm that finds the maildrop in use
    raises `MaildropLocked`. Its attribute `account`, if it has one, is its owner's name for the log.
    """

    def listing() -> Sequence[tuple[int, bytes]] | Awaitable[Sequence[tuple[int, bytes]]]:
        """
        Return octets, with CRLF line ends, and unique id (RFC 1939 §7) of each message; called once.

        What is more than a list or tuple, and is returned in a later session again, must still say the same: the lists that
        were made of it are used again. Its attribute `total_octets`, if it has one, spares the sum.
        """

    def read(index: int) -> Found | Awaitable[Found]:  # noqa: N805 (an Interface's method has no self)
        """Return a message with CRLF line ends."""

    def commit(deleted: Collection[int]) -> int | Awaitable[int]:  # noqa: N805 (the same)
        """Remove messages for certain; return how many could not be removed."""


__all__ = ["Found", "IMaildrop", "MaildropLocked", "Reader"]
