"""`mailstack queue` against a real spool: the command, the language of the socket, the desk, the queue; all but the socket."""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from mailstack.console import control_client, desk, desks, queue, queue_asking, queue_sums, queue_views
from mailstack.console.command import main
from mailstack.console.control import Answer, ControlError, Desk, decode, encode
from mailstack.console.desk import LISTED_RECIPIENTS, MORE_RECIPIENTS, QueueDesk
from mailstack.console.desks import Desks
from mailstack.console.headers import subject_of
from mailstack.console.queue_acted import Acted
from mailstack.console.queue_asking import _parts, with_all_recipients
from mailstack.console.queue_views import duration, safe, size
from mailstack.mail.disposition import Action, Standing
from mailstack.mail.disposition import delayed as delayed_by
from mailstack.mail.headers import HEADER_OCTETS
from mailstack.mail.requests import Notify, Requests, Return
from mailstack.mail.verdict import defer
from mailstack.spool.failures import StorageError
from mailstack.spool.hands import Act
from mailstack.spool.identifiers import parse_name
from mailstack.spool.selection import _FIELDS, NAMES
from mailstack.spool.sums import By

# The spool with a clock and couriers that a test commands is that of the spool's own tests.
sys.path.append(str(Path(__file__).resolve().parent.parent / "spool"))
from spool_house import CONTENT, House, all_are, envelope, local, remote

Run = Callable[..., Result]


class FakeClient:
    """Asks a desk, through the octets that would go over the socket."""

    desk: Desk

    def __init__(self, path: Path) -> None:
        """Connect to nothing."""

    def ask(self, what: str, **fields: Any) -> Answer:
        request = decode(encode({"ask": what, **fields}).removesuffix(b"\n"))
        answers: list[Answer] = []
        failures: list[Any] = []
        Deferred.fromCoroutine(self.desk.answer({**request, "by": "root"})).addCallbacks(answers.append, failures.append)
        if failures:
            failures[0].raiseException()
        return decode(encode(answers[0]).removesuffix(b"\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing."""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queue") / "var"
    assert CliRunner().invoke(main, ["init", str(folder), "--domain", "here.test"]).exit_code == 0
    return folder / "mailstack.toml"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "spool").open()


def check_via(text: str) -> str:
    if not text.startswith("smtp:"):
        raise ValueError(f"{text!r} is no way")
    return text


def make_desk(house: House) -> QueueDesk:
    return QueueDesk(house.spool.queue, seconds=house.clock.seconds, check_via=check_via)


@pytest.fixture
def run(installation: Path, house: House, monkeypatch: pytest.MonkeyPatch) -> Run:
    def invoke(*words: str, expect: int = 0, stdin: str | bytes = "") -> Result:
        result = CliRunner().invoke(main, ["queue", *words], input=stdin, env={"MAILSTACK_CONFIG": str(installation)})
        assert result.exit_code == expect, result.output + result.stderr
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    monkeypatch.setattr(time, "time", lambda: house.clock.seconds())
    monkeypatch.setattr(control_client, "Client", FakeClient)
    monkeypatch.setattr(FakeClient, "desk", Desks([make_desk(house)]), raising=False)
    return invoke


def delayed(house: House, *recipients: Any, sender: str | None = "alice@example.org") -> str:
    house.courier.answer = all_are(Action.DELAYED, "450 4.2.1 [bold]later[/bold]")
    name = house.accept(*(recipients or (remote("bob@example.net"),)), sender=sender)
    house.courier.answer = None
    return name


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


def fill(house: House, count: int) -> None:
    house.courier.answer = all_are(Action.DELAYED)
    for number in range(count):
        house.accept(remote(f"user{number}@d{number % 7}.test"))
    house.courier.answer = None


class TestList:
    def test_nothing(self, run: Run) -> None:
        assert "No mail waits." in run("list").stderr
        assert "is like that" in run("list", "--domain", "x.test").stderr
        assert as_json(run("list", "--json")) == []

    def test_a_table(self, run: Run, house: House) -> None:
        name = delayed(house, *(remote(f"{each}@example.net") for each in "abcde"))
        house.clock.advance(120)
        lines = run("list").stdout.splitlines()
        assert lines[0].split() == ["ID", "AGE", "SIZE", "SENDER", "RECIPIENT", "STATE", "NEXT", "REASON"]
        for part in (
            name,
            "2 min",
            "alice@example.org",
            "a@example.net",
            "delayed",
            "in 3 min",
            "450 4.2.1 [bold]later[/bold]",
        ):
            assert part in lines[1]
        assert "and 2 more" in lines[4]

    def test_of_where_it_came_from(self, run: Run, house: House) -> None:
        name = delayed(house)
        for words in (("--peer", "192.0.2.0/24"), ("--session", "s1"), ("--session", "s1", "--peer", "192.0.2.1")):
            assert [each["id"] for each in as_json(run("list", *words, "--json"))] == [name]
        for words in (("--peer", "192.0.2.2"), ("--session", "s2"), ("--account", "alice@example.org")):
            assert as_json(run("list", *words, "--json")) == []
            run("hold", *words, expect=3)
        assert "1 recipient of 1 message: held." in run("hold", "--session", "s1").stdout

    def test_as_many_as_are_wanted(self, run: Run, house: House) -> None:
        fill(house, 250)
        result = run("list")
        assert len(result.stdout.splitlines()) == 101
        assert "There are more than 100" in result.stderr
        assert len(run("list", "--limit", "0").stdout.splitlines()) == 251
        assert len(as_json(run("list", "--json"))) == 250
        assert len(as_json(run("list", "--json", "--limit", "150"))) == 150
        names = [each["id"] for each in as_json(run("list", "--json", "--domain", "d3.test"))]
        assert names == sorted(names)
        assert len(names) == 36

    def test_of_very_many_recipients(self, run: Run, house: House) -> None:
        name = delayed(house, *(remote(f"u{number}@d{number % 2}.test") for number in range(1_700)), sender=None)
        other = delayed(house)
        first, second = as_json(run("list", "--json"))
        assert [each["ordinal"] for each in first["recipients"]] == list(range(1_700))
        assert (first["id"], first["recipient_count"], second["id"]) == (name, 1_700, other)
        assert (first["sender"], second["sender"], second["recipients"][0]["address"]) == (
            "<>",
            "alice@example.org",
            "bob@example.net",
        )
        (found,) = as_json(run("list", "--json", "--domain", "d1.test"))
        assert [each["ordinal"] for each in found["recipients"]] == list(range(1, 1_700, 2))
        (found,) = as_json(run("hold", "--domain", "d0.test", "--dry-run", "--json"))["first"]
        assert len(found["recipients"]) == 850

    def test_the_rest_of_very_many_comes_in_parts(self, run: Run, house: House) -> None:
        name = delayed(house, *(remote(f"u{number}@x.test") for number in range(700)))
        client, select = FakeClient(Path()), {"names": [name]}
        (found,) = client.ask("find", select=select)["entries"]
        assert (len(found["recipients"]), len(found["selected"])) == (LISTED_RECIPIENTS, 700)
        (found,) = client.ask("find", select=select, behind=19)["entries"]
        assert [each["ordinal"] for each in found["recipients"]] == list(range(20, 20 + MORE_RECIPIENTS))
        run("hold", name)
        entry = {"id": name, "recipients": [{"ordinal": 19}], "selected": list(range(700))}
        assert len(with_all_recipients(client, {"states": ["delayed"]}, entry)["recipients"]) == 1, "no longer like that"

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (("--older-than", "soon"), "no duration"),
            (("--larger-than", "big"), "no size"),
            (("--sender", "nobody"), "no address"),
            (("--peer", "192.0.2.1/24"), "no IP address or network"),
            (("--state", "sad"), "is not one of"),
            (("short",), "not the name of an entry"),
            (("--limit", "-1"), "not in the range"),
        ],
    )
    def test_what_is_not_understood(self, run: Run, words: tuple[str, ...], why: str) -> None:
        assert why in run("list", *words, expect=2).stderr


