"""A spool with very many entries: nothing on the road looks at all of them."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from spool_house import NOW, House, all_are, connect_fast, disposition, envelope, local, now, remote

from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Delivery
from mailstack.spool.content import MemoryContent
from mailstack.spool.entry import Entry, lanes_of
from mailstack.spool.hands import Act, Order
from mailstack.spool.identifiers import Identifiers, parse_name
from mailstack.spool.operations import Accept
from mailstack.spool.runner import GO_ON_SECONDS, PAGE_ROWS, PAGES_PER_LOOK
from mailstack.spool.selection import parse_selection
from mailstack.spool.sums import By

ENTRIES = 36_000
DUE = ENTRIES // 3  # more than one look takes
HEALTHY_DUE = DUE // 10
STEPS = 1_000
"""SQLite calls us after so many of its steps; a row that is looked at takes some ten."""
ENOUGH = 160 * STEPS
"""What a start or a look may take: 120 of it, however many entries there are; to look at all of these takes 216."""


class Watch:
    """Counts the steps of SQLite, and keeps the statements."""

    def __init__(self) -> None:
        self.steps = 0
        self.most = 0
        self.statements: dict[str, str] = {}

    def connect(self, path: Path) -> sqlite3.Connection:
        connection = connect_fast(path)
        connection.set_progress_handler(self.step, STEPS)
        connection.set_trace_callback(self.see)
        return connection

    def step(self) -> int:
        self.steps += STEPS
        self.most = max(self.most, self.steps)
        return 0

    def see(self, statement: str) -> None:
        self.steps = 0
        self.statements.setdefault(statement[:200], statement)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Make a spool of ENTRIES entries, of which the first third are due; every tenth is for a domain of its own, the others for
    one.
    """
    path = tmp_path_factory.mktemp("large") / "spool"
    house = House(path).open(run=False)
    now(house.spool.close())
    connection = connect_fast(path / "spool.db")
    identifiers = Identifiers(lambda: NOW - 86_400, lambda: 0.5)
    down = remote("user@down.test")
    sample = envelope(down)
    content = MemoryContent(b"x: y\r\n")
    connection.execute("BEGIN")
    for number in range(ENTRIES):
        recipient = remote(f"user@d{number}.test") if number % 10 == 0 else down
        made = replace(sample, recipients=(recipient,), accepted_at=NOW + 1.0 - 2.0 * (DUE - number))
        entry = Entry(number=identifiers.make(), envelope=made, content=content, expires_at=NOW + 1e6)
        Accept(entry, lanes_of(made)).apply(connection)
    connection.execute("COMMIT")
    connection.close()
    return path


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def large(folder: Path, watch: Watch, tmp_path: Path) -> House:
    """Copy the spool, and make a house for it that is not open yet."""
    house = House(folder)
    house.folder = tmp_path / "spool"
    house.options["connect"] = watch.connect
    (tmp_path / "spool").mkdir(0o700)
    for name in ("spool.db", "spool.db-wal"):
        if (folder / name).exists():
            (tmp_path / "spool" / name).write_bytes((folder / name).read_bytes())
    house.spool = house.make()
    return house


def test_a_start_does_not_look_at_all_entries(large: House, watch: Watch) -> None:
    large.open(run=False)
    assert 0 < watch.most < ENOUGH


def test_the_watch_sees_a_scan(large: House, watch: Watch) -> None:
    large.open(run=False)
    assert large.counts().entries == ENTRIES
    assert watch.most > ENOUGH


