"""Neurons at random: what every other method has to beat."""

from __future__ import annotations

import numpy as np

from secateurs.methods.contract import Method, PruningContext
from secateurs.results import LayerPlan


def plan_at_random(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep neurons drawn uniformly without replacement, in each network on its own."""
    plans = []
    for place, ffn in enumerate(context.feedforwards):
        drawn = np.random.default_rng([context.recipe.seed, place]).permutation(ffn.width)[: context.width]
        plans.append(LayerPlan(ffn.path, ffn.width, np.sort(drawn)))
    return tuple(plans)


RANDOM = Method(
    name="random",
    summary="neurons at random, seeded",
    plan=plan_at_random,
    needs=frozenset(),
    sees=frozenset(),
)
