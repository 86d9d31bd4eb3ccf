"""
A nameserver for very many domains, which answers by a rule instead of a zone: it must not be what is measured.

    *.living.test, *.new.test   MX mx.living.test
    mx.living.test              A 127.0.0.1
    dN.dead.test                A, an address of its own on loopback, where nobody listens
    anything else               nothing

Source:  RFC 1035 §4.1.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import Final

A: Final = 1
MX: Final = 15
SO_RCVBUFFORCE: Final = 33
LIVING: Final = (b"living", b"new")
_HOST: Final = b"\x02mx\x06living\x04test\x00"
_BUFFER_OCTETS: Final = 8_388_608


def answer(query: bytes) -> bytes | None:
    """Return the answer to a query, or None if it is none."""
    if len(query) < 17 or query[2] & 0x80:
        return None
    labels, at = [], 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    question = query[12 : at + 5]
    kind = int.from_bytes(query[at + 1 : at + 3], "big")
    octets = _record(labels, kind)
    record = struct.pack(">HHHIH", 0xC00C, kind, 1, 3600, len(octets)) + octets if octets else b""
    header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if octets else 0, 0, 0)
    return header + question + record


def _record(labels: list[bytes], kind: int) -> bytes:
    if len(labels) != 3:
        return b""
    name, domain, _ = labels
    if kind == A and name == b"mx":
        return bytes((127, 0, 0, 1))
    if kind == A and domain == b"dead":
        return address_of(int(name[1:]))
    if kind == MX and domain in LIVING:
        return struct.pack(">H", 10) + _HOST
    return b""


def address_of(number: int) -> bytes:
    """Return the address of a dead domain."""
    return bytes((127, 2 + number // 60_000, number // 250 % 240, number % 250 + 1))


def main() -> None:
    """Serve on a port of 127.0.0.1, which is written to standard output."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
    with suppress(PermissionError):  # within a container root may not
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER_OCTETS)
    server.bind(("127.0.0.1", 0))
    sys.stdout.write(f"{server.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        query, peer = server.recvfrom(4096)
        found = answer(query)
        if found is not None:
            server.sendto(found, peer)


if __name__ == "__main__":
    main()
