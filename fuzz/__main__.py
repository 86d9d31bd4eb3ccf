"""The command line of the fuzzer."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz.target import Target
from fuzz.targets import TARGETS

EXAMPLES: Final = """
examples:
  make fuzz SECONDS=120                      every target, two minutes for each
  python -m fuzz smtp-server --seconds 3600  one of them for an hour
  python -m fuzz --corpus --seconds 600      keep what was found, as few and small as can be, in fuzz/corpus
  python -m fuzz dsn --replay FILE           run one input and see how it fails

An input that fails is written to fuzz/corpus/TARGET/failed-…, where the unit tests run it from then on. Look at it with
--replay, mend what is wrong, give the file a better name, and commit it.
"""
ROOT: Final = Path(__file__).resolve().parent.parent
INPUT_SECONDS: Final = 20  # an input that takes longer is a finding, on a busy machine too
MEMORY_MEGABYTES: Final = 1_024
GRACE_SECONDS: Final = 60
_RUNS: Final = re.compile(r"^(?:Done (\d+) runs|stat::number_of_executed_units: (\d+))", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a target."""

    target: Target
    failed: list[Path]
    runs: int
    seconds: float
    code: int
    output: str


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description="Fuzz the parsers and the cores of the protocols, guided by coverage.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="which targets (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target is fuzzed (default: 60)")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes at once (default: 2)")
    parser.add_argument("--corpus", action="store_true", help="add what reaches more to the corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input of one target, without atheris")
    parser.add_argument("--list", action="store_true", help="list the targets")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Fuzz, and return the exit code: 0 when nothing failed, 1 when something did, 2 when it could not be begun."""
    arguments = _arguments(words)
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown or arguments.seconds <= 0 or arguments.jobs < 1:
        refusal = f"unknown: {', '.join(unknown)}. There are: {', '.join(TARGETS)}" if unknown else "numbers must be positive"
        sys.stderr.write(f"fuzz: {refusal}\n")
        return 2
    targets = [TARGETS[name] for name in arguments.targets or TARGETS]
    if arguments.list:
        sys.stdout.write("".join(f"{each.name:12} {len(each.inputs()):3} inputs  {each.about}\n" for each in targets))
        return 0
    if arguments.replay:
        for target in targets:
            target.run(arguments.replay.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("fuzz: skipped, since atheris is not installed: pip install -e '.[fuzz]' (Linux on x86-64)\n")
        return 2 if os.environ.get("CI", "").lower() in ("1", "true", "yes") else 0
    seconds = -(-len(targets) // arguments.jobs) * arguments.seconds
    _print(f"{len(targets)} targets for {arguments.seconds} s each, {arguments.jobs} at once: {seconds} s and a little more")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = list(pool.map(lambda target: _fuzz(target, arguments.seconds, is_kept=arguments.corpus), targets))
    return int(any(each.code for each in runs))


def _fuzz(target: Target, seconds: int, *, is_kept: bool) -> Run:
    """Fuzz one target, and say that it begins, and what came of it."""
    _print(f"{target.name:12} begins")
    target.folder.mkdir(parents=True, exist_ok=True)
    before = set(target.inputs())
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        found = Path(name) / "found"
        found.mkdir()
        began = time.monotonic()
        code, output = _libfuzzer(
            target,
            f"-max_total_time={seconds}",
            f"-dict={target.words}",
            f"-max_len={target.most_octets}",
            f"-artifact_prefix={target.folder}/failed-",
            "-print_final_stats=1",
            "-verbosity=0",
            str(found),
            str(target.folder),
            patience_seconds=seconds + GRACE_SECONDS,
        )
        took = time.monotonic() - began
        if is_kept and not code:
            _keep(target, found)
    failed = sorted(set(target.inputs()) - before) if code else []
    runs = next((int(one or two) for one, two in _RUNS.findall(output)), 0)
    run = Run(target, failed, runs, took, code, output)
    _say(run)
    return run


def _libfuzzer(target: Target, *words: str, patience_seconds: float) -> tuple[int, str]:
    command = [
        sys.executable, "-m", "fuzz.one",
        f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MEGABYTES}", *words,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=dict(os.environ, MAILSTACK_FUZZ_TARGET=target.name, PYTHONPATH=os.pathsep.join((str(ROOT), *sys.path))),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience_seconds,
            check=False,
            errors="replace",
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        return 1, f"{error}\n"
    return done.returncode, done.stdout


def _keep(target: Target, found: Path) -> None:
    """Add to the corpus the fewest and smallest inputs that reach what no other did."""
    _libfuzzer(target, "-merge=1", "-use_counters=0", "-verbosity=0", str(target.folder), str(found), patience_seconds=600)


def _say(run: Run) -> None:
    """Print a line, and all that is known of a failure."""
    _print(f"{run.target.name:12} {run.runs:9} inputs in {run.seconds:4.0f} s: {'FAILED' if run.code else 'good'}")
    if run.code:
        _print(run.output[-3_000:])
        for path in run.failed:
            shown = path.read_bytes()
            _print(f"{path.relative_to(ROOT)}: {shown[:1_000]!r}{' …' if len(shown) > 1_000 else ''}")


def _print(text: str) -> None:
    """Print at once, also into a pipe: who waits for minutes wants to see what goes on."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
