"""A real Postfix in a folder of its own: the MX of a domain, or a server that sends through us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.certificates import make_certificate
from harness.programs import accepts, free_port, run, wait_for

_MASTER = """
127.0.0.1:{port} inet  n - n - -   smtpd
pickup    unix  n - n 60 1   pickup
cleanup   unix  n - n - 0    cleanup
qmgr      unix  n - n 1 1    qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - -    trivial-rewrite
bounce    unix  - - n - 0    bounce
defer     unix  - - n - 0    bounce
trace     unix  - - n - 0    bounce
verify    unix  - - n - 1    verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - -    proxymap
smtp      unix  - - n - -    smtp
relay     unix  - - n - -    smtp
showq     unix  n - n - -    showq
error     unix  - - n - -    error
retry     unix  - - n - -    error
discard   unix  - - n - -    discard
local     unix  - n n - -    local
virtual   unix  - n n - -    virtual
lmtp      unix  - - n - -    lmtp
anvil     unix  - - n - 1    anvil
scache    unix  - - n - 1    scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """
    Postfix with its own configuration, queue and log; it listens on 127.0.0.1 alone and asks no DNS.

    Shape:  mail for `domain` goes to one maildir (`.stored()`); mail for a domain in `routes` goes to that port of
            127.0.0.1; mail for other domains is refused. `settings` are further lines of main.cf.
    """

    def __init__(
        self,
        folder: Path,
        *,
        hostname: str = "mx.remote.test",
        domain: str = "remote.test",
        routes: Mapping[str, int] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.hostname = hostname
        self.domain = domain
        self.port = free_port()
        self.log_file = folder / "postfix.log"
        self.certificate = make_certificate(folder / "tls", hostname)
        self._write(routes or {}, settings or {})

    def _write(self, routes: Mapping[str, int], settings: Mapping[str, str]) -> None:
        etc, data, mail = self.folder / "etc", self.folder / "data", self.folder / "mail"
        for path in (etc, data, mail, self.folder / "queue"):
            path.mkdir(parents=True)
        run(["chown", "postfix", data])
        run(["chown", "nobody", mail])
        main = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.folder / "queue"),
            "data_directory": str(data),
            "maillog_file": str(self.log_file),
            "maillog_file_prefixes": str(self.folder),
            "myhostname": self.hostname,
            "mydestination": "",
            "inet_interfaces": "loopback-only",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "alias_database": "",
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "smtp_tls_security_level": "may",
            "smtp_tls_loglevel": "1",
            "virtual_mailbox_domains": self.domain,
            "virtual_mailbox_base": str(mail),
            "virtual_mailbox_maps": f"inline:{{user@{self.domain}=inbox/, eva@{self.domain}=inbox/}}",
            "virtual_minimum_uid": "1",
            "virtual_uid_maps": "static:65534",
            "virtual_gid_maps": "static:65534",
            "virtual_mailbox_limit": "0",
            "message_size_limit": "100000000",
            "smtpd_tls_cert_file": str(self.certificate.chain),
            "smtpd_tls_key_file": str(self.certificate.key),
            "smtpd_tls_security_level": "may",
            "smtpd_tls_received_header": "yes",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "minimal_backoff_time": "5s",
            "queue_run_delay": "5s",
            **settings,
        }
        if routes:
            pairs = ", ".join(f"{domain}=smtp:[127.0.0.1]:{port}" for domain, port in routes.items())
            main["transport_maps"] = f"inline:{{{pairs}}}"
            main["relay_domains"] = " ".join(routes)
        (etc / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        (etc / "master.cf").write_text(_MASTER.format(port=self.port))

    def __enter__(self) -> Self:
        run(["postfix", "-c", self.folder / "etc", "start"])
        try:
            wait_for(lambda: accepts(self.port), f"Postfix accepts on {self.port}\n{self.log()}")
        except BaseException:
            run(["postfix", "-c", self.folder / "etc", "stop"], expect=None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        run(["postfix", "-c", self.folder / "etc", "stop"], expect=None)

    def log(self) -> str:
        """Return the log so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def flush(self) -> None:
        """Try what waits in the queue now."""
        run(["postqueue", "-c", self.folder / "etc", "-f"], expect=None)

    def stored(self) -> list[bytes]:
        """Return the messages delivered to the domain, oldest first, with CRLF line ends."""
        files = sorted((self.folder / "mail" / "inbox" / "new").glob("*"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in files]

    def wait_for_stored(self, count: int, *, timeout_seconds: float = 60) -> list[bytes]:
        """Wait until so many messages are delivered."""
        wait_for(lambda: len(self.stored()) >= count, f"{count} messages at {self.domain}", timeout_seconds=timeout_seconds)
        return self.stored()

    def wait_for_line(self, pattern: str, *, timeout_seconds: float = 60) -> re.Match[str]:
        """Wait for a line of the log."""
        wait_for(lambda: re.search(pattern, self.log()), f"/{pattern}/ in {self.log_file}", timeout_seconds=timeout_seconds)
        found = re.search(pattern, self.log())
        assert found
        return found


def without_trace_of_postfix(stored: bytes) -> bytes:
    """Return a message that virtual(8) stored without the fields that it and Postfix's smtpd put in front."""
    fields = re.compile(rb"(?:Return-Path|X-Original-To|Delivered-To|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
    position = 0
    while found := fields.match(stored, position):
        position = found.end()
    return stored[position:]
