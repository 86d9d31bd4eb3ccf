"""
Faults of the machine, on the running server: a full disk, a disk that fails and one that is slow, and rights given up.

What must hold: the peer is told "temporary", nothing of what was refused is left anywhere, what was accepted is kept, and the
server goes on by itself when the fault is over.
"""

from __future__ import annotations

import os
import pwd
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import messages
from harness.house import House
from harness.programs import find_program, is_free, needs, run, wait_for

MakeHouse = Callable[..., House]
BOB = "bob@example.test"
NOBODY = "nobody"


def answer(house: House, content: bytes) -> tuple[int, bytes]:
    """Hand in a message for bob, and return the reply that decided: to MAIL, RCPT or the content."""
    with house.smtp() as client:
        client.ehlo()
        for reply in (client.mail("load@elsewhere.test"), client.rcpt(BOB)):
            if reply[0] != 250:
                return reply
        return client.data(content)


@contextmanager
def small_disk(folder: Path, octets: int) -> Iterator[None]:
    """Mount a disk of that size on a folder."""
    run(["mount", "-t", "tmpfs", "-o", f"size={octets},mode=0700", "tmpfs", folder])
    try:
        yield
    finally:
        run(["umount", "--lazy", folder])


@contextmanager
def injected(house: House, fault: str) -> Iterator[None]:
    """Let system calls of the server fail or wait, as strace's `inject` says, while the context lasts."""
    assert house.process is not None
    command = [find_program("strace") or "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={fault}"]
    tracer = subprocess.Popen([*command, "-p", str(house.process.pid)], stderr=subprocess.PIPE)
    try:
        wait_for(lambda: all(is_traced(task) for task in tasks(house)), "strace has all threads")
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


def tasks(house: House) -> list[Path]:
    assert house.process is not None
    return list(Path(f"/proc/{house.process.pid}/task").iterdir())


def is_traced(task: Path) -> bool:
    return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in (task / "status").read_text().splitlines())


def stored(house: House) -> list[str]:
    """Return the names of the messages that bob has; each must be whole."""
    return [messages.check_whole(file.read_bytes()) for file in house.files(BOB)]


def message(name: str, octets: int = 4_000) -> bytes:
    return messages.self_checking(name, "load@elsewhere.test", BOB, octets)


@needs("mount")
def test_a_full_spool_disk_refuses_for_the_time_being_and_leaves_no_trace(make_house: MakeHouse) -> None:
    house = make_house(change=lambda text: text.replace("[queue]", "[queue]\nfree_octets_minimum = 0"))
    spool = house.folder / "spool"
    with small_disk(spool, 4_000_000):
        house.start()
        assert answer(house, message("first"))[0] == 250
        house.wait_for_files(BOB, 1)
        for number in range(3):
            code, text = answer(house, message(f"big{number}", 5_000_000))
            assert (code, text[:5]) == (452, b"4.3.1")
        assert not list((spool / "content").iterdir())
        assert answer(house, message("second"))[0] == 250
        house.wait_for_files(BOB, 2)
        assert house.stop() in (0, -15)
    assert sorted(stored(house)) == ["first", "second"]


@needs("mount")
def test_little_free_space_is_noticed_before_the_message_is_sent(make_house: MakeHouse) -> None:
    house = make_house()
    with small_disk(house.folder / "spool", 8_000_000):
        house.start()
        with house.smtp() as client:
            client.ehlo()
            code, text = client.mail("load@elsewhere.test")
        assert (code, text[:5]) == (452, b"4.3.1")
        house.stop()


@needs("mount")
def test_a_full_mail_disk_keeps_the_mail_in_the_spool(make_house: MakeHouse) -> None:
    house = make_house(change=lambda text: text.replace("[queue]", "[queue]\nretry_first_seconds = 1\nretry_most_seconds = 1"))
    mail = house.folder / "mail"
    marker = mail / ".mailstack"
    kept = marker.read_bytes()
    with small_disk(mail, 1_000_000):
        marker.write_bytes(kept)
        house.start()
        ballast = mail / "ballast"
        ballast.write_bytes(b"x" * 900_000)
        assert answer(house, message("waits", 500_000))[0] == 250
        house.wait_for_line("Mail system full")
        assert not house.files(BOB)
        assert not [*house.maildir(BOB).glob("tmp/*")]
        ballast.unlink()
        house.wait_for_files(BOB, 1)
        assert stored(house) == ["waits"]
        house.stop()


@needs("strace")
def test_an_fsync_that_fails_is_a_451_and_leaves_no_trace(make_house: MakeHouse) -> None:
    house = make_house().start()
    assert answer(house, message("before"))[0] == 250
    house.wait_for_files(BOB, 1)
    with injected(house, "fsync,fdatasync,syncfs:error=EIO"):
        for number, octets in enumerate((4_000, 400_000)):
            code, text = answer(house, message(f"failed{number}", octets))
            assert (code, text[:5]) == (451, b"4.3.0")
    wait_for(lambda: answer(house, message("after"))[0] == 250, "mail is accepted again")
    house.wait_for_files(BOB, 2)
    house.kill()
    house.start()
    assert answer(house, message("last"))[0] == 250
    house.wait_for_files(BOB, 3)
    assert sorted(stored(house)) == ["after", "before", "last"]
    assert not list((house.folder / "spool" / "content").iterdir())


@needs("strace")
def test_a_slow_disk_does_not_hold_up_other_clients(make_house: MakeHouse) -> None:
    house = make_house().start()
    with injected(house, "fsync,fdatasync,syncfs:delay_enter=1500000"), house.smtp() as waits:
        waits.ehlo()
        waits.mail("load@elsewhere.test")
        waits.rcpt(BOB)
        waits.putcmd("data")
        assert waits.getreply()[0] == 354
        began = time.monotonic()
        waits.send(message("slow").replace(b"\r\n.", b"\r\n..") + b".\r\n")
        with house.smtp() as other:
            for _ in range(20):
                assert other.noop()[0] == 250
            others_took = time.monotonic() - began
        assert waits.getreply()[0] == 250
        assert time.monotonic() - began > 1.4, "the disk was not slow"
    assert others_took < 1.0
    house.wait_for_files(BOB, 1)


@needs("mount")
def test_rights_are_given_up_after_binding(make_house: MakeHouse) -> None:
    user = pwd.getpwnam(NOBODY)
    house = make_house(twistd_options=["--uid", str(user.pw_uid), "--gid", str(user.pw_gid)])
    for path in (house.folder, *house.folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    port = next(port for port in range(600, 1000) if is_free(port))
    house.change(lambda text: text.replace(f"127.0.0.1:{house.ports.submission}", f"127.0.0.1:{port}"))
    house.start()
    assert house.process is not None
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{house.process.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == [str(user.pw_uid)] * 4
    assert status["Gid"].split() == [str(user.pw_gid)] * 4
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        assert client.ehlo()[0] == 250
    assert answer(house, message("as nobody".replace(" ", "-")))[0] == 250
    (file,) = house.wait_for_files(BOB, 1)
    assert file.stat().st_uid == user.pw_uid
    house.stop()
