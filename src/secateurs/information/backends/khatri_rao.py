"""Pure torch, CPU or CUDA: Khatri-Rao products of low-rank features.

What they span has its entropy from eigenvalues on the CPU, where 16 Cholesky factors cost more, and from the
log-determinants of those factors on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor

from secateurs.information.backends.contract import (
    EXACT_BOUND_NATS,
    LOW_RANK_SHIFT,
    MOST_MISSING,
    Backend,
    JointBlock,
    Path,
    entropy_of_traces,
)
from secateurs.information.entropy import entropy_of_spectrum, loss_of_spectrum
from secateurs.information.features import Features
from secateurs.information.neurons import Neurons, find_smallest_product, solve_pairs
from secateurs.information.rational import RationalFit, fit_entropy

FEATURE_BOUND_NATS = 2e-6
"""Bound on the error that float32 features leave above alpha = 2; 1.5e-7 was seen."""
MOST_TILE = 32
"""Neurons on each side of a tile at most; a tile shares one list of products, and neurons come sorted by rank."""
TILE_ENTRIES = 2**26
"""Features of a tile's pairs at most, where each pair needs as many as there are rows."""


Solver = Callable[[Neurons, Neurons, Tensor, float], Tensor]
"""solve(a, b, pairs, alpha): (M,) joint entropies of some pairs (M, 2), exact."""


def joint_by_khatri_rao(
    a: Neurons, b: Neurons, alpha: float, triangle: bool, solve: Solver = solve_pairs
) -> JointBlock:
    """Joint entropies of a block.

    The entrywise product of F F' and G G' is X X', where the columns of X are products of a column of F and one of G;
    those with large enough eigenvalues stay, and X' X is small. Pairs that need too many products, or miss too much
    trace, are left to `solve`.

    Cost:
        n R^2 multiply-adds a pair for R products, and then R^3 times 4 / 3 (eigenvalues) or 16 / 6 (Cholesky factors).
    """
    entropy, bound = a.scaled.new_zeros(len(a), len(b)), a.scaled.new_zeros(len(a), len(b))
    undone = torch.ones_like(entropy, dtype=torch.bool)
    tile = min(max(isqrt(TILE_ENTRIES) // a.scaled.shape[1], 1), MOST_TILE)
    for i in range(0, len(a), tile):
        for j in range(i if triangle else 0, len(b), tile):
            rows, columns = slice(i, i + tile), slice(j, j + tile)
            left, right = a.features.select(rows), b.features.select(columns)
            entropy[rows, columns], bound[rows, columns], undone[rows, columns] = _low_rank_tile(left, right, alpha)
    path = torch.where(undone, Path.FLOAT64, Path.LOW_RANK).to(torch.uint8)
    rest = (undone.triu() if triangle else undone).nonzero()  # (M, 2)
    if len(rest):
        entropy[rest[:, 0], rest[:, 1]] = solve(a, b, rest, alpha)
        bound[rest[:, 0], rest[:, 1]] = EXACT_BOUND_NATS
    return JointBlock(entropy, bound, path)


def _low_rank_tile(a: Features, b: Features, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy and bound of a tile, and which of its pairs are undone, as whole Gram matrices serve them better."""
    rows, shape = a.values.shape[1], (len(a.spectrum), len(b.spectrum))
    entropy, bound = a.values.new_zeros((2, *shape), dtype=torch.float64)
    undone = torch.ones(shape, dtype=torch.bool, device=a.values.device)
    largest = torch.outer(a.spectrum.amax(dim=0), b.spectrum.amax(dim=0))
    first, second = (largest >= find_smallest_product(rows)).nonzero().T
    if len(first) < rows:
        x = a.values[:, None, :, first] * b.values[None, :, :, second] / rows**0.5  # (Ka, Kb, n, R)
        missing = 1 - x.square().sum((-2, -1), dtype=torch.float64)
        done = missing <= MOST_MISSING
        entropy[done], bound[done] = _low_rank_entropy(x[done].double(), missing[done], alpha)
        undone = ~done
    return entropy, bound, undone


def _low_rank_entropy(x: Tensor, missing: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Entropy and bound of (M, n, R) features of joint Gram matrices, of whose trace (M,) is missing."""
    _, rows, count = x.shape
    gram = x.mT @ x  # (M, R, R)
    if gram.is_cuda and alpha <= 2:
        fit = fit_entropy(alpha, LOW_RANK_SHIFT)
        return entropy_of_traces(_trace_of_fit(gram, fit), missing, fit.trace_error(count), alpha=alpha, rows=rows)
    values = torch.linalg.eigvalsh(gram).clamp_(min=0)
    if alpha <= 2:
        return entropy_of_traces(loss_of_spectrum(values, alpha), missing, 0.0, alpha=alpha, rows=rows)
    lost = alpha * missing.clamp(min=0) * values[..., -1] ** (alpha - 1) / values.pow(alpha).sum(-1)
    return entropy_of_spectrum(values, alpha), lost / (alpha - 1) + FEATURE_BOUND_NATS


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
