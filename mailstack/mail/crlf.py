"""
CRLF line ends for octets that may have any (RFC 5322 §2.3).

Message content has CRLF in this house. What other programs wrote, in a maildir or behind someone's mailbox class, may have
LF, CRLF, even CR, or no line end at its end. A bare CR or LF becomes CRLF, as everywhere when we send: what a lenient reader
would take for a line end must be one for us too, or a stored `CR . CR LF` could end a message early for it.
"""

from __future__ import annotations


def has_bare_newline(octets: bytes) -> bool:
    """Say whether a CR or LF stands alone; the octets must not begin or end inside a CRLF."""
    # To write all line ends anew takes half the time of counting them in three ways.
    return octets.replace(b"\r", b"").replace(b"\n", b"\r\n") != octets


def normalise_newlines(octets: bytes) -> bytes:
    """Make every bare CR and bare LF a CRLF; the octets must not begin or end inside a CRLF."""
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


class CRLFNormaliser:
    """Turns every line end into CRLF and adds one at the end of a last line that has none; takes chunks split anywhere."""

    __slots__ = ("_carriage_return", "_in_line")

    def __init__(self) -> None:
        self._carriage_return = False  # the last octet was CR and is held back: an LF may follow
        self._in_line = False

    def feed(self, octets: bytes) -> bytes:
        """Return the next part with CRLF; the last octet may wait for the next call."""
        if self._carriage_return:
            octets = b"\r" + octets
        self._carriage_return = octets.endswith(b"\r")
        if self._carriage_return:
            octets = octets[:-1]
        if not octets:
            return b""
        if has_bare_newline(octets):
            octets = normalise_newlines(octets)
        self._in_line = not octets.endswith(b"\n")
        return octets

    def finish(self) -> bytes:
        """Return what is still to come: the CRLF of the last line, when it lacks one or only its CR was seen."""
        return b"\r\n" if self._carriage_return or self._in_line else b""


def with_crlf(octets: bytes) -> bytes:
    """Return the whole with CRLF."""
    normaliser = CRLFNormaliser()
    return normaliser.feed(octets) + normaliser.finish()
