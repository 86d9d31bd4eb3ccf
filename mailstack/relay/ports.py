"""
What this room needs of others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory

from mailstack.mail.answers import Answer, Exchange
from mailstack.route.hosts import Hop

T = TypeVar("T")


class Resolver(Protocol):
    """Asks the DNS; never raises, a failure is an answer too."""

    async def mx(self, domain: str) -> Answer[Exchange]:
        """Return the mail exchanges of a domain."""

    async def ipv4(self, name: str) -> Answer[str]:
        """Return the IPv4 addresses of a host."""

    async def ipv6(self, name: str) -> Answer[str]:
        """Return the IPv6 addresses of a host."""


class Clock(Protocol):
    """Time, and calls in the future: a part of IReactorTime."""

    def seconds(self) -> float:
        """Return the time by a clock that never goes back."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> IDelayedCall:
        """Call after so many seconds."""


class Connect(Protocol):
    """Opens connections."""

    def __call__(self, hop: Hop, port: int, factory: IProtocolFactory, source: str | None) -> Deferred[Any]:
        """
        Connect, from the IP address `source` if there is one, and return the factory's protocol.

        Fails when that does not succeed in time. Cancelled, it leaves no connection behind.
        """
        ...


Start = Callable[[Coroutine[Any, Any, Any], str], Any]
"""Starts a coroutine under supervision, and returns a Deferred that ends with it; cancelling that cancels the coroutine."""


class RunInThread(Protocol):
    """Calls a function in a thread."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Call it, and return what it returns."""
