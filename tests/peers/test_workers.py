"""Several workers: what one process promises, kept by all of them together, whichever of them dies."""

from __future__ import annotations

import fcntl
import os
import poplib
import re
import signal
import smtplib
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

import pytest
from harness import messages
from harness.certificates import make_certificate
from harness.house import ENDED, House, Person, with_lines
from harness.programs import is_alive, is_free, open_folder, run, wait_for

MakeHouse = Callable[..., House]
T = TypeVar("T")
TWO = with_lines("", "workers = 2")
_OPENED = re.compile(r"\[worker (\d+)#info\] (\S+): (smtp|pop3s) from ")


@pytest.fixture(scope="module")
def pair() -> Iterator[House]:
    """Give a running house with two workers that the tests share; it is to be left as it was found."""
    with open_folder("pair") as path, House(path / "var", change=TWO) as house:
        yield house


def two_and(table: str, lines: str) -> Callable[[str], str]:
    return lambda text: with_lines(table, lines)(TWO(text))


def sessions(house: House, service: str = "smtp") -> Counter[int]:
    """Count the sessions of a service that each worker has had."""
    return Counter(int(worker) for worker, _, name in _OPENED.findall(house.log()) if name == service)


def greeted(house: House) -> smtplib.SMTP | None:
    """Connect, and return the connection unless it is refused."""
    try:
        return house.smtp()
    except smtplib.SMTPConnectError as error:
        if error.smtp_code == 421:
            return None
        raise


def by_worker(house: House, act: Callable[[], T], service: str = "smtp") -> tuple[int, T]:
    """Do something that begins a session, and say in which worker it was."""
    before = sessions(house, service)
    done = act()
    wait_for(lambda: sessions(house, service) != before, "the session is in the log")
    (worker,) = sessions(house, service) - before
    return worker, done


def until_both(house: House, act: Callable[[], object]) -> None:
    """Do something by POP3 until each of two workers has seen it: who accepts first takes it."""
    workers: set[int] = set()
    for _ in range(60):
        workers.add(by_worker(house, act, "pop3s")[0])
        if len(workers) == 2:
            return
    raise AssertionError("one worker had them all")


def in_each_worker(house: House) -> list[smtplib.SMTP]:
    """Connect until each of two workers has a session; who has many more leaves the next to the other."""
    found: dict[int, smtplib.SMTP] = {}
    with ExitStack() as stack:
        for _ in range(20):
            worker, client = by_worker(house, house.smtp)
            if worker in found:
                stack.callback(client.close)
            found.setdefault(worker, client)
            if len(found) == 2:
                return [found[0], found[1]]
    raise AssertionError("one worker had them all")


def test_a_burst_is_shared(pair: House) -> None:
    before = sessions(pair)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(closing(pair.smtp()))
        wait_for(lambda: (sessions(pair) - before).total() == 20, "all sessions are in the log")
        # With nothing else to do on the machine it is 9 to 11; one that gets no processor for a while gets fewer of them.
        assert min((sessions(pair) - before)[worker] for worker in (0, 1)) >= 6


def test_mail_comes_through_whichever_worker_takes_it(pair: House) -> None:
    ann = pair.person("ann")
    for number, client in enumerate(in_each_worker(pair)):
        with client:
            client.sendmail("s@elsewhere.test", [ann.address], messages.self_checking(f"w{number}", recipient=ann.address))
    files = pair.wait_for_files(ann.address, 2)
    assert sorted(messages.check_whole(file.read_bytes()) for file in files) == ["w0", "w1"]
    assert (pair.folder / "spool" / "spool.db").exists()
    assert (pair.folder / "spool" / "shard-1" / "spool.db").exists()


