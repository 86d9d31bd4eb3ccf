"""Who speaks for others: swaks by XCLIENT, curl with the header of a proxy; and LMTP by one socket of two workers."""

from __future__ import annotations

import re
import smtplib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import messages
from harness.house import House, Person, with_lines
from harness.postfix import Postfix
from harness.programs import needs, open_folder, run, wait_for

PROXY = "127.0.0.9"


def change(text: str) -> str:
    text = with_lines("", "workers = 2")(text)
    text = with_lines("listen", 'lmtp = ["unix:lmtp"]')(text)
    text = with_lines("receive", 'xclient_from = ["127.0.0.1"]')(text)
    return with_lines("proxy", f'smtp_from = ["{PROXY}"]')(text)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with open_folder("house") as path, House(path / "var", change=change) as house:
        yield house


def swaks(house: House, *words: str, expect: int = 0) -> str:
    command = ["swaks", "--server", "127.0.0.1", "--port", str(house.ports.smtp), "--helo", "filter.test"]
    done = run([*command, "--from", "someone@elsewhere.test", *words], expect=expect)
    return done.stdout.decode() + done.stderr.decode()


def one(house: House, person: Person) -> bytes:
    (file,) = house.wait_for_files(person.address, 1)
    return file.read_bytes()


@needs("swaks")
def test_swaks_says_who_its_client_is(house: House, bob: Person) -> None:
    client = ["--xclient-addr", "192.0.2.7", "--xclient-name", "spike.example", "--xclient-port", "4711"]
    said = swaks(house, *client, "--xclient-helo", "spike", "--xclient-proto", "ESMTP", "--to", bob.address)
    assert "XCLIENT" in said
    assert b"\r\nReceived: from spike (spike.example [192.0.2.7])\r\n" in one(house, bob)
    house.wait_for_line(" speaks for ")


@needs("swaks")
def test_swaks_says_it_in_pieces_and_with_a_login(house: House, alice: Person, bob: Person) -> None:
    words = ["--xclient-addr", "IPV6:2001:db8::7", "--xclient-delim", "--xclient-name", "[UNAVAILABLE]"]
    swaks(house, *words, "--xclient-login", alice.address, "--to", bob.address)
    got = one(house, bob)
    assert b"\r\nReceived: from filter.test ([IPv6:2001:db8::7])\r\n" in got
    assert b" with ESMTPA " in got


@needs("swaks")
def test_swaks_from_elsewhere_is_not_believed(house: House, bob: Person) -> None:
    words = ["--local-interface", "127.0.0.2", "--xclient-addr", "192.0.2.7", "--to", bob.address]
    assert "Host did not advertise XCLIENT" in swaks(house, *words, expect=33)
    assert not house.files(bob.address)


def curl(house: House, folder: Path, *words: str | Path, expect: int = 0) -> None:
    message = folder / "message"
    message.write_bytes(messages.plain("by curl"))
    command = ["curl", "--silent", "--interface", PROXY, "--max-time", "20", "--mail-from", "someone@elsewhere.test"]
    run([*command, "--upload-file", message, *words, f"smtp://127.0.0.1:{house.ports.smtp}/client.test"], expect=expect)


@needs("curl")
def test_curl_as_a_proxy(house: House, bob: Person, folder: Path) -> None:
    curl(house, folder, "--haproxy-protocol", "--mail-rcpt", bob.address)
    assert f"([{PROXY}])".encode() in one(house, bob)


@needs("curl")
def test_curl_as_a_proxy_and_then_tls(house: House, bob: Person, folder: Path) -> None:
    curl(house, folder, "--haproxy-protocol", "--ssl-reqd", "--insecure", "--mail-rcpt", bob.address)
    assert b" with ESMTPS " in one(house, bob)


@needs("curl")
def test_curl_from_a_proxy_that_says_nothing(house: House, bob: Person, folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"ended with (28|55|56), not 0"):
        curl(house, folder, "--mail-rcpt", bob.address)
    house.wait_for_line(f"smtp: connection from the proxy {PROXY} dropped, no PROXY header: none after 5 s")
    assert not house.files(bob.address)


def submit(postfix: Postfix, recipient: str) -> None:
    with smtplib.SMTP("127.0.0.1", postfix.port, local_hostname="client.test", timeout=60) as client:
        client.sendmail("someone@elsewhere.test", [recipient], messages.plain("through Postfix"))


@needs("postfix")
def test_postfix_says_of_whom_it_has_the_mail(house: House, bob: Person, folder: Path) -> None:
    settings = {"smtp_send_xforward_command": "yes"}
    with Postfix(folder, routes={house.domain: house.ports.smtp}, settings=settings) as postfix:
        submit(postfix, bob.address)
        assert b"from mx.remote.test ([127.0.0.1])" in one(house, bob)
    said = re.search(r" forwards for (.*)", house.wait_for_line(" forwards for "))
    assert said
    assert {"addr=127.0.0.1", "proto=ESMTP", "helo=client.test"} < set(said[1].split(" "))
    assert " source=" in said[1]


@needs("postfix")
def test_postfix_delivers_by_lmtp_to_a_socket_of_its_group(make_house: Callable[..., House], folder: Path) -> None:
    path = folder / "lmtp"
    house = make_house(change=with_lines("listen", f'lmtp = ["unix:{path}"]\nlmtp_group = "postfix"')).start()
    ann, ben = house.person("ann"), house.person("ben")
    settings = {"transport_maps": f"inline:{{{house.domain}=lmtp:unix:{path}}}", "relay_domains": house.domain}
    with Postfix(folder / "postfix", settings=settings) as postfix:
        for each in (ann.address, f"nobody-here@{house.domain}", ben.address):
            submit(postfix, each)
        assert b"\r\nReceived: from mx.remote.test (local)\r\n" in one(house, ann)
        assert one(house, ben)
        postfix.wait_for_line(r"to=<nobody-here@.*status=bounced .*550 5\.1\.1 ")


def test_both_workers_serve_one_socket(house: House, bob: Person) -> None:
    clients = [smtplib.LMTP(str(house.folder / "lmtp"), 0, timeout=60) for _ in range(20)]
    for client in clients:
        client.ehlo("c")
        client.sendmail("someone@elsewhere.test", [bob.address], messages.plain("by LMTP"))
    house.wait_for_files(bob.address, 20)
    wait_for(lambda: house.log().count("lmtp from a UNIX socket") == 20, "all sessions are in the log")
    assert all(f"[worker {number}#info] " in _of_lmtp(house.log()) for number in (0, 1))
    for client in clients:
        client.quit()


def _of_lmtp(log: str) -> str:
    return "\n".join(line for line in log.split("\n") if line.endswith("lmtp from a UNIX socket"))


def test_the_socket_goes_with_the_server(make_house: Callable[..., House]) -> None:
    house = make_house(change=change).start()
    path = house.folder / "lmtp"
    house.kill()
    assert path.exists(), "nobody could remove it"
    wait_for(lambda: _is_stale(path), "the workers have ended, too")
    house.start()
    smtplib.LMTP(str(path), 0, timeout=60).quit()
    house.stop()
    assert not path.exists()


def _is_stale(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
