"""Low-rank features of single neurons: a Gaussian Gram matrix on one variable has a fast-falling spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_FEATURES = 48
"""Features a neuron at most; neurons that need more are worked on by whole Gram matrices."""
EXACT = 1e-12
"""Trace (of 1) that may be missing from features that count as exact."""
BLOCK_BYTES = 1 << 22
"""Memory for the factors of one block of neurons."""
FIRST_COLUMNS = 48
"""Columns that a factor has room for at first; the room doubles as it fills."""
COLUMNS_BETWEEN_CHECKS = 4


@dataclass(frozen=True, slots=True)
class Features:
    """F with F F' ~ Gram, for a block of neurons."""

    values: Tensor
    """(K, n, r) float32: column a is sqrt(n lambda_a) times the a-th eigenvector; small eigenvalues are left out."""
    spectrum: Tensor
    """(K, r) float32, descending: eigenvalues of Gram / n; 0 beyond a neuron's own rank."""

    @property
    def rank(self) -> Tensor:
        """(K,) int64, features of each neuron."""
        return (self.spectrum > 0).sum(dim=1)

    def select(self, chosen: Tensor | slice) -> Features:
        """Some of the neurons, with only as many features as these have."""
        spectrum = self.spectrum[chosen]
        widest = int((spectrum > 0).any(dim=0).sum())
        return Features(self.values[chosen][:, :, :widest].contiguous(), spectrum[:, :widest].contiguous())

    def reorder_rows(self, order: Tensor) -> Features:
        """Rows of each neuron in another order, (K, n) int64."""
        return Features(self.values.gather(1, order[:, :, None].expand_as(self.values)), self.spectrum)


def no_features(scaled: Tensor) -> Features:
    """Features without columns, for (K, n) neurons."""
    return Features(scaled.new_empty(*scaled.shape, 0).float(), scaled.new_empty(len(scaled), 0).float())


def factor_grams(scaled: Tensor, smallest: float) -> tuple[Features, Tensor, Tensor]:
    """Features of each neuron, and its whole spectrum.

    A pivoted Cholesky factorisation takes the row with the largest remainder until the trace that is missing is under
    1e-12; the few columns are then turned into eigenvectors. No n x n matrix is formed.

    Args:
        scaled: (K, n) float64, activations over kernel widths.
        smallest: eigenvalues of Gram / n under this are left out of the features.

    Returns:
        Features; (K, m) float64, the eigenvalues; (K,) bool, whether the eigenvalues are the whole spectrum to 1e-12.

    Cost:
        n r^2 multiply-adds a neuron.
    """
    step = max(1, BLOCK_BYTES // (8 * scaled.shape[1] * min(MOST_FEATURES, scaled.shape[1])))
    parts = [_factor_block(block, smallest) for block in torch.split(scaled, step)]
    widest = max(part.spectrum.shape[1] for part, _, _ in parts)
    longest = max(values.shape[1] for _, values, _ in parts)
    features = Features(
        torch.cat([_widen(part.values, widest) for part, _, _ in parts]),
        torch.cat([_widen(part.spectrum, widest) for part, _, _ in parts]),
    )
    return features, torch.cat([_widen(v, longest) for _, v, _ in parts]), torch.cat([whole for _, _, whole in parts])


def _factor_block(scaled: Tensor, smallest: float) -> tuple[Features, Tensor, Tensor]:
    n = scaled.shape[1]
    factor, missing = factor_gaussian_grams(scaled[:, None], MOST_FEATURES)  # (b, m, n)
    values, vectors = torch.linalg.eigh(factor @ factor.mT / n)
    values = values.flip(-1).clamp_(min=0)  # (b, m)
    rank = max(1, int((values >= smallest).sum(dim=1).max()))
    kept = torch.where(values >= smallest, values, torch.zeros_like(values))[:, :rank]
    features = Features((factor.mT @ vectors.flip(-1)[:, :, :rank]).float(), kept.float())
    return features, values, missing <= EXACT


def factor_gaussian_grams(points: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Pivoted Cholesky factors of Gaussian Gram matrices, which are not formed.

    Args:
        points: (b, d, n) float64, n points in d dimensions, in units of the kernel width: one neuron's activations
            have d = 1; the entrywise product of two neurons' Gram matrices is the Gram of d = 2.
        most: columns of the factor at most.

    Returns:
        (b, m, n) factors F with F' F ~ Gram, m large enough for all; (b,) the trace (of 1) that is missing, at most
        1e-12 unless m = `most`.

    Cost:
        n m^2 multiply-adds each.
    """
    b, dimensions, n = points.shape
    most = min(most, n)
    factor = points.new_zeros(b, min(most, FIRST_COLUMNS), n)
    remainder = points.new_ones(b, n)
    count = 0
    while count < most:
        if count == factor.shape[1]:
            factor = torch.cat([factor, factor.new_zeros(b, min(count, most - count), n)], dim=1)
        largest, pivot = remainder.max(dim=1, keepdim=True)  # (b, 1)
        at_pivot = points.gather(2, pivot[:, None].expand(b, dimensions, 1))
        column = torch.exp(-0.5 * (points - at_pivot).square().sum(dim=1))
        if count:
            row = factor[:, :count].gather(2, pivot[:, None].expand(b, count, 1))  # (b, count, 1)
            column -= (row.mT @ factor[:, :count])[:, 0]
        column *= torch.where(largest > EXACT / n, largest.clamp(min=EXACT / n).rsqrt(), 0.0)
        factor[:, count] = column
        count += 1
        remainder = (remainder - column.square()).clamp_(min=0).scatter_(1, pivot, 0.0)
        if count % COLUMNS_BETWEEN_CHECKS == 0 and bool((remainder.mean(dim=1) <= EXACT).all()):
            break
    return factor[:, :count], remainder.mean(dim=1)


def _widen(values: Tensor, width: int) -> Tensor:
    """Zeros appended to the last dimension."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))
