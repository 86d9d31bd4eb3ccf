"""
One target under atheris, in a process of its own: `python -m fuzz.one TARGET [libFuzzer's arguments]`.

atheris must see the modules before they are imported, and its loop ends the process; hence this.
"""

from __future__ import annotations

import importlib
import sys


def main(words: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["mailstack"]):  # its hooks for regular expressions know none of ours
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *words[1:]], TARGETS[words[0]].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
