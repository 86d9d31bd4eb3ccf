"""A test that needs a real program says so by name; where CI=true says that all are installed, none may be skipped."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
from harness.programs import missing

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """
    Let the collector of garbage rest while thousands of tests are made, and take them, which stay to the end, out of what it
    looks through each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are missing, and name them."""
    reasons = [reason for mark in item.iter_markers("peer") for reason in missing(mark.args)]
    if reasons:
        pytest.skip("; ".join(dict.fromkeys(reasons)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test with a real program into a failure where all of them are installed."""
    report = yield
    if IN_CI and report.skipped and item.get_closest_marker("peer") is not None:
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"no test with a real program may be skipped here: {reason}"
    return report
