"""
A process that accepts and delivers until it is killed: `spool_child.py FOLDER SEED`.

Writes one line for each event to FOLDER.log, by one write(2) each, so that a line is there whole as soon as it happened,
even if the process is killed in the next instant:

    acked ENTRY                                after a commit
    delivered ENTRY MAY_REPEAT ok|damaged      in the courier
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spool_house import disposition, envelope, local
from twisted.internet import reactor
from twisted.internet.defer import DeferredList

from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Delivery
from mailstack.net.batch import BatchThread
from mailstack.net.supervise import Supervisor
from mailstack.spool.spool import Spool

GROUP = 20


def content(number: int) -> bytes:
    """Make a content that proves itself whole."""
    body = random.Random(number).randbytes(200_000 if number % 10 == 0 else 2_000).hex().encode() + b"\r\n"
    return hashlib.sha256(body).hexdigest().encode() + b"\r\n" + body


def is_whole(octets: bytes) -> bool:
    digest, _, body = octets.partition(b"\r\n")
    return hashlib.sha256(body).hexdigest().encode() == digest


class Log:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


class LoggingCourier:
    def __init__(self, log: Log) -> None:
        self._log = log

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        whole = is_whole(b"".join(delivery.content.chunks()))
        self._log("delivered", delivery.entry, delivery.may_repeat, "ok" if whole else "damaged")
        return [disposition(ordinal, Action.DELIVERED) for ordinal in delivery.recipients]


def make(folder: Path, log: Log, chance: Callable[[], float]) -> tuple[Supervisor, Spool]:
    supervisor = Supervisor()

    async def route(address: Any) -> Any:
        return (local(str(address)),)

    courier = LoggingCourier(log)
    return supervisor, Spool(
        folder,
        hostname="mx.example.org",
        clock=reactor,
        batch_factory=lambda run, *, name: BatchThread(run, name=name, from_thread=reactor.callFromThread),
        start=supervisor.start,
        chance=chance,
        route=route,
        couriers=lambda destination: courier,
        min_free_octets=0,
        min_free_inodes=0,
    )


async def accept_one(spool: Spool, log: Log, number: int) -> None:
    draft = spool.intake.begin()
    octets = content(number)
    for start in range(0, len(octets), 65_536):
        if (waiting := draft.write(octets[start : start + 65_536])) is not None:
            await waiting
    if await draft.commit(envelope(local("a@x.org"), accepted_at=reactor.seconds())) is None:
        log("acked", draft.entry)


async def work(folder: Path, seed: int) -> None:
    chances = random.Random(seed)
    log = Log(folder.with_suffix(".log"))
    supervisor, spool = make(folder, log, chances.random)
    spool.open()
    spool.runner.start()
    log("opened")
    while True:
        group = [supervisor.start(accept_one(spool, log, chances.randrange(1_000)), "accept") for _ in range(GROUP)]
        await DeferredList(group)


if __name__ == "__main__":
    Supervisor().start(work(Path(sys.argv[1]), int(sys.argv[2])), "work")
    reactor.run()
