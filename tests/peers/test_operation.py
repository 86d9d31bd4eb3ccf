"""The operator's day: start, stop, reload, wrong configurations, restarts and crashes of the whole process."""

from __future__ import annotations

import os
import poplib
import re
import signal
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import messages
from harness.certificates import make_certificate
from harness.house import BIN, ENDED, House, Person, with_lines
from harness.programs import accepts, is_alive, run, wait_for

MakeHouse = Callable[..., House]


def refuses_to_start(house: House) -> str:
    """Start it, and return what it says when it ends by itself, as it must."""
    code = house.launch().wait(60)
    assert code != 0
    return house.log()


def login_fails(house: House, person: Person) -> bool:
    with smtplib.SMTP("localhost", house.ports.submission, timeout=60) as client:
        client.starttls(context=house.tls())
        try:
            client.login(person.address, person.password)
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code == 535
        return False


def test_twistd_lists_it() -> None:
    assert b"\n    mailstack " in run([BIN / "twistd", "--help"]).stdout
    assert b"--config" in run([BIN / "twistd", "mailstack", "--help"]).stdout


def test_an_unknown_key_refuses_the_start_and_names_its_line(make_house: MakeHouse) -> None:
    house = make_house()
    house.change(with_lines("limits", "mesage_octets = 70000"))
    said = refuses_to_start(house)
    number = next(n for n, line in enumerate(house.config.read_text().splitlines(), 1) if line.startswith("mesage"))
    assert f"{house.config}:{number}: " in said
    assert "unknown key; did you mean limits.message_octets?" in said
    assert "Traceback" not in said


def test_a_missing_configuration_refuses_the_start(make_house: MakeHouse) -> None:
    house = make_house()
    code = house.launch(config=house.folder / "nothing.toml").wait(60)
    assert code != 0
    assert "nothing.toml: cannot be read" in house.log()


def test_a_missing_certificate_refuses_the_start(make_house: MakeHouse) -> None:
    house = make_house()
    (key,) = {line.split('"')[1] for line in house.config.read_text().splitlines() if line.startswith("certificate =")}
    (house.folder / key).unlink()
    said = refuses_to_start(house)
    assert Path(key).name in said
    assert not any(accepts(port) for port in house.ports.every)


def test_a_policy_that_does_not_exist_refuses_the_start(make_house: MakeHouse) -> None:
    house = make_house()
    house.change(with_lines("policy", 'use = ["no-such-policy"]'))
    assert "no-such-policy" in refuses_to_start(house)


def test_a_taken_port_refuses_the_start(make_house: MakeHouse) -> None:
    house = make_house()
    with socket.socket() as other:
        other.bind(("127.0.0.1", house.ports.pop3s))
        other.listen()
        said = refuses_to_start(house)
    assert str(house.ports.pop3s) in said
    assert not accepts(house.ports.smtp), "it does not run on with the ports that it got"


def test_a_second_server_on_the_same_folder_refuses_the_start(make_house: MakeHouse) -> None:
    with make_house() as house:
        other = house.folder / "other.toml"
        text = house.config.read_text()
        for port in house.ports.every:
            text = text.replace(f":{port}", f":{port + 1}")
        other.write_text(text)
        second = House(house.folder)
        second.log_file = house.folder.parent / "second.log"
        assert second.launch(config=other).wait(60) != 0
        assert house.is_running
        house.deliver(messages.plain("still"), house.person("bob").address)


@pytest.mark.parametrize("workers", [1, 2])
def test_as_a_daemon_it_starts_stops_and_says_why_it_does_not(make_house: MakeHouse, workers: int) -> None:
    """Without -n, twistd leaves the terminal as soon as it serves, or says there that it does not."""
    house = make_house(change=with_lines("", f"workers = {workers}"))
    directory, aside = house.folder / "directory.db", house.folder / "aside.db"
    house.log_file = house.folder / "twistd.log"

    def daemonize(expect: int) -> bytes:
        words = [BIN / "twistd", "--pidfile=twistd.pid", "--logfile=twistd.log", "mailstack", "--config", house.config]
        done = run(words, cwd=house.folder, env=house.env, expect=expect)
        return done.stdout + done.stderr

    directory.rename(aside)
    assert b"directory.db cannot be read" in daemonize(1)
    aside.rename(directory)
    daemonize(0)
    pid = int((house.folder / "twistd.pid").read_text())
    try:
        house.deliver(messages.plain("by-a-daemon"), house.person("bob").address)
        house.wait_for_files(house.person("bob").address, 1)
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_alive(pid), "it has ended")
    assert "[mailstack#info] stopped\n" in house.log()


