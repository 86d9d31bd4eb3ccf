"""The postmaster's commands on a running server, of one process and of two workers: each has its effect at once."""

from __future__ import annotations

import grp
import json
import os
import smtplib
import socketserver
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from harness import messages
from harness.house import House, with_lines
from harness.programs import open_folder, run, wait_for

MakeHouse = Callable[..., House]
LATER = b"451 4.7.1 Greylisted, come back later"


class NextHost(socketserver.ThreadingTCPServer):
    """An SMTP server that answers RCPT as the test says, and keeps what it takes."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.answer = LATER
        self.taken: list[str] = []
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Session(socketserver.StreamRequestHandler):
    server: NextHost

    def handle(self) -> None:
        self._say(b"220 next.example.test ESMTP")
        recipients: list[str] = []
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                address = line.partition(b"<")[2].partition(b">")[0].decode()
                self.server.asked.append(address)
                if self.server.answer.startswith(b"2"):
                    recipients.append(address)
                self._say(self.server.answer)
            elif verb == b"DATA":
                self._say(b"354 go on" if recipients else b"503 nobody")
                while recipients and self.rfile.readline() != b".\r\n":
                    pass
                self.server.taken += recipients
                recipients = []
                self._say(b"250 2.0.0 taken")
            else:
                self._say(b"221 bye" if verb == b"QUIT" else b"250 OK")

    def _say(self, line: bytes) -> None:
        self.wfile.write(line + b"\r\n")


@pytest.fixture(scope="module")
def next_host() -> Iterator[NextHost]:
    host = NextHost()
    yield host
    host.shutdown()
    host.server_close()


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def house(request: pytest.FixtureRequest, next_host: NextHost) -> Iterator[House]:
    """Give a running house that hands everything to the next host."""

    def change(text: str) -> str:
        text = with_lines("relay", f'smarthost = "127.0.0.1:{next_host.port}"')(text)
        return with_lines("", f"workers = {request.param}")(text)

    with open_folder("queue") as path, House(path / "var", change=change) as made:
        made.person("alice")
        yield made


@pytest.fixture(autouse=True)
def stubborn(next_host: NextHost, house: House) -> Iterator[None]:
    """Have the next host put everything off, and leave nothing in the queue."""
    next_host.answer = LATER
    next_host.taken.clear()
    yield
    ask(house, "delete", "--all", "--yes", expect=None)
    wait_for(lambda: not listed(house), "the queue is empty")


def ask(house: House, *words: str, expect: int | None = 0, octets: bytes = b"") -> Any:
    done = house.mailstack("queue", *words, "--json", "--config", house.config, expect=expect, octets=octets)
    return json.loads(done.stdout) if done.stdout.strip() else None


def told(house: House, *words: str, expect: int = 0, octets: bytes = b"") -> str:
    done = house.mailstack("queue", *words, "--config", house.config, expect=expect, octets=octets)
    return (done.stdout + done.stderr).decode()


def listed(house: House, *words: str) -> list[dict[str, Any]]:
    found = ask(house, "list", *words)
    assert isinstance(found, list)
    return found


def submit(house: House, *recipients: str) -> None:
    alice = house.person("alice")
    with house.submission(alice) as client:
        client.sendmail(alice.address, recipients, messages.plain("hello"))


def waiting(house: House, *recipients: str, state: str = "delayed") -> list[str]:
    """Submit a message to each, one by one, and return their IDs when they were put off."""
    for each in recipients:
        submit(house, each)
    wanted = set(recipients)

    def all_wait() -> list[str]:
        by_recipient = {each["recipients"][0]["address"]: each for each in listed(house, "--state", state)}
        return [by_recipient[each]["id"] for each in recipients] if wanted <= by_recipient.keys() else []

    return wait_for(all_wait, f"{recipients} are {state}")


def test_list_show_and_trace(house: House, next_host: NextHost) -> None:
    (name, other) = waiting(house, "bob@slow.test", "eve@other.test")
    assert [each["id"] for each in listed(house)] == sorted((name, other)), "the oldest first, whichever worker has it"
    assert [each["id"] for each in listed(house, "--domain", "slow.test")] == [name]
    assert listed(house, "--reason", "greylisted", "--sender", "@example.test", "--newer-than", "1h", "--larger-than", "10")
    assert not listed(house, "--older-than", "1d")
    table = told(house, "list")
    assert "bob@slow.test" in table
    assert "4.7.1 451 4.7.1 Greylisted" in table

    shown = ask(house, "show", name)
    (recipient,) = shown["recipients"]
    assert (recipient["state"], recipient["attempts"]) == ("delayed", 1)
    assert recipient["next_attempt_at"] > shown["accepted_at"] + 200
    (tried,) = recipient["tried"]
    assert (tried["action"], tried["status"], tried["by"], tried["address"]) == ("delayed", "4.7.1", "127.0.0.1", "127.0.0.1")
    assert "Greylisted" in tried["said"]
    text = told(house, "show", name)
    assert "by submission from 127.0.0.1" in text
    assert "attempt 1 did not succeed" in text
    assert "Greylisted" in told(house, "trace", name)
    assert "does not wait here" in told(house, "show", "0" * 13, expect=1)


def test_hold_and_release(house: House, next_host: NextHost) -> None:
    held, free = waiting(house, "bob@slow.test", "eve@slow.test")
    assert ask(house, "hold", held)["changed_recipients"] == 1
    next_host.answer = b"250 2.1.5 OK"
    assert ask(house, "retry", "--domain", "slow.test")["changed_recipients"] == 1
    wait_for(lambda: "eve@slow.test" in next_host.taken, "what is not held is relayed")
    wait_for(lambda: [each["id"] for each in listed(house)] == [held], f"{free} is gone")
    assert "held by the operator" in told(house, "show", held)
    assert "1 recipient of 1 message: released." in told(house, "release", "--all")
    wait_for(lambda: "bob@slow.test" in next_host.taken, "what is released is relayed at once")


def test_reroute(house: House) -> None:
    (name,) = waiting(house, "bob@slow.test")
    ask(house, "hold", name)
    assert "'uucp:x' is no transport" in told(house, "reroute", name, "--via", "uucp:x", "--yes", expect=1)
    assert ask(house, "reroute", name, "--via", "smtp:[127.0.0.1]:1", "--yes")["changed_recipients"] == 1
    (recipient,) = ask(house, "show", name)["recipients"]
    assert (recipient["via"], recipient["state"]) == ("smtp:[127.0.0.1]:1", "held")
    assert ask(house, "reroute", name, "--back", "--yes")["changed_recipients"] == 1
    assert ask(house, "show", name)["recipients"][0]["via"] is None
    with closing(NextHost()) as another:
        another.answer = b"250 2.1.5 OK"
        assert ask(house, "reroute", name, "--via", f"smtp:[127.0.0.1]:{another.port}", "--yes")["changed_recipients"] == 1
        ask(house, "release", name)
        wait_for(lambda: another.taken == ["bob@slow.test"], "it goes to the host that was named")
        wait_for(lambda: name not in [each["id"] for each in listed(house)], "it is over")


def test_bounce(house: House) -> None:
    alice = house.person("alice")
    before = len(house.files(alice.address))
    (name,) = waiting(house, "bob@gone.test")
    assert "1 message, 1 recipient" in told(house, "bounce", name, expect=1, octets=b"n\n"), "a preview, and a question"
    assert [each["id"] for each in listed(house)] == [name]
    ask(house, "bounce", "--domain", "gone.test", "--text", "That domain is no more", "--yes")
    files = house.wait_for_files(alice.address, before + 1)
    assert any(b"That domain is no more" in file.read_bytes() for file in files)
    wait_for(lambda: not listed(house), "nothing is left of it")


def test_delete(house: House, next_host: NextHost) -> None:
    alice = house.person("alice")
    before = len(house.files(alice.address))
    waiting(house, "bob@slow.test", "eve@slow.test")
    assert ask(house, "delete", "--all", "--dry-run")["messages"] == 2
    assert "nothing was done" in told(house, "delete", "--all", "--json", expect=1)
    assert len(listed(house)) == 2
    assert "2 recipients of 2 messages: deleted." in told(house, "delete", "--domain", "slow.test", octets=b"y\n")
    assert listed(house) == []
    assert told(house, "delete", "--domain", "slow.test", "--yes", expect=3)
    assert len(house.files(alice.address)) == before, "nobody is told"


def test_pause_and_resume(house: House, next_host: NextHost) -> None:
    next_host.answer = b"250 2.1.5 OK"
    assert ask(house, "pause", "Quiet.test")["changed"] is True
    names = waiting(house, "one@quiet.test", "two@quiet.test", "three@quiet.test", state="new")
    assert "quiet.test is paused by the operator" in told(house, "show", names[0])
    assert "quiet.test" in ask(house, "stats")["paused"]
    house.stop()
    house.start()
    assert len(listed(house)) == 3
    assert not {each for each in next_host.taken if each.endswith("@quiet.test")}
    assert "Mail for quiet.test is resumed." in told(house, "resume", "quiet.test")
    wait_for(lambda: not listed(house), "what waited is relayed")


def test_pause_and_resume_of_a_domain_of_ours(house: House) -> None:
    carol = house.person("carol")
    assert ask(house, "pause", house.domain)["changed"] is True
    house.deliver(messages.plain("later"), carol.address)
    (found,) = listed(house)
    assert "is paused by the operator" in told(house, "show", found["id"])
    house.stop()
    house.start()
    assert house.files(carol.address) == []
    assert ask(house, "resume", house.domain)["changed"] is True
    house.wait_for_files(carol.address, 1)
    assert listed(house) == []
    house.deliver(messages.plain("at once"), carol.address)
    house.wait_for_files(carol.address, 2)


def test_who_is_removed_while_his_mail_waits_does_not_get_it(house: House) -> None:
    dan, erin = house.person("dan"), house.person("erin")
    ask(house, "pause", house.domain)
    house.deliver(messages.plain("too late"), dan.address, sender=erin.address)
    house.mailstack("account", "remove", dan.address, "--config", house.config)
    ask(house, "resume", house.domain)
    (notice,) = house.wait_for_files(erin.address, 1)
    assert b"5.1.1" in notice.read_bytes()
    assert house.files(dan.address) == []


def test_what_is_held_and_paused_survives_a_kill(house: House) -> None:
    ask(house, "pause", "quiet.test")
    held, new = waiting(house, "bob@slow.test")[0], waiting(house, "bob@quiet.test", state="new")[0]
    ask(house, "hold", held)
    house.kill()
    house.start()
    found = {each["id"]: each["recipients"][0]["state"] for each in listed(house)}
    assert found == {held: "held", new: "new"}
    assert ask(house, "resume", "quiet.test")["changed"] is True


def test_a_worker_that_is_new_knows_what_is_paused(make_house: MakeHouse) -> None:
    with make_house() as house:
        ask(house, "pause", "quiet.test")
    house.change(with_lines("", "workers = 2"))
    with house:
        house.wait_for_line("[worker 1#info] queue: quiet.test paused by an earlier pause")


def test_a_worker_that_is_new_serves_nobody_before_it_knows_what_is_paused(make_house: MakeHouse) -> None:
    with make_house() as house:
        carol = house.person("carol")
        ask(house, "pause", house.domain)
    house.change(with_lines("", "workers = 4"))
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", house.ports.smtp, timeout=10) as client:
                    for _ in range(3):
                        client.sendmail("someone@elsewhere.test", [carol.address], messages.plain("now"))
            except OSError:  # nobody listens yet
                is_over.wait(0.01)

    senders = [threading.Thread(target=send) for _ in range(8)]
    for each in senders:
        each.start()
    with house:
        try:
            found = wait_for(lambda: listed(house), "some of it waits")
        finally:
            is_over.set()
            for each in senders:
                each.join()
        assert house.files(carol.address) == []
        assert found[0]["recipients"][0]["address"] == carol.address


def test_stats(house: House) -> None:
    waiting(house, "bob@slow.test", "eve@slow.test", "eve@other.test")
    sums = ask(house, "stats")
    assert {each["domain"].partition(" by ")[0]: each["states"] for each in sums["domains"]} == {
        "slow.test": {"delayed": 2},
        "other.test": {"delayed": 1},
    }
    assert sums["messages"] == 3
    text = told(house, "stats")
    assert text.startswith("3 messages, ")
    assert "slow.test" in text


def test_the_socket_is_for_the_user_of_the_server(house: House) -> None:
    found = (house.folder / "control").stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())


AS_ANOTHER: Final = """
import os, sys
from contextlib import suppress
from mailstack.console.command import main
user, group, *words = sys.argv[1:]
with suppress(SystemExit), open(os.devnull, "w") as sys.stdout:
    main(["queue", "list", *words[-2:]])  # all is imported: that user may not be able to read the Python of this test
