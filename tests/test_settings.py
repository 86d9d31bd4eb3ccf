"""The configuration: what it accepts, and what it says about everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mailstack.compose.relaying import usual_next_hop
from mailstack.mail.envelope import Service
from mailstack.relay.settings import NextHop, TLSPolicy
from mailstack.route.transport import Lmtp, Mx, Smtp
from mailstack.settings import (
    Endpoint,
    Settings,
    SettingsError,
    SocketFile,
    control_file_in,
    fields,
    load,
    load_folder,
    problem_at,
    read_secret,
    read_secrets,
)
from mailstack.settings_problems import lines_of_keys

HOSTNAME = 'hostname = "mail.example.org"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mailstack.toml"


def loaded(file: Path, text: str) -> Settings:
    file.write_text(HOSTNAME + text)
    return load(file)


def errors(file: Path, text: str) -> list[str]:
    """Return what is said, without the name of the file."""
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(file)
    lines = str(caught.value).split("\n")
    assert lines == [str(problem) for problem in caught.value.problems]
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


class TestGood:
    def test_the_least(self, file: Path) -> None:
        settings = loaded(file, "")
        assert settings.hostname == "mail.example.org"
        assert settings.folder == file.parent
        assert settings.spool_folder == file.parent / "spool"
        assert settings.mail_folder == file.parent / "mail"
        assert settings.directory_file == file.parent / "directory.db"
        assert list(settings.listen.each()) == [], "nothing listens until it is told to"
        assert settings.postmaster is None
        assert (settings.relay.tls, settings.limits.bare_newline) == ("dane", "reject")

    def test_defaults(self, file: Path) -> None:
        """The figures that other rooms and the documentation rely on."""
        settings = loaded(file, "")
        assert settings.drain_seconds == 30
        assert (settings.workers, settings.worker_count) == (1, 1)
        assert settings.limits.model_dump() == {
            "message_octets": 52_428_800,
            "recipients": 1000,
            "header_octets": 1_048_576,
            "header_fields": 2000,
            "command_line_octets": 2048,
            "connections": 1000,
            "connections_per_peer": 50,
            "connections_per_network": 200,
            "connections_per_minute": 1200,
            "greeting_pause_seconds": 0,
            "errors": 10,
            "errors_before_delay": 5,
            "error_delay_seconds": 1,
            "idle_commands": 100,
            "failed_logins_per_session": 3,
            "failed_logins": 10,
            "failed_logins_per_network": 50,
            "failed_logins_seconds": 900,
            "command_timeout_seconds": 300,
            "data_timeout_seconds": 600,
            "data_octets_per_second": 100,
            "handshake_timeout_seconds": 30,
            "session_timeout_seconds": 14_400,
            "bare_newline": "reject",
        }
        assert settings.queue.model_dump() == {
            "retry_first_seconds": 300,
            "retry_most_seconds": 14_400,
            "warn_seconds": 14_400,
            "expire_seconds": 432_000,
            "double_bounces": "postmaster",
            "free_octets_minimum": 100_000_000,
            "free_inodes_minimum": 1_000,
        }
        assert (settings.relay.port, settings.relay.connect_timeout_seconds) == (25, 30)
        relay = settings.relay
        assert (relay.attempts_at_once, relay.per_destination, relay.initial_per_destination) == (500, 20, 5)
        assert relay.rates == {}
        assert settings.delivery.subaddress_delimiter == "+"
        assert settings.pop3.idle_timeout_seconds == 600
        assert settings.oauth.model_dump() == {
            "introspection_url": None,
            "client_id": None,
            "client_secret_file": None,
            "account_claim": "username",
            "scope": "",
            "audience": None,
            "timeout_seconds": 5,
        }
        assert (settings.policy.use, settings.policy.options) == ((), {})

    def test_paths_start_at_the_folder_of_the_file(self, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "k").write_text("k")
        (tmp_path / "k").chmod(0o600)
        text = HOSTNAME + 'folder = "data"\n[tls]\ncertificate = "c"\nkey = "k"\n'
        file.write_text(text)
        monkeypatch.chdir("/")
        settings = load(file)
        assert settings.folder == tmp_path / "data"
        assert (settings.tls.certificate, settings.tls.key) == (tmp_path / "c", tmp_path / "k")
        monkeypatch.chdir(tmp_path)
        assert load(Path("mailstack.toml")) == settings
        assert loaded(file, 'folder = "/var/lib/mail"').folder == Path("/var/lib/mail")

    def test_listeners(self, file: Path) -> None:
        settings = loaded(file, '[listen]\nsmtp = ["0.0.0.0:25", "[::]:25", "[0:0::1]:0"]\nlmtp = ["127.0.0.1:24"]\n')
        assert settings.listen.smtp == (Endpoint("0.0.0.0", 25), Endpoint("::", 25), Endpoint("::1", 0))
        assert [str(endpoint) for endpoint in settings.listen.smtp] == ["0.0.0.0:25", "[::]:25", "[::1]:0"]
        assert list(settings.listen.each())[-1] == (Service.LMTP, Endpoint("127.0.0.1", 24))

    def test_lmtp(self, file: Path) -> None:
        text = '[listen]\nlmtp = ["unix:run/lmtp", "unix:/run/x", "[::1]:24"]\nlmtp_group = "postfix"\n'
        settings = loaded(file, text)
        assert [str(each) for each in settings.listen.lmtp] == [f"unix:{file.parent}/run/lmtp", "unix:/run/x", "[::1]:24"]
        assert next(settings.listen.each()) == (Service.LMTP, SocketFile(file.parent / "run" / "lmtp"))
        assert settings.listen.lmtp_group == "postfix"
        assert loaded(file, '[listen]\nlmtp = ["0.0.0.0:24"]\n[receive]\nlmtp_from = ["10.0.0.1"]').listen.lmtp

    def test_networks(self, file: Path) -> None:
        settings = loaded(
            file,
            '[receive]\nxclient_from = ["127.0.0.1", "::1", "10.0.0.0/8", "unix"]\n[proxy]\nsmtp_from = ["2001:db8::/32"]\n'
            'pop3s_from = ["192.0.2.0/24"]\n',
        )
        assert [str(each) for each in settings.receive.xclient_from] == ["127.0.0.1/32", "::1/128", "10.0.0.0/8", "unix"]
        assert [str(each) for each in settings.proxy.of(Service.SMTP)] == ["2001:db8::/32"]
        assert [str(each) for each in settings.proxy.of(Service.POP3S)] == ["192.0.2.0/24"]
        assert settings.proxy.of(Service.LMTP) == ()

    @pytest.mark.parametrize(("text", "cores", "count"), [("1", 8, 1), ("32", 1, 32), ('"auto"', 3, 3), ('"auto"', 200, 32)])
    def test_workers(self, file: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int, count: int) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
        assert loaded(file, f"workers = {text}").worker_count == count

    @pytest.mark.parametrize("text", ["0", "33", "-1", "true", "1.0", '"2"', '"all"', "[2]"])
    def test_other_workers(self, file: Path, text: str) -> None:
        (error,) = errors(file, f"{HOSTNAME}workers = {text}")
        assert error.startswith('2: workers: must be a whole number from 1 to 32, or "auto", not ')

    def test_any_free_port_may_be_asked_for_twice(self, file: Path) -> None:
        assert len(loaded(file, '[listen]\nsmtp = ["127.0.0.1:0", "127.0.0.1:0"]').listen.smtp) == 2

    def test_relay(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("secret\nmore\n")
        (tmp_path / "password").chmod(0o600)
        relay = loaded(
            file,
            '[relay]\nsmarthost = "SMTP.example.net:587"\nsmarthost_username = "us"\nsmarthost_password_file = "password"\n'
            'tls = "verify"\nnameservers = ["127.0.0.1", "::1", "[::1]:5353", "127.0.0.1:5353"]\n',
        ).relay
        assert relay.smarthost == Endpoint("smtp.example.net", 587)
        assert relay.smarthost_password_file == tmp_path / "password"
        assert read_secret(tmp_path / "password") == "secret"
        assert [str(each) for each in relay.nameservers] == ["127.0.0.1:53", "[::1]:53", "[::1]:5353", "127.0.0.1:5353"]

    @pytest.mark.parametrize(
        ("text", "endpoint"), [("192.0.2.1:25", Endpoint("192.0.2.1", 25)), ("[2001:db8::1]:25", Endpoint("2001:db8::1", 25))]
    )
    def test_a_smarthost_may_be_an_address(self, file: Path, text: str, endpoint: Endpoint) -> None:
        assert loaded(file, f'[relay]\nsmarthost = "{text}"').relay.smarthost == endpoint

    def test_transports(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("secret\n")
        (tmp_path / "password").chmod(0o600)
        settings = loaded(
            file,
            '[relay]\nlocal_addresses = ["192.0.2.1", "2001:DB8::1"]\n'
            'all_addresses_of = ["B.test", "c.d.test"]\nmax_hosts = 3\n'
            'tls_levels = {"B.test" = "verify", "2001:DB8::1" = "encrypt"}\n'
            '[relay.source]\n"A.test" = "192.0.2.2"\n'
            '[relay.logins."Gate.test"]\nusername = "us"\npassword_file = "password"\n'
            '[transport]\n"B.test" = "smtp:[10.0.0.5]"\n".d.test" = "mx"\n"Alice@a.test" = "lmtp:unix:/run/x"\n',
        )
        relay = settings.relay
        assert (relay.local_addresses, relay.max_hosts) == (("192.0.2.1", "2001:db8::1"), 3)
        assert relay.source == {"a.test": ("192.0.2.2",)}
        assert relay.tls_levels == {"b.test": "verify", "2001:db8::1": "encrypt"}
        assert relay.all_addresses_of == ("b.test", "c.d.test")
        assert relay.logins["gate.test"].model_dump() == {
            "username": "us", "password_file": tmp_path / "password", "tls": "verify"
        }  # fmt: skip
        assert settings.transport == {"b.test": Smtp("10.0.0.5"), ".d.test": Mx(), "alice@a.test": Lmtp("/run/x", 0)}
        assert Settings.model_validate(settings.model_dump()).transport == settings.transport

    def test_policies(self, file: Path) -> None:
        policy = loaded(file, '[policy]\nuse = ["a", "b"]\n[policy.options.a]\nx = [1, "y"]\n[policy.options.b]\n').policy
        assert policy.use == ("a", "b")
        assert policy.options == {"a": {"x": [1, "y"]}, "b": {}}

    def test_names_are_in_lower_case(self, file: Path) -> None:
        file.write_text('hostname = "MAIL.Example.ORG."\npostmaster = "Alice@Example.org"\n')
        settings = load(file)
        assert (settings.hostname, settings.postmaster) == ("mail.example.org", "alice@example.org")

    def test_nothing_can_be_changed(self, file: Path) -> None:
        settings = loaded(file, "")
        with pytest.raises(ValidationError):
            settings.hostname = "x"
        with pytest.raises(ValidationError):
            settings.limits.recipients = 5

    def test_settings_can_be_made_in_code(self) -> None:
        assert Settings(hostname="mail.example.org").folder == Path()

    def test_every_key_says_what_it_means(self) -> None:
        undocumented = [path for path, field in fields() if not field.description and field.default_factory is None]
        assert undocumented == []


class TestOneError:
    """A broken file, and all that is said about it: line, key, reason."""

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "1: hostname: is required and not set"),
            ("[limits]\nerrors = 5\n", "1: hostname: is required and not set"),
            ("hostname = 5\n", "1: hostname: must be text in quotes, not 5"),
            ('\nhostname = "a b"\n', '2: hostname: "a b" is not a domain name: bad domain'),
            ('hostname = "[127.0.0.1]"\n', "1: hostname: "),
            ('hostname = "a_b.test"\n', "1: hostname: "),
            ('hostname = "-a.test"\n', "1: hostname: "),
            ('hostname = "b👍cher.test"\n', "1: hostname: "),
            ('hostname = ""\n', "1: hostname: "),
            (HOSTNAME + "folder = 5\n", "2: folder: must be a path in quotes, not 5"),
            (HOSTNAME + 'folder = ""\n', '2: folder: must be a path in quotes, not ""'),
            (HOSTNAME + "folder = ['x']\n", "2: folder: must be a path in quotes, not a list"),
            (HOSTNAME + 'postmaster = "alice"\n', '2: postmaster: "alice" is not the name of an account'),
            (HOSTNAME + "drain_seconds = -1\n", "2: drain_seconds: must be at least 0, not -1"),
            (HOSTNAME + "limits = 5\n", "2: limits: must be a table, not 5"),
            (HOSTNAME + "[limits]\n\nrecipients = 99\n", "4: limits.recipients: must be at least 100, not 99"),
            (HOSTNAME + "limits.recipients = 99\n", "2: limits.recipients: must be at least 100, not 99"),
            (HOSTNAME + "limits = { recipients = 99 }\n", "2: limits.recipients: must be at least 100, not 99"),
            (HOSTNAME + "[ 'limits' ] # x\n\"recipients\" = 99\n", "3: limits.recipients: must be at least 100, not 99"),
            (HOSTNAME + "[limits]\nrecipients = true\n", "3: limits.recipients: must be a whole number, not true"),
            (HOSTNAME + "[limits]\nrecipients = 100.0\n", "3: limits.recipients: must be a whole number, not 100.0"),
            (HOSTNAME + '[limits]\nrecipients = "100"\n', '3: limits.recipients: must be a whole number, not "100"'),
            (HOSTNAME + "[limits]\nmessage_octets = 65535\n", "3: limits.message_octets: must be at least 65536"),
            (HOSTNAME + "[limits]\nerrors = 0\n", "3: limits.errors: must be at least 1, not 0"),
            (
                HOSTNAME + '[limits]\nbare_newline = "keep"\n',
                '3: limits.bare_newline: must be "reject" or "normalise", not "keep"',
            ),
            (HOSTNAME + "[pop3]\nidle_timeout_seconds = 599\n", "3: pop3.idle_timeout_seconds: must be at least 600, not 599"),
            (HOSTNAME + "[relay]\nport = 65536\n", "3: relay.port: must be at most 65535, not 65536"),
            (HOSTNAME + '[relay]\ntls = "maybe"\n', '3: relay.tls: must be "none", "may", "encrypt", "verify" or "dane"'),
            (HOSTNAME + '[relay]\ntls_levels = {"a.test" = "maybe"}\n', '3: relay.tls_levels.a.test: must be "none", "may"'),
            (
                HOSTNAME + '[relay]\ntls_levels = {"*.test" = "may"}\n',
                '3: relay.tls_levels.*.test.[key]: "*.test" is not a domain',
            ),
            (HOSTNAME + '[relay]\nsmarthost = "x"\n', '3: relay.smarthost: must be text of the form "smtp.example.net:587"'),
            (HOSTNAME + '[relay]\nsmarthost = "x:0"\n', "3: relay.smarthost: port 0 cannot be connected to"),
            (HOSTNAME + '[relay]\nsmarthost = "x y:25"\n', '3: relay.smarthost: "x y" is not a domain name'),
            (HOSTNAME + "[relay]\nsmarthost = 25\n", "3: relay.smarthost: must be text"),
            (HOSTNAME + '[relay]\nnameservers = "1.1.1.1"\n', '3: relay.nameservers: must be a list, not "1.1.1.1"'),
            (HOSTNAME + '[relay]\nnameservers = ["dns.test:53"]\n', "3: relay.nameservers[0]: must be an IP address"),
            (HOSTNAME + '[relay]\nnameservers = ["1.1.1.1:0"]\n', "3: relay.nameservers[0]: must be an IP address"),
            (HOSTNAME + '[delivery]\nsubaddress_delimiter = "++"\n', "3: delivery.subaddress_delimiter: must be "),
            (HOSTNAME + '[listen]\nsmtp = "127.0.0.1:25"\n', '3: listen.smtp: must be a list, not "127.0.0.1:25"'),
            (HOSTNAME + "[listen]\nsmtp = [25]\n", "3: listen.smtp[0]: must be text of the form"),
            (HOSTNAME + '[listen]\nsmtp = ["127.0.0.1"]\n', "3: listen.smtp[0]: must be text of the form"),
            (
                HOSTNAME + '[listen]\nsmtp = ["::1:25"]\n',
                '3: listen.smtp[0]: must be text of the form "127.0.0.1:25" (IPv6 in br',
            ),
            (HOSTNAME + '[listen]\nsmtp = ["127.0.0.1:65536"]\n', "3: listen.smtp[0]: must be text of the form"),
            (HOSTNAME + '[listen]\nsmtp = ["*:25"]\n', '3: listen.smtp[0]: must be an IP address and a port, not "*:25"'),
            (HOSTNAME + '[listen]\nsmtp = ["127.0.0.1:²5"]\n', "3: listen.smtp[0]: must be text of the form"),
            (
                HOSTNAME + '[listen]\nsmtp = ["[::1]:24"]\nlmtp = ["[0::1]:24"]\n',
                "4: listen.lmtp[0]: [::1]:24 is already taken by a listener above",
            ),
            (HOSTNAME + '[listen]\npop3s = ["[::1]:25"]\n', "3: listen.pop3s: needs TLS: set tls.certificate and tls.key"),
            (HOSTNAME + '[listen]\nsubmission = ["[::1]:25"]\n', "3: listen.submission: needs TLS"),
            (HOSTNAME + '[listen]\nsubmissions = ["[::1]:25"]\n', "3: listen.submissions: needs TLS"),
            (HOSTNAME + '[tls]\ncertificate = "x"\n', "3: tls.certificate: needs tls.key beside it: both or none"),
            (
                HOSTNAME + '[tls]\nclient_authority = "x"\n',
                "3: tls.client_authority: needs tls.certificate and tls.key beside it",
            ),
            (
                HOSTNAME + '[tls]\nclient_revocations = "x"\n',
                "3: tls.client_revocations: needs tls.client_authority beside it",
            ),
            (HOSTNAME + "[queue]\nretry_first_seconds = 14401\n", "3: queue.retry_first_seconds: the first wait (14401) is"),
            (HOSTNAME + "[queue]\nretry_most_seconds = 299\n", "3: queue.retry_most_seconds: the first wait (300) is longer"),
            (HOSTNAME + '[policy]\nuse = "x"\n', '3: policy.use: must be a list, not "x"'),
            (HOSTNAME + "[policy]\nuse = [5]\n", "3: policy.use[0]: must be text in quotes, not 5"),
            (HOSTNAME + "[policy.options]\nx = 5\n", "3: policy.options.x: must be a table, not 5"),
            (HOSTNAME + '[transport]\n"a.test" = "smpt:[b]"\n', '3: transport.a.test: "smpt:[b]" is no transport: it must be'),
            (HOSTNAME + '[transport]\n"a.test" = "smtp:[b]:0"\n', '3: transport.a.test: "smtp:[b]:0" has a port that does not'),
            (HOSTNAME + '[transport]\n"a.test" = 5\n', "3: transport.a.test: must be text such as"),
            (HOSTNAME + '[transport]\n"a b" = "mx"\n', '3: transport.a b.[key]: "a b" is neither an address, nor a domain'),
            (HOSTNAME + '[transport]\n"a.test" = "mx"\n"A.test" = "mx"\n', "4: transport.A.test: is the same as a.test"),
            (HOSTNAME + '[transport]\n"*" = "local"\n', "3: transport.*: is for what is not ours"),
            (HOSTNAME + "transport = 5\n", "2: transport: must be a table, not 5"),
            (HOSTNAME + '[relay]\nall_addresses_of = ["a.test"]\n', "3: relay.all_addresses_of[0]: needs an entry for a.test"),
            (HOSTNAME + "[relay]\nmax_hosts = 0\n", "3: relay.max_hosts: must be at least 1, not 0"),
            (HOSTNAME + '[relay]\nlocal_addresses = ["a.test"]\n', "3: relay.local_addresses: must be IP addresses in a list"),
            (HOSTNAME + '[relay]\nlocal_addresses = ["10.0.0.1", "10.0.0.2"]\n', "3: relay.local_addresses: must be one IPv4"),
            (HOSTNAME + '[relay.source]\n"a.test" = ["::"]\n', "3: relay.source.a.test: must be addresses that this machine"),
            (HOSTNAME + '[relay.logins."a.test"]\nusername = "hush"\n', "2: relay.logins.a.test.password_file: is required"),
            # keys that are not ours
            (HOSTNAME + "hostnam = 5\n", "2: hostnam: unknown key; did you mean hostname?"),
            (HOSTNAME + "[limit]\nrecipients = 5\n", "2: limit: unknown key; did you mean limits?"),
            (HOSTNAME + "[limits]\nrecipient = 5\n", "3: limits.recipient: unknown key; did you mean limits.recipients?"),
            (HOSTNAME + "[limits]\ndrain_seconds = 5\n", "3: limits.drain_seconds: unknown key here; it belongs at the top"),
            (HOSTNAME + "[pop3]\nrecipients = 5\n", "3: pop3.recipients: unknown key here; it belongs under [limits]"),
            (HOSTNAME + "[pop3]\nxyzzy = 5\n", "3: pop3.xyzzy: unknown key"),
            (HOSTNAME + '[listen]\nlmtp = ["127.0.0.1:25"]\n', "3: listen.lmtp[0]: LMTP may not be spoken at port 25"),
            (
                HOSTNAME + '[listen]\nlmtp = ["0.0.0.0:24"]\n',
                "3: listen.lmtp[0]: 0.0.0.0:24 is not on loopback: name in receive.",
            ),
            (HOSTNAME + '[listen]\nlmtp = ["[2001:db8::1]:24"]\n', "3: listen.lmtp[0]: [2001:db8::1]:24 is not on loopback"),
            (
                HOSTNAME + '[listen]\nlmtp = ["unix:"]\n',
                '3: listen.lmtp[0]: must be text of the form "unix:/run/mailstack/lmtp"',
            ),
            (HOSTNAME + '[listen]\nlmtp = ["unix:/a", "unix:/a"]\n', "3: listen.lmtp[1]: unix:/a is already taken"),
            (HOSTNAME + f'[listen]\nlmtp = ["unix:/{"x" * 107}"]\n', "3: listen.lmtp[0]: "),
            (HOSTNAME + '[listen]\nsmtp = ["unix:/a"]\n', "3: listen.smtp[0]: must be text of the form"),
            (HOSTNAME + '[listen]\nlmtp_group = "a b"\n', '3: listen.lmtp_group: "a b" is not the name of a group'),
            (
                HOSTNAME + '[receive]\nxclient_from = ["10.0.0.1/8"]\n',
                '3: receive.xclient_from[0]: "10.0.0.1/8" is an address within',
            ),
            (HOSTNAME + '[receive]\nxclient_from = ["localhost"]\n', "3: receive.xclient_from[0]: must be an IP address or"),
            (HOSTNAME + '[receive]\nlmtp_from = ["unix"]\n', "3: receive.lmtp_from[0]: must be an IP address or"),
            (HOSTNAME + "[proxy]\nsmtp_from = [1]\n", '3: proxy.smtp_from[0]: must be text of the form "192.0.2.1"'),
            (HOSTNAME + '"a\\nb" = 5\n', "2: a?b: unknown key"),
            (HOSTNAME + '[relay]\nsmarthost_passwort = "hush"\n', "3: relay.smarthost_passwort: unknown key; did you mean"),
        ],
    )
    def test_is_told_with_line_key_and_reason(self, file: Path, text: str, said: str) -> None:
        (found,) = errors(file, text)
        assert found.startswith(said), found
        assert "hush" not in found, "it may be a password"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("hostname = \n", "1: is not TOML: Invalid value"),
            (HOSTNAME + "[limits\n", "2: is not TOML: "),
            (HOSTNAME + "x = 1\nx = 2\n", "3: is not TOML: Cannot overwrite a value"),
            (HOSTNAME + 'x = """\n\n', "2: is not TOML: "),
            (HOSTNAME + "a\n", "2: is not TOML: "),
            (HOSTNAME + "a = " + "[" * 2_000, " holds a value that is too long or too deep"),
            (HOSTNAME + "a = " + "9" * 5_000, " holds a value that is too long or too deep"),
        ],
    )
    def test_syntax(self, file: Path, text: str, said: str) -> None:
        (found,) = errors(file, text)
        assert found.startswith(said), found
        assert "(at " not in found

    def test_octets_that_are_no_utf8(self, file: Path) -> None:
        file.write_bytes(b"# one\n# two \xff\n")
        with pytest.raises(SettingsError) as caught:
            load(file)
        assert str(caught.value) == f"{file}:2: is not UTF-8 text"

    def test_no_file(self, file: Path) -> None:
        with pytest.raises(SettingsError) as caught:
            load(file)
        assert str(caught.value) == f"{file}: cannot be read: No such file or directory"

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
            load(tmp_path)


