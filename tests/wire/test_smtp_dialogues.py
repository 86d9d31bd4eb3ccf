"""The dialogues of tests/dialogues, each fed in several ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from smtp_dialogue import Cut, Dialogue, all_dialogues, run

DIALOGUES = [pytest.param(each, id=name) for name, each in all_dialogues()]


def whole(octets: bytes) -> list[bytes]:
    return [octets]


def in_pieces(size: int) -> Cut:
    return lambda octets: [octets[at : at + size] for at in range(0, len(octets), size)]


def in_two(at: int) -> Cut:
    return lambda octets: [octets[:at], octets[at:]]


def every_cut_in_two(dialogue: Dialogue) -> Iterator[Cut]:
    length = len(dialogue.octets())
    return map(in_two, range(0, length, 1 if length < 400 else 7))


@pytest.mark.parametrize("dialogue", DIALOGUES)
class TestDialogues:
    def test_step_by_step(self, dialogue: Dialogue) -> None:
        run(dialogue, whole)
        # What is behind a STARTTLS in the same segment is another dialogue than what comes later.
        if "behind it" not in dialogue.name:
            run(dialogue, in_pieces(1))

    def test_pipelined(self, dialogue: Dialogue) -> None:
        if not dialogue.pipelined:
            return
        for cut in (whole, in_pieces(1), *every_cut_in_two(dialogue)):
            run(dialogue, cut, pipelined=True)
        for size in (1, 2, 7, 40):  # and octets come before the answer
            run(dialogue, in_pieces(size), pipelined=True, is_slow=True)
