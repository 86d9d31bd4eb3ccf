"""
What the README says is true: its commands work from a fresh clone, its configurations load, and its example is a plugin.

Every command is either run here, or stands in NEEDS_A_REAL_HOST with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.certificates import make_certificate
from harness.house import BIN, House, free_base_port
from harness.programs import accepts, run, wait_for

from mailstack.settings import load

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "tests" / "example_plugin"

NEEDS_A_REAL_HOST = {
    "make test": "this test is part of it",
    "python3 -m venv /opt/mailstack": "writes to /opt; test_packaging installs into an environment",
    "/opt/mailstack/bin/pip install .": "likewise",
    "/opt/mailstack/bin/twistd --help": "likewise",
    "useradd ": "makes a system user",
    "install -d -o mailstack": "needs that user",
    "certbot ": "asks a certificate authority about a public name",
    "runuser -u mailstack": "needs that user; test_the_installation_on_a_real_host does it without",
    "mv /var/lib/mailstack/mailstack.toml ": "writes to /etc",
    "/opt/mailstack/bin/mailstack check": "test_the_installation_on_a_real_host does it in another place",
    "cp etc/mailstack.service ": "writes to /etc",
    "systemctl ": "needs systemd as the first process",
}
"""The beginning of a command, and why it is not run here."""


OF_AN_OUTER_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "VENV", "VAR", "BASE_PORT", "CRASH_ROUNDS")
CLEAN = {name: value for name, value in os.environ.items() if name not in OF_AN_OUTER_MAKE}


def blocks(*languages: str) -> list[str]:
    """Return the fenced blocks of these languages."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the commands of console blocks, in order."""
    lines = "".join(blocks("console", "sh", "bash")).replace("\\\n", " ").splitlines()
    return [re.sub(r"^[$#] ", "", line) for line in lines if line.strip()]


def is_run(command: str) -> bool:
    return not any(command.startswith(start) for start in NEEDS_A_REAL_HOST)


def test_every_command_is_accounted_for() -> None:
    assert [command for command in commands() if is_run(command)] == ["make run", ".venv/bin/mailstack demo var"]
    unused = [start for start in NEEDS_A_REAL_HOST if not any(command.startswith(start) for command in commands())]
    assert unused == [], "an excuse for a command that is not in the README"


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Clone the repository, with what is not committed yet."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, folder], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class Foreground:
    """A command in the foreground of a terminal of its own, as it were."""

    def __init__(self, command: str, folder: Path, env: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"], cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True
            )

    def ctrl_c(self) -> int:
        """Do what the terminal does: tell the whole group; return the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)


@pytest.mark.timeout(600)
def test_the_commands_work_in_a_fresh_clone(clone: Path, tmp_path: Path) -> None:
    """Run them in order; `make run` twice, since the second finds its state again and builds nothing."""
    base = free_base_port()
    env = {**CLEAN, "BASE_PORT": str(base)}
    printed: list[str] = []
    for turn in range(2):
        began = time.monotonic()
        server = Foreground("make run", clone, env, tmp_path / f"run{turn}.log")
        try:

            def is_up(running: Foreground = server) -> bool:
                assert running.process.poll() is None, running.log.read_text(errors="replace")
                return all(accepts(base + offset) for offset in (25, 110, 465, 587, 995))

            wait_for(is_up, "the demonstration server accepts", timeout_seconds=500 if turn == 0 else 20)
            took_seconds = time.monotonic() - began
            (rest,) = [command for command in commands() if is_run(command) and command != "make run"]
            shown = subprocess.run(["/bin/sh", "-c", rest], cwd=clone, env=env, capture_output=True, text=True, check=True)
            printed.append(shown.stdout)
        finally:
            code = server.ctrl_c()
        text = server.log.read_text(errors="replace")
        assert "Traceback" not in text
        assert "stopped" in text, "it ended in good order"
        assert code in (0, 2, -signal.SIGINT), "make itself says that it was interrupted"
        assert "curl" in text, "the lines to paste are printed before it runs"
        if turn == 1:
            assert "pip install" not in text
            assert took_seconds < 15
    assert printed[0] == printed[1], "the same accounts with the same passwords"


def test_an_old_python_is_refused_with_a_reason(clone: Path, tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "run", f"PYTHON={old}"], cwd=clone, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_is_refused_with_what_to_install(clone: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python-bare"
    bare.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) exit 0;; esac\n')
    bare.chmod(0o755)
    done = subprocess.run(["make", "run", f"PYTHON={bare}"], cwd=clone, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stderr


def test_the_installation_on_a_real_host(tmp_path: Path) -> None:
    """Do the steps of the operator's command in another place, as another user, with another certificate."""
    etc, lib = tmp_path / "etc", tmp_path / "lib"

    def here(text: str) -> str:
        return text.replace("/etc/mailstack", str(etc)).replace("/var/lib/mailstack", str(lib))

    def do(command: str, octets: bytes = b"") -> None:
        _, _, words = command.partition("/opt/mailstack/bin/")
        env = {**CLEAN, "MAILSTACK_CONFIG": str(etc / "mailstack.toml")}
        run([BIN / word if n == 0 else word for n, word in enumerate(here(words).split())], octets=octets, env=env)

    steps = [command for command in commands() if "/opt/mailstack/bin/mailstack " in command]
    assert [step.partition("bin/mailstack ")[2].split()[0] for step in steps] == ["init", "account", "alias", "check"]
    certificate = make_certificate(etc, "mail.example.org")
    certificate.chain.rename(etc / "fullchain.pem")
    certificate.key.rename(etc / "privkey.pem")
    do(steps[0])
    (lib / "mailstack.toml").rename(etc / "mailstack.toml")
    (text,) = [block for block in blocks("toml") if "hostname" in block]
    (etc / "mailstack.toml").write_text(here(text))
    for step in steps[1:]:
        do(step, b"a-password\n")
    settings = load(etc / "mailstack.toml")
    assert {endpoint.port for _, endpoint in settings.listen.each()} == {25, 465, 587, 995}


def test_the_example_is_the_plugin_and_its_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, its_test = blocks("python")
    assert plugin == (EXAMPLE / "mailstack" / "plugins" / "blocked_domains.py").read_text()
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(plugin, "README.md", "exec"), names)
    exec(compile(its_test, "README.md", "exec"), names)


@pytest.fixture
def installed_plugin(tmp_path: Path) -> Path:
    """Install the example as its author would, into a folder."""
    folder, copy = tmp_path / "installed", tmp_path / "source"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    quiet = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", folder, copy], check=True, capture_output=True)
    return folder


def test_the_example_runs_in_a_server(installed_plugin: Path, tmp_path: Path) -> None:
    (configuration,) = [block for block in blocks("toml") if "[policy]" in block]
    env = {"PYTHONPATH": str(installed_plugin)}
    with House(tmp_path / "var", change=lambda text: text.replace("[policy]\n", configuration, 1), env=env) as house:
        bob = house.person("bob")
        with house.smtp() as client:
            client.ehlo()
            code, text = client.mail("someone@spam.example")
            assert (code, text) == (550, b"5.7.1 We take no mail from spam.example")
            assert client.mail("someone@friend.example")[0] == 250
            assert client.rcpt(bob.address)[0] == 250