class TestFolderAlone:
    def test_is_read_whatever_else_is_wrong_or_closed(self, file: Path) -> None:
        file.write_text('hostname = "-"\nfolder = "var"\nfuture = 1\n[tls]\nkey = "/nowhere/key.pem"\n')
        assert load_folder(file) == file.parent / "var"
        assert loaded(file, 'folder = "var"\n').control_file == control_file_in(load_folder(file))

    def test_is_that_of_the_file_when_nothing_is_said(self, file: Path) -> None:
        file.write_text("")
        assert load_folder(file) == file.parent

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("folder = 5\n", ":1: folder: must be a path in quotes, not 5"),
            ("x = 1\nfolder = ''\n", ':2: folder: must be a path in quotes, not ""'),
            ("folder\n", ":1: is not TOML"),
        ],
    )
    def test_that_is_none(self, file: Path, text: str, said: str) -> None:
        file.write_text(text)
        with pytest.raises(SettingsError) as caught:
            load_folder(file)
        assert str(caught.value).startswith(f"{file}{said}")


def test_all_errors_are_told_at_once_in_the_order_of_the_file(file: Path) -> None:
    text = """\
hostnam = "x"
[listen]
smtp = [
    "127.0.0.1:25",
    "nonsense",
]
pop3s = ["127.0.0.1:995"]
[limits]
recipients = "many"
errors = 0
[relay]
tls = "encrypt"
smarthost_username = "x"
[tls]
certificate = "c"
"""
    assert [line.split(": ")[:2] for line in errors(file, text)] == [
        ["1", "hostname"],
        ["1", "hostnam"],
        ["3", "listen.smtp[1]"],
        ["9", "limits.recipients"],
        ["10", "limits.errors"],
        ["13", "relay.smarthost_username"],
        ["15", "tls.certificate"],
    ]


