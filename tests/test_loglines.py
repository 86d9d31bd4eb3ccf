"""The log's lines: as twistd writes them, several in one write, nothing lost and nothing late that matters."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, LogPublisher
from twisted.python.failure import Failure

from mailstack.loglines import GATHER_LINES, GATHER_SECONDS, LineObserver

NOON = 1_795_608_000.75


class Written:
    """What was written, one item for each write."""

    def __init__(self, **options: Any) -> None:
        self.writes: list[bytes] = []
        self.clock = Clock()
        self.log = LineObserver(self.writes.append, self.clock.callLater, **options)

    @property
    def text(self) -> str:
        return b"".join(self.writes).decode()


def event(text: str, level: LogLevel = LogLevel.info, **fields: Any) -> dict[str, Any]:
    return {"log_format": "{text}", "text": text, "log_level": level, "log_time": NOON, "log_namespace": "mailstack", **fields}


def failed() -> dict[str, Any]:
    try:
        raise ValueError("boom")
    except ValueError:
        return event("it failed", LogLevel.critical, log_failure=Failure())


def test_lines_are_gathered_for_a_moment() -> None:
    written = Written()
    written.log(event("first"))
    written.log(event("second"))
    assert written.writes == []
    written.clock.advance(GATHER_SECONDS)
    assert len(written.writes) == 1
    first, second = written.text.splitlines()
    assert first.startswith("2026-11-2")
    assert first.endswith(" [mailstack#info] first")
    assert second == first.replace("first", "second")
    written.log(event("third"))
    written.clock.advance(GATHER_SECONDS)
    assert len(written.writes) == 2


def test_a_warning_is_written_at_once_with_all_that_waits() -> None:
    written = Written(system="worker 3")
    written.log(event("first"))
    written.log(event("Grüße", LogLevel.warn))
    assert len(written.writes) == 1
    first, second = written.text.splitlines()
    assert first.endswith(" [worker 3#info] first")
    assert second.endswith(" [worker 3#warn] Grüße")


def test_many_do_not_wait() -> None:
    written = Written()
    for number in range(GATHER_LINES):
        written.log(event(str(number)))
    assert len(written.text.splitlines()) == GATHER_LINES


def test_what_has_several_lines_has_its_others_indented() -> None:
    written = Written()
    written.log(failed())
    first, *others = written.text.removesuffix("\n").split("\n")
    assert first.endswith("[mailstack#critical] it failed")
    assert "Traceback" in others[0]
    assert all(other.startswith("\t") for other in others)


def test_what_others_log_is_written_at_once_in_their_way() -> None:
    written = Written()
    written.log(
        {"log_format": "{a!r} {b.real}", "a": "x", "b": 7, "log_time": NOON, "log_namespace": "n", "log_level": LogLevel.info}
    )
    assert written.text.endswith(" [n#info] 'x' 7\n")


def test_an_old_event_has_no_level_and_one_without_text_is_no_line() -> None:
    written = Written()
    written.log({"log_time": NOON, "log_format": "old"})
    written.log({"log_time": NOON, "log_level": LogLevel.info, "log_format": None})
    assert written.text.endswith(" [-#info] old\n")
    assert len(written.writes) == 1


def test_the_date_changes_with_the_second() -> None:
    written = Written()
    for seconds in (NOON, NOON + 0.2, NOON + 1):
        written.log(event("x", LogLevel.warn, log_time=seconds))
    dates = [line.split()[0] for line in written.text.splitlines()]
    assert dates[0] == dates[1] != dates[2]


def test_another_thread_does_not_touch_the_reactor_s_timers() -> None:
    written = Written()
    thread = threading.Thread(target=written.log, args=(event("from a thread"),))
    thread.start()
    thread.join()
    assert written.text.endswith("from a thread\n")
    assert written.clock.getDelayedCalls() == []


def test_threads_lose_no_line() -> None:
    written = Written()
    threads = [threading.Thread(target=lambda: [written.log(event("x")) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(500):
        written.log(event("x"))
    for thread in threads:
        thread.join()
    written.log.flush()
    assert len(written.text.splitlines()) == 2_500


def test_a_field_that_cannot_be_written_does_no_harm() -> None:
    written, told = Written(), []
    publisher = LogPublisher(written.log, told.append)
    publisher({"log_format": "{missing}", "log_level": LogLevel.info, "log_time": NOON, "log_namespace": "mailstack"})
    publisher(event("goes on", LogLevel.warn))
    assert "goes on" in written.text
    assert told
