"""How much all pairs of neurons of a layer have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from secateurs.errors import InputError, unknown_name
from secateurs.information.backends import choose_backend
from secateurs.information.kernels import (
    estimate_std,
    is_saturated,
    layer_gram_entries,
    sample_pairs,
    scott_width,
)
from secateurs.information.measures import binned, hsic, ksg, pearson
from secateurs.information.renyi import Keep, RenyiSettings, compute_anew, measure_renyi
from secateurs.information.widths import align_widths
from secateurs.results import MutualInformation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

WidthRule = Literal["scott-scaled", "scott", "scott-layer"]
WIDTH_RULES = ("scott-scaled", "scott", "scott-layer")
UNITS: dict[str, Literal["nats", "one"]] = {
    "renyi": "nats",
    "pearson": "one",
    "binned": "nats",
    "ksg": "nats",
    "hsic": "one",
}
"""Measures by name, with the unit of each."""
WITH_KERNELS = ("renyi", "hsic")
PRECISIONS = ("float32", "float64")
Tick = Callable[[int, int], None]


def mutual_information(
    x: Tensor | np.ndarray[Any, Any],
    *,
    measure: str = "renyi",
    alpha: float = 1.01,
    width: WidthRule | float | ArrayLike | Tensor = "scott-scaled",
    gamma: float = 1.0,
    beta: float = 0.9,
    batch_size: int | None = 100,
    dtype: str = "float32",
    backend: str = "auto",
    threads: int | None = None,
    debias: int = 0,
    seed: int = 0,
    bins: int | None = None,
    neighbours: int = 3,
    most_bytes: int | None = None,
    progress: Tick | None = None,
    keep: Keep = compute_anew,
) -> MutualInformation:
    """What every pair of neurons has in common: matrix-based Renyi mutual information, or another measure.

    I = S(A_k) + S(A_l) - S(A_k o A_l) in nats, where A_k is the Gaussian Gram matrix of neuron k over n rows.

    Args:
        x: (N, K) float, activations: N rows of K neurons. Nothing in it is changed.
        measure: "renyi"; or over all rows at once "pearson" (absolute correlation), "binned" (plug-in estimate on bins
            of equal frequency, nats), "ksg" (nearest neighbours, nats), "hsic" (normalised, in [0, 1]).
        alpha: order of the entropy, above 0; 1 is the von Neumann limit.
        width: kernel widths ("renyi", "hsic"). "scott-scaled": each neuron's own, aligned with the layer's kernel by
            Scott's rule times the mean distance of the rows; "scott": the same without that factor, as in the paper;
            "scott-layer": the layer's width for every neuron, in units of its standard deviation; a number: r = sigma /
            std for all; an array (K,): r for each neuron.
        gamma: factor in Scott's rule.
        beta: weight of the past in the running mean of aligned widths over batches.
        batch_size: rows n in one kernel; the result is the mean over batches, a short last batch is dropped.
            None: one kernel over all rows.
        dtype: "float32": fast, within `error_bound_nats`; "float64": every pair by float64 eigenvalues, to 1e-9.
            Also the dtype of the result.
        backend: of "renyi": "product" (alpha = 2), "native" (compiled), "torch", "eigenvalues" (the plain reference),
            or "auto", the first of these that can serve.
        threads: CPU threads; None leaves torch's setting.
        debias: number of shuffled copies whose mean is subtracted ("renyi"); 0 for none.
        seed: seed of the shuffles, and of the noise in "ksg".
        bins: bins a neuron of "binned"; None: about sqrt(N / 5).
        neighbours: nearest neighbours of "ksg".
        most_bytes: a matrix larger than this is kept in a temporary file instead of memory ("renyi").
        progress: called as progress(done, total).
        keep: called as keep(number, compute) for each block of pairs of "renyi"; gives what `compute` gives, or gave to
            an earlier call on the same data and settings.

    Returns:
        The (K, K) matrix with entropies, widths and error bounds, as numpy arrays. Renyi information is symmetric and
        at most min(S_k, S_l); it can be negative above alpha = 1, and before debiasing is hardly ever below 0 at
        alpha <= 1.01.

    Raises:
        InputError: a name is unknown, a value out of bounds, or x is not finite.

    Cost:
        4/3 n^3 floating-point operations for a pair of narrow kernels, n R^2 at rank R (10 to 60) for wide ones.
        Memory: the result, K n r float32 for features of rank r, and blocks of fixed size.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Eq. 3-8. Differs from the paper: `width="scott-scaled"`,
        `debias`, and widths are settled over all batches before the first batch is measured.
    """
    _check_settings(measure, alpha, gamma, beta, dtype, batch_size=batch_size, debias=debias, threads=threads)
    data = _as_matrix(x)
    with use_threads(threads):
        std = estimate_std(data)
        if measure not in WITH_KERNELS:
            values = _measure_rows(measure, data, bins=bins, neighbours=neighbours, seed=seed, progress=progress)
            return _as_result(measure, values, len(data), dtype)
        batches = _split(data, batch_size)
        ratio, saturated = _find_ratio(batches, std, width, gamma=gamma, beta=beta, dtype=getattr(torch, dtype))
        sigma = torch.where(std > 0, ratio * std, torch.full_like(std, torch.inf))
        if measure == "hsic":
            found = _as_result(measure, hsic(data, sigma), len(data), dtype)
        else:
            chosen = choose_backend(backend, dtype, alpha, data.device)
            settings = RenyiSettings(alpha, chosen, dtype, debias, seed, most_bytes)
            found = measure_renyi(batches, sigma, settings, progress, keep)
    return replace(found, width=_as_array(sigma, dtype), width_over_std=_as_array(ratio, dtype), saturated=saturated)


def find_widths(x: Tensor | np.ndarray[Any, Any], rule: WidthRule = "scott-scaled") -> tuple[NDArray[Any], bool]:
    """(K,) r = kernel width / standard deviation by a rule, 0 of constant neurons; and whether the kernel is saturated.

    Args:
        x: (N, K) float, activations, all in one kernel.
        rule: as `mutual_information` takes it.
    """
    data = _as_matrix(x)
    ratio, saturated = _find_ratio([data], estimate_std(data), rule, gamma=1.0, beta=0.0, dtype=torch.float32)
    return _as_array(ratio, "float32"), saturated


def _measure_rows(
    measure: str, data: Tensor, *, bins: int | None, neighbours: int, seed: int, progress: Tick | None
) -> Tensor:
    """(K, K) of a measure that has no kernels."""
    if measure == "pearson":
        return pearson(data)
    if measure == "binned":
        return binned(data, bins)
    return ksg(data, neighbours=neighbours, seed=seed, tick=progress or (lambda done, total: None))


def _as_result(measure: str, values: Tensor, rows: int, dtype: str) -> MutualInformation:
    """The result of a measure that is computed at once, in float64."""
    return MutualInformation(
        measure=measure,
        values=_as_array(values, dtype),
        unit=UNITS[measure],
        path_share={"float64": 1.0},
        backend="scikit-learn" if measure == "ksg" else "torch",
        rows_per_kernel=rows,
        kernels=1,
    )


def _find_ratio(
    batches: Sequence[Tensor], std: Tensor, width: Any, *, gamma: float, beta: float, dtype: torch.dtype
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
    pairs = sample_pairs(len(batches[0]), std.device)
    for number, batch in enumerate(batches):
        rows = batch.to(dtype)
        layer = layer_gram_entries(rows, pairs, gamma=gamma, scaled=width == "scott-scaled")
        saturated |= is_saturated(layer, len(rows))
        aligned = align_widths(rows, std.to(dtype), pairs, layer).to(std.dtype)
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


def _as_matrix(x: Any) -> Tensor:
    try:
        data = torch.as_tensor(x)
    except (TypeError, ValueError) as error:
        raise InputError(f"x must be a matrix of numbers: {error}") from None
    if data.ndim != 2 or 0 in data.shape:
        raise InputError(f"x must have shape (rows, neurons), none of them 0, got {tuple(data.shape)}")
    data = data.detach().double()
    if not bool(torch.isfinite(data).all()):
        raise InputError("x must be finite, got NaN or infinite activations")
    return data


def _as_array(values: Tensor, dtype: str) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = values.cpu().numpy().astype(dtype)
    return array


def _check_settings(
    measure: str,
    alpha: float,
    gamma: float,
    beta: float,
    dtype: str,
    *,
    batch_size: int | None,
    debias: int,
    threads: int | None,
) -> None:
    if measure not in UNITS:
        raise unknown_name("measure", measure, UNITS)
    if debias and measure != "renyi":
        raise InputError(f"debias works with measure 'renyi' only, got '{measure}'")
    if dtype not in PRECISIONS:
        raise unknown_name("dtype", dtype, PRECISIONS)
    for name, value, holds, wanted in (
        ("alpha", alpha, 0 < alpha < float("inf"), "above 0"),
        ("gamma", gamma, 0 < gamma < float("inf"), "above 0"),
        ("beta", beta, 0 <= beta < 1, "in [0, 1)"),
        ("debias", debias, isinstance(debias, int) and debias >= 0, "a whole number of at least 0"),
        ("batch_size", batch_size, batch_size is None or type(batch_size) is int, "a whole number or None"),
        ("threads", threads, threads is None or threads >= 1, "a whole number of at least 1"),
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
