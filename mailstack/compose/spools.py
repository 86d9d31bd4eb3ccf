"""The spools of one process: its own, and those that fall to it since their workers are no more."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import DeferredList

from mailstack.compose import chance
from mailstack.compose.limits import lane_limits, of_left_over
from mailstack.compose.machine import Machine
from mailstack.compose.place import Place
from mailstack.compose.routing import postmaster_of
from mailstack.console.control import Desk
from mailstack.console.desk import QueueDesk
from mailstack.console.desks import Desks
from mailstack.relay.by_transport import TransportCourier
from mailstack.route.transport import Lmtp, Mx, Smtp, TransportError, parse_transport
from mailstack.settings import Settings
from mailstack.spool.backoff import Schedule
from mailstack.spool.lanes import Limits
from mailstack.spool.ports import Route
from mailstack.spool.report import NOTICES_PER_HOUR
from mailstack.spool.shards import left_over, shard_folder
from mailstack.spool.spool import Spool


class Spools:
    """
    Where accepted mail waits.

    Shape:   `own` takes mail, the others only deliver theirs. `courier` takes it on; `forget_hosts` has every host asked again.
    """

    def __init__(
        self,
        settings: Settings,
        place: Place,
        machine: Machine,
        *,
        route: Route,
        courier: TransportCourier,
        forget_hosts: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._place = place
        self._machine = machine
        self._route = route
        self._courier = courier
        self._forget_hosts = forget_hosts
        self.own = self._make(place.worker, self._limits())
        self.others: list[Spool] = []

    def open(self) -> None:
        """
        Open ours, find those that fall to us, and open them; blocks.

        Raises:  SpoolError.
        """
        self.own.open()
        limits = of_left_over(self._limits())
        for shard in left_over(self._settings.spool_folder, worker=self._place.worker, workers=self._place.workers):
            spool = self._make(shard, limits)
            spool.open()
            self.others.append(spool)

    def make_desk(self) -> Desk:
        """Make the desk at which the operator's requests are answered; to be said when all are open."""
        seconds = self._machine.seconds
        return Desks([QueueDesk(each.queue, seconds=seconds, check_via=_check_via) for each in self._all()])

    def start(self) -> None:
        """Begin to deliver what waits."""
        for spool in self._all():
            spool.runner.start()

    def change(self, settings: Settings) -> None:
        """Deliver within other limits from now on."""
        self._settings = settings
        limits = self._limits()
        self.own.runner.change(limits)
        for spool in self.others:
            spool.runner.change(of_left_over(limits))

    async def close(self) -> None:
        """Let attempts end for a while, and close all."""
        start = self._machine.supervisor.start
        await DeferredList([start(spool.close(), "closing a spool") for spool in self._all()])

    def _all(self) -> list[Spool]:
        return [self.own, *self.others]

    def _limits(self) -> Limits:
        return lane_limits(self._settings.relay, self._settings.queue, self._place)

    def _make(self, shard: int, limits: Limits) -> Spool:
        settings, queue, machine = self._settings, self._settings.queue, self._machine
        return Spool(
            shard_folder(settings.spool_folder, shard),
            shard=shard,
            hostname=settings.hostname,
            clock=machine.reactor,
            batch_factory=machine.batch,
            start=machine.supervisor.start,
            chance=chance.fraction,
            route=self._route,
            couriers=lambda destination: self._courier,
            straight=self._courier,
            way_of=self._courier.way_of,
            postmaster=postmaster_of(settings) if queue.double_bounces == "postmaster" else None,
            notices_per_hour=self._place.part_of(NOTICES_PER_HOUR),
            schedule=Schedule(
                first_seconds=queue.retry_first_seconds,
                longest_seconds=queue.retry_most_seconds,
                lifetime_seconds=queue.expire_seconds,
                warning_seconds=queue.warn_seconds,
            ),
            limits=limits,
            forget_hosts=self._forget_hosts,
            min_free_octets=queue.free_octets_minimum,
            min_free_inodes=queue.free_inodes_minimum,
        )


def _check_via(text: str) -> str:
    """
    Return a way by which the operator may have mail go, as it is kept.

    Raises:  ValueError.
    """
    try:
        transport = parse_transport(text)
    except TransportError as error:
        raise ValueError(f"{text[:80]!r} {error}") from None
    if not isinstance(transport, Mx | Smtp | Lmtp):
        raise ValueError(f"{text[:80]!r} is no way to a host; there are mx, smtp:[HOST]:PORT, smtp:DOMAIN and lmtp:...")
    return str(transport)
