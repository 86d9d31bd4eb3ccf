"""What keeps a house from being built, told so that the operator can mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RefusedError(Exception):
    """No house can be built from the settings; the message tells the operator which key is at fault, and why."""


@contextmanager
def refused_in(table: str) -> Iterator[None]:
    """
    Name the table of the configuration that asks for what cannot be read, or is no good.

    Raises:  RefusedError: for an OSError or a ValueError.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise RefusedError(f"{table}: {error}") from error
