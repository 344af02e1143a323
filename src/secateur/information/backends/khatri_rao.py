"""Pure torch, CPU or CUDA: Khatri-Rao products of low-rank features, log-determinants by Cholesky factors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.information.backends.contract import (
    EXACT_BOUND_NATS,
    LOW_RANK_SHIFT,
    MOST_MISSING,
    Backend,
    JointBlock,
    Path,
    entropy_of_traces,
)
from secateur.information.backends.eigenvalues import entropy_of_pairs
from secateur.information.entropy import entropy_of_spectrum
from secateur.information.features import Features
from secateur.information.neurons import Neurons, find_smallest_product
from secateur.information.rational import RationalFit, fit_entropy

FEATURE_BOUND_NATS = 2e-6
"""Bound on the error that float32 features leave above alpha = 2; 1.5e-7 was seen."""
TILE = 32
"""Neurons on each side of a tile, which shares one list of products; neurons come sorted by rank."""


Solver = Callable[[Neurons, Neurons, Tensor, float], Tensor]
"""solve(a, b, pairs, alpha): (M,) joint entropies of some pairs (M, 2) from whole Gram matrices, in float64."""


def joint_by_khatri_rao(
    a: Neurons, b: Neurons, alpha: float, triangle: bool, solve: Solver = entropy_of_pairs
) -> JointBlock:
    """Joint entropies of a block.

    The entrywise product of F F' and G G' is X X', where the columns of X are products of a column of F and one of G;
    those with large enough eigenvalues stay, and X' X is small. Pairs that need too many products, or miss too much
    trace, are left to `solve`.

    Cost:
        n R^2 / 2 multiply-adds a pair for R products, and R^3 / 6 for each of 16 log-determinants.
    """
    entropy, bound = a.scaled.new_zeros(len(a), len(b)), a.scaled.new_zeros(len(a), len(b))
    undone = torch.ones_like(entropy, dtype=torch.bool)
    for i in range(0, len(a), TILE):
        for j in range(i if triangle else 0, len(b), TILE):
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            left, right = a.features.select(rows), b.features.select(columns)
            found = _low_rank_tile(left, right, alpha)
            if found is not None:
                entropy[rows, columns], bound[rows, columns], missing = found
                undone[rows, columns] = missing > MOST_MISSING
    path = torch.where(undone, Path.FLOAT64, Path.LOW_RANK).to(torch.uint8)
    rest = (undone.triu() if triangle else undone).nonzero()  # (M, 2)
    if len(rest):
        entropy[rest[:, 0], rest[:, 1]] = solve(a, b, rest, alpha)
        bound[rest[:, 0], rest[:, 1]] = EXACT_BOUND_NATS
    return JointBlock(entropy, bound, path)


def _low_rank_tile(a: Features, b: Features, alpha: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """Entropy, bound and missing trace of a tile, or None where whole Gram matrices cost less."""
    rows = a.values.shape[1]
    largest = torch.outer(a.spectrum.amax(dim=0), b.spectrum.amax(dim=0))
    first, second = (largest >= find_smallest_product(rows)).nonzero().T
    count = len(first)
    if count >= rows:
        return None
    x = a.values[:, None, :, first] * b.values[None, :, :, second]  # (Ka, Kb, n, R)
    x = x.double().flatten(0, 1)
    gram = (x.mT @ x / rows).view(len(a.spectrum), -1, count, count)  # (Ka, Kb, R, R)
    missing = 1 - gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    if alpha > 2:
        values = torch.linalg.eigvalsh(gram).clamp_(min=0)
        lost = alpha * missing.clamp(min=0) * values[..., -1] ** (alpha - 1) / values.pow(alpha).sum(-1)
        return entropy_of_spectrum(values, alpha), lost / (alpha - 1) + FEATURE_BOUND_NATS, missing
    fit = fit_entropy(alpha, LOW_RANK_SHIFT)
    loss = _trace_of_fit(gram, fit)
    return (*entropy_of_traces(loss, missing, fit.trace_error(count), alpha=alpha, rows=rows), missing)


def _trace_of_fit(gram: Tensor, fit: RationalFit) -> Tensor:
    """(...) trace of the fit over (..., R, R) float64 matrices, by one Cholesky factor a shift."""
    size = gram.shape[-1]
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    linear, quadratic = fit.coefficients[-2:].tolist()
    total: Tensor = linear * trace + quadratic * gram.square().sum((-2, -1))
    identity = torch.eye(size, dtype=gram.dtype, device=gram.device)
    for shift, coefficient in zip(fit.shifts.tolist(), fit.coefficients.tolist(), strict=False):
        factor, _ = torch.linalg.cholesky_ex(gram / shift + identity)
        total += 2 * coefficient * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return total


KHATRI_RAO = Backend(
    "torch",
    joint_by_khatri_rao,
    uses_features=True,
    refuses=lambda alpha, device: None if alpha >= 1 else f"needs alpha of at least 1, got {alpha}",
)
