"""Receiving and relaying: the time ends when the last message is in its maildir, or the queue is empty again."""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from struct import unpack_from
from types import TracebackType
from typing import Any, Final, Self

from harness.programs import accepts, free_port, wait_for

from bench.contents import check_smtp_load, check_smtp_source, empty, files_in
from bench.durability import before_the_250
from bench.programs import LoadError
from bench.rounds import Measured, Site, Workload, timed
from bench.servers import DOMAIN, PASSWORD, AiosmtpdServer, DovecotServer, Ours, PostfixServer, Server

SESSIONS: Final = 20
OCTETS: Final = 4096
TO: Final = f"user%ld@{DOMAIN}"
DEADLINE_SECONDS: Final = 300


def wait_until(is_done: Callable[[], bool], what: str, *, seconds: float = DEADLINE_SECONDS) -> None:
    """Look again and again, but spend little time on it: the server has the same processors."""
    deadline = time.monotonic() + seconds
    while True:
        start = time.monotonic()
        if is_done():
            return
        if start > deadline:
            raise LoadError(f"not within {seconds:.0f} s: {what}")
        time.sleep(max(0.005, 5 * (time.monotonic() - start)))


def _stored(maildirs: list[Path]) -> int:
    return sum(len(os.listdir(maildir / "new")) for maildir in maildirs if (maildir / "new").is_dir())  # noqa: PTH208 - fast


def _receive(
    server: Server,
    maildirs: list[Path],
    messages: int,
    copies: int,
    send: Callable[[], dict[str, Any]],
    check: Callable[[list[Path]], None],
) -> Measured:
    for maildir in maildirs:
        empty(maildir)

    def work() -> dict[str, Any]:
        told = send()
        wait_until(lambda: _stored(maildirs) >= copies, f"{copies} messages of {server.name} in their maildirs")
        return told

    measured = timed(server, messages, work)
    check([file for maildir in maildirs for file in files_in(maildir)])
    return measured


def small(*, kept: bool) -> Callable[[Site, Server], Measured]:
    """Make rounds of small messages by smtp-source, to one account."""

    def run(site: Site, server: Server) -> Measured:
        messages = site.size(2000, 100)
        words = ["-s", SESSIONS, "-m", messages, "-l", OCTETS, "-f", "sender@elsewhere.test", "-t", f"user0@{DOMAIN}"]

        def send() -> dict[str, Any]:
            return site.programs.smtp_source(*words, *(["-d"] if kept else []), f"127.0.0.1:{server.smtp_port}")

        return _receive(
            server, [server.maildir(0)], messages, messages, send, lambda files: check_smtp_source(files, OCTETS, messages)
        )

    return run


def loaded(
    full: int,
    quick: int,
    sessions: int,
    octets: int,
    *more: str,
    accounts: int = 1,
    recipients: int = 1,
    submission: bool = False,
) -> Callable[[Site, Server], Measured]:
    """Make rounds by smtp_load; the amount is messages."""

    def run(site: Site, server: Server) -> Measured:
        messages = site.size(full, quick)
        sample = site.folder / "sample"
        port = server.submission_port if submission else server.smtp_port
        words = ["-s", sessions, "-m", messages, "-l", octets, "-n", accounts, "-r", recipients, "-t", TO, "-p", sample, *more]
        counts = Counter(dict.fromkeys(range(messages), recipients))

        def send() -> dict[str, Any]:
            return site.programs.load("smtp_load", *words, f"127.0.0.1:{port}")

        return _receive(
            server,
            [server.maildir(account) for account in range(accounts)],
            messages,
            messages * recipients,
            send,
            lambda files: check_smtp_load(files, sample.read_bytes(), counts),
        )

    return run


class Sink:
    """Takes what is relayed, counts it, and throws it away."""

    def __init__(self, site: Site, folder: Path, messages: int) -> None:
        self.port = free_port()
        self._file = folder
        self._numbers = messages
        words = [site.programs.path("smtp_sink"), "-c", str(folder), "-m", str(messages), f"127.0.0.1:{self.port}"]
        self._words = [str(word) for word in words]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_for(lambda: accepts(self.port), "the sink accepts")
        except BaseException:
            self._process.kill()
            raise
        with self._file.open("rb") as file:
            self._counts = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait(10)

    @property
    def messages(self) -> int:
        """How many have come."""
        return int(unpack_from("=Q", self._counts, 0)[0])

    @property
    def most_connections(self) -> int:
        """How many there were at a time, at most."""
        return int(unpack_from("=Q", self._counts, 24)[0])

    def each(self) -> tuple[int, ...]:
        """How often each number has come."""
        return unpack_from(f"={self._numbers}Q", self._counts, 32)


class _Relays:
    """A server that sends what it gets for sink@DOMAIN to a sink of its own."""

    sink: Sink

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.sink)
            super().__enter__()  # type: ignore[misc]  # what it is mixed into has it
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        with self._stack:
            super().__exit__(kind, error, where)  # type: ignore[misc]  # as above


