"""K-prune: network after network, neurons that hold knowledge, and weights that restore what is lost."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.capture import capture
from secateurs.errors import is_out_of_memory
from secateurs.methods.contract import Method, PruningContext
from secateurs.models.families import find_feedforwards
from secateurs.models.feedforward import FeedForward
from secateurs.models.gradients import divergence_from, find_target, mask_gradients
from secateurs.models.loading import LoadedModel
from secateurs.models.sublayers import read_sublayer
from secateurs.rescaling import NormalEquations, sum_equations
from secateurs.results import LayerPlan, Update
from secateurs.selection.ranking import select_overall, select_top

TEMPERATURE = 2.0
"""T of the divergence from the whole model's prediction."""
PREDICTION_WEIGHT, REPRESENTATION_WEIGHT = 1.0, 2.5e-4
"""lambda_pred and lambda_rep, as in the original's own script."""
GROUP = 32
"""Rows whose gradients are averaged before they are squared: the batches of the original's script."""
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scratch:
    """A copy of the model that is pruned network after network."""

    loaded: LoadedModel
    """The copy."""
    feedforwards: tuple[FeedForward, ...]
    """Its networks, those of the context."""


def plan_by_knowledge(context: PruningContext) -> tuple[LayerPlan, ...]:
    """From the first network to the last, keep the highest of lambda_rep K_rep + lambda_pred K_pred, then fit weights.

    In the model pruned so far, K_pred is the sum over groups of 32 rows of (mean of d L / d m_j)^2, over twice the
    number of rows, m_j a factor on the activation and L = T^2 KL(softmax(t / T) || softmax(s / T)) of the whole model's
    logits t to its own s (mean over positions of a language model; squared error of a number); K_rep is
    E[z_j^2] mean_k W_kj^2. Under one budget for all, the networks that are left to prune are ranked together by what is
    left of the budget, and the current one is cut by that. Then its down projection becomes the least-squares one to
    the whole model's sub-layer output, less the residual and the output bias of the model pruned so far (residuals as
    `Family.residual` can tell them).

    Source:
        Park et al., "Accurate retraining-free pruning for pretrained encoder-based language models", ICLR 2024, with
        the weights and the batches that its script sets (as groups of rows, so that the forward batch size does not
        matter). Differs: of a number, the original compares all rows with all by mistake; where least squares fails
        for rank, the shortest solution is taken. FFN neurons only (where a neuron's FLOPs drop out of the score), and
        nothing between them; the original prunes heads too, in turn with the FFNs.

    Cost:
        For each network a forward and a backward pass of the pruned model and a forward pass of the whole one, three
        more forward passes (two only up to the network), and n k (k + H) multiply-adds. A second copy of the
        model in memory.
    """
    find_target(context.loaded.model)
    scratch, kept, updates = _open_scratch(context), list[NDArray[np.int64]](), list[Update]()
    for place, ffn in enumerate(scratch.feedforwards):
        budget = context.budget - sum(map(len, kept))
        kept.append(_select(context, score_by_knowledge(context, scratch, place), budget))
        updates.append(_tune(context, scratch, place, kept[-1]))
        ffn.cut_(LayerPlan(ffn.path, ffn.width, kept[-1], updates[-1]), len(kept[-1]))
        context.progress("pruning and tuning", place + 1, len(context.feedforwards))
    return context.plan(kept, updates)


def score_by_knowledge(context: PruningContext, scratch: Scratch, place: int) -> list[Vector]:
    """(K,) for network `place` of the scratch model and, under one budget for all, for each after it."""
    stop = None if context.recipe.allocation == "global" else place + 1
    left = scratch.feedforwards[place:stop]
    prediction = _score_prediction(context, scratch, left) if place else [np.zeros(ffn.width) for ffn in left]
    measured = capture(
        scratch.loaded.model,
        left,
        context.calibration.batches,
        samples=0,
        sampling="tokens",
        seed=0,
        with_second_moments=False,
    )
    scores = []
    for ffn, statistics, of_prediction in zip(left, measured, prediction, strict=True):
        lengths = ffn.down_columns().double().square().mean(dim=1).cpu()
        of_representation = (statistics.squared_norm / statistics.tokens * lengths).numpy()
        scores.append(REPRESENTATION_WEIGHT * of_representation + PREDICTION_WEIGHT * of_prediction)
    return scores


def _score_prediction(context: PruningContext, scratch: Scratch, left: Sequence[FeedForward]) -> list[Vector]:
    """(K,) K_pred of each network; in the whole model, where nothing diverges yet, it would be 0."""
    batches = context.calibration.batches
    loss = divergence_from(context.loaded.model, batches, TEMPERATURE)
    parts = mask_gradients(scratch.loaded.model, left, batches, loss)
    return [square_in_groups(torch.cat(of_network)) for of_network in zip(*parts, strict=True)]


def square_in_groups(gradients: Tensor) -> Vector:
    """(K,) sum over groups of `GROUP` rows of the squared mean of (N, K) gradients, over 2 N."""
    means = [group.mean(dim=0) for group in torch.split(gradients, GROUP)]
    total: Vector = (torch.stack(means).square().sum(dim=0) / (2 * len(gradients))).numpy()
    return total


def _select(context: PruningContext, scores: Sequence[Vector], budget: int) -> NDArray[np.int64]:
    """Neurons of the current network, the first in `scores`."""
    if context.recipe.allocation == "global":
        return select_overall(scores, budget)[0]
    return select_top(scores[0], context.width)


def _tune(context: PruningContext, scratch: Scratch, place: int, kept: NDArray[np.int64]) -> Update:
    whole, pruned = context.feedforwards[place], scratch.feedforwards[place]
    batches = context.calibration.batches
    equations = sum_equations(
        lambda number: read_sublayer(context.loaded, whole, batches[number]),
        lambda number: read_sublayer(scratch.loaded, pruned, batches[number]),
        whole,
        kept,
        len(batches),
    )
    weight = solve_weights(equations)
    if weight is None:
        weight = whole.down_columns().cpu()[torch.from_numpy(kept)]
    return Update(weight.to(whole.dtype))


def solve_weights(equations: NormalEquations) -> torch.Tensor | None:
    """(k, H) float64, the shortest least-squares solution; None where there is none that is finite."""
    try:
        # not gelsy: torch hands it pivots that it never set, so that last digits, or ranks, differ from call to call
        found = torch.linalg.lstsq(equations.moments, equations.products, driver="gelsd").solution
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None
    return found if bool(torch.isfinite(found).all()) else None


def _open_scratch(context: PruningContext) -> Scratch:
    loaded = replace(context.loaded, model=copy.deepcopy(context.loaded.model))
    found = {ffn.path: ffn for ffn in find_feedforwards(loaded.model, loaded.family)}
    return Scratch(loaded, tuple(found[ffn.path] for ffn in context.feedforwards))


KPRUNE = Method(
    name="kprune",
    summary="most knowledge of prediction and representation, network after network, weights fitted",
    plan=plan_by_knowledge,
    needs=frozenset({"weights", "activations", "gradients"}),
    sees=frozenset({"dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
    corrects=True,
    measures_itself=True,
)
