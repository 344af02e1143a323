"""Neurons with large weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateurs.methods.contract import Method, PruningContext
from secateurs.models.feedforward import FeedForward
from secateurs.results import LayerPlan


def _peak_to_peak(ffn: FeedForward) -> Tensor:
    """(K,) highest less lowest weight (0 between them), summed over the rows of up and gate."""
    incoming, _ = ffn.per_neuron(ffn.weights())
    rows = incoming.double().view(ffn.width, -1, ffn.hidden_size)  # (K, matrices, H)
    return (rows.amax(dim=2) + rows.amin(dim=2).abs()).sum(dim=1)


SCORES: Mapping[str, Callable[[FeedForward], Tensor]] = {
    "incoming-l1": lambda ffn: ffn.incoming_rows().double().abs().sum(dim=1),
    "group-l1": lambda ffn: (
        ffn.incoming_rows().double().abs().sum(dim=1) + ffn.down_columns().double().abs().sum(dim=1)
    ),
    "down-l2": lambda ffn: ffn.down_columns().double().norm(dim=1),
    "group-l2": lambda ffn: (
        ffn.incoming_rows().double().square().sum(dim=1) + ffn.down_columns().double().square().sum(dim=1)
    ),
    "peak-to-peak": _peak_to_peak,
}
"""(K,) float64 of a network, for each value of the setting `magnitude`."""


def score_by_magnitude(context: PruningContext, place: int) -> NDArray[np.float64]:
    """(K,) size of each neuron's weights in network `place`, in the recipe's sense."""
    scores: Any = SCORES[context.recipe.magnitude](context.feedforwards[place]).cpu().numpy()
    return np.asarray(scores)


def plan_by_magnitude(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the neurons whose weights are largest; by default incoming ones, biases and gates included, by L1 norm.

    Source:
        Li et al., "Pruning filters for efficient ConvNets", 2017 (incoming-l1: a filter is a row of the up projection);
        An et al., "Fluctuation-based adaptive structured pruning", 2024, for its baseline (down-l2); Ma et al.,
        "LLM-Pruner", 2023, for group-l1 and group-l2, the sum over all weights of a neuron; optipfair for peak-to-peak.
    """
    return context.plan(context.select([score_by_magnitude(context, p) for p in range(len(context.feedforwards))]))


MAGNITUDE = Method(
    name="magnitude",
    summary="largest weights; --magnitude says which (L1 of the incoming ones)",
    plan=plan_by_magnitude,
    needs=frozenset({"weights"}),
    sees=frozenset({"dead neurons"}),
)
