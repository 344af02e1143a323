"""Mutual information between all pairs of neurons of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError, unknown_name
from secateur.information.kernels import estimate_std, is_saturated, layer_gram_pairs, scott_width
from secateur.information.pairwise import (
    joint_entropy_by_eigenvalues,
    joint_entropy_by_product,
    marginal_entropy,
)
from secateur.information.widths import align_widths
from secateur.results import MutualInformation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

WidthRule = Literal["scott-scaled", "scott", "scott-layer"]
WIDTH_RULES = ("scott-scaled", "scott", "scott-layer")
MEASURES = ("renyi",)
BACKENDS = {"eigenvalues": joint_entropy_by_eigenvalues, "product": joint_entropy_by_product}
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def mutual_information(
    x: Tensor | np.ndarray[Any, Any],
    *,
    measure: str = "renyi",
    alpha: float = 1.01,
    width: WidthRule | float | ArrayLike | Tensor = "scott-scaled",
    gamma: float = 1.0,
    beta: float = 0.9,
    batch_size: int | None = 100,
    dtype: str = "float64",
    backend: str = "auto",
    threads: int | None = None,
    debias: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MutualInformation:
    """Matrix-based Renyi mutual information of every pair of neurons, I = S(A_k) + S(A_l) - S(A_k o A_l), in nats.

    Args:
        x: (N, K) float, activations: N rows of K neurons. Nothing in it is changed.
        measure: "renyi".
        alpha: order of the entropy, above 0; 1 is the von Neumann limit.
        width: kernel widths. "scott-scaled": each neuron's own, aligned with the layer's kernel by Scott's rule times
            the mean distance of the rows; "scott": the same without that factor, as in the paper; "scott-layer": the
            layer's width for every neuron, in units of its standard deviation; a number: r = sigma / std for all; an
            array (K,): r for each neuron.
        gamma: factor in Scott's rule.
        beta: weight of the past in the running mean of aligned widths over batches.
        batch_size: rows n in one kernel; the result is the mean over batches, a short last batch is dropped.
            None: one kernel over all rows.
        dtype: "float64" or "float32", the precision of the work and of the result; alpha < 1 always works in float64,
            since it magnifies rounding noise.
        backend: "eigenvalues" (any alpha), "product" (alpha = 2), or "auto".
        threads: CPU threads; None leaves torch's setting.
        debias: number of shuffled copies whose mean MI is subtracted; 0 for none.
        seed: seed of the shuffles.
        progress: called as progress(done, total).

    Returns:
        The (K, K) matrix with entropies and widths, as numpy arrays. I is symmetric and at most
        min(S_k, S_l); it can be negative above alpha = 1, and before debiasing is hardly ever below 0 at alpha <= 1.01.

    Raises:
        InputError: a name is unknown, a value out of bounds, or x is not finite.

    Cost:
        "eigenvalues": one n x n eigendecomposition a pair and batch; "product": n^2 K^2 / 2 multiply-adds a batch.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Eq. 3-8. Differs from the paper: `width="scott-scaled"`,
        `debias`, and widths are settled over all batches before the first batch is measured.
    """
    _check_settings(measure, alpha, gamma, beta, dtype, debias)
    data = _as_matrix(x, torch.float64 if alpha < 1 else DTYPES[dtype])
    chosen = _choose_backend(backend, alpha)
    with use_threads(threads):
        batches = _split(data, batch_size)
        std = estimate_std(data)
        ratio, saturated = _find_ratio(batches, std, width, gamma=gamma, beta=beta)
        sigma = torch.where(std > 0, ratio * std, torch.full_like(std, torch.inf))
        pairs = _Pairs(sigma, alpha, BACKENDS[chosen], _Ticker(progress, len(batches) * (1 + debias)))
        own = [marginal_entropy(batch, sigma, alpha) for batch in batches]
        mi = pairs.mean_mi(batches, batches, own)
        baseline = None
        if debias:
            generator = torch.Generator().manual_seed(seed)
            repeated = [batch for batch in batches for _ in range(debias)]
            shuffled = (_shuffle(batch, generator) for batch in repeated)
            baseline = pairs.mean_mi(repeated, shuffled, [s for s in own for _ in range(debias)])
            mi = mi - baseline

    def finished(values: Tensor) -> np.ndarray[Any, Any]:
        return values.to(DTYPES[dtype]).cpu().numpy()

    return MutualInformation(
        mi_nats=finished(mi),
        entropy_nats=finished(torch.stack(own).mean(dim=0)),
        width=finished(sigma),
        width_over_std=finished(ratio),
        baseline_mi_nats=None if baseline is None else finished(baseline),
        backend=chosen,
        saturated=saturated,
        alpha=alpha,
        rows_per_kernel=len(batches[0]),
        kernels=len(batches),
    )


@dataclass
class _Ticker:
    """Spreads the progress of several rounds over one count, in thousandths."""

    progress: Callable[[int, int], None] | None
    rounds: int
    finished: int = 0

    def __call__(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(round(1000 * (self.finished + done / total)), 1000 * self.rounds)
        self.finished += done == total


@dataclass(frozen=True)
class _Pairs:
    """The mean over batches of I = S(A_k) + S(A_l) - S(A_k o A_l), with fixed widths."""

    sigma: Tensor
    alpha: float
    joint_entropy: Callable[..., Tensor]
    tick: _Ticker

    def mean_mi(self, batches: Sequence[Tensor], others: Iterable[Tensor], own: Sequence[Tensor]) -> Tensor:
        """(K, K) nats, symmetric: neurons of each batch with those of its other copy; `own` are their entropies."""
        total = torch.zeros(len(self.sigma), len(self.sigma), dtype=batches[0].dtype, device=self.sigma.device)
        for batch, other, entropy in zip(batches, others, own, strict=True):
            joint = self.joint_entropy(batch, other, self.sigma, self.alpha, self.tick)
            total += entropy[:, None] + entropy[None, :] - joint
        alive = torch.isfinite(self.sigma)
        total *= alive[:, None] & alive[None, :]  # a constant neuron shares nothing, to the last digit
        return 0.5 * (total + total.T) / len(batches)


def _find_ratio(
    batches: Sequence[Tensor], std: Tensor, width: Any, *, gamma: float, beta: float
) -> tuple[Tensor, bool]:
    """(K,) r = sigma / std, 0 for constant neurons, and whether the layer's kernel is saturated."""
    if not isinstance(width, str):
        return _given_ratio(width, std), False
    if width not in WIDTH_RULES:
        raise unknown_name("width rule", width, WIDTH_RULES)
    alive = (std > 0).to(std.dtype)
    if width == "scott-layer":
        return alive * scott_width(*batches[0].shape, gamma=gamma), False
    ratio, saturated = torch.zeros_like(std), False
    for number, batch in enumerate(batches):
        layer_pairs = layer_gram_pairs(batch, gamma=gamma, scaled=width == "scott-scaled")
        saturated |= is_saturated(layer_pairs, len(batch))
        aligned = align_widths(batch, std, layer_pairs)
        ratio = aligned if number == 0 else beta * ratio + (1 - beta) * aligned  # Eq. 8
    return ratio, saturated


