"""
SIGKILL at random moments under load: every message that got its 250 is in its maildir once, whole, and nothing else is.

`make crash` runs 100 rounds with one process, and half as many with two workers, of which one is killed, or their parent, or
all. MAILSTACK_CRASH_ROUNDS says how many, and MAILSTACK_CRASH_SEED repeats the moments of a run.
"""

from __future__ import annotations

import os
import poplib
import random
import signal
import smtplib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from harness import messages
from harness.house import ENDED, House, Person, retrieve, with_lines
from harness.programs import is_alive, open_folder, wait_for

ROUNDS = int(os.environ.get("MAILSTACK_CRASH_ROUNDS", "10"))
SEED = int(os.environ.get("MAILSTACK_CRASH_SEED", str(random.SystemRandom().randrange(10**6))))
SESSIONS = 8
SIZES_OCTETS = (300, 4_000, 4_000, 4_000, 4_000, 4_000, 60_000, 700_000)


@dataclass
class Tally:
    """
    What the clients were told.

    Shape:  `accepted` got their 250, `unsure` were cut off before any answer; `fetched` were deleted by a QUIT that was
            answered, `leaving` by one that was not.
    """

    accepted: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    fetched: Counter[str] = field(default_factory=Counter)
    leaving: Counter[str] = field(default_factory=Counter)


Kill = Callable[[House, random.Random], Callable[[], object]]
"""Kills something, and returns what waits until all is there again."""


class Sender(threading.Thread):
    """Sends one self-checking message after the other, until it is stopped; connects again when the server is back."""

    def __init__(self, house: House, number: int, person: Person, recipients: list[Person], tally: Tally) -> None:
        super().__init__(name=f"sender{number}", daemon=True)
        self._house, self._number, self._person, self._recipients, self._tally = house, number, person, recipients, tally
        self._chance = random.Random(f"{SEED}-{number}")
        self._sent = 0
        self.pause = threading.Event()
        self.over = threading.Event()

    def run(self) -> None:
        """Send until it is over."""
        while not self.over.is_set():
            if self.pause.is_set():
                time.sleep(0.005)
                continue
            try:
                self._session()
            except (OSError, smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError, smtplib.SMTPHeloError):
                time.sleep(0.01)
            except smtplib.SMTPResponseException as error:
                if error.smtp_code // 100 != 4:
                    self._tally.strange.append(f"{error.smtp_code} {error.smtp_error!r}")
                time.sleep(0.01)

    def _session(self) -> None:
        with self._house.submission(self._person) if self._number % 4 == 0 else self._house.smtp() as client:
            for _ in range(self._chance.randrange(1, 20)):
                if self.over.is_set() or self.pause.is_set():
                    return
                self._send(client)

    def _send(self, client: smtplib.SMTP) -> None:
        self._sent += 1
        name = f"s{self._number}-{self._sent}"
        recipient = self._chance.choice(self._recipients)
        sender = self._person.address if self._number % 4 == 0 else "load@elsewhere.test"
        content = messages.self_checking(name, sender, recipient.address, self._chance.choice(SIZES_OCTETS))
        client.ehlo_or_helo_if_needed()
        if (answer := client.mail(sender))[0] != 250 or (answer := client.rcpt(recipient.address))[0] != 250:
            raise smtplib.SMTPResponseException(*answer)
        self._tally.unsure.append(name)
        code, text = client.data(content)
        self._tally.unsure.remove(name)
        if code != 250:
            raise smtplib.SMTPResponseException(code, text)
        self._tally.accepted.append(name)


class Reader(threading.Thread):
    """Fetches and deletes one person's mail by POP3, again and again; what it was told of as deleted may never come back."""

    def __init__(self, house: House, person: Person, tally: Tally) -> None:
        super().__init__(name="reader", daemon=True)
        self._house, self._person, self._tally = house, person, tally
        self.over = threading.Event()

    def run(self) -> None:
        """Fetch until it is over."""
        while not self.over.is_set():
            try:
                self._session()
            except (OSError, EOFError, poplib.error_proto):  # the server is gone, or has not yet seen that we are
                time.sleep(0.01)
            except AssertionError as error:
                self._tally.strange.append(f"fetched a damaged message: {error}")

    def _session(self) -> None:
        client = self._house.pop3s(self._person)
        names = []
        try:
            for number in range(1, min(client.stat()[0], 10) + 1):
                names.append(messages.check_whole(retrieve(client, number)))
                client.dele(number)
            self._tally.leaving.update(names)
            client.quit()
        finally:
            client.close()
        self._tally.fetched.update(names)
        self._tally.leaving.subtract(names)
        time.sleep(0.005)


