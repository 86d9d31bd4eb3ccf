"""Our server as its operator runs it: `mailstack init`, `twistd mailstack`, signals, and the files that it leaves."""

from __future__ import annotations

import json
import os
import poplib
import random
import re
import signal
import smtplib
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.programs import free_base, run, wait_for

BIN = Path(sys.executable).parent
poplib._MAXLINE = 10_000_000  # type: ignore[attr-defined]  # poplib refuses lines beyond 2048 octets, and one of ours has 300 kB
CHOICES = random.SystemRandom()
ENDED = -signal.SIGTERM
"""twistd, having shut down, ends by the signal that it got."""


@dataclass(frozen=True)
class Ports:
    """Where the five services listen."""

    smtp: int
    submission: int
    submissions: int
    pop3: int
    pop3s: int

    @property
    def every(self) -> tuple[int, ...]:
        """All of them."""
        return (self.smtp, self.submission, self.submissions, self.pop3, self.pop3s)


@dataclass(frozen=True)
class Person:
    """One who has an account."""

    address: str
    password: str


class House:
    """
    One installation in a folder, made by `mailstack init --demo` and run by `twistd`, on loopback and free ports.

    Use:  `with House(folder) as house:` starts it and stops it. `house.prepare()` alone makes the installation; `change` gets
          the text of mailstack.toml and returns it as it should be.
    """

    def __init__(
        self,
        folder: Path,
        *,
        hostname: str = "mail.example.test",
        domain: str = "example.test",
        change: Callable[[str], str] | None = None,
        env: dict[str, str] | None = None,
        twistd_options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.hostname = hostname
        self.domain = domain
        self.config = folder / "mailstack.toml"
        self.log_file = folder.parent / f"{folder.name}.log"
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._twistd_options = twistd_options
        self._change = change
        self._people: dict[str, Person] = {}

    # making it

    def prepare(self) -> Self:
        """Make the installation once: configuration, certificates, accounts."""
        if not self.config.exists():
            base = free_base_port()
            self.mailstack(
                "init", self.folder, "--demo", "--hostname", self.hostname, "--domain", self.domain, "--base-port", str(base)
            )
            if self._change is not None:
                self.change(self._change)
        self.ports = _ports(self.config)
        self.ca = self.folder / "tls" / "ca.pem"
        for each in json.loads((self.folder / "demo.json").read_text())["accounts"]:
            self._people.setdefault(each["address"], Person(each["address"], each["password"]))
        return self

    def change(self, change: Callable[[str], str]) -> None:
        """Change the text of the configuration."""
        self.config.write_text(change(self.config.read_text()))

    def mailstack(
        self, *words: str | os.PathLike[str], octets: bytes = b"", expect: int | None = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the operator's command."""
        return run([BIN / "mailstack", *words], octets=octets, env=self.env, expect=expect)

    # running it

    def launch(self, *, config: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the process and do not wait for it."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "twistd", "-n", "--pidfile=", *self._twistd_options, "mailstack", "--config", config or self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.env,
                start_new_session=True,
            )
        return self.process

    def start(self) -> Self:
        """Start it and wait until it says that every service listens."""
        self.prepare()
        already = len(self.log())
        process = self.launch()

        def is_up() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"it ended with {process.returncode}:\n{self.log()[-6000:]}")
            said = self.log()[already:]  # that a port accepts says nothing of who it is, nor that it is ready
            return all(f"listens on 127.0.0.1:{port}" in said for port in self.ports.every)

        try:
            wait_for(is_up, "all services listen", timeout_seconds=60)
        except BaseException as error:
            self.kill()
            if not isinstance(error, AssertionError):
                raise
            raise AssertionError(f"{error}\n{self.log()[-6000:]}") from None
        return self

    def stop(self, *, timeout_seconds: float = 60) -> int:
        """Send SIGTERM and return the exit code: ENDED, if it stopped in good order."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_seconds)

    def kill(self) -> None:
        """Send SIGKILL to it and to whatever it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def reload(self) -> None:
        """Send SIGHUP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if kind is not None:
            sys.stderr.write(f"---- the log of {self.folder} ----\n{self.log()[-8000:]}\n")
        try:
            if self.is_running:
                self.stop()
        finally:
            self.kill()

    # looking at it

    def log(self) -> str:
        """Return the log so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def person(self, local_part: str) -> Person:
        """Return an account of the domain; all but alice and bob are made when they are asked for first."""
        address = f"{local_part}@{self.domain}"
        if address not in self._people:
            password = f"secret-of-{local_part}-{CHOICES.randrange(10**12)}"
            self.set_password("add", address, password)
            self._people[address] = Person(address, password)
        return self._people[address]

    def set_password(self, command: str, address: str, password: str) -> None:
        """Run `mailstack account add` or `mailstack account passwd`."""
        self.mailstack(
            "account", command, address, *self.directory_options, "--password-stdin", octets=f"{password}\n".encode()
        )

    @property
    def directory_options(self) -> Sequence[str | os.PathLike[str]]:
        """What tells the operator's command which installation is meant."""
        return ("--config", self.config)

    def maildir(self, address: str) -> Path:
        """Return the folder of an account's mail."""
        local_part, _, domain = address.partition("@")
        return self.folder / "mail" / domain / local_part

    def files(self, address: str) -> list[Path]:
        """Return the messages of an account, in the order of their names."""
        maildir = self.maildir(address)
        return sorted([*maildir.glob("new/*"), *maildir.glob("cur/*")], key=lambda file: file.name)

    def workers(self) -> dict[int, int]:
        """Return the processes of the workers that serve, by number, as the log says."""
        return {int(number): int(pid) for number, pid in re.findall(r"worker (\d+) serves, process (\d+)", self.log())}

    def wait_for_another(self, worker: int, pid: int) -> int:
        """Wait until that worker is another process, and return it."""
        wait_for(lambda: self.workers()[worker] != pid, f"worker {worker} is replaced")
        return self.workers()[worker]

    def wait_for_files(self, address: str, count: int, *, timeout_seconds: float = 30) -> list[Path]:
        """Wait until an account has so many messages."""
        wait_for(
            lambda: len(self.files(address)) >= count,
            f"{count} messages of {address} (has {len(self.files(address))})",
            timeout_seconds=timeout_seconds,
        )
        return self.files(address)

    def wait_for_line(self, text: str, *, timeout_seconds: float = 30) -> str:
        """Wait until the log says it, and return the log."""
        wait_for(lambda: text in self.log(), f"{text!r} in the log", timeout_seconds=timeout_seconds)
        return self.log()

    # talking to it

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts this installation and nobody else."""
        return ssl.create_default_context(cafile=self.ca)

    def smtp(self) -> smtplib.SMTP:
        """Connect as another server does, in clear."""
        return smtplib.SMTP("127.0.0.1", self.ports.smtp, local_hostname="client.test", timeout=60)

    def submission(self, person: Person) -> smtplib.SMTP:
        """Connect as a user's program does: STARTTLS, AUTH."""
        client = smtplib.SMTP("localhost", self.ports.submission, local_hostname="client.test", timeout=60)
        client.starttls(context=self.tls())
        client.login(person.address, person.password)
        return client

    def pop3s(self, person: Person) -> poplib.POP3_SSL:
        """Open the maildrop over TLS."""
        client = poplib.POP3_SSL("localhost", self.ports.pop3s, context=self.tls(), timeout=60)
        client.user(person.address)
        client.pass_(person.password)
        return client

    def deliver(self, content: bytes, *recipients: str, sender: str = "sender@elsewhere.test") -> None:
        """Hand in a message as another server does."""
        with self.smtp() as client:
            refused = client.sendmail(sender, recipients, content, mail_options=["BODY=8BITMIME"])
        assert not refused

    def retrieved(self, person: Person) -> list[bytes]:
        """Return the messages as POP3 gives them, and leave them there."""
        client = self.pop3s(person)
        try:
            count, _ = client.stat()
            return [retrieve(client, number) for number in range(1, count + 1)]
        finally:
            client.quit()


def with_lines(table: str, lines: str) -> Callable[[str], str]:
    """Return the change that puts lines into a table of the configuration; "" is the top of the file."""

    def change(text: str) -> str:
        head = f"\n[{table}]\n" if table else ""
        assert not table or text.count(head) == 1, f"no [{table}] in the configuration"
        return text.replace(head, f"{head}{lines}\n", 1) if table else f"{lines}\n{text}"

    return change


def retrieve(client: poplib.POP3, number: int) -> bytes:
    """Return a message octet for octet."""
    return b"".join(line + b"\r\n" for line in client.retr(number)[1])


def free_base_port() -> int:
    """Choose a base for `mailstack init --base-port` from which the ports of all five services are free."""
    return free_base((25, 110, 465, 587, 995))


def _ports(config: Path) -> Ports:
    listen = tomllib.loads(config.read_text())["listen"]

    def port(service: str) -> int:
        return int(listen[service][0].rpartition(":")[2])

    return Ports(*(port(service) for service in ("smtp", "submission", "submissions", "pop3", "pop3s")))
