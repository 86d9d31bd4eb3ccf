"""What the spool wants of others, each as small as possible."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailstack.mail.address import Address
from mailstack.mail.disposition import Disposition
from mailstack.mail.envelope import Delivery, Destination, Recipient
from mailstack.mail.verdict import Refuse

T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")


class Courier(Protocol):
    """Takes mail to a destination: the local deliverer, or the relay."""

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        """
        Attempt to deliver or relay to the recipients of one delivery.

        Shape:   one Disposition for each recipient. An exception, or a missing one, counts as DELAYED.
                 With `may_repeat` the same delivery may already have succeeded before.
        """
        ...


class StraightCourier(Courier, Protocol):
    """A courier to accounts, which can be asked before there is an entry."""

    def takes(self, recipient: Recipient, /) -> bool:
        """Say whether a recipient is an account whose mail it delivers itself, at once."""
        ...

    def head(self, reverse_path: Address | None, recipient: Recipient, /) -> bytes:
        """Return what it will put in front of the content."""
        ...


Couriers = Callable[[Destination], Courier]
"""Choose the courier for a destination; all accounts have the same one."""

Chance = Callable[[], float]
"""A random number, 0 <= x < 1."""

Start = Callable[[Coroutine[Any, Any, Any], str], "Deferred[None]"]
"""Start a coroutine under supervision; cancelling the Deferred cancels it."""


class Clock(Protocol):
    """The part of IReactorTime that the spool needs."""

    def seconds(self) -> float:
        """Seconds since 1970."""
        ...

    def callLater(self, delay: float, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> IDelayedCall:
        """Call the function later."""
        ...


class Route(Protocol):
    """Finds out where a DSN goes."""

    async def __call__(self, address: Address, /) -> tuple[Recipient, ...] | Refuse:
        """Expand a return address."""
        ...


class Batch(Protocol[T_contra, R]):
    """Does items in a thread, all that gathered in one go."""

    def start(self) -> None:
        """Begin."""
        ...

    def submit(self, item: T_contra) -> Deferred[R]:
        """Queue an item; it is done even when the Deferred is cancelled."""
        ...

    async def stop(self) -> None:
        """Do what waits, then end."""
        ...


class BatchFactory(Protocol):
    """Makes a Batch around a function that does a list of items."""

    def __call__(self, run: Callable[[list[Any]], Sequence[Any]], *, name: str) -> Batch[Any, Any]:
        """Make it; the name is the thread's."""
        ...


class System(Protocol):
    """The calls of the module `os` by which contents are written: a test makes them fail."""

    # Positional, as the functions of `os` want them.
    @property
    def open(self) -> Callable[..., int]:
        """Open a file."""

    @property
    def write(self) -> Callable[[int, Any], int]:
        """Write octets."""

    @property
    def fsync(self) -> Callable[[int], None]:
        """Flush a file to stable storage."""

    @property
    def close(self) -> Callable[[int], None]:
        """Close a file."""

    @property
    def unlink(self) -> Callable[..., None]:
        """Remove a file."""
