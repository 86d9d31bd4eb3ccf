"""
MIME: what the header section of an entity says of its body, as far as that decides where parts begin and end.

An entity is a message or a part of one. Two fields matter, Content-Type and Content-Transfer-Encoding, and only for whoever
must change a body. Readers differ about fields that are malformed or come twice; where that would decide which octets are a
part, nothing is guessed: MimeError. Everything else that nobody understands is text, as RFC 2045 §5.2 says. Linear.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

BOUNDARY_OCTETS: Final = 200  # RFC 2046 §5.1.1 says 70; some programs write more

BASE64: Final = b"base64"
EIGHT_BIT: Final = b"8bit"
_BINARY: Final = b"binary"
_IDENTITY: Final = frozenset((b"7bit", EIGHT_BIT, _BINARY))
_MESSAGES: Final = frozenset((b"message/rfc822", b"message/global"))  # RFC 2046 §5.2.1, RFC 6532 §3.7

# A field that matters, with its folds, behind the CRLF of the line before. That comes first, so that the search is fast.
_FIELD: Final = re.compile(
    rb"\r\n(content-type|content-transfer-encoding)[ \t]{0,50}+:((?:[^\r]++|\r(?!\n)|\r\n[ \t])*+)", re.IGNORECASE
)
_TYPE_NAME_OCTETS: Final = len(b"content-type")

# White space and comments (RFC 5322 §3.2.2); a comment within a comment is not understood.
_SPACE: Final = rb"(?:[ \t]++|\((?:[^()\\]|\\.)*+\))*+"
_TOKEN: Final = rb"[!#-'*+.0-9A-Z^-~-]++"  # RFC 2045 §5.1
_TYPE: Final = re.compile(b"%b(%b/%b)%b(?=;|\\Z)" % (_SPACE, _TOKEN, _TOKEN, _SPACE))
_LIKE_COMPOSITE: Final = re.compile(rb"multipart|message", re.IGNORECASE)
_ENCODING: Final = re.compile(b"%b(%b)%b\\Z" % (_SPACE, _TOKEN, _SPACE))

# A parameter. Many programs do not quote a boundary that needs it, and some leave a semicolon at the end.
_PARAMETER: Final = re.compile(
    b';%b(?:(%b)%b=%b(?:"((?:[^"\\\\]|\\\\.)*+)"|([^ \t"();\\\\]++))%b)?+(?=;|\\Z)' % (_SPACE, _TOKEN, _SPACE, _SPACE, _SPACE),
    re.DOTALL,
)
_BOUNDARY: Final = re.compile(rb"(?:[!#-\[\]-~ ]{0,%d}[!#-\[\]-~])\Z" % (BOUNDARY_OCTETS - 1))


class MimeError(ValueError):
    """Nobody can say where the parts of a message begin and end; the text says why, and holds nothing of the message."""


class Kind(enum.Enum):
    """What a body is made of."""

    LEAF = "octets"
    MULTIPART = "entities between boundaries"
    MESSAGE = "an entity"


@dataclass(frozen=True, slots=True)
class Entity:
    """
    What a body is, and how it is encoded.

    Shape:   `boundary` is that of a multipart, else empty; `is_digest`: its parts are messages if they say nothing else.
             `encoding` is the one that the body must be given so that it is no longer labelled binary, None: it is not. A
             body that is composite may only be called 8bit, all others become base64 (RFC 2045 §6.4).
    """

    kind: Kind
    boundary: bytes = b""
    is_digest: bool = False
    encoding: bytes | None = None


def parse_entity(section: bytes, *, is_in_digest: bool = False) -> Entity:
    """
    Read a header section, of which each line ends with CRLF.

    Shape:   a multipart or a message that is encoded is a leaf: what is in it cannot be seen.
    Raises:  MimeError.
    Source:  RFC 2045 §5, §6; RFC 2046 §5.1, §5.2.
    """
    types: list[bytes] = []
    encodings: list[bytes] = []
    for found in _FIELD.finditer(b"\r\n" + section):
        value = found[2].replace(b"\r\n", b"")
        (types if len(found[1]) == _TYPE_NAME_OCTETS else encodings).append(value)
    encoding = _parse_encoding(encodings)
    read = {_parse_type(value) for value in types} or {(b"message/rfc822" if is_in_digest else b"text/plain", b"")}
    if len(read) > 1 and any(_is_composite(each) for each, _ in read):
        raise MimeError("Several Content-Type fields in one header section")
    media_type, boundary = next(iter(read))
    is_binary = encoding == _BINARY
    relabelled = None if not is_binary else EIGHT_BIT if _is_composite(media_type) else BASE64
    if encoding in _IDENTITY and boundary:
        return Entity(Kind.MULTIPART, boundary, media_type == b"multipart/digest", relabelled)
    if encoding in _IDENTITY and media_type in _MESSAGES:
        return Entity(Kind.MESSAGE, encoding=relabelled)
    return Entity(Kind.LEAF, encoding=relabelled)


def relabel(section: bytes, encoding: bytes) -> bytes:
    """Return the section with another Content-Transfer-Encoding in place of the one that it has."""

    def changed(found: re.Match[bytes]) -> bytes:
        if len(found[1]) == _TYPE_NAME_OCTETS:
            return found[0]
        return found[0][: found.start(2) - found.start()] + b" " + encoding

    return _FIELD.sub(changed, b"\r\n" + section)[2:]


def _is_composite(media_type: bytes) -> bool:
    return media_type.startswith((b"multipart/", b"message/"))


def _parse_encoding(values: list[bytes]) -> bytes:
    """Return the encoding in lower case, b"" for one that cannot be read."""
    if not values:
        return b"7bit"
    read = set()
    for value in values:
        found = _ENCODING.match(value)
        read.add(found[1].lower() if found else b"")
    if len(read) == 1:
        return read.pop()
    if _BINARY in read:
        raise MimeError("Several Content-Transfer-Encoding fields in one header section")
    return b""


def _parse_type(value: bytes) -> tuple[bytes, bytes]:
    """Return the media type in lower case, and the boundary of a multipart."""
    found = _TYPE.match(value)
    if found is None:
        if _LIKE_COMPOSITE.search(value):
            raise MimeError("A Content-Type field that cannot be read")
        return b"text/plain", b""
    media_type = found[1].lower()
    return media_type, _parse_boundary(value, found.end()) if media_type.startswith(b"multipart/") else b""


def _parse_boundary(value: bytes, position: int) -> bytes:
    boundaries = set()
    while position < len(value):
        found = _PARAMETER.match(value, position)
        if found is None:
            raise MimeError("A Content-Type field of a multipart that cannot be read")
        position = found.end()
        name = (found[1] or b"").lower()
        if name == b"boundary":
            boundaries.add(found[3] if found[2] is None else found[2])
        elif name.startswith(b"boundary*"):  # RFC 2231 does not forbid it; few read it, and nobody needs it
            raise MimeError("A boundary that is written in an extended way")
    if len(boundaries) != 1:
        raise MimeError("A multipart without a boundary, or with several")
    boundary = boundaries.pop()
    if not _BOUNDARY.match(boundary):
        raise MimeError("A boundary that is none")
    return boundary
