"""
Messages as people send them, as octets with CRLF line ends.

Each has a Message-ID of its own and a Date, so that a submission server has no reason to add anything.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
import re
import struct
import wave
import zlib
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP

ALICE, BOB = "alice@example.test", "bob@example.test"
_POLICY = SMTP.clone(max_line_length=76)
_TRACE = re.compile(rb"(?:Return-Path|Delivered-To|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", re.IGNORECASE)


def png(width: int = 64, height: int = 48, seed: int = 1) -> bytes:
    """Draw a small picture of noise: a real PNG file."""

    def chunk(kind: bytes, octets: bytes) -> bytes:
        return struct.pack(">I", len(octets)) + kind + octets + struct.pack(">I", zlib.crc32(kind + octets))

    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(width * 3) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wav(seconds: float = 0.5) -> bytes:
    """Record a note of 440 Hz: a real WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        samples = (int(20_000 * math.sin(2 * math.pi * 440 * n / 8000)) for n in range(int(seconds * 8000)))
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file.getvalue()


def video(octets: int = 200_000, seed: int = 2) -> bytes:
    """Film noise: octets that begin as an MP4 file does."""
    return b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + random.Random(seed).randbytes(octets - 24)


def _header(name: str, sender: str, recipient: str, more: str = "") -> bytes:
    return (
        f"From: {sender}\r\nTo: {recipient}\r\nSubject: {name}\r\nDate: Mon, 02 Nov 2026 10:00:00 +0000\r\n"
        f"Message-ID: <{name}@test.invalid>\r\n{more}\r\n"
    ).encode()


def plain(name: str, sender: str = ALICE, recipient: str = BOB, body: bytes = b"Hello.\r\n") -> bytes:
    """Write a message of one text."""
    return _header(name, sender, recipient) + body


def _multipart(name: str, sender: str, recipient: str, parts: list[tuple[bytes, str, str, str]]) -> bytes:
    message = EmailMessage(policy=_POLICY)
    message["From"], message["To"], message["Subject"] = sender, recipient, f"{name}: für Bob"
    message["Date"], message["Message-ID"] = "Mon, 02 Nov 2026 10:00:00 +0000", f"<{name}@test.invalid>"
    message.set_content("Hello Bob,\n.\nhere it is.\n")
    message.add_alternative("<p>Hello <b>Bob</b>, here it is.</p>\n", subtype="html")
    for octets, kind, subtype, filename in parts:
        message.add_attachment(octets, maintype=kind, subtype=subtype, filename=filename)
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        part.set_boundary(f"=={name}-{number}==")
    return message.as_bytes()


def pictures(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Send two pictures."""
    return _multipart(
        "pictures",
        sender,
        recipient,
        [(png(), "image", "png", "garden.png"), (png(seed=3), "image", "png", "Übersicht.png")],
    )


def audio(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Send a sound."""
    return _multipart("audio", sender, recipient, [(wav(), "audio", "x-wav", "note.wav")])


def film(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Send a video."""
    return _multipart("film", sender, recipient, [(video(), "video", "mp4", "holiday.mp4")])


def big(sender: str = ALICE, recipient: str = BOB, octets: int = 25_000_000) -> bytes:
    """Send an attachment that makes the message about so long."""
    return _multipart("big", sender, recipient, [(video(int(octets * 0.73)), "application", "octet-stream", "backup.bin")])


def eight_bit(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Send UTF-8 as it is, for 8BITMIME, and every octet that text may hold."""
    more = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    every = bytes(n for n in range(1, 256) if n not in (10, 13))
    return _header("eight-bit", sender, recipient, more) + "Grüße aus Zürich: 你好, мир.\r\n".encode() + every + b"\r\n"


def dots(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Begin lines with dots in every way."""
    return _header("dots", sender, recipient) + b".\r\n..\r\n...\r\n.text\r\n\r\n.\r\nlast\r\n.\r\n"


def long_line(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Send one line of 300 kB."""
    return _header("long-line", sender, recipient) + b"0123456789" * 30_000 + b"\r\n"


def empty_body(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Send a header section and nothing else."""
    return _header("empty-body", sender, recipient)


def blank_lines(sender: str = ALICE, recipient: str = BOB) -> bytes:
    """Send white space, which nobody may strip."""
    return _header("blank-lines", sender, recipient) + b"\r\n \r\n\t\r\ntext \r\n\r\n\r\n"


KINDS: dict[str, Callable[..., bytes]] = {
    "plain": lambda sender=ALICE, recipient=BOB: plain("plain", sender, recipient),
    "pictures": pictures,
    "audio": audio,
    "film": film,
    "eight_bit": eight_bit,
    "dots": dots,
    "long_line": long_line,
    "empty_body": empty_body,
    "blank_lines": blank_lines,
    "big": big,
}
"""Every kind of message, by name."""


def without_trace(received: bytes) -> bytes:
    """Return what lies behind the trace fields at the top of a message."""
    position = 0
    while found := _TRACE.match(received, position):
        position = found.end()
    return received[position:]


def trace(received: bytes) -> bytes:
    """Return the trace fields at the top of a message."""
    return received[: len(received) - len(without_trace(received))]


def self_checking(name: str, sender: str = ALICE, recipient: str = BOB, octets: int = 4_000) -> bytes:
    """Write a message that carries its own hash and a terminator, so that a half of it can be told from the whole."""
    noise = random.Random(name).randbytes(octets // 2).hex().encode()
    body = b"".join(noise[at : at + 76] + b"\r\n" for at in range(0, len(noise), 76))
    more = f"X-Body-SHA256: {hashlib.sha256(body).hexdigest()}\r\n"
    return _header(name, sender, recipient, more) + body + b"--end of " + name.encode() + b"--\r\n"


def check_whole(received: bytes) -> str:
    """Return the name of a self-checking message; an AssertionError says in which way it is not whole."""
    header, _, text = received.partition(b"\r\n\r\n")
    found_name = re.search(rb"\r\nMessage-ID: <([^@]+)@test\.invalid>", header)
    found_hash = re.search(rb"\r\nX-Body-SHA256: ([0-9a-f]{64})", header)
    assert found_name, "the message has lost its header section"
    assert found_hash, "the message has lost its header section"
    name = found_name[1].decode()
    body, terminator, behind = text.partition(b"--end of " + found_name[1] + b"--\r\n")
    assert terminator, f"{name}: the end is missing"
    assert not behind, f"{name}: something stands behind its end"
    assert hashlib.sha256(body).hexdigest().encode() == found_hash[1], f"{name}: the body has changed"
    return name
