"""Everything through a smarthost, which here is another house of ours: with a login, and never in the clear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import messages
from harness.house import House, with_lines

MakeHouse = Callable[..., House]


@pytest.fixture
def smarthost(make_house: MakeHouse) -> House:
    """Make a house for other.test whose alice may send as alice@example.test, too."""
    house = make_house(hostname="mail.other.test", domain="other.test").start()
    house.mailstack("domain", "add", "example.test", "--config", house.config)
    house.mailstack("alias", "add", "alice@example.test", "alice@other.test", "--config", house.config)
    return house


def behind(smarthost: House, make_house: MakeHouse, port: int, password: str) -> House:
    """Start a house whose mail leaves through the smarthost."""
    house = make_house()
    secret = Path(house.folder) / "smarthost-password"
    secret.touch(mode=0o600)
    secret.write_text(f"{password}\n")
    lines = (
        f'smarthost = "127.0.0.1:{port}"\nsmarthost_username = "alice@other.test"\n'
        f'smarthost_password_file = "{secret.name}"\ntls = "encrypt"'
    )
    house.change(with_lines("relay", lines))
    return house.start()


def test_mail_leaves_through_a_smarthost_with_a_login_over_tls(smarthost: House, make_house: MakeHouse) -> None:
    house = behind(smarthost, make_house, smarthost.ports.submission, smarthost.person("alice").password)
    content = messages.self_checking("through", "alice@example.test", "bob@other.test")
    with house.submission(house.person("alice")) as client:
        client.sendmail("alice@example.test", ["bob@other.test"], content)
    (file,) = smarthost.wait_for_files("bob@other.test", 1)
    received = file.read_bytes()
    assert messages.check_whole(received) == "through"
    assert received.count(b" with ESMTPSA ") == 2, "both hops were authenticated, in TLS"
    assert "authenticated as alice@other.test" in smarthost.log()


def test_a_wrong_password_lets_the_mail_wait(smarthost: House, make_house: MakeHouse) -> None:
    house = behind(smarthost, make_house, smarthost.ports.submission, "wrong")
    with house.submission(house.person("alice")) as client:
        client.sendmail("alice@example.test", ["bob@other.test"], messages.plain("waits"))
    log = house.wait_for_line("to=bob@other.test delayed")
    assert "wrong" not in log
    assert not smarthost.files("bob@other.test")
    assert not house.files("alice@example.test"), "no notification yet: an operator can mend it"
