"""The spool as the house sees it: a folder, an intake, a runner."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.address import Address
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import ContentFolder
from mailstack.spool.database import Connect, Database, connect
from mailstack.spool.entry import WayOf, as_usual
from mailstack.spool.failures import SpoolError
from mailstack.spool.folder import SpoolFolder
from mailstack.spool.identifiers import Identifiers, format_number
from mailstack.spool.intake import Intake
from mailstack.spool.lanes import Limits
from mailstack.spool.operations import Count
from mailstack.spool.ports import BatchFactory, Chance, Clock, Couriers, Route, Start, StraightCourier, System
from mailstack.spool.queue import Queue
from mailstack.spool.recovery import recover
from mailstack.spool.report import NOTICES_PER_HOUR, Reporter
from mailstack.spool.runner import Runner
from mailstack.spool.space import FreeSpace
from mailstack.spool.straight import Straight


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolCounts:
    """What the operator may want to know."""

    entries: int
    waiting_recipients: int
    due_recipients: int
    corrupt_entries: int
    attempts: int


class Spool:
    """
    Keeps accepted mail.

    Shape:   `batch_factory(run, name=…)` makes a batch around a function, `lambda run, name: BatchThread(run, name=name, …)`;
             `start(coroutine, what)` is the supervisor's; `chance()` is random.random or alike; `shard` differs between spools
             that deliver into the same maildirs; `straight` is the courier to accounts, when it may be used before the 250;
             `way_of` names the way of a recipient whose courier does not go as the destination says, so that it has a lane of
             its own;
             `postmaster` is told what no sender can be, so many times an hour; `forget_hosts` is called when everything is to
             be asked again. Nothing is opened or started before `open`.
    """

    def __init__(
        self,
        path: Path,
        *,
        hostname: str,
        clock: Clock,
        batch_factory: BatchFactory,
        start: Start,
        chance: Chance,
        route: Route,
        couriers: Couriers,
        straight: StraightCourier | None = None,
        way_of: WayOf = as_usual,
        postmaster: Address | None = None,
        notices_per_hour: int = NOTICES_PER_HOUR,
        shard: int = 0,
        schedule: Schedule | None = None,
        limits: Limits | None = None,
        lease_seconds: float = 3_600.0,
        forget_hosts: Callable[[], None] = lambda: None,
        min_free_octets: int = 67_108_864,
        min_free_inodes: int = 1_000,
        connect: Connect = connect,
        system: System = os,
    ) -> None:
        schedule = schedule or Schedule()
        self._folder = SpoolFolder(path)
        self._clock = clock
        self._identifiers = Identifiers(clock.seconds, chance, shard)
        self._database = Database(self._folder.database, batch_factory, connect)
        self._contents = ContentFolder(self._folder.content, batch_factory, system)
        reporter = Reporter(
            hostname=hostname,
            route=route,
            identifiers=self._identifiers,
            contents=self._contents,
            schedule=schedule,
            clock=clock,
            postmaster=postmaster,
            notices_per_hour=notices_per_hour,
        )
        self.runner = Runner(
            database=self._database,
            contents=self._contents,
            couriers=couriers,
            way_of=way_of,
            reporter=reporter,
            clock=clock,
            chance=chance,
            start=start,
            schedule=schedule,
            limits=limits or Limits(),
            lease_seconds=lease_seconds,
            forget_hosts=forget_hosts,
        )
        straight_way = Straight(straight) if straight is not None else None
        self.queue = Queue(
            database=self._database, contents=self._contents, runner=self.runner, clock=clock, straight=straight_way
        )
        space = FreeSpace(path, clock, min_free_octets=min_free_octets, min_free_inodes=min_free_inodes)
        self.intake = Intake(
            database=self._database,
            contents=self._contents,
            identifiers=self._identifiers,
            space=space,
            schedule=schedule,
            start=start,
            on_accepted=self.runner.accepted,
            way_of=self.runner.way_of,
            straight=straight_way,
        )

    def open(self) -> None:
        """
        Take the folder, recover, and be ready to accept; blocks. Attempts begin with `runner.start()`.

        Raises:  SpoolError: the folder cannot be used, another process has it, or the database is not ours or damaged.
        """
        self._folder.lock()
        try:
            found = self._database.open(lambda connection: recover(connection, self._folder.content))
        except SpoolError:
            self._folder.unlock()
            raise
        self._identifiers.start_after(found.last_number)
        self.runner.pause(found.paused)
        self.runner.report(found.unreported)
        for number, why in found.set_aside:
            events.unexpected(f"{format_number(number)}: set aside", Failure(ValueError(why)))
        events.spool_recovered(self._folder.path.name, found.entries, found.removed_files, is_counted=found.is_counted)
        self._database.start()
        self._contents.start()

    async def counts(self) -> SpoolCounts:
        """Count what is in the spool."""
        rows = await self._database.do(Count(self._clock.seconds()))
        return SpoolCounts(
            entries=rows.entries,
            waiting_recipients=rows.waiting_recipients,
            due_recipients=rows.due_recipients,
            corrupt_entries=rows.corrupt_entries,
            attempts=self.runner.attempts,
        )

    async def close(self, grace_seconds: float = 10.0) -> None:
        """Let attempts end for that long, write what waits, and give the folder back. Drafts must have ended before."""
        await self.runner.stop(grace_seconds)
        await self._contents.stop()
        await self._database.close()
        self._folder.unlock()
