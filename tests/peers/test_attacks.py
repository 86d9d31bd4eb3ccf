"""Attacks on a running server: addresses that should make it relay, names that are paths, and smuggling in both directions."""

from __future__ import annotations

import email
import re
import smtplib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from harness import messages
from harness.house import House, Person, retrieve
from harness.names import NameServer
from harness.postfix import Postfix
from harness.programs import needs, open_folder, wait_for

RELAY_FORMS = [
    "x@remote.test",
    "x@[127.0.0.1]",
    "x@[192.0.2.1]",
    "x@[IPv6:::1]",
    "x@[IPv6:2001:db8::1]",
    "x@localhost",
    "x@127.0.0.1",
    "x@0x7f000001",
    "x%remote.test@example.test",
    "remote.test!x@example.test",
    "remote.test!x",
    '"x@remote.test"@example.test',
    '"x@remote.test"',
    "x@remote.test@example.test",
    "x@example.test@remote.test",
    "@example.test:x@remote.test",
    "@remote.test,@example.test:x@remote.test",
    "<x@remote.test>",
    "=?x?q?x=40remote.test=3e=00?=@example.test",
    "x(@example.test)@remote.test",
    "bob@example.test.remote.test",
    "bob@remote.test,example.test",
    "bob",
    '""@example.test',
    "b\u00f6b@example.test",
    "bob@example.test\u3002",
    "",
]
NAMES_OF_PATHS = [
    "../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "~root",
    "-rf",
    ".hidden",
    "new",
    "cur",
    "CON",
    "*",
    "alice/../bob",
    "alice/new",
    "a" * 64,
    "|id",
    "$(id)",
    "`id`",
    "${run{id}}",
    "-oQ/tmp",
    ";sleep 66;",
    "x' OR '1'='1",
    "x'; DROP TABLE accounts; --",
    "%s",
    "{0}",
    "alice\\00",
]
ENDS = {
    name: octets
    for octets in (
        *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\n\n.\n", b"\n\n.\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n.\n\r\n"),
        *(b"\r.\r", b"\r.\n", b"\r.\r\n", b"\n.\r", b"\r\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n"),
        *(b"\r\n .\r\n", b"\r\n. \r\n", b"\r\n.\x0b\r\n", b"\r\n.\x85\r\n", b"\r\n.\xe2\x80\xa8\r\n", b"\r\n.\x0c\r\n"),
        *(b"\r\n\x1a\r\n", b"\r\n..\r\n"),
    )
    for name in (repr(octets)[2:-1],)
}
BARE = {name for name, octets in ENDS.items() if octets.replace(b"\r\n", b"").strip(b"\0 .\x0b\x85\xe2\x80\xa8\x0c\x1a")}


def quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def smuggling(end: bytes, recipient: str, subject: str) -> bytes:
    """Return a message that holds another behind something that a lenient server takes for the end."""
    return (
        f"Subject: {subject}\r\n\r\ntext".encode()
        + end
        + f"MAIL FROM:<evil@elsewhere.test>\r\nRCPT TO:<{recipient}>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil".encode()
    )


def by_data(client: smtplib.SMTP, content: bytes) -> int:
    """Send a content as it is, and nothing but its end."""
    assert client.docmd("DATA")[0] == 354
    client.send(content + b"\r\n.\r\n")
    return client.getreply()[0]


def by_bdat(client: smtplib.SMTP, content: bytes) -> int:
    """Send a content as it is in two chunks, cut where it hurts."""
    cut = content.index(b".") + 1
    client.send(b"BDAT %d\r\n" % cut + content[:cut])
    first = client.getreply()[0]
    client.send(b"BDAT %d LAST\r\n" % len(content[cut:]) + content[cut:])
    last = client.getreply()[0]
    return last if first == 250 else first


def subjects(contents: list[bytes]) -> list[str]:
    return [str(email.message_from_bytes(each)["Subject"]) for each in contents]


class TestAddresses:
    @pytest.mark.parametrize("form", RELAY_FORMS)
    def test_no_form_of_an_address_makes_us_relay(self, house: House, form: str) -> None:
        with house.smtp() as client:
            client.ehlo()
            client.mail("a@elsewhere.test")
            client.send(f"RCPT TO:<{form}>\r\n".encode())
            code, text = client.getreply()
            assert 500 <= code < 600, (code, text)
            assert client.docmd("DATA")[0] == 554

    @pytest.mark.parametrize(
        "form",
        [
            *("{bob}", "BOB@EXAMPLE.TEST", "bob@example.test.", '"bob"@example.test', "bob+tag@example.test"),
            *("postmaster", "@remote.test:{bob}", '"b\\ob"@example.test'),
        ],
    )
    def test_other_forms_of_our_own_users_are_theirs(self, house: House, form: str) -> None:
        bob = house.person("bob")
        with house.smtp() as client:
            client.ehlo()
            client.mail("a@elsewhere.test")
            client.send(f"RCPT TO:<{form.format(bob=bob.address)}>\r\n".encode())
            assert client.getreply()[0] == 250

    @pytest.mark.parametrize("name", NAMES_OF_PATHS)
    def test_a_name_that_is_a_path_or_a_command_is_nobody(self, house: House, name: str) -> None:
        before = sorted(house.folder.rglob("*"))
        with house.smtp() as client:
            client.ehlo()
            client.mail("a@elsewhere.test")
            client.send(f"RCPT TO:<{quoted(name)}@{house.domain}>\r\n".encode())
            assert 500 <= client.getreply()[0] < 600
        folders = [path for path in sorted(house.folder.rglob("*")) if path.is_dir() and path not in before]
        assert not folders

    def test_such_a_name_cannot_log_in_and_leaves_the_directory_whole(self, house: House) -> None:
        for name in ("../../etc/passwd", "x' OR '1'='1", "*)(uid=*", "%{alice}", "alice@example.test\n"):
            client = smtplib.SMTP("localhost", house.ports.submission, timeout=60)
            client.starttls(context=house.tls())
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                client.login(name, "x")
            assert caught.value.smtp_code in (501, 535)
            client.close()
        house.submission(house.person("alice")).quit()


