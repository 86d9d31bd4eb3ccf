"""What the receiver needs from other rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from mailstack.doors import Transaction
from mailstack.mail.address import Address
from mailstack.mail.envelope import Content, Envelope, Origin, Recipient
from mailstack.mail.reply import Reply
from mailstack.mail.verdict import Refuse
from mailstack.wire.smtp_commands import Rcpt

Start = Callable[[Coroutine[Any, Any, Any], str], Any]
"""Starts a coroutine under a name; its failure is logged."""


class Draft(Protocol):
    """A message that is coming in."""

    @property
    def entry(self) -> str:
        """The entry's name, which stands in the Received field."""

    def write(self, octets: bytes) -> Awaitable[None] | None:
        """Add octets; when it returns an awaitable, wait for it before the next. A failure is kept for `commit`."""

    def content(self) -> Content:
        """Return what was written so far."""
        ...

    async def commit(self, envelope: Envelope) -> Refuse | None:
        """Put the message on stable storage; None means that it is there, for every recipient."""

    def abort(self) -> None:
        """Forget the message, unless it is being committed."""


class Intake(Protocol):
    """The way into the spool."""

    def begin(self, reverse_path: Address | None, recipients: Sequence[Recipient], /) -> Draft:
        """Begin a message, from whom and for whom as far as is known now."""
        ...

    def refusal(self, octets: int) -> Reply | None:
        """Return why a message of that length must not be taken now."""


class Router(Protocol):
    """Says whom a forward-path means."""

    async def route(self, forward_path: Address) -> tuple[Recipient, ...] | Refuse:
        """Expand it."""
        ...


class Judge(Protocol):
    """Decides at each stage; None means go on."""

    async def connect(self, origin: Origin) -> Refuse | None:
        """Judge a connection."""

    async def hello(self, origin: Origin) -> Refuse | None:
        """Judge what the peer calls itself."""

    async def auth(self, origin: Origin) -> Refuse | None:
        """Judge a peer that has just authenticated."""

    async def mail(self, transaction: Transaction) -> Refuse | None:
        """Judge a reverse-path."""

    async def rcpt(self, transaction: Transaction, recipient: Address) -> Refuse | None:
        """Judge one forward-path."""

    async def content(self, transaction: Transaction, content: Content) -> Refuse | None:
        """Judge a whole message."""


class Reception(Protocol):
    """
    One transaction being received: ours, or that of someone's IMessageDelivery.

    Every method that answers gives the reply, and has logged it when it is a refusal. `finish` gives one reply, or one for each
    accepted recipient in LMTP. `abort` may be called at any time, also after the end.
    """

    async def mail(self) -> Reply:
        """Answer MAIL."""
        ...

    async def rcpt(self, rcpt: Rcpt) -> Reply:
        """Answer RCPT."""
        ...

    async def data(self) -> Reply:
        """Answer DATA."""
        ...

    def write(self, octets: bytes) -> Awaitable[None] | None:
        """Take octets of the content; when it returns an awaitable, wait for it before the next."""

    async def finish(self) -> list[Reply]:
        """Answer the content."""
        ...

    def refused(self, reply: Reply) -> None:
        """Take note that the core refused the content: it was not whole."""

    def abort(self) -> None:
        """Forget the transaction."""