sys.stdout = sys.__stdout__
os.setgroups([int(group)]); os.setgid(65534); os.setuid(int(user))
main(words)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_a_member_of_the_group_may_ask_and_needs_to_read_nothing_but_the_configuration(make_house: MakeHouse) -> None:
    group = next(each for each in grp.getgrall() if each.gr_gid not in (0, 65534))

    def as_member(*words: str, gid: int = group.gr_gid, expect: int = 0) -> str:
        words = ("65534", str(gid), "queue", *words, "--config", str(house.config))
        done = run([sys.executable, "-c", AS_ANOTHER, *words], env=house.env, expect=expect)
        return (done.stdout + done.stderr).decode()

    house = make_house(change=with_lines("control", f'group = "{group.gr_name}"'))
    house.prepare()
    os.chown(house.folder, -1, group.gr_gid)
    house.folder.chmod(0o710)
    os.chown(house.config, -1, group.gr_gid)
    house.config.chmod(0o640)
    with house:
        assert "cannot be read: Permission denied" in as_member("list", gid=65534, expect=1)
        assert "No mail waits" in as_member("list")
        assert "Mail for quiet.test is paused" in as_member("pause", "quiet.test")
        house.wait_for_line("queue: quiet.test paused by nobody")
        (house.folder / "control").chmod(0o600)
        assert "is not for you" in as_member("list", expect=1)


def test_what_was_done_is_in_the_log(house: House) -> None:
    (name,) = waiting(house, "bob@slow.test")
    ask(house, "hold", name)
    house.wait_for_line(f"{name}: hold by root recipients=1")
    assert "Subject: " in told(house, "show", name, "--headers")
    house.wait_for_line(f"{name}: headers read by root")
    content = house.mailstack("queue", "show", name, "--content", "--config", house.config).stdout
    assert content.startswith(b"Received: ")
    assert ask(house, "show", name)["octets"] == len(content)
    house.wait_for_line(f"{name}: content read by root")
    house.wait_for_line(f"{name}: subject read by root")


def test_without_a_server_it_says_what_to_do(make_house: MakeHouse) -> None:
    house = make_house()
    said = told(house, "list", expect=1)
    assert "no server is running" in said
    assert "systemctl start mailstack" in said
    assert not Path(house.folder / "control").exists()
