"""A spool with a clock, couriers and a router that a test commands."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailstack.mail.address import parse_address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Account, Delivery, Destination, Envelope, Origin, Recipient, Remote, Service
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.verdict import Refuse
from mailstack.net.batch import InlineBatch
from mailstack.net.supervise import Supervisor
from mailstack.spool.backoff import Schedule
from mailstack.spool.database import connect
from mailstack.spool.spool import Spool

NOW = 1_800_000_000.0
CONTENT = b"Received: from here\r\nSubject: a test\r\n\r\nHello.\r\n"
EXACT = Schedule(spread=0.0, warning_seconds=0)


def remote(text: str) -> Recipient:
    address = parse_address(text)
    return Recipient(address=address, original=address, destination=Remote(address.domain))


def local(text: str) -> Recipient:
    address = parse_address(text)
    return Recipient(address=address, original=address, destination=Account(text))


def envelope(*recipients: Recipient, sender: str | None = "alice@example.org", accepted_at: float = NOW) -> Envelope:
    return Envelope(
        reverse_path=parse_address(sender) if sender else None,
        recipients=recipients or (remote("bob@example.net"),),
        origin=Origin(service=Service.SMTP, peer="192.0.2.1", hello="client.example", session="s1"),
        accepted_at=accepted_at,
    )


def disposition(ordinal: int, action: Action, diagnostic: str = "250 OK") -> Disposition:
    kind = {Action.DELAYED: 4, Action.FAILED: 5}.get(action, 2)
    return Disposition(ordinal=ordinal, action=action, status=EnhancedStatus(kind, 0, 0), diagnostic=diagnostic)


class FakeCourier:
    """Keeps what it is given until the test answers, or answers at once with `answer`."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.waiting: list[tuple[Delivery, Deferred[list[Disposition]]]] = []
        self.answer: Callable[[Delivery], list[Disposition]] | None = None

    async def attempt(self, delivery: Delivery) -> list[Disposition]:
        self.deliveries.append(delivery)
        if self.answer is not None:
            return self.answer(delivery)
        waiting: Deferred[list[Disposition]] = Deferred(lambda _: self.waiting.remove((delivery, waiting)))
        self.waiting.append((delivery, waiting))
        return await waiting

    def finish(self, action: Action, diagnostic: str = "so be it") -> Delivery:
        """Answer the oldest delivery, the same for all recipients."""
        delivery, waiting = self.waiting.pop(0)
        waiting.callback([disposition(ordinal, action, diagnostic) for ordinal in delivery.recipients])
        return delivery


def all_are(action: Action, diagnostic: str = "so be it") -> Callable[[Delivery], list[Disposition]]:
    return lambda delivery: [disposition(ordinal, action, diagnostic) for ordinal in delivery.recipients]


def connect_fast(path: Path) -> sqlite3.Connection:
    """Connect as the spool does, but do not wait for the disk."""
    connection = connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


class House:
    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options: dict[str, Any] = {
            "schedule": EXACT,
            "connect": connect_fast,
            "min_free_octets": 0,
            "min_free_inodes": 0,
        } | options
        self.clock = Clock()
        self.clock.advance(NOW)
        self.courier = FakeCourier()
        self.route: Callable[[Any], tuple[Recipient, ...] | Refuse] = lambda address: (local(str(address)),)
        self.supervisor = Supervisor()
        self.dead: list[Any] = []
        self.batches: dict[str, InlineBatch[Any, Any]] = {}
        self.spool = self.make()

    def make(self) -> Spool:
        async def route(address: Any) -> tuple[Recipient, ...] | Refuse:
            return self.route(address)

        def couriers(destination: Destination) -> FakeCourier:
            return self.courier

        def batch_factory(run: Any, *, name: str) -> InlineBatch[Any, Any]:
            self.batches[name] = InlineBatch(run, name=name)
            return self.batches[name]

        return Spool(
            self.folder,
            **{
                "hostname": "mx.example.org",
                "clock": self.clock,
                "batch_factory": batch_factory,
                "start": self.supervisor.start,
                "chance": lambda: 0.5,
                "route": route,
                "couriers": couriers,
            }
            | self.options,
        )

    def open(self, *, run: bool = True) -> House:
        self.spool.open()
        if run:
            self.spool.runner.start()
        return self

    def accept(self, *recipients: Recipient, content: bytes = CONTENT, sender: str | None = "alice@example.org") -> str:
        draft = self.spool.intake.begin()
        draft.write(content)
        outcome = self.commit(draft, envelope(*recipients, sender=sender, accepted_at=self.clock.seconds()))
        assert outcome is None
        return draft.entry

    def commit(self, draft: Any, about: Envelope) -> Refuse | None:
        return now(draft.commit(about))

    def crash(self) -> House:
        """Leave this process's spool as it is and open what is on disk as the next process would find it."""
        after = self.folder.with_name(self.folder.name + "+")
        shutil.copytree(self.folder, after, ignore=shutil.ignore_patterns("*-shm"))
        self.dead.append((self.spool, self.courier, self.clock))  # were it collected, its coroutines would go on
        moment = self.clock.seconds()
        self.clock = Clock()  # the timers of the dead process died with it
        self.clock.advance(moment)
        self.courier = FakeCourier()
        self.folder = after
        self.supervisor = Supervisor()
        self.spool = self.make()
        return self

    def counts(self) -> Any:
        return now(self.spool.counts())

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "content").iterdir())


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine came to; it must not wait."""
    outcomes: list[Any] = []
    failures: list[Any] = []
    Deferred.fromCoroutine(coroutine).addCallbacks(outcomes.append, failures.append)
    if failures:
        failures[0].raiseException()
    assert outcomes, "it waits"
    return outcomes[0]
