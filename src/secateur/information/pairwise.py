"""Joint entropies of all pairs of neurons, in blocks, by two back ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from secateur.information.entropy import entropy_nats
from secateur.information.kernels import neuron_grams, pair_indices

EIGEN_BLOCK_BYTES = 1 << 28
"""Memory for the joint Gram matrices of one block of pairs."""
PRODUCT_CHUNK = 2048
"""Row pairs that go into one matrix product. Fixed: the order of sums must not depend on a setting."""

Tick = Callable[[int, int], None]


def joint_entropy_by_eigenvalues(x: Tensor, y: Tensor, width: Tensor, alpha: float, tick: Tick) -> Tensor:
    """Joint entropy of neuron k of x with neuron l of y, any alpha, by batched eigenvalues.

    Args:
        x: (n, K) float, activations.
        y: (n, K) float; x itself, or a shuffled copy. With x itself only pairs k <= l are computed.
        width: (K,) float, sigma.
        alpha: order of the entropy.
        tick: called as tick(pairs done, pairs in all).

    Returns:
        (K, K) float, nats.

    Cost:
        One n x n eigendecomposition a pair.
    """
    rows, neurons = x.shape
    joint = x.new_zeros(neurons, neurons)
    step = max(1, int((EIGEN_BLOCK_BYTES / (x.element_size() * rows * rows)) ** 0.5))
    done, total = 0, neurons * (neurons + 1) // 2 if y is x else neurons * neurons
    for a, b in _blocks(neurons, step, symmetric=y is x):
        grams_a, grams_b = neuron_grams(x[:, a], width[a]), neuron_grams(y[:, b], width[b])
        if y is x and a == b:
            i, j = torch.triu_indices(len(grams_a), len(grams_a), device=x.device)
        else:
            i, j = torch.cartesian_prod(
                torch.arange(len(grams_a), device=x.device), torch.arange(len(grams_b), device=x.device)
            ).T
        values = entropy_nats(grams_a[i] * grams_b[j], alpha)
        joint[a.start + i, b.start + j] = values
        if y is x:
            joint[b.start + j, a.start + i] = values
        done += len(i)
        tick(done, total)
    return joint


def joint_entropy_by_product(x: Tensor, y: Tensor, width: Tensor, alpha: float, tick: Tick) -> Tensor:
    """Joint entropy at alpha = 2, where all pairs are one matrix product.

    tr((A_k o A_l)^2) = vec(A_k o A_k) . vec(A_l o A_l): each neuron is a vector of its squared Gram entries, and the
    traces of all pairs are the Gram matrix of those vectors. Arguments and result as in `joint_entropy_by_eigenvalues`.

    Cost:
        n^2 K^2 / 2 multiply-adds. Sums are in the dtype of x within a chunk, float64 beyond.
    """
    if alpha != 2:
        raise ValueError(f"the product form holds for alpha = 2 only, got {alpha}")
    rows, neurons = x.shape
    total = torch.zeros(neurons, neurons, dtype=torch.float64, device=x.device)
    pairs = pair_indices(rows, x.device)
    chunks = torch.split(pairs, PRODUCT_CHUNK, dim=1)
    scaled_x, scaled_y = x / width, y / width
    for number, chunk in enumerate(chunks):
        squared = _squared_grams(scaled_x, chunk)  # (chunk, K)
        other = squared if y is x else _squared_grams(scaled_y, chunk)
        total += squared.T @ other
        tick(number + 1, len(chunks))
    return _entropy_of_purity(total, rows).to(x.dtype)


def marginal_entropy(x: Tensor, width: Tensor, alpha: float) -> Tensor:
    """Entropy of each neuron alone: (K,) float, nats."""
    rows, neurons = x.shape
    if alpha == 2:
        chunks = torch.split(pair_indices(rows, x.device), PRODUCT_CHUNK, dim=1)
        sums = [_squared_grams(x / width, chunk).sum(dim=0, dtype=torch.float64) for chunk in chunks]
        return _entropy_of_purity(torch.stack(sums).sum(dim=0), rows).to(x.dtype)
    step = max(1, EIGEN_BLOCK_BYTES // (x.element_size() * rows * rows))
    blocks = [slice(start, start + step) for start in range(0, neurons, step)]
    return torch.cat([entropy_nats(neuron_grams(x[:, b], width[b]), alpha) for b in blocks])


def _squared_grams(scaled: Tensor, pairs: Tensor) -> Tensor:
    """Squared Gram entries exp(-(z_i - z_j)^2) of each neuron at some pairs of rows: (P, K)."""
    z = scaled.index_select(0, pairs[0])
    return z.sub_(scaled.index_select(0, pairs[1])).square_().neg_().exp_()


def _entropy_of_purity(pair_sum: Tensor, rows: int) -> Tensor:
    """-log tr(A^2), where `pair_sum` sums the squared entries above the diagonal."""
    return -torch.log((rows + 2 * pair_sum) / rows**2)


def _blocks(neurons: int, step: int, *, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    slices = [slice(start, min(start + step, neurons)) for start in range(0, neurons, step)]
    if symmetric:
        yield from combinations_with_replacement(slices, 2)
        return
    for a in slices:
        for b in slices:
            yield a, b
