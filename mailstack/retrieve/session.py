"""
The commands on an open maildrop (RFC 1939 §5, §7).

Each is answered at once, or by a coroutine when octets must be fetched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol

from mailstack.retrieve.flow import Flow
from mailstack.retrieve.interfaces import Found, Reader
from mailstack.retrieve.settle import settled
from mailstack.retrieve.view import LINES_AT_ONCE, Lists, MaildropView
from mailstack.wire import pop3_commands as words
from mailstack.wire.pop3_commands import Order, POP3Reply, Verb, ok
from mailstack.wire.pop3_server import POP3ServerCore
from mailstack.wire.pop3_top import TopCut

Duty = Coroutine[Any, Any, None]

PARTS_AT_ONCE: Final = 5  # of a long list, to a client that reads as fast as we write: some milliseconds


class Connection(Protocol):
    """What a maildrop session needs of its connection."""

    is_lost: bool

    def send(self, reply: POP3Reply) -> None:
        """Write a one-line reply."""

    def write(self, octets: bytes) -> None:
        """Write octets."""

    async def others_turn(self) -> None:
        """Let the reactor see to the other clients first."""


class OpenMaildrop(Protocol):
    """An `IMaildrop`, as the type checker sees it."""

    def listing(self) -> Sequence[tuple[int, bytes]] | Awaitable[Sequence[tuple[int, bytes]]]:
        """Return octets and unique id of each message."""
        ...

    def read(self, index: int) -> Found | Awaitable[Found]:
        """Return a message."""

    def commit(self, deleted: frozenset[int]) -> int | Awaitable[int]:
        """Remove messages."""


class MaildropSession:
    """Answers the commands on a maildrop."""

    def __init__(
        self,
        connection: Connection,
        maildrop: OpenMaildrop,
        listing: Sequence[tuple[int, bytes]],
        core: POP3ServerCore,
        flow: Flow,
        lists: Lists,
    ) -> None:
        self.view = MaildropView(listing, lists)
        self._connection = connection
        self._maildrop = maildrop
        self._core = core
        self._flow = flow

    def answer(self, order: Order) -> Duty | None:
        """Answer a command, or return what will."""
        return _ANSWERS[order.verb](self, order)

    async def commit(self, deleted: frozenset[int]) -> int:
        """Remove messages; return how many could not be."""
        return await settled(self._maildrop.commit(deleted))

    def _stat(self, order: Order) -> None:
        self._connection.send(ok(f"{self.view.count} {self.view.octets}"))

    def _reset(self, order: Order) -> None:
        self.view.unmark_all()
        self._connection.send(ok(f"{self.view.count} messages ({self.view.octets} octets)"))

    def _delete(self, order: Order) -> None:
        index = self._found(order)
        if index is not None:
            self.view.mark(index)
            self._connection.send(ok("Marked for deletion"))

    def _list(self, order: Order) -> Duty | None:
        if order.number is None:
            return self._lines(f"{self.view.count} messages ({self.view.octets} octets)", self.view.size_lines())
        index = self._found(order)
        if index is not None:
            self._connection.send(ok(f"{order.number} {self.view.size(index)}"))
        return None

    def _uidl(self, order: Order) -> Duty | None:
        if order.number is None:
            return self._lines("Unique ids follow", self.view.uid_lines())
        index = self._found(order)
        if index is not None:
            self._connection.send(ok(f"{order.number} {self.view.uid(index).decode('ascii')}"))
        return None

    def _retrieve(self, order: Order) -> Duty | None:
        index = self._found(order)
        if index is None:
            return None
        found = self._maildrop.read(index)
        cut = TopCut(order.lines) if order.verb is Verb.TOP else None
        if isinstance(found, bytes):
            self._whole(found, cut)
            return None
        return self._fetched(found, cut)

    def _found(self, order: Order) -> int | None:
        """Return the index of the message that a command names; or refuse it."""
        assert order.number is not None, "the parser says so"
        index = self.view.find(order.number)
        if isinstance(index, POP3Reply):
            self._connection.send(index)
            return None
        return index

    def _lines(self, text: str, parts: Iterator[bytes]) -> Duty | None:
        if self.view.count <= LINES_AT_ONCE:
            self._connection.write(self._core.send_listing(ok(text), b"".join(parts)))
            return None
        return self._streamed(ok(text), parts)

    async def _streamed(self, reply: POP3Reply, parts: Iterator[bytes]) -> None:
        """Write a long list, no faster than it is read."""
        self._connection.write(self._core.begin_lines(reply))
        for number, part in enumerate(parts, 1):
            await self._flow.writable()
            if self._connection.is_lost:
                return
            self._connection.write(self._core.send_lines(part))
            if number % PARTS_AT_ONCE == 0:
                await self._connection.others_turn()
        self._connection.write(self._core.end_lines())

    async def _fetched(self, answer: Found | Awaitable[Found], cut: TopCut | None) -> None:
        found = await settled(answer)
        if found is None:
            self._connection.send(words.IS_GONE)
        elif isinstance(found, bytes):
            self._whole(found, cut)
        else:
            try:
                await self._read(found, cut)
            finally:
                found.close()

    def _whole(self, content: bytes, cut: TopCut | None) -> None:
        """Send a small message in one write."""
        octets = self._core.send_message(_TOP, cut.feed(content)) if cut else self._core.send_content(content)
        self._connection.write(octets)

    async def _read(self, reader: Reader, cut: TopCut | None) -> None:
        """Send a message chunk by chunk, each when the last has left; the first before the +OK, which it proves to be true."""
        begun = False
        while not self._connection.is_lost:
            chunk = await settled(reader.read())
            head = b"" if begun else self._core.begin_lines(_TOP if cut else _MESSAGE)
            begun = True
            if not chunk or (cut and cut.is_done):
                self._connection.write(head + self._core.end_lines())
                return
            self._connection.write(head + self._core.send_lines(cut.feed(chunk) if cut else chunk))
            await self._flow.writable()


_TOP: Final = ok("Top of message follows")
_MESSAGE: Final = ok("Message follows")

_ANSWERS: Final[dict[Verb, Callable[[MaildropSession, Order], Duty | None]]] = {
    Verb.STAT: MaildropSession._stat,
    Verb.LIST: MaildropSession._list,
    Verb.UIDL: MaildropSession._uidl,
    Verb.RETR: MaildropSession._retrieve,
    Verb.TOP: MaildropSession._retrieve,
    Verb.DELE: MaildropSession._delete,
    Verb.RSET: MaildropSession._reset,
}
