"""Matrix-based Renyi mutual information of all pairs: the mean over kernels, debiased if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.information.backends import Backend, JointBlock
from secateurs.information.matrix import MeanInformation, plan_blocks
from secateurs.information.neurons import Neurons, prepare_neurons
from secateurs.results import MutualInformation

Tick = Callable[[int, int], None]
Keep = Callable[[int, Callable[[], JointBlock]], JointBlock]
"""Called as keep(number, compute) for each block of pairs; gives what `compute` gives, or gave before."""


def compute_anew(number: int, compute: Callable[[], JointBlock]) -> JointBlock:
    """Have nothing from before."""
    return compute()


@dataclass(frozen=True, slots=True)
class RenyiSettings:
    """How the pairs are computed."""

    alpha: float
    """Order of the entropy."""
    backend: Backend
    """What computes the joint entropies."""
    dtype: str
    """Of the result."""
    debias: int
    """Shuffled copies of each batch."""
    seed: int
    """Of the shuffles."""
    most_bytes: int | None
    """A matrix larger than this goes to a temporary file."""


def measure_renyi(
    batches: Sequence[Tensor],
    sigma: Tensor,
    settings: RenyiSettings,
    progress: Tick | None = None,
    keep: Keep = compute_anew,
) -> MutualInformation:
    """Mean over the batches of I(k,l) = S(A_k) + S(A_l) - S(A_k o A_l).

    Args:
        batches: (n, K) float64 each, activations.
        sigma: (K,) float64, kernel widths; infinite for a constant neuron.
        settings: how.
        progress: called as progress(done, total).
        keep: called for each block, in an order that depends on the settings and shapes alone.
    """
    kernels, debias = len(batches), settings.debias
    rounds = _Rounds(settings, keep, _Ticker(progress, kernels * (1 + debias)))
    dtype = np.dtype(settings.dtype)
    total = MeanInformation(len(sigma), kernels, dtype, settings.most_bytes)
    shuffled = MeanInformation(len(sigma), kernels * debias, dtype, settings.most_bytes) if debias else None
    generator = torch.Generator().manual_seed(settings.seed)
    entropy = torch.zeros_like(sigma)
    for batch in batches:
        neurons = prepare_neurons(batch, sigma, settings.alpha, with_features=settings.backend.uses_features)
        entropy += neurons.entropy_nats / kernels
        order = neurons.features.rank.argsort(stable=True)  # neurons that are paired at once then cost the same
        ordered = neurons.select(order)
        rounds.add_pairs(total, ordered, ordered, order.cpu().numpy())
        if shuffled is not None:
            for _ in range(debias):
                copy = neurons.shuffle(generator).select(order)
                rounds.add_pairs(shuffled, ordered, copy, order.cpu().numpy())
    alive = torch.isfinite(sigma).cpu().numpy()
    values, bound = total.finish(alive)
    baseline = None
    if shuffled is not None:
        baseline, more = shuffled.finish(alive)
        values -= baseline
        bound = bound + more
    return MutualInformation(
        measure="renyi",
        values=values,
        unit="nats",
        entropy_nats=entropy.cpu().numpy().astype(dtype),
        baseline=baseline,
        error_bound_nats=bound.astype(dtype),
        path_share=total.path_share,
        backend=settings.backend.name,
        alpha=settings.alpha,
        rows_per_kernel=len(batches[0]),
        kernels=kernels,
    )


@dataclass
class _Rounds:
    """Goes through the pairs of neurons, round after round."""

    settings: RenyiSettings
    keep: Keep
    tick: _Ticker
    blocks: int = 0
    """Blocks so far."""

    def add_pairs(self, total: MeanInformation, a: Neurons, b: Neurons, order: NDArray[np.int64]) -> None:
        """Add all pairs of one kernel; a and b are the same neurons, or b is a shuffled copy. `order` names them."""
        blocks = list(plan_blocks(len(a), a.rows))
        pairs = [(i.stop - i.start) * (j.stop - j.start) for i, j in blocks]
        done = 0
        for (i, j), count in zip(blocks, pairs, strict=True):
            left, right = a.select(i), b.select(j)
            compute = partial(self.settings.backend.joint, left, right, self.settings.alpha, a is b and i == j)
            total.update(self.keep(self.blocks, compute), (left, right), (order[i], order[j]))
            self.blocks += 1
            done += count
            self.tick(done, sum(pairs))


@dataclass
class _Ticker:
    """Spreads the progress of several rounds over one count, in thousandths."""

    progress: Tick | None
    rounds: int
    finished: int = 0

    def __call__(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(round(1000 * (self.finished + done / total)), 1000 * self.rounds)
        self.finished += done == total
