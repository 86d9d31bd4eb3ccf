"""
Memory of the hosts with which TLS worked: where it is not a must, who takes it away is at least noticed.

A host that offered TLS in the last REMEMBERED_SECONDS and now does not, or with which it fails now, may have lost it, or
somebody on the line strips it. Mail for it waits for `patience_seconds` from then, and goes in clear after that if TLS has not
come back: mail is not lost by this, and an attacker must hold out for so long. Then the host is forgotten, until TLS works with
it again.

    unknown       TLS works: works                   in clear at once
    works         TLS fails: missing, from now on    TLS is a must
    missing       TLS works: works                   TLS is a must, until the patience is over: unknown

What is known survives a restart, and reaches the other workers, by way of small files: one is written when a host becomes
known, once a day while TLS works, and when that changes; and read when a process meets a host first. A worker that has met it
before goes by what it saw itself, so that each may wait once. Without the files mail is no worse off than without the memory.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from mailstack import events
from mailstack.relay.ports import Clock, Kept, RunInThread, Start
from mailstack.relay.settings import SMTP_PORT

REMEMBERED_SECONDS: Final = 30 * 86_400.0
WRITTEN_AGAIN_SECONDS: Final = 86_400.0
MAX_KNOWN: Final = 10_000


def key_of(host: str, port: int) -> str:
    """Return what is remembered: another port of a host is another program, of which the one says nothing of the other."""
    return host if port == SMTP_PORT else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Known:
    """When TLS worked last, as it was written, and since when it is missing; 0: never, and not."""

    worked_at: float = 0.0
    missing_since: float = 0.0


class TLSMemory:
    """Knows hosts by their names (`key_of`)."""

    def __init__(
        self, patience_seconds: float, clock: Clock, start: Start, run_in_thread: RunInThread, kept: Kept | None = None
    ) -> None:
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._start = start
        self._run_in_thread = run_in_thread
        self._kept = kept
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def insists(self, host: str) -> bool:
        """Say whether mail for a host rather waits than goes without TLS."""
        known, now = await self._recall(host), self._clock.seconds()
        if not known.worked_at or now >= known.worked_at + REMEMBERED_SECONDS:
            return False
        if known.missing_since and now >= known.missing_since + self._patience_seconds:
            events.tls_given_up(host, now - known.missing_since)
            self._note(host, _Known())
            return False
        return True

    def worked(self, host: str) -> None:
        """Note that TLS works with a host."""
        known, now = self._known.get(host, _Known()), self._clock.seconds()
        if known.missing_since or now >= known.worked_at + WRITTEN_AGAIN_SECONDS:
            self._note(host, _Known(now))

    def missed(self, host: str) -> None:
        """Note that a host has no TLS, or none that works."""
        known = self._known.get(host, _Known())
        if known.worked_at and not known.missing_since:
            self._note(host, replace(known, missing_since=self._clock.seconds()))

    async def _recall(self, host: str) -> _Known:
        known = self._known.get(host)
        if known is None:
            octets = await self._run_in_thread(self._kept.read, host) if self._kept is not None else None
            known = self._known.get(host) or (_Known() if octets is None else _read(host, octets))
            self._remember(host, known)
        else:
            self._known.move_to_end(host)
        return known

    def _remember(self, host: str, known: _Known) -> None:
        self._known[host] = known
        self._known.move_to_end(host)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _note(self, host: str, known: _Known) -> None:
        self._remember(host, known)
        if self._kept is not None:
            self._start(self._write(self._kept, host, known), f"remembering TLS with {host}")

    async def _write(self, kept: Kept, host: str, known: _Known) -> None:
        document = {"host": host, "worked_at": known.worked_at, "missing_since": known.missing_since}
        await self._run_in_thread(kept.write, host, json.dumps(document).encode())


def _read(host: str, octets: bytes) -> _Known:
    try:
        document = json.loads(octets)
        known = _Known(float(document["worked_at"]), float(document["missing_since"]))
        return known if document["host"] == host else _Known()
    except (ValueError, KeyError, TypeError, RecursionError):
        return _Known()  # cut, or of another time
