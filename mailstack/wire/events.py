"""
What every core may answer instead of an event.

The events themselves stand beside their protocol (`smtp_commands`, `pop3_commands` …).
"""

from __future__ import annotations

import enum
from typing import Final


class Pause(enum.Enum):
    """Why there is no event now."""

    NEED_OCTETS = "need octets"
    AWAITING_REPLY = "awaiting reply"


NEED_OCTETS: Final = Pause.NEED_OCTETS
AWAITING_REPLY: Final = Pause.AWAITING_REPLY