@pytest.fixture
def house(workers: int) -> Iterator[House]:
    """Give a running house."""
    with open_folder("crash") as folder, House(folder / "var", change=with_lines("", f"workers = {workers}")) as house:
        yield house


def stored(house: House, people: list[Person]) -> Counter[str]:
    """Count the messages in all maildirs by name; each must be whole."""
    found: Counter[str] = Counter()
    for person in people:
        for file in house.files(person.address):
            with suppress(FileNotFoundError):  # the reader was faster
                found[messages.check_whole(file.read_bytes())] += 1
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(180 + 30 * ROUNDS)
def test_every_250_is_kept_once_and_whole(house: House, workers: int) -> None:
    rounds = -(-ROUNDS // workers)
    chance = random.Random(SEED)
    people = [house.person(name) for name in ("ann", "ben", "cleo")]
    tally = Tally()
    senders = [Sender(house, number, people[number % 3], people, tally) for number in range(SESSIONS)]
    reader = Reader(house, people[2], tally)
    for thread in (*senders, reader):
        thread.start()
    try:
        for _ in range(rounds):
            kill = chance.choice([*[_kill_a_worker] * 3, _kill_the_parent, _kill_all]) if workers > 1 else _kill_all
            _one_round(house, people, senders, tally, chance, kill)
    finally:
        for thread in (*senders, reader):
            thread.over.set()
        for thread in (*senders, reader):
            thread.join(60)
    accepted, unsure = set(tally.accepted), set(tally.unsure)
    with suppress(AssertionError):  # what is missing is named below
        wait_for(lambda: accepted <= set(everything(house, people, tally)), "everything accepted is there", timeout_seconds=60)
    assert house.stop() == ENDED
    seen = everything(house, people, tally)
    sys.stderr.write(
        f"\nworkers: {workers}, {rounds} kills, seed {SEED}: {len(accepted)} accepted, {len(unsure)} unanswered; "
        f"{stored(house, people).total()} stored, {tally.fetched.total()} fetched and deleted\n"
    )
    assert tally.strange == []
    assert accepted - set(seen) == set(), f"accepted and lost (seed {SEED})"
    assert [name for name in seen if seen[name] > 1] == [], f"delivered twice (seed {SEED})"
    assert set(seen) - accepted - unsure == set(), f"delivered though refused (seed {SEED})"


def _one_round(
    house: House, people: list[Person], senders: list[Sender], tally: Tally, chance: random.Random, kill: Kill
) -> None:
    before = len(tally.accepted)
    wait_for(lambda: len(tally.accepted) > before, "traffic flows again")
    time.sleep(chance.uniform(0.0, 1.0))
    for sender in senders:
        sender.pause.set()  # those in the middle of a message go on, so that the kill meets them
    start_again = kill(house, chance)
    seen = stored(house, people)
    assert max(seen.values(), default=1) == 1, f"twice in a maildir (seed {SEED}): {[n for n in seen if seen[n] > 1]}"
    start_again()
    for sender in senders:
        sender.pause.clear()


def _kill_all(house: House, _: random.Random) -> Callable[[], object]:
    house.kill()
    return house.start


def _kill_the_parent(house: House, _: random.Random) -> Callable[[], object]:
    """The workers end by themselves, and what they have accepted in their last moments counts."""
    assert house.process is not None
    pids = house.workers().values()
    house.process.kill()
    house.process.wait(10)
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "the workers have ended", timeout_seconds=60)
    return house.start


def _kill_a_worker(house: House, chance: random.Random) -> Callable[[], object]:
    """The other goes on meanwhile."""
    worker, pid = chance.choice(sorted(house.workers().items()))
    os.kill(pid, signal.SIGKILL)
    return lambda: house.wait_for_another(worker, pid)


def everything(house: House, people: list[Person], tally: Tally) -> Counter[str]:
    """
    Count the messages that are stored, or were fetched and deleted.

    One of which the reader does not know whether its QUIT was carried out has been fetched whole, and may or may not be stored.
    """
    seen = stored(house, people) + tally.fetched
    for name in +tally.leaving:
        seen[name] = max(seen[name], 1)
    return seen