class _OursRelays(_Relays, Ours):
    def __init__(self, site: Site, folder: Path) -> None:
        self.sink = Sink(site, folder.with_name("sink-ours"), site.size(2000, 100))
        relay = f'smarthost = "127.0.0.1:{self.sink.port}"\nper_destination = 20'
        aliases = {f"sink@{DOMAIN}": "sink@remote.test"}
        super().__init__(folder, accounts=1, workers=site.workers, lines={"relay": relay}, aliases=aliases)


class _PostfixRelays(_Relays, PostfixServer):
    def __init__(self, site: Site, folder: Path) -> None:
        self.sink = Sink(site, folder.with_name("sink-peer"), site.size(2000, 100))
        settings = {
            "relayhost": f"[127.0.0.1]:{self.sink.port}",
            "virtual_alias_maps": f"inline:{{sink@{DOMAIN}=sink@remote.test}}",
        }
        super().__init__(folder, accounts=1, settings=settings)


def _relay(site: Site, server: Server) -> Measured:
    assert isinstance(server, _Relays)
    sink = server.sink
    messages = site.size(2000, 100)
    already, before = sink.messages, sink.each()
    words = ["-d", "-s", SESSIONS, "-m", messages, "-l", OCTETS, "-t", f"sink@{DOMAIN}", f"127.0.0.1:{server.smtp_port}"]

    def work() -> dict[str, Any]:
        told = site.programs.load("smtp_load", *words)
        wait_until(lambda: sink.messages >= already + messages, f"{messages} messages of {server.name} at the sink")
        wait_until(lambda: server.waiting() == 0, f"the queue of {server.name} is empty")
        return told

    measured = timed(server, messages, work)
    wrong = [number for number, count in enumerate(sink.each()) if count - before[number] != (number < messages)]
    if wrong:
        raise LoadError(f"{server.name} has relayed these messages not at all or twice: {wrong[:10]}")
    measured.more["connections"] = sink.most_connections
    return measured


class _PostfixSubmission(PostfixServer):
    """Postfix as a submission server: TLS, and passwords that a Dovecot beside it checks."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._passwords = DovecotServer(folder.with_name("passwords"), accounts=1, mail=folder.with_name("no-mail"))
        super().__init__(
            folder,
            accounts=1,
            settings={
                "smtpd_tls_security_level": "encrypt",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_type": "dovecot",
                "smtpd_sasl_path": str(self._passwords.auth_socket),
                "smtpd_tls_auth_only": "yes",
                "smtpd_tls_session_cache_timeout": "0",
                "smtpd_tls_received_header": "no",
            },
        )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._passwords)
            super().__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        with self._stack:
            super().__exit__(kind, error, where)

    @property
    def pids(self) -> list[int]:
        """Those of both."""
        return [*super().pids, *self._passwords.pids]


_SUBMIT = ("-S", "-u", TO, "-w", PASSWORD, "-f", f"user0@{DOMAIN}")


def _ours(accounts: int) -> Callable[[Site, Path], Ours]:
    return lambda site, folder: Ours(folder, accounts=accounts, workers=site.workers)


def _postfix(accounts: int) -> Callable[[Site, Path], Server]:
    return lambda site, folder: PostfixServer(folder, accounts=accounts)


def _received(
    name: str, about: str, run: Callable[[Site, Server], Measured], *, accounts: int = 1, peer: str = "Postfix"
) -> Workload:
    theirs = _postfix(accounts) if peer == "Postfix" else lambda site, folder: AiosmtpdServer(folder)
    return Workload(name, peer, about, "msg/s", _ours(accounts), theirs, run, durability=before_the_250)


WORKLOADS: Final = (
    _received("receive-4k", "4 KB over 20 sessions, a connection per message, until in the Maildir", small(kept=False)),
    _received("receive-4k-kept", "the same, connections kept", small(kept=True)),
    _received("receive-4k-aiosmtpd", "4 KB over 20 sessions, a connection per message", small(kept=False), peer="aiosmtpd"),
    _received("receive-4k-kept-aiosmtpd", "the same, connections kept", small(kept=True), peer="aiosmtpd"),
    _received("receive-5m", "5 MB over 4 sessions, kept", loaded(60, 4, 4, 5_000_000, "-d")),
    _received(
        "receive-50",
        "one message of 4 KB to 50 recipients, 10 sessions, kept, pipelined",
        loaded(200, 8, 10, OCTETS, "-d", "-P", accounts=50, recipients=50),
        accounts=50,
    ),
    Workload(
        "relay-4k",
        "Postfix",
        "4 KB to a sink until the queue is empty, 20 sessions, kept",
        "msg/s",
        _OursRelays,
        _PostfixRelays,
        _relay,
        durability=lambda site, server: before_the_250(site, server, f"sink@{DOMAIN}"),
    ),
    Workload(
        "submission",
        "Postfix",
        "STARTTLS, AUTH PLAIN, a message of 4 KB, QUIT, 10 sessions; Postfix's passwords are checked by Dovecot",
        "sessions/s",
        _ours(1),
        _PostfixSubmission,
        loaded(300, 30, 10, OCTETS, *_SUBMIT, submission=True),
    ),
)