def _given_ratio(width: Any, std: Tensor) -> Tensor:
    ratio = torch.as_tensor(width, dtype=std.dtype, device=std.device)
    if ratio.ndim not in (0, 1) or (ratio.ndim == 1 and ratio.shape != std.shape):
        raise InputError(f"width must be a number or an array of shape ({len(std)},), got shape {tuple(ratio.shape)}")
    if not bool((torch.isfinite(ratio) & (ratio > 0)).all()):
        raise InputError("width must be finite and above 0")
    return torch.where(std > 0, ratio.expand_as(std), torch.zeros_like(std))


def _split(data: Tensor, batch_size: int | None) -> list[Tensor]:
    rows = len(data) if batch_size is None else min(batch_size, len(data))
    if rows < 2:
        raise InputError(f"a kernel needs at least 2 rows, got {rows}")
    return [data[start : start + rows] for start in range(0, len(data) - rows + 1, rows)]


def _shuffle(batch: Tensor, generator: torch.Generator) -> Tensor:
    """A copy whose columns are permuted each on its own."""
    keys = torch.rand(batch.shape, generator=generator, dtype=torch.float64)
    return batch.gather(0, keys.argsort(dim=0).to(batch.device))


def _as_matrix(x: Any, dtype: torch.dtype) -> Tensor:
    data = torch.as_tensor(x)
    if data.ndim != 2 or data.shape[1] == 0:
        raise InputError(f"x must have shape (rows, neurons), got {tuple(data.shape)}")
    data = data.detach().to(dtype)
    if not bool(torch.isfinite(data).all()):
        raise InputError("x must be finite, got NaN or infinite activations")
    return data


def _choose_backend(backend: str, alpha: float) -> str:
    if backend == "auto":
        return "product" if alpha == 2 else "eigenvalues"
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, [*BACKENDS, "auto"])
    if backend == "product" and alpha != 2:
        raise InputError(f"backend 'product' needs alpha = 2, got {alpha}")
    return backend


def _check_settings(measure: str, alpha: float, gamma: float, beta: float, dtype: str, debias: int) -> None:
    if measure not in MEASURES:
        raise unknown_name("measure", measure, MEASURES)
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    for name, value, holds, wanted in (
        ("alpha", alpha, 0 < alpha < float("inf"), "above 0"),
        ("gamma", gamma, 0 < gamma < float("inf"), "above 0"),
        ("beta", beta, 0 <= beta < 1, "in [0, 1)"),
        ("debias", debias, debias >= 0, "a whole number of at least 0"),
    ):
        if not holds:
            raise InputError(f"{name} must be {wanted}, got {value}")


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads while the context lasts; None leaves its setting."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
