"""
Prompt transports: what a server writes is sent at once, and goes through the reactor only when the peer does not take it.

Twisted's transports keep what is written until the reactor says that the socket has room. In a dialogue of short lines it
always has: the detour costs two changes of the epoll set, a turn of the reactor and a second callback for each reply.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp


class PromptServer(tcp.Server):
    """
    A connection that sends at once what is written when nothing else waits to be sent; in TLS the same, below it.

    What does not go out at once, and every error, is left to the reactor: connectionLost never comes from within a write.
    """

    def startWriting(self) -> None:
        """Send what was just written, or as much of it as there is room for; then have the reactor send the rest."""
        waiting: list[bytes] = self._tempDataBuffer
        if waiting and not self.dataBuffer and not self.disconnecting:
            octets = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            sent = self._send(octets)
            self._tempDataBuffer, self._tempDataLen = [], 0
            if sent < len(octets):
                self.dataBuffer, self.offset = octets, sent
            elif not self.producerPaused:  # a paused producer is resumed by the reactor
                return
        super().startWriting()  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def _send(self, octets: bytes) -> int:
        try:
            return self.socket.send(memoryview(octets)[: self.SEND_LIMIT])
        except OSError:  # no room, or an error that the reactor will find again
            return 0


class PromptPort(tcp.Port):
    """A listening port whose connections are prompt."""

    transport: Any = PromptServer
