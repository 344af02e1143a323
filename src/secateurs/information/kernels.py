"""Gaussian Gram matrices of single neurons, and the layer's own."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT_SPREAD = 1e-10
"""A neuron whose standard deviation is below this fraction of its largest activation counts as constant."""
MOST_ROW_PAIRS = 32768
"""Pairs of rows that widths are aligned on; 256 rows have fewer."""
LAYER_PAIRS_AT_ONCE = 512
"""Pairs of whole activation rows that are subtracted at once."""
PACKED_AT_ONCE = 16
"""Neurons whose Gram matrices are computed at once, few enough for a core's cache."""


def estimate_std(x: Tensor) -> Tensor:
    """Population standard deviation of each neuron, exactly 0 for a constant one.

    Args:
        x: (N, K) float64 or float32, activations.

    Returns:
        (K,) float, in the units of x.
    """
    std = x.std(dim=0, correction=0)
    floor = CONSTANT_SPREAD if x.dtype == torch.float64 else 1e-6
    return torch.where(std <= floor * x.abs().amax(dim=0), torch.zeros_like(std), std)


def pair_indices(rows: int, device: torch.device) -> Tensor:
    """(2, P) all pairs i < j of rows, P = rows (rows - 1) / 2."""
    return torch.triu_indices(rows, rows, offset=1, device=device)


def sample_pairs(rows: int, device: torch.device) -> Tensor:
    """(2, P) pairs of rows: all i < j where these are at most 32,768, else evenly spread ones, as many for each row."""
    if rows * (rows - 1) // 2 <= MOST_ROW_PAIRS:
        return pair_indices(rows, device)
    distances = torch.linspace(1, (rows - 1) // 2, MOST_ROW_PAIRS // rows, device=device).long()  # all different
    first = torch.arange(rows, device=device).expand(len(distances), rows)
    return torch.stack([first, (first + distances[:, None]) % rows]).flatten(1)


def neuron_grams(scaled: Tensor) -> Tensor:
    """Gaussian Gram matrix of each neuron.

    Args:
        scaled: (K, n) float, activations in units of their kernel widths.

    Returns:
        (K, n, n) float, exp(-(z_i - z_j)^2 / 2), ones on the diagonal.
    """
    return torch.exp(-0.5 * (scaled[:, :, None] - scaled[:, None, :]).square())  # (K, n, n)


def packed_grams(scaled: Tensor, dtype: torch.dtype) -> Tensor:
    """(K, n (n + 1) / 2) the lower triangles of the Gram matrices, row by row; computed in the dtype of `scaled`."""
    i, j = torch.tril_indices(scaled.shape[1], scaled.shape[1], device=scaled.device)
    packed = torch.empty(len(scaled), len(i), dtype=dtype, device=scaled.device)
    for start in range(0, len(scaled), PACKED_AT_ONCE):
        z = scaled[start : start + PACKED_AT_ONCE]
        packed[start : start + len(z)] = z[:, i].sub_(z[:, j]).square_().mul_(-0.5).exp_()
    return packed


def layer_gram_entries(x: Tensor, pairs: Tensor, *, gamma: float, scaled: bool) -> Tensor:
    """Off-diagonal entries of the Gram of whole activation rows under Scott's rule.

    Args:
        x: (n, K) float, activations.
        pairs: (2, P) int64, pairs of rows.
        gamma: factor on the width.
        scaled: multiply the width by the mean distance of the pairs, so that entries average about 0.61 (exp(-1/2))
            whatever the scale of the activations.

    Returns:
        (P,) float.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Eq. 4-5; sigma = gamma n^(-1/(4 + K)).
        Differs from the paper: `scaled`.
    """
    distances = torch.cat([(x[i] - x[j]).norm(dim=1) for i, j in torch.split(pairs, LAYER_PAIRS_AT_ONCE, dim=1)])
    width = scott_width(*x.shape, gamma=gamma)
    unit = distances.mean() if scaled else 1.0
    return torch.exp(-0.5 * (distances / (width * unit)).square())


def scott_width(rows: int, dimensions: int, *, gamma: float) -> float:
    """Scott's rule, gamma N^(-1/(4 + d)), in units of a standard deviation."""
    return float(gamma * rows ** (-1.0 / (4 + dimensions)))


def is_saturated(layer: Tensor, rows: int) -> bool:
    """Whether the layer's Gram is so near the identity that the narrowest width aligns best with it."""
    return bool(layer.mean() < 1.0 / (rows**0.5 + 1.0))
