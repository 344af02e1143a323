"""alpha = 2, where all pairs are one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from secateurs.information.backends.contract import Backend, JointBlock, Path
from secateurs.information.kernels import pair_indices
from secateurs.information.neurons import Neurons

CHUNK = 2048
"""Row pairs that go into one matrix product. Fixed: the order of sums must not depend on a setting."""


def joint_by_product(a: Neurons, b: Neurons, alpha: float, triangle: bool) -> JointBlock:
    """Joint entropies of a block at alpha = 2.

    tr((A_k o A_l)^2) = vec(A_k o A_k) . vec(A_l o A_l): each neuron is a vector of its squared Gram entries, and the
    traces of all pairs are the Gram matrix of those vectors.

    Cost:
        n^2 / 2 multiply-adds a pair, in float32 within a chunk of row pairs, float64 beyond.
    """
    total = a.scaled.new_zeros(len(a), len(b))
    z, y = a.scaled.T.float(), b.scaled.T.float()  # (n, K)
    for chunk in torch.split(pair_indices(a.rows, z.device), CHUNK, dim=1):
        squared = _squared_grams(z, chunk)  # (chunk, Ka)
        total += squared.T @ (squared if triangle else _squared_grams(y, chunk))
    purity = (a.rows + 2 * total) / a.rows**2
    bound = torch.full_like(total, 4 * CHUNK**0.5 * torch.finfo(torch.float32).eps)  # positive terms, random rounding
    return JointBlock(-torch.log(purity), bound, torch.full_like(total, Path.FULL, dtype=torch.uint8))


def _squared_grams(scaled: Tensor, pairs: Tensor) -> Tensor:
    """Squared Gram entries exp(-(z_i - z_j)^2) of each neuron at some pairs of rows: (P, K)."""
    z = scaled.index_select(0, pairs[0])
    return z.sub_(scaled.index_select(0, pairs[1])).square_().neg_().exp_()


PRODUCT = Backend(
    "product",
    joint_by_product,
    uses_features=False,
    refuses=lambda alpha, device: None if alpha == 2 else f"needs alpha = 2, got {alpha}",
)
