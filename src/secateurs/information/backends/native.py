"""The compiled kernel, one pair a SIMD lane; absent where the package was installed without a compiler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.information.backends.contract import (
    EXACT_BOUND_NATS,
    LOW_RANK_SHIFT,
    MOST_MISSING,
    MOST_WHOLE_ROWS,
    WHOLE_ROUNDING_NATS,
    WHOLE_SHIFT,
    Backend,
    JointBlock,
    Path,
    entropy_of_traces,
    exact_block,
)
from secateurs.information.backends.khatri_rao import joint_by_khatri_rao
from secateurs.information.entropy import entropy_of_spectrum
from secateurs.information.exact import FEW_ROWS
from secateurs.information.kernels import packed_grams
from secateurs.information.neurons import Neurons, find_smallest_product, solve_pairs
from secateurs.information.rational import RationalFit, fit_entropy

try:
    from secateurs import _kernel
except ImportError:
    _kernel = None  # type: ignore[assignment]

MOST_PRODUCTS = 1024
"""Products of features that a pair may need before it is done another way: each thread has 35 MB for as many."""
SPECTRA_AT_ONCE = 4096
"""Pairs whose eigenvalues are held at once."""
UNDONE, DONE, FLAGGED = 0, 1, 2
"""Values of the kernel's status: not computed; computed; computed, but a pivot was rounding noise."""


def find_instruction_sets() -> list[str]:
    """Instruction sets that the compiled kernel can use here, best first; empty where it was not compiled."""
    return [] if _kernel is None else list(_kernel.isas())


def joint_by_kernel(a: Neurons, b: Neurons, alpha: float, triangle: bool, isa: str = "") -> JointBlock:
    """Joint entropies of a block in float32, with float64 log-determinants.

    Low rank first; then whole Gram matrices for pairs that need too many features or, over few rows, miss too much
    trace; then float64 for those that are still undone or that float32 can't resolve. alpha < 1 takes float64
    eigenvalues of whole Gram matrices throughout, alpha > 2 those of products of features where these are few.
    """
    if alpha < 1:
        return joint_by_float64_kernel(a, b, alpha, triangle, isa)
    if alpha > 2:
        return joint_by_khatri_rao(a, b, alpha, triangle, partial(_float64_entropy, isa=isa))
    traces = _Traces.empty(len(a), len(b))
    low_fit, whole_fit = fit_entropy(alpha, LOW_RANK_SHIFT), fit_entropy(alpha, WHOLE_SHIFT)
    traces.fill_by_low_rank_(a, b, low_fit, triangle, isa)
    is_low = traces.status == DONE
    wanted = np.triu(np.ones_like(is_low)) if triangle else np.ones_like(is_low)
    if a.rows <= MOST_WHOLE_ROWS and (wanted & (traces.status == UNDONE)).any():
        traces.fill_by_whole_grams_(a, b, whole_fit, triangle, isa)
    entropy, bound = entropy_of_traces(
        torch.from_numpy(traces.loss),
        torch.from_numpy(np.where(is_low, 1 - traces.kept, 0)),
        torch.from_numpy(
            np.where(is_low, low_fit.trace_error(find_most_features(a.rows)), whole_fit.trace_error(a.rows))
        ),
        alpha=alpha,
        rows=a.rows,
    )
    bound += torch.from_numpy(np.where(is_low, 0, WHOLE_ROUNDING_NATS * a.rows))
    path = torch.from_numpy(np.where(is_low, Path.LOW_RANK, Path.FULL).astype(np.uint8))
    redo = torch.from_numpy(np.argwhere(wanted & (traces.status != DONE)))
    if len(redo):
        at = (redo[:, 0], redo[:, 1])
        path[at], bound[at] = Path.FLOAT64, EXACT_BOUND_NATS
        entropy[at] = _float64_entropy(a, b, redo, alpha, isa=isa)
    return JointBlock(entropy, bound, path)


def joint_by_float64_kernel(a: Neurons, b: Neurons, alpha: float, triangle: bool, isa: str = "") -> JointBlock:
    """Joint entropies of a block from float64 eigenvalues, any alpha."""
    entropy = a.scaled.new_zeros(len(a), len(b))
    wanted = torch.ones_like(entropy, dtype=torch.bool)
    pairs = (wanted.triu() if triangle else wanted).nonzero()
    entropy[pairs[:, 0], pairs[:, 1]] = _float64_entropy(a, b, pairs, alpha, isa=isa)
    return exact_block(entropy)


