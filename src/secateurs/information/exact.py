"""Entropies of Gaussian Gram matrices in float64, over few rows or many."""

from __future__ import annotations

import torch
from torch import Tensor

from secateurs.information.entropy import entropy_nats, entropy_of_spectrum
from secateurs.information.features import EXACT, factor_gaussian_grams

FEW_ROWS = 200
"""Rows up to which a whole Gram matrix is cheap."""
GRAM_BYTES = 1 << 22
"""Memory for the Gram matrices of one call of the solver: fresh memory is dear, so it stays within a cache."""
FACTORED_ROWS = 1 << 13
"""Rows of all matrices that are factored together; that of highest rank decides how far."""


def exact_entropy(points: Tensor, alpha: float) -> Tensor:
    """Entropy of the Gaussian Gram matrix of each set of points, as exact as float64 eigenvalues.

    Over few rows, and for alpha < 1, from eigenvalues of the Gram matrix. Over many, from those of its pivoted Cholesky
    factor to a missing trace of 1e-12, as a Gaussian Gram on one or two variables is of low rank; unless its rank turns
    out to be above half the rows.

    Args:
        points: (M, d, n) float64, n points in d dimensions in units of the kernel width. A neuron's activations have
            d = 1; those of two neurons d = 2, whose Gram is the entrywise product of theirs.
        alpha: order of the entropy, above 0.

    Returns:
        (M,) float64, nats.

    Cost:
        n m^2 multiply-adds a matrix of rank m (for two neurons 20 to 90 at r of 6 to 2), else an n x n
        eigendecomposition.
    """
    rows = points.shape[2]
    if rows <= FEW_ROWS or alpha < 1:
        return _by_eigenvalues(points, alpha)
    step = max(1, FACTORED_ROWS // rows)
    entropy = torch.cat([_by_factors(some, alpha) for some in torch.split(points, step)])
    undone = entropy.isnan()
    if bool(undone.any()):
        entropy[undone] = _by_eigenvalues(points[undone], alpha)
    return entropy


def _by_eigenvalues(points: Tensor, alpha: float) -> Tensor:
    step = max(1, GRAM_BYTES // (8 * points.shape[2] ** 2))
    return torch.cat([entropy_nats(_gaussian_grams(some), alpha) for some in torch.split(points, step)])


def _gaussian_grams(points: Tensor) -> Tensor:
    """(M, n, n) Gram matrices of (M, d, n) points."""
    exponents = (points[:, 0, :, None] - points[:, 0, None, :]).square_()
    for axis in points.unbind(1)[1:]:
        exponents += (axis[:, :, None] - axis[:, None, :]).square_()
    return exponents.mul_(-0.5).exp_()


def _by_factors(points: Tensor, alpha: float) -> Tensor:
    """(M,) entropies, NaN where the rank is above half the rows."""
    rows = points.shape[2]
    factor, missing = factor_gaussian_grams(points, rows // 2)
    values = torch.linalg.eigvalsh(factor @ factor.mT / rows).clamp_(min=0)
    return entropy_of_spectrum(values, alpha).clamp_(min=0).masked_fill_(missing > EXACT, torch.nan)
