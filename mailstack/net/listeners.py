"""
Listeners: sockets that are bound while we are still root and served later.

`StreamServerEndpointService` only logs a bind that fails; a mail server that does not listen must not start. So this binds
at once and raises, and a taken port names itself.

Several processes may accept from one socket. One that has many more connections than another lets the other try first: so,
and by taking one in a turn, they share a burst, and sessions that stay are spread evenly.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory, IReactorSocket

from mailstack.net.prompt import PromptPort

BACKLOG: Final = 1024
PATIENCE_SECONDS: Final = 0.001
"""How long who has more connections waits for another to take the next."""


class ListenError(OSError):
    """An address cannot be bound; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound socket that nobody accepts from yet."""

    socket: socket.socket
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(host: str, port: int) -> Bound:
    """
    Bind a TCP socket.

    Raises:  ListenError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            # One address, one socket: a dual-stack socket would report IPv4 peers as ::ffff:a.b.c.d.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ListenError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from error
    return Bound(made, host, made.getsockname()[1])


def serve(reactor: IReactorSocket, bound: Bound, factory: IProtocolFactory) -> IListeningPort:
    """Accept connections on a bound socket; the reactor keeps a descriptor of its own, ours is closed."""
    return _begin(PromptPort, reactor, bound, factory)


def serve_shared(reactor: Any, bound: Bound, factory: IProtocolFactory, has_many_more: Callable[[], bool]) -> IListeningPort:
    """
    Accept connections on a socket from which other processes accept, too; `has_many_more` says that one of them has far fewer.

    The reactor keeps a descriptor of its own, ours is closed.
    """
    return _begin(SharedPort, reactor, bound, factory, has_many_more=has_many_more)


def _begin(kind: type[Any], reactor: Any, bound: Bound, factory: IProtocolFactory, **attributes: Any) -> IListeningPort:
    """Do as reactor.adoptStreamPort, but for the class."""
    port: IListeningPort = kind._fromListeningDescriptor(reactor, bound.socket.fileno(), bound.socket.family, factory)
    vars(port).update(attributes)
    port.startListening()
    bound.socket.close()
    return port


class SharedPort(PromptPort):
    """A port that is not alone with its socket."""

    has_many_more: Callable[[], bool]
    _patience: IDelayedCall | None = None

    def doRead(self) -> None:
        """Accept the next connection, or let another process do it if it wants to."""
        if self.has_many_more():
            self.stopReading()  # type: ignore[no-untyped-call]  # Twisted's is untyped
            clock: Any = self.reactor
            self._patience = clock.callLater(PATIENCE_SECONDS, self._accept)
        else:
            super().doRead()

    def _accept(self) -> None:
        self._patience = None
        super().doRead()
        if self.connected and not self.disconnecting:
            self.startReading()  # type: ignore[no-untyped-call]  # as above

    def loseConnection(self, *reason: Any) -> Any:
        """Stop accepting."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        return super().loseConnection(*reason)  # type: ignore[no-untyped-call]  # as above

    stopListening = loseConnection
