"""A real Exim in a cage: the MX of a domain, and a server that sends through us."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from harness.cage import Cage
from harness.certificates import make_certificate
from harness.programs import free_port

_USER = 993  # Debian-exim
_CONFIGURATION = """
primary_hostname = {hostname}
qualify_domain = {domain}
domainlist ours = {domain}
domainlist elsewhere = {elsewhere}
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
host_lookup =
rfc1413_hosts =
keep_environment =
message_size_limit = 100M
chunking_advertise_hosts = {chunking}
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
acl_not_smtp = accept
tls_advertise_hosts = {tls}
tls_certificate = /etc/tls/cert.pem
tls_privatekey = /etc/tls/key.pem
log_file_path = /var/log/exim4/%slog
log_selector = +tls_cipher +tls_peerdn

begin acl
rcpt:
  accept domains = +ours
         local_parts = user : eva
  accept domains = +elsewhere
  deny message = There is nobody of that name

begin routers
on:
  driver = manualroute
  domains = +elsewhere
  route_data = ${{extract{{$domain}}{{{routes}}}}}
  transport = out
  self = send
inbox:
  driver = accept
  domains = +ours
  transport = maildir

begin transports
out:
  driver = smtp
  allow_localhost
  hosts_try_chunking = {chunking}
  hosts_avoid_tls = {no_tls}
maildir:
  driver = appendfile
  directory = /mail/inbox
  maildir_format
  user = nobody
  group = nogroup

begin retry
* * F,1h,5s
"""


class Exim(Cage):
    """
    Exim on 127.0.0.1 alone, which asks no DNS.

    Shape:  mail for user and eva of `domain` goes to one maildir (`stored()`), mail for a domain in `routes` to that port of
            127.0.0.1, and other mail is refused. Without `tls` it neither offers TLS nor asks for it; likewise `chunking`.
    """

    hostname = "mx.remote.test"

    def __init__(
        self,
        folder: Path,
        *,
        domain: str = "remote.test",
        routes: Mapping[str, int] | None = None,
        tls: bool = True,
        chunking: bool = True,
    ) -> None:
        super().__init__(folder, "exim", free_port(), {"Debian-exim": _USER})
        for name in ("var/spool/exim4", "var/log/exim4"):
            self.own(name, _USER)
        self.give(make_certificate(folder / "tls", self.hostname), _USER)
        routes = routes or {}
        text = _CONFIGURATION.format(
            hostname=self.hostname,
            domain=domain,
            port=self.port,
            elsewhere=" : ".join(routes),
            routes=" ".join(f"{each}=127.0.0.1::{port}" for each, port in routes.items()),
            tls="*" if tls else "",
            no_tls="" if tls else "*",
            chunking="*" if chunking else "",
        )
        self.write("etc/exim4/exim4.conf", text)

    def __enter__(self) -> Self:
        return self.start("/usr/sbin/exim4", "-bdf", "-q5s")

    def log(self) -> str:
        """Return the log so far."""
        path = self.root / "var/log/exim4/mainlog"
        return path.read_text(errors="replace") if path.exists() else ""
