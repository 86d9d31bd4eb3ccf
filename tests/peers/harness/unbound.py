"""A real unbound on loopback, which validates: it serves zones from files, of which some are signed, and some wrongly."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.dnssec
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from harness.programs import find_program, free_port, wait_for

_CONFIGURATION = """
server:
  interface: 127.0.0.1
  port: {port}
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  module-config: "validator iterator"
  trust-anchor-file: "{folder}/anchors"
  do-not-query-localhost: no
  local-zone: "test." nodefault
  num-threads: 1
remote-control:
  control-enable: no
"""
_ZONE = """
auth-zone:
  name: "{name}"
  zonefile: "{folder}/{name}.zone"
  for-upstream: yes
  for-downstream: no
  fallback-enabled: no
"""
_HEAD = "@ 60 IN SOA ns hostmaster 1 3600 600 86400 60\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n"


@dataclass(frozen=True)
class Signed:
    """A zone that is signed; `spoiled` are (text, text) to be changed after it was."""

    text: str
    spoiled: tuple[tuple[str, str], ...] = ()


class Unbound:
    """
    Unbound with its own configuration.

    Shape:  `zones` maps the name of a zone to its text, plain or signed, whose names are relative to it.
    """

    def __init__(self, folder: Path, zones: Mapping[str, str | Signed]) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self._folder = folder
        self._name = next(iter(zones))
        anchors, configuration = "", _CONFIGURATION.format(port=self.port, folder=folder)
        for name, zone in zones.items():
            text, anchor = _sign(name, zone) if isinstance(zone, Signed) else (_HEAD + zone, "")
            anchors += anchor
            configuration += _ZONE.format(name=name, folder=folder)
            (folder / f"{name}.zone").write_text(f"$ORIGIN {name}.\n$TTL 60\n{text}")
        (folder / "anchors").write_text(anchors)
        (folder / "unbound.conf").write_text(configuration)

    def __enter__(self) -> Self:
        log = self._folder / "unbound.log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [find_program("unbound") or "unbound", "-d", "-c", self._folder / "unbound.conf"], stdout=file, stderr=file
            )
        try:
            wait_for(self._answers, "unbound answers")
        except AssertionError:
            self._process.kill()
            raise AssertionError(log.read_text(errors="replace")) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        assert self._process.poll() is None
        query = dns.message.make_query(self._name, dns.rdatatype.SOA)
        try:
            return bool(dns.query.udp(query, "127.0.0.1", timeout=0.5, port=self.port).answer)
        except (dns.exception.Timeout, OSError):
            return False


def _sign(name: str, signed: Signed) -> tuple[str, str]:
    """Return the text of a zone with its signatures, and what makes unbound trust its key."""
    zone = dns.zone.from_text(_HEAD + signed.text, origin=name, relativize=False)
    key = ec.generate_private_key(ec.SECP256R1())
    public = dns.dnssec.make_dnskey(key.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=257)
    dns.dnssec.sign_zone(zone, keys=[(key, public)], lifetime=86_400)
    text = zone.to_text(relativize=False)
    assert isinstance(text, str)
    for before, after in signed.spoiled:
        assert before in text
        text = text.replace(before, after)
    return text, f"{name}. IN DNSKEY {public.to_text()}\n"
