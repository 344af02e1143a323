"""Neurons made ready for pairing: activations in units of their kernel widths, entropies, low-rank features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.information.entropy import entropy_of_spectrum
from secateurs.information.exact import exact_entropy
from secateurs.information.features import Features, factor_grams, no_features

PAIRS_AT_ONCE = 4096
"""Pairs whose activations are put side by side at once."""


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

    The more rows, the more there are to leave out: at 1e-7, 1 to 6 % of the pairs over 1000 rows would miss too much.
    """
    return min(1e-7, 1e-5 / rows)


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
        return Neurons(scaled, exact_entropy(scaled[:, None], alpha), no_features(scaled))
    features, spectrum, is_whole = factor_grams(scaled, find_smallest_product(len(x)))
    entropy = entropy_of_spectrum(spectrum, alpha).clamp(min=0)
    if not bool(is_whole.all()):
        entropy[~is_whole] = exact_entropy(scaled[~is_whole][:, None], alpha)
    return Neurons(scaled, entropy, features if with_features else no_features(scaled))


def solve_pairs(a: Neurons, b: Neurons, pairs: Tensor, alpha: float) -> Tensor:
    """(M,) exact joint entropies of some pairs (M, 2): a neuron of `a` and one of `b`."""
    return torch.cat(
        [
            exact_entropy(torch.stack([a.scaled[some[:, 0]], b.scaled[some[:, 1]]], dim=1), alpha)
            for some in torch.split(pairs, PAIRS_AT_ONCE)
        ]
    )
