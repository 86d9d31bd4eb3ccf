"""Where mail goes as the operator says: to Dovecot and to another house by LMTP, and through a host with a login."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import messages
from harness.dovecot import Dovecot
from harness.house import House, with_lines
from harness.programs import find_program, free_port, needs, wait_for

MakeHouse = Callable[..., House]

LMTP = """
protocols = pop3 imap lmtp
service lmtp {{
  executable = {program}
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
protocol lmtp {{
  postmaster_address = postmaster@example.test
}}
"""


def with_transports(**entries: str) -> Callable[[str], str]:
    """Return the change that adds a map; in its keys `__at__` stands for @, and `_` for a dot."""
    lines = [f'"{name.replace("__at__", "@").replace("_", ".")}" = "{to}"\n' for name, to in entries.items()]
    return lambda text: f"{text}\n[transport]\n{''.join(lines)}"


def stored(maildir: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(maildir.glob("new/*"))]


@pytest.fixture
def dovecot(folder: Path) -> Iterator[tuple[Dovecot, int]]:
    """Run a Dovecot that delivers for bob and carol, by a socket and at a port."""
    port = free_port()
    maildirs = {f"{name}@example.test": folder / "theirs" / name for name in ("bob", "carol")}
    for maildir in maildirs.values():
        for part in ("cur", "new", "tmp"):
            (maildir / part).mkdir(parents=True)
    settings = LMTP.format(program=find_program("lmtp"), folder=folder / "dovecot", port=port)
    with Dovecot(folder / "dovecot", maildirs, settings=settings) as running:
        yield running, port


@needs("dovecot", "lmtp")
@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_dovecot_delivers_for_some_and_not_for_others(dovecot: tuple[Dovecot, int], make_house: MakeHouse, way: str) -> None:
    theirs, port = dovecot
    to = f"lmtp:unix:{theirs.folder}/lmtp" if way == "unix" else f"lmtp:127.0.0.1:{port}"
    house = make_house(change=with_transports(example_test=to, alice__at__example_test="local")).start()
    bob, carol, dave = (house.person(name).address for name in ("bob", "carol", "dave"))
    for kind, make in messages.KINDS.items():
        sent = make("alice@example.test", bob)
        with house.submission(house.person("alice")) as client:
            client.sendmail("alice@example.test", [bob, carol, dave], sent, mail_options=["BODY=8BITMIME"])
        house.wait_for_line(f"to={dave} failed status=5.1.1")
        for name in (bob, carol):
            maildir = theirs.maildirs[name]
            wait_for(lambda maildir=maildir: bool(stored(maildir)), f"{kind} at {maildir}")
            (octets,) = stored(maildir)
            assert octets.replace(b"\r\n", b"\n").endswith(sent.replace(b"\r\n", b"\n")), kind
            assert octets.startswith(b"Return-Path: <alice@example.test>")
            for file in maildir.glob("new/*"):
                file.unlink()
    log = house.log()
    assert f"to={bob} delivered status=2.0.0 by={'localhost' if way == 'unix' else '127.0.0.1'}" in log
    assert len(house.wait_for_files("alice@example.test", len(messages.KINDS))) == len(messages.KINDS), "one notification each"
    assert not house.files(bob)
    assert theirs.complaints() == []


@needs("dovecot", "lmtp")
def test_mail_waits_while_dovecot_does_not_run(folder: Path, make_house: MakeHouse) -> None:
    house = make_house(change=with_transports(bob__at__example_test=f"lmtp:unix:{folder}/lmtp")).start()
    house.deliver(messages.plain("waits"), "bob@example.test")
    house.wait_for_line("to=bob@example.test delayed status=4.4.1 by=localhost")
    assert not house.files("bob@example.test")


@pytest.mark.parametrize("workers", [1, 2])
def test_another_house_delivers(make_house: MakeHouse, folder: Path, workers: int) -> None:
    inner = make_house()
    inner.change(lambda text: text.replace("#lmtp = []", f'lmtp = ["unix:{folder}/lmtp"]'))
    inner.start()
    house = make_house(change=lambda text: text.replace("#workers = 1", f"workers = {workers}"))
    house.change(with_transports(bob__at__example_test=f"lmtp:unix:{folder}/lmtp"))
    house.start()
    for number in range(4):
        house.deliver(messages.self_checking(str(number), "x@remote.test", "bob@example.test"), "bob@example.test")
    files = inner.wait_for_files("bob@example.test", 4)
    assert {messages.check_whole(file.read_bytes()) for file in files} == set("0123")
    assert all(file.read_bytes().count(b"\r\nReceived: ") == 2 for file in files)
    assert not house.files("bob@example.test")
    assert "to=bob@example.test relayed status=2.0.0 by=localhost" in house.log(), "it will tell the sender itself"


def test_one_domain_goes_through_a_host_with_a_login(make_house: MakeHouse) -> None:
    gate = make_house(hostname="mail.other.test", domain="other.test").start()
    gate.mailstack("domain", "add", "example.test", "--config", gate.config)
    gate.mailstack("alias", "add", "alice@example.test", "alice@other.test", "--config", gate.config)
    house = make_house()
    secret = Path(house.folder) / "gate-password"
    secret.touch(mode=0o600)
    secret.write_text(f"{gate.person('alice').password}\n")
    login = f'[relay.logins."127.0.0.1"]\nusername = "alice@other.test"\npassword_file = "{secret.name}"\ntls = "encrypt"\n'
    house.change(with_transports(other_test=f"smtp:[127.0.0.1]:{gate.ports.submission}"))
    house.change(lambda text: f"{text}\n{login}")
    house.change(with_lines("relay", 'local_addresses = ["127.0.0.7"]'))
    house.start()
    content = messages.self_checking("through", "alice@example.test", "bob@other.test")
    with house.submission(house.person("alice")) as client:
        client.sendmail("alice@example.test", ["bob@other.test"], content)
    (file,) = gate.wait_for_files("bob@other.test", 1)
    received = file.read_bytes()
    assert messages.check_whole(received) == "through"
    assert received.count(b" with ESMTPSA ") == 2, "both hops were authenticated, in TLS"
    assert b"[127.0.0.7]" in received, "where it was sent from"
    assert secret.read_text().strip() not in house.log()
