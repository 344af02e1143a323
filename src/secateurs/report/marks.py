"""What a figure shows, whatever draws it: a browser (`web/report.js`) or matplotlib (`images`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Symbol = Literal["none", "circle", "x", "square", "diamond", "triangle-up", "cross", "triangle-down", "star"]
SYMBOLS: tuple[Symbol, ...] = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "star",
    "x",
)
PALETTE = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8c42"),
    ("#009e73", "#2fd3a3"),
    ("#cc79a7", "#e9a3cb"),
    ("#b8860b", "#e6b800"),
    ("#5e4fa2", "#a99be8"),
    ("#666666", "#b0b0b0"),
    ("#7a3b00", "#c98b5a"),
)
"""Colours on light and on dark ground, by number; after Okabe and Ito, told apart with any colour vision."""
KEPT, REMOVED, NEUTRAL = 0, 1, 6
"""Colours of what stays, what goes, and what is compared with."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a figure."""

    label: str
    """What it measures, with its unit."""
    is_log: bool = False
    """Whether it is logarithmic."""
    names: tuple[str, ...] = ()
    """Of categories at 0, 1, 2, ...; empty for numbers."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined by a line."""

    name: str
    """In the legend."""
    x: Values
    """(n,) places."""
    y: Values
    """(n,) values."""
    colour: int = KEPT
    """Number in the palette."""
    is_dashed: bool = False
    """Whether it is dashed, so that it is told apart without colour."""
    symbol: Symbol = "none"
    """At the points."""
    is_stepped: bool = False
    """Whether it runs in steps about its points, as a histogram's outline does."""
    errors: Values | None = None
    """(n,) half-lengths of bars about the points along y, or along x where y has categories."""
    facts: Mapping[str, Values] = field(default_factory=dict)
    """(n,) each: what else is told of a point that is pointed at."""
    is_joined: bool = True
    """Whether there is a line at all."""


@dataclass(frozen=True, slots=True)
class Points:
    """Single points."""

    name: str
    """In the legend."""
    x: Values
    """(n,) places."""
    y: Values
    """(n,) values."""
    colour: int | Values
    """Number in the palette, of all or (n,) of each."""
    symbol: Symbol
    """Of all."""
    facts: Mapping[str, Values] = field(default_factory=dict)
    """(n,) each: what is told of a point that is pointed at."""


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar at each place."""

    name: str
    """In the legend."""
    x: Values
    """(n,) places."""
    y: Values
    """(n,) heights."""
    colour: int
    """Number in the palette."""
    is_hatched: bool = False
    """Whether it is hatched, so that it is told apart without colour."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A square matrix as colours."""

    values: Values
    """(m, m)."""
    unit: str
    """Of the values."""


Mark = Line | Points | Bars | HeatMap


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure."""

    key: str
    """Short name, of files and of its place in the page."""
    title: str
    """What it shows."""
    alt: str
    """The same for those who can't see it, with the main figures."""
    note: str
    """How to read it."""
    x: Axis
    """Along."""
    y: Axis
    """Upwards."""
    marks: tuple[Mark, ...]
    """Drawn in this order."""


def block_means(matrix: Values, side: int) -> Values:
    """(side, side) means of blocks of neighbours; the (m, m) matrix itself where m is no more."""
    if len(matrix) <= side:
        return matrix
    edges = np.linspace(0, len(matrix), side + 1).astype(int)
    sizes = np.diff(edges)
    sums = np.add.reduceat(np.add.reduceat(matrix.astype(np.float64), edges[:-1], axis=0), edges[:-1], axis=1)
    means: Values = sums / np.outer(sizes, sizes)
    return means


def limit_colours(matrix: Values) -> tuple[float, float]:
    """Least and largest value that colours tell apart: of pairs, less the highest 0.5 %, above which all look alike."""
    others = matrix[~np.eye(len(matrix), dtype=bool)].astype(np.float64)
    if not len(others):
        return 0.0, 1.0
    low, high = float(others.min()), float(np.quantile(others, 0.995))
    return low, max(high, low + 1e-9)