def test_a_maildrop_has_one_session_in_all_workers(pair: House) -> None:
    ben = pair.person("ben")
    pair.deliver(messages.plain("hello"), ben.address)
    pair.wait_for_files(ben.address, 1)

    def refused() -> None:
        with pytest.raises(poplib.error_proto, match=r"-ERR \[IN-USE\]"):
            pair.pop3s(ben)

    first = pair.pop3s(ben)
    until_both(pair, refused)
    first.quit()
    pair.pop3s(ben).quit()


def test_a_change_of_an_account_counts_at_once_in_all_workers(pair: House) -> None:
    cleo = pair.person("cleo")

    for _ in range(4):
        pair.pop3s(cleo).quit()
    new = Person(cleo.address, "quite-another-secret-2")
    pair.set_password("passwd", cleo.address, new.password)

    def refused() -> None:
        with pytest.raises(poplib.error_proto, match=r"-ERR \[AUTH\]"):
            pair.pop3s(cleo)

    until_both(pair, lambda: pair.pop3s(new).quit())
    until_both(pair, refused)


def test_limits_of_connections_hold_over_all_workers(make_house: MakeHouse) -> None:
    with make_house(change=two_and("limits", "connections_per_peer = 6")) as house, ExitStack() as stack:
        clients = [greeted(house) for _ in range(12)]
        taken = [client for client in clients if client is not None]
        for client in taken:
            stack.callback(client.close)
        assert [client is not None for client in clients] == [True] * 6 + [False] * 6
        wait_for(lambda: sessions(house).total() == 6, "all sessions are in the log")
        assert set(sessions(house)) == {0, 1}, "both workers have some"
        taken[0].quit()
        stack.callback(wait_for(lambda: greeted(house), "there is room again").close)
        assert greeted(house) is None
        pid = house.workers()[1]
        os.kill(pid, signal.SIGKILL)
        house.wait_for_another(1, pid)
        again = [greeted(house) for _ in range(8)]
        for client in again:
            if client is not None:
                stack.callback(client.close)
        lost = sum(client is not None for client in again)
        assert 1 <= lost <= 5, "what the dead one had counted is forgotten, and nothing else"


def test_a_limit_of_the_whole_listener_holds_over_all_workers(make_house: MakeHouse) -> None:
    with make_house(change=two_and("limits", "connections = 5")) as house, ExitStack() as stack:
        clients = [greeted(house) for _ in range(9)]
        for client in clients:
            if client is not None:
                stack.callback(client.close)
        assert sum(client is not None for client in clients) == 5


def test_who_guesses_passwords_at_one_worker_is_locked_out_by_all(make_house: MakeHouse) -> None:
    with make_house(change=two_and("limits", "failed_logins = 2")) as house:
        dora = house.person("dora")

        def fail(person: Person) -> None:
            with pytest.raises(poplib.error_proto, match=r"-ERR \[AUTH\]"):
                house.pop3s(person)

        for guess in ("a guess", "another guess"):
            fail(Person(dora.address, guess))
        until_both(house, lambda: fail(dora))
        assert len(re.findall(r"\[worker 0#warn\].* is locked out of ", house.log())) >= 1
        assert len(re.findall(r"\[worker 1#warn\].* is locked out of ", house.log())) >= 1
        assert house.log().count(f"authentication of {dora.address} ") == 2


def test_a_worker_that_is_killed_is_replaced_and_its_spool_recovered(make_house: MakeHouse) -> None:
    with make_house(change=two_and("queue", "retry_first_seconds = 1")) as house:
        bob = house.person("bob")
        marker = house.folder / "mail" / ".mailstack"
        marker.unlink()  # so nothing is delivered, and what is accepted waits
        names = [f"n{number}" for number in range(4)]
        for first, second in (names[:2], names[2:]):
            for name, client in zip((first, second), in_each_worker(house), strict=True):
                with client:
                    client.sendmail("s@elsewhere.test", [bob.address], messages.self_checking(name, recipient=bob.address))
        before, pid = len(house.log()), house.workers()[1]
        os.kill(pid, signal.SIGKILL)
        other = house.wait_for_another(1, pid)
        assert f"worker 1, process {pid}, was ended by SIGKILL; the next starts in 0.0 s" in house.log()
        assert "[worker 1#info] shard-1: 2 waiting" in house.log()[before:]
        assert is_alive(other)
        assert not is_alive(pid)
        marker.touch()
        files = house.wait_for_files(bob.address, len(names))
        assert sorted(messages.check_whole(file.read_bytes()) for file in files) == names
        house.deliver(messages.plain("after"), bob.address)
        house.wait_for_files(bob.address, len(names) + 1)


