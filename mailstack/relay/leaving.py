"""
Leaving sessions: those that have said QUIT, and whose hosts have yet to answer and to close.

Nobody waits for that, and so a host that takes its time could let more and more of them gather. So many there may be; beyond
that the one that has left first is cut.
"""

from __future__ import annotations

from typing import Final

from mailstack.relay.protocol import Sender

MOST_LEAVING: Final = 200


class Leaving:
    """Sessions that end, kept within a bound."""

    def __init__(self) -> None:
        self._senders: dict[Sender, None] = {}  # who has left first is first

    def __len__(self) -> int:
        return len(self._senders)

    def quit(self, sender: Sender) -> None:
        """End a session."""
        sender.quit()
        self.note(sender)

    def note(self, sender: Sender) -> None:
        """Take note of a session that ends already."""
        if sender.is_lost:
            return
        self._senders[sender] = None
        sender.on_lost = lambda: self._senders.pop(sender, None)
        if len(self._senders) > MOST_LEAVING:
            oldest = next(iter(self._senders))
            del self._senders[oldest]
            oldest.abort()
