"""What is measured of ours alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Something measured: what, how much, in which unit."""

    what: str
    amount: float
    unit: str
