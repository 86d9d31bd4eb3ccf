"""The rules of the house that a linter of style does not know: who may import whom, and what no room may reach for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mailstack"
MODULES = sorted(PACKAGE.rglob("*.py"))
OUTSIDE = ("tap.py", "workers/child.py", "compose/machine.py", "compose/chance.py", "console/", "testing/", "events.py")
"""What may take the reactor and the clock of the world: it hands them to the rooms. The log has the world's time."""


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


class Module:
    """What stands in a module: what it imports, the names that it calls, those with a point, its attributes and arguments."""

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text())
        self.name = _name(path)
        self.docstring = ast.get_docstring(tree)
        self.imports: set[str] = set()
        self.calls: set[str] = set()
        self.attributes: set[str] = set()
        self.keywords: set[str | None] = set()
        for node in ast.walk(tree):
            match node:
                case ast.Import():
                    self.imports |= {alias.name for alias in node.names}
                case ast.ImportFrom(module=str(module)):
                    self.imports |= {module} | {f"{module}.{alias.name}" for alias in node.names}
                case ast.Call(func=ast.Name(id=called)):
                    self.calls.add(called)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=of), attr=called)):
                    self.calls.add(f"{of}.{called}")
                case ast.Attribute(attr=attribute):
                    self.attributes.add(attribute)
                case ast.keyword(arg=keyword):
                    self.keywords.add(keyword)


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return [Module(path) for path in MODULES]


@pytest.fixture(scope="module")
def rooms(modules: list[Module]) -> list[Module]:
    return [module for module in modules if not module.name.startswith(OUTSIDE)]


def test_every_module_says_what_it_is(modules: list[Module]) -> None:
    assert len(modules) > 200
    assert [module.name for module in modules if not module.docstring] == []


class TestRoom:
    def test_takes_clock_reactor_and_chance_as_arguments(self, rooms: list[Module]) -> None:
        assert len(rooms) > 150
        from_the_world = {"time.time", "time.monotonic", "time.sleep", "random.random", "random.choice", "random.uniform"}
        assert [module.name for module in rooms if "twisted.internet.reactor" in module.imports] == []
        assert [(module.name, found) for module in rooms if (found := module.calls & from_the_world)] == []

    def test_reaches_no_shell_and_runs_no_text(self, rooms: list[Module]) -> None:
        imports = {"pickle", "marshal", "shelve", "pty"}
        shells = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
        calls = shells | {"eval", "exec", "compile", "__import__"}
        assert [(module.name, found) for module in rooms if (found := module.imports & imports)] == []
        assert [(module.name, found) for module in rooms if (found := module.calls & calls)] == []
        assert [module.name for module in rooms if "shell" in module.keywords] == []

    def test_reads_no_mime_but_where_binary_parts_come_in(self, rooms: list[Module]) -> None:
        of_email = [(module.name, name) for module in rooms for name in module.imports if name.split(".")[0] == "email"]
        assert [each for each in of_email if each[1].split(".")[:2] != ["email", "utils"]] == []
        assert [module.name for module in rooms if "mailstack.mail.mime" in module.imports] == ["mail/binary.py"]
        converter = "mailstack.mail.binary.BinaryConverter"
        assert [module.name for module in rooms if converter in module.imports] == ["wire/chunks.py"]

    def test_does_not_split_octets_of_the_wire_by_python_s_idea_of_a_line(self, rooms: list[Module]) -> None:
        found = [module.name for module in rooms if "splitlines" in module.attributes]
        assert found == [], "splitlines() breaks at a bare CR, a bare LF and six others"


@pytest.mark.parametrize(
    "charter", [path for path in PACKAGE.glob("*/__init__.py") if path.parent.name != "plugins"], ids=_name
)
def test_a_room_s_init_is_its_charter_and_nothing_else(charter: Path) -> None:
    """All but `plugins`, which extends its path to other distributions."""
    body = ast.parse(charter.read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def test_the_rooms_import_only_whom_they_may() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
