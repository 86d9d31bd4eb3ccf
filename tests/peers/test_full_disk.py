"""A disk that somebody else has filled to the last octet: what makes room can still be done, and the server starts."""

from __future__ import annotations

import errno
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import messages
from harness.house import ENDED, House, with_lines
from harness.programs import open_folder, run

pytestmark = pytest.mark.peer("mount")


@pytest.fixture
def house() -> Iterator[House]:
    with open_folder("full") as folder:
        disk = folder / "disk"
        disk.mkdir()
        run(["mount", "-t", "tmpfs", "-o", "size=32m", "mailstack-test", disk])
        try:
            house = House(disk / "var", change=with_lines("queue", "free_octets_minimum = 1_000_000"))
            house.log_file = folder / "log"
            with house:
                yield house
        finally:
            run(["umount", disk])


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 (what else it raises is raised)


def test_what_waits_can_be_deleted_and_new_mail_comes_when_there_is_room(house: House) -> None:
    bob = house.person("bob")

    def queue(*words: str) -> bytes:
        return house.mailstack("queue", *words, "--config", house.config).stdout

    queue("pause", house.domain)
    for name in ("one", "two"):
        house.deliver(messages.plain(name), bob.address)
    fill(house.folder / "filled")
    with pytest.raises((smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)):
        house.deliver(messages.plain("three"), bob.address)
    assert b"2 recipients of 2 messages: deleted." in queue("delete", "--all", "--yes")
    assert not (house.folder / "spool" / "reserve").exists()
    (house.folder / "filled").unlink()
    queue("resume", house.domain)
    house.deliver(messages.plain("four"), bob.address)
    house.wait_for_files(bob.address, 1)


def test_the_server_starts(house: House) -> None:
    fill(house.folder / "filled")
    assert house.stop() == ENDED
    house.start()
