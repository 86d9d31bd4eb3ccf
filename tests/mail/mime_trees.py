"""MIME trees as hypothesis makes them, with binary parts in them, and what they are to be when they were converted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypothesis import strategies as st

PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\r\n.\r\n",
    b"\n.\n",
    b"--",
    b"\r\n--",
    b"--=_0",
    b"\r\n--=_1--",
    b"=_",
    b" ",
    b"\0",
    b"\xff",
    b"x",
]
FIELDS = [b"Subject: x\r\n", b"X-Folded: a\r\n\tb\r\n", b"Content-ID: <--=_0>\r\n", b"--=_0: x\r\n", b"X-8: \xe9\r\n"]
BINARY = [b"binary", b"Binary", b" BINARY", b"\r\n\tbinary", b"binary "]


@dataclass(frozen=True)
class Tree:
    """Its octets; its leaves, in order; whether anything in it is labelled binary."""

    octets: bytes
    leaves: tuple[bytes, ...]
    is_binary: bool


OCTETS = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join))
SECTIONS = st.lists(st.sampled_from(FIELDS), max_size=2).map(b"".join)


@st.composite
def binary_leaves(draw: st.DrawFn) -> Tree:
    octets = draw(OCTETS)
    fields = [draw(SECTIONS), b"Content-Transfer-Encoding: " + draw(st.sampled_from(BINARY)) + b"\r\n"]
    if draw(st.booleans()):
        fields.append(b"Content-Type: image/png\r\n")
    return Tree(b"".join(draw(st.permutations(fields))) + b"\r\n" + octets, (octets,), True)


@st.composite
def text_leaves(draw: st.DrawFn) -> Tree:
    octets = draw(
        st.lists(st.sampled_from([b"text", b"\r\n", b"--", b"--=_0", b".", b"\xe9", b"\0"]), max_size=10).map(b"".join)
    )
    label = draw(st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\r\n", b"Content-Type: text/plain\r\n"]))
    return Tree(draw(SECTIONS) + label + b"\r\n" + octets, (octets,), False)


@st.composite
def multiparts(draw: st.DrawFn, children: st.SearchStrategy[Tree]) -> Tree:
    parts = draw(st.lists(children, min_size=1, max_size=4))
    number = 0
    while any(_delimits(b"=_%d" % number, part.octets) for part in parts):
        number += 1
    boundary = b"=_%d" % number
    label = draw(st.sampled_from([b"", b"Content-Transfer-Encoding: binary\r\n", b"Content-Transfer-Encoding: 8bit\r\n"]))
    padding = draw(st.sampled_from([b"", b" ", b"\t \t"]))
    octets = draw(SECTIONS) + b'Content-Type: multipart/mixed;\r\n boundary="' + boundary + b'"\r\n' + label + b"\r\n"
    octets += draw(st.sampled_from([b"", b"preamble\r\n", b"\r\n"]))
    for part in parts:
        octets += b"--" + boundary + padding + b"\r\n" + part.octets + b"\r\n"
    octets += b"--" + boundary + b"--" + draw(st.sampled_from([b"", b"\r\n", b"\r\nepilogue"]))
    is_binary = b"binary" in label or any(part.is_binary for part in parts)
    return Tree(octets, sum((part.leaves for part in parts), ()), is_binary)


@st.composite
def messages(draw: st.DrawFn, children: st.SearchStrategy[Tree]) -> Tree:
    inner = draw(children)
    label = draw(st.sampled_from([b"", b"Content-Transfer-Encoding: binary\r\n"]))
    head = draw(SECTIONS) + label + b"Content-Type: message/rfc822\r\n\r\n"
    return Tree(head + inner.octets, inner.leaves, inner.is_binary or bool(label))


def _delimits(boundary: bytes, octets: bytes) -> bool:
    return re.search(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(?:--)?[ \t]*(?:\r\n|\Z)", octets) is not None


TREES = st.recursive(
    st.one_of(binary_leaves(), text_leaves()),
    lambda children: st.one_of(multiparts(children), messages(children)),
    max_leaves=8,
)
