"""
Standing: what a reply, or an obstacle, says of the destination, apart from the message.

A refusal of the message or of a recipient is an answer: the destination is up. It is down when none of its hosts could be used:
no connection, no greeting, no TLS where that is a must, a session that the host ended with 421. It is crowded when a host says
that it has enough sessions of ours.

What happens in the middle of a content says nothing: a filter on the way, or a packet size, may not bear just this message.

Source:  RFC 5321 §3.8, §4.2.3 (421); RFC 3463 §3.8 (4.7.0, as Postfix, Exchange and Google use it here).
"""

from __future__ import annotations

import re
from typing import Final

from mailstack.mail.disposition import Standing
from mailstack.mail.reply import Reply
from mailstack.relay.protocol import Trouble
from mailstack.route.hosts import NoRoute

_CROWDED: Final = re.compile(
    r"too many (?:\w+ ){0,3}(?:connections|sessions)|concurrent|(?:connection|session)s? limit|maximum connections",
    re.IGNORECASE,
)
_SECURITY: Final = 7  # RFC 3463 §3.8
_ENDED: Final = "421"
_ENDED_BY_POLICY: Final = "421 4.7.0"


def standing_of_reply(reply: Reply) -> Standing:
    """Say what a reply to a recipient, or to the content, shows."""
    if reply.is_temporary and is_crowded(str(reply)):
        return Standing.CROWDED
    return Standing.DOWN if reply.code == int(_ENDED) else Standing.UP


def standing_of_obstacle(obstacle: Trouble | NoRoute) -> Standing | None:
    """Say what is shown by the reason why the last of the hosts took nothing."""
    if isinstance(obstacle, NoRoute):
        return None if obstacle.status.is_permanent else Standing.DOWN
    if obstacle.is_local:
        return None
    if obstacle.is_remote and is_crowded(obstacle.text):
        return Standing.CROWDED
    return Standing.UP if obstacle.status.is_permanent else Standing.DOWN


def is_crowded(text: str) -> bool:
    """Say whether a reply means that there are too many sessions of ours."""
    return text.startswith("4") and (text.startswith(_ENDED_BY_POLICY) or _CROWDED.search(text) is not None)


def concerns_host(obstacle: Trouble, *, is_implicit_tls: bool = False) -> bool:
    """
    Say whether an obstacle to a session is one that the next message would meet, too, for whatever domain it is.

    Where TLS does not begin with the connection, another message may go without it, and does not meet what became of STARTTLS.
    """
    if obstacle.is_local or obstacle.status.is_permanent or (obstacle.is_tls and not is_implicit_tls):
        return False
    if obstacle.is_remote:
        return not is_crowded(obstacle.text)
    return obstacle.status.subject != _SECURITY  # what is asked of TLS may differ from domain to domain


def is_ended(obstacle: Trouble) -> bool:
    """Say whether a host has ended the session by itself."""
    return obstacle.is_remote and obstacle.text.startswith(_ENDED)
