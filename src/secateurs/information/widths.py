"""Kernel widths of single neurons: by alignment with the layer's kernel, or given."""

from __future__ import annotations

import torch
from torch import Tensor

WIDEST = 16.0
"""Largest r = sigma / std that alignment tries."""
HALVINGS = 18
"""Coarse grid: r = WIDEST / sqrt(2)^j for j = 0..HALVINGS, that is down to 0.031, where MI says nothing more."""
RESTART = 6
"""Squarings after which the exponential is computed afresh, so that rounding errors do not pile up."""
BLOCK_BYTES = 1 << 22
"""Memory for the Gram entries of one block of neurons, small enough for a core's cache. Fixed, as sums depend on it."""
FINE_STEP = 0.125
"""Spacing of the refining step, in octaves of r."""


def align_widths(x: Tensor, std: Tensor, pairs: Tensor, layer: Tensor) -> Tensor:
    """Width of each neuron, r = sigma / std, whose Gram aligns best with the layer's.

    The alignment <L, K> / (|L| |K|) is maximised over a grid of 19 widths, half an octave apart, then refined by two
    parabolas in log r. The grid is nearly free: squaring a Gaussian Gram entry by entry divides sigma by sqrt 2, and
    |K_sigma|^2 is the sum of K_{sigma / sqrt 2}.

    Args:
        x: (n, K) float, activations.
        std: (K,) float, 0 for constant neurons.
        pairs: (2, P) int64, pairs of rows.
        layer: (P,) float, entries of the layer's Gram at these pairs.

    Returns:
        (K,) float, r in [0.031, 16]; 0 for constant neurons.

    Cost:
        About 25 passes over P entries a neuron.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Eq. 6-7.
    """
    first, second = pairs
    off_diagonal = len(x) * (len(x) - 1) / pairs.shape[1]  # entries that one of the pairs stands for
    scaled = (x / torch.where(std > 0, std, torch.ones_like(std))).T.contiguous()  # (K, n)
    step = max(1, BLOCK_BYTES // (len(first) * x.element_size()))
    blocks = [
        _align_block(z[:, first].sub_(z[:, second]), layer, len(x), off_diagonal) for z in torch.split(scaled, step)
    ]
    ratio = torch.cat(blocks)
    return torch.where(std > 0, ratio, torch.zeros_like(ratio))


def _align_block(differences: Tensor, layer: Tensor, rows: int, off_diagonal: float) -> Tensor:
    exponents = differences.square_().mul_(-0.5)  # (b, P); fresh memory is dear here, so work goes on in place
    gram = torch.empty_like(exponents)
    against = torch.stack([layer, torch.ones_like(layer)]) * off_diagonal  # (2, P)
    curve = []
    for j in range(HALVINGS + 2):
        if j % RESTART == 0:
            torch.mul(exponents, 2.0**j / WIDEST**2, out=gram).exp_()
        else:
            gram.square_()
        curve.append(rows + torch.nn.functional.linear(gram, against))  # (b, 2): <L, K> and the sum of K
    sums = torch.stack(curve)  # (HALVINGS + 2, b, 2)
    alignment = sums[:-1, :, 0] / sums[1:, :, 1].sqrt()  # (HALVINGS + 1, b)
    best = alignment.argmax(dim=0)
    inside = best.clamp(1, HALVINGS - 1)
    coarse = torch.stack([alignment.gather(0, (inside + s)[None])[0] for s in (-1, 0, 1)])
    octave = -0.5 * (inside + _vertex(coarse))  # log2(r / WIDEST)
    fine = []
    for s in (-1, 0, 1):
        r = WIDEST * torch.exp2(octave - FINE_STEP * s)
        torch.div(exponents, r.square()[:, None], out=gram).exp_()
        product = rows + gram @ against[0]
        fine.append(product / (rows + gram.square_() @ against[1]).sqrt())
    octave = octave - FINE_STEP * _vertex(torch.stack(fine))
    return WIDEST * torch.exp2(torch.where(best == inside, octave, -0.5 * best))


def _vertex(around: Tensor) -> Tensor:
    """Where the parabola through three equidistant values peaks, in steps from the middle, within [-1, 1]."""
    left, middle, right = around
    curvature = left - 2 * middle + right
    shift = 0.5 * (left - right) / torch.where(curvature < 0, curvature, -torch.ones_like(curvature))
    return torch.where(curvature < 0, shift.clamp(-1, 1), torch.zeros_like(shift))
