"""The targets."""

from __future__ import annotations

from typing import Final

from fuzz import binary, configuration, contents, notices, pop3_server, proxied, published, smtp_client, smtp_server, values
from fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    each.name: each
    for each in (
        smtp_server.TARGET,
        smtp_client.TARGET,
        pop3_server.TARGET,
        proxied.TARGET,
        *values.TARGETS,
        *contents.TARGETS,
        binary.TARGET,
        *notices.TARGETS,
        published.TARGET,
        configuration.TARGET,
    )
}
"""By their names; those of whole sessions first, since most can be wrong there."""
