"""`mailstack check` on a spool that the server would refuse."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailstack.console.command import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoiled") / "demo"
    assert CliRunner().invoke(main, ["init", str(folder), "--demo"]).exit_code == 0
    return folder


def _shard(spool: Path) -> Path:
    (spool / "shard-1").mkdir(mode=0o700)
    return spool / "shard-1" / "spool.db"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda spool: (spool / "spool.db").write_bytes(b"garbage"), "not a database"),
        (lambda spool: shutil.copy(spool.parent / "directory.db", spool / "spool.db"), "is not a spool"),
        (lambda spool: (spool / "spool.db").mkdir(), "there is a directory"),
        (lambda spool: (spool / "content").write_bytes(b""), "there is no directory"),
        (lambda spool: (spool / "lock").symlink_to("/nowhere"), "there is a link"),
        (lambda spool: (spool / "shard-3").write_bytes(b""), "shard-3: is no directory"),
        (lambda spool: _shard(spool).write_bytes(b"garbage"), "shard-1/spool.db: file is not a database"),
    ],
)
def test_what_would_refuse_the_start_is_found(spoil: Callable[[Path], object], why: str, made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "demo"))
    folder.chmod(0o700)
    spoil(folder / "spool")

    result = CliRunner().invoke(main, ["check", "--config", str(folder / "mailstack.toml")])

    assert result.exit_code == 1
    assert why in result.output
    assert "mailstack.toml:13: folder: " in result.output
    assert "move it away" in result.output or "restore it" in result.output


def test_a_spool_that_cannot_be_looked_at_is_said_to_be(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13), str(self))

    folder = Path(shutil.copytree(made, tmp_path / "demo"))
    folder.chmod(0o700)
    (folder / "spool" / "spool.db").write_bytes(b"")
    monkeypatch.setattr("mailstack.spool.inspection._header", unreadable)

    result = CliRunner().invoke(main, ["check", "--config", str(folder / "mailstack.toml")])

    assert result.exit_code == 1
    assert "spool.db cannot be read: Permission denied" in result.output