def test_no_commit_waits_for_a_look_at_all_that_is_due(large: House, watch: Watch) -> None:
    large.open(run=False)
    watch.most = 0
    large.spool.runner.start()
    for _ in range(DUE // (PAGE_ROWS * PAGES_PER_LOOK) + 1):
        large.clock.advance(GO_ON_SECONDS)
    assert watch.most < ENOUGH / 10, "one look is many operations, and other commits go in between"


def test_mail_behind_that_of_a_domain_that_is_down_is_found(large: House) -> None:
    relayed: list[str] = []

    async def attempt(delivery: Delivery) -> list[Disposition]:
        if delivery.envelope.recipients[0].address.domain == "down.test":
            return await waiting(delivery)
        relayed.append(delivery.entry)
        return [disposition(ordinal, Action.RELAYED) for ordinal in delivery.recipients]

    waiting = large.courier.attempt
    large.courier.attempt = attempt  # type: ignore[method-assign]  # a host that is down never answers
    large.open()
    for _ in range(DUE // (PAGE_ROWS * PAGES_PER_LOOK) + 1):
        large.clock.advance(GO_ON_SECONDS)
    assert len(relayed) == len(set(relayed)) == HEALTHY_DUE
    assert large.spool.runner.attempts == 5


def test_what_is_in_memory_is_bounded(large: House) -> None:
    large.open()
    for _ in range(10):
        large.clock.advance(GO_ON_SECONDS)
    lanes = large.spool.runner._lanes
    assert 400 < lanes.works <= 2_000


def test_all_that_is_due_is_attempted_once(large: House) -> None:
    large.courier.answer = all_are(Action.DELAYED)
    large.open()
    for _ in range(DUE // (PAGE_ROWS * PAGES_PER_LOOK) + 1):
        large.clock.advance(GO_ON_SECONDS)
    assert len({delivery.entry for delivery in large.courier.deliveries}) == len(large.courier.deliveries)
    assert len(large.courier.deliveries) == DUE


def _operate(house: House) -> None:
    """Do everything that an operator does."""
    queue = house.spool.queue
    name = house.accept(remote("eva@other.example"), remote("eva@another.example"))
    number = parse_name(name)
    assert number is not None
    for fields in (
        {},
        {"states": ["held"]},
        {"states": ["corrupt"]},
        {"names": [name]},
        {"sender": "@x.test", "domain": "y.test"},
        {"account": "a@x.test", "session": "s", "peer": "192.0.2.1"},
    ):
        now(queue.find(parse_selection(fields), after=0, limit=5))
    house.courier.finish(Action.DELAYED)
    house.courier.finish(Action.DELAYED)
    for act in (Act.HOLD, Act.RELEASE, Act.RETRY, Act.REROUTE, Act.BOUNCE, Act.DELETE):
        now(queue.obey(Order(act=act, text="smtp:x", by="root"), [(number, (0, 1))]))
    now(queue.show(number))
    now(queue.read(number, after=0, what="content", by="root"))
    now(queue.sum_up(parse_selection({}), By.DOMAIN, after=0))
    now(queue.span())
    now(queue.pause("x.test"))
    now(queue.resume("x.test"))


ALLOWED = (
    ["SCAN entry USING INDEX entry_in_file"],
    ["SCAN recipient USING INDEX recipient_unreported"],  # no more than can be told at the moment
    ["SCAN paused"],
)


def test_no_statement_scans_a_table(large: House, watch: Watch) -> None:
    """Do everything that a spool does, and ask SQLite how it does each."""
    large.open()
    large.accept(local("bob@example.org"), remote("eva@example.net"))
    for action in (Action.RELAYED, Action.DELAYED, Action.FAILED) * 2:
        large.courier.finish(action)
    now(large.spool.runner.flush())
    large.clock.advance(400.0)
    large.spool._database._ghosts.append(1)
    large.accept(remote("eva@example.net"))
    _operate(large)
    asked = connect_fast(large.folder / "spool.db")
    done = [each for each in watch.statements.values() if each.split(" ")[0] in ("SELECT", "UPDATE", "DELETE", "INSERT")]
    assert len(done) > 12
    for statement in done:
        plan = [row[3] for row in asked.execute(f"EXPLAIN QUERY PLAN {statement}")]
        scans = [step for step in plan if step.startswith("SCAN") and not step.startswith(("SCAN (subquery", "SCAN sqlite_"))]
        assert scans in ([], *ALLOWED), statement
        assert not any("TEMP B-TREE FOR ORDER BY" in step for step in plan), statement
