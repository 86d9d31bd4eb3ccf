"""
What this room needs of others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory

from mailstack.mail.address import Address
from mailstack.mail.answers import TLSA, Answer, Exchange
from mailstack.mail.mta_sts import Standing
from mailstack.mail.tls_results import AppliedPolicy, TLSFailure
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

    async def tlsa(self, name: str) -> Answer[TLSA]:
        """Return the TLSA records of a service."""

    async def alias(self, name: str) -> Answer[str]:
        """Return the name that a name is an alias of."""

    def forget_failures(self) -> None:
        """Ask anew what nobody could say a moment ago."""


class PolicySource(Protocol):
    """Knows the MTA-STS policies of domains."""

    async def standing(self, domain: str) -> Standing:
        """Return what is known of a domain's policy now; never raises."""


class TLSWitness(Protocol):
    """Counts what became of TLS, for the reports about it."""

    def session(
        self,
        applied: AppliedPolicy,
        host: str,
        address: str = "",
        own_address: str = "",
        failure: TLSFailure | None = None,
        why: str = "",
    ) -> None:
        """Count a session that was begun, or a host that could not be used; `failure` None: the TLS was as it was wanted."""


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


ReturnPath = Callable[[Address], Awaitable[Address]]
"""Returns the reverse-path under which mail that we forward abroad goes on, from whomever it is."""

IsOurselves = Callable[[str, int], bool]
"""Says whether whoever connects to an address and a port gets us."""

Start = Callable[[Coroutine[Any, Any, Any], str], Any]
"""Starts a coroutine under supervision, and returns a Deferred that ends with it; cancelling that cancels the coroutine."""


class RunInThread(Protocol):
    """Calls a function in a thread."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Call it, and return what it returns."""


class Kept(Protocol):
    """Keeps octets beyond our end; its methods block."""

    def read(self, key: str) -> bytes | None:
        """Return what is kept under a key."""

    def write(self, key: str, octets: bytes) -> None:
        """Keep octets under a key."""
