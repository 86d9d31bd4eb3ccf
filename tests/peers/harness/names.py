"""A DNS server of our own on loopback, so that our relay finds the hosts of a test's domains."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.house import with_lines
from harness.programs import free_port, wait_for


class NameServer:
    """
    Serves an MX host for each domain, all of them at 127.0.0.1.

    Shape:  `exchangers` maps a domain to the name of its MX host.
    """

    def __init__(self, folder: Path, exchangers: Mapping[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.zone = folder / "zone"
        self._log = folder / "dns.log"
        lines = [f"{domain} MX 10 {host}.\n" for domain, host in exchangers.items()]
        lines += [f"{host} A 127.0.0.1\n" for host in sorted(set(exchangers.values()))]
        self.zone.write_text("".join(lines))

    def used_by_relay(self, smtp_port: int) -> Callable[[str], str]:
        """Return the change to mailstack.toml that makes the relay ask here, and go to that port of the hosts."""
        return with_lines("relay", f'nameservers = ["127.0.0.1:{self.port}"]\nport = {smtp_port}\nallow_private = true')

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mailstack.testing.dns", str(self.zone), str(self.port)], stdout=log, stderr=log
            )
        try:
            wait_for(self._answers, f"the DNS server answers on {self.port}")
        except AssertionError:
            self._process.kill()
            raise AssertionError(self._log.read_text(errors="replace")) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\x04test\x00" + struct.pack(">HH", 2, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect(("127.0.0.1", self.port))
            try:
                client.send(question)
                return client.recv(512)[:2] == b"\0\x07"
            except OSError:
                return False
