"""The tables of docs/ are true: what they name is there, and what the code cites stands in them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ATTACKS = ROOT / "docs" / "attacks.md"
STANDARDS = ROOT / "docs" / "standards.md"
CITED = re.compile(r"RFC (\d{3,5}(?:(?:, | and )\d{3,5})*)")
TEST = re.compile(r"`([\w/]+\.(?:py::[\w:]+|txt: .+?))`(?=[,; |]|$)")
CODE = re.compile(r"`(mailstack/[\w/]+\.py)`")
NOT_DONE = "not"


def rows(path: Path) -> list[list[str]]:
    """Return the cells of every row of every table, without their heads."""
    lines = [line for line in path.read_text().split("\n") if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if not re.fullmatch(r"[|\- ]+", line) and not re.fullmatch(r"[|\- ]+", following)
    ]


@cache
def names_of(path: Path) -> frozenset[str]:
    """Return the names of the tests of a Python file, those in classes with their class."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return frozenset(each for each in found if each.rpartition("::")[2].startswith("test_"))


@cache
def titles_of(path: Path) -> frozenset[str]:
    """Return the titles of the dialogues of a file."""
    return frozenset(line[4:].strip() for line in path.read_text().split("\n") if line.startswith("=== "))


def is_there(test: str) -> bool:
    """Say whether a test that a table names is one."""
    if "::" in test:
        path, _, name = test.partition("::")
        file = ROOT / "tests" / path
        return file.is_file() and name in names_of(file)
    path, _, title = test.partition(": ")
    file = ROOT / "tests" / path
    if not file.is_file():
        return False
    if title.endswith("…"):
        return any(each.startswith(title[:-1].strip()) for each in titles_of(file))
    return title in titles_of(file)


def numbers_in(text: str) -> set[int]:
    return {int(number) for found in CITED.findall(text) for number in re.findall(r"\d+", found)}


ATTACK_ROWS = rows(ATTACKS)
STANDARD_ROWS = rows(STANDARDS)


@pytest.mark.parametrize("row", ATTACK_ROWS, ids=lambda row: row[0][:50])
def test_an_attack_has_an_answer_and_tests_that_are_there(row: list[str]) -> None:
    attack, answer, tests = row
    assert attack
    assert answer
    named = TEST.findall(tests)
    assert named
    assert re.sub(r"[, ]", "", TEST.sub("", tests)) == "", "nothing else stands in that cell"
    assert [each for each in named if not is_there(each)] == []


@pytest.mark.parametrize("row", STANDARD_ROWS, ids=lambda row: row[0])
def test_a_standard_is_cited_by_the_code_that_the_table_names_and_tested_where_it_says(row: list[str]) -> None:
    number, title, extent, code, tests = row
    assert title
    assert re.match(rf"(full|in part|{NOT_DONE})\b", extent)
    paths = CODE.findall(code)
    assert paths
    for path in paths:
        assert int(number) in numbers_in((ROOT / path).read_text()), f"{path} does not cite RFC {number}"
    named = TEST.findall(tests)
    assert named or extent.startswith(NOT_DONE)
    assert [each for each in named if not is_there(each)] == []


def test_every_standard_that_the_code_cites_stands_in_the_table_once_and_in_order() -> None:
    cited = set().union(*(numbers_in(path.read_text()) for path in (ROOT / "mailstack").rglob("*.py")))
    listed = [int(row[0]) for row in STANDARD_ROWS]
    assert listed == sorted(set(listed))
    assert cited - set(listed) == set(), "cited and not in the table"
    assert set(listed) - cited == set(), "in the table and not cited"


def test_extensions_that_are_said_not_to_be_announced_are_not() -> None:
    announced = (ROOT / "mailstack" / "wire" / "pop3_server.py").read_text()
    for keyword in ("EXPIRE", "LOGIN-DELAY", "IMPLEMENTATION"):
        assert f'"{keyword}"' not in announced


def test_a_test_that_is_not_there_is_found_out() -> None:
    assert is_there("test_docs_tables.py::test_a_test_that_is_not_there_is_found_out")
    assert is_there("dialogues/smuggling.txt: rejected: …")
    for wrong in (
        "test_docs_tables.py::test_nothing",
        "test_nothing.py::test_nothing",
        "dialogues/smuggling.txt: nothing",
        "dialogues/smuggling.txt: nothing…",
        "dialogues/nothing.txt: rejected: …",
        "test_rooms.py::TestRoom::test_nothing",
    ):
        assert not is_there(wrong)
    assert numbers_in("RFC 1939, 2449, 2595 and 5034; RFC 5321 §4") == {1939, 2449, 2595, 5034, 5321}
