"""DANE as an operator has it: an unbound that validates, and another server whose certificate is in the DNS, or is not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness import messages
from harness.house import House, with_lines
from harness.programs import needs, open_folder
from harness.unbound import Signed, Unbound

DOMAINS = ("ee.secure.test", "ta.secure.test", "wrong.secure.test", "bogus.test", "open.test")
MakeHouse = Callable[..., House]


@pytest.fixture
def other(make_house: MakeHouse) -> House:
    """Make the other server, which takes mail for all the domains."""
    house = make_house(hostname="mx-ta.secure.test", domain="other.test").start()
    for domain in DOMAINS:
        house.mailstack("domain", "add", domain, "--config", house.config)
        house.mailstack("alias", "add", f"bob@{domain}", "bob@other.test", "--config", house.config)
    return house


@pytest.fixture
def unbound(other: House) -> Iterator[Unbound]:
    """Serve the zones that name it."""
    own = x509.load_pem_x509_certificates((other.folder / "tls" / "server.pem").read_bytes())[0]
    authority = x509.load_pem_x509_certificate(other.ca.read_bytes())
    key = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    right, wrong = hashlib.sha256(key).hexdigest(), "00" * 32
    at = f"_{other.ports.smtp}._tcp"
    secure = "".join(
        f"{name} MX 10 mx-{name}\nmx-{name} A 127.0.0.1\n{at}.mx-{name} TLSA {record}\n"
        for name, record in (
            ("ee", f"3 1 1 {right}"),
            ("ta", f"2 0 0 {authority.public_bytes(Encoding.DER).hex()}"),
            ("wrong", f"3 1 1 {wrong}"),
        )
    )
    apex = f"@ MX 10 mx\nmx A 127.0.0.1\n{at}.mx TLSA 3 1 1 "
    zones: dict[str, str | Signed] = {
        "secure.test": Signed(secure),
        "bogus.test": Signed(apex + wrong, ((wrong, right),)),
        "open.test": apex + wrong + "\n",
    }
    with open_folder("unbound") as folder, Unbound(folder / "unbound", zones) as running:
        yield running


@needs("unbound")
def test_what_is_published_decides(other: House, unbound: Unbound, make_house: MakeHouse) -> None:
    lines = f'nameservers = ["127.0.0.1:{unbound.port}"]\nport = {other.ports.smtp}\nallow_private = true'
    house = make_house(change=with_lines("relay", lines)).start()
    with house.submission(house.person("alice")) as client:
        for domain in DOMAINS:
            client.sendmail("alice@example.test", [f"bob@{domain}"], messages.plain(f"to {domain}"))
    for domain, action, why in (
        ("ee.secure.test", "relayed", "dane-ee"),
        ("ta.secure.test", "relayed", "dane-ta"),
        ("open.test", "relayed", "unverified"),
        ("wrong.secure.test", "delayed", "certificate-not-trusted"),
        ("bogus.test", "delayed", "TLSA records of mx.bogus.test"),
    ):
        (line,) = [each for each in _lines(house, f"to=bob@{domain} ") if f" {action} " in each]
        assert why in line, line
    assert len(other.wait_for_files("bob@other.test", 3)) == 3
    assert not [file for file in other.files("bob@other.test") if b"to wrong" in file.read_bytes()]


def _lines(house: House, text: str) -> list[str]:
    return [line for line in house.wait_for_line(text).split("\n") if text in line]
