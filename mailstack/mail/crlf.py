"""
CRLF line ends for octets that may have any (RFC 5322 §2.3).

Message content has CRLF in this house; what other programs wrote, in a maildir or behind someone's mailbox class, may have
LF, CRLF or both, and no line end at its end. A bare CR is no line end and stays as it is.
"""

from __future__ import annotations


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
        self._in_line = not octets.endswith(b"\n")
        if octets.count(b"\n") == octets.count(b"\r\n"):
            return octets
        return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    def finish(self) -> bytes:
        """Return what is still to come: the held CR, and the CRLF that a last line lacks."""
        held = b"\r" if self._carriage_return else b""
        return held + b"\r\n" if held or self._in_line else b""


def with_crlf(octets: bytes) -> bytes:
    """Return the whole with CRLF."""
    normaliser = CRLFNormaliser()
    return normaliser.feed(octets) + normaliser.finish()
