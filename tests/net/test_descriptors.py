"""The limit of file descriptors."""

from __future__ import annotations

import resource

import pytest

from mailstack.net.descriptors import WANTED, raise_descriptor_limit

NONE = resource.RLIM_INFINITY


class FakeLimits:
    RLIMIT_NOFILE = 7

    def __init__(self, soft: int, hard: int) -> None:
        self.now = soft, hard

    def getrlimit(self, which: int, /) -> tuple[int, int]:
        assert which == self.RLIMIT_NOFILE
        return self.now

    def setrlimit(self, which: int, limits: tuple[int, int], /) -> None:
        assert which == self.RLIMIT_NOFILE
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [
        (1_024, 524_288, WANTED),
        (1_024, 4_096, 4_096),
        (1_024, NONE, WANTED),
        (4_096, 4_096, 4_096),
        (100_000, 524_288, 100_000),
        (NONE, NONE, NONE),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_may_be(soft: int, hard: int, then: int) -> None:
    limits = FakeLimits(soft, hard)
    raise_descriptor_limit(limits)
    assert limits.now == (then, hard)


def test_the_limit_of_this_process_can_be_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1_000), hard))
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == (min(WANTED, hard) if hard != NONE else WANTED)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
