"""The desk of a worker, as the parent has it: what the operator asks is passed on over the line, and so is the answer."""

from __future__ import annotations

from mailstack.console.control import Answer, ControlError, Request
from mailstack.workers.seat import Seat


class WorkerDesk:
    """Passes on what is asked to whoever has a place."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    async def answer(self, request: Request) -> Answer:
        """
        Answer a request.

        Raises:  ControlError: so says the worker; or there is none, or it died over it.
        """
        answer = await self._seat.ask(request)
        if answer is None:
            raise ControlError(f"worker {self._seat.number} is not there at the moment; try again, it is replaced")
        return answer_of(answer)


def answer_of(answer: Answer) -> Answer:
    """
    Return what a worker has answered.

    Raises:  ControlError: so it says.
    """
    if "error" in answer:
        raise ControlError(str(answer["error"]))
    return answer