class TestNamesOnStandardInput:
    def test_are_any_number(self, run: Run, house: House) -> None:
        fill(house, 1_300)
        names = [each["id"] for each in as_json(run("list", "--json"))]
        assert len(names) == 1_300
        chosen = names[::-1][: 2 * NAMES + 7]
        listed = as_json(run("list", "-", "--json", stdin="\n".join([*chosen, "", chosen[0]]) + "\n"))
        assert [each["id"] for each in listed] == sorted(chosen)
        assert len(as_json(run("list", "-", "--json", "--limit", "600", stdin="\n".join(chosen)))) == 600
        wanted = [each["id"] for each in listed if each["recipients"][0]["address"].endswith("@d3.test")]
        done = as_json(run("hold", "-", "--domain", "d3.test", "--json", stdin="\r\n".join(chosen)))
        assert done["changed_recipients"] == len(wanted) > 100
        assert len(as_json(run("list", *chosen, "--json"))) == len(chosen), "as arguments, too"

    def test_that_are_none_select_nothing(self, run: Run, house: House) -> None:
        fill(house, 3)
        assert as_json(run("list", "-", "--json", stdin="\n")) == []
        assert "is like that" in run("list", "-", "--domain", "d1.test").stderr
        run("delete", "-", "--sender", "alice@example.org", "--yes", expect=3)
        run("hold", "-", expect=3)
        assert house.counts().entries == 3

    def test_that_are_not_understood(self, run: Run, house: House) -> None:
        fill(house, 1)
        (name,) = [each["id"] for each in as_json(run("list", "--json"))]
        assert (
            "line 2 of standard input: 'x\ufffdy'"
            in run("delete", "-", "--yes", stdin=f"{name}\nx".encode() + b"\xffy\n", expect=2).stderr
        )
        assert house.counts().entries == 1

    def test_leave_nobody_to_be_asked(self, run: Run, house: House) -> None:
        fill(house, 1)
        (name,) = [each["id"] for each in as_json(run("list", "--json"))]
        assert "nobody can be asked" in run("delete", "-", stdin=f"{name}\n", expect=2).stderr
        assert as_json(run("delete", "-", "--dry-run", "--json", stdin=name))["messages"] == 1
        assert "1 recipient of 1 message: deleted." in run("delete", "-", "--yes", stdin=name).stdout


class TestShow:
    def test_tells_what_was_tried_and_what_comes(self, run: Run, house: House) -> None:
        name = delayed(house, remote("bob@example.net"), local("eve@here.test"))
        text = run("show", name).stdout
        assert f"{name}  {len(CONTENT)} octets, 2 recipients" in text
        assert "by smtp from 192.0.2.1 client.example" in text.replace("(", "").replace(")", "")
        assert "bob@example.net: delayed, 1 attempt" in text
        assert "in 5 min: attempt 1 did not succeed" in text
        assert "delayed: 4.0.0 450 4.2.1 [bold]later[/bold]" in text

    def test_says_why_it_waits(self, run: Run, house: House) -> None:
        running = house.accept(remote("a@busy.test"))
        assert "an attempt runs now" in run("show", running).stdout
        name = delayed(house)
        run("hold", name)
        assert "held by the operator" in run("show", name).stdout
        run("release", name)
        house.courier.finish(Action.RELAYED)
        run("pause", "example.net")
        house.courier.finish(Action.DELAYED)
        assert "example.net is paused by the operator" in run("show", name).stdout
        assert as_json(run("show", name, "--json"))["recipients"][0]["tried"][0]["at"] == house.clock.seconds()

    def test_says_of_what_was_put_off_that_it_was_not_attempted(self, run: Run, house: House) -> None:
        house.courier.answer = lambda delivery: [
            replace(delayed_by(each, "no"), standing=Standing.DOWN) for each in delivery.recipients
        ]
        names = [house.accept() for _ in range(6)]
        text = run("show", names[-1]).stdout
        assert "bob@example.net: new, 0 attempts" in text
        assert "its destination is down, and is asked again then at the latest" in text
        assert "did not succeed" not in text
        assert "attempt 1 did not succeed" in run("show", names[0]).stdout
        assert [each["id"] for each in as_json(run("list", "--state", "new", "--json"))] == [names[-1]]
        assert as_json(run("stats", "--json"))["domains"][0]["states"] == {"delayed": 5, "new": 1}

    def test_of_very_many_recipients(self, run: Run, house: House) -> None:
        name = delayed(house, *(remote(f"user{number}@example.net") for number in range(120)))
        assert [each["ordinal"] for each in as_json(run("show", name, "--json"))["recipients"]] == list(range(120))

    def test_of_what_is_not_there(self, run: Run) -> None:
        assert "does not wait here" in run("show", "0" * 13, expect=1).stderr
        assert "not the name of an entry" in run("show", "x", expect=2).stderr

    def test_of_one_that_is_damaged(self, run: Run, house: House) -> None:
        name = delayed(house)
        house.spool._database._connected().execute("UPDATE entry SET envelope = '{'")
        house.clock.advance(300)
        assert "when it is whole again it can be released" in run("show", name).stdout
        assert "corrupt" in run("list").stdout
        run("hold", "--all", expect=3)
        assert "1 recipient of 1 message: deleted." in run("delete", "--state", "corrupt", "--yes").stdout
        assert as_json(run("list", "--json")) == []

    @pytest.mark.parametrize(
        ("table", "column"),
        [
            *(("recipient", column) for column in ("lane", "state", "status", "diagnostic", "remote_mta", "via")),
            *(("attempt", column) for column in ("action", "status", "remote_mta", "address", "tls", "diagnostic")),
        ],
    )
    def test_of_one_whose_texts_are_octets_now(self, run: Run, house: House, table: str, column: str) -> None:
        name, other = delayed(house), delayed(house)
        octets = f"CAST(coalesce({column}, 'x') AS BLOB)"
        house.spool._database._connected().execute(
            f"UPDATE {table} SET {column} = {octets} WHERE entry = ?", (parse_name(name),)
        )
        run("show", name)
        assert other in run("list").stdout
        run("stats")
        run("stats", "--by", "reason", "--json")

    def test_of_one_that_is_whole_again(self, run: Run, house: House) -> None:
        name = delayed(house)
        (record,) = house.spool._database._connected().execute("SELECT envelope FROM entry").fetchone()
        house.spool._database._connected().execute("UPDATE entry SET envelope = '{'")
        house.clock.advance(300)
        said = run("release", name, expect=1)
        assert "0 recipients of 0 messages: released." in said.stdout
        assert f"{name} is damaged as before: JSONDecodeError" in said.stderr
        assert "is damaged as before" in as_json(run("release", name, "--json", expect=1))["refused"][name]
        house.spool._database._connected().execute("UPDATE entry SET envelope = ?", (record,))
        assert "1 recipient of 1 message: released." in run("release", name).stdout
        assert "an attempt runs now" in run("show", name).stdout

    def test_trace_is_in_the_order_of_time(self, run: Run, house: House) -> None:
        name = delayed(house, remote("a@x.test"), remote("b@y.test"))
        house.clock.advance(10)
        run("hold", name)
        lines = run("trace", name).stdout.splitlines()
        assert ["held" in line for line in lines] == [False, False, False, True, True]
        assert "accepted from alice@example.org" in lines[0]
        steps = as_json(run("trace", name, "--json"))
        assert [(each["recipient"], each["action"]) for each in steps[2:]] == [("a@x.test", "held"), ("b@y.test", "held")]
        assert steps[2]["said"] == "by root"


