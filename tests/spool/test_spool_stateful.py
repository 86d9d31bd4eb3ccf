"""
Any order of accepting, outcomes, orders, ways, time and crashes: what was acknowledged is delivered, waiting, reported, or was
deleted by the operator; and never is anybody in two attempts at once.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from spool_house import CONTENT, House, all_are, connect_fast, disposition, envelope, local, now, remote
from test_intake import BIG, FailingConnection
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from mailstack.mail.disposition import Action, Standing
from mailstack.mail.verdict import defer
from mailstack.spool.concurrency import Rate
from mailstack.spool.entry import way_of_lane
from mailstack.spool.hands import Act, Order
from mailstack.spool.identifiers import format_number, parse_name
from mailstack.spool.lanes import Limits

IO_ERROR = 10
WAYS = (None, "smtp:[one.test]:25", "lmtp:[two.test]:24")
PAUSABLE = ("y.net", "x.org", "*")
ALL = tuple(range(4))
Key = tuple[str, int]


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="spool-"))
        self.script: list[int] = []
        self.ways: dict[str, str | None] = {}
        self.house = House(
            self.base / "spool",
            connect=lambda path: FailingConnection(connect_fast(path), self.script),
            way_of=lambda recipient: self.ways.get(recipient.address.domain),
            limits=Limits(works=6, per_destination=2, local_at_once=2, works_per_destination=3, rates={"z.net": Rate(1, 5.0)}),
        ).open()
        self.acknowledged: set[Key] = set()
        self.deleted: set[Key] = set()
        self.delivered: set[Key] = set()
        self.told: set[str] = set()
        self.subjects: dict[str, str] = {}
        globalLogPublisher.addObserver(self.note)

    def teardown(self) -> None:
        try:
            self.all_comes_to_an_end()
        finally:
            globalLogPublisher.removeObserver(self.note)
            for spool in (self.house.spool, *(spool for spool, _, _ in self.house.dead)):
                Deferred.fromCoroutine(spool.close(0)).addErrback(lambda _: None)
                spool._database._drop()
            self.house.clock.advance(0)
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

    @rule(
        which=st.integers(0, 5),
        actions=st.lists(st.sampled_from(Action), min_size=4, max_size=4),
        standing=st.sampled_from([*Standing, None]),
    )
    def finish(self, which: int, actions: list[Action], standing: Standing | None) -> None:
        if which >= len(self.house.courier.waiting):
            return
        delivery, waiting = self.house.courier.waiting.pop(which)
        outcomes = {ordinal: actions[ordinal % 4] for ordinal in delivery.recipients}
        for ordinal, action in outcomes.items():
            key = (delivery.entry, ordinal)
            assert key not in self.delivered or delivery.may_repeat
            if action in (Action.DELIVERED, Action.RELAYED, Action.DISCARDED):
                self.delivered.add(key)
                if delivery.envelope.reverse_path is None:
                    self.told.add(subject(delivery.content.in_memory))
        waiting.callback([replace(disposition(ordinal, each), standing=standing) for ordinal, each in outcomes.items()])

    @rule(wait_seconds=st.sampled_from([0.0, 20.0]), messages=st.integers(1, 6))
    def destination_is_down(self, wait_seconds: float, messages: int) -> None:
        for _ in range(messages):
            self.accept(CONTENT, ["r"])
        for delivery, waiting in list(self.house.courier.waiting):
            if all(str(each.address) == "b@y.net" for each in delivery.recipients.values()):
                self.house.courier.waiting.remove((delivery, waiting))
                found = [disposition(ordinal, Action.DELAYED, "no connection") for ordinal in delivery.recipients]
                waiting.callback([replace(each, standing=Standing.DOWN, wait_seconds=wait_seconds) for each in found])

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

    @rule(
        acts=st.lists(st.tuples(st.sampled_from(Act), st.sampled_from(WAYS)), min_size=1, max_size=4),
        which=st.integers(0, 5),
        ordinals=st.sampled_from([(0, 1), ALL]),
    )
    def operate(self, acts: list[tuple[Act, str | None]], which: int, ordinals: tuple[int, ...]) -> None:
        self.script.clear()
        for name in sorted({name for name, _ in self.acknowledged})[which : which + 1]:
            for act, way in acts:
                if act is Act.DELETE:
                    self.deleted |= {(name, ordinal) for ordinal in ordinals}
                order = Order(act=act, text=way or "", by="root")
                now(self.house.spool.queue.obey(order, [(parse_name(name), ordinals)]))

    @rule(
        ways=st.lists(st.tuples(st.sampled_from(["x.org", "y.net", "z.net"]), st.sampled_from(WAYS)), min_size=1, max_size=3),
        is_reload=st.booleans(),
    )
    def change_ways(self, ways: list[tuple[str, str | None]], is_reload: bool) -> None:
        self.ways.update(ways)
        if is_reload:
            self.house.spool.runner.change(self.house.options["limits"])

    @rule(is_paused=st.booleans(), domain=st.sampled_from(PAUSABLE))
    def pause(self, is_paused: bool, domain: str) -> None:
        self.script.clear()
        queue = self.house.spool.queue
        now(queue.pause(domain) if is_paused else queue.resume(domain))

    @rule()
    def crash(self) -> None:
        self.script.clear()
        self.house.crash().open()

    @invariant()
    def nothing_is_lost(self) -> None:
        connection = self.house.spool._database._connected()
        waiting = {
            (format_number(number), ordinal)
            for number, ordinal in connection.execute(
                "SELECT entry, ordinal FROM recipient WHERE due_at IS NOT NULL OR held_at IS NOT NULL"
            )
        }
        queued = {
            subject(content)
            for (content,) in connection.execute("SELECT content FROM entry WHERE content IS NOT NULL")
            if b"report-type" in content
        }
        for key in self.acknowledged - self.delivered - self.deleted - waiting:
            # Failed for good, by the courier or since its time was up: then its sender was told, or will be.
            assert key[0] in self.told | queued, key
        assert not connection.execute("SELECT number FROM entry WHERE state = 'corrupt'").fetchall()
        runner = self.house.spool.runner
        assert runner.attempts <= runner._lanes.works <= 6
        attempted = [(each.entry, ordinal) for each, _ in self.house.courier.waiting for ordinal in each.recipients]
        assert len(attempted) == len(set(attempted)), "twice at once"
        by_way = Counter(way_of_lane(lane) for (_, lane), work in runner._leases._works.items() if work in runner._ends)
        assert all(by_way[way] <= 2 for way in WAYS if way)
        assert not runner._leases._hands

    def note(self, event: dict[str, Any]) -> None:
        """Note that a notification was queued, or that there will be none."""
        if event.get("event") == "dsn_queued":
            self.subjects[event["dsn_entry"]] = event["entry"]
        elif event.get("event") == "dsn_dropped":
            self.told.add(self.subjects.get(event["entry"], event["entry"]))

    def all_comes_to_an_end(self) -> None:
        """Nothing is stuck: with willing couriers, and a disk, everything that waits is attempted within an hour."""
        self.script.clear()
        self.house.route = lambda address: (local(str(address)),)
        self.house.courier.answer = all_are(Action.DELIVERED)
        for domain in PAUSABLE:
            now(self.house.spool.queue.resume(domain))
        held = {parse_name(name): ALL for name, _ in self.acknowledged}
        now(self.house.spool.queue.obey(Order(act=Act.RELEASE, by="root"), list(held.items())))
        while self.house.courier.waiting:
            self.house.courier.finish(Action.DELIVERED)
        self.house.clock.pump([10, 14_400] + [5] * 400)
        assert self.house.counts().waiting_recipients == 0
        assert self.house.counts().entries == 0
        runner = self.house.spool.runner
        assert runner._lanes.works == runner.attempts == 0
        assert not runner._leases._works
        assert not any(lane.taken or lane.ready for lane in runner._lanes._lanes.values())
        assert not any(way.taken for way in runner._lanes._ways.values())


def subject(report: bytes) -> str:
    """Return the entry that a notification is about."""
    found = re.search(rb"name the message ([0-9a-z]{13})\.", report)
    assert found
    return found.group(1).decode()


SpoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpoolMachine = SpoolMachine.TestCase
