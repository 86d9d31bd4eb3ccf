"""
The reactor of a process that has many connections with little to say each: epoll, and one call for each event.

Twisted's own makes a logging context around each call, with the name of the connection's protocol, for programs that log by
`twisted.python.log`. Our events name their session themselves, and to a short reply that context adds a quarter of its cost.
"""

from __future__ import annotations

import sys


def install() -> None:
    """
    Install this reactor where there is epoll; elsewhere leave the choice to Twisted.

    Raises:  ReactorAlreadyInstalledError.
    """
    if sys.platform != "linux":
        return
    from twisted.internet.epollreactor import EPollReactor
    from twisted.internet.main import installReactor

    class LeanReactor(EPollReactor):
        def doPoll(self, timeout: float | None) -> None:
            for descriptor, event in self._poller.poll(-1 if timeout is None else timeout, len(self._selectables)):
                selectable = self._selectables.get(descriptor)
                if selectable is not None:  # what came before it may have closed it
                    self._doReadOrWrite(selectable, descriptor, event)  # type: ignore[no-untyped-call]  # Twisted's is untyped

        doIteration = doPoll

    installReactor(LeanReactor())  # type: ignore[no-untyped-call]  # as above
