"""OSSCAR: neurons removed one at a time, the others making up for each."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.methods.contract import Method, PruningContext
from secateur.refit import refit_down
from secateur.results import LayerPlan
from secateur.selection.elimination import order_removals

DAMPING = 0.01
"""Added to the diagonal of the second moments, in units of its mean."""


def plan_by_removal_cost(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Remove the neuron that costs the output least, given what is left, until the width is reached; then refit.

    Source:
        Meng et al., "OSSCAR: one-shot structured pruning in vision and language models with combinatorial
        optimization", ICML 2024. It prunes attention heads too; here FFN neurons only.
    """
    kept, updates = [], []
    for place, ffn in enumerate(context.feedforwards):
        gone = find_removals(context, place, ffn.width - context.width)
        kept.append(np.setdiff1d(np.arange(ffn.width), gone))
        columns = _live_columns(context, place)
        moments = context.second_moments(place)
        updates.append(refit_down(moments, columns, kept[-1], ridge=DAMPING, is_isotropic=True, dtype=ffn.dtype))
        context.progress("removing neurons", place + 1, len(context.feedforwards))
    return context.plan(kept, updates)


def find_removals(context: PruningContext, place: int, count: int) -> NDArray[np.int64]:
    """(count,) neurons of network `place` in the order of their removal; a longer order found before serves again."""
    known = context.once(("removals", place), dict[int, NDArray[np.int64]])
    longest = max(known, default=-1)
    if longest < count:
        moments = context.second_moments(place).clone()
        moments.diagonal().add_(DAMPING * moments.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny))
        known[count] = order_removals(moments, _live_columns(context, place).double(), count).order.numpy()
        longest = count
    return known[longest][:count]


def _live_columns(context: PruningContext, place: int) -> torch.Tensor:
    """(K, H) the down projection, 0 for neurons that never fire."""
    columns = context.down_columns(place).cpu()
    columns[context.second_moments(place).diagonal() == 0] = 0
    return columns


OSSCAR = Method(
    name="osscar",
    summary="neurons removed one at a time by what each costs the output, the others making up for it",
    plan=plan_by_removal_cost,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"duplicates", "dead neurons"}),
    corrects=True,
    uses_second_moments=True,
)
