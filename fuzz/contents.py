"""Contents and their header sections: in any pieces what the whole is, and what a slow and simple reader makes of it."""

from __future__ import annotations

import re
from typing import Final

from fuzz.target import Choices, Target, pieces
from mailstack.mail.crlf import CRLFNormaliser, has_bare_newline, normalise_newlines, with_crlf
from mailstack.mail.headers import MAX_FIELDS, count_fields, fields, has_field, header_section
from mailstack.wire.chunks import ChunkReader
from mailstack.wire.dots import DotStuffer, DotUnstuffer
from mailstack.wire.pop3_top import TopCut

_NEWLINE: Final = re.compile(rb"\r\n|\r|\n")
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)


def slow_crlf(octets: bytes) -> bytes:
    """Make each line end a CRLF, one by one."""
    lines = _NEWLINE.split(octets)
    return b"".join(line + b"\r\n" for line in lines[:-1]) + (lines[-1] + b"\r\n" if lines[-1] else b"")


def run_dots(octets: bytes) -> None:
    """Stuff, unstuff, normalise and cut octets: a choice of what is done about bare newlines, the cut, and the content."""
    choices = Choices(octets)
    (normalise,) = choices.flags(1)
    cut, content = 1 + choices.number() % 12, choices.rest()
    for each in (0, cut):
        _check_stuffed(content, each)
        _check_unstuffed(content, each, normalise=normalise)
        _check_chunked(content, each, normalise=normalise)
        _check_top(content, each)
        normaliser = CRLFNormaliser()
        assert b"".join(map(normaliser.feed, pieces(content, each))) + normaliser.finish() == slow_crlf(content)
    assert with_crlf(content) == slow_crlf(content)
    assert has_bare_newline(content) == (_BARE.search(content) is not None)
    assert _BARE.search(normalise_newlines(content)) is None


def _check_stuffed(content: bytes, cut: int) -> None:
    stuffer, reader, text = DotStuffer(), DotUnstuffer(), slow_crlf(content)
    wire = b"".join(map(stuffer.feed, pieces(content, cut))) + stuffer.finish()
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3, "it ends early"
    assert all(not line.startswith(b".") or line.startswith(b"..") for line in wire.split(b"\r\n")[:-2])
    assert b"".join(map(reader.feed, pieces(wire, cut))) == text
    assert (reader.ended, reader.rest, reader.has_bare_newline) == (True, b"", False)
    quick = DotStuffer(has_crlf=True)
    assert b"".join(map(quick.feed, pieces(text, cut))) + quick.finish() == wire


def _check_unstuffed(wire: bytes, cut: int, *, normalise: bool) -> None:
    reader, content, position = DotUnstuffer(normalise=normalise), b"", 0
    for piece in pieces(wire, cut):
        content += reader.feed(piece)
        position += len(piece)
        if reader.ended:
            break
    framed, found, rest = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    assert reader.ended == bool(found)
    if not found:
        return
    assert reader.rest + wire[position:] == rest
    assert reader.has_bare_newline == (_BARE.search(framed) is not None)
    lines = _NEWLINE.split(framed) if normalise else framed.split(b"\r\n")
    assert content == b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[1:])


def _check_chunked(wire: bytes, cut: int, *, normalise: bool) -> None:
    reader = ChunkReader(normalise=normalise)
    content = b"".join(map(reader.feed, pieces(wire, cut)))
    content += reader.finish()
    assert reader.finish() == b""
    assert reader.has_bare_newline == (_BARE.search(wire) is not None)
    if normalise or not reader.has_bare_newline:
        assert content == slow_crlf(wire)


def _check_top(content: bytes, cut: int) -> None:
    text = slow_crlf(content)
    head, _, body = (b"\r\n" + text).partition(b"\r\n\r\n")
    if b"\r\n\r\n" not in b"\r\n" + text:
        expected = text
    else:
        lines = body.split(b"\r\n")[:-1][:cut]
        expected = (head + b"\r\n\r\n")[2:] + b"".join(line + b"\r\n" for line in lines)
    top = TopCut(cut)
    assert b"".join(map(top.feed, pieces(text, cut))) == expected


def run_headers(octets: bytes) -> None:
    """Read a header section, and compare it with a reader that takes it line by line."""
    section = header_section(octets)
    assert octets.startswith(section)
    assert b"\r\n\r\n" not in section
    found = list(fields(section))
    assert len(found) <= MAX_FIELDS
    assert found == _slow_fields(section)
    for name, _ in found[:10]:
        assert count_fields(section, name) == [each for each, _ in found].count(name)
    if found and len(section.partition(b":")[0]) < 200 and not re.match(rb"[^:]*[ \t]{9}", section):
        assert has_field(section)


def _slow_fields(section: bytes) -> list[tuple[bytes, bytes]]:
    lines = section.split(b"\r\n")
    if lines[-1] == b"":
        lines.pop()  # what ends with CRLF has no line behind it
    whole: list[bytes] = []
    for number, line in enumerate(lines):
        if line[:1] in (b" ", b"\t") and number:
            whole[-1] += b"\r\n" + line
        else:
            whole.append(line)
    found: list[tuple[bytes, bytes]] = []
    for each in whole[:MAX_FIELDS]:
        match = _FIELD.fullmatch(each)
        if match is None:
            break
        found.append((match[1].lower(), match[2]))
    return found


TARGETS: Final = (
    Target("dots", "dot transparency, chunks, line ends and TOP", run_dots, most_octets=300),
    Target("headers", "header sections", run_headers),
)
