"""A real Dovecot in a folder of its own: POP3 and IMAP over maildirs that are given to it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.certificates import Certificate
from harness.programs import accepts, find_program, free_port, run, wait_for

_CONFIGURATION = """
instance_name = {name}
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
listen = 127.0.0.1
protocols = pop3 imap
ssl = {ssl}
disable_plaintext_auth = no
auth_username_chars =
first_valid_uid = 1
mail_location = maildir:~:INDEX={folder}/index/%u
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/passwd
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/passwd
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = {pop3s_port}
    ssl = yes
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
{settings}
"""


class Dovecot:
    """
    Dovecot with its own configuration, run folder and log, on 127.0.0.1.

    Shape:  `maildirs` are the maildirs of users by name; everybody's password is "secret". Dovecot works as the user nobody,
            so `adopt()` gives it what stands in them. With a certificate it also listens for POP3S. `settings` are further
            lines of dovecot.conf.
    """

    password = "secret"

    def __init__(
        self, folder: Path, maildirs: Mapping[str, Path], *, certificate: Certificate | None = None, settings: str = ""
    ) -> None:
        self.folder = folder
        self.maildirs = maildirs
        self._has_imap = "\nprotocols = pop3\n" not in settings
        self.pop3_port = free_port()
        self.imap_port = free_port()
        self.pop3s_port = free_port() if certificate else 0
        (folder / "index").mkdir(mode=0o777, parents=True)
        (folder / "index").chmod(0o777)
        lines = [f"{user}:{self.password}:65534:65534::{maildir}::\n" for user, maildir in maildirs.items()]
        (folder / "passwd").write_text("".join(lines))
        tls = f"yes\nssl_cert = <{certificate.chain}\nssl_key = <{certificate.key}" if certificate else "no"
        (folder / "dovecot.conf").write_text(
            _CONFIGURATION.format(
                name=folder.parent.name,
                folder=folder,
                ssl=tls,
                pop3_port=self.pop3_port,
                pop3s_port=self.pop3s_port,
                imap_port=self.imap_port,
                settings=settings,
            )
        )

    def adopt(self) -> None:
        """Make everything in the maildirs Dovecot's own, and the way to them passable."""
        for maildir in self.maildirs.values():
            run(["chown", "-R", "nobody:nogroup", maildir])
            for parent in maildir.parents:
                if parent.stat().st_uid == 0 and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)

    def __enter__(self) -> Self:
        self.adopt()
        command = [find_program("dovecot") or "dovecot", "-F", "-c", str(self.folder / "dovecot.conf")]
        with (self.folder / "dovecot.out").open("wb") as out:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_for(self._is_up, "Dovecot accepts")
        except BaseException as error:
            self._process.kill()
            if not isinstance(error, AssertionError):
                raise
            told = (self.folder / "dovecot.out").read_text(errors="replace")
            raise AssertionError(f"{error}; it ended with {self._process.wait(10)}:\n{told}\n{self.log()}") from None
        return self

    def _is_up(self) -> bool:
        assert self._process.poll() is None, "Dovecot ended by itself"
        return accepts(self.pop3_port) and (not self._has_imap or accepts(self.imap_port))

    @property
    def pid(self) -> int:
        """The process that has started all others."""
        return self._process.pid

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(30)

    def log(self) -> str:
        """Return the log so far."""
        file = self.folder / "dovecot.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def complaints(self) -> list[str]:
        """Return the lines of the log that are warnings or worse."""
        return [line for line in self.log().splitlines() if any(w in line for w in ("Error:", "Warning:", "Fatal:", "Panic:"))]
