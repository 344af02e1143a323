"""KCM: neurons that represent others by their outgoing weights and are active."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from secateurs.methods.contract import Method, PruningContext
from secateurs.rescaling import rescale
from secateurs.results import LayerPlan

SIGMA = 1.0
"""Width of the kernel on outgoing weights."""
TOLERANCE, MOST_STEPS = 0.01, 100
"""Relative change of the coefficients at which their iteration stops, and the most steps that it takes."""
Vector = NDArray[np.float64]


def plan_by_kcm(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of R2_j D2_j, both between 0 and 1 in a network, then rescale what is left.

    R2 is the diagonal of C, from all 1 / K by C <- C sqrt(K / (K C)) (entrywise) with the Gaussian kernel K of the
    outgoing weights; D2 is the root of the sum of squares of the activation.

    Source:
        Nova et al., "Gradient-free structured pruning with unlabeled data", ICML 2023. There is no code of theirs: the
        width 1, the tolerance 0.01 and min-max scaling follow another's implementation and were not checked against the
        paper. FFN neurons only, as published. The rescaling is that of `mask-tuning`.
    """
    scores = [score_by_kcm(context, place) for place in range(len(context.feedforwards))]
    kept = context.select(scores)
    return context.plan(kept, rescale(context, kept, context.select_more(scores)))


def score_by_kcm(context: PruningContext, place: int) -> Vector:
    """(K,) in [0, 1]."""
    columns = context.down_columns(place).double().cpu().numpy()
    ranks = context.once(("representative rank", place), lambda: rank_representatives(columns))
    return _spread(ranks) * _spread(context.statistics[place].squared_norm.sqrt().numpy())


def rank_representatives(columns: NDArray[np.float64]) -> Vector:
    """(K,) diagonal of C; columns: (K, H) float64, outgoing weights."""
    kernel = np.exp(-cdist(columns, columns, "sqeuclidean") / SIGMA**2)  # (K, K)
    coefficients = np.full_like(kernel, 1 / len(kernel))
    for _ in range(MOST_STEPS):
        product = kernel @ coefficients
        after = coefficients * np.sqrt(np.divide(kernel, product, out=np.zeros_like(kernel), where=product > 0))
        change = abs((after - coefficients).sum()) / np.abs(coefficients).sum()
        coefficients = after
        if change < TOLERANCE:
            break
    return np.array(coefficients.diagonal())


def _spread(values: Vector) -> Vector:
    """Shifted and stretched to [0, 1]; all 1 where they are all the same."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.ones_like(values)


KCM = Method(
    name="kcm",
    summary="neurons that represent others by their outgoing weights and are active, rescaled",
    plan=plan_by_kcm,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
    corrects=True,
)
