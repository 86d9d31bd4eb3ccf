"""The operator's command: what it does, says and returns."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mailstack.console import asking
from mailstack.console.command import main
from mailstack.directory.database import changing
from mailstack.directory.editing import find_account, list_accounts, list_aliases, list_domains, set_password
from mailstack.directory.passwords import Argon2Hasher
from mailstack.mail.scram import make_keys, parse_keys

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "house"
    result = CliRunner().invoke(main, ["init", str(folder), "--domain", "x.test"])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def house(template: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "house"
    subprocess.run(["cp", "-a", template, folder], check=True)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration is found unless a test says so."""
    monkeypatch.delenv("MAILSTACK_CONFIG", raising=False)
    monkeypatch.setattr(asking, "SYSTEM_CONFIG", tmp_path / "etc.toml")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def run(house: Path) -> Run:
    def run(*words: str, stdin: str | bytes = "", expect: int = 0) -> Result:
        result = CliRunner().invoke(main, [*words, "--config", str(house / "mailstack.toml")], input=stdin)
        assert result.exit_code == expect, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


def db(house: Path) -> Path:
    return house / "directory.db"


def is_kept_for_scram(text: str | None, password: bytes) -> bool:
    keys = parse_keys(text or "")
    assert keys is not None
    assert keys.iterations >= 4096
    return keys == make_keys(password, keys.salt, keys.iterations)


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


