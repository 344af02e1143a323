"""From entries to what a reader sees: means, spreads, gaps, ranks and ties. Plain results in, plain results out."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.compare.entries import Entry
from secateurs.compare.quality import Metric, Quality
from secateurs.evaluation.perplexity import TIE_ERRORS, compare_parts, find_block
from secateurs.results.comparison import Point, Row
from secateurs.tables import MISSING, as_markdown

MARKS = {"best": " *", "tied": " =", "": ""}


Way = tuple[str, str, str]
"""Method, allocation and correction: one row."""
Group = list[Entry]
"""The entries of one way at one width, by trial."""


def make_rows(entries: Sequence[Entry], dense: Quality, metric: Metric) -> list[Row]:
    """One row for each way to prune, best at the smallest width first."""
    ways: dict[Way, dict[float, Group]] = defaultdict(lambda: defaultdict(list))
    for entry in sorted(entries, key=lambda entry: (entry.keep, entry.trial)):
        ways[entry.method, entry.allocation, entry.correction][entry.keep].append(entry)
    best = {keep: _find_best(ways, keep, metric) for keep in sorted({entry.keep for entry in entries})}
    rows = [_make_row(way, by_keep, best, dense, metric) for way, by_keep in ways.items()]
    smallest = min(best, default=0.0)

    def rank(row: Row) -> tuple[float, bool, str, str]:
        point = row.at(smallest)
        badness = math.inf if point is None else metric.badness(point.quality)
        return badness, point is None or point.mark != "best", row.method, row.correction

    return sorted(rows, key=rank)


def find_standing(group: Group, best: Group, metric: Metric) -> str:
    """The mark of a way at a width: "best", "tied" within 2 paired standard errors of the best, or nothing."""
    if group is best:
        return "best"
    if not group[0].is_saved_model:
        return ""
    difference, error = compare_groups(best, group, metric)
    if not math.isfinite(difference):
        return ""
    return "tied" if error is None or abs(difference) <= TIE_ERRORS * error else ""


def compare_groups(first: Group, second: Group, metric: Metric) -> tuple[float, float | None]:
    """How much higher the second scores, and the standard error of that, paired over what was scored on and trials.

    None instead of an error that is not known, where all was scored as one window.
    """
    shared = {entry.trial for entry in first} & {entry.trial for entry in second}
    one, two = ([entry for entry in group if entry.trial in shared] for group in (first, second))
    differences = _values(two, metric) - _values(one, metric)
    of_parts = _error(_mean_parts(one), _mean_parts(two), one[0].weights, metric)
    if of_parts is None:
        return float(differences.mean()), None
    of_trials = differences.std(ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return float(differences.mean()), math.hypot(of_parts, float(of_trials))


def table_columns(rows: Sequence[Row], keeps: Sequence[float]) -> list[str]:
    """Titles of the table's columns, widest first, with the relative FLOPs that are left in both scopes."""
    found = [(keep, [point for row in rows if (point := row.at(keep)) is not None]) for keep in reversed(keeps)]
    widths = [
        f"keep {keep:g}\nFLOPs {_range([point.relative_ffn_flops for point in points])} ffn\n"
        f"{_range([point.relative_model_flops for point in points])} model"
        for keep, points in found
    ]
    return ["method", "allocation", "correction", *widths, "seconds", "MB", "needs"]


def table_rows(rows: Sequence[Row], keeps: Sequence[float], metric: Metric) -> list[list[str]]:
    """The table that is printed: quality and spread at each width, and what it costs."""
    return [
        [
            row.method,
            row.allocation,
            row.correction,
            *(show_point(row.at(keep), metric) for keep in reversed(keeps)),
            _show_cost(_mean([point.seconds_choosing for point in row.points]), 1),
            _show_cost(max(point.peak_mb_choosing for point in row.points), 0),
            ", ".join(row.needs) or "nothing",
        ]
        for row in rows
    ]


def gap_rows(rows: Sequence[Row], keeps: Sequence[float]) -> list[list[str]]:
    """Gaps to the model before pruning, each with its paired standard error, and its spread over trials."""
    return [
        [row.method, row.allocation, row.correction, *(_show_gap(row.at(keep)) for keep in reversed(keeps))]
        for row in rows
    ]


def show_point(point: Point | None, metric: Metric) -> str:
    """A score with its spread and mark."""
    if point is None:
        return MISSING
    spread = "" if point.spread is None else f" ± {metric.show(point.spread)}"
    return metric.show(point.quality) + spread + MARKS[point.mark]


