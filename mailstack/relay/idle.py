"""
Idle sessions: connections that wait a moment for the next message to the same host.

Opening one costs three or more round trips, a handshake and a login, and then the message one or two. So a session that has
done its mailings is kept, and the next attempt takes it. It is given back for a short time only, since it costs the host as
much as us; what is not taken in that time is ended with QUIT.

A session that has taken a content goes on only when the outcome is on disk. Else a crash could find several messages taken by
the host of which we do not know it, and send them all again; so it is one for each session. Who wants a session of a way waits
for one that is about to be free, rather than open another beside it. So nobody may hold one for long: where other hosts are
asked first it is ended, and whoever holds one waits for none.

Kept within bounds: sessions in all and for each way, mailings of one session, its age, and its time of waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailstack.relay.leaving import Leaving
from mailstack.relay.ports import Clock
from mailstack.relay.protocol import Sender
from mailstack.relay.settings import IdleLimits

CLOSE_SECONDS: Final = 2.0  # for the answers to QUIT, when the house is closed


class IdleSessions:
    """Sessions by the way that they go: whatever makes one as good as another for a message."""

    def __init__(self, clock: Clock, limits: IdleLimits, leaving: Leaving) -> None:
        self._clock = clock
        self._leaving = leaving
        self._limits = limits
        self._waiting: dict[Hashable, dict[Sender, float]] = {}  # since when; those of a way in the order in which they came
        self._held: dict[Hashable, int] = {}  # how many of a way are about to be free
        self._wanted: dict[Hashable, deque[Deferred[Sender | None]]] = {}  # who waits for these, at most so many
        self._count = 0
        self._timer: IDelayedCall | None = None
        self._is_closed = False
        self._emptied: Deferred[None] | None = None

    def __len__(self) -> int:
        return self._count

    def take(self, way: Hashable) -> Sender | None:
        """Return the session that came last: it is the likeliest to be alive, and lets those end that are not needed."""
        while not self._is_closed and (waiting := self._waiting.get(way)):
            sender = next(reversed(waiting))
            self._remove(way, sender)
            if sender.is_ready:
                return sender
        return None

    def hold(self, way: Hashable, sender: Sender) -> Callable[[], None]:
        """Return what is to be called, once, when the outcome of its mailings is on disk; only then it is kept."""
        self._held[way] = self._held.get(way, 0) + 1

        def release() -> None:
            self._held[way] -= 1
            if not self._held[way]:
                del self._held[way]
            self.keep(way, sender)

        return release

    def next_free(self, way: Hashable) -> Deferred[Sender | None] | None:
        """Return what gives a session that is about to be free, or None when it ends; None: there is none to wait for."""
        wanted = self._wanted.setdefault(way, deque()) if way in self._held else None
        if wanted is None or len(wanted) >= self._held[way]:
            return None
        waiting: Deferred[Sender | None] = Deferred(lambda waiting: self._wanted[way].remove(waiting))
        wanted.append(waiting)
        return waiting

    def _hand_over(self, way: Hashable, sender: Sender | None) -> bool:
        """Give a session to who waits for one of its way; say whether there is anybody."""
        wanted = self._wanted.get(way)
        if not wanted:
            return False
        waiting = wanted.popleft()
        if not wanted:
            del self._wanted[way]
        waiting.callback(sender)
        return True

    def has_use(self, sender: Sender) -> bool:
        """Say whether a session that has done its mailings can take another."""
        if self._is_closed or not sender.is_ready or sender.is_for_few_domains:
            return False
        return not self._is_worn(sender, self._clock.seconds())

    def keep(self, way: Hashable, sender: Sender) -> None:
        """Keep a session that has done its mailings, or give it to who waits for one, or end it."""
        if not self.has_use(sender):
            self._leaving.quit(sender)
            self._hand_over(way, None)
            return
        if self._hand_over(way, sender):
            return
        if not self._has_room(way):
            self._leaving.quit(sender)
            return
        sender.on_lost = lambda: self._lost(way, sender)
        self._waiting.setdefault(way, {})[sender] = self._clock.seconds()
        self._count += 1
        if self._timer is None:
            self._timer = self._clock.callLater(self._limits.seconds, self._sweep)

    def _has_room(self, way: Hashable) -> bool:
        limits = self._limits
        return (
            limits.seconds > 0 and self._count < limits.sessions and len(self._waiting.get(way, ())) < limits.sessions_per_way
        )

    def _is_worn(self, sender: Sender, now: float) -> bool:
        most = min(self._limits.mailings, sender.most_mailings or self._limits.mailings)
        return sender.mailings >= most or now - sender.opened_at >= self._limits.age_seconds

    async def close(self) -> None:
        """End all, and keep nothing from now on; return when they have ended, or after CLOSE_SECONDS at most."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        leaving = [sender for waiting in self._waiting.values() for sender in waiting]
        if not leaving:
            return
        emptied: Deferred[None] = Deferred()
        self._emptied = emptied
        for sender in leaving:
            sender.quit()
        deadline = self._clock.callLater(CLOSE_SECONDS, self._abort_all)
        await emptied
        if deadline.active():
            deadline.cancel()

    def _abort_all(self) -> None:
        for sender in [sender for waiting in self._waiting.values() for sender in waiting]:
            sender.abort()

    def _sweep(self) -> None:
        """End those that have waited long enough."""
        self._timer = None
        now = self._clock.seconds()
        oldest = now
        for way, waiting in list(self._waiting.items()):
            for sender, since in list(waiting.items()):
                if now - since < self._limits.seconds:
                    oldest = min(oldest, since)
                    break
                self._remove(way, sender)
                self._leaving.quit(sender)
        if self._count:
            self._timer = self._clock.callLater(oldest + self._limits.seconds - now, self._sweep)

    def _lost(self, way: Hashable, sender: Sender) -> None:
        """Forget a session that its host ended."""
        if sender in self._waiting.get(way, ()):
            self._remove(way, sender)
        if self._emptied is not None and not self._count:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def _remove(self, way: Hashable, sender: Sender) -> None:
        waiting = self._waiting[way]
        del waiting[sender]
        self._count -= 1
        if not waiting:
            del self._waiting[way]
