"""Any order of accepting, outcomes, time and crashes: what was acknowledged is delivered, waiting, or reported."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from spool_house import CONTENT, House, connect_fast, disposition, envelope, local, now, remote
from test_intake import BIG, FailingConnection
from twisted.internet.defer import Deferred

from mailstack.mail.disposition import Action
from mailstack.mail.verdict import defer
from mailstack.spool.identifiers import format_number
from mailstack.spool.lanes import Limits

IO_ERROR = 10
Key = tuple[str, int]


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="spool-"))
        self.script: list[int] = []
        self.house = House(
            self.base / "spool",
            connect=lambda path: FailingConnection(connect_fast(path), self.script),
            limits=Limits(works=6, per_destination=2, local_at_once=2, works_per_destination=3),
        ).open()
        self.acknowledged: set[Key] = set()
        self.delivered: set[Key] = set()
        self.failed: set[Key] = set()

    def teardown(self) -> None:
        self.script.clear()
        closing = Deferred.fromCoroutine(self.house.spool.close(0))
        self.house.clock.advance(0)
        assert closing.called
        shutil.rmtree(self.base)

    @rule(content=st.sampled_from([CONTENT, BIG]), kinds=st.lists(st.sampled_from("lrs"), min_size=1, max_size=4))
    def accept(self, content: bytes, kinds: list[str]) -> None:
        to = [{"l": local("a@x.org"), "r": remote("b@y.net"), "s": remote("c@z.net")}[kind] for kind in kinds]
        draft = self.house.spool.intake.begin()
        draft.write(content)
        if self.house.commit(draft, envelope(*to, accepted_at=self.house.clock.seconds())) is None:
            self.acknowledged |= {(draft.entry, ordinal) for ordinal in range(len(to))}

    @rule(octets=st.sampled_from([CONTENT, BIG]))
    def begin_and_vanish(self, octets: bytes) -> None:
        self.house.spool.intake.begin().write(octets)

    @rule(which=st.integers(0, 5), actions=st.lists(st.sampled_from(Action), min_size=4, max_size=4))
    def finish(self, which: int, actions: list[Action]) -> None:
        if which >= len(self.house.courier.waiting):
            return
        delivery, waiting = self.house.courier.waiting.pop(which)
        outcomes = {ordinal: actions[ordinal % 4] for ordinal in delivery.recipients}
        for ordinal, action in outcomes.items():
            key = (delivery.entry, ordinal)
            assert key not in self.delivered or delivery.may_repeat
            if action in (Action.DELIVERED, Action.RELAYED):
                self.delivered.add(key)
            elif action is Action.FAILED and delivery.envelope.reverse_path is not None:
                self.failed.add(key)
        waiting.callback([disposition(ordinal, action) for ordinal, action in outcomes.items()])

    @rule()
    def raise_in_the_courier(self) -> None:
        if self.house.courier.waiting:
            self.house.courier.waiting.pop()[1].errback(ZeroDivisionError())

    @rule(seconds=st.sampled_from([1, 300, 4_000, 86_400]))
    def time_goes_on(self, seconds: int) -> None:
        self.house.clock.advance(seconds)

    @rule(is_up=st.booleans())
    def directory(self, is_up: bool) -> None:
        self.house.route = (lambda address: (local(str(address)),)) if is_up else (lambda address: defer("down"))

    @rule(times=st.integers(1, 2))
    def disk_fails(self, times: int) -> None:
        self.script[:] = [IO_ERROR] * times

    @rule()
    def flush(self) -> None:
        self.script.clear()
        now(self.house.spool.runner.flush())

    @rule()
    def crash(self) -> None:
        self.script.clear()
        self.house.crash().open()

    @invariant()
    def nothing_is_lost(self) -> None:
        connection = self.house.spool._database._connected()
        waiting = {
            (format_number(number), ordinal)
            for number, ordinal in connection.execute("SELECT entry, ordinal FROM recipient WHERE due_at IS NOT NULL")
        }
        reports = b"".join(
            content for (content,) in connection.execute("SELECT content FROM entry WHERE content LIKE '%multipart/report%'")
        )
        for key in self.acknowledged - self.delivered - waiting:
            # Failed for good, by the courier or since its time was up: its notification was queued with it.
            assert key in self.failed or key[0].encode() in reports or self.was_reported(key[0]), key
        assert not connection.execute("SELECT number FROM entry WHERE state = 'corrupt'").fetchall()
        assert self.house.spool.runner.attempts <= 2 * 3 + 2
        assert self.house.spool.runner._lanes.works <= 6

    def was_reported(self, entry: str) -> bool:
        """Whether a notification about the entry was given to a courier, now or before a crash."""
        couriers = [self.house.courier, *(courier for _, courier, _ in self.house.dead)]
        return any(
            delivery.envelope.reverse_path is None and entry.encode() in (delivery.content.in_memory or b"")
            for courier in couriers
            for delivery in courier.deliveries
        )


SpoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpoolMachine = SpoolMachine.TestCase
