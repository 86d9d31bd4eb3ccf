"""Python's own smtplib and poplib: every kind of message comes out of POP3 as it went into SMTP."""

from __future__ import annotations

import poplib
import smtplib

import pytest
from harness import messages
from harness.house import House, Person, retrieve
from harness.programs import wait_for


@pytest.mark.parametrize("kind", messages.KINDS)
def test_submitted_is_retrieved(house: House, alice: Person, bob: Person, kind: str) -> None:
    sent = messages.KINDS[kind](alice.address, bob.address)
    with house.submission(alice) as client:
        client.sendmail(alice.address, [bob.address], sent, mail_options=["BODY=8BITMIME"])
    house.wait_for_files(bob.address, 1)
    (got,) = house.retrieved(bob)
    assert messages.without_trace(got) == sent
    assert f"Return-Path: <{alice.address}>\r\n".encode() in messages.trace(got)


def test_many_in_one_session(house: House, bob: Person) -> None:
    sent = [make("sender@elsewhere.test", bob.address) for name, make in messages.KINDS.items() if name != "big"]
    with house.smtp() as client:
        for content in sent:
            client.sendmail("sender@elsewhere.test", [bob.address], content, mail_options=["BODY=8BITMIME"])
    house.wait_for_files(bob.address, len(sent))
    assert sorted(map(messages.without_trace, house.retrieved(bob))) == sorted(sent)


def test_recipients_get_a_copy_each_and_the_unknown_is_named(house: House, alice: Person, bob: Person) -> None:
    nobody = f"nobody-here@{house.domain}"
    with house.smtp() as client:
        refused = client.sendmail("a@elsewhere.test", [alice.address, nobody, bob.address], messages.plain("copies"))
    assert list(refused) == [nobody]
    assert refused[nobody][0] == 550
    for person in (alice, bob):
        (file,) = house.wait_for_files(person.address, 1)
        assert messages.without_trace(file.read_bytes()) == messages.plain("copies")


def test_a_file_s_name_tells_its_size(house: House, bob: Person) -> None:
    house.deliver(messages.dots(), bob.address)
    (file,) = house.wait_for_files(bob.address, 1)
    octets = file.stat().st_size
    assert f",S={octets}" in file.name
    assert f",W={octets}" in file.name


def test_pop3_deletes_at_quit_and_not_before(house: House, bob: Person) -> None:
    house.deliver(messages.plain("kept"), bob.address)
    house.wait_for_files(bob.address, 1)
    client = house.pop3s(bob)
    client.dele(1)
    client.close()  # no QUIT
    wait_for(lambda: _count(house, bob) == 1, "the message is still there")
    client = house.pop3s(bob)
    client.dele(1)
    client.quit()
    wait_for(lambda: not house.files(bob.address), "the message is gone")


def _count(house: House, person: Person) -> int | None:
    try:
        client = house.pop3s(person)
    except poplib.error_proto as error:
        if b"[IN-USE]" not in error.args[0]:
            raise
        return None
    try:
        return int(client.stat()[0])
    finally:
        client.quit()


def test_uidl_is_the_same_in_the_next_session(house: House, bob: Person) -> None:
    for name in ("one", "two", "three"):
        house.deliver(messages.plain(name), bob.address)
    house.wait_for_files(bob.address, 3)
    seen = []
    for _ in range(2):
        client = house.pop3s(bob)
        seen.append([line.split()[1] for line in client.uidl()[1]])
        retrieve(client, 1)
        client.quit()
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3


def test_pop3_with_stls(house: House, bob: Person) -> None:
    house.deliver(messages.plain("stls"), bob.address)
    house.wait_for_files(bob.address, 1)
    client = poplib.POP3("localhost", house.ports.pop3, timeout=60)
    assert "STLS" in client.capa()
    client.stls(context=house.tls())
    client.user(bob.address)
    client.pass_(bob.password)
    assert messages.without_trace(retrieve(client, 1)) == messages.plain("stls")
    top = b"".join(line + b"\r\n" for line in client.top(1, 0)[1])
    assert messages.without_trace(top) == messages.plain("stls").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    client.quit()


def test_pop3_takes_no_password_in_the_clear(house: House, bob: Person) -> None:
    client = poplib.POP3("localhost", house.ports.pop3, timeout=60)
    assert "STLS" in client.capa()
    assert "USER" not in client.capa()
    with pytest.raises(poplib.error_proto):
        client.user(bob.address)
    client.close()


def test_a_message_beyond_the_limit_is_refused_before_it_is_sent(house: House, alice: Person, bob: Person) -> None:
    with house.submission(alice) as client:
        limit = int(client.esmtp_features["size"])
        code, text = client.mail(alice.address, [f"SIZE={limit + 1}"])
        assert (code, text[:5]) == (552, b"5.3.4")


def test_authentication_is_offered_only_behind_tls(house: House) -> None:
    with smtplib.SMTP("localhost", house.ports.submission, timeout=60) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        client.starttls(context=house.tls())
        client.ehlo()
        assert client.has_extn("auth")
        assert not client.has_extn("starttls")
