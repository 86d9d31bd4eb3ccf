"""A real OpenSMTPD in a cage: the MX of a domain, and a server that sends through us."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from harness.cage import Cage
from harness.certificates import make_certificate
from harness.programs import free_port

_USERS = {"opensmtpd": 991, "opensmtpq": 992}
_CONFIGURATION = """
pki ours cert "/etc/tls/cert.pem"
pki ours key "/etc/tls/key.pem"
smtp max-message-size "100M"
table users {{ "user@{domain}" = "nobody", "eva@{domain}" = "nobody" }}
listen on 127.0.0.1 port {port} hostname {hostname} {tls}
action "inbox" maildir "/mail/inbox" virtual <users>
match from any for domain "{domain}" action "inbox"
"""
_ROUTE = """
action "to-{domain}" relay host "{scheme}://127.0.0.1:{port}" helo {hostname}
match from any for domain "{domain}" action "to-{domain}"
"""


class OpenSMTPD(Cage):
    """
    OpenSMTPD on 127.0.0.1 alone, which asks no DNS.

    Shape:  as harness.exim.Exim.
    """

    hostname = "mx.remote.test"

    def __init__(
        self, folder: Path, *, domain: str = "remote.test", routes: Mapping[str, int] | None = None, tls: bool = True
    ) -> None:
        super().__init__(folder, "opensmtpd", free_port(), _USERS)
        self.own("var/spool/smtpd", 0, 0o711)
        self.own("var/lib/opensmtpd/empty", 0)
        self.give(make_certificate(folder / "tls", self.hostname), 0)
        text = _CONFIGURATION.format(domain=domain, port=self.port, hostname=self.hostname, tls="tls pki ours" if tls else "")
        for name, port in (routes or {}).items():
            scheme = "smtp" if tls else "smtp+notls"
            text += _ROUTE.format(domain=name, port=port, scheme=scheme, hostname=self.hostname)
        self.write("etc/smtpd.conf", text, 0o600)
        self.write("etc/mailname", f"{self.hostname}\n")

    def __enter__(self) -> Self:
        return self.start("/usr/sbin/smtpd", "-d", "-f", "/etc/smtpd.conf")

    def log(self) -> str:
        """Return the log so far."""
        return self.log_file.read_text(errors="replace")
