"""A next hop that takes everything, and writes down each message with the connection on which it came."""

from __future__ import annotations

import socketserver
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

from harness import messages


class CountingSink:
    """
    An SMTP server on a free port of 127.0.0.1, a thread for each connection.

    Shape:  `received` counts what came to its final dot, by the name that a message carries and the recipient; of what is in
            `went_on`, with how many times it had come then, the client had the answer, since it said something after it;
            `open_connections` are those that it has now.
    """

    def __init__(self) -> None:
        self.received: Counter[tuple[str, str]] = Counter()
        self.went_on: set[tuple[tuple[str, str], int]] = set()
        self.lock = threading.Lock()
        self.open_connections = 0
        self._server = _Server(("127.0.0.1", 0), _Session)
        self._server.sink = self
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="sink", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128
    sink: CountingSink


class _Session(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        sink: CountingSink = self.server.sink
        with sink.lock:
            sink.open_connections += 1
        try:
            self._talk(sink)
        except OSError:
            pass
        finally:
            with sink.lock:
                sink.open_connections -= 1

    def _talk(self, sink: CountingSink) -> None:
        self._say("220 sink.remote.test ESMTP")
        recipients: list[str] = []
        last: list[tuple[tuple[str, str], int]] = []
        while line := self.rfile.readline():
            with sink.lock:
                sink.went_on.update(last)
            last = []
            verb = line[:4].upper()
            if verb == b"EHLO":
                self._say("250-sink.remote.test\r\n250-PIPELINING\r\n250 8BITMIME")
            elif verb == b"DATA":
                self._say("354 Go on")
                content = b""
                while (read := self.rfile.readline()) != b".\r\n":
                    if not read:
                        return
                    content += read[1:] if read.startswith(b".") else read
                name = messages.check_whole(content)
                with sink.lock:
                    came = [(name, recipient) for recipient in recipients]
                    sink.received.update(came)
                    last = [(each, sink.received[each]) for each in came]
                recipients = []
                self._say("250 2.0.0 Taken")
            elif verb == b"RCPT":
                recipients.append(line.decode().partition("<")[2].partition(">")[0])
                self._say("250 2.1.5 OK")
            elif verb == b"QUIT":
                self._say("221 Bye")
                return
            else:
                self._say("250 2.0.0 OK")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")
