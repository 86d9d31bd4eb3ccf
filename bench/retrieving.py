"""Retrieving by POP3: sessions as mail programs have them, on maildrops that stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contents import fill
from bench.programs import LoadError
from bench.rounds import Measured, Site, Workload, timed
from bench.servers import DOMAIN, PASSWORD, DovecotServer, Ours, Server


@dataclass(frozen=True)
class Maildrops:
    """
    What is in the maildrops, and how they are fetched.

    Shape:  `sessions` so many at a time, each with an account of its own, `times` one after the other in each; `options` are
            those of pop3_load; `per_session` is how many units of the workload are in one session.
    """

    sessions: int
    messages: int
    octets: int
    times: int
    options: tuple[str, ...] = ()
    tls: bool = False
    per_session: float = 1

    def prepare(self, site: Site, server: Server) -> None:
        """Write the messages."""
        for account in range(self.sessions):
            fill(server.maildir(account), self.shrunk(site), self.octets)

    def shrunk(self, site: Site) -> int:
        """Return how many messages a maildrop has."""
        return min(self.messages, site.size(self.messages, 2000 if self.messages > 2000 else 20))

    def run(self, site: Site, server: Server) -> Measured:
        """Do one round."""
        in_all = self.sessions * site.size(self.times, 1)
        words = ["-s", self.sessions, "-m", in_all, "-n", self.sessions, "-u", f"user%ld@{DOMAIN}", "-w", PASSWORD]
        port = server.pop3s_port if self.tls else server.pop3_port
        told = {}

        def work() -> None:
            tls = ["-T"] if self.tls else []
            told.update(site.programs.load("pop3_load", *words, *self.options, *tls, f"127.0.0.1:{port}"))

        measured = timed(server, in_all, work)
        shrunk = self.shrunk(site)
        if "all" in self.options and told["octets"] != in_all * shrunk * self.octets:
            raise LoadError(f"{server.name} gave {told['octets']} octets instead of {in_all * shrunk * self.octets}")
        scale = shrunk / self.messages if self.per_session != 1 else 1
        amount = in_all * self.per_session * scale
        return Measured(amount, told["seconds"], measured.cpu_seconds, told, measured.others_cores)


def _ours(accounts: int) -> Callable[[Site, Path], Ours]:
    return lambda site, folder: Ours(folder, accounts=accounts, workers=site.workers)


def _dovecot(accounts: int) -> Callable[[Site, Path], Server]:
    return lambda site, folder: DovecotServer(folder, accounts=accounts, mail=folder / "mail")


def _retrieved(name: str, about: str, unit: str, drops: Maildrops) -> Workload:
    make_ours, make_dovecot = _ours(drops.sessions), _dovecot(drops.sessions)
    return Workload(name, "Dovecot", about, unit, make_ours, make_dovecot, drops.run, drops.prepare)


ALL: Final = ("-r", "all")

WORKLOADS: Final = (
    _retrieved(
        "pop3-retr",
        "10 sessions: USER PASS STAT UIDL LIST, RETR of 200 x 4 KB, QUIT",
        "RETR/s",
        Maildrops(10, 200, 4096, 20, ALL, per_session=200),
    ),
    _retrieved("pop3-login", "the same without RETR", "sessions/s", Maildrops(10, 200, 4096, 200)),
    _retrieved("pop3-5m", "4 sessions: RETR of 4 x 5 MB", "MB/s", Maildrops(4, 4, 5_000_000, 20, ALL, per_session=20)),
    _retrieved(
        "pop3-100k", "100,000 messages, warm: login, UIDL, LIST, one session", "sessions/s", Maildrops(1, 100_000, 600, 5)
    ),
    _retrieved("pop3s", "10 sessions: TLS, login, RETR of 20 x 4 KB", "sessions/s", Maildrops(10, 20, 4096, 60, ALL, tls=True)),
    _retrieved("pop3s-login", "10 sessions: TLS, login, QUIT", "sessions/s", Maildrops(10, 20, 4096, 120, ("-l",), tls=True)),
)
