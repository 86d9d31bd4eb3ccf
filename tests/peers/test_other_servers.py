"""Exim and OpenSMTPD on the other side, with TLS and without: each is the MX to which we relay, and each sends to us."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from harness import messages
from harness.exim import Exim
from harness.house import House, Person
from harness.names import NameServer
from harness.opensmtpd import OpenSMTPD
from harness.postfix import without_trace_of_postfix
from harness.programs import needs, open_folder, wait_for

pytestmark = needs("exim", "opensmtpd", "mount")

KINDS = ["pictures", "big", "eight_bit", "dots", "empty_body", "blank_lines"]
USER = "user@remote.test"


@dataclass
class Internet:
    """Our house, and a server that is the MX of remote.test and hands mail for our domain to us."""

    house: House
    server: Exim | OpenSMTPD
    alice: Person
    is_tls: bool
    is_exim: bool


@pytest.fixture(scope="module", params=["exim", "exim without TLS", "opensmtpd", "opensmtpd without TLS"])
def internet(request: Any) -> Iterator[Internet]:
    """Join a house and a server by a DNS of their own; the server sends to the house by a route of its own."""
    kind, is_tls = request.param.split(" ")[0], "without" not in request.param
    make = {"exim": Exim, "opensmtpd": OpenSMTPD}[kind]
    with ExitStack() as stack:
        house = House(stack.enter_context(open_folder("house")) / "var").prepare()
        server = make(stack.enter_context(open_folder("mx")), routes={house.domain: house.ports.smtp}, tls=is_tls)
        names = stack.enter_context(NameServer(stack.enter_context(open_folder("names")), {"remote.test": server.hostname}))
        house.change(names.used_by_relay(server.port))
        stack.enter_context(server)
        stack.enter_context(house)
        yield Internet(house, server, house.person("alice"), is_tls, kind == "exim")


def without_trace(octets: bytes) -> bytes:
    """Return a message without what was put in front of it."""
    return without_trace_of_postfix(octets)


@pytest.mark.parametrize("kind", KINDS)
def test_we_relay_to_it(internet: Internet, kind: str) -> None:
    sent = messages.KINDS[kind](internet.alice.address, USER)
    before = len(internet.server.stored())
    with internet.house.submission(internet.alice) as client:
        client.sendmail(internet.alice.address, [USER], sent, mail_options=["BODY=8BITMIME"])
    stored = internet.server.wait_for_stored(before + 1)[-1]
    assert without_trace(stored) == sent
    of_the_server = (b"\r\n" + stored).split(b"\r\nReceived: ")[1]
    # OpenSMTPD 6.8 offers TLS and cannot do it with OpenSSL 3 (with -v: "missing private key"): it must come in clear then.
    assert (b"TLS" in of_the_server) is (internet.is_tls and internet.is_exim)
    assert ('reason="io-error: error:' in internet.server.log()) is (internet.is_tls and not internet.is_exim)


def test_of_two_recipients_the_refused_one_is_reported_and_the_other_served(internet: Internet) -> None:
    before = len(internet.server.stored())
    notices = len(internet.house.files(internet.alice.address))
    sent = messages.plain("two", internet.alice.address, USER)
    with internet.house.submission(internet.alice) as client:
        client.sendmail(internet.alice.address, [USER, "nobody@remote.test"], sent)
    internet.server.wait_for_stored(before + 1)
    internet.house.wait_for_files(internet.alice.address, notices + 1)
    notice = max(internet.house.files(internet.alice.address), key=lambda file: file.stat().st_mtime_ns).read_bytes()
    assert b"\r\nFinal-Recipient: rfc822; nobody@remote.test\r\n" in notice
    assert re.search(rb"\r\nDiagnostic-Code: smtp; 5[25]", notice)


@pytest.mark.parametrize("kind", KINDS)
def test_it_relays_to_us(internet: Internet, kind: str) -> None:
    bob = internet.house.person(f"bob-{kind.replace('_', '-')}")
    sent = messages.KINDS[kind](USER, bob.address)
    with smtplib.SMTP("127.0.0.1", internet.server.port, timeout=60) as client:
        client.sendmail(USER, [bob.address], sent, mail_options=["BODY=8BITMIME"] if internet.is_exim else [])
    (file,) = internet.house.wait_for_files(bob.address, 1, timeout_seconds=60)
    got = file.read_bytes()
    assert without_trace(got) == sent
    ours = got.split(b"\r\nReceived: ")[1]
    assert (b"with ESMTPS" in ours) is internet.is_tls


def test_it_is_told_that_a_user_is_unknown(internet: Internet) -> None:
    with smtplib.SMTP("127.0.0.1", internet.server.port, timeout=60) as client:
        client.sendmail(USER, [f"nobody-here@{internet.house.domain}"], messages.plain("unknown", USER))
    wait_for(lambda: re.search(r"nobody-here@.*550.5\.1\.1", internet.server.log()), "the refusal in its log")
