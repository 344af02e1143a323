"""LLM-Pruner's FFN part: neurons whose weights matter to the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from secateurs.methods.contract import Method, PruningContext
from secateurs.models.gradients import require_finite_gradients, weight_gradients
from secateurs.results import LayerPlan

ROWS = 10
"""Rows that gradients are taken on, as published."""


def plan_by_taylor(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of sum |w g| over all weights of a neuron, g the gradient of the mean loss of 10 rows.

    Source:
        Ma et al., "LLM-Pruner: on the structural pruning of large language models", NeurIPS 2023: param_first, summed
        over the coupled group (gate and up rows, down column). Differs: rows are whole windows rather than 64 tokens;
        every network is pruned (the original spares the first four and the last two blocks; --layers does that); FFN
        neurons only, without the LoRA training that follows.
    """
    scores = context.once(("taylor",), lambda: _score(context))
    return context.plan(context.select([values.numpy() for values in scores]))


def _score(context: PruningContext) -> list[Tensor]:
    context.require_loss()
    rows = context.calibration.sample_rows(ROWS, context.recipe.seed)
    weights = [weight for ffn in context.feedforwards for weight in ffn.weights()]
    loss = context.losses_on(rows)
    gradients = iter(weight_gradients(context.loaded.model, weights, rows.batches, loss))
    found = []
    for ffn in context.feedforwards:
        own = ffn.weights()
        products = [weight.detach().float() * next(gradients) for weight in own]
        incoming, outgoing = ffn.per_neuron(products)
        found.append(torch.cat([incoming, outgoing], dim=1).double().abs().sum(dim=1).cpu())
        require_finite_gradients(ffn, found[-1])
    return found


LLM_PRUNER = Method(
    name="llm-pruner",
    summary="largest first-order effect of a neuron's weights on the loss",
    plan=plan_by_taylor,
    needs=frozenset({"weights", "gradients", "labels"}),
    sees=frozenset({"dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
)