class TestSmarthostLogin:
    LOGIN = 'smarthost_username = "u"\nsmarthost_password_file = "p"\n'

    @pytest.fixture(autouse=True)
    def password(self, tmp_path: Path) -> Path:
        path = tmp_path / "p"
        path.write_text("secret\n")
        path.chmod(0o640)
        return path

    @pytest.mark.parametrize("tls", ['tls = "none"\n', 'tls = "may"\n'])
    def test_never_in_the_clear(self, file: Path, tls: str) -> None:
        (found,) = errors(file, f'{HOSTNAME}[relay]\nsmarthost = "x.test:25"\n{self.LOGIN}{tls}')
        assert 'a password is to be sent, so relay.tls must be "verify" or "encrypt"' in found
        assert found.startswith("6: relay.tls")

    @pytest.mark.parametrize("only", ['client_certificate = "c"', 'client_key = "p"'])
    def test_our_certificate_and_its_key(self, file: Path, only: str) -> None:
        (found,) = errors(file, f"{HOSTNAME}[relay]\n{only}\n")
        assert "both or none" in found

    def test_without_a_word_of_tls_its_certificate_is_verified(self, file: Path) -> None:
        settings = loaded(file, f'[relay]\nsmarthost = "x.test:25"\n{self.LOGIN}')
        direct = NextHop(tls=TLSPolicy(settings.relay.tls))
        assert usual_next_hop(settings.relay, direct, "secret", {}).tls is TLSPolicy.VERIFY

    def test_with_nobody_to_log_in_at(self, file: Path) -> None:
        found = errors(file, f'{HOSTNAME}[relay]\ntls = "verify"\n{self.LOGIN}')
        assert [line.partition(" needs ")[2][:15] for line in found] == ["relay.smarthost"] * 2

    @pytest.mark.parametrize("only", ['smarthost_username = "u"', 'smarthost_password_file = "p"'])
    def test_both_or_none(self, file: Path, only: str) -> None:
        (found,) = errors(file, f'{HOSTNAME}[relay]\nsmarthost = "x.test:25"\ntls = "verify"\n{only}\n')
        assert "both or none" in found

    @pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
    def test_a_password_that_others_may_read(self, file: Path, password: Path, mode: int) -> None:
        password.chmod(mode)
        (found,) = errors(file, f'{HOSTNAME}[relay]\nsmarthost = "x.test:25"\ntls = "verify"\n{self.LOGIN}')
        assert found.startswith("6: relay.smarthost_password_file: ")
        assert f"may be read or written by everybody; run: chmod o-rwx {password}" in found

    def test_a_password_that_is_not_there(self, file: Path, password: Path) -> None:
        password.unlink()
        (found,) = errors(file, f'{HOSTNAME}[relay]\nsmarthost = "x.test:25"\ntls = "verify"\n{self.LOGIN}')
        assert found.endswith(f"{password} cannot be used: No such file or directory")

    def test_the_key_of_the_certificate_is_a_secret_too(self, file: Path, password: Path) -> None:
        password.chmod(0o644)
        (found,) = errors(file, HOSTNAME + '[tls]\ncertificate = "c"\nkey = "p"\n')
        assert found.startswith("4: tls.key: ")