class TestConfiguration:
    def test_none(self) -> None:
        result = CliRunner().invoke(main, ["domain", "list"])
        assert result.exit_code == 1
        assert "no configuration: there is neither ./mailstack.toml nor" in result.stderr
        assert "mailstack init DIR" in result.stderr

    def test_in_the_current_folder(self, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(house)
        assert "x.test" in CliRunner().invoke(main, ["domain", "list"]).stdout

    def test_of_the_system(self, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asking, "SYSTEM_CONFIG", house / "mailstack.toml")
        assert "x.test" in CliRunner().invoke(main, ["domain", "list"]).stdout

    def test_of_the_environment(self, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAILSTACK_CONFIG", str(house / "mailstack.toml"))
        assert "x.test" in CliRunner().invoke(main, ["domain", "list"]).stdout

    def test_an_option_goes_before_all(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAILSTACK_CONFIG", "/nonsense")
        assert "x.test" in run("domain", "list").stdout

    def test_one_that_is_wrong_is_told_whole(self, house: Path, run: Run) -> None:
        (house / "mailstack.toml").write_text("hostnam = 5\n")
        result = run("account", "list", expect=1)
        assert "the configuration is refused; nothing was done" in result.stderr
        assert "mailstack.toml:1: hostnam: unknown key; did you mean hostname?" in result.stderr


class TestDomain:
    def test_add_list_remove(self, house: Path, run: Run) -> None:
        assert "mailstack account add somebody@y.test" in run("domain", "add", "Y.test").stdout
        assert [line.split()[:3] for line in run("domain", "list").stdout.splitlines()] == [
            ["DOMAIN", "ACCOUNTS", "ALIASES"],
            ["x.test", "0", "0"],
            ["y.test", "0", "0"],
        ]
        listed = as_json(run("domain", "list", "--json"))
        assert [(each["domain"], each["accounts"], each["aliases"]) for each in listed] == [("x.test", 0, 0), ("y.test", 0, 0)]
        assert listed[0]["created"].endswith("Z")
        run("domain", "remove", "y.test")
        assert [each.name for each in list_domains(db(house))] == ["x.test"]

    def test_errors(self, run: Run) -> None:
        assert "already there" in run("domain", "add", "x.test", expect=1).stderr
        assert "not a domain name" in run("domain", "add", "a b", expect=1).stderr
        assert "no domain z.test" in run("domain", "remove", "z.test", expect=1).stderr

    def test_one_with_accounts(self, house: Path, run: Run) -> None:
        run("account", "add", "alice@x.test", stdin="pw\n")
        run("alias", "add", "sales@x.test", "alice@x.test")
        (house / "mail" / "x.test" / "alice").mkdir(parents=True)
        assert "--force" in run("domain", "remove", "x.test", expect=1).stderr
        result = as_json(run("domain", "remove", "x.test", "--force", "--json"))
        assert result == {
            "result": "removed",
            "domain": "x.test",
            "accounts": ["alice@x.test"],
            "aliases": ["sales@x.test"],
            "remaining": str(house / "mail" / "x.test"),
        }
        assert (house / "mail" / "x.test" / "alice").is_dir(), "mail is never removed"

    def test_the_first_one_makes_the_directory(self, house: Path, run: Run) -> None:
        db(house).unlink()
        (house / "mail" / ".mailstack").unlink()
        assert "mailstack init" in run("domain", "list", expect=1).stderr
        run("domain", "add", "a b", expect=1)
        assert not db(house).exists()
        run("domain", "add", "y.test")
        assert stat.S_IMODE(db(house).stat().st_mode) == 0o600
        assert not (house / "mail" / ".mailstack").exists(), "a mail folder that is there is left alone"
        assert [each.name for each in list_domains(db(house))] == ["y.test"]

    def test_a_list_of_nothing_is_empty(self, run: Run) -> None:
        run("domain", "remove", "x.test")
        result = run("domain", "list")
        assert (result.stdout, "no domain yet" in result.stderr) == ("", True)
        assert as_json(run("domain", "list", "--json")) == []


class TestAccount:
    def test_add_list_remove(self, house: Path, run: Run) -> None:
        assert "alice@x.test can now log in" in run("account", "add", "Alice@x.test", stdin="pä ss\nmore\n").stdout
        found = find_account(db(house), "alice@x.test")
        assert Argon2Hasher().verify(found.password, "pä ss".encode())
        assert is_kept_for_scram(found.scram, "pä ss".encode())
        assert "alice@x.test  yes" in run("account", "list").stdout
        assert [(each["account"], each["enabled"]) for each in as_json(run("account", "list", "--json"))] == [
            ("alice@x.test", True)
        ]
        assert "It had no mail." in run("account", "remove", "alice@x.test").stdout
        assert list_accounts(db(house)) == []

    def test_a_list_shows_no_hashes(self, run: Run) -> None:
        run("account", "add", "alice@x.test", stdin="pw\n")
        listed = run("account", "list", "--json").stdout + run("account", "list").stdout
        assert "argon2" not in listed
        assert "SHA-256" not in listed

    def test_list_of_one_domain(self, run: Run) -> None:
        run("domain", "add", "y.test")
        for name in ("alice@x.test", "bob@y.test"):
            run("account", "add", name, stdin="pw\n")
        listed = as_json(run("account", "list", "--domain", "Y.test", "--json"))
        assert [each["account"] for each in listed] == ["bob@y.test"]

    def test_where_the_mail_remains_and_to_whom_it_goes(self, house: Path, run: Run) -> None:
        run("account", "add", "alice@x.test", stdin="pw\n")
        maildir = house / "mail" / "x.test" / "alice"
        maildir.mkdir(parents=True)
        result = as_json(run("account", "remove", "alice@x.test", "--json"))
        assert (result["remaining"], maildir.is_dir()) == (str(maildir), True)
        assert f"earlier account of this name is in {maildir}" in run("account", "add", "alice@x.test", stdin="pw\n").stdout
        assert f"remains in {maildir}" in run("account", "remove", "alice@x.test").stdout

    def test_one_to_which_aliases_lead(self, house: Path, run: Run) -> None:
        for name in ("alice@x.test", "bob@x.test"):
            run("account", "add", name, stdin="pw\n")
        run("alias", "add", "one@x.test", "alice@x.test")
        run("alias", "add", "two@x.test", "alice@x.test", "bob@x.test")
        assert "--force" in run("account", "remove", "alice@x.test", expect=1).stderr
        output = run("account", "remove", "alice@x.test", "--force").stdout
        assert "led only to it were removed: one@x.test" in output
        assert "no longer lead to it: two@x.test" in output
        assert [each.name for each in list_aliases(db(house))] == ["two@x.test"]

    def test_passwd(self, house: Path, run: Run) -> None:
        run("account", "add", "alice@x.test", stdin="old\n")
        assert "new password" in run("account", "passwd", "alice@x.test", "--password-stdin", stdin="new\r\n").stdout
        found = find_account(db(house), "alice@x.test")
        assert Argon2Hasher().verify(found.password, b"new")
        assert is_kept_for_scram(found.scram, b"new")

    def test_a_password_from_before_scram_is_shown_and_mended(self, house: Path, run: Run) -> None:
        for name in ("alice@x.test", "bob@x.test"):
            run("account", "add", name, stdin="pw\n")
        assert run("account", "list").stderr == ""
        set_password(db(house), "alice@x.test", "an old hash")
        listed = run("account", "list")
        assert re.search(r"^alice@x.test .* no$", listed.stdout, re.MULTILINE)
        assert re.search(r"^bob@x.test .* yes$", listed.stdout, re.MULTILINE)
        assert "mailstack account passwd ADDRESS" in listed.stderr
        assert [each["scram"] for each in as_json(run("account", "list", "--json"))] == [False, True]
        run("account", "passwd", "alice@x.test", "--password-stdin", stdin="pw\n")
        assert is_kept_for_scram(find_account(db(house), "alice@x.test").scram, b"pw")
        assert run("account", "list").stderr == ""

    def test_enable_and_disable(self, house: Path, run: Run) -> None:
        run("account", "add", "alice@x.test", stdin="pw\n")
        assert "Its mail is still accepted" in run("account", "disable", "alice@x.test").stdout
        assert not find_account(db(house), "alice@x.test").enabled
        assert "alice@x.test  no" in run("account", "list").stdout
        assert as_json(run("account", "enable", "alice@x.test", "--json")) == {"result": "enabled", "account": "alice@x.test"}
        assert find_account(db(house), "alice@x.test").enabled

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("add", "alice"), "is not an address"),
            (("add", "a/../x@x.test"), "is not an address"),
            (("add", "a/x@x.test"), "cannot be the name of an account"),
            (("add", "alice@y.test"), "mailstack domain add y.test"),
            (("add", "bob@x.test"), "mailstack account passwd bob@x.test"),
            (("passwd", "carol@x.test"), "mailstack account list"),
            (("enable", "carol@x.test"), "no account carol@x.test"),
            (("disable", "carol@x.test"), "no account carol@x.test"),
            (("remove", "carol@x.test"), "no account carol@x.test"),
        ],
    )
    def test_refused_before_a_password_is_asked_for(self, run: Run, words: tuple[str, ...], said: str) -> None:
        run("account", "add", "bob@x.test", stdin="pw\n")
        assert said in run("account", *words, stdin="", expect=1).stderr

    @pytest.mark.parametrize(
        ("stdin", "said"),
        [
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"\r\nx\n", "is empty"),
            (b"x" * 1025, "longer than 1024"),
            (b"x" * 100_000 + b"\n", "longer than 1024"),
            (b"a\0b\n", "control character"),
            (b"a\tb\n", "control character"),
        ],
    )
    def test_passwords_that_are_none(self, house: Path, run: Run, stdin: bytes, said: str) -> None:
        assert said in run("account", "add", "alice@x.test", stdin=stdin, expect=1).stderr
        assert list_accounts(db(house)) == []

    def test_the_longest_password(self, house: Path, run: Run) -> None:
        run("account", "add", "alice@x.test", stdin=b"x" * 1024 + b"\r\n")
        assert Argon2Hasher().verify(find_account(db(house), "alice@x.test").password, b"x" * 1024)

    def test_a_password_is_no_argument(self, run: Run) -> None:
        run("account", "add", "alice@x.test", "secret", expect=2)
        run("account", "add", "alice@x.test", "--password", "secret", expect=2)


