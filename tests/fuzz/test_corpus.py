"""Every input of the corpus through its target: those that a fuzzer once found are tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.target import Target
from fuzz.targets import TARGETS

INPUTS = [pytest.param(target, path, id=f"{name}-{path.name}") for name, target in TARGETS.items() for path in target.inputs()]


@pytest.mark.parametrize(("target", "path"), INPUTS)
def test_nothing_that_was_found_fails(target: Target, path: Path) -> None:
    target.run(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_takes_nothing_and_anything(target: Target) -> None:
    for octets in (b"", b"\0", b"\n", b"\r\n", bytes(range(256)), bytes(reversed(range(256)))):
        target.run(octets)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_has_words_and_inputs(target: Target) -> None:
    assert all(line.startswith('"') and line.endswith('"') for line in target.words.read_text().split("\n")[:-1])
    assert target.inputs()
    assert max(path.stat().st_size for path in target.inputs()) <= target.most_octets
