"""Every test is where pytest finds it: one within another function would never be run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.rglob("test_*.py")), ids=lambda path: str(path.relative_to(HERE)))
def test_none_is_hidden(path: Path) -> None:
    functions = [
        each for each in ast.walk(ast.parse(path.read_bytes())) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    within = {inner for outer in functions for inner in ast.walk(outer) if inner is not outer}
    assert [each.name for each in functions if each in within and each.name.startswith("test")] == []