class TestSrs:
    def test_off_by_default(self, file: Path) -> None:
        assert loaded(file, "").srs.model_dump() == {"domain": None, "secret_file": None}

    @pytest.mark.parametrize("only", ['domain = "a.test"', 'secret_file = "mailstack.toml"'])
    def test_both_or_none(self, file: Path, only: str) -> None:
        file.touch(mode=0o600)
        file.chmod(0o600)
        (found,) = errors(file, f"{HOSTNAME}[srs]\n{only}\n")
        assert "both or none" in found

    def test_secrets_are_the_lines_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "srs.secret"
        path.touch(mode=0o600)
        path.write_bytes(b"the newest of them\r\n\nthe one before that")
        assert read_secrets(path) == ("the newest of them", "the one before that")

    @pytest.mark.parametrize(
        ("octets", "said"),
        [(b"", "no secret"), (b"\n\n", "no secret"), (b"long enough for it\nshort\n", "less than 16"), (b"\xff", "not UTF-8")],
    )
    def test_what_is_no_secret(self, tmp_path: Path, octets: bytes, said: str) -> None:
        path = tmp_path / "srs.secret"
        path.touch(mode=0o600)
        path.write_bytes(octets)
        with pytest.raises(ValueError, match=said) as refused:
            read_secrets(path)
        assert "short" not in str(refused.value)

    def test_one_that_others_may_read(self, tmp_path: Path) -> None:
        path = tmp_path / "srs.secret"
        path.write_text("long enough for it\n")
        path.chmod(0o644)
        with pytest.raises(ValueError, match="chmod o-rwx"):
            read_secrets(path)


