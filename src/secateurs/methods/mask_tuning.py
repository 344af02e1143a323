"""Mask-tuning: neurons by Fisher information, exchanged by how they act together, then rescaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.methods.contract import Method, PruningContext
from secateurs.rescaling import rescale
from secateurs.results import LayerPlan

ROWS = 2048
"""Rows that it looks at, at most, as published."""


def plan_by_fisher(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of sum over rows of (d loss / d m_j)^2, rearrange, then rescale what is left.

    Source:
        Kwon et al., "A fast post-training pruning framework for transformers", NeurIPS 2022. Differs: rows are drawn
        without replacement, gradients squared for each row rather than each batch of 32; FFN neurons only, where it
        searches over heads and neurons together. As published, the teacher of the rescaling is the same search at the
        root of the fraction kept, not rearranged.
    """
    drawn = _limit_rows(context)
    gradients = [values.numpy() for values in drawn.task_gradients()]
    fisher = [np.square(values).sum(axis=0) for values in gradients]
    kept = [rearrange(values, stay) for values, stay in zip(gradients, context.select(fisher), strict=True)]
    return context.plan(kept, rescale(drawn, kept, context.select_more(fisher)))


def rearrange(gradients: NDArray[np.float64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many neurons as in `kept`, exchanged one by one so that those removed cancel out.

    In the order of their Fisher information, each kept neuron j joins the removed set P, and the i leaves P whose
    absence makes |sum_{p in P} g_p|^2 least, that is whose 2 g_i^T sum_P g - g_i^T g_i is greatest.

    Args:
        gradients: (N, K) float64, column j is g_j.
        kept: (width,) sorted indices, those of the highest g_j^T g_j.

    Cost:
        N K^2 for the Gram matrix, then O(K) for each kept neuron.
    """
    gram = gradients.T @ gradients  # (K, K)
    own = gram.diagonal()
    removed = np.setdiff1d(np.arange(len(own)), kept)
    removed = removed[np.argsort(own[removed], kind="stable")]
    if len(removed) == 0:
        return kept
    with_sum = gram[removed].sum(axis=0)  # (K,) of each neuron with the sum over P
    for neuron in kept[np.argsort(own[kept], kind="stable")]:
        removed, with_sum = np.append(removed, neuron), with_sum + gram[neuron]
        best = int(np.argmax(2 * with_sum[removed] - own[removed]))
        with_sum = with_sum - gram[removed[best]]
        removed = np.delete(removed, best)
    return np.setdiff1d(np.arange(len(own)), removed)


def _limit_rows(context: PruningContext) -> PruningContext:
    """The context on at most 2048 rows, with measurements of its own."""
    calibration = context.calibration
    if sum(len(next(iter(batch.values()))) for batch in calibration.batches) <= ROWS:
        return context
    known = context.once(("known of drawn rows", ROWS), dict[tuple[Any, ...], Any])
    return replace(context, calibration=calibration.sample_rows(ROWS, context.recipe.seed), _known=known)


MASK_TUNING = Method(
    name="mask-tuning",
    summary="largest Fisher information, exchanged by how neurons act together, rescaled",
    plan=plan_by_fisher,
    needs=frozenset({"weights", "activations", "gradients", "labels"}),
    sees=frozenset({"dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
    corrects=True,
    measures_itself=True,
)