class TestIntoUs:
    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("send", [by_data, by_bdat])
    def test_only_the_end_is_the_end(self, house: House, end: str, send: object) -> None:
        bob = house.person("bob-smuggled")
        with house.smtp() as client:
            client.ehlo()
            client.mail("a@elsewhere.test")
            client.rcpt(bob.address)
            code = send(client, smuggling(ENDS[end], bob.address, "outer"))  # type: ignore[operator]
            assert code == (550 if end in BARE else 250)
            assert client.docmd("NOOP") == (250, b"2.0.0 OK")
        assert "smuggled" not in subjects([file.read_bytes() for file in house.files(bob.address)])


@dataclass
class Internet:
    """Our house; the MX of remote.test, which is a Postfix that takes nearly anything for an end; one that sends to us."""

    house: House
    mx: Postfix
    sender: Postfix
    alice: Person


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    with ExitStack() as stack:
        lax = {"smtpd_forbid_bare_newline": "no", "smtpd_forbid_unauth_pipelining": "no"}
        mx = stack.enter_context(Postfix(stack.enter_context(open_folder("mx")), settings=lax))
        names = stack.enter_context(NameServer(stack.enter_context(open_folder("names")), {"remote.test": "mx.remote.test"}))
        house = House(stack.enter_context(open_folder("house")) / "var", change=names.used_by_relay(mx.port))
        stack.enter_context(house)
        careful = {"smtpd_forbid_bare_newline": "normalize", "smtpd_forbid_bare_newline_exclusions": ""}
        sender = stack.enter_context(
            Postfix(
                stack.enter_context(open_folder("sender")),
                hostname="out.sender.test",
                domain="sender.test",
                routes={house.domain: house.ports.smtp},
                settings=careful,
            )
        )
        yield Internet(house, mx, sender, house.person("alice"))


@needs("postfix")
def test_postfix_takes_the_bait_when_it_is_sent_directly(internet: Internet) -> None:
    """So that the tests below can fail: this very server is one that can be smuggled past."""
    before = len(internet.mx.stored())
    client = smtplib.SMTP("127.0.0.1", internet.mx.port, timeout=60)
    client.ehlo("client.test")
    client.mail("a@elsewhere.test")
    client.rcpt("user@remote.test")
    assert by_data(client, smuggling(b"\n.\n", "user@remote.test", "bait")) == 250
    client.close()
    stored = internet.mx.wait_for_stored(before + 2)
    assert "smuggled" in subjects(stored[before:])


@needs("postfix")
@pytest.mark.parametrize("send", [by_data, by_bdat])
def test_nothing_is_smuggled_through_us_past_a_postfix(internet: Internet, send: object) -> None:
    before = len(internet.mx.stored())
    with internet.house.submission(internet.alice) as client:
        for number, end in enumerate(ENDS.values()):
            client.mail(internet.alice.address, ["BODY=8BITMIME"])
            client.rcpt("user@remote.test")
            content = smuggling(end, "user@remote.test", f"outer {number}")
            assert send(client, content) == 250  # type: ignore[operator]
            assert client.docmd("NOOP")[0] == 250
    arrived = internet.mx.wait_for_stored(before + len(ENDS))
    sentinel = messages.plain("sentinel", internet.alice.address, "user@remote.test")
    with internet.house.submission(internet.alice) as client:
        client.sendmail(internet.alice.address, ["user@remote.test"], sentinel)
    arrived = internet.mx.wait_for_stored(before + len(ENDS) + 1)[before:]
    assert len(arrived) == len(ENDS) + 1
    assert "smuggled" not in subjects(arrived)
    assert {f"outer {number}" for number in range(len(ENDS))} < set(subjects(arrived))
    assert sum(b"Subject: smuggled" in each for each in arrived) == len(ENDS), "it is text within the others"


@needs("postfix")
def test_nothing_is_smuggled_through_a_postfix_past_us(internet: Internet) -> None:
    bob = internet.house.person("bob")
    with smtplib.SMTP("127.0.0.1", internet.sender.port, timeout=60) as client:
        client.ehlo("client.test")
        for number, end in enumerate(ENDS.values()):
            client.mail("user@sender.test", ["BODY=8BITMIME"])
            client.rcpt(bob.address)
            assert by_data(client, smuggling(end, bob.address, f"outer {number}")) == 250
    tried = re.compile(rf"to=<{bob.address}>[^\n]* status=(?:sent|bounced)")
    wait_for(lambda: len(tried.findall(internet.sender.log())) >= len(ENDS), "all were tried", timeout_seconds=60)
    internet.house.deliver(messages.plain("sentinel", "a@elsewhere.test", bob.address), bob.address)
    client = internet.house.pop3s(bob)
    arrived = [retrieve(client, number + 1) for number in range(client.stat()[0])]
    client.quit()
    assert "smuggled" not in subjects(arrived)
    assert 1 < len(arrived) <= len(ENDS) + 1
    for each in arrived:
        assert b"\n" not in each.replace(b"\r\n", b"")
        assert b"\r" not in each.replace(b"\r\n", b"")
