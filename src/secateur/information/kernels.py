"""Gaussian Gram matrices of single neurons, and the layer's own."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT_SPREAD = 1e-10
"""A neuron whose standard deviation is below this fraction of its largest activation counts as constant."""


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
    """(2, P) all pairs i < j of rows, P = rows (rows - 1) / 2, in the order of `torch.pdist`."""
    return torch.triu_indices(rows, rows, offset=1, device=device)


def neuron_grams(x: Tensor, width: Tensor) -> Tensor:
    """Gaussian Gram matrix of each neuron.

    Args:
        x: (n, K) float, activations.
        width: (K,) float, sigma; infinite gives the all-ones Gram of a constant neuron.

    Returns:
        (K, n, n) float, exp(-(x_i - x_j)^2 / (2 sigma^2)), ones on the diagonal.
    """
    z = (x / width).T  # (K, n)
    return torch.exp(-0.5 * (z[:, :, None] - z[:, None, :]).square())  # (K, n, n)


def layer_gram_pairs(x: Tensor, *, gamma: float, scaled: bool) -> Tensor:
    """Off-diagonal entries of the Gram of whole activation rows under Scott's rule.

    Args:
        x: (n, K) float, activations.
        gamma: factor on the width.
        scaled: multiply the width by the mean pairwise distance of the rows, so that entries average about 0.61
            (exp(-1/2)) whatever the scale of the activations.

    Returns:
        (P,) float, pairs i < j.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Eq. 4-5; sigma = gamma n^(-1/(4 + K)).
        Differs from the paper: `scaled`.
    """
    distances = torch.pdist(x)  # (P,)
    width = scott_width(*x.shape, gamma=gamma)
    unit = distances.mean() if scaled else 1.0
    return torch.exp(-0.5 * (distances / (width * unit)).square())


def scott_width(rows: int, dimensions: int, *, gamma: float) -> float:
    """Scott's rule, gamma N^(-1/(4 + d)), in units of a standard deviation."""
    return float(gamma * rows ** (-1.0 / (4 + dimensions)))


def is_saturated(layer_pairs: Tensor, rows: int) -> bool:
    """Whether the layer's Gram is so near the identity that the narrowest width aligns best with it."""
    return bool(layer_pairs.mean() < 1.0 / (rows**0.5 + 1.0))
