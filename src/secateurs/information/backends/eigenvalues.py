"""The plain reference: one float64 eigendecomposition a pair, any alpha."""

from __future__ import annotations

import torch
from torch import Tensor

from secateurs.information.backends.contract import Backend, JointBlock, exact_block
from secateurs.information.entropy import entropy_nats
from secateurs.information.kernels import neuron_grams
from secateurs.information.neurons import Neurons

BATCH_BYTES = 1 << 22
"""Memory for the joint Gram matrices of one call of the solver."""


def joint_by_eigenvalues(a: Neurons, b: Neurons, alpha: float, triangle: bool) -> JointBlock:
    """Joint entropies of a block. Cost: one n x n eigendecomposition a pair."""
    entropy = a.scaled.new_zeros(len(a), len(b))
    wanted = torch.ones_like(entropy, dtype=torch.bool)
    pairs = (wanted.triu() if triangle else wanted).nonzero()  # (M, 2)
    entropy[pairs[:, 0], pairs[:, 1]] = entropy_of_pairs(a, b, pairs, alpha)
    return exact_block(entropy)


def entropy_of_pairs(a: Neurons, b: Neurons, pairs: Tensor, alpha: float) -> Tensor:
    """(M,) joint entropies of some pairs (M, 2): a neuron of `a` and one of `b`."""
    step = max(1, BATCH_BYTES // (8 * a.rows * a.rows))
    return torch.cat(
        [
            entropy_nats(neuron_grams(a.scaled[some[:, 0]]).mul_(neuron_grams(b.scaled[some[:, 1]])), alpha)
            for some in torch.split(pairs, step)
        ]
    )


EIGENVALUES = Backend("eigenvalues", joint_by_eigenvalues, uses_features=False, refuses=lambda alpha, device: None)
