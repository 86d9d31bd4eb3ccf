"""The control socket as the operator's command uses it: connect, ask, and wait for the answer; blocks."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mailstack.console.control import ANSWER_OCTETS, Answer, ControlError, decode, encode

TIMEOUT_SECONDS: Final = 120.0


class NobodyThereError(ControlError):
    """No server listens at the socket."""


class Client:
    """
    A connection to the control socket.

    Raises:  NobodyThereError; ControlError: it may not be used.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_SECONDS)
        try:
            self._socket.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            self._socket.close()
            raise NobodyThereError(f"no server is running: nobody listens at {path}") from None
        except PermissionError:
            self._socket.close()
            raise ControlError(
                f"{path} is not for you: the user of the server may ask, and root; and the group of [control], if it may "
                "enter the folder"
            ) from None
        except OSError as error:
            self._socket.close()
            raise ControlError(f"{path}: {error.strerror or error}") from None
        self._answers = self._socket.makefile("rb")

    def ask(self, what: str, **fields: Any) -> Answer:
        """
        Ask, and return the answer.

        Raises:  ControlError: the server says no, or says nothing.
        """
        try:
            self._socket.sendall(encode({"ask": what, **fields}))
        except TimeoutError:
            raise ControlError("the server does not listen") from None
        except OSError:
            pass  # it has closed the connection, and perhaps said why
        try:
            line = self._answers.readline(ANSWER_OCTETS)
        except TimeoutError:
            raise ControlError(
                f"the server has not answered for {TIMEOUT_SECONDS:.0f} s; what was asked may still be done"
            ) from None
        except OSError as error:
            raise ControlError(f"the connection to the server is lost: {error.strerror}") from None
        if not line.endswith(b"\n"):
            raise ControlError("the server has closed the connection; what was asked may still be done")
        answer = decode(line)
        if "error" in answer:
            raise ControlError(str(answer["error"]))
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._answers.close()
        self._socket.close()
