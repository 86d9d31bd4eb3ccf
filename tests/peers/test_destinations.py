"""Destinations of which one is down, on the running server: what it costs the others, and itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from harness import messages
from harness.house import House, with_lines
from harness.names import NameServer
from harness.programs import free_port, wait_for

MakeHouse = Callable[..., House]
DEAD_ADDRESS = "127.0.0.9"
MESSAGES = 12


class Sink:
    """Takes all mail, and keeps whom it was for."""

    def __init__(self) -> None:
        self.recipients: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.recipients.extend(envelope.rcpt_tos)
        return "250 2.0.0 Ok"


def test_one_message_asks_a_host_that_is_down_and_all_go_when_it_is_back(make_house: MakeHouse, tmp_path: Path) -> None:
    port = free_port()
    names = NameServer(tmp_path / "names", {"living.test": "mx.living.test", "dead.test": "mx.dead.test"})
    names.zone.write_text(names.zone.read_text().replace("mx.dead.test A 127.0.0.1", f"mx.dead.test A {DEAD_ADDRESS}"))
    living, dead = Sink(), Sink()
    controller = Controller(living, hostname="127.0.0.1", port=port)
    back = Controller(dead, hostname=DEAD_ADDRESS, port=port)
    controller.start()
    try:
        with names:
            house = make_house(change=names.used_by_relay(port))
            house.change(with_lines("queue", "retry_first_seconds = 3\nretry_most_seconds = 3"))
            house.start()
            with house.submission(house.person("alice")) as client:
                for number in range(MESSAGES):
                    client.sendmail("alice@example.test", [f"u{number}@dead.test"], messages.plain(f"dead{number}"))
                client.sendmail("alice@example.test", ["u@living.test"], messages.plain("living"))
            wait_for(lambda: living.recipients == ["u@living.test"], "the other domain has its message")
            log = house.wait_for_line("dead.test is down")
            assert log.count("@dead.test delayed") < MESSAGES, "not each asks"
            back.start()
            try:
                wait_for(lambda: len(dead.recipients) >= MESSAGES, "all are there when the host is back", timeout_seconds=60)
            finally:
                back.stop()
            assert sorted(dead.recipients) == sorted(f"u{number}@dead.test" for number in range(MESSAGES))
            assert "dead.test is up again" in house.log()
    finally:
        controller.stop()
