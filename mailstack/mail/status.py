"""
Enhanced status codes (RFC 3463) by name.

A name here is a fact of mail; the class digit (2 success, 4 temporary, 5 permanent) is chosen where it is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

_FORM: Final = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})")


@dataclass(frozen=True, slots=True, order=True)
class EnhancedStatus:
    """`class.subject.detail` of RFC 3463 §2."""

    kind: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.subject}.{self.detail}"

    @property
    def is_permanent(self) -> bool:
        """Whether it says that trying again is of no use."""
        return self.kind == 5

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the status at the start of `text`, or None (RFC 2034 §4)."""
        found = _FORM.match(text)
        if not found or text[found.end() : found.end() + 1] not in ("", " "):
            return None
        kind, subject, detail = (int(part) for part in found.groups())
        return cls(kind, subject, detail)
