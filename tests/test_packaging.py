"""
However it is installed, `twistd` finds it; and what is shipped is what should be.

The scratch environments see the libraries of the environment that runs the tests, and nothing is asked of a package index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(
    ".git",
    ".venv",
    "var",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    "dropin.cache",
    ".*_cache",
    ".hypothesis",
    "_trial_temp*",
)


def run(*words: str | Path, cwd: Path) -> str:
    # Where ours is found besides, it would be there before it is installed.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


class Environment:
    """A virtual environment with the libraries of ours, but without our mailstack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        self.python = folder / "bin" / "python"
        (site,) = folder.glob("lib/python*/site-packages")
        # A folder that a .pth file names is searched, but the .pth files in it (an editable mailstack) are not read.
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.site = site

    def install(self, *words: str | Path) -> None:
        quiet = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
        run(sys.executable, "-m", "pip", "--python", self.python, "install", *quiet, *words, cwd=self.folder)

    def twistd_help(self) -> str:
        return run(self.python, "-c", "from twisted.scripts.twistd import run; run()", "--help", cwd=self.folder)

    def where(self, module: str) -> Path:
        return Path(run(self.python, "-c", f"import {module}; print({module}.__file__)", cwd=self.folder).strip())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the tree, so that building leaves nothing in it."""
    copy = tmp_path_factory.mktemp("source") / "mailstack"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and from that the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    environment = Environment(tmp_path / "venv")
    assert "\n    mailstack " not in environment.twistd_help(), "it is not there before it is installed"
    return environment


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def test_an_installed_distribution_is_found_by_twistd(built: Path, environment: Environment, kind: str) -> None:
    (distribution,) = built.glob(kind)
    environment.install(distribution)
    assert environment.where("mailstack").is_relative_to(environment.folder)
    assert "\n    mailstack " in environment.twistd_help()


def test_an_editable_install_is_found_by_twistd(source: Path, environment: Environment) -> None:
    environment.install("--editable", source, "--config-settings", "editable_mode=compat")
    assert environment.where("mailstack").is_relative_to(source)
    assert "\n    mailstack " in environment.twistd_help()


def test_uninstalling_leaves_twisted_whole(built: Path, environment: Environment) -> None:
    (wheel,) = built.glob("*.whl")
    environment.install(wheel)
    run(sys.executable, "-m", "pip", "--python", environment.python, "uninstall", "--yes", "mailstack", cwd=environment.folder)
    assert "\n    mailstack " not in environment.twistd_help()
    assert not (environment.site / "mailstack").exists()


def test_the_command_is_installed(built: Path, environment: Environment) -> None:
    (wheel,) = built.glob("*.whl")
    environment.install(wheel)
    assert "init" in run(environment.folder / "bin" / "mailstack", "--help", cwd=environment.folder)


def test_what_the_wheel_holds(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    ours = {str(file.relative_to(ROOT)) for file in (ROOT / "mailstack").rglob("*.py")}
    assert ours <= inside, "every module is in it"
    assert {"twisted/plugins/mailstack_plugin.py", "mailstack/py.typed"} <= inside
    assert {name.split("/")[0] for name in inside} == {"mailstack", "twisted"}, "no tests, no etc, no docs"
    assert {name for name in inside if name.startswith("twisted/")} == {"twisted/plugins/mailstack_plugin.py"}, (
        "a twisted/__init__.py would hide Twisted itself"
    )
    assert not [name for name in names if "__pycache__" in name or name.endswith(("dropin.cache", ".pyc"))]
    assert any(name.endswith("/LICENSE") for name in names)


def test_what_the_source_distribution_holds(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "Makefile", "etc/mailstack.service", "tests/conftest.py"}
    assert wanted <= names
    assert "twisted/plugins/mailstack_plugin.py" in names
    assert not {name for name in names if name.startswith((".venv", "var/", "build/"))}


def test_metadata(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        (points,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        metadata = Parser().parsestr(archive.read(name).decode())
        entry_points = archive.read(points).decode()
    sys.path.insert(0, str(ROOT))
    try:
        import mailstack
    finally:
        sys.path.remove(str(ROOT))
    assert metadata["Name"] == "mailstack"
    assert metadata["Version"] == mailstack.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    required = {line.split(";")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert {name for name in required if name.lower().startswith("twisted[tls]")}
    assert not {name for name in required if name.lower().startswith(("pytest", "ruff", "mypy"))}
    assert "mailstack = mailstack.console.command:main" in entry_points
    assert metadata.get_payload().startswith("# mailstack"), "the README is the long description"


def test_the_plugin_file_is_nothing_but_the_maker() -> None:
    folder = ROOT / "twisted" / "plugins"
    assert {file.name for file in folder.iterdir()} - {"dropin.cache", "__pycache__"} == {"mailstack_plugin.py"}
    assert not (ROOT / "twisted" / "__init__.py").exists()
    text = (folder / "mailstack_plugin.py").read_text()
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["from twisted.application.service import ServiceMaker"], "twistd imports it for every --help"


def test_the_unit_lets_the_server_give_a_socket_to_a_group() -> None:
    unit = (ROOT / "etc" / "mailstack.service").read_text().splitlines()
    # What is taken away has @chown in it.
    assert unit.index("SystemCallFilter=@chown") > unit.index("SystemCallFilter=~@privileged @resources")
