"""`mailstack init`, `check` and `demo`: what they make, find and print."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from mailstack.console import init as init_module
from mailstack.console.asking import Refused
from mailstack.console.certificates import make_authority, make_server
from mailstack.console.command import main
from mailstack.console.demo import paste_lines
from mailstack.directory.database import create
from mailstack.directory.editing import find_account, list_accounts, list_domains
from mailstack.directory.passwords import Argon2Hasher
from mailstack.settings import load, read_secrets


def run(*words: str | Path, expect: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == expect, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "demo"
    old = os.umask(0)
    try:
        run("init", folder, "--demo")
    finally:
        os.umask(old)
    return folder


@pytest.fixture
def house(made: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", made, tmp_path / "house"], check=True)
    return tmp_path / "house"


class TestInit:
    def test_modes_whatever_the_umask(self, made: Path) -> None:
        assert {str(path.relative_to(made)): f"{mode(path):o}" for path in (made, *made.rglob("*"))} == {
            ".": "700",
            "mailstack.toml": "600",
            "demo.json": "600",
            "directory.db": "600",
            "srs.secret": "600",
            "spool": "700",
            "mail": "700",
            "mail/.mailstack": "600",
            "tls": "700",
            "tls/ca.pem": "644",
            "tls/ca.key": "600",
            "tls/server.pem": "644",
            "tls/server.key": "600",
        }

    def test_the_configuration_of_a_demonstration(self, made: Path) -> None:
        settings = load(made / "mailstack.toml")
        assert settings.hostname == "mail.example.test"
        assert settings.folder == made
        assert settings.postmaster == "alice@example.test"
        assert {service.value: str(endpoint) for service, endpoint in settings.listen.each()} == {
            "smtp": "127.0.0.1:2025",
            "submission": "127.0.0.1:2587",
            "submissions": "127.0.0.1:2465",
            "pop3": "127.0.0.1:2110",
            "pop3s": "127.0.0.1:2995",
        }

    def test_accounts_of_a_demonstration(self, made: Path) -> None:
        facts = json.loads((made / "demo.json").read_bytes())
        assert facts == {
            "hostname": "mail.example.test",
            "accounts": [
                {"address": "alice@example.test", "password": facts["accounts"][0]["password"]},
                {"address": "bob@example.test", "password": facts["accounts"][1]["password"]},
            ],
            "ports": {"smtp": 2025, "submission": 2587, "submissions": 2465, "pop3": 2110, "pop3s": 2995},
            "ca": str(made / "tls" / "ca.pem"),
        }
        passwords = [each["password"] for each in facts["accounts"]]
        assert len(set(passwords)) == 2
        assert all(re.fullmatch(r"[A-Za-z2-9]{16}", each) for each in passwords)
        for each in facts["accounts"]:
            found = find_account(made / "directory.db", each["address"])
            assert Argon2Hasher().verify(found.password, each["password"].encode())
            assert found.scram

    def test_a_real_one(self, made: Path, tmp_path: Path) -> None:
        output = run("init", tmp_path / "a" / "b", "--domain", "Example.org").stdout
        folder = tmp_path / "a" / "b"
        settings = load(folder / "mailstack.toml")
        assert settings.hostname == "mail.example.org"
        assert settings.postmaster is None
        assert settings.srs.domain == "example.org"
        assert read_secrets(folder / "srs.secret") != read_secrets(made / "srs.secret")
        assert {endpoint.port for _, endpoint in settings.listen.each()} == {25, 587, 465, 110, 995}
        assert {endpoint.host for _, endpoint in settings.listen.each()} == {"127.0.0.1"}, "loopback until told otherwise"
        assert '# smtp = ["0.0.0.0:25", "[::]:25"]' in (folder / "mailstack.toml").read_text(), "it says how to open up"
        assert [each.name for each in list_domains(folder / "directory.db")] == ["example.org"]
        assert list_accounts(folder / "directory.db") == []
        assert not (folder / "demo.json").exists()
        assert f"mailstack account add somebody@example.org --config {folder}/mailstack.toml" in output
        run("check", "--config", folder / "mailstack.toml")

    @pytest.mark.parametrize(
        ("words", "hostname", "domain"),
        [
            (("--hostname", "mx1.example.org"), "mx1.example.org", "example.org"),
            (("--hostname", "localhost"), "localhost", "localhost"),
            (("--hostname", "mx.a.test", "--domain", "b.test"), "mx.a.test", "b.test"),
            (("--demo", "--domain", "b.test"), "mail.b.test", "b.test"),
        ],
    )
    def test_names(self, tmp_path: Path, words: tuple[str, ...], hostname: str, domain: str) -> None:
        facts = json.loads(run("init", tmp_path / "h", *words, "--base-port", "30000", "--json").stdout)
        assert (facts["result"], facts["hostname"], facts["domain"]) == ("made", hostname, domain)
        assert facts["ports"] == {"smtp": 30025, "submission": 30587, "submissions": 30465, "pop3": 30110, "pop3s": 30995}
        assert facts["config"] == str(tmp_path / "h" / "mailstack.toml")

    def test_without_a_name(self, tmp_path: Path) -> None:
        assert "--domain" in run("init", tmp_path / "h", expect=2).stderr
        assert not (tmp_path / "h").exists()

    @pytest.mark.parametrize(
        "words", [("--domain", "a b"), ("--domain", "[127.0.0.1]"), ("--hostname", "_x", "--domain", "x.test")]
    )
    def test_a_name_that_is_none(self, tmp_path: Path, words: tuple[str, ...]) -> None:
        assert "nothing was made" in run("init", tmp_path / "h", *words, expect=1).stderr
        assert not (tmp_path / "h").exists()

    @pytest.mark.parametrize("port", ["-1", "64541", "x"])
    def test_a_base_port_that_is_none(self, tmp_path: Path, port: str) -> None:
        run("init", tmp_path / "h", "--demo", "--base-port", port, expect=2)

    def test_an_empty_folder_is_taken_and_closed(self, tmp_path: Path) -> None:
        (tmp_path / "h").mkdir(mode=0o755)
        run("init", tmp_path / "h", "--demo")
        assert mode(tmp_path / "h") == 0o700

    def test_a_second_time_changes_nothing(self, house: Path) -> None:
        before = state(house)
        assert "already holds an installation; nothing was changed" in run("init", house, "--demo").stdout
        assert json.loads(run("init", house, "--domain", "other.test", "--json").stdout)["result"] == "unchanged"
        assert state(house) == before

    @pytest.mark.parametrize("name", ["file", ".hidden", "mailstack.toml", "directory.db"])
    def test_a_folder_of_somebody_else_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("mine")
        before = state(tmp_path)
        result = run("init", tmp_path, "--demo", expect=1)
        assert f"is not empty (it holds {name})" in result.stderr
        assert state(tmp_path) == before

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("mine")
        assert "is not a folder" in run("init", tmp_path / "f", "--demo", expect=1).stderr

    @pytest.mark.parametrize("exists", [False, True])
    @pytest.mark.parametrize("step", ["_make_certificates", "_make_demo", "_configuration", "_sync"])
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_what_fails_in_the_middle_is_taken_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, exists: bool, error: BaseException
    ) -> None:
        def fail(*_: object) -> None:
            raise error

        folder = tmp_path / "h"
        if exists:
            folder.mkdir()
        monkeypatch.setattr(init_module, step, fail)
        result = CliRunner().invoke(main, ["init", str(folder), "--demo"])
        assert result.exit_code == 1
        if isinstance(error, OSError):
            assert "nothing was made" in result.stderr
            assert "No space left on device" in result.stderr
        assert folder.exists() == exists
        assert not exists or list(folder.iterdir()) == []

    def test_of_two_at_the_same_time_one_does_not_remove_what_the_other_makes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "h"
        plan = init_module._plan(folder, "a.test", "a.test", is_demo=True, base_port=None)
        run("init", folder, "--demo")
        before = state(folder)
        with pytest.raises(FileExistsError):
            init_module._make(plan)
        assert state(folder) == before


class TestCertificates:
    @pytest.fixture
    def server(self, made: Path) -> x509.Certificate:
        return x509.load_pem_x509_certificate((made / "tls" / "server.pem").read_bytes())

    def test_lifetime(self, server: x509.Certificate) -> None:
        assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 825
        assert server.not_valid_before_utc < datetime.now(UTC)

    def test_names(self, server: x509.Certificate) -> None:
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["mail.example.test", "localhost"]
        assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]

    def test_a_long_name_fits(self) -> None:
        hostname = ".".join(["a" * 60] * 4)
        pair = make_server(make_authority(hostname, 0.0), hostname, 0.0)
        names = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName)[0] == hostname

    @pytest.mark.parametrize("name", ["mail.example.test", "localhost", "127.0.0.1", "::1"])
    def test_a_client_that_trusts_the_authority_trusts_the_server(self, made: Path, name: str) -> None:
        assert _handshake(made, made / "tls" / "ca.pem", name)

    def test_no_other_name(self, made: Path) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
            _handshake(made, made / "tls" / "ca.pem", "example.test")

    def test_nobody_else_trusts_it(self, made: Path) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            _handshake(made, None, "localhost")

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
    def test_openssl_finds_the_chain_strictly_right(self, made: Path) -> None:
        tls = made / "tls"
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", tls / "ca.pem", tls / "server.pem"]
        subprocess.run(command, check=True, capture_output=True)


def _handshake(made: Path, ca: Path | None, name: str) -> bool:
    """Let a client and a server of the standard library shake hands in memory."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(made / "tls" / "server.pem", made / "tls" / "server.key")
    client_context = ssl.create_default_context(cafile=ca)
    if hasattr(ssl, "VERIFY_X509_STRICT"):
        client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, there, server_hostname=name)
    server = server_context.wrap_bio(there, back, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    return len(done) == 2


class TestCheck:
    def problems(self, house: Path) -> list[str]:
        result = run("check", "--config", house / "mailstack.toml", expect=1)
        assert result.stdout == ""
        lines = result.stderr.rstrip("\n").split("\n")
        assert all(line.startswith(f"{house}/mailstack.toml:") for line in lines)
        return [line.removeprefix(f"{house}/mailstack.toml:") for line in lines]

    def change(self, house: Path, old: str, new: str) -> int:
        """Change the configuration and return the line."""
        config = house / "mailstack.toml"
        text = config.read_text()
        assert text.count(old) == 1
        config.write_text(text.replace(old, new))
        return text[: text.index(old)].count("\n") + 1

    def test_ok(self, house: Path) -> None:
        before = state(house)
        output = run("check", "--config", house / "mailstack.toml").stdout
        assert output.startswith(f"{house}/mailstack.toml: OK\n")
        assert "accounts   2" in output
        assert json.loads(run("check", "--config", house / "mailstack.toml", "--json").stdout)["ok"] is True
        assert state(house) == before

    def test_errors_of_the_configuration(self, house: Path) -> None:
        (house / "mailstack.toml").write_text("hostnam = 5\n[limits]\nerrors = 0\n")
        assert self.problems(house) == [
            "1: hostname: is required and not set",
            "1: hostnam: unknown key; did you mean hostname?",
            "3: limits.errors: must be at least 1, not 0",
        ]
        result = run("check", "--config", house / "mailstack.toml", "--json", expect=1)
        facts = json.loads(result.stdout)
        assert facts["ok"] is False
        assert facts["problems"][2] == {
            "file": f"{house}/mailstack.toml",
            "line": 3,
            "key": "limits.errors",
            "reason": "must be at least 1, not 0",
        }

    def test_no_file(self, tmp_path: Path) -> None:
        result = run("check", "--config", tmp_path / "none.toml", expect=1)
        assert result.stderr == f"{tmp_path}/none.toml: cannot be read: No such file or directory\n"

    def test_authorities_of_users(self, house: Path) -> None:
        config = house / "mailstack.toml"
        config.write_text(config.read_text().replace("\n[tls]\n", '\n[tls]\nclient_authority = "tls/users.pem"\n'))
        (found,) = self.problems(house)
        assert re.match(r"\d+: tls\.client_authority: .*users\.pem: ", found)
        (house / "tls" / "users.pem").write_bytes(make_authority("x.test", 0.0).certificate_pem())
        assert run("check", "--config", config).exit_code == 0
        config.write_text(config.read_text().replace("\n[tls]\n", '\n[tls]\nclient_revocations = "tls/users.crl"\n'))
        (found,) = self.problems(house)
        assert re.match(r"\d+: tls\.client_revocations: .*users\.crl: ", found)

    def test_another_key(self, house: Path, tmp_path: Path) -> None:
        key = make_authority("x.test", 0.0).key_pem()
        (house / "tls" / "server.key").write_bytes(key)
        (found,) = self.problems(house)
        assert re.match(r"\d+: tls\.key: ", found)
        assert "is not the key of" in found

    def test_a_secret_that_could_be_guessed(self, house: Path) -> None:
        (house / "srs.secret").write_text("hush\n")
        line = self.change(house, 'secret_file = "srs.secret"', 'secret_file = "srs.secret"')
        (found,) = self.problems(house)
        assert found.startswith(f"{line}: srs.secret_file: {house}/srs.secret holds a secret of less than 16 characters")
        assert "hush" not in found

    def test_a_certificate_that_is_missing_or_none(self, house: Path) -> None:
        line = self.change(house, 'certificate = "tls/server.pem"', 'certificate = "tls/none.pem"')
        (found,) = self.problems(house)
        assert found.startswith(f"{line}: tls.certificate: {house}/tls/none.pem: ")
        (house / "tls" / "none.pem").write_text("nonsense")
        (found,) = self.problems(house)
        assert found.startswith(f"{line}: tls.certificate: {house}/tls/none.pem: ")

    def test_a_socket_that_cannot_be_made(self, house: Path) -> None:
        line = self.change(house, "#lmtp = []", 'lmtp = ["unix:run/lmtp"]\nlmtp_group = "nobody-is-in-it"')
        assert self.problems(house) == [
            f"{line}: listen.lmtp: {house}/run is no folder; make it for the user of the server",
            f"{line + 1}: listen.lmtp_group: there is no group nobody-is-in-it",
        ]

    def test_a_control_socket_that_nobody_could_use(self, house: Path) -> None:
        line = self.change(house, '#group = "mailadmin"', 'group = "nobody-is-in-it"')
        assert self.problems(house) == [f"{line}: control.group: there is no group nobody-is-in-it"]
        folder = house.parent / ("x" * 120)
        house.rename(folder)
        assert any("longer than the 107 octets that the path of a socket may have" in each for each in self.problems(folder))

    def test_an_expired_certificate(self, house: Path) -> None:
        server = make_server(make_authority("mail.example.test", 0.0), "mail.example.test", 0.0)
        (house / "tls" / "server.pem").write_bytes(server.certificate_pem())
        (house / "tls" / "server.key").write_bytes(server.key_pem())
        (found,) = self.problems(house)
        assert "expired on 1972-04-" in found

    def test_a_key_that_everybody_may_read(self, house: Path) -> None:
        (house / "tls" / "server.key").chmod(0o644)
        (found,) = self.problems(house)
        assert "tls.key" in found
        assert "chmod o-rwx" in found

    @pytest.mark.parametrize("name", [".", "spool", "mail"])
    @pytest.mark.parametrize("bad", [0o755, 0o701, 0o720])
    def test_a_folder_that_is_open(self, house: Path, name: str, bad: int) -> None:
        (house / name).chmod(bad)
        (found,) = self.problems(house)
        assert f"{house / name} is open to others (mode {bad:o}); run: chmod 700" in found

    def test_a_folder_that_is_none(self, house: Path) -> None:
        (house / "spool").rmdir()
        run("check", "--config", house / "mailstack.toml")  # the server makes it
        (house / "spool").write_text("")
        (found,) = self.problems(house)
        assert "spool is not a folder" in found

    def test_a_mail_folder_whose_disk_is_not_mounted(self, house: Path) -> None:
        (house / "mail" / ".mailstack").unlink()
        (found,) = self.problems(house)
        assert "is a disk not mounted?" in found
        command = found.partition("to be new: ")[2]
        (house / "mail").rmdir()
        subprocess.run(["/bin/sh", "-c", command], check=True)
        run("check", "--config", house / "mailstack.toml")

    def test_an_installation_by_hand(self, tmp_path: Path) -> None:
        """Only a configuration and an empty folder: the first domain makes the rest."""
        config = tmp_path / "mailstack.toml"
        config.write_text('hostname = "mail.x.test"\nfolder = "data"\n')
        (tmp_path / "data").mkdir(mode=0o700)
        run("domain", "add", "x.test", "--config", config)
        assert "nowhere" in run("check", "--config", config).stdout
        assert mode(tmp_path / "data" / "mail") == 0o700

    def test_no_folder_at_all(self, house: Path) -> None:
        line = self.change(house, 'folder = "."', 'folder = "none"')
        found = self.problems(house)
        assert found[0].startswith(f"{line}: folder: {house}/none cannot be used: No such file or directory; make it: mkdir")
        assert "mailstack domain add" in found[1]

    def test_a_directory_that_others_may_read(self, house: Path) -> None:
        (house / "directory.db").chmod(0o640)
        (found,) = self.problems(house)
        assert "chmod 600" in found

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_a_directory_that_the_server_could_not_read(self, house: Path) -> None:
        os.chown(house / "directory.db", 12345, -1)
        os.chown(house / "spool", 12345, -1)
        assert ["belongs to another user" in each for each in self.problems(house)] == [True, True]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_root_makes_a_directory_for_the_user_of_the_server(self, house: Path) -> None:
        (house / "directory.db").unlink()
        shutil.rmtree(house / "mail")
        os.chown(house, 12345, 12345)
        run("domain", "add", "x.test", "--config", house / "mailstack.toml")
        for name in ("directory.db", "mail", "mail/.mailstack"):
            assert (house / name).stat().st_uid == 12345

    def test_a_directory_that_is_damaged(self, house: Path) -> None:
        (house / "directory.db").write_bytes(b"nonsense" * 1000)
        (found,) = self.problems(house)
        assert "is damaged" in found

    def test_no_domain(self, house: Path) -> None:
        (house / "directory.db").unlink()
        create(house / "directory.db")
        found = self.problems(house)
        assert "no mail is delivered here; add one: mailstack domain add" in found[0]
        assert len(found) == 2, "and the postmaster is gone too"

    def test_a_postmaster_who_does_not_exist(self, house: Path) -> None:
        line = self.change(house, 'postmaster = "alice@example.test"', 'postmaster = "carol@example.test"')
        (found,) = self.problems(house)
        assert found.startswith(f"{line}: postmaster: there is no account carol@example.test; add it: mailstack account add")

    def test_a_domain_elsewhere_that_is_not_ours(self, house: Path) -> None:
        line = self.change(house, "#all_addresses_of = []", 'all_addresses_of = ["other.test"]')
        config = house / "mailstack.toml"
        config.write_text(f'{config.read_text()}\n[transport]\n"other.test" = "mx"\n')
        (found,) = self.problems(house)
        assert (
            found == f"{line}: relay.all_addresses_of: other.test is no domain of ours; add it: mailstack domain add other.test"
        )

    def test_policies(self, house: Path) -> None:
        line = self.change(house, "#use = []", 'use = ["relaying", "no-such-policy"]')
        (found,) = self.problems(house)
        assert found.startswith(f"{line}: policy.use: policy 'no-such-policy' is not installed")
        self.change(house, 'use = ["relaying", "no-such-policy"]', 'use = ["sender", "relaying"]')
        assert "sender, relaying" in run("check", "--config", house / "mailstack.toml").stdout

    def test_several(self, house: Path) -> None:
        (house / "mail").chmod(0o755)
        (house / "directory.db").chmod(0o644)
        self.change(house, "#use = []", 'use = ["nonsense"]')
        assert len(self.problems(house)) == 3


class TestDemo:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")

    def commands(self, text: str) -> list[list[str]]:
        return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.startswith("curl ")]

    def test_it_says_everything(self, made: Path) -> None:
        text = paste_lines(made)
        facts = json.loads((made / "demo.json").read_bytes())
        for each in facts["accounts"]:
            assert f"{each['address']}" in text
            assert each["password"] in text
        for name, port in facts["ports"].items():
            assert re.search(rf"127\.0\.0\.1:{port}\s+{name}\s", text)
        assert run("demo", made).stdout.rstrip("\n") == text.rstrip("\n")

    def test_the_commands(self, made: Path) -> None:
        facts = json.loads((made / "demo.json").read_bytes())
        alice, bob = facts["accounts"]
        send, fetch = self.commands(paste_lines(made))
        assert send[send.index("--url") : send.index("--url") + 2] == ["--url", "smtp://127.0.0.1:2587"]
        assert "--ssl-reqd" in send
        assert f"{alice['address']}:{alice['password']}" in send
        assert f"file=@{made}/tls/ca.pem;encoder=base64" in send
        assert "pop3s://127.0.0.1:2995/1" in fetch
        assert f"{bob['address']}:{bob['password']}" in fetch
        assert send[send.index("--cacert") + 1] == fetch[fetch.index("--cacert") + 1] == str(made / "tls" / "ca.pem")

    def test_a_readme_is_what_one_attaches(self, made: Path) -> None:
        Path("README.md").write_text("# hello\n")
        (send, _) = self.commands(paste_lines(made))
        assert f"file=@{Path.cwd()}/README.md;encoder=base64" in send

    def test_a_folder_with_an_odd_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "it's a 'demo' $HOME"
        run("init", folder, "--demo")
        (send, _) = self.commands(paste_lines(folder))
        assert str(folder / "tls" / "ca.pem") in send

    @pytest.mark.parametrize("octets", [None, b"nonsense", b"[]", b'{"accounts": []}', b"\xff"])
    def test_no_demonstration(self, tmp_path: Path, octets: Any) -> None:
        if octets is not None:
            (tmp_path / "demo.json").write_bytes(octets)
        with pytest.raises(Refused, match="mailstack init DIR --demo"):
            paste_lines(tmp_path)
        run("demo", tmp_path, expect=1)
