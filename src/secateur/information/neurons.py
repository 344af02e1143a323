"""Neurons made ready for pairing: activations in units of their kernel widths, entropies, low-rank features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.information.entropy import entropy_nats, entropy_of_spectrum
from secateur.information.features import Features, factor_grams, no_features
from secateur.information.kernels import neuron_grams

GRAM_BYTES = 1 << 28
"""Memory for the Gram matrices of one block."""
CHEAP_ROWS = 200
"""Rows up to which a whole Gram matrix is cheap, so that the few pairs that miss much may well be done on one."""


@dataclass(frozen=True, slots=True)
class Neurons:
    """K neurons measured on n rows."""

    scaled: Tensor
    """(K, n) float64: activation / sigma, 0 for a constant neuron."""
    entropy_nats: Tensor
    """(K,) float64, entropy of each alone, to 1e-9."""
    features: Features
    """Low-rank features of each; with no columns where the back end doesn't use them."""

    @property
    def rows(self) -> int:
        """N."""
        return self.scaled.shape[1]

    def __len__(self) -> int:
        return len(self.scaled)

    def select(self, chosen: Tensor | slice) -> Neurons:
        """Some of the neurons, with only as many features as these have."""
        return Neurons(self.scaled[chosen], self.entropy_nats[chosen], self.features.select(chosen))

    def shuffle(self, generator: torch.Generator) -> Neurons:
        """A copy in which each neuron's rows are permuted on their own, so that no neuron depends on another."""
        order = torch.rand(self.scaled.shape, generator=generator, dtype=torch.float64).argsort(dim=1)
        order = order.to(self.scaled.device)
        return Neurons(self.scaled.gather(1, order), self.entropy_nats, self.features.reorder_rows(order))


def find_smallest_product(rows: int) -> float:
    """Products of two features under this eigenvalue (of 1 in all) are left out.

    Over many rows 1 to 6 % of the pairs would miss too much at 1e-7, and a whole Gram matrix takes most of a second.
    """
    return 1e-7 if rows <= CHEAP_ROWS else 1e-8


def prepare_neurons(x: Tensor, sigma: Tensor, alpha: float, *, with_features: bool) -> Neurons:
    """Neurons of one kernel.

    Args:
        x: (n, K) float, activations.
        sigma: (K,) float, kernel widths; infinite for a constant neuron.
        alpha: order of the entropy.
        with_features: whether the back end works on low-rank features.
    """
    scaled = (x.double() / sigma.double()).T.contiguous()  # (K, n)
    if alpha < 1:  # the slope at 0 is infinite: a spectrum to 1e-12 is not enough
        return Neurons(scaled, _entropy_by_eigenvalues(scaled, alpha), no_features(scaled))
    features, spectrum, is_whole = factor_grams(scaled, find_smallest_product(len(x)))
    entropy = entropy_of_spectrum(spectrum, alpha).clamp(min=0)
    if not bool(is_whole.all()):
        entropy[~is_whole] = _entropy_by_eigenvalues(scaled[~is_whole], alpha)
    return Neurons(scaled, entropy, features if with_features else no_features(scaled))


def _entropy_by_eigenvalues(scaled: Tensor, alpha: float) -> Tensor:
    rows = scaled.shape[1]
    step = max(1, GRAM_BYTES // (8 * rows * rows))
    return torch.cat([entropy_nats(neuron_grams(block), alpha) for block in torch.split(scaled, step)])
