"""
One target under atheris, in a process of its own: `MAILSTACK_FUZZ_TARGET=address python -m fuzz.one [libFuzzer's arguments]`.

atheris must see the modules before they are imported, and its loop ends the process; hence this. To merge inputs libFuzzer runs
this again, by a shell, with arguments of its own, so the target's name comes by the environment.
"""

from __future__ import annotations

import importlib
import os
import sys


def main(words: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["mailstack"]):  # its hooks for regular expressions know none of ours
        from fuzz.targets import TARGETS
    atheris.Setup([f"{sys.executable} -m fuzz.one", *words], TARGETS[os.environ["MAILSTACK_FUZZ_TARGET"]].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
