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


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _calls(tree: ast.AST) -> set[str]:
    return {
        f"{node.func.value.id}.{node.func.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    }


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


ROOMS = [module for module in MODULES if not _name(module).startswith(OUTSIDE)]


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_says_what_it_is(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize("module", ROOMS, ids=_name)
class TestRoom:
    def test_takes_clock_reactor_and_chance_as_arguments(self, module: Path) -> None:
        tree = ast.parse(module.read_text())
        assert "twisted.internet.reactor" not in _imports(tree)
        from_the_world = {"time.time", "time.monotonic", "time.sleep", "random.random", "random.choice", "random.uniform"}
        assert not _calls(tree) & from_the_world

    def test_reaches_no_shell_and_runs_no_text(self, module: Path) -> None:
        tree = ast.parse(module.read_text())
        assert not _imports(tree) & {"pickle", "marshal", "shelve", "pty"}
        assert not _calls(tree) & {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
        bare = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not bare & {"eval", "exec", "compile", "__import__"}
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "shell"]

    def test_reads_no_mime_but_where_binary_parts_come_in(self, module: Path) -> None:
        imports = _imports(ast.parse(module.read_text()))
        of_email = {name for name in imports if name.split(".")[0] == "email"}
        assert not {name for name in of_email if name.split(".")[:2] != ["email", "utils"]}
        assert "mailstack.mail.mime" not in imports or _name(module) == "mail/binary.py"
        assert "mailstack.mail.binary.BinaryConverter" not in imports or _name(module) == "wire/chunks.py"

    def test_does_not_split_octets_of_the_wire_by_python_s_idea_of_a_line(self, module: Path) -> None:
        names = {node.attr for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"splitlines"}, "splitlines() breaks at a bare CR, a bare LF and six others"


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
