"""The control socket: what a client may do, and what hostile ones get."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mailstack.console.control import REQUEST_OCTETS, Answer, ControlError, Request, decode, encode
from mailstack.console.control_client import Client, NobodyThereError
from mailstack.console.control_server import (
    CLIENTS,
    IDLE_SECONDS,
    LAST_WORDS_SECONDS,
    Control,
    ControlFactory,
    user_name,
    user_of,
)
from mailstack.console.desks import Desks, share_pauses
from mailstack.console.sums import GROUPS, nothing, recipients

OURS = 1000


class FakeDesk:
    """Keeps what is asked until the test answers it, or answers at once with `at_once`."""

    def __init__(self, at_once: Callable[[Request], Answer] | None = None) -> None:
        self.asked: list[Request] = []
        self.waiting: list[Deferred[Answer]] = []
        self.at_once = at_once

    async def answer(self, request: Request) -> Answer:
        self.asked.append(request)
        if self.at_once is not None:
            return self.at_once(request)
        waiting: Deferred[Answer] = Deferred()
        self.waiting.append(waiting)
        return await waiting


class Server:
    def __init__(self) -> None:
        self.desk = FakeDesk()
        self.clock = Clock()
        self.failures: list[Any] = []
        self.user = 0
        self.factory = ControlFactory(
            self.desk,
            self.clock,
            users=frozenset((0, OURS)),
            failed=self.failures.append,
            user_of=lambda transport: self.user,
        )

    def connect(self, user: int = OURS) -> tuple[Control, StringTransport]:
        self.user = user
        wire = StringTransport()
        client = self.factory.buildProtocol(None)
        client.makeConnection(wire)
        return client, wire


@pytest.fixture
def server() -> Server:
    return Server()


def said(wire: StringTransport) -> list[dict[str, Any]]:
    return [json.loads(line) for line in wire.value().split(b"\n")[:-1]]


class TestServer:
    def test_answers_and_says_who_asks(self, server: Server) -> None:
        client, wire = server.connect()
        client.dataReceived(encode({"ask": "span", "by": "somebody else"}))
        assert server.desk.asked == [{"ask": "span", "by": user_name(OURS)}]
        server.desk.waiting.pop().callback({"first": None})
        assert said(wire) == [{"version": 1, "first": None}]
        assert not wire.disconnecting

    def test_octet_by_octet(self, server: Server) -> None:
        server.desk.at_once = lambda request: {"n": request["n"]}
        client, wire = server.connect()
        for octet in b"".join(encode({"ask": "x", "n": n}) for n in range(3)):
            client.dataReceived(bytes([octet]))
        assert [each["n"] for each in said(wire)] == [0, 1, 2]

    def test_any_number_at_once(self, server: Server) -> None:
        def refuse(request: Request) -> Answer:
            raise ControlError("no")

        server.desk.at_once = refuse
        client, wire = server.connect()
        client.dataReceived(encode({"ask": "x"}) * 5_000)
        assert len(said(wire)) == 5_000
        assert server.failures == []

    def test_reads_nothing_more_before_the_answer_is_given(self, server: Server) -> None:
        client, wire = server.connect()
        client.dataReceived(encode({"ask": "one"}) + encode({"ask": "two"}))
        assert [each["ask"] for each in server.desk.asked] == ["one"]
        assert wire.producerState == "paused"
        server.desk.waiting.pop().callback({"n": 1})
        assert [each["ask"] for each in server.desk.asked] == ["one", "two"]
        server.desk.waiting.pop().callback({"n": 2})
        assert [each["n"] for each in said(wire)] == [1, 2]
        assert wire.producerState == "producing"

    def test_asks_nothing_for_a_client_that_does_not_read_its_answers(self, server: Server) -> None:
        server.desk.at_once = lambda request: {}
        client, wire = server.connect()
        client.pauseProducing()  # so says the transport when its buffer is full
        client.dataReceived(encode({"ask": "one"}) * 10)
        assert (server.desk.asked, wire.producerState) == ([], "paused")
        client.resumeProducing()
        assert len(server.desk.asked) == 10

    @pytest.mark.parametrize(
        ("octets", "why"),
        [
            (b"hello\n", "no JSON"),
            (b"\xff\xfe\n", "no JSON"),
            (b"[" * 30_000 + b"\n", "no JSON"),
            (b"[1]\n", "no JSON object"),
            (b"\n", "no JSON"),
            (b'{"ask": "span"}\n', "version None"),
            (b'{"version": 2, "ask": "span"}\n', "version 2"),
            (b'{"version": "' + b"9" * 1_000 + b'"}\n', "version 99999"),
            (b"x" * (REQUEST_OCTETS + 1), "longer than"),
            (b'{"version": 1, "x": "' + b"x" * REQUEST_OCTETS + b'"}\n', "longer than"),
        ],
    )
    def test_what_is_no_request_ends_it(self, server: Server, octets: bytes, why: str) -> None:
        client, wire = server.connect()
        client.dataReceived(octets)
        client.dataReceived(encode({"ask": "more"}))
        [answer] = said(wire)
        assert why in answer["error"]
        assert len(wire.value()) < 300
        assert wire.disconnecting
        assert server.desk.asked == []

    @pytest.mark.parametrize(("user", "may"), [(0, True), (OURS, True), (OURS + 1, False), (65_534, False)])
    def test_is_for_its_user_and_root(self, server: Server, user: int, may: bool) -> None:
        client, wire = server.connect(user)
        client.dataReceived(encode({"ask": "span"}))
        assert bool(server.desk.asked) is may
        assert wire.disconnecting is not may
        assert may or "may not ask" in said(wire)[0]["error"]

    def test_has_so_many_clients_and_no_more(self, server: Server) -> None:
        clients = [server.connect() for _ in range(CLIENTS)]
        late, wire = server.connect()
        assert "others are asking" in said(wire)[0]["error"]
        assert wire.disconnecting
        late.connectionLost()
        clients[0][0].connectionLost()
        assert said(server.connect()[1]) == []

    def test_sends_the_idle_away_but_nobody_who_waits_for_an_answer(self, server: Server) -> None:
        (idle, idle_wire), (busy, busy_wire) = server.connect(), server.connect()
        busy.dataReceived(encode({"ask": "long"}))
        server.clock.advance(IDLE_SECONDS)
        assert idle_wire.disconnecting
        idle.connectionLost()
        assert not busy_wire.disconnecting
        server.desk.waiting.pop().callback({})
        server.clock.advance(IDLE_SECONDS - 1)
        assert not busy_wire.disconnecting
        server.clock.advance(1)
        assert busy_wire.disconnecting
        busy.connectionLost()
        assert (server.factory.clients, server.clock.getDelayedCalls()) == (0, [])

    def test_who_does_not_read_what_is_left_when_sent_away_is_cut_off(self, server: Server) -> None:
        client, wire = server.connect()
        server.clock.advance(IDLE_SECONDS)
        server.clock.advance(LAST_WORDS_SECONDS - 1)
        assert [wire.disconnecting, wire.disconnected] == [True, False]
        server.clock.advance(1)
        assert [wire.disconnecting, wire.disconnected] == [True, True]
        client.connectionLost()
        assert (server.factory.clients, server.clock.getDelayedCalls()) == (0, [])

    def test_who_leaves_before_the_answer_leaves_nothing_behind(self, server: Server) -> None:
        client, wire = server.connect()
        client.dataReceived(encode({"ask": "long"}))
        client.connectionLost()
        server.desk.waiting.pop().callback({})
        assert (said(wire), server.failures, server.clock.getDelayedCalls()) == ([], [], [])

    def test_says_why_not(self, server: Server) -> None:
        client, wire = server.connect()
        client.dataReceived(encode({"ask": "x"}))
        server.desk.waiting.pop().errback(ControlError("not today"))
        client.dataReceived(encode({"ask": "x"}))
        server.desk.waiting.pop().errback(ZeroDivisionError("secret"))
        first, second = said(wire)
        assert first["error"] == "not today"
        assert "ZeroDivisionError" in second["error"]
        assert "secret" not in second["error"]
        assert len(server.failures) == 1
        assert not wire.disconnecting

    def test_the_kernel_knows_who_it_is(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            assert user_of(SimpleNamespace(socket=one)) == os.geteuid()
        assert user_name(0) == "root"
        assert user_name(54_321) == "uid 54321"


class TestClient:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "control"

    @pytest.fixture
    def answers(self, path: Path) -> Iterator[list[bytes]]:
        """Listen, and answer each request with the next of these octets; b"" closes."""
        octets: list[bytes] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted, accepted.makefile("rb") as lines:
                while lines.readline() and (answer := octets.pop(0)):
                    accepted.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield octets
        thread.join(10)
        listener.close()

    def test_nobody_there(self, path: Path) -> None:
        with pytest.raises(NobodyThereError, match="no server is running"):
            Client(path)
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
        with pytest.raises(NobodyThereError, match="no server is running"):
            Client(path)

    def test_asks_and_gets(self, path: Path, answers: list[bytes]) -> None:
        answers += [encode({"n": 1}), encode({"error": "not so"}), encode({"n": 2})]
        with Client(path) as client:
            assert client.ask("x", a=1) == {"n": 1}
            with pytest.raises(ControlError, match="not so"):
                client.ask("x")
            assert client.ask("x") == {"n": 2}

    @pytest.mark.parametrize("octets", [b"", b"half a line", b"nonsense\n", b'{"version": 7}\n'])
    def test_what_is_no_answer(self, path: Path, answers: list[bytes], octets: bytes) -> None:
        answers += [octets, b""]
        with Client(path) as client:
            client._socket.settimeout(0.2)
            with pytest.raises(ControlError):
                client.ask("x")


def test_a_line_is_read_back() -> None:
    assert decode(encode({"ask": "x", "text": "ü\n\u2028"}).removesuffix(b"\n")) == {"ask": "x", "text": "ü\n\u2028"}


def ask(desks: Desks, **request: Any) -> Answer:
    answers: list[Answer] = []
    failures: list[Any] = []
    Deferred.fromCoroutine(desks.answer(request)).addCallbacks(answers.append, failures.append)
    if failures:
        failures[0].raiseException()
    return answers[0]


class Part(FakeDesk):
    """A desk that has entries, and tells of so many at a time."""

    def __init__(self, names: str, page: int) -> None:
        super().__init__(self._answer)
        self._names = names
        self._page = page

    def _answer(self, request: Request) -> Answer:
        after = request.get("after") or ""
        left = [name for name in self._names if name > after]
        page, to = left[: self._page], left[self._page - 1] if len(left) > self._page else None
        match request["ask"]:
            case "find":
                return {"entries": [{"id": name} for name in page], "to": to}
            case "stats":
                tally = {"entries": len(page), "octets": 1, "states": {"new": len(page)}, "oldest": 5.0}
                sums = {"entries": len(page), "octets": 1, "corrupt": 0, "attempts": 2}
                return {"groups": {"x.test": tally} if page else {}, "rest": nothing(), "paused": {}, "to": to, **sums}
            case "show":
                is_here = request["id"] in self._names
                return {"entry": request["id"] if is_here else None, "recipients": [], "to": None}
            case "headers":
                return {"headers": [request["id"]] if request["id"] in self._names else None}
            case "content":
                is_here = request["id"] in self._names
                return {"octets": 0 if is_here else None, "part": request["id"] if is_here else "", "to": None}
            case "span":
                return {"first": min(self._names, default=None), "last": max(self._names, default=None)}
            case "act":
                sums = {"entries": len(self._names), "recipients": 1, "under_way": 0, "later": 0, "untold": 0, "senderless": 0}
                return {**sums, "paused": {"x.test": 1}, "refused": dict.fromkeys(self._names, "no")}
            case "resume":
                return {"changed": "a" in self._names, "is_all_paused": "c" in self._names}
            case _:
                return {"changed": "a" in self._names}


class TestDesks:
    @pytest.mark.parametrize("pages", [(1, 1, 1), (2, 3, 1), (9, 9, 9), (1, 9, 2)])
    def test_tell_of_everything_once_and_in_order(self, pages: tuple[int, int, int]) -> None:
        desks = Desks([Part(names, page) for names, page in zip(("adg", "bceh", ""), pages, strict=True)])
        told: list[str] = []
        after: str | None = ""
        while after is not None:
            answer = ask(desks, ask="find", after=after)
            told += [each["id"] for each in answer["entries"]]
            after = answer["to"]
        assert "".join(told) == "abcdegh"

    def test_of_desks_sum_up_everything_once(self) -> None:
        """As in a server of two workers, of which one has two spools."""
        desks = Desks([Desks([Part("ad", 1), Part("b", 1)]), Desks([Part("cefgh", 2)])])
        entries, groups, after = 0, 0, None
        while True:
            answer = json.loads(json.dumps(ask(desks, ask="stats", after=after)))
            entries += answer["entries"]
            groups += sum(recipients(each) for each in answer["groups"].values())
            after = answer["to"]
            if after is None:
                break
        assert (entries, groups) == (8, 8)

    def test_of_desks_keep_the_largest_sums_and_one_of_all_others(self) -> None:
        def answer(first: int) -> Callable[[Request], Answer]:
            def tell(request: Request) -> Answer:
                states = [{"new": 5 if number == first else 1} for number in range(first, first + GROUPS)]
                groups = {str(n): {**nothing(), "entries": 1, "states": each} for n, each in enumerate(states, first)}
                sums = {"entries": GROUPS, "octets": 0, "corrupt": 0, "attempts": 0}
                return {"groups": groups, "rest": nothing(), "paused": {}, "to": None, **sums}

            return tell

        answered = ask(Desks([FakeDesk(answer(0)), FakeDesk(answer(GROUPS))]), ask="stats", after=None)
        assert len(answered["groups"]) == GROUPS
        assert [recipients(answered["groups"][key]) for key in ("0", str(GROUPS))] == [5, 5]
        assert answered["rest"]["entries"] == GROUPS

    @pytest.mark.parametrize("after", [["", "", ""], "x", [""]])
    def test_a_place_that_they_did_not_tell(self, after: Any) -> None:
        with pytest.raises(ControlError):
            ask(Desks([Part("a", 1), Part("b", 1)]), ask="stats", after=after)

    def test_the_rest(self) -> None:
        desks = Desks([Part("ab", 1), Part("c", 1), Part("", 1)])
        assert ask(desks, ask="show", id="c")["entry"] == "c"
        assert ask(desks, ask="show", id="x")["entry"] is None
        assert ask(desks, ask="headers", id="c")["headers"] == ["c"]
        assert ask(desks, ask="headers", id="x")["headers"] is None
        assert ask(desks, ask="content", id="c")["part"] == "c"
        assert ask(desks, ask="content", id="x")["octets"] is None
        sums = {"entries": 3, "recipients": 3, "under_way": 0, "later": 0, "untold": 0, "senderless": 0}
        refused = {"a": "no", "b": "no", "c": "no"}
        assert ask(desks, ask="act") == {**sums, "paused": {"x.test": 3}, "refused": refused}
        assert ask(desks, ask="pause") == {"changed": True}
        assert ask(desks, ask="resume") == {"changed": True, "is_all_paused": True}
        assert ask(desks, ask="span") == {"first": "a", "last": "c"}
        assert ask(Desks([Part("", 1)]), ask="span") == {"first": None, "last": None}
        with pytest.raises(ControlError, match="nobody can be asked"):
            ask(desks, ask="shutdown")

    def test_fail_when_one_does(self) -> None:
        def refuse(request: Request) -> Answer:
            raise ControlError("worker 1 is not there")

        with pytest.raises(ControlError, match="worker 1"):
            ask(Desks([Part("a", 1), FakeDesk(refuse)]), ask="find")

    @pytest.mark.parametrize("what", ["act", "pause", "resume"])
    def test_say_what_was_done_when_one_could_not(self, what: str) -> None:
        def refuse(request: Request) -> Answer:
            raise ControlError("worker 1 is not there")

        with pytest.raises(ControlError, match=r"worker 1 is not there\. Others have done it"):
            ask(Desks([Part("a", 1), FakeDesk(refuse)]), ask=what)
        with pytest.raises(ControlError, match=r"worker 1 is not there$"):
            ask(Desks([FakeDesk(refuse), FakeDesk(refuse)]), ask=what)

    def test_share_what_one_of_them_has_paused(self) -> None:
        told: list[Request] = []

        def answer(request: Request) -> Answer:
            told.append(request)
            sums = dict.fromkeys(("entries", "octets", "corrupt", "attempts"), 0)
            return {"changed": True, "groups": {}, "rest": nothing(), "paused": {"x.test": 5.0}, "to": None, **sums}

        outcome = Deferred.fromCoroutine(share_pauses(Desks([FakeDesk(answer)])))
        assert outcome.result is None
        assert [(each["ask"], each.get("domain")) for each in told] == [("stats", None), ("pause", "x.test")]

    def test_share_all_that_is_paused_although_one_is_refused(self) -> None:
        told: list[Request] = []

        def answer(request: Request) -> Answer:
            told.append(request)
            if request.get("domain") == "ours.test":
                raise ControlError("delivered here")
            sums = dict.fromkeys(("entries", "octets", "corrupt", "attempts"), 0)
            return {
                "changed": True,
                "groups": {},
                "rest": nothing(),
                "paused": {"ours.test": 5.0, "x.test": 5.0},
                "to": None,
                **sums,
            }

        failures: list[Any] = []
        Deferred.fromCoroutine(share_pauses(Desks([FakeDesk(answer)]))).addErrback(failures.append)
        assert [each.get("domain") for each in told] == [None, "ours.test", "x.test"]
        assert failures[0].check(ControlError)
