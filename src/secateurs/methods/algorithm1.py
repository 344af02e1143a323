"""The paper's Algorithm 1: of two neurons that share much, one goes."""

from __future__ import annotations

import numpy as np

from secateurs.methods.contract import Method, PruningContext, require_information
from secateurs.results import LayerPlan
from secateurs.selection.threshold import DRAWS_PER_NEURON, draw_pairs, remove_redundant, select_by_threshold


def plan_by_threshold(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Draw pairs of neurons and remove the second where their information reaches a threshold.

    With `threshold_percentile` the threshold is that percentile of a network's informations, and as many neurons stay
    as it leaves; without, it is lowered from the 90th percentile until the asked number is left.
    """
    return tuple(_plan_layer(context, place) for place in range(len(context.feedforwards)))


def _plan_layer(context: PruningContext, place: int) -> LayerPlan:
    ffn, information = context.feedforwards[place], context.information(place)
    draw, percentile = draw_pairs(context.recipe.seed, place), context.recipe.threshold_percentile
    if percentile is None:
        kept = select_by_threshold(information.values, context.width, draw)
    else:
        off_diagonal = information.values[np.triu_indices(ffn.width, 1)]
        threshold, draws = float(np.percentile(off_diagonal, percentile)), DRAWS_PER_NEURON * ffn.width
        kept = remove_redundant(information.values, threshold, draws=draws, draw=draw)
    figures = {
        "mean_width_over_std": information.mean_width_over_std,
        "saturated": float(information.saturated),
    }
    return LayerPlan(ffn.path, ffn.width, kept, figures=figures)


ALGORITHM1 = Method(
    name="algorithm1",
    summary="the paper's Algorithm 1: pairs at random, one goes where both share enough",
    plan=plan_by_threshold,
    needs=frozenset({"activations"}),
    sees=frozenset(),
    check=require_information,
)
