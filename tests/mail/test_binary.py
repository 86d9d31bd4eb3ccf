"""Binary parts become base64, and nothing else changes: whatever they hold, however it is cut, however hostile it is."""

from __future__ import annotations

import email
import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mime_trees import TREES, Tree

from fuzz.binary import leaves, slowly
from mailstack.mail.binary import DEPTH, ENTITIES, LINE_OCTETS, BinaryConverter, encoded_octets
from mailstack.mail.headers import HEADER_OCTETS

BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
LABEL = re.compile(rb"(?i)content-transfer-encoding:\s+binary")
BINARY = b"Content-Transfer-Encoding: binary\r\n\r\n"
BASE64 = b"Content-Transfer-Encoding: base64\r\n\r\n"
MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"


def converted(*pieces: bytes) -> tuple[bytes, str]:
    converter = BinaryConverter()
    octets = b"".join(map(converter.feed, pieces)) + converter.finish()
    return octets, converter.problem


def singly(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


class TestAnyTree:
    @given(TREES)
    @settings(max_examples=400, deadline=None)
    def test_its_leaves_are_what_they_were(self, tree: Tree) -> None:
        octets, problem = converted(tree.octets)
        assert problem == ""
        assert [found for _, found in leaves(octets)] == list(tree.leaves)
        assert not BARE.search(octets)
        assert octets == slowly(tree.octets)
        assert converted(octets) == (octets, "")
        if not tree.is_binary:
            assert octets == tree.octets
        parts = list(email.message_from_bytes(octets).walk())
        assert not [part for part in parts if (part["Content-Transfer-Encoding"] or "").strip().lower() == "binary"]
        assert not [defect for part in parts for defect in part.defects]

    @given(TREES, st.data())
    @settings(max_examples=100, deadline=None)
    def test_the_cut_does_not_matter(self, tree: Tree, data: st.DataObject) -> None:
        whole = converted(tree.octets)
        assert converted(*singly(tree.octets)) == whole
        for _ in range(5):
            at = data.draw(st.integers(0, len(tree.octets)))
            assert converted(tree.octets[:at], tree.octets[at:]) == whole
        begun = tree.octets[: data.draw(st.integers(0, len(tree.octets)))]
        one, other = BinaryConverter(), BinaryConverter()
        assert one.feed(begun) == b"".join(map(other.feed, singly(begun)))

    @given(
        st.lists(
            st.sampled_from([b"\r\n", b"--b", b"--", b"--b--", b"\r", b"\n", b" ", b"x:", b"x", BINARY, MIXED]), max_size=25
        )
    )
    @settings(max_examples=500, deadline=None)
    def test_nor_for_what_is_no_tree(self, parts: list[bytes]) -> None:
        octets = MIXED + b"".join(parts)
        whole = converted(octets)
        assert converted(*singly(octets)) == whole
        assert whole[1] or whole[0] == slowly(octets)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (BINARY, BASE64),
        (BINARY + b"\0", BASE64 + b"AA=="),
        (BINARY + b"--b--\r\n", BASE64 + b"LS1iLS0NCg=="),
        (BINARY + b"x" * 57, BASE64 + b"eHh4" * 19),
        (BINARY + b"x" * 58, BASE64 + b"eHh4" * 19 + b"\r\neA=="),
        (b"Content-Transfer-Encoding: binary", b"Content-Transfer-Encoding: base64"),
        (b"Content-Transfer-Encoding: binary\r\nno field", b"Content-Transfer-Encoding: base64\r\nbm8gZmllbGQ="),
        (b"\r\n" + BINARY + b"\0", b"\r\n" + BINARY + b"\0"),
        (b" " + BINARY + b"\0", b" " + BINARY + b"\0"),
        (b"text\r\n" + BINARY + b"\0", b"text\r\n" + BINARY + b"\0"),
        (MIXED + b"--b\r\n" + BINARY + b"--b--", MIXED + b"--b\r\n" + BASE64 + b"--b--"),
        (MIXED + b"--b\r\n" + BINARY + b"\r\n--b--", MIXED + b"--b\r\n" + BASE64 + b"\r\n--b--"),
        (MIXED + b"--b\r\n" + BINARY + b"\r\r\n--b", MIXED + b"--b\r\n" + BASE64 + b"DQ==\r\n--b"),
        (MIXED + b"--b\r\n" + BINARY + b"x\r\n--b--\r\n--b\r\n" + BINARY + b"x", None),
        (MIXED + b"--b\r\n" + BINARY[:-2] + b"--b\r\n" + BINARY + b"x", None),
        (b"", b""),
    ],
)
def test_edges(octets: bytes, expected: bytes | None) -> None:
    if expected is None:
        expected = slowly(octets)
        assert expected != octets
    assert converted(octets) == (expected, "")
    assert converted(*singly(octets)) == (expected, "")


def test_an_outer_delimiter_ends_all_that_is_within() -> None:
    inner = b"Content-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\nContent-Type: message/rfc822\r\n\r\n"
    octets = MIXED + b"--b\r\n" + inner + BINARY + b"\0\r\n--b\r\n" + BINARY + b"\n\r\n--i\r\n\r\n--b--\r\n--i\r\n" + BINARY
    assert converted(octets)[0] == (
        MIXED + b"--b\r\n" + inner + BASE64 + b"AA==\r\n--b\r\n" + BASE64 + b"Cg0KLS1pDQo=\r\n--b--\r\n--i\r\n" + BINARY
    )


@pytest.mark.parametrize("behind", [b"x", b" x", b"\0", b"-", b"--x", b"-- x", b"---", b"\x0b", b"\xa0", b" " * LINE_OCTETS])
def test_what_only_looks_like_a_delimiter_is_content(behind: bytes) -> None:
    part = b"x\r\n--b" + behind + b"\r\n" + BINARY + b"\n"
    octets = MIXED + b"--b\r\n" + BINARY + part + b"\r\n--b-- \t\r\n"
    assert [found for _, found in leaves(converted(octets)[0])] == [part]
    assert converted(*singly(octets)) == converted(octets)


