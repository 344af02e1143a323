"""Ranking neurons by a score, and scores that count what more important neurons already carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.results import MutualInformation

ROWS_AT_ONCE = 256
"""Rows of a K x K matrix that are looked at together, so that it may lie on disk."""
Vector = NDArray[np.floating[Any]]


def select_top(scores: Vector, width: int) -> NDArray[np.int64]:
    """Indices of the `width` highest scores, sorted; equal scores go to the lower index."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:width]).astype(np.int64)


def select_overall(scores: Sequence[Vector], total: int) -> list[NDArray[np.int64]]:
    """Indices of the `total` highest scores of all layers together, sorted, by layer; each layer keeps its best.

    Equal scores go to the earlier layer, then to the lower index.

    Args:
        scores: (K,) float for each layer.
        total: neurons to keep in all, at least one a layer.
    """
    layers = np.concatenate([np.full(len(values), layer) for layer, values in enumerate(scores)])
    neurons = np.concatenate([np.arange(len(values)) for values in scores])
    joined = np.concatenate(scores).astype(float)
    best = np.cumsum([0, *map(len, scores)])[:-1] + [int(np.argmax(values)) for values in scores]
    joined[best] = np.inf
    chosen = select_top(joined, total)
    return [np.sort(neurons[chosen][layers[chosen] == layer]) for layer in range(len(scores))]


def round_width(original: int, keep: float, round_to: int) -> int:
    """Width nearest to keep x original among multiples of `round_to`.

    Ties go down, except that round_to = 1 is floor(keep x original + 0.5). At least one multiple, never above the
    original; keep = 1 keeps everything.
    """
    wanted = keep * original
    if keep >= 1:
        return original
    if round_to == 1:
        return min(original, max(1, int(wanted + 0.5)))
    nearest = round_to * max(1, int(np.ceil(wanted / round_to - 0.5)))
    while nearest > original and nearest > round_to:
        nearest -= round_to
    return min(nearest, original)


def find_largest_shared(importance: Vector, information: MutualInformation) -> Vector:
    """For each neuron, the largest share of its information that one more important neuron carries.

    Args:
        importance: (K,) float. Of equals the lower index counts as more important.
        information: of the K neurons.

    Returns:
        (K,) float in [0, 1]: max over more important l of I(j,l) / min(I(j,j), I(l,l)); 0 for the most important.
    """
    order = np.argsort(-importance, kind="stable")
    largest = np.zeros(len(importance))
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        share = information.normalised_rows(rows)[:, order]  # (rows, K), most important first
        for place, neuron in enumerate(rows, start):
            largest[neuron] = share[place - start, :place].max(initial=0)
    return largest


def penalise_redundancy(importance: Vector, largest_shared: Vector) -> Vector:
    """Importance x (1 - clip((m - 0.5) / 0.5, 0, 1)): all of it up to a share of one half, none at a full copy."""
    score: Vector = importance * (1.0 - np.clip((largest_shared - 0.5) / 0.5, 0.0, 1.0))
    return score
