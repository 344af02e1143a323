"""OSSCAR: neurons removed one at a time, the others making up for each."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from secateurs.methods.contract import Method, PruningContext
from secateurs.models.feedforward import FeedForward
from secateurs.refit import refit_down
from secateurs.refitting import measure
from secateurs.results import LayerPlan
from secateurs.selection.elimination import order_removals
from secateurs.walking import PrunedStream

DAMPING = 0.01
"""Added to the diagonal of the second moments, in units of its mean."""


def plan_by_removal_cost(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Remove the neuron that costs the output least, given what is left, until the width is reached; then refit.

    Each network is measured where those before it are already pruned and refitted; the target is its own output there.

    Source:
        Meng et al., "OSSCAR: one-shot structured pruning in vision and language models with combinatorial
        optimization", ICML 2024. It prunes attention heads too; here FFN neurons only.
    """
    feedforwards, layers = context.feedforwards, list[LayerPlan]()
    stream = PrunedStream(context.loaded, feedforwards, context.calibration.batches, reads_all=True)

    def prune_network(ffn: FeedForward) -> LayerPlan:
        return remove_by_cost(ffn, measure(ffn, stream).second_moments, context.width)

    for place, ffn in enumerate(feedforwards):
        stream.go_to(ffn)
        layers.append(context.pieces.get(f"chosen-{place}", partial(prune_network, ffn)))
        stream.prune(layers[-1])
        context.progress("removing neurons", len(layers), len(feedforwards))
    return tuple(layers)


def remove_by_cost(ffn: FeedForward, moments: Tensor, width: int) -> LayerPlan:
    """One network with `width` neurons left, by the (K, K) float64 second moments of its activations."""
    columns, own = ffn.down_columns().to(moments.device), moments.diagonal()
    columns[own == 0] = 0  # of neurons that never fire
    damped = moments.clone()
    damped.diagonal().add_(DAMPING * own.mean().clamp(min=torch.finfo(torch.float64).tiny))
    gone = order_removals(damped, columns.double(), ffn.width - width).order
    kept = np.setdiff1d(np.arange(ffn.width), gone.cpu().numpy())
    update = refit_down(moments, columns, kept, ridge=DAMPING, is_isotropic=True, dtype=ffn.dtype)
    return LayerPlan(ffn.path, ffn.width, kept, update)


OSSCAR = Method(
    name="osscar",
    summary="neurons removed one at a time by what each costs the output, the others making up for it",
    plan=plan_by_removal_cost,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"duplicates", "dead neurons"}),
    corrects=True,
    measures_itself=True,
)
