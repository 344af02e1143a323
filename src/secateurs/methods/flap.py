"""FLAP: neurons whose activation fluctuates, weighted by what it moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secateurs.methods.contract import Method, PruningContext
from secateurs.results import LayerPlan, Update


def plan_by_fluctuation(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of Var(z_j) |W_j|^2; what the removed gave on average goes into the output bias.

    With global allocation scores are standardised in each network and ranked together.

    Source:
        An et al., "Fluctuation-based adaptive structured pruning for large language models", AAAI 2024: WIFV, UL-UM
        and AL-AM. Differs: variances are over tokens in one pass (the original's running sums weigh samples unevenly);
        FFN neurons only, where it prunes heads too. Where a family has no output bias the correction can't be stored:
        a saved model lacks it, and a comparison shows both.
    """
    scores = [score_by_fluctuation(context, place) for place in range(len(context.feedforwards))]
    if context.recipe.allocation == "global":
        scores = [(values - values.mean()) / max(values.std(), np.finfo(float).tiny) for values in scores]
    kept = context.select(scores)
    return tuple(_compensate(context, place, layer) for place, layer in enumerate(context.plan(kept)))


def score_by_fluctuation(context: PruningContext, place: int) -> NDArray[np.float64]:
    """(K,) variance of each activation x squared length of its down-projection column."""
    statistics = context.statistics[place]
    variance = (statistics.squared_norm / statistics.tokens - statistics.mean.square()).clamp(min=0)
    scores: NDArray[np.float64] = (
        variance * context.down_columns(place).double().square().sum(dim=1).cpu()
    ).numpy()  # (K,)
    return scores


def _compensate(context: PruningContext, place: int, layer: LayerPlan) -> LayerPlan:
    """The entry with the mean output of what is removed made up for by a bias."""
    ffn, columns = context.feedforwards[place], context.down_columns(place).cpu()
    mean = context.statistics[place].mean.clone()
    mean[layer.kept] = 0
    shift = mean @ columns.double()  # (H,)
    if not ffn.has_output_bias:
        return replace(layer, unsaved_bias=shift.float())
    bias = (ffn.output_bias().cpu().double() + shift).to(ffn.dtype)
    return replace(layer, update=Update(columns[layer.kept].to(ffn.dtype), bias))


FLAP = Method(
    name="flap",
    summary="largest variance of what a neuron adds to the output; the mean of the rest goes into the bias",
    plan=plan_by_fluctuation,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
    corrects=True,
)
