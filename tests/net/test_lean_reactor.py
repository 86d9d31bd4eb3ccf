"""The reactor of the workers: a process of its own, since a process has one reactor."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from twisted.internet.task import Clock

from mailstack.net.lean_reactor import make_lean, when_idle

PROGRAM = """
import os, signal, socket, sys
from mailstack.net.lean_reactor import install
install()
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

heard = []

class Echo(Protocol):
    def dataReceived(self, data):
        if data == b"break":
            raise RuntimeError("broken protocol")
        if data == b"close others":
            for other in list(everybody):
                if other is not self:
                    other.transport.abortConnection()
        self.transport.write(data * 100_000)

    def connectionMade(self):
        everybody.append(self)

    def connectionLost(self, reason):
        everybody.remove(self)
        heard.append(reason.type.__name__)

everybody = []
port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")

def client(first):
    end = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=20)
    end.sendall(first)
    return end

def talk():
    end = client(b"hello")
    octets = b""
    while len(octets) < 500_000:
        octets += end.recv(65_536)
    assert octets == b"hello" * 100_000
    end.close()
    broken = client(b"break")
    try:
        assert broken.recv(10) == b""
    except ConnectionResetError:
        pass
    os.kill(os.getpid(), signal.SIGUSR1)
    ends = [client(b"x") for _ in range(4)]
    for end in ends:
        left = 100_000
        while left:
            left -= len(end.recv(left))
    for end in ends:
        try:
            end.sendall(b"close others")
        except OSError:
            pass  # one of those before has closed it
    reactor.callFromThread(stop_when_all_are_gone)

def stop_when_all_are_gone():
    if everybody:
        reactor.callLater(0, stop_when_all_are_gone)
    else:
        reactor.stop()

signal.signal(signal.SIGUSR1, lambda *_: heard.append("signal"))
reactor.callInThread(talk)
reactor.run()
print(type(reactor).__name__, sorted(set(heard)))
"""


IDLE = """
import socket, time
from mailstack.net.lean_reactor import make_lean, when_idle
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
make_lean(reactor)

turns, called = [], []

class Endless(Protocol):
    def dataReceived(self, data):
        turns.append(time.monotonic())
        self.transport.write(b"x")

def at_rest():
    began = time.monotonic()
    def idle():
        called.append(time.monotonic() - began)
        raise RuntimeError("the reactor must outlive it")
    when_idle(reactor)(idle, 10)
    when_idle(reactor)(lambda: called.append(time.monotonic() - began), 10)
    reactor.callLater(0.2, busy)

def busy():
    assert len(called) == 2 and max(called) < 0.15, called
    one, other = socket.socketpair()
    for end in (one, other):
        end.setblocking(False)
        reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, Factory.forProtocol(Endless))
        end.close()
    for reader in list(reactor.getReaders()):
        if hasattr(reader, "protocol"):
            reader.protocol.transport.write(b"x" * 5)
    global began
    began = time.monotonic()
    when_idle(reactor)(done, 0.1)

def done():
    called.append(time.monotonic() - began)
    reactor.stop()

reactor.callWhenRunning(at_rest)
reactor.run()
print(type(reactor).__name__, len(turns) > 20, 0.09 < called[-1] < 5)
"""


SIGNALLED = """
import os, signal, sys
from mailstack.loglines import LineObserver
from mailstack.net.lean_reactor import make_lean
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import Logger, globalLogBeginner
make_lean(reactor)

def write(octets):  # as the observer does it: with its lock held
    os.write(1, octets)
    if b"is up" in octets:
        os.kill(os.getpid(), number)

def leave():  # during which somebody is impatient, and says it twice more
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    return deferLater(reactor, 0.05)

number = signal.Signals[sys.argv[1]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # who started us may have it ignored
reactor.addSystemEventTrigger("before", "shutdown", leave)
globalLogBeginner.beginLoggingTo([LineObserver(write, reactor.callLater)], redirectStandardIO=False)
reactor.callWhenRunning(Logger().info, "it is up")
reactor.run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_comes_while_a_line_of_the_log_is_written_stops_it(name: str) -> None:
    program = [sys.executable, "-c", SIGNALLED, name]
    done = subprocess.run(program, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"Received {name}, shutting down.") == 1
    assert "Traceback" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
def test_it_knows_when_there_is_nothing_to_do_and_gives_up_waiting_for_that() -> None:
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "LeanReactor True True\n", done.stderr


def test_another_reactor_calls_when_it_has_done_what_is_ready() -> None:
    clock, called = Clock(), []
    make_lean(clock)
    when_idle(clock)(lambda: called.append(1), 10)
    assert not called
    clock.advance(0)
    assert called == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
def test_it_reads_writes_drops_what_breaks_and_stops() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    name, heard = done.stdout.split(" ", 1)
    assert name == "LeanReactor"
    # The one that closed the others may be closed by one of them in turn.
    assert set(ast.literal_eval(heard)) - {"ConnectionLost"} == {
        "ConnectionAborted",
        "ConnectionDone",
        "RuntimeError",
        "signal",
    }