def test_what_is_encoded_is_not_looked_into() -> None:
    encoded = b"Content-Transfer-Encoding: base64\r\nContent-Type: message/rfc822\r\n\r\n" + BINARY + b"\n"
    assert converted(encoded) == (encoded, "")


def nested(depth: int, kind: bytes) -> bytes:
    if kind == b"message":
        return b"Content-Type: message/rfc822\r\n\r\n" * depth
    return b"".join(b"Content-Type: multipart/x; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number) for number in range(depth))


LIKE_DELIMITERS = [
    b"\r\n--c",
    b"\r\n--",
    b"\r\n--bx\r\n",
    b"\r\n--b--x\r\n",
    b"\r",
    b"\r\n",
    b"-",
    b"\r\n--b x",
    b"\r\n--" + b"b" * 300,
    b"\n",
]


def in_binary_part() -> BinaryConverter:
    converter = BinaryConverter()
    converter.feed(b"Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\n" + BINARY)
    return converter


class TestHostile:
    @pytest.mark.parametrize("kind", [b"message", b"multipart"])
    def test_depth(self, kind: bytes) -> None:
        assert converted(nested(DEPTH, kind) + BINARY + b"\0") == (nested(DEPTH, kind) + BASE64 + b"AA==", "")
        for octets in (nested(DEPTH + 1, kind), nested(1_000, kind), nested(200_000, kind)):
            began = time.process_time()
            given, problem = converted(octets)
            assert problem == "The parts of a binary message are nested too deep"
            assert octets.startswith(given)
            assert time.process_time() - began < 1

    def test_number_of_parts(self) -> None:
        part = b"--b\r\n\r\nx\r\n"
        assert converted(MIXED + part * (ENTITIES - 1))[1] == ""
        assert converted(MIXED + part * ENTITIES)[1] == "A binary message has too many parts"

    @pytest.mark.parametrize("section", [b"A: b\r\n", b"A", b" ", b"A: \r\n\t", b"--x: y\r\n", b"A:\r", b"A:\n"])
    def test_a_header_section_without_end(self, section: bytes) -> None:
        octets = MIXED + b"--b\r\nX: " + section * (10_000_000 // len(section))
        began = time.process_time()
        converter = BinaryConverter()
        assert converter.feed(octets) == MIXED + b"--b\r\n"
        assert converter.problem == "A header section of a binary message is too long"
        assert converter.feed(b"x") + converter.finish() == b""
        assert time.process_time() - began < 1

    @pytest.mark.parametrize("more", [-1, 0, 1])
    @pytest.mark.parametrize("behind", [b"", b"\r\n", b"\r\nx", b"--x", b"text\r\n"])
    def test_the_longest_header_section(self, more: int, behind: bytes) -> None:
        octets = b"A: " + b"x" * (HEADER_OCTETS - 5 + more) + b"\r\n" + behind
        expected = ("A header section of a binary message is too long") if more > 0 else ""
        assert converted(octets)[1] == expected
        for cut in (1, 2, 3):
            assert converted(octets[:-cut], octets[-cut:])[1] == expected
        assert converted(octets[:HEADER_OCTETS], *singly(octets[HEADER_OCTETS:]))[1] == expected

    @pytest.mark.parametrize("piece", LIKE_DELIMITERS)
    @pytest.mark.parametrize(("size", "total"), [(1, 50_000), (100, 500_000), (65_536, 2_000_000)])
    def test_what_looks_like_delimiters_without_end_takes_linear_time(self, piece: bytes, size: int, total: int) -> None:
        octets = piece * (total // len(piece))
        converter = in_binary_part()
        began = time.process_time()
        for at in range(0, len(octets), size):
            converter.feed(octets[at : at + size])
        assert time.process_time() - began < 2  # takes 0.2 s at most

    @pytest.mark.parametrize("piece", LIKE_DELIMITERS)
    def test_what_looks_like_delimiters_without_end_takes_little_memory(self, piece: bytes) -> None:
        octets = (piece * (65_536 // len(piece) + 1))[:65_536]
        converter = in_binary_part()
        converter.feed(octets)
        tracemalloc.start()
        try:
            for _ in range(4):
                converter.feed(octets)
            kept, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 10_000
        assert most < 1_000_000

    @pytest.mark.parametrize("size", [1, 100, 65_536])
    def test_a_long_field_in_small_pieces_takes_linear_time(self, size: int) -> None:
        octets = b"A: " + b"x" * 200_000 + b"\r\n" + b"B" * 800
        converter = BinaryConverter()
        began = time.process_time()
        for at in range(0, len(octets), size):
            assert converter.feed(octets[at : at + size]) == b""
        assert time.process_time() - began < 5  # takes 0.4 s
        assert converter.problem == ""

    def test_many_parts_take_linear_time(self) -> None:
        octets = MIXED + (b"--b\r\n" + BINARY + b"\0\r\n") * (ENTITIES - 1) + b"--b--"
        began = time.process_time()
        given, problem = converted(octets)
        assert (problem, given.count(BASE64 + b"AA==")) == ("", ENTITIES - 1)
        assert time.process_time() - began < 5  # takes 0.3 s


@given(st.binary(max_size=3_000))
def test_how_long_it_becomes(octets: bytes) -> None:
    given = converted(BINARY + octets)[0][len(BINARY) :]
    assert abs(encoded_octets(len(octets)) - len(given)) < 5
    assert all(len(line) == 76 for line in given.split(b"\r\n")[:-1])