@dataclass(frozen=True, slots=True)
class _Traces:
    """What the kernel writes: the trace of F for each pair, the trace that was kept, and a status."""

    loss: NDArray[np.float64]
    kept: NDArray[np.float32]
    status: NDArray[np.uint8]

    @classmethod
    def empty(cls, *shape: int) -> _Traces:
        return cls(np.zeros(shape), np.zeros(shape, np.float32), np.zeros(shape, np.uint8))

    def fill_by_low_rank_(self, a: Neurons, b: Neurons, fit: RationalFit, triangle: bool, isa: str) -> None:
        _kernel.low_rank(
            a.features.values.numpy(),
            a.features.spectrum.numpy(),
            b.features.values.numpy(),
            b.features.spectrum.numpy(),
            triangle=triangle,
            smallest=find_smallest_product(a.rows),
            most_features=find_most_features(a.rows),
            shifts=fit.shifts,
            coefficients=fit.coefficients,
            threads=torch.get_num_threads(),
            loss=self.loss,
            trace=self.kept,
            status=self.status,
            isa=isa,
        )
        misses = (self.status != UNDONE) & (1 - self.kept > MOST_MISSING)
        self.status[misses] = UNDONE if a.rows <= FEW_ROWS else FLAGGED  # a little is missing: the rank is not high

    def fill_by_whole_grams_(self, a: Neurons, b: Neurons, fit: RationalFit, triangle: bool, isa: str) -> None:
        """Fill in what is still UNDONE, from the Gram matrices of the neurons that have such a pair."""
        undone = self.status == UNDONE
        if triangle:
            undone = np.triu(undone)
        left, right = undone.any(axis=1), undone.any(axis=0)
        if triangle:
            left = right = left | right
        some, at = self._select(left, right), np.ix_(left, right)
        grams = packed_grams(a.scaled[torch.from_numpy(left)], torch.float32)
        others = grams if triangle else packed_grams(b.scaled[torch.from_numpy(right)], torch.float32)
        _kernel.full(
            grams.numpy(),
            others.numpy(),
            rows=a.rows,
            triangle=triangle,
            shifts=fit.shifts,
            coefficients=fit.coefficients,
            threads=torch.get_num_threads(),
            loss=some.loss,
            status=some.status,
            isa=isa,
        )
        self.loss[at], self.status[at] = some.loss, some.status

    def _select(self, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> _Traces:
        at = np.ix_(left, right)
        return _Traces(self.loss[at], self.kept[at], self.status[at])


def find_most_features(rows: int) -> int:
    """Products R up to which n R^2 + 4/3 R^3 multiply-adds are fewer than three quarters of 4/3 n^3; 1024 at most."""
    sizes = np.arange(1, min(rows, MOST_PRODUCTS) + 1, dtype=float)
    cheaper = rows * sizes**2 + 4 / 3 * sizes**3 <= rows**3
    return max(1, int(cheaper.sum()))


def _float64_entropy(a: Neurons, b: Neurons, pairs: Tensor, alpha: float, *, isa: str) -> Tensor:
    """(M,) joint entropies of some pairs (M, 2), from whole Gram matrices where rows are few."""
    if a.rows > FEW_ROWS:
        return solve_pairs(a, b, pairs, alpha)
    first, places_a = torch.unique(pairs[:, 0], return_inverse=True)
    second, places_b = torch.unique(pairs[:, 1], return_inverse=True)
    grams, others = (packed_grams(z, torch.float64).numpy() for z in (a.scaled[first], b.scaled[second]))
    found = []
    for some in torch.split(torch.stack([places_a, places_b], dim=1).int(), SPECTRA_AT_ONCE):
        values = np.empty((len(some), a.rows))
        threads = torch.get_num_threads()
        _kernel.spectra(grams, others, rows=a.rows, pairs=some.numpy(), threads=threads, values=values, isa=isa)
        found.append(entropy_of_spectrum(torch.from_numpy(values).clamp_(min=0), alpha))
    entropy = torch.cat(found)
    unsettled = entropy.isnan()
    if bool(unsettled.any()):
        entropy[unsettled] = solve_pairs(a, b, pairs[unsettled], alpha)
    return entropy


def _refuses(alpha: float, device: torch.device) -> str | None:
    if _kernel is None:
        return "was not compiled when the package was installed"
    return None if device.type == "cpu" else f"works on the CPU only, not on {device.type}"


NATIVE = Backend("native", joint_by_kernel, uses_features=True, refuses=_refuses)
FLOAT64_NATIVE = Backend("native", joint_by_float64_kernel, uses_features=False, refuses=_refuses)