TERMINATED_BEFORE_IT_RUNS = """
import os, signal, sys
from mailstack.tap import Options, makeService
from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver

globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
options = Options()
options.parseOptions(["--config", sys.argv[1]])
service = makeService(options)
service.privilegedStartService()
service.startService()
os.kill(os.getpid(), signal.SIGTERM)
reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
reactor.run()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_who_ends_it_as_soon_as_it_says_that_it_listens_ends_it_in_good_order(make_house: MakeHouse, workers: int) -> None:
    house = make_house(change=with_lines("", f"workers = {workers}"))
    done = run([sys.executable, "-c", TERMINATED_BEFORE_IT_RUNS, house.config], cwd=house.folder, env=house.env)
    said = done.stdout.decode()
    assert said.index("pop3s listens on") < said.index("Received SIGTERM") < said.index("stopped\n"), said


def test_nothing_listens_beyond_loopback(house: House) -> None:
    listening = [line.split()[1:4] for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    for port in house.ports.every:
        (address,) = {local for local, _, state in listening if state == "0A" and local.endswith(f":{port:04X}")}
        assert address == f"0100007F:{port:04X}", "127.0.0.1"


def test_a_restart_keeps_accounts_mail_and_uidls(make_house: MakeHouse) -> None:
    with make_house() as house:
        bob = house.person("bob")
        for name in ("one", "two", "three"):
            house.deliver(messages.plain(name), bob.address)
        house.wait_for_files(bob.address, 3)
        client = house.pop3s(bob)
        uidls = client.uidl()[1]
        client.dele(2)
        client.quit()
        assert house.stop() == ENDED
        house.start()
        client = house.pop3s(bob)
        assert [line.split()[1] for line in client.uidl()[1]] == [uidls[0].split()[1], uidls[2].split()[1]]
        client.quit()
        house.deliver(messages.plain("four"), bob.address)
        house.wait_for_files(bob.address, 3)
        client = house.pop3s(bob)
        assert uidls[1].split()[1] not in [line.split()[1] for line in client.uidl()[1]]
        client.quit()


def test_sigterm_lets_a_running_transaction_end_and_sends_the_idle_away(make_house: MakeHouse) -> None:
    with make_house() as house:
        bob = house.person("bob")
        busy, idle = house.smtp(), house.smtp()
        idle.ehlo()
        busy.ehlo()
        busy.mail("someone@elsewhere.test")
        busy.rcpt(bob.address)
        busy.putcmd("DATA")
        assert busy.getreply()[0] == 354
        content = messages.plain("in-flight", body=b"one\r\ntwo\r\n")
        busy.send(content[:-5])
        assert house.process is not None
        house.process.terminate()
        assert idle.getreply()[0] == 421
        wait_for(lambda: not accepts(house.ports.smtp), "nobody new is let in")
        busy.send(content[-5:] + b".\r\n")
        assert busy.getreply()[0] == 250
        assert house.process.wait(60) == ENDED
        assert "] stopped\n" in house.log()
        house.start()
        (file,) = house.wait_for_files(bob.address, 1)
        assert messages.without_trace(file.read_bytes()) == content


def test_ctrl_c_ends_it_in_good_order(make_house: MakeHouse) -> None:
    with make_house() as house:
        assert house.process is not None
        house.process.send_signal(signal.SIGINT)
        assert house.process.wait(60) == -signal.SIGINT
        assert "] stopped\n" in house.log()
        assert "Traceback" not in house.log()
        assert len(re.findall(r"\] reactor delay p50=\d+\.\d p99=\d+\.\d most=\d+\.\d ms\n", house.log())) == 1


def test_reload_shows_a_new_certificate_to_new_sessions(make_house: MakeHouse) -> None:
    with make_house() as house:
        paths = dict(
            line.split(" = ", 1) for line in house.config.read_text().splitlines() if line.startswith(("certificate", "key ="))
        )
        new = make_certificate(house.folder.parent / "new", house.hostname)
        (house.folder / paths["certificate"].strip('"')).write_bytes(new.chain.read_bytes())
        (house.folder / paths["key"].strip('"')).write_bytes(new.key.read_bytes())
        house.reload()
        house.wait_for_line("reloaded")
        shown = ssl.get_server_certificate(("127.0.0.1", house.ports.pop3s))
        assert shown.split() == new.chain.read_text().split()


def test_reload_with_a_wrong_configuration_changes_nothing(make_house: MakeHouse) -> None:
    with make_house() as house:
        house.change(with_lines("", "nonsense = 1"))
        house.reload()
        house.wait_for_line("reload refused")
        assert house.is_running
        house.change(lambda text: text.removeprefix("nonsense = 1\n"))
        bob = house.person("bob")
        house.deliver(messages.plain("after"), bob.address)
        house.wait_for_files(bob.address, 1)


def test_reload_takes_a_new_limit(make_house: MakeHouse) -> None:
    with make_house() as house:
        house.change(with_lines("limits", "message_octets = 70000"))
        house.reload()
        house.wait_for_line("reloaded")

        def offered() -> str:
            with house.smtp() as client:
                client.ehlo()
                return client.esmtp_features["size"]

        wait_for(lambda: offered() == "70000", "SIZE 70000 in the answer to EHLO")


def test_a_new_password_works_at_once_and_the_old_no_longer(house: House) -> None:
    carol = house.person("carol")
    assert not login_fails(house, carol)
    new = Person(carol.address, "quite-another-secret-1")
    assert login_fails(house, new)
    house.set_password("passwd", carol.address, new.password)
    wait_for(lambda: not login_fails(house, new), "the new password works")
    assert login_fails(house, carol), "the old one does not"
    with pytest.raises(poplib.error_proto, match=r"-ERR"):
        house.pop3s(carol)


def test_kill_9_after_the_250_loses_nothing_and_doubles_nothing(make_house: MakeHouse) -> None:
    with make_house() as house:
        bob = house.person("bob")
        names = [f"k{number}" for number in range(20)]
        with house.smtp() as client:
            for name in names:
                client.sendmail("s@elsewhere.test", [bob.address], messages.self_checking(name, recipient=bob.address))
            house.kill()
        house.start()
        files = house.wait_for_files(bob.address, len(names))
        assert sorted(messages.check_whole(file.read_bytes()) for file in files) == sorted(names)


def test_a_connection_that_is_killed_in_the_middle_of_its_data_leaves_nothing(house: House) -> None:
    dave = house.person("dave")
    client = house.smtp()
    client.ehlo()
    client.mail("someone@elsewhere.test")
    client.rcpt(dave.address)
    client.putcmd("DATA")
    client.getreply()
    client.send(messages.plain("half"))
    client.close()
    house.deliver(messages.plain("whole"), dave.address)
    (file,) = house.wait_for_files(dave.address, 1)
    assert messages.without_trace(file.read_bytes()) == messages.plain("whole")


def test_check_finds_what_is_wrong_without_starting(make_house: MakeHouse) -> None:
    house = make_house()
    house.mailstack("check", *house.directory_options)
    house.change(with_lines("", "nonsense = 1"))
    done = house.mailstack("check", *house.directory_options, expect=None)
    assert done.returncode != 0
    assert f"{house.config}:1: nonsense".encode() in done.stdout + done.stderr


def test_the_log_holds_no_password(house: House) -> None:
    erin = house.person("erin")
    house.retrieved(erin)
    with house.submission(erin):
        pass
    assert "authenticated as erin@" in house.wait_for_line("authenticated as erin@")
    assert erin.password not in house.log()


def test_files_of_the_installation_are_for_its_owner_alone(house: House) -> None:
    house.deliver(messages.plain("private"), house.person("frank").address)
    house.wait_for_files(f"frank@{house.domain}", 1)
    secret = [*house.folder.glob("mail/*/*/**/*"), *house.folder.glob("spool/**/*"), *house.folder.glob("directory.db*")]
    secret += [file for file in house.folder.rglob("*") if "key" in file.name]
    assert len(secret) > 5
    assert [file for file in secret if file.is_file() and file.stat().st_mode & 0o007] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
@pytest.mark.peer
def test_started_as_root_it_works_as_another_user(make_house: MakeHouse) -> None:
    """Bind as root, then give root up for good: what it opens and writes belongs to the user."""
    house = make_house(twistd_options=["--uid", "65534", "--gid", "65534"])
    house.folder.chmod(0o700)
    run(["chown", "-R", "65534:65534", house.folder])
    with house:
        assert house.process is not None
        status = Path(f"/proc/{house.process.pid}/status").read_text()
        assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
        assert "\nGid:\t65534\t65534\t65534\t65534\n" in status
        bob = house.person("bob")
        house.deliver(messages.plain("as-nobody"), bob.address)
        (file,) = house.wait_for_files(bob.address, 1)
        assert file.stat().st_uid == 65534
        assert messages.without_trace(house.retrieved(bob)[0]) == messages.plain("as-nobody")
        house.person("added-by-root")
        assert house.stop() == ENDED
        house.start()
        assert len(house.retrieved(bob)) == 1
