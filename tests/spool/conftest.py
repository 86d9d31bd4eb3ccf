"""What tests of the spool share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, globalLogPublisher


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """Give the events that are logged from now on, by the houses of this test alone."""
    gc.collect()  # an attempt that another test has left under way ends when its house is collected, and says so
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)
