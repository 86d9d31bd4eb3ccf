"""The pulse: how late a reactor is, told by clocks that the test moves."""

from __future__ import annotations

import sys

import pytest
from twisted.internet.task import Clock

from mailstack.net.pulse import TICK_SECONDS, Pulse


class LateClock(Clock):
    """A clock on which calls come late when the reactor is busy meanwhile."""

    def busy(self, late_seconds: float) -> None:
        """Let the next tick be so late."""
        self.rightNow += late_seconds
        self.advance(TICK_SECONDS)


def beating() -> tuple[LateClock, Pulse]:
    clock = LateClock()
    pulse = Pulse(clock, clock.seconds)
    pulse.start()
    return clock, pulse


def test_nothing_seen() -> None:
    _, pulse = beating()
    delays = pulse.stop()
    assert (delays.p50_ms, delays.p99_ms, delays.most_ms) == (0.0, 0.0, 0.0)


def test_percentiles() -> None:
    clock, pulse = beating()
    for _ in range(980):
        clock.busy(0.00104)
    for _ in range(15):
        clock.busy(0.02225)
    for _ in range(5):
        clock.busy(0.0245)
    delays = pulse.delays()
    assert delays.p50_ms == pytest.approx(1.1)
    assert delays.p99_ms == pytest.approx(22.3)
    assert delays.most_ms == pytest.approx(24.5)


def test_a_stall_is_what_all_would_have_met_that_came_meanwhile() -> None:
    """Ninety-nine ticks in time and one a second late: of the 138 that should have come, 39 came within the stall."""
    clock, pulse = beating()
    for _ in range(99):
        clock.busy(0.001)
    clock.busy(0.99)
    delays = pulse.delays()
    assert delays.most_ms == pytest.approx(990)
    assert sum(pulse._steps) == 99 + 40
    assert delays.p50_ms == pytest.approx(1.1, abs=0.11)
    assert delays.p99_ms == pytest.approx(970, abs=11)


def test_what_is_longer_than_the_histogram() -> None:
    clock, pulse = beating()
    for _ in range(3):
        clock.busy(60.0)
    delays = pulse.stop()
    assert delays.most_ms == pytest.approx(60_000)
    assert delays.p50_ms == pytest.approx(10_000)


def test_after_a_very_long_one_it_goes_on_at_once() -> None:
    clock, pulse = beating()
    clock.busy(1e9)
    assert sum(pulse._steps) < 3_000


def test_long_delays_in_coarse_steps() -> None:
    clock, pulse = beating()
    clock.busy(0.9)
    assert pulse.delays().p50_ms == pytest.approx(450, abs=30)
    assert pulse.delays().p50_ms % 10 == pytest.approx(0)


def test_an_early_tick_is_not_late() -> None:
    clock = Clock()
    pulse = Pulse(clock, lambda: 0.0)
    pulse.start()
    clock.advance(TICK_SECONDS)
    assert pulse.delays().most_ms == 0.0


def test_it_takes_no_more_room_the_longer_it_runs() -> None:
    clock, pulse = beating()
    clock.busy(0.001)
    before = sum(sys.getsizeof(each) for each in vars(pulse).values())
    for _ in range(10_000):
        clock.busy(0.001)
    assert sum(sys.getsizeof(each) for each in vars(pulse).values()) == before
    assert len(clock.getDelayedCalls()) == 1


def test_the_end_leaves_nothing_behind() -> None:
    clock, pulse = beating()
    pulse.stop()
    pulse.stop()
    assert clock.getDelayedCalls() == []
