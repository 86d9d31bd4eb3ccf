"""
Listeners: sockets that are bound while we are still root and served later.

`StreamServerEndpointService` only logs a bind that fails; a mail server that does not listen must not start. So this binds
at once and raises, and a taken port names itself.

The file of a UNIX socket is closed to others before anybody can connect. One that a server left behind is replaced; one at
which somebody listens is not.

Several processes may accept from one socket. One that has many more connections than another lets the other try first: so,
and by taking one in a turn, they share a burst, and sessions that stay are spread evenly.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory, IReactorSocket

from mailstack.net.prompt import PromptPort, PromptUNIXPort

BACKLOG: Final = 1024
PATIENCE_SECONDS: Final = 0.001
"""How long who has more connections waits for another to take the next."""


class ListenError(OSError):
    """An address cannot be bound; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Bound:
    """
    A bound socket that nobody accepts from yet.

    Shape:   of a UNIX socket `host` is the path of its file, `port` is 0, and `inode` is of that file where we made it.
    """

    socket: socket.socket
    host: str
    port: int
    inode: int = 0

    @property
    def is_unix(self) -> bool:
        """Whether it has a file instead of an address."""
        return self.socket.family is socket.AF_UNIX

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.host}"
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


def bind_unix(path: Path, group: str | None = None) -> Bound:
    """
    Make a UNIX socket to which we may connect, and the members of the group if there is one.

    Raises:  ListenError.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        group_id = None if group is None else _group_id(group)
        _clear_away(path)
        mask = os.umask(0o177)
        try:
            made.bind(os.fspath(path))
        finally:
            os.umask(mask)
        if group_id is not None:
            os.chown(path, -1, group_id, follow_symlinks=False)
            path.chmod(0o660)
        inode = path.lstat().st_ino
        made.listen(BACKLOG)  # from now on somebody can connect
    except OSError as error:
        made.close()
        raise ListenError(error.errno, f"cannot listen on unix:{path}: {error.strerror}") from error
    return Bound(made, str(path), 0, inode)


def _clear_away(path: Path) -> None:
    """
    Remove the file of a socket at which nobody listens any more.

    Raises:  OSError: something else is there, or somebody listens.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is something that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # somebody listens who has much to do
            pass
    raise OSError(errno.EADDRINUSE, "another server listens there")


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no group {name}") from None


def close(bound: Bound) -> None:
    """Let go of a socket, and remove its file if it is still the one that we made."""
    bound.socket.close()
    if bound.inode:
        path = Path(bound.host)
        with suppress(OSError):  # a folder in which we may not remove it any more: the next start replaces it
            if path.lstat().st_ino == bound.inode:
                path.unlink()


def serve(reactor: IReactorSocket, bound: Bound, factory: IProtocolFactory) -> IListeningPort:
    """Accept connections on a bound socket; the reactor keeps a descriptor of its own, ours is closed."""
    return _begin(PromptUNIXPort if bound.is_unix else PromptPort, reactor, bound, factory)


def serve_shared(reactor: Any, bound: Bound, factory: IProtocolFactory, has_many_more: Callable[[], bool]) -> IListeningPort:
    """
    Accept connections on a socket from which other processes accept, too; `has_many_more` says that one of them has far fewer.

    The reactor keeps a descriptor of its own, ours is closed.
    """
    kind = SharedUNIXPort if bound.is_unix else SharedPort
    return _begin(kind, reactor, bound, factory, has_many_more=has_many_more)


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


class SharedUNIXPort(SharedPort, PromptUNIXPort):
    """A port with a file, that is not alone with its socket."""
