"""Distances between neurons, made from what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.results import MutualInformation

Matrix = NDArray[np.floating[Any]]
Rows = slice | NDArray[np.integer[Any]]
ALL = slice(None)


def normalised_distance(information: MutualInformation, rows: Rows = ALL) -> Matrix:
    """(len(rows), K) float in [0, 1]: 1 - I(k,l) / min(I(k,k), I(l,l)); a neuron and its copies are at 0."""
    return _without_self(1.0 - information.normalised_rows(rows), rows)


def exp_distance(information: MutualInformation, rows: Rows = ALL) -> Matrix:
    """(len(rows), K) float in [0, 1]: exp(-I(k,l)), a negative I counted as 0; a neuron is at 0 from itself.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Eq. 1 with A = 1. A copy is at exp(-I(k,k)), not at 0.
    """
    return _without_self(np.exp(-np.maximum(information.values[rows], 0.0)), rows)


DISTANCES: Mapping[str, Callable[[MutualInformation, Rows], Matrix]] = {
    "normalised": normalised_distance,
    "exp": exp_distance,
}


def _without_self(distance: Matrix, rows: Rows) -> Matrix:
    numbers = np.arange(distance.shape[1])[rows]
    distance[np.arange(len(numbers)), numbers] = 0.0
    return distance
