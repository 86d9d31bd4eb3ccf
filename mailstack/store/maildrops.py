"""
Maildrops that are opened again and again: what the last session saw spares the next one its look at the folders.

A client looks for mail every few minutes and mostly finds what it found before. So the inventory of a maildir is remembered
with the stamp of its folders (their identity and times, which every delivery, removal, change of flags or move alters) and is
used again for as long as the stamp is the same. The stamp is always taken under the maildrop's lock.

A stamp alone can lie: what happens twice within one tick of the file system's clock leaves the same times. Therefore only that
is remembered which was looked at well after the last change, as git does with its index; a later change then has other times.

    what the folders show                            what is done
    the remembered stamp                             the inventory is used again; where the kernel has all of it in
                                                     memory, without a thread
    another stamp                                    they are looked through
    ... that is young, or changed meanwhile          ... and nothing is remembered
    ... and a file could not be measured             ... and nothing is remembered
"""

from __future__ import annotations

import fcntl
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from mailstack.mail.maildrop import MaildropLocked
from mailstack.store.cached import Cache, KernelCache
from mailstack.store.maildrop import LOCK_NAME, Known, Maildrop, stamp_of

REMEMBERED_MESSAGES: Final = 200_000
"""Of all maildrops together; one takes some 150 octets, and half as many again with the lists that POP3 makes of it."""


class Maildrops:
    """
    Opens maildrops. All methods are called in one thread and do not block.

    Shape:   `now` tells seconds since 1970; a maildir is known by its path.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        remembered_messages: int = REMEMBERED_MESSAGES,
        make_cache: Callable[[], Cache] = KernelCache,
    ) -> None:
        self._now = now
        self._most = remembered_messages
        self._make_cache = make_cache
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._messages = 0

    def __len__(self) -> int:
        """Say how many messages are remembered."""
        return self._messages

    def open_at_once(self, path: str) -> Maildrop | None:
        """
        Open a maildrop that is as it was, if that needs no look at a disk; or return None, and the way is `opening`.

        Raises:  MaildropLocked: another session has it.
        """
        known = self._known.get(path)
        if known is None or not known.is_cacheable:
            return None
        cache = self._make_cache()
        lock = cache.open(f"{path}/{LOCK_NAME}")
        if lock is None:
            return None
        drop = Maildrop(path, lock, known, self._now, cache=cache)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stamp_of(path, drop.look_cached) == known.stamp:
                self._known.move_to_end(path)
                return drop
        except BlockingIOError:
            drop.close()
            raise MaildropLocked(path) from None
        except OSError:  # a file system that locks only what is open for writing, for instance
            pass
        drop.close()
        return None

    def opening(self, path: str) -> Callable[[], Maildrop]:
        """Return what opens a maildrop, for a thread: it blocks, and raises as `Maildrop.open`."""
        known, now, cache = self._known.get(path), self._now, self._make_cache()
        return lambda: Maildrop.open(path, now=now, cache=cache, known=known)

    def remember(self, drop: Maildrop) -> Maildrop:
        """Keep what a maildrop showed, if that can be trusted; return the maildrop."""
        old = self._known.pop(drop.path, None)
        if old is not None:
            self._messages -= len(old.inventory)
        known = drop.known
        if known.stamp is not None and len(known.inventory) <= self._most:
            self._known[drop.path] = known
            self._messages += len(known.inventory)
            while self._messages > self._most:
                _, oldest = self._known.popitem(last=False)
                self._messages -= len(oldest.inventory)
        return drop