LARGE = b"Subject: large\r\n\r\n" + bytes(range(256)) * 3_000


class TestMessage:
    def test_says_what_it_calls_itself(self, run: Run, house: House) -> None:
        head = b"Received: x\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?b?G1szMW0=?= all\r\nMessage-ID: <1@x.test>\r\n"
        name = house.accept(content=head + b"\r\nSubject: not this\r\n")
        text = run("show", name).stdout
        assert "subject   Grüße?[31m all" in text
        assert "msg-id    <1@x.test>" in text
        shown = as_json(run("show", name, "--json"))
        assert (shown["subject"], shown["message_id"]) == ("Grüße\x1b[31m all", "<1@x.test>")
        bare = as_json(run("show", house.accept(content=b"\r\nSubject: no\r\n"), "--json"))
        assert (bare["subject"], bare["message_id"]) == (None, None)

    def test_with_many_recipients_says_it_once(self, run: Run, house: House) -> None:
        name = delayed(house, *(remote(f"user{number}@example.net") for number in range(120)))
        assert as_json(run("show", name, "--json"))["subject"] == "a test"

    def test_whose_content_is_lost_is_shown_all_the_same(self, run: Run, house: House) -> None:
        name = house.accept(content=LARGE)
        (house.folder / "content" / name).unlink()
        assert as_json(run("show", name, "--json"))["subject"] is None
        for option in ("--headers", "--content"):
            assert "cannot be read: No such file" in run("show", name, option, expect=1).stderr

    def test_headers(self, run: Run, house: House) -> None:
        name = house.accept(content=b"Subject: a\x1b[2J\r\n\tb \xff\r\nX: y\r\n\r\nbody\r\n")
        assert run("show", name, "--headers").stdout == "Subject: a?[2J\n        b \ufffd\nX: y\n"
        assert as_json(run("show", name, "--headers", "--json")) == {"headers": ["Subject: a?[2J", "        b \ufffd", "X: y"]}
        long = house.accept(content=b"X: " + b"\xff" * 1_000_000)
        assert len(run("show", long, "--headers").stdout) == HEADER_OCTETS + 1
        assert "does not wait here" in run("show", "0" * 13, "--headers", expect=1).stderr

    @pytest.mark.parametrize("content", [CONTENT, LARGE])
    def test_content(self, run: Run, house: House, content: bytes) -> None:
        assert run("show", house.accept(content=content), "--content").stdout_bytes == content
        assert "does not wait here" in run("show", "0" * 13, "--content", expect=1).stderr
        for words in (("--json",), ("--headers",)):
            assert "stands alone" in run("show", "0" * 13, "--content", *words, expect=2).stderr

    def test_content_is_not_for_a_terminal(self, run: Run, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        name, written = house.accept(), BytesIO()
        terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True, buffer=written))
        monkeypatch.setattr(queue, "sys", terminal)
        assert "or say --yes" in run("show", name, "--content", expect=1).stderr
        assert written.getvalue() == b""
        run("show", name, "--content", "--yes")
        assert written.getvalue() == CONTENT

    def test_content_that_goes_meanwhile_or_is_damaged_is_not_taken_for_all_of_it(
        self, run: Run, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = delayed(house)
        house.spool._database._connected().execute("UPDATE entry SET content_octets = 99")
        assert f"{name} is damaged: it has {len(CONTENT)} of 99 octets" in run("show", name, "--content", expect=1).stderr
        large = house.accept(content=LARGE)
        answer = FakeClient.ask

        def ask(self: FakeClient, what: str, **fields: Any) -> Answer:
            if fields.get("after"):
                answer(self, "act", act="delete", targets=[[large, [0]]])
                house.courier.finish(Action.RELAYED)
            return answer(self, what, **fields)

        monkeypatch.setattr(FakeClient, "ask", ask)
        assert "what was written is not all of it" in run("show", large, "--content", expect=1).stderr

    @pytest.mark.parametrize(
        ("raw", "subject"),
        [
            (b"plain", "plain"),
            (b"", ""),
            (b"=?utf-8?b?!!!?=", "=?utf-8?b?!!!?="),
            (b"=?nonsense?q?x?=", "=?nonsense?q?x?="),
            (b"=?utf-8?q?=ff?=", "\ufffd"),
            (b"=?utf-8?q?a?= b =?iso-8859-1?q?=FC?=", "a b \u00fc"),
            ("gr\u00fc\u00df".encode(), "gr\u00fc\u00df"),
            (b"\xff", "\ufffd"),
            (b"x" * 100_000, "x" * 400),
        ],
    )
    def test_a_subject_of_any_kind(self, raw: bytes, subject: str) -> None:
        assert subject_of(b"Subject: " + raw + b"\r\n") == subject

    @given(
        raw=st.binary(max_size=200) | st.lists(st.sampled_from([b"=?", b"?=", b"?q?", b"utf-8", b"?b?", b"="])).map(b"".join)
    )
    def test_a_subject_that_makes_no_sense_is_shown_all_the_same(self, raw: bytes) -> None:
        assert isinstance(subject_of(b"Subject:" + raw.replace(b"\r\n", b"") + b"\r\n"), str)


class TestActs:
    def test_need_to_know_with_what(self, run: Run) -> None:
        for act in ("hold", "release", "retry", "bounce", "delete"):
            assert "Say which" in run(act, expect=2).stderr
            assert "Say which" in run(act, "--all", "--domain", "x.test", expect=2).stderr
        assert "--via WAY, or --back" in run("reroute", "--all", expect=2).stderr
        assert "cannot be released" in run("release", "--state", "new", expect=2).stderr

    @pytest.mark.parametrize("option", ["--sender", "--recipient", "--domain", "--reason"])
    @pytest.mark.parametrize("value", ["", " "])
    def test_are_not_about_everything_when_a_filter_is_empty(self, run: Run, house: House, option: str, value: str) -> None:
        fill(house, 2)
        for words in (("delete", "--yes"), ("delete", "--newer-than", "1h", "--yes"), ("hold",), ("list",)):
            assert "is empty" in run(*words, option, value, expect=2).stderr
        assert house.counts().entries == 2

    def test_do_not_take_an_empty_way_for_the_way_back(self, run: Run, house: House) -> None:
        name = delayed(house)
        assert "--via is empty" in run("reroute", name, "--via", "", "--yes", expect=2).stderr

    @pytest.mark.parametrize("words", [("hold", "--all"), ("delete", "--all", "--yes"), ("pause", "example.net")])
    def test_say_that_the_disk_is_full(self, run: Run, house: House, words: tuple[str, ...]) -> None:
        def fail(_: object) -> None:
            raise StorageError(OSError(errno.ENOSPC, "No space left on device"))

        delayed(house)
        house.batches["spool"]._run = fail
        assert "the disk of the spool is full" in run(*words, expect=1).stderr

    @pytest.mark.parametrize(
        "option", ["--sender", "--account", "--recipient", "--domain", "--reason", "--older-than", "--peer"]
    )
    def test_refuse_a_filter_that_is_given_twice(self, run: Run, house: House, option: str) -> None:
        value = {"--domain": "d0.test", "--older-than": "1s", "--peer": "192.0.2.1"}.get(option, "a@d0.test")
        fill(house, 2)
        for words in (("delete", "--yes"), ("hold",), ("list",), ("stats",)):
            assert f"{option} is given 2 times" in run(*words, option, value, option, value, expect=2).stderr
        assert house.counts().entries == 2

    def test_say_when_there_is_none(self, run: Run) -> None:
        for words in (("hold",), ("delete", "--yes"), ("delete",), ("delete", "--dry-run"), ("retry", "--json")):
            run(words[0], "--all", *words[1:], expect=3)

    def test_tell_what_they_did(self, run: Run, house: House) -> None:
        delayed(house, remote("a@x.test"), remote("b@y.test"))
        house.accept(remote("c@x.test"))
        result = as_json(run("hold", "--domain", "x.test", "--json"))
        assert result == {
            "result": "hold",
            "messages": 2,
            "changed_messages": 1,
            "changed_recipients": 1,
            "under_way": 1,
            "later": 0,
            "untold": 0,
            "senderless": 0,
            "paused": {},
            "refused": {},
        }
        text = run("hold", "--all").stdout
        assert "1 recipient of 1 message: held." in text
        assert "1 recipient more: in an attempt. What that leaves is held when it ends." in text
        assert "attempted at this moment" in run("retry", "--all").stdout

    def test_retry_says_of_how_many_it_found_due(self) -> None:
        acted = Acted(messages=750, changed_messages=200, changed_recipients=200, under_way=3)
        assert "547 more messages: due already." in acted.lines("due now", is_retry=True)
        assert not any("already" in each for each in acted.lines("held", is_retry=False))
        assert not any("already" in each for each in Acted(messages=1, paused={"x.test": 2}).lines("due now", is_retry=True))

    def test_show_what_they_would_do_and_ask(self, run: Run, house: House) -> None:
        fill(house, 8)
        result = run("delete", "--all", stdin="n\n", expect=1)
        assert len(result.stdout.splitlines()) == 6
        assert "8 messages, 8 recipients, 384 octets. These are the first 5." in result.stderr
        assert "Delete for good, and tell nobody: 8 recipients of 8 messages?" in result.stderr
        assert house.counts().entries == 8
        run("delete", "--all", stdin="", expect=1)
        assert house.counts().entries == 8
        assert "8 recipients of 8 messages: deleted." in run("delete", "--all", stdin="y\n").stdout
        assert house.counts().entries == 0

    def test_do_nothing_when_dry(self, run: Run, house: House) -> None:
        fill(house, 3)
        for act in (("hold",), ("delete",), ("bounce",), ("reroute", "--via", "smtp:x")):
            assert as_json(run(*act, "--all", "--dry-run", "--json"))["messages"] == 3
            run(*act, "--all", "--dry-run")
        assert {each["recipients"][0]["state"] for each in as_json(run("list", "--json"))} == {"delayed"}

    def test_do_not_ask_a_program(self, run: Run, house: House) -> None:
        fill(house, 1)
        assert "--yes" in run("delete", "--all", "--json", expect=1).stderr
        assert as_json(run("delete", "--all", "--json", "--yes"))["changed_recipients"] == 1

    def test_leave_what_came_after_the_look(self, run: Run, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(house, 1)

        def confirm(*_: Any, **__: Any) -> bool:
            house.clock.advance(1)
            delayed(house)
            return True

        monkeypatch.setattr("click.confirm", confirm)
        assert "1 recipient of 1 message: deleted." in run("delete", "--all").stdout
        assert house.counts().entries == 1

    def test_of_very_many(self, run: Run, house: House) -> None:
        fill(house, 350)
        assert "350 recipients of 350 messages: held." in run("hold", "--all").stdout
        assert "50 recipients of 50 messages: released." in run("release", "--domain", "d3.test").stdout

    def test_bounce_and_reroute(self, run: Run, house: House) -> None:
        name = delayed(house)
        assert "is no way" in run("reroute", name, "--via", "uucp:x", "--yes", expect=1).stderr
        run("reroute", name, "--via", "smtp:[192.0.2.1]:25", "--yes")
        assert house.courier.deliveries[-1].recipients[0].via == "smtp:[192.0.2.1]:25"
        assert "smtp:[192.0.2.1]:25, as the operator wants" in run("show", name).stdout
        house.courier.finish(Action.DELAYED)
        assert "the sender of what is bounced" in run("bounce", name, "--text", "", "--yes", expect=1).stderr
        run("bounce", name, "--text", "Gone for good", "--yes")
        assert b"Gone for good" in house.courier.deliveries[-1].content.in_memory

    def test_what_is_ordered_during_an_attempt_is_shown_and_a_hold_can_be_taken_back(self, run: Run, house: House) -> None:
        name, other = house.accept(remote("bob@x.test")), house.accept(remote("bob@y.test"))
        assert f"{name} is not held" in run("release", name, expect=3).stderr
        run("hold", name)
        assert "an attempt runs now; then it is to be: hold" in run("show", name).stdout
        assert "in an attempt. What that leaves is released when it ends." in run("release", name).stdout
        assert as_json(run("show", name, "--json"))["recipients"][0]["orders"] == ["hold", "release"]
        assert f"{name} is not held" in run("release", name, expect=3).stderr
        run("release", "--all", expect=3)
        house.courier.answer = all_are(Action.RELAYED)
        house.courier.finish(Action.DELAYED)
        assert [each.entry for each in house.courier.deliveries] == [name, other, name], "it goes at once"

    def test_list_says_which_of_those_that_were_named_are_not_there(self, run: Run, house: House) -> None:
        name, gone = house.accept(remote("bob@x.test")), "0" * 13
        assert run("list", name).stderr == ""
        for more in ((), ("--json",)):
            listed = run("list", name, gone, *more, expect=3)
            assert name in listed.stdout
            assert listed.stderr == f"{gone} does not wait here.\n"
        assert run("list", gone, expect=3).stdout == ""
        assert run("list", name, gone, "--state", "held").stderr == "No mail that waits is like that.\n"

    def test_show_tells_what_the_sender_has_asked_to_be_told(self, run: Run, house: House) -> None:
        asking = replace(remote("bob@x.test"), notify=frozenset((Notify.FAILURE, Notify.SUCCESS)))
        requests = Requests(returns=Return.HEADERS, envelope_id="QQ314159")
        draft = house.spool.intake.begin()
        draft.write(b"Subject: x\r\n\r\n")
        assert house.commit(draft, replace(envelope(asking), requests=requests)) is None
        shown = run("show", draft.entry).stdout
        assert "  asked     ENVID=QQ314159 RET=HDRS\n" in shown
        assert "  asked     NOTIFY=FAILURE,SUCCESS\n" in shown
        assert as_json(run("show", draft.entry, "--json"))["returns"] == "HDRS"

    def test_reroute_is_about_what_goes_another_way_until_now(self, run: Run, house: House) -> None:
        fill(house, 3)
        name = delayed(house, remote("a@x.test"), local("b@here.test"))
        run("reroute", "--all", "--back", "--yes", expect=3)
        way = ("--via", "smtp:[192.0.2.1]:25")
        house.courier.answer = all_are(Action.DELAYED)
        assert as_json(run("reroute", name, *way, "--dry-run", "--json"))["recipients"] == 1, "nobody here is rerouted"
        assert "1 recipient of 1 message: rerouted." in run("reroute", name, *way, "--yes").stdout
        assert as_json(run("reroute", "--all", *way, "--dry-run", "--json"))["messages"] == 3
        assert as_json(run("reroute", "--all", "--back", "--dry-run", "--json"))["messages"] == 1
        before = len(house.courier.deliveries)
        assert "1 recipient of 1 message: rerouted." in run("reroute", "--all", "--back", "--yes").stdout
        assert len(house.courier.deliveries) == before + 1

    @pytest.mark.parametrize("more", [(), ("--dry-run",), ("--yes",), ("--json", "--dry-run")])
    def test_are_refused_before_anything_is_shown_or_done(self, run: Run, house: House, more: tuple[str, ...]) -> None:
        delayed(house)
        for words, why in (
            (("reroute", "--via", "uucp:x"), "is no way"),
            (("bounce", "--text", ""), "must be told why"),
        ):
            refused = run(*words, "--all", *more, expect=1)
            assert why in refused.stderr
            assert refused.stdout == ""

    def test_say_that_what_is_corrupt_goes_as_a_whole(self, run: Run, house: House) -> None:
        delayed(house, remote("a@x.test"), remote("b@x.test"))
        house.spool._database._connected().execute("UPDATE entry SET state = 'corrupt'")
        words = ("delete", "--recipient", "a@x.test")
        assert "1 message of these: corrupt, and deleted as a whole" in run(*words, stdin="n\n", expect=1).stderr
        assert "2 recipients of 1 message: deleted." in run(*words, "--yes").stdout

    def test_bounce_says_who_is_told(self, run: Run, house: House) -> None:
        never = replace(remote("eve@x.test"), notify=frozenset((Notify.NEVER,)))
        delayed(house, remote("bob@x.test"), never)
        delayed(house, remote("bob@x.test"), never, sender=None)
        said = run("bounce", "--all", "--yes").stdout
        assert "4 recipients of 2 messages: given up." in said
        assert "2 recipients of them: the sender wants no word of that, and is not told." in said
        assert "1 recipient of them: without a sender" in said

    def test_say_of_each_that_was_named_why_nothing_was_done(self, run: Run, house: House) -> None:
        waits, held, corrupt, here = (delayed(house) for _ in range(4))
        here = delayed(house, local("bob@here.test"))
        run("hold", held)
        house.spool._database._connected().execute(
            "UPDATE entry SET state = 'corrupt' WHERE number = ?", (parse_name(corrupt),)
        )
        none = "0" * 13
        for words, why in (
            (("hold", held), "is held already"),
            (("retry", held), "is held: release it"),
            (("retry", corrupt), "is corrupt: it can be released"),
            (("release", waits), "is not held"),
            (("release", none), "does not wait here"),
            (("delete", none), "does not wait here"),
            (("delete", none, "--dry-run"), "does not wait here"),
            (("delete", waits, "--domain", "x.test"), "waits here, but is not like that"),
            (("reroute", waits, "--back"), "goes that way already"),
            (("reroute", here, "--via", "smtp:x"), "is delivered here"),
        ):
            said = run(*words, expect=3).stderr
            assert said == f"{words[1]} {why}{said.partition(why)[2]}", words
        said = run("hold", waits, none, held, expect=3)
        assert "1 recipient of 1 message: held." in said.stdout
        assert said.stderr.splitlines() == [f"{none} does not wait here.", f"{held} is held already."]
        refused = as_json(run("hold", waits, none, "--json", expect=3))["refused"]
        assert refused == {waits: "is held already", none: "does not wait here"}
        assert as_json(run("delete", none, here, "--dry-run", "--json", expect=3))["refused"] == {none: "does not wait here"}

    @pytest.mark.parametrize("words", [(), ("--json",)])
    @pytest.mark.parametrize("end", [KeyboardInterrupt(), ControlError("the connection to the server is lost")])
    def test_that_are_stopped_say_how_far_they_came(
        self, run: Run, house: House, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], end: BaseException
    ) -> None:
        fill(house, 250)
        ask, asked = FakeClient.ask, []

        def stop(self: FakeClient, what: str, **fields: Any) -> Answer:
            asked.append(what)
            if asked.count("act") == 3:
                raise end
            return ask(self, what, **fields)

        monkeypatch.setattr(FakeClient, "ask", stop)
        said = run("hold", "--all", *words, expect=1)
        if words:
            stopped = as_json(said)
            assert (stopped["result"], stopped["act"], stopped["changed_recipients"]) == ("stopped", "hold", 200)
        else:
            assert "200 recipients of 200 messages: held." in said.stdout
            assert "Stopped." in said.stderr
        assert ("Aborted!" in said.stderr) is isinstance(end, KeyboardInterrupt)

    def test_go_in_parts_that_the_socket_takes(self) -> None:
        entries = [{"id": f"{number:013}", "selected": list(range(800))} for number in range(3)]
        entries.append({"id": "x" * 13, "selected": list(range(2_400))})
        parts = list(_parts(entries))
        assert all(sum(len(ordinals) for _, ordinals in part) <= 1_000 for part in parts)
        assert sum(len(ordinals) for part in parts for _, ordinals in part) == 4_800
        assert [len(part) for part in _parts([{"id": "x", "selected": [0]}] * 1_200)] == [500, 500, 200]


class TestPauseAndStats:
    def test_pause_and_resume(self, run: Run) -> None:
        assert "Mail for example.net is paused." in run("pause", "Example.NET").stdout
        assert "was paused already" in run("pause", "example.net").stdout
        assert "paused for 0 s" in run("stats").stdout
        assert as_json(run("resume", "example.net", "--json")) == {
            "result": "resumed",
            "domain": "example.net",
            "changed": True,
        }
        assert "was not paused" in run("resume", "example.net").stdout
        assert "not a domain name" in run("pause", "a b", expect=2).stderr

    def test_of_a_domain_of_ours(self, run: Run, house: House) -> None:
        house.courier.answer = all_are(Action.DELAYED)
        before = house.accept(local("bob@here.test"))
        house.courier.answer = None
        run("pause", "Here.test")
        name = house.accept(local("bob@here.test"))
        for each in (before, name):
            assert "here.test is paused by the operator" in run("show", each).stdout
        (here, ours) = as_json(run("stats", "--json"))["domains"]
        assert (here["domain"], here["way"], here["is_local"], here["paused_since"]) == (None, None, True, None)
        assert (ours["domain"], ours["way"], ours["is_local"]) == ("here.test", "local", True)
        assert ours["paused_since"] == house.clock.seconds()
        run("resume", "here.test")
        assert [each.entry for each, _ in house.courier.waiting] == [name]

    def test_of_all_that_goes_elsewhere(self, run: Run, house: House) -> None:
        assert "All mail that goes elsewhere is paused." in run("pause", "*").stdout
        assert "queue resume '*'" in run("pause", "*").stdout
        name = house.accept(remote("bob@example.net"))
        assert "all that goes elsewhere is paused by the operator" in run("show", name).stdout
        house.clock.advance(60)
        lines = [line.split()[0] for line in run("stats").stdout.splitlines() if "paused for 1 min" in line]
        assert lines == ["example.net", "*"]
        assert as_json(run("stats", "--json"))["domains"][0]["paused_since"] == house.clock.seconds() - 60
        run("pause", "example.net")
        assert "still paused" in run("resume", "example.net").stdout
        assert house.courier.deliveries == []
        assert as_json(run("resume", "*", "--json")) == {"result": "resumed", "domain": "*", "changed": True}
        assert len(house.courier.deliveries) == 1

    def test_of_an_address_literal(self, run: Run, house: House) -> None:
        assert "Mail for [192.0.2.1] is paused." in run("pause", "[192.0.2.1]").stdout
        house.accept(remote("bob@[192.0.2.1]"))
        assert house.courier.deliveries == []
        run("resume", "[192.0.2.1]")
        assert len(house.courier.deliveries) == 1

    def test_what_is_paused_is_said_to_be(self, run: Run, house: House) -> None:
        name = delayed(house)
        run("pause", "example.net")
        new = house.accept()
        assert [line.split()[7] for line in run("list").stdout.splitlines()[1:]] == ["paused", "paused"]
        assert "paused: example.net is paused by the operator" in run("show", name).stdout
        for words in (("retry", "--domain", "example.net"), ("retry", name, new)):
            said = run(*words).stdout
            assert "2 recipients: waiting all the same, since example.net is paused" in said
            assert "mailstack queue resume example.net" in said
        run("hold", "--all")
        assert as_json(run("release", "--all", "--json"))["paused"] == {"example.net": 2}
        assert len(house.courier.deliveries) == 1
        run("resume", "example.net")
        assert len(house.courier.deliveries) == 3

    def test_what_is_said_to_end_it_can_be_given_to_a_shell(self, run: Run, house: House) -> None:
        delayed(house)
        run("pause", "*")
        assert "since * is paused, for: mailstack queue resume '*'" in run("retry", "--all").stdout

    def test_a_failure_that_is_to_be_told_does_not_wait_for_that(self, run: Run, house: House) -> None:
        name = delayed(house)
        run("pause", "example.net")
        house.route = lambda address: defer("not now")
        run("bounce", name, "--yes")
        (recipient,) = as_json(run("show", name, "--json"))["recipients"]
        assert (recipient["state"], recipient["is_paused"]) == ("unreported", False)
        assert recipient["why"] == "it has failed for good, and the sender is to be told"

    def test_stats(self, run: Run, house: House) -> None:
        delayed(house, remote("a@x.test"), remote("b@x.test"), remote("c@y.test"), local("d@here.test"))
        house.accept(remote("e@x.test"))
        house.clock.advance(3_000)
        lines = run("stats").stdout.splitlines()
        assert lines[0] == "2 messages, 96 octets; 3 attempts at this moment"
        assert lines[1].split() == ["DOMAIN", "MESSAGES", "NEW", "DELAYED", "UNREPORTED", "HELD", "CORRUPT", "SIZE", "OLDEST"]
        assert lines[2].split() == ["x.test", "2", "1", "2", "-", "-", "-", "96", "50", "min"]
        sums = as_json(run("stats", "--json"))
        assert {each["domain"]: each["states"] for each in sums["domains"]} == {
            None: {"delayed": 1},
            "x.test": {"delayed": 2, "new": 1},
            "y.test": {"delayed": 1},
        }

    def test_stats_of_very_many(self, run: Run, house: House) -> None:
        fill(house, 2_300)
        assert as_json(run("stats", "--json"))["messages"] == 2_300
        result = run("stats", "--limit", "2")
        assert "(others)" in result.stdout
        assert "more than 2" in result.stderr

    def test_stats_by_something_else(self, run: Run, house: House) -> None:
        fill(house, 5)
        delayed(house, remote("a@x.test"), remote("b@x.test"), sender=None)
        house.clock.advance(1_000)
        for by, first in (
            ("domain", "x.test"),
            ("sender", "alice@example.org"),
            ("sender-domain", "example.org"),
            ("account", "(nobody logged in)"),
            ("peer", "192.0.2.1"),
            ("reason", "4.0.0 so be it"),
            ("age", "under 1 h"),
        ):
            lines = run("stats", "--by", by).stdout.splitlines()
            assert lines[1].split("  ")[0] == by.replace("-", " ").upper()
            assert lines[2].split("  ")[0] == first
        sums = as_json(run("stats", "--by", "sender", "--json"))
        assert [(each["sender"], each["messages"], each["recipients"]) for each in sums["senders"]] == [
            ("alice@example.org", 5, 5),
            ("<>", 1, 2),
        ]
        (age,) = as_json(run("stats", "--by", "age", "--sender", "<>", "--json"))["ages"]
        assert (age["younger_than"], age["recipients"]) == (3_600, 2)

    def test_words_of_by_are_those_of_the_spool(self) -> None:
        assert tuple(each.value for each in By) == queue_views.BY

    def test_stats_of_a_flood(self, run: Run, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of very many senders those that send most are told, and what is in memory and in an answer has its bounds."""
        monkeypatch.setattr(queue_sums, "KEPT", 200)
        monkeypatch.setattr(desk, "GROUPS", 100)
        monkeypatch.setattr(desks, "GROUPS", 100)
        most = [0, 0]
        add, answer = queue_sums.Sums.add, FakeClient.ask

        def watch(self: Any, more: Any) -> None:
            add(self, more)
            most[0] = max(most[0], len(self.groups))

        def ask(self: FakeClient, what: str, **fields: Any) -> Answer:
            answered = answer(self, what, **fields)
            most[1] = max(most[1], len(answered.get("groups", ())))
            return answered

        monkeypatch.setattr(queue_sums.Sums, "add", watch)
        monkeypatch.setattr(FakeClient, "ask", ask)
        house.spool.runner.pause(["example.net"])
        for number in range(3_000):
            house.accept(sender=f"user{number}@flood.test" if number % 10 else "loud@flood.test")
        result = run("stats", "--by", "sender", "--json")
        sums = as_json(result)
        assert (sums["senders"][0]["sender"], sums["senders"][0]["messages"]) == ("loud@flood.test", 300)
        assert sum(each["messages"] for each in (*sums["senders"], sums["rest"])) == sums["messages"] == 3_000
        assert sums["is_exact"] is False
        assert most[0] <= 400
        assert most[1] <= 100
        assert "a number may be a little low" in run("stats", "--by", "sender").stderr


class TestConfiguration:
    """Who may ask the server need not be able to read all that the configuration names."""

    def test_of_the_configuration_only_the_folder_is_read(self, run: Run, installation: Path) -> None:
        before = installation.read_text()
        installation.write_text(f'{before}\n[relay.logins."x.test"]\nusername = "us"\npassword_file = "/nowhere/password"\n')
        try:
            assert "No mail waits." in run("list").stderr
            run("pause", "x.test")
        finally:
            installation.write_text(before)

    def test_that_cannot_be_read(self, run: Run, tmp_path: Path) -> None:
        assert "cannot be read: No such file" in run("list", "--config", str(tmp_path / "none.toml"), expect=1).stderr


PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "queue.md").read_text()
NAMED_BY_MAIL = ("paused", "states", "refused")


def paths(value: Any, above: str = "") -> set[str]:
    """Return the paths of all fields of JSON, as docs/queue.md writes them."""
    if isinstance(value, list):
        return set().union(*(paths(each, f"{above}[]" if above else "") for each in value))
    if not isinstance(value, dict):
        return {above}
    is_by_name = above.rpartition(".")[2] in NAMED_BY_MAIL
    return set().union(*(paths(each, f"{above}.{'NAME' if is_by_name else key}".lstrip(".")) for key, each in value.items()))


def told_fields(command: str) -> set[str]:
    """Return the fields that docs/queue.md names for a command."""
    lines = re.findall(r"^\| (`.+`) \| ([\w -]+) \| .+ \|$", PAGE, re.MULTILINE)
    return {field for names, commands in lines if command in commands.split() for field in re.findall(r"`(.+?)`", names)}


def test_the_page_names_every_field(run: Run, house: House) -> None:
    name = delayed(
        house, *(replace(each, notify=frozenset((Notify.DELAY,))) for each in (remote("bob@x.net"), local("eve@y.test")))
    )
    house.courier.answer = None
    run("retry", name)
    run("hold", name)
    run("pause", "y.test")
    house.accept(remote("a@x.test"))
    shown = {
        "list": run("list", "--json"),
        "show": run("show", name, "--json"),
        "headers": run("show", name, "--headers", "--json"),
        "trace": run("trace", name, "--json"),
        "stats": run("stats", "--json"),
        "pause": run("pause", "x.test", "--json"),
        "resume": run("resume", "x.test", "--json"),
        "dry-run": run("hold", "--all", "--dry-run", "--json"),
        "act": run("retry", house.accept(remote("b@y.test")), "0" * 13, "--json", expect=3),
    }
    for command, result in shown.items():
        found = paths(as_json(result))
        if command == "dry-run":
            found = {"first[]" if each.startswith("first[].") else each for each in found}
        assert found == told_fields(command), command
    of_each = {each.rpartition("[].")[2] for each in told_fields("stats") if "[]." in each}
    of_domains = {"domain", "way", "is_local", "paused_since"}
    told_by = set()
    for by in queue_views.BY[1:]:
        found = {each for each in paths(as_json(run("stats", "--by", by, "--json"))) if "[]." in each}
        (own,) = {each for each in found if each.rpartition("[].")[2] not in of_each}
        assert {each.rpartition("[].")[2] for each in found - {own}} == of_each - of_domains
        told_by.add(own)
    assert told_by == told_fields("by")


_NAMES = st.sampled_from(["0" * 13, "1k52wm9h0000g", "zzzzzzzzzzzzz", "x", ""])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_SELECTS = st.dictionaries(st.sampled_from(sorted(_FIELDS)), _VALUES | st.lists(_NAMES, max_size=3), max_size=4)
_TARGETS = st.lists(st.tuples(_NAMES, st.lists(st.integers(-1, 3) | _VALUES, max_size=3)), max_size=3)
REQUESTS = st.fixed_dictionaries(
    {"ask": st.sampled_from(["find", "show", "headers", "content", "act", "pause", "resume", "stats", "span"]) | _VALUES},
    optional={
        "select": _SELECTS | _VALUES,
        "after": _VALUES,
        "limit": st.integers(1, 100) | _VALUES,
        "behind": st.integers(-1, 3) | _VALUES,
        "per": st.sampled_from(queue_views.BY) | _VALUES,
        "id": _VALUES,
        "act": st.sampled_from([each.value for each in Act]) | _VALUES,
        "targets": _TARGETS | _VALUES,
        "text": st.just("smtp:x") | _VALUES,
        "domain": st.sampled_from(["x.test", "*"]) | _VALUES,
    },
)
"""What somebody could ask who knows the words."""


class TestDesk:
    @pytest.mark.parametrize(
        "request_",
        [
            {"ask": "find", "limit": 0},
            {"ask": "find", "limit": 101},
            {"ask": "find", "limit": True},
            {"ask": "find", "select": [1]},
            {"ask": "find", "select": {"sender": 1}},
            {"ask": "find", "select": {"sender": ""}},
            {"ask": "find", "select": None},
            {"ask": "find", "select": ""},
            {"ask": "find", "after": "x"},
            {"ask": "find", "after": 5},
            {"ask": "find", "select": {"names": ["0" * 13]}, "behind": "x"},
            {"ask": "find", "behind": 1},
            {"ask": "show"},
            {"ask": "show", "id": "0" * 13, "after": "x"},
            {"ask": "headers"},
            {"ask": "headers", "id": "x"},
            {"ask": "content"},
            {"ask": "content", "id": "0" * 13, "after": -1},
            {"ask": "content", "id": "0" * 13, "after": "x"},
            {"ask": "content", "id": "0" * 13, "after": 1 << 60},
            {"ask": "act"},
            {"ask": "act", "act": "explode", "targets": []},
            {"ask": "act", "act": "hold", "targets": None},
            {"ask": "act", "act": "hold", "targets": [1]},
            {"ask": "act", "act": "hold", "targets": [["0" * 13]]},
            {"ask": "act", "act": "hold", "targets": [["0" * 13, ["x"]]]},
            {"ask": "act", "act": "hold", "targets": [["x", [0]]]},
            {"ask": "act", "act": "hold", "targets": [["0" * 13, [0]]] * 501},
            {"ask": "act", "act": "hold", "targets": [["0" * 13, [0] * 1_001]]},
            {"ask": "act", "act": "bounce", "targets": [], "text": "two\nlines"},
            {"ask": "act", "act": "bounce", "targets": [], "text": "x" * 401},
            {"ask": "act", "act": "bounce", "targets": [], "text": 5},
            {"ask": "pause"},
            {"ask": "pause", "domain": "a b"},
            {"ask": "resume", "domain": 5},
            {"ask": "stats", "after": "x"},
            {"ask": "stats", "per": "colour"},
            {"ask": "stats", "per": ["domain"]},
            {"ask": "stats", "select": {"sender": 1}},
            {"ask": None},
            {},
        ],
    )
    def test_what_it_refuses(self, house: House, request_: dict[str, Any]) -> None:
        FakeClient.desk = make_desk(house)
        with pytest.raises(ControlError):
            FakeClient(Path()).ask(request_.pop("ask", "?"), **request_)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
    @given(request=REQUESTS)
    def test_anything_at_all_is_answered_or_refused(self, house: House, request: dict[str, Any]) -> None:
        FakeClient.desk = Desks([make_desk(house)])
        with suppress(ControlError):
            FakeClient(Path()).ask(request.pop("ask"), **request)

    def test_ordinals_that_are_not_there_do_nothing(self, house: House) -> None:
        FakeClient.desk = make_desk(house)
        name = delayed(house)
        done = FakeClient(Path()).ask("act", act="delete", targets=[[name, [-1, 1, 1 << 70]]])
        assert (done["entries"], done["recipients"], done["under_way"]) == (0, 0, 0)
        assert parse_name(name) is not None


def test_words() -> None:
    assert [duration(seconds) for seconds in (-1, 59, 60, 3_600, 86_400 * 2, 86_400 * 15)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "2 d",
        "2 w",
    ]
    assert [size(octets) for octets in (0, 1_023, 1_536, 5 << 20, 3 << 30)] == ["0", "1023", "1.5 k", "5.0 M", "3.0 G"]
    assert safe("a\x1b[31m\u2028b") == "a?[31m?b"


def test_the_bar_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    for is_quiet in (True, False):
        with queue_asking.progress_bar("looking", is_quiet=is_quiet) as progress:
            progress(0.5)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_nothing_that_others_said_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    queue_views._draw(("ID", "REASON"), [["1", "[bold]450[/bold] [link=x]"]])
    assert "[bold]450[/bold] [link=x]" in capsys.readouterr().out


def test_on_a_terminal_there_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with queue_asking.progress_bar("looking", is_quiet=False) as progress:
        progress(0.5)
    shown = capsys.readouterr()
    assert "looking" in shown.err
    assert "50%" in shown.err
    assert shown.out == ""
