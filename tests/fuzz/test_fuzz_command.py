"""The command line of the fuzzer."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from fuzz import __main__ as command
from fuzz import target
from fuzz.targets import TARGETS


def test_the_list_names_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.split("\n")[:-1]] == list(TARGETS)


@pytest.mark.parametrize("words", [["smpt-server"], ["--seconds", "0"], ["--jobs", "0"]])
def test_what_cannot_be_done_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    assert capsys.readouterr().err.startswith("fuzz: ")


def test_one_input_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"a@b.example")
    assert command.main(["address", "--replay", str(file)]) == 0
    monkeypatch.setitem(TARGETS, "address", target.Target("address", "", lambda octets: exec("raise ZeroDivisionError")))
    with pytest.raises(ZeroDivisionError):
        command.main(["address", "--replay", str(file)])


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 2)])
def test_only_ci_cannot_do_without_atheris(ci: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main(["address"]) == code


class TestRuns:
    @pytest.fixture(autouse=True)
    def _atheris(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run no libFuzzer, and have a corpus of one's own."""
        self.said: list[tuple[str, tuple[str, ...]]] = []
        self.code = 0
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        monkeypatch.setattr(target, "FOLDER", tmp_path)
        monkeypatch.setattr(command, "ROOT", tmp_path)
        monkeypatch.setattr(command, "_libfuzzer", self.libfuzzer)

    def libfuzzer(self, one: target.Target, *words: str, patience_seconds: float) -> tuple[int, str]:
        self.said.append((one.name, words))
        prefix = next((word.partition("=")[2] for word in words if word.startswith("-artifact_prefix")), "")
        if self.code and prefix:
            Path(prefix + "crash-1").write_bytes(b"oh\0no")
        return self.code, "Done 42 runs in 1 second(s)\n"

    def test_each_has_the_whole_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["--seconds", "120", "--jobs", "2"]) == 0
        assert sorted(name for name, _ in self.said) == sorted(TARGETS)
        assert {words[0] for _, words in self.said} == {"-max_total_time=120"}
        output = capsys.readouterr().out
        assert f"{120 * -(-len(TARGETS) // 2)} s" in output.split("\n", 1)[0], "how long it will take"
        assert len(re.findall(r" 42 inputs in .*: good\n", output)) == len(TARGETS)

    def test_who_watches_sees_what_goes_on(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[str] = []

        def libfuzzer(*_: object, patience_seconds: float) -> tuple[int, str]:
            seen.append(capsys.readouterr().out)
            return 0, ""

        monkeypatch.setattr(command, "_libfuzzer", libfuzzer)
        assert command.main(["address", "dsn", "--seconds", "1", "--jobs", "1"]) == 0
        assert [text.split("\n")[-2].split() for text in seen] == [["address", "begins"], ["dsn", "begins"]]
        assert "address" in seen[1].split("\n")[0], "the first has ended"

    def test_what_fails_is_kept_and_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.code = 77
        assert command.main(["address", "dsn", "--seconds", "2"]) == 1
        output = capsys.readouterr().out
        assert output.count("FAILED") == 2
        assert "corpus/address/failed-crash-1: b'oh\\x00no'" in output

    def test_what_reaches_more_is_kept_when_that_is_wanted(self) -> None:
        command.main(["address", "--seconds", "2"])
        command.main(["address", "--seconds", "2", "--corpus"])
        assert ["-merge=1" in words for _, words in self.said] == [False, False, True]