class TestOAuth:
    TLS = '[tls]\ncertificate = "c"\nkey = "p"\n'
    LOGIN = 'client_id = "us"\nclient_secret_file = "p"\n'

    @pytest.fixture(autouse=True)
    def secret(self, tmp_path: Path) -> Path:
        path = tmp_path / "p"
        path.write_text("secret\n")
        path.chmod(0o600)
        return path

    def text(self, url: str) -> str:
        return f'{self.TLS}[oauth]\nintrospection_url = "{url}"\n{self.LOGIN}'

    @pytest.mark.parametrize(
        "url",
        [
            "https://login.example.org/introspect",
            "https://login.example.org:8443/a/b?tenant=x",
            "https://192.0.2.1/",
            "http://127.0.0.1:8080/introspect",
            "http://127.9.9.9/introspect",
            "http://[::1]:8080/introspect",
            "http://localhost/introspect",
        ],
    )
    def test_where(self, file: Path, url: str) -> None:
        assert loaded(file, self.text(url)).oauth.introspection_url == url

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("", "must be text of the form"),
            ("login.example.org", "must be text of the form"),
            ("ftp://login.example.org/", "must be text of the form"),
            ("https:///introspect", "must be text of the form"),
            ("https://login.example.org:0/", "must be text of the form"),
            ("https://login.example.org/a b", "must be text of the form"),
            ("https://l\u00f6gin.example.org/", "must be text of the form"),
            ("https://login.example.org:99999/", "is not a URL"),
            ("https://[::1/", "is not a URL"),
            ("https://us:hush@login.example.org/", "must name neither a user"),
            ("https://us@login.example.org/", "must name neither a user"),
            ("https://login.example.org/#x", "must name neither a user"),
            ("http://login.example.org/", "needs https"),
            ("http://192.0.2.1/", "needs https"),
            ("http://localhost.example.org/", "needs https"),
            ("http://127.0.0.1.example.org/", "needs https"),
            ("HTTP://login.example.org/", "needs https"),
        ],
    )
    def test_where_not(self, file: Path, url: str, why: str) -> None:
        (found,) = errors(file, HOSTNAME + self.text(url))
        assert found.startswith("6: oauth.introspection_url: ")
        assert why in found
        assert "hush" not in found

    @pytest.mark.parametrize("missing", ["introspection_url", "client_id", "client_secret_file"])
    def test_all_or_none(self, file: Path, missing: str) -> None:
        lines = [line for line in self.text("https://x.test/").split("\n") if not line.startswith(missing)]
        (found,) = errors(file, HOSTNAME + "\n".join(lines))
        assert f"needs oauth.{missing} beside it: all of them or none" in found

    def test_without_tls_no_token_could_be_taken(self, file: Path) -> None:
        (found,) = errors(file, HOSTNAME + self.text("https://x.test/").removeprefix(self.TLS))
        assert "needs TLS, or no token is taken" in found

    def test_a_secret_that_others_may_read(self, file: Path, secret: Path) -> None:
        secret.chmod(0o604)
        found = errors(file, HOSTNAME + self.text("https://x.test/"))
        assert any(each.startswith("8: oauth.client_secret_file: ") for each in found)

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ('scope = "a  b"', "is not one scope, or several"),
            ('scope = " a"', "is not one scope, or several"),
            ("scope = 'a\"b'", "is not one scope, or several"),
            ('account_claim = ""', "is not the name of a claim"),
            ('account_claim = "a b"', "is not the name of a claim"),
            ("timeout_seconds = 0", "must be at least 1"),
            ("timeout_seconds = 61", "must be at most 60"),
            ('audience = ""', "at least 1 character"),
        ],
    )
    def test_what_else_is_wrong(self, file: Path, line: str, why: str) -> None:
        (found,) = errors(file, HOSTNAME + self.text("https://x.test/") + line)
        assert found.startswith(f"9: oauth.{line.partition(' ')[0]}: ")
        assert why in found

    def test_several_scopes(self, file: Path) -> None:
        text = self.text("https://x.test/") + 'scope = "https://mail.example.org/ mail:read"\naccount_claim = "email"\n'
        assert loaded(file, text).oauth.scope == "https://mail.example.org/ mail:read"


