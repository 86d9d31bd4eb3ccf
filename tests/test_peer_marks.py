"""A test with a real program is skipped by name where that is missing, and fails for it where all must be there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEST = """
import pytest
from harness.programs import needs

@needs("swaks", "msmtp")
def test_with_programs():
    pass

@needs()
def test_that_skips_for_another_reason():
    pytest.skip("the moon is full")

def test_without_programs():
    pytest.skip("not concerned")
"""


def told(tmp_path: Path, *, in_ci: bool) -> str:
    """Run those tests where no program is installed, and return what pytest says."""
    shutil.copy(HERE / "conftest.py", tmp_path)
    (tmp_path / "test_inner.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = peer\n")
    env = {**os.environ, "PATH": str(tmp_path / "empty"), "PYTHONPATH": str(HERE / "peers"), "CI": "true" if in_ci else ""}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-rsf",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            "--rootdir",
            tmp_path,
            tmp_path,
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if in_ci else 0), done.stdout + done.stderr
    return done.stdout


def test_elsewhere_it_is_skipped_and_names_what_to_install(tmp_path: Path) -> None:
    said = told(tmp_path, in_ci=False)
    assert "needs swaks: apt-get install swaks; needs msmtp: apt-get install msmtp" in said
    assert "3 skipped" in said


def test_in_ci_it_fails(tmp_path: Path) -> None:
    said = told(tmp_path, in_ci=True)
    assert "1 failed, 1 skipped, 1 error" in said
    assert "needs swaks: apt-get install swaks" in said
    assert "the moon is full" in said
