"""The configuration: any text is settings, or a list of all that is wrong with it, each at its line."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from fuzz.target import Target
from mailstack.settings import SettingsError, load

_FOLDER: Final = tempfile.TemporaryDirectory(prefix="fuzz-settings-")
_FILE: Final = Path(_FOLDER.name) / "mailstack.toml"


def run_settings(octets: bytes) -> None:
    """Load a file."""
    _FILE.write_bytes(octets)
    try:
        load(_FILE)
    except SettingsError as error:
        assert error.problems
        for problem in error.problems:
            assert 0 <= problem.line <= octets.count(b"\n") + 1
            assert problem.reason
            assert str(problem).isprintable(), repr(str(problem))


TARGET: Final = Target("settings", "the configuration file", run_settings, most_octets=600)
