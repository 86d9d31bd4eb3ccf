"""Tokens: curl, msmtp and mpop log in by them, at two workers that ask an authorization server in plain Python."""

from __future__ import annotations

import base64
import json
import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from harness import messages
from harness.clients import fetch_by_mpop, send_by_msmtp
from harness.house import House, Person, with_lines
from harness.programs import needs, open_folder, run

SECRET = "sesame-of-the-server"
REFUSED = 67
"""How curl says that a login was denied."""


class Server(ThreadingHTTPServer):
    """An authorization server: every token is good for the account whose name it is, but for those that say so."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers as RFC 7662 says, in HTTP/1.0 and without a length."""

    server: Server

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        (token,) = form["token"]
        self.server.asked.append(token)
        self.send_response(200 if login == f"mailstack:{SECRET}" else 401)
        self.end_headers()
        name = token.partition("~")[0].replace("_at_", "@")
        self.wfile.write(json.dumps({"active": not token.endswith("~expired"), "sub": name}).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def authorization_server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with authorization_server() as server:
        yield server


@pytest.fixture(scope="module")
def house(server: Server) -> Iterator[House]:
    def change(text: str) -> str:
        url = f"http://127.0.0.1:{server.server_port}/introspect"
        lines = f'introspection_url = "{url}"\nclient_id = "mailstack"\nclient_secret_file = "oauth.secret"'
        return with_lines("oauth", f'{lines}\naccount_claim = "sub"')(with_lines("", "workers = 2")(text))

    with open_folder("house") as path:
        secret = path / "var" / "oauth.secret"
        house = House(path / "var", change=change).prepare()
        secret.touch(0o600)
        secret.write_text(f"{SECRET}\n")
        with house:
            yield house


def token_of(person: Person, how: str = "") -> str:
    return person.address.replace("@", "_at_") + f"~{how}" if how else person.address.replace("@", "_at_")


def curl(house: House, person: Person, token: str, url: str, *words: str | Path, expect: int = 0) -> bytes:
    command: list[str | Path] = ["curl", "--silent", "--verbose", "--max-time", "20", "--ssl-reqd", "--cacert", house.ca]
    done = run([*command, "--user", f"{person.address}:", "--oauth2-bearer", token, *words, url], expect=expect)
    return done.stdout + done.stderr


def submission(house: House) -> str:
    return f"smtp://localhost:{house.ports.submission}/client.test"


def written_by(person: Person) -> bytes:
    return f"From: <{person.address}>\r\nSubject: by token\r\n\r\n".encode()


@needs("curl")
@pytest.mark.parametrize("more", [[], ["--sasl-ir"]])
def test_curl_submits_and_retrieves(house: House, alice: Person, bob: Person, folder: Path, more: list[str]) -> None:
    message = folder / "message"
    message.write_bytes(written_by(alice))
    send = ["--mail-from", alice.address, "--mail-rcpt", bob.address, "--upload-file", message]
    assert b"AUTH OAUTHBEARER" in curl(house, alice, token_of(alice), submission(house), *more, *send)
    (file,) = house.wait_for_files(bob.address, 1)
    assert b" with ESMTPSA " in file.read_bytes()
    for url in (f"pop3://localhost:{house.ports.pop3}/1", f"pop3s://localhost:{house.ports.pop3s}/1"):
        got = curl(house, bob, token_of(bob), url, *more)
        assert b"AUTH OAUTHBEARER" in got
        assert b"by token" in got


@needs("msmtp", "mpop")
@pytest.mark.parametrize("mechanism", ["oauthbearer", "xoauth2"])
@pytest.mark.parametrize("at_once", [False, True])
def test_msmtp_submits_and_mpop_retrieves(
    house: House, alice: Person, bob: Person, folder: Path, mechanism: str, at_once: bool
) -> None:
    ports = house.ports
    smtp, pop3 = (ports.submissions, ports.pop3s) if at_once else (ports.submission, ports.pop3)
    sender, reader = (Person(each.address, token_of(each)) for each in (alice, bob))
    send_by_msmtp(folder, smtp, sender, bob.address, written_by(alice), ca=house.ca, tls_at_once=at_once, auth=mechanism)
    house.wait_for_files(bob.address, 1)
    (got,) = fetch_by_mpop(folder, pop3, reader, ca=house.ca, tls_at_once=at_once, auth=mechanism)
    assert b"Subject: by token" in got


@needs("msmtp", "mpop")
@pytest.mark.parametrize("mechanism", ["oauthbearer", "xoauth2"])
def test_msmtp_and_mpop_are_refused(house: House, alice: Person, folder: Path, mechanism: str) -> None:
    expired = Person(alice.address, token_of(alice, "expired"))
    with pytest.raises(AssertionError, match=r"(?s)ended with 77.*535 5\.7\.8"):
        send_by_msmtp(folder, house.ports.submissions, expired, "x@y.test", b"", ca=house.ca, tls_at_once=True, auth=mechanism)
    with pytest.raises(AssertionError, match=r"(?s)ended with 77.*Authentication failed"):
        fetch_by_mpop(folder, house.ports.pop3s, expired, ca=house.ca, auth=mechanism)


@needs("msmtp", "mpop")
def test_who_has_a_password_still_uses_it(house: House, alice: Person, bob: Person, folder: Path) -> None:
    port = house.ports.submissions
    send_by_msmtp(folder, port, alice, bob.address, written_by(alice), ca=house.ca, tls_at_once=True)
    house.wait_for_files(bob.address, 1)
    assert len(fetch_by_mpop(folder, house.ports.pop3s, bob, ca=house.ca)) == 1


@needs("curl")
def test_curl_is_refused(house: House, alice: Person, bob: Person) -> None:
    words = ["--mail-from", alice.address, "--mail-rcpt", bob.address]
    for person, token in ((alice, token_of(alice, "expired")), (alice, token_of(bob))):
        said = curl(house, person, token, submission(house), *words, expect=REFUSED)
        assert b"< 334 " in said
        assert b"< 535 5.7.8 " in said
        said = curl(house, person, token, f"pop3s://localhost:{house.ports.pop3s}/", expect=REFUSED)
        assert b"< -ERR [AUTH] " in said


@needs("curl")
def test_a_token_as_long_as_some_are(house: House, alice: Person, server: Server) -> None:
    with smtplib.SMTP("127.0.0.1", house.ports.smtp, timeout=60) as client:
        client.sendmail("someone@elsewhere.test", [alice.address], messages.plain("for the one with the long token"))
    house.wait_for_files(alice.address, 1)
    long = token_of(alice, "x" * 4_000)
    said = curl(house, alice, long, f"pop3s://localhost:{house.ports.pop3s}/")
    assert b"+OK 1 messages" in said
    assert long in server.asked


@needs("curl")
def test_no_token_is_in_the_log_nor_the_secret_in_a_command_line(house: House, alice: Person) -> None:
    secret = token_of(alice, "expired")
    curl(house, alice, secret, f"pop3s://localhost:{house.ports.pop3s}/", expect=REFUSED)
    house.wait_for_line(f"authentication of {alice.address} from 127.0.0.1 failed")
    assert secret not in house.log()
    assert SECRET not in house.log()
    assert house.process is not None
    for pid in (house.process.pid, *house.workers().values()):
        assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
