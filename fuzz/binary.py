"""
Binary MIME: in any pieces what the whole is, what a slow and simple reader makes of it, and what the standard library reads.

The converter goes from left to right and knows all multiparts that are open. The slow reader goes from the outside to the
inside: it cuts the parts of one multipart out of its body, and then looks into each.
"""

from __future__ import annotations

import binascii
import email.policy
import re
from email.message import Message
from email.parser import BytesParser
from typing import Final

from fuzz.target import Choices, Target, kept, pieces
from mailstack.mail.binary import LINE_OCTETS, BinaryConverter
from mailstack.mail.mime import Kind, MimeError, parse_entity, relabel
from mailstack.wire.chunks import BinaryReader

_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_LINE: Final = re.compile(rb"(?s)(?:(?!\r\n).)*(?:\r\n|\Z)")
_FIELD: Final = re.compile(rb"[!-9;-~]{1,900}[ \t]{0,50}:")

# What the standard library reads in another way than most: white space in front of a colon, comments, fields without a name.
_ODD: Final = re.compile(rb"[ \t]:|\(|(?:\A|\r\n)(?::|From |[ \t])|(?i:multipart|message)[^\r\n]*[\"';*]")


def slowly(content: bytes, *, is_in_digest: bool = False) -> bytes:
    """
    Convert an entity.

    Raises:  MimeError.
    """
    section, end, body = _header(content)
    entity = parse_entity(section, is_in_digest=is_in_digest)
    head = (section if entity.encoding is None else relabel(section, entity.encoding)) + end
    if entity.kind is Kind.MULTIPART:
        return head + _parts(body, entity.boundary, is_digest=entity.is_digest)
    if entity.kind is Kind.MESSAGE:
        return head + slowly(body)
    return head + (_base64(body) if entity.encoding == b"base64" else body)


def _header(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Split off the header section and the line behind it."""
    section = b""
    while content:
        found = _LINE.match(content)
        assert found is not None
        line = found[0]
        if line == b"\r\n":
            return section, line, content[2:]
        if not (_FIELD.match(line) or (section and line[:1] in (b" ", b"\t"))):
            break
        section, content = section + line, content[len(line) :]
    return section, b"", content


def _parts(body: bytes, boundary: bytes, *, is_digest: bool) -> bytes:
    """Convert the body of a multipart."""
    line = re.compile(rb"(?:\A|\r\n)--%b((?:--)?)[ \t]*(?:\r\n|\Z)" % re.escape(boundary))
    output, is_within = b"", False
    while True:
        found = line.search(body)
        while found and len(found[0].strip(b"\r\n")) > LINE_OCTETS + 2:
            found = line.search(body, found.end() - 2)
        part = body[: found.start()] if found else body
        output += slowly(part, is_in_digest=is_digest) if is_within else part
        if found is None:
            return output
        output, body, is_within = output + found[0], body[found.end() :], True
        if found[1]:
            return output + body


def _base64(body: bytes) -> bytes:
    encoded = binascii.b2a_base64(body, newline=False)
    return b"\r\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))


def leaves(content: bytes) -> list[tuple[str, bytes]]:
    """List the leaves of a message as the standard library reads them, each with its type and what it decodes to."""
    message: Message = BytesParser(policy=email.policy.compat32).parsebytes(content)
    found = []
    for part in message.walk():
        if not part.is_multipart():
            octets = part.get_payload(decode=True)
            assert isinstance(octets, bytes)
            found.append((part.get_content_type(), octets))
    return found


def _is_sound(content: bytes) -> bool:
    message: Message = BytesParser(policy=email.policy.compat32).parsebytes(content)
    return not any(part.defects for part in message.walk())


def run(octets: bytes) -> None:
    """Convert a content: the cut, and what it is."""
    choices = Choices(octets)
    cut, content = 1 + choices.number() % 12, choices.rest()
    try:
        expected = slowly(content)
    except MimeError:
        expected = None
    outputs = set()
    for each in (0, cut):
        converter = BinaryConverter()
        output = b"".join(map(converter.feed, pieces(content, each)))
        assert kept(converter) <= len(content) + 500
        output += converter.finish()
        assert converter.finish() == b""
        outputs.add((output, converter.problem))
        assert (output, converter.problem) == (expected, "") or (expected is None and converter.problem), output
        _check_reader(content, each, output, converter.problem)
    assert len(outputs) == 1, "the cut matters"
    if expected is not None and not _BARE.search(content) and not _ODD.search(content) and _is_sound(content):
        assert leaves(expected) == leaves(content)


def _check_reader(content: bytes, cut: int, converted: bytes, problem: str) -> None:
    reader = BinaryReader()
    output = b"".join(map(reader.feed, pieces(content, cut))) + reader.finish()
    assert reader.finish() == b""
    assert (reader.octets, reader.problem) == (len(content), problem)
    assert reader.has_bare_newline == (_BARE.search(converted) is not None)
    ended = b"" if not converted or converted.endswith(b"\n") else b"\n" if converted.endswith(b"\r") else b"\r\n"
    assert output == converted + ended


TARGET: Final = Target("binary", "binary MIME, which becomes base64", run, most_octets=700)
