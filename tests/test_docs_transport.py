"""docs/transport.md: each of its configurations loads, and each pattern and transport is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mailstack.mail.address import parse_address
from mailstack.route.transport import Error, TransportMap, parse_pattern, parse_transport
from mailstack.settings import load

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "transport.md").read_text()
CONFIGURATIONS = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def column(head: str) -> list[str]:
    """Return the code in the first column of the table with that head."""
    (table,) = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_configurations_load(tmp_path: Path, text: str) -> None:
    (tmp_path / "provider.password").write_text("secret\n")
    (tmp_path / "provider.password").chmod(0o600)
    (tmp_path / "c").write_text(f'hostname = "mail.example.org"\n{text}')
    load(tmp_path / "c")


@pytest.mark.parametrize("text", column("transport"))
def test_transports(text: str) -> None:
    assert str(parse_transport(text)).replace("[127.0.0.1]", "127.0.0.1") == text


def test_patterns() -> None:
    patterns = column("pattern")
    assert len(patterns) == 5
    parsed = {parse_pattern(each): parse_transport(f"smtp:[h{number}]") for number, each in enumerate(patterns)}
    transports = TransportMap(parsed)
    for number, address in enumerate(
        ["alice+tag@example.org", "alice+x@example.org", "bob@example.org", "bob@a.example.org", "x@a.test"]
    ):
        assert str(transports.of(parse_address(address), is_ours=False)) == f"smtp:[h{number}]"


def test_what_is_said_of_errors() -> None:
    kinds = {parse_transport(each).status.is_permanent for each in column("transport") if each.startswith("error")}  # type: ignore[union-attr]
    assert kinds == {True, False}
    assert all(isinstance(parse_transport(each), Error) for each in column("transport") if each.startswith("error"))
