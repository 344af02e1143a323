"""The plot of a comparison: what pruning costs against the FLOPs that are left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.compare.quality import Metric
from secateur.compare.tables import Row

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""Told apart with any colour vision: those of Okabe and Ito, the yellow darkened."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = {"refit": "solid", "none": "dashed", "own": "dashed"}
WIDTH, LEAST_HEIGHT, ROW_HEIGHT = 10.0, 6.0, 0.19
"""Inches: of the plot, and of a line of its legend."""


def size_plot(rows: Sequence[Row]) -> tuple[float, float]:
    """Width and height in inches, high enough for a legend of all rows."""
    return WIDTH, max(LEAST_HEIGHT, ROW_HEIGHT * (len(rows) + 4))


def draw_comparison(figure: Any, title: str, rows: Sequence[Row], dense: float, metric: Metric) -> None:
    """A line for each row: refitted ones solid, as published dashed, those that can't be saved dotted.

    Log-losses are drawn as gaps, on a logarithmic scale where all are above 0; other scores as they are.
    """
    axes = figure.subplots()
    looks = {way: place for place, way in enumerate(dict.fromkeys((row.method, row.allocation) for row in rows))}
    several = len({row.allocation for row in rows}) > 1
    for row in rows:
        place = looks[row.method, row.allocation]
        axes.plot(
            [point.relative_ffn_flops for point in row.points],
            [point.gap if metric.is_loss else point.quality for point in row.points],
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle=STYLES.get(row.correction, "dotted"),
            markersize=5,
            label=f"{row.method}{f', {row.allocation}' if several else ''}: {row.correction}",
        )
    label = f"{metric.name} ({metric.direction})"
    if metric.is_loss:
        label = f"log-loss less that before pruning, nats a token ({metric.direction})"
        if rows and min(point.gap for row in rows for point in row.points) > 0:
            axes.set_yscale("log")
    else:
        axes.axhline(dense, color="0.5", linestyle=":", label="before pruning")
    axes.set(xlabel="relative FLOPs, scope ffn", ylabel=label)
    figure.suptitle(title, x=0.02, horizontalalignment="left")
    figure.legend(loc="outside right upper", fontsize="small")
