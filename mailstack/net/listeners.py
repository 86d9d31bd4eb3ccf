"""
Listeners: sockets that are bound while we are still root and served later.

`StreamServerEndpointService` only logs a bind that fails; a mail server that does not listen must not start. So this binds
at once and raises, and a taken port names itself.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorSocket

from mailstack.net.prompt import PromptPort

BACKLOG = 1024


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
    # As reactor.adoptStreamPort, but for the class.
    adopt: Callable[..., IListeningPort] = PromptPort._fromListeningDescriptor
    port = adopt(reactor, bound.socket.fileno(), bound.socket.family, factory)
    port.startListening()
    bound.socket.close()
    return port
