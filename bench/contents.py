"""
Messages: what is in the maildirs before they are fetched, and whether what was received arrived whole.

Every message of a round is looked at after it, octet by octet, with nothing but the trace fields at its top taken away.
Postfix's virtual(8) and aiosmtpd store lines that end with LF, so that is what both are compared as.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from bench.programs import LoadError

_NUMBER = re.compile(rb"\nMessage-ID: <([0-9]{10})@load\.test>\n")
_SOURCE_NUMBER = re.compile(rb"\nMessage-Id: <([0-9a-f.]+)@", re.IGNORECASE)


def files_in(maildir: Path) -> list[Path]:
    """Return the messages of a maildir."""
    return [file for part in ("new", "cur") if (maildir / part).is_dir() for file in (maildir / part).iterdir()]


def empty(maildir: Path) -> None:
    """
    Put the messages of a maildir aside, where nobody looks until the workload is over.

    They are not removed: ext4 passes over what was deleted in the last minute when it makes a file, so a removal in between
    would be paid for by the next round.
    """
    for part in (maildir / "new", maildir / "cur"):
        if part.is_dir() and any(part.iterdir()):
            aside = maildir / "aside"
            aside.mkdir(exist_ok=True)
            found = part.stat()
            part.rename(aside / f"{part.name}-{len(list(aside.iterdir()))}")
            part.mkdir(mode=0o700)
            os.chown(part, found.st_uid, found.st_gid)


def check_smtp_load(stored: Iterable[Path], sample: bytes, counts: dict[int, int]) -> None:
    """
    Check messages of smtp_load: each number as often as `counts` says, and each message is `sample` but for its number.

    Raises:  LoadError: one is missing, twice there, or not what was sent.
    """
    want = sample.replace(b"\r\n", b"\n")
    left = dict(counts)
    for file in stored:
        octets = file.read_bytes().replace(b"\r\n", b"\n")
        found = _NUMBER.search(octets[: len(octets) - len(want) + 1000])
        if found is None:
            raise LoadError(f"{file} has no number")
        if not octets.endswith(want.replace(b"0000000000", found[1], 1)):
            raise LoadError(f"{file} is not what was sent")
        number = int(found[1])
        left[number] = left.get(number, 0) - 1
    wrong = {number: count for number, count in left.items() if count}
    if wrong:
        raise LoadError(f"messages are missing (or, if negative, too many): {list(wrong.items())[:10]}")


def check_smtp_source(stored: Iterable[Path], octets_of_body: int, messages: int) -> None:
    """
    Check messages of smtp-source: so many different ones, each with its whole body.

    Raises:  LoadError.
    """
    names = set()
    for file in stored:
        octets = file.read_bytes().replace(b"\r\n", b"\n")
        header, _, body = octets.partition(b"\n\n")
        name = _SOURCE_NUMBER.search(header + b"\n")
        whole = re.fullmatch(rb"(?:[0-9X]X{77}\n)*X*\n", body)  # lines of 80 octets as they were sent, 79 as they are now
        if name is None or whole is None or len(body) + body.count(b"\n") != octets_of_body + 2:
            raise LoadError(f"{file} is not what was sent")
        names.add(name[1])
    if len(names) != messages:
        raise LoadError(f"{len(names)} messages are there, of {messages}")


def fill(maildir: Path, messages: int, octets: int) -> None:
    """Write messages with CRLF line ends into cur/, named with their sizes so that no server need look into them."""
    for part in ("new", "cur", "tmp"):
        (maildir / part).mkdir(parents=True, exist_ok=True)
    line = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789abc\r\n"
    for number in range(messages):
        head = b"From: <sender@elsewhere.test>\r\nSubject: load\r\nMessage-ID: <%010d@load.test>\r\n\r\n" % number
        body = (line * ((octets - len(head)) // len(line) + 1))[: octets - len(head) - 2] + b"\r\n"
        name = f"{1_700_000_000 + number}.M{number % 1_000_000}P1.bench,S={octets},W={octets}:2,S"
        (maildir / "cur" / name).write_bytes(head + body)
