"""What a target is, and how it takes its choices off the octets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Target:
    """
    Something to be fuzzed.

    Shape:  `run` takes any octets, and raises when something is wrong; `most_octets` is the longest input that is worth while.
    """

    name: str
    about: str
    run: Callable[[bytes], None]
    most_octets: int = 1_024

    @property
    def words(self) -> Path:
        """Where the words are of which its inputs are made, as libFuzzer reads them."""
        return FOLDER / "words" / f"{self.name}.dict"

    @property
    def folder(self) -> Path:
        """Where its corpus is."""
        return FOLDER / "corpus" / self.name

    def inputs(self) -> list[Path]:
        """List its corpus."""
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []


class Choices:
    """
    Takes choices off the front of an input; the rest is what the peer says.

    Choices are letters and digits where they can be, so that a file of the corpus can be read and written by hand. When none
    are left each is the first.
    """

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def number(self) -> int:
        """Take an octet: `0` to `9` are these numbers, and the others the rest."""
        first, self._octets = self._octets[:1], self._octets[1:]
        return (first[0] - ord("0")) % 256 if first else 0

    def flags(self, count: int) -> list[bool]:
        """Take an octet as so many booleans, at most eight."""
        number = self.number()
        return [bool(number >> bit & 1) for bit in range(count)]

    def line(self) -> bytes:
        """Take what stands before the next LF."""
        line, _, self._octets = self._octets.partition(b"\n")
        return line

    def rest(self) -> bytes:
        """Take all that is left."""
        octets, self._octets = self._octets, b""
        return octets


def pieces(octets: bytes, cut: int) -> list[bytes]:
    """Cut octets: in one (0), after each CRLF (1), or in pieces of so many, less one."""
    if cut == 0:
        return [octets]
    if cut == 1:
        lines = octets.split(b"\r\n")
        return [line + b"\r\n" for line in lines[:-1]] + [lines[-1]]
    return [octets[start : start + cut - 1] for start in range(0, len(octets), cut - 1)]


def kept(value: object, depth: int = 4) -> int:
    """Count the octets that an object of ours holds on to, in whatever attribute."""
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if depth == 0:
        return 0
    if isinstance(value, list | tuple | set | frozenset):
        return sum(kept(each, depth - 1) for each in value)
    if not type(value).__module__.startswith("mailstack."):
        return 0
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    held = [getattr(value, name, None) for name in slots]
    return sum(kept(each, depth - 1) for each in (*getattr(value, "__dict__", {}).values(), *held))
