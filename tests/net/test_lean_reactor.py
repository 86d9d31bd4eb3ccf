"""The reactor of the workers: a process of its own, since a process has one reactor."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

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
        while len(end.recv(100_000, socket.MSG_WAITALL)) < 100_000:
            pass
    for end in ends:
        end.sendall(b"close others")
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
