"""The outlet: knows whether the transport takes more, so that a peer that never reads cannot make us keep replies for it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class Outlet:
    """Stands as the producer of a transport; `changed` is called when the transport fills up or has room again."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.is_full = False

    def pauseProducing(self) -> None:
        """Write no more for now."""
        self.is_full = True
        self._changed()

    def resumeProducing(self) -> None:
        """Go on writing."""
        self.is_full = False
        self._changed()

    def stopProducing(self) -> None:
        """Do nothing: the protocol's connectionLost follows."""
