"""The dialogues of tests/dialogues, each fed in several ways."""

from __future__ import annotations

import pytest
from smtp_dialogue import Dialogue, all_dialogues, run

DIALOGUES = [pytest.param(each, id=name) for name, each in all_dialogues()]


def whole(octets: bytes) -> list[bytes]:
    return [octets]


def single(octets: bytes) -> list[bytes]:
    return [octets[i : i + 1] for i in range(len(octets))]


def in_pieces(octets: bytes, size: int) -> list[bytes]:
    return [octets[i : i + size] for i in range(0, len(octets), size)]


@pytest.mark.parametrize("dialogue", DIALOGUES)
class TestDialogues:
    def test_whole(self, dialogue: Dialogue) -> None:
        run(dialogue, whole)

    def test_octet_by_octet(self, dialogue: Dialogue) -> None:
        # What is behind a STARTTLS in the same segment is another dialogue than what comes later.
        if "behind it" not in dialogue.name:
            run(dialogue, single)

    def test_pipelined(self, dialogue: Dialogue) -> None:
        if dialogue.pipelined:
            run(dialogue, whole, pipelined=True)

    def test_pipelined_octet_by_octet(self, dialogue: Dialogue) -> None:
        if dialogue.pipelined:
            run(dialogue, single, pipelined=True)

    @pytest.mark.parametrize("octets", [1, 2, 7, 40])
    def test_octets_come_before_the_answer(self, dialogue: Dialogue, octets: int) -> None:
        if dialogue.pipelined:
            run(dialogue, lambda all_of_it: in_pieces(all_of_it, octets), pipelined=True, is_slow=True)

    def test_every_cut_in_two(self, dialogue: Dialogue) -> None:
        if dialogue.pipelined:
            length = sum(len(text) for _, text in dialogue.steps)
            for cut in range(0, length, 1 if length < 400 else 7):
                run(dialogue, lambda octets, cut=cut: [octets[:cut], octets[cut:]], pipelined=True)  # type: ignore[misc]
