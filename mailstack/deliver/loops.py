"""
Loops through a mailbox: a message that already carries the Delivered-To field which we are about to write has been here before,
and was sent back by some forwarding elsewhere (RFC 9228; RFC 5321 §6.3).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mailstack.mail.address import Address
from mailstack.mail.envelope import Content
from mailstack.mail.headers import HEADER_OCTETS, header_section
from mailstack.mail.trace import was_delivered_to


class MessageLoops(Exception):  # noqa: N818 (it says what the message does)
    """The message was delivered to this address before."""


class LoopGuard:
    """
    The same content, which raises MessageLoops instead of its first octets if it was delivered to the address before.

    It is a Content so that the look at the header section happens where the content is read: in a thread, and once.
    """

    def __init__(self, content: Content, address: Address) -> None:
        self._content = content
        self._address = address

    @property
    def octets(self) -> int:
        """The length."""
        return self._content.octets

    @property
    def in_memory(self) -> bytes | None:
        """None, always: all octets come through `chunks`, which looks at them."""
        return None

    def chunks(self, size_octets: int = HEADER_OCTETS) -> Iterator[bytes]:
        """
        Yield it in pieces, the header section within the first.

        Raises:  MessageLoops.
        """
        whole = self._content.in_memory
        chunks = iter((whole,)) if whole is not None else self._content.chunks(size_octets)
        first = next(chunks, b"")
        while len(first) < HEADER_OCTETS and (more := next(chunks, b"")):
            first += more
        if was_delivered_to(self._address, header_section(first)):
            raise MessageLoops(str(self._address))
        return itertools.chain((first,), chunks)

    def file_with(self, head: bytes) -> str | None:
        """
        Return the path of a file of head and content, or None.

        Raises:  MessageLoops.
        """
        path = self._content.file_with(head)
        if path is not None:
            next(self.chunks(), b"")  # for the look at the header section
        return path


class Loops:
    """
    What one content says of earlier deliveries. Of one in memory it is found out here, once for all recipients; another is
    looked at where it is read.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        whole = content.in_memory
        section = header_section(whole) if whole is not None else b""
        self._is_guarded = whole is None
        self._section = section if b"delivered-to" in section.lower() else b""

    def content_for(self, address: Address) -> Content:
        """
        Return the content, as it may be delivered to an address.

        Raises:  MessageLoops: it was delivered there before, here or when it is read.
        """
        if self._is_guarded:
            return LoopGuard(self._content, address)
        if self._section and was_delivered_to(address, self._section):
            raise MessageLoops(str(address))
        return self._content