def test_fewer_workers_deliver_what_the_others_left(make_house: MakeHouse) -> None:
    with make_house(change=lambda text: two_and("queue", "retry_first_seconds = 1")(text).replace("s = 2", "s = 3")) as house:
        bob = house.person("bob")
        marker = house.folder / "mail" / ".mailstack"
        marker.unlink()
        with ExitStack() as stack:
            for number in range(12):  # each worker has some of them: none gets far more than another
                client = stack.enter_context(house.smtp())
                content = messages.self_checking(f"n{number}", recipient=bob.address)
                client.sendmail("s@elsewhere.test", [bob.address], content)
        assert sorted(path.name for path in (house.folder / "spool").glob("shard-*")) == ["shard-1", "shard-2"]
        assert house.stop() == ENDED
        marker.touch()
        before = len(house.log())
        house.change(lambda text: text.replace("workers = 3\n", ""))
        house.mailstack("check", *house.directory_options)
        house.start()
        house.wait_for_files(bob.address, 12)
        assert house.stop() == ENDED
        assert re.search(r"shard-1: [1-9]\d* waiting", house.log()[before:])
        assert re.search(r"shard-2: [1-9]\d* waiting", house.log()[before:])
        assert len(house.files(bob.address)) == 12


def test_workers_whose_parent_is_killed_end_by_themselves(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        bob = house.person("bob")
        pids = house.workers().values()
        busy = house.smtp()
        busy.ehlo()
        busy.mail("someone@elsewhere.test")
        busy.rcpt(bob.address)
        busy.putcmd("DATA")
        assert busy.getreply()[0] == 354
        assert house.process is not None
        house.process.kill()
        house.process.wait(10)
        wait_for(lambda: all(is_free(port) for port in house.ports.every), "nobody listens any more")
        busy.send(messages.plain("in-flight") + b".\r\n")
        assert busy.getreply()[0] == 250, "what was under way is ended"
        wait_for(lambda: not any(is_alive(pid) for pid in pids), "the workers have ended")
        house.start()
        house.wait_for_files(bob.address, 1)


def test_a_spool_that_another_process_has_refuses_the_start(make_house: MakeHouse) -> None:
    house = make_house(change=TWO)
    shard = house.folder / "spool" / "shard-1"
    shard.mkdir(mode=0o700)
    with (shard / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert house.launch().wait(60) == 1
    assert f"mailstack: {shard}: another process is using this spool" in house.log()
    assert "Traceback" not in house.log()
    assert nobody_is_left(house)
    house.start()
    assert house.stop() == ENDED


def nobody_is_left(house: House) -> bool:
    """Say whether no process of the house's group lives; the group has the number of its first."""
    assert house.process is not None
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout.split("\n")
    groups = [line.split() for line in listed if line]
    return not [state for group, state in groups if int(group) == house.process.pid and not state.startswith("Z")]


@pytest.mark.parametrize("options", [(), ("--logfile", "twistd.log")], ids=["stdout", "logfile"])
def test_a_damaged_directory_refuses_the_start(make_house: MakeHouse, options: tuple[str, ...]) -> None:
    house = make_house(change=TWO, twistd_options=options)
    (house.folder / "directory.db").write_bytes(b"no database, this")
    assert house.launch().wait(60) == 1
    log = house.log() if not options else (house.folder / "twistd.log").read_text()
    assert re.search(r"mailstack: .*directory\.db", log)
    assert "Traceback" not in log
    assert nobody_is_left(house)


def test_a_taken_port_refuses_the_start(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        other = House(house.folder)
        other.log_file = house.folder.parent / "second.log"
        assert other.launch(config=house.config).wait(60) == 1
        assert "Address already in use" in other.log()
        house.deliver(messages.plain("still"), house.person("bob").address)


def test_sigterm_drains_all_workers(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        bob = house.person("bob")
        busy = in_each_worker(house)
        idle = in_each_worker(house)
        for client in idle:
            client.ehlo()
        for client in busy:
            client.ehlo()
            client.mail("someone@elsewhere.test")
            client.rcpt(bob.address)
            client.putcmd("DATA")
            assert client.getreply()[0] == 354
        assert house.process is not None
        house.process.terminate()
        assert [client.getreply()[0] for client in idle] == [421, 421]
        wait_for(lambda: all(is_free(port) for port in house.ports.every), "nobody new is let in")
        for number, client in enumerate(busy):
            client.send(messages.plain(f"in-flight-{number}") + b".\r\n")
            assert client.getreply()[0] == 250
        assert house.process.wait(60) == ENDED
        log = house.log()
        assert "[mailstack#info] stopped\n" in log
        for worker in (0, 1):
            assert f"[worker {worker}#info] stopped\n" in log
            pattern = rf"\[worker {worker}#info\] reactor delay p50=\d+\.\d p99=\d+\.\d most=\d+\.\d ms\n"
            assert len(re.findall(pattern, log)) == 1
        assert "died" not in log
        assert "Traceback" not in log
        assert len(house.files(bob.address)) == 2
        assert nobody_is_left(house)


def test_ctrl_c_in_a_terminal_is_the_parent_s_business(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        assert house.process is not None
        os.killpg(house.process.pid, signal.SIGINT)
        assert house.process.wait(60) == -signal.SIGINT
        assert house.log().count("] stopped\n") == 3
        assert "Traceback" not in house.log()


def test_sigterm_to_a_worker_alone_lets_another_take_its_place(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        pid = house.workers()[0]
        os.kill(pid, signal.SIGTERM)
        house.wait_for_another(0, pid)
        assert f"worker 0, process {pid}, ended with status 0; the next starts in 0.0 s" in house.log()
        house.deliver(messages.plain("after"), house.person("bob").address)


def test_a_reload_reaches_all_workers_and_those_to_come(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        paths = dict(
            line.split(" = ", 1) for line in house.config.read_text().splitlines() if line.startswith(("certificate", "key ="))
        )
        new = make_certificate(house.folder.parent / "new", house.hostname)
        (house.folder / paths["certificate"].strip('"')).write_bytes(new.chain.read_bytes())
        (house.folder / paths["key"].strip('"')).write_bytes(new.key.read_bytes())
        house.change(with_lines("limits", "message_octets = 70000"))
        house.reload()
        house.wait_for_line("reloaded: certificates, limits, policies, relay\n")

        def check() -> None:
            for client in in_each_worker(house):
                with client:
                    client.ehlo()
                    assert client.esmtp_features["size"] == "70000"
            for _ in range(6):
                shown = ssl.get_server_certificate(("127.0.0.1", house.ports.pop3s))
                assert shown.split() == new.chain.read_text().split()

        check()
        pid = house.workers()[0]
        os.kill(pid, signal.SIGKILL)
        house.wait_for_another(0, pid)
        check()


def test_a_reload_with_a_wrong_configuration_changes_nothing(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        house.change(with_lines("limits", "message_octets = 70000"))
        house.change(with_lines("", "nonsense = 1"))
        house.reload()
        house.wait_for_line("reload refused")
        pid = house.workers()[0]
        os.kill(pid, signal.SIGKILL)  # nor for one that begins now
        house.wait_for_another(0, pid)
        for client in in_each_worker(house):
            with client:
                client.ehlo()
                assert client.esmtp_features["size"] != "70000"
        assert house.log().count("reload refused") == 1


def test_a_worker_that_cannot_start_again_does_not_stop_the_others(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        bob = house.person("bob")
        shard, aside = house.folder / "spool" / "shard-1", house.folder / "aside"
        shard.rename(aside)
        shard.write_bytes(b"this is no folder")
        os.kill(house.workers()[1], signal.SIGKILL)
        wait_for(lambda: house.log().count("] worker 1: ") >= 2, "it is refused, and again")
        assert re.search(r"worker 1, process \d+, ended with status 1; the next starts in 1\.0 s", house.log())
        for number in range(4):
            house.deliver(messages.plain(f"m{number}"), bob.address)
        house.wait_for_files(bob.address, 4)
        shard.unlink()
        aside.rename(shard)
        count = house.log().count("worker 1 serves")
        wait_for(lambda: house.log().count("worker 1 serves") > count, "it is there again")


def test_a_log_file_of_twistd_has_what_the_workers_say(make_house: MakeHouse) -> None:
    house = make_house(change=TWO, twistd_options=["--logfile", "twistd.log"])
    house.log_file = house.folder / "twistd.log"
    with house:
        for client in in_each_worker(house):
            client.quit()
        os.kill(house.workers()[1], signal.SIGABRT)  # Python writes of its end to its standard error
        house.wait_for_line("was ended by SIGABRT")
        wait_for(lambda: house.log().count("worker 1 serves") == 2, "it is replaced")
        assert house.stop() == ENDED
        log = house.log()
        for worker in (0, 1):
            assert f"[worker {worker}#info] stopped\n" in log
        assert "[mailstack#info] stopped\n" in log
        assert all(re.match(r"\d{4}-\d\d-\d\dT\S+ \[\S+|\t", line) for line in log.split("\n") if line)


def test_what_was_read_at_the_start_is_not_read_again_for_a_worker_that_comes_later(make_house: MakeHouse) -> None:
    with make_house(change=TWO) as house:
        bob = house.person("bob")
        with house.submission(bob):
            pass
        house.config.unlink()
        (house.folder / "tls" / "server.key").unlink()
        for worker, pid in house.workers().items():
            os.kill(pid, signal.SIGKILL)
            house.wait_for_another(worker, pid)
        for _ in range(4):
            with house.submission(bob):
                pass


def may_run_python(uid: int) -> bool:
    """Say whether that user may start the Python of this test: one under /root may not be."""
    try:
        return subprocess.run([sys.executable, "-c", "import mailstack"], user=uid, cwd="/", check=False).returncode == 0
    except PermissionError:
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
@pytest.mark.peer
def test_what_only_root_may_read_reaches_workers_that_are_not_root(make_house: MakeHouse) -> None:
    house = make_house(change=TWO, twistd_options=["--uid", "65534", "--gid", "65534"])
    house.folder.chmod(0o700)
    run(["chown", "-R", "65534:65534", house.folder])
    key = house.folder / "tls" / "server.key"
    run(["chown", "root:root", key])
    key.chmod(0o600)
    if not may_run_python(65534):
        assert house.launch().wait(60) == 1
        assert "the user that we work as must be able to run it" in house.log()
        assert nobody_is_left(house)
        return
    with house:
        for pid in house.workers().values():
            assert "\nUid:\t65534\t65534\t65534\t65534\n" in Path(f"/proc/{pid}/status").read_text()
        pid = house.workers()[1]
        os.kill(pid, signal.SIGKILL)
        house.wait_for_another(1, pid)
        bob = house.person("bob")
        house.deliver(messages.plain("as-nobody"), bob.address)
        house.wait_for_files(bob.address, 1)
        assert messages.without_trace(house.retrieved(bob)[0]) == messages.plain("as-nobody")
