"""
Cages: programs whose Debian packages exclude each other, each with a root folder of its own.

Their packages are unpacked and not installed (`.ci/unpack`). A cage has the libraries of this machine, the program at the path
that it was compiled for, and the users that it expects; nothing of it is seen outside, and the network is that of this machine.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.certificates import Certificate
from harness.programs import UNPACKED, accepts, run, wait_for

_SHARED = ("lib", "lib64", "bin")
_SCRIPT = """set -e
for each in lib lib64 bin; do mount --bind /usr/$each "$0/usr/$each"; done
mount --bind /dev "$0/dev"
mount -t proc proc "$0/proc"
exec chroot "$0" "$@"
"""


class Cage:
    """
    A root folder with an unpacked package in it, and a daemon that runs there.

    Shape:  `users` are the users that the program expects, with their numbers. The daemon is there within the context; it
            listens on `port` and mail that it delivers goes to the maildir `/mail/inbox`, owned by nobody.
    """

    def __init__(self, folder: Path, package: str, port: int, users: Mapping[str, int]) -> None:
        self.root = folder / "root"
        self.port = port
        self.log_file = folder / "daemon.log"
        self._daemon: subprocess.Popen[bytes] | None = None
        for name in ("dev", "etc", "proc", "run", "tmp", "mail", "var/lib", "var/log", "var/spool", "usr/sbin", "usr/libexec"):
            (self.root / name).mkdir(parents=True)
        for name in _SHARED:
            (self.root / "usr" / name).mkdir()
            (self.root / name).symlink_to(f"usr/{name}")
        (self.root / "tmp").chmod(0o1777)
        (self.root / "var/run").symlink_to("../run")
        self.own("mail", 65_534)
        for name in ("usr/sbin", "usr/libexec"):
            if (UNPACKED / package / name).is_dir():
                run(["cp", "-a", f"{UNPACKED / package / name}/.", self.root / name])
        self._write_users({"root": 0, "nobody": 65_534, **users})

    def _write_users(self, users: Mapping[str, int]) -> None:
        passwd = (f"{name}:x:{number}:{number}::/var/lib:/bin/sh\n" for name, number in users.items())
        self.write("etc/passwd", "".join(passwd))
        groups = {"nogroup" if name == "nobody" else name: number for name, number in users.items()}
        self.write("etc/group", "".join(f"{name}:x:{number}:\n" for name, number in groups.items()) + "mail:x:8:\n")
        self.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
        self.write("etc/hosts", "127.0.0.1 localhost\n")
        self.write("etc/services", "smtp 25/tcp\n")
        self.write("etc/resolv.conf", "nameserver 127.0.0.1\n")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the cage."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode)
        path.write_text(text)

    def own(self, name: str, user: int, mode: int = 0o755) -> None:
        """Make a folder of the cage for a user."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        shutil.chown(path, user, user)

    def give(self, certificate: Certificate, user: int) -> None:
        """Put a certificate and its key into /etc/tls, for a user."""
        self.own("etc/tls", user, 0o700)
        for source, name in ((certificate.chain, "cert.pem"), (certificate.key, "key.pem")):
            shutil.copy(source, self.root / "etc/tls" / name)
            (self.root / "etc/tls" / name).chmod(0o600)
            shutil.chown(self.root / "etc/tls" / name, user, user)

    def command(self, *words: str) -> list[str]:
        """Return what runs a program in the cage."""
        return ["unshare", "--mount", "sh", "-c", _SCRIPT, str(self.root), *words]

    def start(self, *words: str) -> Self:
        """Start the daemon, and wait until it accepts."""
        with self.log_file.open("ab") as log:
            self._daemon = subprocess.Popen(self.command(*words), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            wait_for(lambda: accepts(self.port), f"{words[0]} accepts on {self.port}")
        except BaseException as error:
            self.stop()
            raise AssertionError(self.log_file.read_text(errors="replace")) from error
        return self

    def stop(self) -> None:
        """End the daemon."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.stop()

    def run(self, *words: str, expect: int | None = 0) -> str:
        """Run a program in the cage to its end, and return what it says."""
        done = run(self.command(*words), expect=expect)
        return (done.stdout + done.stderr).decode(errors="replace")

    def stored(self) -> list[bytes]:
        """Return the messages that were delivered, oldest first, with CRLF line ends."""
        files = sorted((self.root / "mail/inbox/new").glob("*"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in files]

    def wait_for_stored(self, count: int, *, timeout_seconds: float = 60) -> list[bytes]:
        """Wait until so many messages are delivered."""
        wait_for(lambda: len(self.stored()) >= count, f"{count} messages in {self.root}", timeout_seconds=timeout_seconds)
        return self.stored()
