"""The commands of docs/queue.md are run, in order, on a server in which there is mail for each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.house import BIN, House, with_lines
from harness.programs import open_folder, run, wait_for
from test_queue_commands import NextHost, listed, submit

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "queue.md").read_text()
EXAMPLE = "1k52wm9h0000g"
NOTHING_IS_SELECTED = ("--sender @example.com", "--sender @spam.example", "reroute --domain example.net --back")
"""What the page selects by and nobody here has sent, or was not rerouted: the command says so by its exit code."""


def commands() -> list[str]:
    """Return the commands of console blocks, in order."""
    lines = "".join(re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    return [line.removeprefix("$ ") for line in lines]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Give a running house whose next host puts everything off."""
    next_host = NextHost()
    change = with_lines("relay", f'smarthost = "127.0.0.1:{next_host.port}"')
    with open_folder("docs") as path, House(path / "var", change=change) as made:
        yield made
    next_host.shutdown()
    next_host.server_close()


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page(command: str, house: House) -> None:
    if not listed(house, "--domain", "example.net", "--state", "delayed"):
        submit(house, "bob@example.net")
        wait_for(lambda: listed(house, "--domain", "example.net", "--state", "delayed"), "a message waits")
    name = listed(house, "--domain", "example.net")[0]["id"]
    words = shlex.split(command.replace(EXAMPLE, name))
    assert words[:2] == ["mailstack", "queue"]
    is_nothing = any(each in command for each in NOTHING_IS_SELECTED)
    done = run(
        [BIN / words[0], *words[1:]],
        octets=b"y\n",
        env={**house.env, "MAILSTACK_CONFIG": str(house.config)},
        expect=3 if is_nothing else 0,
    )
    assert done.stdout or is_nothing or "no mail" in done.stderr.decode().lower()


def test_what_is_found_is_handed_on(house: House) -> None:
    """The line for a shell; here all mail came from this machine."""
    submit(house, "bob@example.net")
    wait_for(lambda: listed(house, "--domain", "example.net", "--state", "delayed"), "a message waits")
    (line,) = re.findall(r"^```sh\n(.*)\n```$", PAGE, re.MULTILINE)
    env = {**house.env, "MAILSTACK_CONFIG": str(house.config), "PATH": f"{BIN}:/usr/bin:/bin"}
    done = run(["sh", "-c", line.replace("192.0.2.0/24", "127.0.0.0/8")], env=env)
    assert b"held" in done.stdout
    assert not listed(house, "--state", "delayed")


def test_the_page_names_every_command_and_every_state(house: House) -> None:
    help_text = run([BIN / "mailstack", "queue", "--help"]).stdout.decode()
    names = re.findall(r"^  (\w+) ", help_text.partition("Commands:\n")[2].partition("\n\n")[0], re.MULTILINE)
    assert len(names) == 12
    assert {words[2] for words in map(shlex.split, commands())} == set(names)
    for state in ("new", "delayed", "unreported", "held", "corrupt"):
        assert f"\n| {state} |" in PAGE
