"""Wanda-sp: neurons that are active and have large outgoing weights, layer after layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.capture import LayerStatistics
from secateur.methods.contract import Method, PruningContext
from secateur.results import LayerPlan
from secateur.selection.ranking import select_top
from secateur.walking import can_walk, choose_in_turn


def plan_by_wanda(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of mean_i |W_ij| sqrt(mean z_j^2), measured where earlier layers are already pruned.

    Where layers are shared or form two stacks (ALBERT, T5), all are measured in the unpruned model.

    Source:
        An et al., "Fluctuation-based adaptive structured pruning", 2024, which carries Wanda (Sun et al., 2024) over to
        whole neurons. It prunes heads too; here FFN neurons only.
    """

    def choose(place: int, statistics: LayerStatistics) -> NDArray[np.int64]:
        return select_top(score_by_wanda(context, place, statistics), context.width)

    if not can_walk(context.loaded):
        return context.plan([choose(place, statistics) for place, statistics in enumerate(context.statistics)])
    batches = context.calibration.batches
    return context.plan(choose_in_turn(context.loaded, context.feedforwards, batches, choose, context.progress))


def score_by_wanda(context: PruningContext, place: int, statistics: LayerStatistics) -> NDArray[np.float64]:
    """(K,) mean absolute outgoing weight x root mean square of the activation."""
    weights = context.down_columns(place).double().abs().mean(dim=1).cpu()
    scores: NDArray[np.float64] = (weights * statistics.rms).numpy()
    return scores


WANDA_SP = Method(
    name="wanda-sp",
    summary="largest activation x outgoing weight, measured layer after layer",
    plan=plan_by_wanda,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"dead neurons"}),
)