class Terminal:
    """The real command on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from mailstack.console.command import main; main(prog_name='mailstack')", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            close_fds=True,
        )
        os.close(theirs)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        while text not in self.seen:
            try:
                octets = os.read(self._ours, 1024)
            except OSError:  # EIO: the other side is closed
                octets = b""
            assert octets, self.seen
            self.seen += octets
        self.seen = self.seen.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self._ours, text + b"\n")

    def end(self) -> int:
        try:
            while octets := os.read(self._ours, 1024):
                self.seen += octets
        except OSError:
            pass
        os.close(self._ours)
        return self.process.wait(30)


class TestTerminal:
    def test_a_password_is_asked_for_twice_and_not_shown(self, house: Path) -> None:
        terminal = Terminal("account", "add", "alice@x.test", "--config", str(house / "mailstack.toml"))
        terminal.expect(b"New password of alice@x.test: ")
        terminal.type(b"secret")
        terminal.expect(b"Again: ")
        terminal.type(b"sceret")
        terminal.expect(b"do not match")
        terminal.expect(b"New password of alice@x.test: ")
        terminal.type("gehäim".encode())
        terminal.expect(b"Again: ")
        terminal.type("gehäim".encode())
        terminal.expect(b"can now log in")
        assert terminal.end() == 0
        assert b"secret" not in terminal.seen
        assert Argon2Hasher().verify(find_account(db(house), "alice@x.test").password, "gehäim".encode())

    def test_nothing_is_asked_when_it_would_be_in_vain(self, house: Path) -> None:
        terminal = Terminal("account", "add", "alice@y.test", "--config", str(house / "mailstack.toml"))
        terminal.expect(b"not a domain of ours")
        assert terminal.end() == 1

    def test_standard_input_although_it_is_a_terminal(self, house: Path) -> None:
        terminal = Terminal("account", "add", "a@x.test", "--password-stdin", "--config", str(house / "mailstack.toml"))
        terminal.type(b"secret")
        terminal.expect(b"can now log in")
        assert terminal.end() == 0


class TestAlias:
    def test_add_list_remove(self, house: Path, run: Run) -> None:
        assert "now leads to a@o.test, b@o.test" in run("alias", "add", "Sales@x.test", "a@o.test", "b@o.test").stdout
        run("alias", "add", "*@x.test", "sales@x.test")
        assert as_json(run("alias", "list", "--json")) == [
            {"alias": "*@x.test", "targets": ["sales@x.test"]},
            {"alias": "sales@x.test", "targets": ["a@o.test", "b@o.test"]},
        ]
        assert "sales@x.test  a@o.test, b@o.test" in run("alias", "list").stdout
        run("alias", "remove", "*@x.test")
        assert as_json(run("alias", "remove", "sales@x.test", "--json"))["alias"] == "sales@x.test"
        assert list_aliases(db(house)) == []

    def test_replace(self, run: Run) -> None:
        run("alias", "add", "sales@x.test", "a@o.test")
        assert "--replace" in run("alias", "add", "sales@x.test", "b@o.test", expect=1).stderr
        assert as_json(run("alias", "add", "sales@x.test", "b@o.test", "--replace", "--json"))["targets"] == ["b@o.test"]

    @pytest.mark.parametrize(
        ("words", "expect"), [(("sales@x.test",), 2), (("sales@x.test", "nobody@x.test"), 1), (("x", "a@o.test"), 1)]
    )
    def test_refused(self, run: Run, words: tuple[str, ...], expect: int) -> None:
        assert run("alias", "add", *words, expect=expect).stderr

    def test_a_target_that_only_the_transports_know(self, house: Path, run: Run) -> None:
        assert "does not exist here" in run("alias", "add", "team@x.test", "shop@x.test", expect=1).stderr
        config = house / "mailstack.toml"
        config.write_text(f'{config.read_text()}\n[transport]\n"shop@x.test" = "lmtp:unix:/run/shop"\n')
        assert "now leads to shop@x.test" in run("alias", "add", "team@x.test", "shop@x.test").stdout

    def test_the_delimiter_of_the_configuration_counts(self, house: Path, run: Run) -> None:
        run("account", "add", "alice@x.test", stdin="pw\n")
        run("alias", "add", "one@x.test", "alice+x@x.test")
        config = house / "mailstack.toml"
        config.write_text(config.read_text().replace('#subaddress_delimiter = "+"', 'subaddress_delimiter = "-"'))
        run("alias", "add", "two@x.test", "alice+x@x.test", expect=1)
        run("alias", "add", "two@x.test", "alice-x@x.test")


class TestFailures:
    def test_a_file_that_may_not_be_touched_is_told_without_a_traceback(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", "/x/directory.db")

        monkeypatch.setattr("mailstack.directory.editing.list_domains", refuse)
        assert run("domain", "list", expect=1).stderr == "mailstack: /x/directory.db: Permission denied.\n"

    def test_a_busy_directory(self, house: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mailstack.directory.database.BUSY_SECONDS", 0.01)
        with changing(db(house)):
            assert "Try again" in run("domain", "add", "y.test", expect=1).stderr


class TestHelp:
    @pytest.mark.parametrize(
        "words",
        [
            (),
            ("init",),
            ("check",),
            ("demo",),
            ("domain",),
            *(("domain", each) for each in ("add", "list", "remove")),
            ("account",),
            *(("account", each) for each in ("add", "list", "remove", "passwd", "enable", "disable")),
            ("alias",),
            *(("alias", each) for each in ("add", "list", "remove")),
        ],
    )
    def test_every_command_explains_itself(self, words: tuple[str, ...]) -> None:
        result = CliRunner().invoke(main, [*words, "--help"])
        assert result.exit_code == 0
        is_group = words in ((), ("domain",), ("account",), ("alias",))
        assert "Commands:" in result.stdout if is_group else "Example" in result.stdout
        assert "..." not in result.stdout.replace("COMMAND [ARGS]...", "").replace("TARGETS...", ""), "no sentence is cut"

    def test_version(self) -> None:
        assert CliRunner().invoke(main, ["--version"]).stdout.startswith("mailstack, version ")

    def test_unknown_words_are_not_understood(self) -> None:
        assert CliRunner().invoke(main, ["acount"]).exit_code == 2

    def test_it_answers_at_once(self) -> None:
        """What is slow to import is imported by the command that needs it."""
        heavy = "twisted pydantic cryptography argon2 sqlite3 OpenSSL rich"
        code = f"import sys, mailstack.console.command; print(*[m for m in {heavy!r}.split() if m in sys.modules])"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == ""