class TestHostLogin:
    LOGIN = '[relay.logins."a.test"]\nusername = "u"\npassword_file = "p"\n'

    def test_never_in_the_clear(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "p").write_text("hush\n")
        (tmp_path / "p").chmod(0o600)
        (found,) = errors(file, HOSTNAME + self.LOGIN + 'tls = "may"\n')
        assert found == '5: relay.logins.a.test.tls: must be "encrypt" or "verify", not "may"'

    def test_a_password_that_others_may_read(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "p").write_text("hush\n")
        (tmp_path / "p").chmod(0o644)
        (found,) = errors(file, HOSTNAME + self.LOGIN)
        assert found.startswith("4: relay.logins.a.test.password_file: ")
        assert "hush" not in found


class TestSecret:
    @pytest.mark.parametrize(
        ("octets", "said"), [(b"", "empty first line"), (b"\nx", "empty first line"), (b"\xff", "not UTF-8")]
    )
    def test_that_is_none(self, tmp_path: Path, octets: bytes, said: str) -> None:
        (tmp_path / "s").write_bytes(octets)
        (tmp_path / "s").chmod(0o600)
        with pytest.raises(ValueError, match=said):
            read_secret(tmp_path / "s")

    @pytest.mark.parametrize("octets", [b"p\xc3\xa4ss word", b"p\xc3\xa4ss word\n", b"p\xc3\xa4ss word\r\nx"])
    def test_is_the_first_line(self, tmp_path: Path, octets: bytes) -> None:
        (tmp_path / "s").write_bytes(octets)
        (tmp_path / "s").chmod(0o600)
        assert read_secret(tmp_path / "s") == "päss word"

    def test_that_is_not_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="is not a file"):
            read_secret(tmp_path)

    def test_that_everybody_may_read(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("hush")
        (tmp_path / "s").chmod(0o644)
        with pytest.raises(ValueError, match="everybody") as caught:
            read_secret(tmp_path / "s")
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a = 1\nb.c = 2\n", {("a",): 1, ("b",): 2, ("b", "c"): 2}),
        ("[t]\r\nk = 1\r\n", {("t",): 1, ("t", "k"): 2}),
        ('a = """\n[not]\nb = 1\n"""\nc = 1\n', {("a",): 1, ("c",): 5}),
        ("a = '''x'''\nc = 1\n", {("a",): 1, ("c",): 2}),
        ("a = [\n  1,\n]\n# b = 1\n  c = 1\n", {("a",): 1, ("c",): 5}),
        ("[[x]]\na = 1\n[[x]]\na = 1\n", {("x",): 1, ("x", "a"): 2}),
        ('[a."b.c".\'d\']\n"e f" = 1', {("a",): 1, ("a", "b.c"): 1, ("a", "b.c", "d"): 1, ("a", "b.c", "d", "e f"): 2}),
    ],
)
def test_lines_of_keys(text: str, lines: dict[Any, int]) -> None:
    assert lines_of_keys(text) == lines


