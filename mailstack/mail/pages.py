"""
What came of asking another machine by HTTPS.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """
    An answer, whatever it says.

    Shape:  `media_type` is in lower case and without its parameters.
    """

    status: int
    media_type: str
    octets: bytes


@dataclass(frozen=True, slots=True)
class NoPage:
    """There is no answer; `is_certificate`: since the host could not show that it is the one that was asked."""

    cause: str
    is_certificate: bool = False
