"""Postfix on the other side: it sends to us, and it is the MX to which we relay."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import messages
from harness.house import ENDED, House, Person, retrieve, with_lines
from harness.names import NameServer
from harness.postfix import Postfix, without_trace_of_postfix
from harness.programs import needs, open_folder, wait_for

pytestmark = needs("postfix")

AS_THEY_ARE = {"smtp_line_length_limit": "0"}  # Postfix's client would else fold lines beyond 998 octets


@dataclass
class Internet:
    """Our house, and a Postfix that is the MX of remote.test."""

    house: House
    mx: Postfix
    names: NameServer
    alice: Person


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """Join a house and a Postfix by a DNS of their own."""
    with ExitStack() as stack:
        mx = stack.enter_context(Postfix(stack.enter_context(open_folder("mx"))))
        names = stack.enter_context(NameServer(stack.enter_context(open_folder("names")), {"remote.test": "mx.remote.test"}))
        house = House(stack.enter_context(open_folder("house")) / "var", change=names.used_by_relay(mx.port))
        stack.enter_context(house)
        yield Internet(house, mx, names, house.person("alice"))


def submit(internet: Internet, content: bytes, *recipients: str) -> None:
    with internet.house.submission(internet.alice) as client:
        client.sendmail(internet.alice.address, recipients, content, mail_options=["BODY=8BITMIME"])


def new_at(mx: Postfix, send: Callable[[], None], count: int = 1) -> list[bytes]:
    """Return what arrives at the MX by what is done."""
    before = len(mx.stored())
    send()
    return mx.wait_for_stored(before + count)[before:]


@pytest.mark.parametrize("kind", messages.KINDS)
def test_we_relay_to_postfix(internet: Internet, kind: str) -> None:
    sent = messages.KINDS[kind](internet.alice.address, "user@remote.test")
    (stored,) = new_at(internet.mx, lambda: submit(internet, sent, "user@remote.test"))
    assert without_trace_of_postfix(stored) == sent
    assert f"Return-Path: <{internet.alice.address}>\r\n".encode() in stored
    assert b"(using TLSv1.3 " in stored, "the hop to the MX is encrypted, since the MX offers it"


def test_one_message_for_two_users_there_is_sent_once(internet: Internet) -> None:
    before = internet.mx.log().count("client=")
    sent = messages.plain("two-users", internet.alice.address, "user@remote.test")
    new_at(internet.mx, lambda: submit(internet, sent, "user@remote.test", "eva@remote.test"), count=2)
    assert internet.mx.log().count("client=") == before + 1


def test_many_messages_share_a_few_sessions(internet: Internet) -> None:
    connections, sent = internet.mx.log().count(" connect from "), internet.mx.log().count("client=")

    def submit_twenty() -> None:
        with internet.house.submission(internet.alice) as client:
            for number in range(20):
                content = messages.self_checking(f"shared-{number}", internet.alice.address, "user@remote.test")
                client.sendmail(internet.alice.address, ["user@remote.test"], content)

    stored = new_at(internet.mx, submit_twenty, count=20)
    assert sorted(messages.check_whole(without_trace_of_postfix(each)) for each in stored) == sorted(
        f"shared-{number}" for number in range(20)
    )
    log = internet.mx.log()
    assert log.count("client=") == sent + 20
    # Five may be in an attempt at once at first, and more as each succeeds: how many it takes depends on the machine's pace.
    assert log.count(" connect from ") - connections <= 10, "two messages or more in each, on average"


def test_what_postfix_refuses_comes_back_as_a_notification(internet: Internet) -> None:
    sent = messages.plain("refused", internet.alice.address, "nobody-there@remote.test")
    before = len(internet.house.files(internet.alice.address))
    submit(internet, sent, "nobody-there@remote.test")
    internet.house.wait_for_files(internet.alice.address, before + 1)
    client = internet.house.pop3s(internet.alice)
    report = retrieve(client, client.stat()[0])
    client.quit()
    assert b"Return-Path: <>\r\n" in report
    assert b"multipart/report" in report
    assert b"message/delivery-status" in report
    assert b"Action: failed\r\n" in report
    assert b"Status: 5.1.1\r\n" in report
    assert b"nobody-there@remote.test" in report


def test_of_two_recipients_the_refused_one_is_reported_and_the_other_served(internet: Internet) -> None:
    sent = messages.plain("half", internet.alice.address, "user@remote.test")
    before = len(internet.house.files(internet.alice.address))
    (stored,) = new_at(internet.mx, lambda: submit(internet, sent, "user@remote.test", "nobody-there@remote.test"))
    assert without_trace_of_postfix(stored) == sent
    internet.house.wait_for_files(internet.alice.address, before + 1)


@pytest.fixture(scope="module")
def sender(internet: Internet) -> Iterator[Postfix]:
    """Run a Postfix that hands mail for our domain to us."""
    with open_folder("sender") as folder:
        routes = {internet.house.domain: internet.house.ports.smtp}
        with Postfix(folder, hostname="out.sender.test", domain="sender.test", routes=routes, settings=AS_THEY_ARE) as postfix:
            yield postfix


@pytest.mark.parametrize("kind", messages.KINDS)
def test_postfix_relays_to_us(internet: Internet, sender: Postfix, kind: str) -> None:
    bob = internet.house.person(f"bob-{kind.replace('_', '-')}")
    sent = messages.KINDS[kind]("user@sender.test", bob.address)
    send_through(sender, sent, bob.address)
    (file,) = internet.house.wait_for_files(bob.address, 1)
    got = file.read_bytes()
    assert without_trace_of_postfix(got) == sent
    ours = messages.trace(got).split(b"\r\nReceived: ")[1]
    assert b"with ESMTPS" in ours, "Postfix used STARTTLS, since we offer it"


def send_through(postfix: Postfix, content: bytes, recipient: str) -> None:
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as client:
        client.sendmail("user@sender.test", [recipient], content, mail_options=["BODY=8BITMIME"])


def test_postfix_is_told_that_a_user_is_unknown(internet: Internet, sender: Postfix) -> None:
    send_through(sender, messages.plain("unknown", "user@sender.test"), f"nobody-here@{internet.house.domain}")
    sender.wait_for_line(r"to=<nobody-here@[^>]+>.* dsn=5\.1\.1, status=bounced")


def test_mail_waits_while_we_are_down_and_comes_when_we_are_back(internet: Internet, sender: Postfix) -> None:
    bob = internet.house.person("bob-later")
    assert internet.house.stop() == ENDED
    send_through(sender, messages.plain("later", "user@sender.test", bob.address), bob.address)
    sender.wait_for_line(rf"to=<{bob.address}>.* status=deferred")
    internet.house.start()
    sender.flush()
    (file,) = internet.house.wait_for_files(bob.address, 1, timeout_seconds=60)
    assert without_trace_of_postfix(file.read_bytes()) == messages.plain("later", "user@sender.test", bob.address)


def test_mail_waits_while_the_mx_is_down_over_a_restart_of_ours(make_house: Callable[..., House], folder: Path) -> None:
    """Accept while the MX is closed, restart, and open the MX."""
    (folder / "mx").mkdir()
    mx = Postfix(folder / "mx")
    with NameServer(folder / "names", {"remote.test": "mx.remote.test"}) as names:
        house = make_house(change=names.used_by_relay(mx.port))
        house.change(with_lines("queue", "retry_first_seconds = 2"))
        with house:
            alice = house.person("alice")
            sent = messages.plain("patient", alice.address, "user@remote.test")
            with house.submission(alice) as client:
                client.sendmail(alice.address, ["user@remote.test"], sent)
            house.wait_for_line("delayed")
            assert house.stop() == ENDED
            house.start()
            with mx:
                wait_for(mx.stored, "the message at the MX", timeout_seconds=90)
                (stored,) = mx.stored()
                assert without_trace_of_postfix(stored) == sent


def test_postfix_submits_to_us_and_proves_its_password_by_cyrus_sasl(internet: Internet) -> None:
    if not any(Path("/usr/lib").glob("*/sasl2/libscram.so")):
        pytest.skip("needs SCRAM of Cyrus SASL: apt-get install libsasl2-modules")
    alice, bob, port = internet.alice, internet.house.person("bob"), internet.house.ports.submission
    settings = {
        "smtp_tls_security_level": "encrypt",
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_security_options": "noanonymous",
        "smtp_sasl_mechanism_filter": "scram-sha-256",
        "smtp_sasl_password_maps": f"inline:{{ {{[127.0.0.1]:{port}={alice.address}:{alice.password}}} }}",
    }
    before = len(internet.house.files(bob.address))
    with (
        open_folder("submitter") as folder,
        Postfix(
            folder / "postfix", domain="submitter.test", routes={internet.house.domain: port}, settings=settings
        ) as postfix,
        smtplib.SMTP("127.0.0.1", postfix.port) as client,
    ):
        client.sendmail(alice.address, [bob.address], messages.plain("proved", alice.address, bob.address))
        internet.house.wait_for_files(bob.address, before + 1)