def as_csv(entries: Sequence[Entry], dense: Quality, metric: Metric) -> str:
    """One line for each entry."""
    lines = [_csv_line(entry, dense, metric) for entry in entries]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def describe_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain values."""
    return [asdict(row) for row in rows]


def as_document(title: str, rows: Sequence[Row], keeps: Sequence[float], metric: Metric, notes: Sequence[str]) -> str:
    """The tables and notes of a comparison, as Markdown."""
    unit = "log-loss less that before pruning, nats a token" if metric.is_loss else f"{metric.name} less that before"
    columns = table_columns(rows, keeps)
    return "\n".join(
        [
            f"# {title}\n",
            as_markdown(columns, table_rows(rows, keeps, metric)),
            f"Gap: {unit}, ± its paired standard error (and its standard deviation over trials).\n",
            as_markdown(columns[: 3 + len(keeps)], gap_rows(rows, keeps)),
            *(f"- {note}" for note in notes),
            "",
        ]
    )


def _make_row(
    way: Way, by_keep: dict[float, Group], best: dict[float, Group | None], dense: Quality, metric: Metric
) -> Row:
    first = next(iter(by_keep.values()))[0]
    points = tuple(_make_point(group, best[keep], dense, metric) for keep, group in by_keep.items())
    return Row(*way, first.is_saved_model, tuple(first.needs), points)


def _make_point(group: Group, best: Group | None, dense: Quality, metric: Metric) -> Point:
    values = _values(group, metric)
    mean = float(values.mean())
    error = _error(dense.parts, _mean_parts(group), dense.weights, metric)
    return Point(
        keep=group[0].keep,
        quality=_exp(mean) if metric.is_loss else mean,
        spread=_deviation([entry.scores[metric.name] for entry in group]),
        gap=mean - dense.scores[metric.ranked_by],
        gap_standard_error=error,
        gap_spread=_deviation(values),
        relative_ffn_flops=_mean([entry.relative_ffn_flops for entry in group]),
        relative_model_flops=_mean([entry.relative_model_flops for entry in group]),
        parameters=_mean([entry.parameters for entry in group]),
        seconds_choosing=_mean([entry.seconds_choosing for entry in group]),
        peak_mb_choosing=max(entry.peak_mb_choosing for entry in group),
        mark="" if best is None else find_standing(group, best, metric),
    )


def _find_best(ways: dict[Way, dict[float, Group]], keep: float, metric: Metric) -> Group | None:
    """The entries of the way whose mean is best among models that can be saved."""
    groups = [by_keep[keep] for by_keep in ways.values() if keep in by_keep and by_keep[keep][0].is_saved_model]
    return min(groups, key=lambda group: metric.badness(float(_values(group, metric).mean())), default=None)


def _values(group: Group, metric: Metric) -> NDArray[np.float64]:
    return np.array([entry.scores[metric.ranked_by] for entry in group])


def _mean_parts(group: Group) -> list[float]:
    means: list[float] = np.mean([entry.parts for entry in group], axis=0).tolist()
    return means


def _error(before: Sequence[float], after: Sequence[float], weights: Sequence[int], metric: Metric) -> float | None:
    """Paired standard error of a difference; groups of rows are drawn at random, windows of text have neighbours."""
    return compare_parts(before, after, weights, find_block(len(weights)) if metric.is_loss else 1)[1]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _range(values: Sequence[float]) -> str:
    """The value, or lowest and highest where they differ."""
    low, high = (f"{found:.2f}" for found in (min(values, default=0.0), max(values, default=0.0)))
    return low if low == high else f"{low} to {high}"


def _deviation(values: Sequence[float] | NDArray[np.float64]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _show_gap(point: Point | None) -> str:
    if point is None:
        return MISSING
    spread = "" if point.gap_spread is None else f" ({point.gap_spread:.4f})"
    error = "unknown" if point.gap_standard_error is None else f"{point.gap_standard_error:.4f}"
    return f"{point.gap:+.4f} ± {error}{spread}"


def _show_cost(value: float, digits: int) -> str:
    """A figure, or what it is below where it would be shown as 0."""
    least = 10.0**-digits
    return f"{value:.{digits}f}" if value >= least else f"<{least:.{digits}f}"


def _csv_line(entry: Entry, dense: Quality, metric: Metric) -> dict[str, Any]:
    described = asdict(entry)
    for name in ("scores", "parts", "weights", "figures", "widths", "needs"):
        described.pop(name)
    return {
        **described,
        "correction": entry.correction,
        **entry.scores,
        "gap": entry.scores[metric.ranked_by] - dense.scores[metric.ranked_by],
        "gap_standard_error": _error(dense.parts, entry.parts, dense.weights, metric),
        "widths": " ".join(map(str, entry.widths)),
        "needs": " ".join(entry.needs),
    }
