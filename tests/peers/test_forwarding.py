"""Forwarding abroad: our addresses and postsrsd's, a bounce that finds its way back, and a way that leads to ourselves."""

from __future__ import annotations

import email
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.house import House
from harness.names import NameServer
from harness.programs import accepts, find_program, free_base, needs, open_folder, wait_for

from mailstack.mail.address import parse_address
from mailstack.mail.srs import HASH_CHARACTERS, SenderRewriting

MakeHouse = Callable[..., House]
DOMAIN = "fwd.example.org"
SECRETS = ("the newest of our secrets", "one that is older")
SENDERS = [
    "alice@example.com",
    "Alice.B+tag@sub.example.com",
    "a=b=c@example.com",
    "o'neil/x@example.com",
    "SRS0=abcd=G2=example.net=bob@forward.example",
    "SRS0+abcd=G2=example.net=bob@forward.example",
]


class Postsrsd:
    """A running postsrsd, which is asked as Postfix asks it."""

    def __init__(self, folder: Path) -> None:
        secrets = folder / "secrets"
        secrets.write_text("".join(f"{each}\n" for each in SECRETS))
        self.there = free_base([0, 1])
        self._process = subprocess.Popen(
            [
                find_program("postsrsd") or "postsrsd",
                *(f"-s{secrets}", f"-d{DOMAIN}", f"-n{HASH_CHARACTERS}", f"-N{HASH_CHARACTERS}"),
                *("-l127.0.0.1", f"-f{self.there}", f"-r{self.there + 1}"),
            ]
        )
        wait_for(lambda: accepts(self.there) and accepts(self.there + 1), "postsrsd answers")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def rewrite(self, address: str) -> str:
        return self._ask(self.there, address)

    def restore(self, address: str) -> str:
        return self._ask(self.there + 1, address)

    def _ask(self, port: int, address: str) -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rb") as file:
            connection.sendall(f"get {address}\n".encode())
            said = file.readline().decode().rstrip("\n")
        assert said.startswith("200 "), said
        return said.removeprefix("200 ")


@pytest.fixture(scope="module")
def postsrsd() -> Iterator[Postsrsd]:
    with open_folder("postsrsd") as folder:
        running = Postsrsd(folder)
        try:
            yield running
        finally:
            running.end()


@needs("postsrsd")
@pytest.mark.parametrize("sender", SENDERS)
def test_we_and_postsrsd_understand_each_other(postsrsd: Postsrsd, sender: str) -> None:
    now = time.time()
    for secrets in (SECRETS, SECRETS[1:]):
        ours = SenderRewriting(DOMAIN, tuple(each.encode() for each in secrets)).rewrite(parse_address(sender), now)
        assert postsrsd.restore(str(ours)) == sender
    rules = SenderRewriting(DOMAIN, tuple(each.encode() for each in SECRETS))
    assert str(rules.rewrite(parse_address(sender), now)) == postsrsd.rewrite(sender)
    assert str(rules.restore(parse_address(postsrsd.rewrite(sender)), now)) == sender


def test_a_bounce_finds_its_way_back_through_the_house_that_forwarded(make_house: MakeHouse) -> None:
    with ExitStack() as stack:
        here, there = make_house(), make_house(hostname="mail.other.test", domain="other.test")
        folder = stack.enter_context(open_folder("names"))
        names = stack.enter_context(NameServer(folder, {"example.test": "mail.example.test", "other.test": "mail.other.test"}))
        here.change(names.used_by_relay(there.ports.smtp))
        there.change(names.used_by_relay(here.ports.smtp))
        here.mailstack("alias", "add", "away@example.test", "alice@other.test", "--config", here.config)
        here.start()
        there.start()
        bob = there.person("bob")
        with there.submission(bob) as client:
            client.sendmail(bob.address, ["away@example.test"], b"Subject: forwarded\r\n\r\ntext\r\n")
        (file,) = there.wait_for_files("alice@other.test", 1)
        found = re.match(rb"Return-Path: <(SRS0=\S+=other\.test=bob@example\.test)>\r\n", file.read_bytes())
        assert found is not None
        with there.submission(bob) as client:
            client.sendmail("", [found.group(1).decode().lower()], b"Subject: bounced\r\n\r\ntext\r\n")
        (file,) = there.wait_for_files(bob.address, 1)
        assert file.read_bytes().startswith(b"Return-Path: <>\r\nDelivered-To: bob@other.test\r\n")


def test_a_domain_whose_host_is_this_one_is_a_loop(make_house: MakeHouse) -> None:
    with ExitStack() as stack:
        house = make_house()
        names = stack.enter_context(NameServer(stack.enter_context(open_folder("names")), {"loop.test": "mx.loop.test"}))
        house.change(names.used_by_relay(house.ports.smtp))
        house.change(lambda text: text.replace(f'"127.0.0.1:{house.ports.smtp}"', f'"0.0.0.0:{house.ports.smtp}"'))
        house.launch()
        house.wait_for_line(f"listens on 0.0.0.0:{house.ports.smtp}")
        wait_for(lambda: accepts(house.ports.submission), "submission")
        alice = house.person("alice")
        with house.submission(alice) as client:
            client.sendmail(alice.address, ["x@loop.test"], b"Subject: round\r\n\r\ntext\r\n")
        (file,) = house.wait_for_files(alice.address, 1)
        _, recipient = email.message_from_bytes(file.read_bytes()).get_payload()[1].get_payload()
        assert (recipient["Action"], recipient["Status"]) == ("failed", "5.4.6")
        assert "Mail for loop.test loops back to this host" in recipient["Diagnostic-Code"]
        assert "smtp from 127.0.0.1" not in house.log(), "it never spoke to itself"
