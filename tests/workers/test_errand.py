"""What a worker is told is what its parent had."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from mailstack.compose.place import Place
from mailstack.compose.secrets import Secrets
from mailstack.net.tls import Pem
from mailstack.settings import Settings, load
from mailstack.workers.errand import Conditions, Errand, Socket
from mailstack.workers.line import Messages, encode

EVERYTHING = """
hostname = "mail.example.org"
folder = "data"
postmaster = "alice@example.org"
workers = "auto"
[listen]
smtp = ["0.0.0.0:25", "[::]:25"]
lmtp = ["127.0.0.1:24", "unix:lmtp"]
lmtp_group = "postfix"
[receive]
lmtp_from = ["10.0.0.0/8"]
xclient_from = ["::1", "unix"]
[proxy]
smtp_from = ["192.0.2.1"]
[relay]
smarthost = "smtp.example.net:587"
smarthost_username = "us"
smarthost_password_file = "password"
tls = "verify"
nameservers = ["::1"]
local_addresses = ["192.0.2.1", "2001:db8::1"]
all_addresses_of = ["example.net"]
[relay.source]
"example.org" = ["192.0.2.2"]
[relay.logins."gate.example"]
username = "us"
password_file = "password"
[transport]
"example.net" = "smtp:[10.0.0.5]:2525"
"time" = "lmtp:unix:/run/lmtp"
"a@example.org" = "error: 5.1.6 Moved"
"*" = "mx"
[tls]
certificate = "c.pem"
key = "password"
[oauth]
introspection_url = "https://login.example.org/introspect?x=y"
client_id = "us"
client_secret_file = "password"
scope = "mail send"
audience = "mail"
[policy]
use = ["a"]
[policy.options.a]
x = [1, "y", 2.5, true]
when = 2026-11-25T10:00:00+01:00
day = 2026-11-25
hour = 10:00:00
inner = { "{}" = 1, deep = [{ time = "noon" }], iso = "x" }
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "c").write_text(EVERYTHING)
    return load(tmp_path / "c")


def errand(settings: Settings, secrets: Secrets) -> Errand:
    return Errand(
        place=Place(1, 3),
        conditions=Conditions(settings, secrets),
        sockets=(Socket("smtp", "127.0.0.1", 25, 7), Socket("pop3s", "::1", 995, 8), Socket("lmtp", "/run/lmtp", 0, 9)),
        memory=9,
        memory_key=b"\0\xff" * 8,
        is_log_shared=True,
    )


@pytest.mark.parametrize(
    "secrets",
    [
        Secrets(None, None),
        Secrets(Pem(b"CERT\n\xff", b"KEY\n"), "p\u00e4ss", oauth_secret="s\u00e9cret"),
        Secrets(Pem(b"C", b"K", b"AUTHORITY\xff", b"CRL\xff"), None, srs=("a", "\u00fc"), relay_pem=Pem(b"D", b"L\xff")),
        Secrets(Pem(b"C", b"K", b"AUTHORITY\xff"), None, login_passwords={"gate.example": "p\u00e4ss"}),
    ],
)
def test_there_and_back(settings: Settings, secrets: Secrets) -> None:
    told = errand(settings, secrets)
    (message,) = Messages().feed(encode({"errand": told.tell()}))
    assert Errand.told(message["errand"]) == told


def test_times_keep_their_kind(settings: Settings) -> None:
    told = Conditions(settings, Secrets(None, None)).tell()
    options = Conditions.told(json.loads(json.dumps(told))).settings.policy.options["a"]
    assert type(options["day"]) is datetime.date
    assert type(options["hour"]) is datetime.time
    assert options["when"].utcoffset() == datetime.timedelta(hours=1)


def test_a_file_that_is_gone_does_not_matter(settings: Settings, tmp_path: Path) -> None:
    told = Conditions(settings, Secrets(None, "secret")).tell()
    (tmp_path / "password").unlink()
    assert Conditions.told(told).settings == settings


def test_secrets_are_not_shown() -> None:
    shown = repr(
        Secrets(
            Pem(b"C", b"the key"),
            "the password",
            srs=("the srs",),
            oauth_secret="the secret",
            login_passwords={"gate.example": "another"},
        )
    )
    assert "the secret" not in shown
    assert "the key" not in shown
    assert "the password" not in shown
    assert "the srs" not in shown
    assert "another" not in shown