def test_a_problem_found_later_has_its_line_too(file: Path) -> None:
    loaded(file, '\n[policy]\nuse = ["x"]\n')
    assert str(problem_at(file, "policy.use", "is bad")) == f"{file}:4: policy.use: is bad"
    assert str(problem_at(file, "tls.key", "is bad")) == f"{file}:1: tls.key: is bad"


class TestRates:
    def test_by_domain_and_for_the_others(self, file: Path) -> None:
        settings = loaded(
            file, '[relay.rates]\n"Example.NET" = "10/second"\n"*" = "100/minute"\n"slow.example" = "1000/hour"\n'
        )
        assert {domain: (rate.messages, rate.seconds) for domain, rate in settings.relay.rates.items()} == {
            "example.net": (10, 1),
            "*": (100, 60),
            "slow.example": (1000, 3600),
        }
        assert settings.relay.model_dump()["rates"]["*"] == "100/minute"
        assert loaded(file, '[relay]\nrates = {"*" = "1/hour"}\n').relay.rates["*"].seconds == 3600

    @pytest.mark.parametrize(
        "value", ['"0/minute"', '"10 / minute"', '"10/day"', '"fast"', "10", '"-1/hour"', '"99999999/hour"']
    )
    def test_wrong_rates_are_refused(self, file: Path, value: str) -> None:
        [why] = errors(file, f'{HOSTNAME}[relay.rates]\n"example.net" = {value}\n')
        assert why.startswith("3: relay.rates.example.net: must be text of the form")

    def test_a_wrong_domain_is_refused(self, file: Path) -> None:
        [why] = errors(file, f'{HOSTNAME}[relay.rates]\n"not a domain" = "1/hour"\n')
        assert "is neither a domain nor" in why
