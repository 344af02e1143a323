"""Neurons with large incoming weights."""

from __future__ import annotations

from secateur.methods.contract import Method, PruningContext
from secateur.results import LayerPlan
from secateur.selection.ranking import select_top


def plan_by_magnitude(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the neurons whose incoming weights, biases and gates included, have the largest sum of absolute values.

    Source:
        Li et al., "Pruning filters for efficient ConvNets", 2017: the L1 norm of a filter, here a row of the up
        projection.
    """
    plans = []
    for ffn in context.feedforwards:
        scores = ffn.incoming_rows().double().abs().sum(dim=1).cpu().numpy()
        plans.append(LayerPlan(ffn.path, ffn.width, select_top(scores, context.width)))
    return tuple(plans)


MAGNITUDE = Method(
    name="magnitude",
    summary="largest incoming weights (L1)",
    plan=plan_by_magnitude,
    needs=frozenset({"weights"}),
    sees=frozenset({"dead neurons"}),
)
