"""Removing neurons one at a time, each the one that costs the layer's output least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32
"""Removals that are gathered before the matrices are brought up to date."""
TIE = 1e-9
"""Costs so near to the least, in units of it, count as equal to it: those of exact copies differ by rounding alone."""


@dataclass(frozen=True, slots=True)
class Removals:
    """Neurons in the order of their removal, and what each cost."""

    order: Tensor
    """(count,) int64."""
    costs: Tensor
    """(count,) float64, rise of the output's mean squared error, as these moments have it, when the neuron went."""


def order_removals(moments: Tensor, columns: Tensor, count: int) -> Removals:
    """The first `count` neurons to remove.

    Each step removes the neuron j with the least |W_j|^2 / (H^-1)_jj, the rise in the output's mean squared error when
    the others make up for it as well as they can, and lets them do so: W -= (H^-1)_:j W_j / (H^-1)_jj, and the same for
    H^-1. Of equals the lower index goes first.

    Args:
        moments: (K, K) float64, H, positive definite.
        columns: (K, H) float64, W.
        count: neurons to remove, at most K.

    Cost:
        K^3 for the inverse, and count K (K + 2 H) multiply-adds. Steps are gathered in blocks (a lazy form of Gaussian
        elimination on [H^-1 W]), so that both matrices are rewritten once a block.

    Source:
        Meng et al., "OSSCAR: one-shot structured pruning in vision and language models with combinatorial
        optimization", ICML 2024; the cost is that of the optimal brain surgeon.
    """
    inverse, weight = torch.cholesky_inverse(torch.linalg.cholesky(moments)), columns.clone()
    left = torch.arange(len(weight), device=weight.device)
    order, costs = left[:0], weight.new_zeros(0)
    while len(order) < count:
        gone, factors, rows = _eliminate(inverse, weight, min(BLOCK, count - len(order)))
        order, costs = torch.cat([order, left[gone]]), torch.cat([costs, rows.square().sum(dim=1)])
        stay = torch.ones(len(left), dtype=torch.bool, device=left.device)
        stay[gone] = False
        inverse, weight = inverse[stay][:, stay], weight[stay]
        inverse.addmm_(factors[stay], factors[stay].T, alpha=-1)
        weight.addmm_(factors[stay], rows, alpha=-1)
        left = left[stay]
    return Removals(order, costs)


def _eliminate(inverse: Tensor, weight: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """(steps,) neurons to remove, with L and M: H^-1 becomes H^-1 - L L^T, and W becomes W - L M.

    Which neuron goes stays on the device: it is never asked for, so that a GPU does not wait at each step.
    """
    factors = weight.new_zeros(len(weight), steps)
    rows = weight.new_zeros(steps, weight.shape[1])
    diagonal, squares = inverse.diagonal().clone(), weight.square().sum(dim=1)
    gone = torch.zeros(steps, dtype=torch.int64, device=weight.device)
    is_gone = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    for step in range(steps):
        costs = (squares / diagonal).masked_fill(is_gone, torch.inf)
        least = costs.min()
        j = (costs <= least + TIE * least.abs()).int().argmax().view(1)  # the first
        before, scale = factors[:, :step], diagonal[j].rsqrt()
        own = before[j][0]  # (step,)
        factor = (inverse[:, j][:, 0] - before @ own) * scale  # (K,)
        row = (weight[j][0] - own @ rows[:step]) * scale  # (H,)
        along = weight @ row - before @ (rows[:step] @ row)  # (K,), W now times the row
        squares += factor * (factor * (row @ row) - 2 * along)
        diagonal -= factor.square()
        factors[:, step], rows[step], gone[step] = factor, row, j[0]
        is_gone.index_fill_(0, j, True)
    return gone, factors, rows
