"""From cells to what a reader sees: means, spreads, ties, floors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from secateurs.evaluation.perplexity import TIE_ERRORS
from secateurs.tasks import TASKS, Metric

SIGNAL_SPREADS = 3.0
"""A dense score less than so many seed spreads above its floor says nothing about pruning."""
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Document:
    """One experiment's outcome."""

    content: Mapping[str, Any]
    """All figures, for the JSON file."""
    markdown: str
    """Tables and remarks."""
    draw: Callable[[Any], None] | None = None
    """Draws the plot on a matplotlib figure; None where there is nothing to plot."""


def find_floor(task: str, labels: Sequence[float]) -> dict[Metric, float]:
    """The most that a model gets, metric by metric, that says the same of every row; a correlation is 0 then."""
    if TASKS[task].is_regression:
        return dict.fromkeys(TASKS[task].metrics, 0.0)
    found: dict[Metric, float] = {}
    for metric in TASKS[task].metrics:
        constants = [np.full(len(labels), label) for label in range(TASKS[task].classes)]
        found[metric] = max(_score_constant(metric, labels, constant) for constant in constants)
    return found


def _score_constant(metric: Metric, labels: Sequence[float], constant: NDArray[Any]) -> float:
    if metric == "accuracy":
        return float(accuracy_score(labels, constant))
    return float(f1_score(labels, constant, zero_division=0))


def has_signal(dense: Sequence[float], floor: float) -> bool | None:
    """Whether dense scores lie above the floor, and by 3 seed spreads; None of a single seed, which has no spread."""
    margin = np.mean(dense) - floor
    if margin <= 0:
        return False
    if len(dense) < 2:
        return None
    return bool(margin >= SIGNAL_SPREADS * np.std(dense, ddof=1))


def is_tie(first: Values, second: Values) -> bool:
    """Whether the paired difference of two methods over the same seeds lies within 2 standard errors of 0.

    Of three seeds that is a loose test: two equal methods fail it in one of five cases.
    """
    difference = first - second
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(abs(difference.mean()) <= TIE_ERRORS * error)


def mean_and_spread(values: Sequence[float] | Values, digits: int = 3) -> str:
    """As "0.812 ± 0.004": mean and standard deviation; the mean alone of a single value."""
    if len(values) < 2:
        return f"{np.mean(values):.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
