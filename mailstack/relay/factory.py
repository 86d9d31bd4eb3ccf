"""
The sender's factory: Twisted's own, around our protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.mail.smtp import ESMTPSenderFactory

from mailstack.relay.protocol import Sender


class SenderFactory(ESMTPSenderFactory):
    """Builds the sender of one session."""

    noisy = False
    protocol = Sender  # type: ignore[assignment]  # not Twisted's, see the room's charter

    def __init__(self, make: Callable[[], Sender]) -> None:
        # The parent would parse the paths with an RFC 822 parser, which makes of <a,b@c> the address <a>, encode them as
        # ASCII only, and connect again by itself. So it gets a null path, no recipients and no retries; the envelope stays
        # with the courier.
        super().__init__(  # type: ignore[no-untyped-call]
            None, None, "", [], BytesIO(), Deferred(), retries=0
        )
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> Sender:
        """Make the sender."""
        sender = self._make()
        sender.factory = self
        self.currentProtocol = sender
        return sender
