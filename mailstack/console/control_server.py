"""
The control socket of a running server: who may ask, and how much at a time.

A UNIX socket in the folder of the installation, which only the user of the server and root can open, or also a group that the
configuration names; and the kernel is asked who it is. One client asks one thing after the other: nothing more is read of it
before its answer has gone out, so what waits for one client is one request and one answer. What is asked is never broken off.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mailstack.console.control import REQUEST_OCTETS, ControlError, Desk, Request, decode, encode
from mailstack.net.listeners import Bound, bind_unix, close, serve

CLIENTS: Final = 16
IDLE_SECONDS: Final = 300.0
LAST_WORDS_SECONDS: Final = 10.0
"""How long we wait for a client to read what is left for it, when it is sent away."""
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid; unix(7)

UserOf = Callable[[Any], int]
"""Who is at the other end of a transport."""


def user_of(transport: Any) -> int:
    """Return the number of the user at the other end of a UNIX socket, of whom the kernel knows."""
    octets = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, user, _group = _CREDENTIALS.unpack(octets)
    return int(user)


def user_name(user: int) -> str:
    """Return how a user is called."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


@implementer(IPushProducer)
class Control(Protocol):
    """One client of the control socket."""

    factory: ControlFactory

    def __init__(self) -> None:
        self._octets = b""
        self._by = ""
        self._is_going_on = False
        self._is_busy = False
        self._is_full = False
        self._is_over = False
        self._idle: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """See who it is."""
        wire: Any = self.transport
        self.factory.clients += 1
        wire.registerProducer(self, True)
        user = self.factory.user_of(wire)
        if not self.factory.may_ask(user):
            self._end(f"the user {user_name(user)} may not ask: the user of the server may, and root")
        elif self.factory.clients > CLIENTS:
            self._end(f"{CLIENTS} others are asking; try again")
        else:
            self._by = user_name(user)
            self._wait()

    def dataReceived(self, data: bytes) -> None:
        """Take octets of requests."""
        self._octets += data
        self._go_on()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Forget the client."""
        self._is_over = True
        self.factory.clients -= 1
        self._stop_waiting()

    # The transport says when it has more to send than is good, and when that has gone out.

    def pauseProducing(self) -> None:
        """Answer nothing for now."""
        self._is_full = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._is_full = False
        self._go_on()

    def stopProducing(self) -> None:
        """Stop: the connection is lost."""
        self._is_over = True

    def _go_on(self) -> None:
        # An answer may be there before _take returns, and calls this again: the loop that already runs goes on then.
        if not self._is_going_on:
            self._is_going_on = True
            self._take_what_came()
            self._is_going_on = False

    def _take_what_came(self) -> None:
        wire: Any = self.transport
        while not (self._is_busy or self._is_full or self._is_over):
            line, newline, rest = self._octets.partition(b"\n")
            if len(line) > REQUEST_OCTETS:
                self._end(f"a request is longer than {REQUEST_OCTETS} octets")
            elif newline:
                self._octets = rest
                self._take(line)
            else:
                wire.resumeProducing()
                return
        if not self._is_over:
            wire.pauseProducing()

    def _take(self, line: bytes) -> None:
        self._stop_waiting()
        try:
            request = decode(line)
        except ControlError as error:
            self._end(str(error))
            return
        self._is_busy = True
        # Not supervised: that would break it off at a stop, and what was begun with the spool must come to its end.
        Deferred.fromCoroutine(self._answer({**request, "by": self._by})).addCallback(self._send)

    async def _answer(self, request: Request) -> bytes:
        try:
            return encode(await self.factory.desk.answer(request))
        except ControlError as error:
            return encode({"error": str(error)})
        except Exception as error:  # a bulkhead: the disk, or a fault of ours
            self.factory.failed(Failure())
            return encode({"error": f"the server failed at it: {type(error).__name__}; its log says more"})

    def _send(self, answer: bytes) -> None:
        self._is_busy = False
        if self._is_over:
            return
        wire: Any = self.transport
        wire.write(answer)
        self._wait()
        self._go_on()

    def _end(self, why: str) -> None:
        self._is_over = True
        self._stop_waiting()
        wire: Any = self.transport
        wire.unregisterProducer()
        wire.write(encode({"error": why}))
        self._idle = self.factory.clock.callLater(LAST_WORDS_SECONDS, wire.abortConnection)
        wire.loseConnection()

    def _wait(self) -> None:
        self._idle = self.factory.clock.callLater(IDLE_SECONDS, self._end, "nothing was asked for a long time")

    def _stop_waiting(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and idle.active():
            idle.cancel()


class ControlFactory(Factory):
    """
    Makes what serves a client.

    Shape:   `users` are those who may ask, None: everybody who could open the socket; `failed` logs what nobody expected.
    """

    noisy = False

    def __init__(
        self,
        desk: Desk,
        clock: Any,
        *,
        users: frozenset[int] | None,
        failed: Callable[[Failure], None],
        user_of: UserOf = user_of,
    ) -> None:
        self.desk = desk
        self.clock = clock
        self.clients = 0
        self.failed = failed
        self.user_of = user_of
        self._users = users

    def may_ask(self, user: int) -> bool:
        """Say whether a user may ask."""
        return self._users is None or user in self._users

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make it."""
        made = Control()
        made.factory = self
        return made


class ControlSocket:
    """The control socket, from when it listens until it is closed."""

    def __init__(self, bound: Bound, port: IListeningPort) -> None:
        self._bound = bound
        self._port = port

    def close(self) -> Any:
        """Take no more clients, and remove the file."""
        close(self._bound)
        return self._port.stopListening()


def listen(path: Path, group: str | None, reactor: Any, desk: Desk, *, failed: Callable[[Failure], None]) -> ControlSocket:
    """
    Make the socket and serve it.

    Raises:  ListenError.
    """
    bound = bind_unix(path, group)
    users = frozenset((0, os.geteuid())) if group is None else None
    return ControlSocket(bound, serve(reactor, bound, ControlFactory(desk, reactor, users=users, failed=failed)))
