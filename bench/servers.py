"""
The servers: ours and its peers, each in a folder, with accounts user0, user1 … at example.test, ready to be measured.

What is set, and why, so that each is at its best:

  ours      `workers` as asked for; limits on connections lifted; passwords taken in clear for POP3 without TLS; 20 connections
            to the smarthost, as many as Postfix opens to one destination
  Postfix   its own defaults but for: no DNS, no lookup of clients' names, no TLS where none is measured, no pause when mail
            comes faster than it goes (in_flow_delay), postlogd as there is no syslog
  Dovecot   login processes that serve many clients (its high-performance mode) and are there from the start, POP3 processes
            that are used again, plain passwords with a cache, no flags written, no statistics, folders read only when they
            changed
  aiosmtpd  as `python -m aiosmtpd -c aiosmtpd.handlers.Mailbox` runs it
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from harness.certificates import make_certificate
from harness.dovecot import Dovecot
from harness.house import House, with_lines
from harness.postfix import Postfix
from harness.programs import accepts, free_port, wait_for

from bench import processes

DOMAIN: Final = "example.test"
PASSWORD: Final = "secret"
_DELAY = re.compile(r"reactor delay p50=([0-9.]+) p99=([0-9.]+) most=([0-9.]+) ms")


class Server(Protocol):
    """What a workload may ask of a server."""

    name: str
    smtp_port: int
    submission_port: int
    pop3_port: int
    pop3s_port: int

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None: ...

    @property
    def pids(self) -> list[int]:
        """All its processes."""

    def maildir(self, account: int) -> Path:
        """Where the mail of an account is."""

    def waiting(self) -> int:
        """Return how many messages wait in its queue."""

    def log(self) -> str:
        """Return its log."""


class _Base:
    name = ""
    smtp_port = submission_port = pop3_port = pop3s_port = 0

    def waiting(self) -> int:
        return 0

    def log(self) -> str:
        return ""


class Ours(_Base):
    """Our server, made by `mailstack init` and run by `twistd`."""

    name = "mailstack"

    def __init__(
        self,
        folder: Path,
        *,
        accounts: int,
        workers: int,
        lines: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        from argon2 import PasswordHasher

        from mailstack.directory import editing
        from mailstack.settings import Settings

        folder.mkdir(parents=True)
        wanted = {
            "limits": "connections = 20000\nconnections_per_peer = 20000",
            "pop3": "require_tls = false",
            **(lines or {}),
        }
        if "workers" in Settings.model_fields:
            wanted[""] = f"workers = {workers}"

        def change(text: str) -> str:
            for table, more in wanted.items():
                text = with_lines(table, more)(text)
            return text

        self.house = House(folder / "var", domain=DOMAIN, change=change).prepare()
        self.workers = workers if "workers" in Settings.model_fields else 1
        directory = self.house.folder / "directory.db"
        hashed = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(PASSWORD)
        for number in range(accounts):
            editing.add_account(directory, f"user{number}@{DOMAIN}", hashed, time.time())
        for name, target in (aliases or {}).items():
            editing.add_alias(directory, name, [target])

    def __enter__(self) -> Self:
        self.house.start()
        ports = self.house.ports
        self.smtp_port, self.submission_port = ports.smtp, ports.submission
        self.pop3_port, self.pop3s_port = ports.pop3, ports.pop3s
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None and self.house.is_running:
                self.house.stop()
        finally:
            self.house.kill()

    @property
    def pids(self) -> list[int]:
        """The process and its workers."""
        assert self.house.process is not None
        return processes.tree(self.house.process.pid)

    def maildir(self, account: int) -> Path:
        """Where the mail of an account is."""
        return self.house.maildir(f"user{account}@{DOMAIN}")

    def waiting(self) -> int:
        """Return how many entries are in the spool."""
        import sqlite3

        count = 0
        for file in self.house.folder.glob("spool/**/spool.db"):
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)
            try:
                count += connection.execute("SELECT count(*) FROM entry").fetchone()[0]
            finally:
                connection.close()
        return count

    def log(self) -> str:
        """Return the log."""
        return self.house.log()

    def delays_ms(self) -> tuple[float, float] | None:
        """Return how long the reactor stalled, the worst of its processes: p99 and the longest; None if it does not say."""
        found = [(float(p99), float(most)) for _, p99, most in _DELAY.findall(self.log())]
        return (max(p99 for p99, _ in found), max(most for _, most in found)) if found else None


class PostfixServer(_Base):
    """Postfix, which delivers by virtual(8)."""

    name = "Postfix"

    def __init__(self, folder: Path, *, accounts: int, settings: Mapping[str, str] | None = None) -> None:
        boxes = ", ".join(f"user{number}@{DOMAIN}=user{number}/" for number in range(accounts))
        self.peer = Postfix(
            folder,
            hostname="mail.example.test",
            domain=DOMAIN,
            settings={
                "virtual_mailbox_maps": f"inline:{{{boxes}}}",
                "smtpd_peername_lookup": "no",
                "smtpd_tls_security_level": "none",
                "smtp_tls_security_level": "none",
                "in_flow_delay": "0s",
                "minimal_backoff_time": "300s",
                "queue_run_delay": "300s",
                **(settings or {}),
            },
        )
        self.smtp_port = self.submission_port = self.peer.port

    def __enter__(self) -> Self:
        self.peer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.peer.__exit__(kind, error, where)

    @property
    def pids(self) -> list[int]:
        """The master and what it has started."""
        return processes.tree(int((self.peer.folder / "queue" / "pid" / "master.pid").read_text()))

    def maildir(self, account: int) -> Path:
        """Where the mail of an account is."""
        return self.peer.folder / "mail" / f"user{account}"

    def waiting(self) -> int:
        """Return how many messages are in the queue."""
        queue = self.peer.folder / "queue"
        return sum(
            sum(not entry.is_dir() for entry in os.scandir(queue / part)) for part in ("maildrop", "incoming", "active")
        ) + sum(1 for file in (queue / "deferred").rglob("*") if file.is_file())

    def log(self) -> str:
        """Return the log."""
        return self.peer.log()


_DOVECOT = """
protocols = pop3
mail_max_userip_connections = 1000
auth_cache_size = 10M
auth_cache_verify_password_with_worker = no
pop3_no_flag_updates = yes
pop3_lock_session = no
maildir_very_dirty_syncs = yes
mail_fsync = never
stats_writer_socket_path =
service pop3-login {{
  service_count = 0
  process_min_avail = {cores}
  process_limit = {cores}
  client_limit = 5000
}}
service pop3 {{
  service_count = 1000
  process_limit = 1000
  process_min_avail = 10
}}
service auth {{
  client_limit = 20000
  unix_listener {auth_socket} {{
    mode = 0666
  }}
}}
service anvil {{
  client_limit = 20000
}}
"""


class DovecotServer(_Base):
    """Dovecot's POP3."""

    name = "Dovecot"

    def __init__(self, folder: Path, *, accounts: int, mail: Path) -> None:
        folder.mkdir(parents=True)
        self.mail = mail
        self.auth_socket = folder / "passwords"
        certificate = make_certificate(folder / "tls", "mail.example.test")
        maildirs = {f"user{number}@{DOMAIN}": mail / f"user{number}" for number in range(accounts)}
        for maildir in maildirs.values():
            maildir.mkdir(parents=True, exist_ok=True)
        self.peer = Dovecot(
            folder / "d",  # its sockets lie deep below, and the name of a socket has 107 octets at most
            maildirs,
            certificate=certificate,
            settings=_DOVECOT.format(cores=os.cpu_count() or 1, auth_socket=self.auth_socket),
        )
        self.pop3_port, self.pop3s_port = self.peer.pop3_port, self.peer.pop3s_port

    def __enter__(self) -> Self:
        self.peer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.peer.__exit__(kind, error, where)

    @property
    def pids(self) -> list[int]:
        """The master and what it has started."""
        return processes.tree(self.peer.pid)

    def maildir(self, account: int) -> Path:
        """Where the mail of an account is."""
        return self.mail / f"user{account}"

    def log(self) -> str:
        """Return the log."""
        return self.peer.log()


class AiosmtpdServer(_Base):
    """Aiosmtpd with its Mailbox handler, which puts everything into one maildir."""

    name = "aiosmtpd"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.smtp_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        words: Sequence[str] = [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{self.smtp_port}"]
        with (self._folder / "aiosmtpd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*words, "-c", "aiosmtpd.handlers.Mailbox", str(self._folder / "mail")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_for(lambda: accepts(self.smtp_port), "aiosmtpd accepts")
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()  # at SIGTERM it does not close its connections
        self._process.wait(10)

    @property
    def pids(self) -> list[int]:
        """Its one process."""
        assert self._process is not None
        return [self._process.pid]

    def maildir(self, account: int) -> Path:
        """Where the mail of everybody is."""
        return self._folder / "mail"

    def log(self) -> str:
        """Return what it said."""
        return (self._folder / "aiosmtpd.log").read_text(errors="replace")
