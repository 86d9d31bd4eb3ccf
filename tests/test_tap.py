"""Which service the settings ask for, and where twistd logs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from twisted.application.service import Application, IServiceCollection
from twisted.logger import ILogObserver
from twisted.scripts.twistd import ServerOptions

from mailstack.console.command import main
from mailstack.loglines import LineObserver
from mailstack.system import MailSystem
from mailstack.tap import _logs_to_stdout, makeService
from mailstack.workers.parent import Workers


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tap") / "house"
    assert CliRunner().invoke(main, ["init", str(folder), "--demo"]).exit_code == 0
    return folder


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "house") / "mailstack.toml"


@pytest.mark.parametrize(
    ("words", "is_shared"),
    [
        (["-n"], True),
        (["-n", "--logfile", "-"], True),
        (["-n", "--logfile", "twistd.log"], False),
        (["-n", "--syslog"], False),
        (["-n", "--logger", "twisted.logger.textFileLogObserver"], False),
        ([], False),
        (["--logfile", "twistd.log"], False),
    ],
)
def test_the_log_is_shared_where_it_is_standard_output(words: list[str], is_shared: bool, config: Path) -> None:
    options = ServerOptions()
    options.parseOptions([*words, "mailstack", "--config", str(config)])
    assert _logs_to_stdout(options.subOptions.parent) == is_shared


def test_without_twistd_it_is_not() -> None:
    assert not _logs_to_stdout(None)


@pytest.mark.parametrize(("workers", "kind"), [("1", MailSystem), ("2", Workers)])
def test_one_worker_is_no_worker(workers: str, kind: type, config: Path) -> None:
    config.write_text(config.read_text().replace("#workers = 1", f"workers = {workers}"))
    options = ServerOptions()
    options.parseOptions(["--logfile", "twistd.log", "mailstack", "--config", str(config)])
    assert type(makeService(options.subOptions)) is kind


def test_the_lines_of_a_log_on_standard_output_are_ours(config: Path) -> None:
    options = ServerOptions()
    options.parseOptions(["-n", "mailstack", "--config", str(config)])
    application = Application("mailstack")
    makeService(options.subOptions).setServiceParent(application)
    assert isinstance(application.getComponent(ILogObserver), LineObserver)
    ((service,),) = [list(outer) for outer in IServiceCollection(application)]
    assert type(service) is MailSystem
