"""A house for the tests with real programs: one for each module, and others to be made as wanted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.house import House, Person
from harness.programs import open_folder

HOUSES = pytest.StashKey[list[House]]()
_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the houses of the test had logged until then."""
    report = yield
    if report.failed:
        for house in item.stash.get(HOUSES, []):
            report.sections.append((f"the log of {house.folder}", house.log()[-8_000:]))
    return report


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give an empty folder through which other users may pass."""
    with open_folder("peer") as path:
        yield path


@pytest.fixture
def make_house(request: pytest.FixtureRequest) -> Iterator[Callable[..., House]]:
    """Make houses (arguments of House) that are stopped in the end; they are not started yet."""
    houses = request.node.stash.setdefault(HOUSES, [])
    with ExitStack() as stack:

        def make(**options: Any) -> House:
            house = House(stack.enter_context(open_folder("house")) / "var", **options)
            stack.callback(house.kill)
            houses.append(house)
            return house.prepare()

        yield make


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Give a running house that the tests of a module share."""
    with open_folder("house") as path, House(path / "var") as house:
        yield house


@pytest.fixture
def alice(house: House) -> Person:
    """Make an account that no other test knows, of one who writes."""
    return house.person(f"alice{next(_numbers)}")


@pytest.fixture
def bob(house: House) -> Person:
    """Make an account that no other test knows, of one who reads."""
    return house.person(f"bob{next(_numbers)}")
