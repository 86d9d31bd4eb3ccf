"""The extensions in a running server: BDAT, notifications of success, mail that is held, Postfix behind us."""

from __future__ import annotations

import email
import random
import re
import smtplib
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from harness.house import House
from harness.names import NameServer
from harness.postfix import Postfix
from harness.programs import needs, open_folder


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with open_folder("house") as folder, House(folder / "var") as running:
        yield running


def bdat(client: smtplib.SMTP, octets: bytes, *, last: bool = False) -> int:
    client.send(b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets)
    return client.getreply()[0]


def test_a_message_in_chunks_arrives_as_it_was(house: House) -> None:
    bob = house.person("bob")
    content = b"Subject: chunks\r\n\r\n.\r\n" + b"".join(b"%06d .\r\n" % number for number in range(60_000))
    with house.smtp() as client:
        client.ehlo("client.test")
        assert client.has_extn("chunking")
        client.mail("a@elsewhere.test")
        client.rcpt(bob.address)
        for start in range(0, len(content), 77_777):
            assert bdat(client, content[start : start + 77_777]) == 250
        assert bdat(client, b"", last=True) == 250
    (file,) = house.wait_for_files(bob.address, 1)
    assert file.read_bytes().endswith(b"\r\n" + content)


def test_a_binary_part_arrives_with_the_same_octets(house: House) -> None:
    bob, part = house.person("bob"), random.Random(1).randbytes(5_000_000) + b"\r\n--b\n.\r\n.\r\n"
    head = b"Subject: binary\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    content = head + b"Content-Transfer-Encoding: binary\r\n\r\n" + part + b"\r\n--b--\r\n"
    before = len(house.files(bob.address))
    with house.smtp() as client:
        client.ehlo("client.test")
        assert client.has_extn("binarymime")
        client.mail("a@elsewhere.test", ["BODY=BINARYMIME", f"SIZE={len(content)}"])
        client.rcpt(bob.address)
        assert client.docmd("DATA")[0] == 503
        for start in range(0, len(content), 777_777):
            assert bdat(client, content[start : start + 777_777]) == 250
        assert bdat(client, b"", last=True) == 250
    house.wait_for_files(bob.address, before + 1)
    (retrieved,) = [each for each in house.retrieved(bob) if b"Subject: binary\r\n" in each]
    assert email.message_from_bytes(retrieved).get_payload()[0].get_payload(decode=True) == part
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", retrieved)


def test_who_wants_to_be_told_of_a_delivery_is_told(house: House) -> None:
    alice, bob = house.person("alice"), house.person("bob")
    with house.submission(alice) as client:
        client.mail(alice.address, ["RET=HDRS", "ENVID=order+2066"])
        client.rcpt(bob.address, ["NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;{bob.address}"])
        assert client.data(b"Subject: tell me\r\n\r\ntext\r\n")[0] == 250
    (file,) = house.wait_for_files(alice.address, 1)
    report = email.message_from_bytes(file.read_bytes())
    assert report.get_content_type() == "multipart/report"
    about, recipient = report.get_payload()[1].get_payload()
    assert about["Original-Envelope-Id"] == "order 66"
    assert recipient["Original-Recipient"] == f"rfc822;{bob.address}"
    assert recipient["Action"] == "delivered"


def test_what_is_held_comes_when_its_time_has_come(house: House) -> None:
    alice, bob = house.person("alice"), house.person("bob")
    before = len(house.files(bob.address))
    with house.submission(alice) as client:
        client.mail(alice.address, ["HOLDFOR=2"])
        client.rcpt(bob.address)
        assert client.data(b"Subject: later\r\n\r\ntext\r\n")[0] == 250
        accepted = time.time()
    house.wait_for_files(bob.address, before + 1)
    assert time.time() - accepted > 1.5


@needs("postfix")
def test_postfix_takes_what_the_sender_asked() -> None:
    with ExitStack() as stack:
        mx = stack.enter_context(Postfix(stack.enter_context(open_folder("mx"))))
        names = stack.enter_context(NameServer(stack.enter_context(open_folder("names")), {"remote.test": "mx.remote.test"}))
        house = stack.enter_context(
            House(stack.enter_context(open_folder("house")) / "var", change=names.used_by_relay(mx.port))
        )
        alice = house.person("alice")
        with house.submission(alice) as client:
            client.ehlo()
            client.mail(alice.address, ["SMTPUTF8", "ENVID=x+2By"])
            client.rcpt("user@remote.test", ["NOTIFY=FAILURE", "ORCPT=rfc822;somebody@else.test"])
            assert client.data("Subject: büro\r\n\r\ntext\r\n".encode())[0] == 250
        (stored,) = mx.wait_for_stored(1)
        assert "Subject: büro".encode() in stored
