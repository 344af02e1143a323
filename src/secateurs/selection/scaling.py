"""Metric multidimensional scaling from many random starts: points whose distances are those asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

try:
    from secateurs import _kernel
except ImportError:
    _kernel = None  # type: ignore[assignment]

TOLERANCE = 1e-4
"""A start is done when an iteration lowers its stress by less than this part of it."""
MOST_ITERATIONS = 300
STARTS_AT_ONCE = 4
"""Few enough for their (K, K) ratios to stay in a core's cache at K = 512."""
MOST_NEURONS = 4096
"""Beyond this, landmarks are scaled, and the other neurons placed among them."""
LANDMARKS = 2048
SAME = 0.01
"""Neurons no further apart than this, of about 1, start at one point."""
MOST_DIMENSIONS = 16
"""Of the compiled kernel."""
TINY = 1e-12
"""Smallest squared distance that is divided by."""
Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Points of K neurons in p dimensions, from each of S starts."""

    points: Tensor
    """(S, K, p) float32, on the CPU."""
    stress: Tensor
    """(S,) float64, sum over pairs of (distance of the points - distance asked for)^2; of landmarks only, if any."""
    relative_stress: Tensor
    """(S,) float64, the same over the sum of squared distances asked for."""
    iterations: Tensor
    """(S,) int64."""
    most_iterations: int
    """Where a start is stopped."""

    @property
    def capped_share(self) -> float:
        """Share of the starts that ran out of iterations."""
        return float((self.iterations >= self.most_iterations).double().mean())


def draw_starts(seed: tuple[int, ...], starts: int, neurons: int, dimensions: int) -> Tensor:
    """(S, K, p) float32, uniform in [0, 1); start s depends on the seed and s alone."""
    drawn = [np.random.default_rng([*seed, s]).random((neurons, dimensions), dtype=np.float32) for s in range(starts)]
    return torch.from_numpy(np.stack(drawn))


def join_copies(starts: Tensor, distance: Tensor) -> Tensor:
    """(S, K, p) the starts, but neurons at distance 0 from an earlier one, or nearly so, start where that one does.

    They are one object to the metric, and stay together. From starts of their own, copies need some 1000 iterations to
    meet.

    Args:
        starts: (S, K, p) float.
        distance: (K, K) float, symmetric, zero diagonal.
    """
    first = (distance <= SAME).int().argmax(dim=1)  # of each row, the first such neuron: itself where there is none
    while not torch.equal(first, first[first]):  # a chain of near copies leads to its beginning
        first = first[first]
    return starts[:, first.to(starts.device)]


def smacof(
    distance: Tensor,
    starts: Tensor,
    *,
    tolerance: float = TOLERANCE,
    most_iterations: int = MOST_ITERATIONS,
    tick: Tick = lambda done, total: None,
) -> Scaling:
    """Metric scaling by majorisation (SMACOF), all starts side by side, each until it settles.

    Args:
        distance: (K, K) float, symmetric, zero diagonal: the distances asked for.
        starts: (S, K, p) float.
        tolerance: smallest part of the stress that an iteration must take off.
        most_iterations: where to stop otherwise.
        tick: called as tick(starts done, starts in all).

    Cost:
        2 p K^2 multiply-adds and K^2 square roots for a start and iteration, by the compiled kernel where there is one;
        else by torch, with memory for STARTS_AT_ONCE (K, K) matrices.

    Source:
        De Leeuw, "Applications of convex analysis to multidimensional scaling", 1977; the same iteration as
        scikit-learn's `smacof`, which stops by another rule.
    """
    target = distance.float().contiguous()
    parts = []
    for first in range(0, len(starts), STARTS_AT_ONCE):
        some = starts[first : first + STARTS_AT_ONCE].to(target)
        parts.append(_settle(target, some, tolerance, most_iterations))
        tick(min(first + STARTS_AT_ONCE, len(starts)), len(starts))
    points, stress, iterations = (torch.cat([part[place] for part in parts]) for place in range(3))
    whole = target.double().square().sum().cpu() / 2
    return Scaling(points, stress, stress / whole.clamp(min=TINY), iterations, most_iterations)


def place_by_landmarks(distance: Tensor, landmarks: Tensor, most_iterations: int = MOST_ITERATIONS) -> Tensor:
    """Points of all neurons, each where its distances to fixed landmarks fit best.

    Args:
        distance: (L, K) float, from each landmark to each neuron.
        landmarks: (S, L, p) float, the landmarks' points.
        most_iterations: where to stop; it stops earlier where no point moves by more than TOLERANCE of their spread.

    Returns:
        (S, K, p) float32. Each neuron starts at its nearest landmark.

    Source:
        The majorisation of `smacof` for one point among fixed ones. Landmarks after de Silva and Tenenbaum, "Sparse
        multidimensional scaling using landmark points", 2004, which places by triangulation instead.
    """
    target = distance.T.float()  # (K, L)
    nearest = target.argmin(dim=1)
    found = []
    for fixed in landmarks.to(target):
        points, centre = fixed[nearest], fixed.mean(dim=0)
        spread = float(fixed.std()) or 1.0
        for _ in range(most_iterations):
            ratio = _squared_distances(points, fixed).clamp_min_(TINY).rsqrt_().mul_(target)  # (K, L)
            moved = centre + (ratio.sum(dim=1, keepdim=True) * points - ratio @ fixed) / len(fixed)
            step, points = float((moved - points).abs().max()), moved
            if step < TOLERANCE * spread:
                break
        found.append(points.cpu())
    return torch.stack(found)


def _settle(target: Tensor, points: Tensor, tolerance: float, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points (S, K, p), stress (S,) and iterations (S,) of some starts, on the CPU."""
    squares = float(target.double().square().sum() / 2)
    transform = transform_by_kernel if can_use_kernel(target, points.shape[2]) else transform_by_torch
    final, stress = torch.empty_like(points, device="cpu"), torch.empty(len(points), dtype=torch.float64)
    iterations = torch.zeros(len(points), dtype=torch.int64)
    running, before = torch.arange(len(points)), torch.full((len(points),), torch.inf, dtype=torch.float64)
    for iteration in range(most + 1):
        moved, crossed = transform(target, points)
        now = _stress(points, crossed, squares)
        done = (before - now <= tolerance * before) & (iteration > 0) if iteration < most else torch.ones_like(now) > 0
        if bool(done.any()):
            settled = points[done.to(points.device)]
            final[running[done]], stress[running[done]] = settled.cpu(), _exact_stress(target, settled)
            iterations[running[done]] = iteration
            moved, now, running = moved[~done.to(points.device)], now[~done], running[~done]
        if not len(running):
            break
        points, before = moved, now
    return final, stress, iterations


def _stress(points: Tensor, crossed: Tensor, squares: float) -> Tensor:
    """(S,) float64 on the CPU: the stress of points, good to about 1e-6, without a pass over the pairs.

    With B the matrix of the Guttman transform, <X, B X> is the sum over pairs of asked for x found distance.
    """
    square_sum = points.square().sum(dim=(1, 2), dtype=torch.float64)
    found = points.shape[1] * square_sum - points.sum(dim=1, dtype=torch.float64).square().sum(dim=1)
    return (squares + found - 2 * crossed).cpu()


def transform_by_kernel(target: Tensor, points: Tensor, isa: str = "") -> tuple[Tensor, Tensor]:
    """The same as `transform_by_torch`, by the compiled kernel; on the CPU, in at most 16 dimensions."""
    moved, crossed = np.empty(points.shape, np.float32), np.empty(len(points))
    _kernel.guttman(
        target.numpy(),
        points.contiguous().numpy(),
        threads=torch.get_num_threads(),
        moved=moved,
        crossed=crossed,
        isa=isa,
    )
    return torch.from_numpy(moved), torch.from_numpy(crossed)


def transform_by_torch(target: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The points (S, K, p) after one iteration, B X / K, and <X, B X> (S,) float64."""
    neurons, dimensions = points.shape[1:]
    ratio = _squared_distances(points, points)
    ratio.clamp_min_(TINY).rsqrt_().mul_(target)  # (S, K, K), 0 on the diagonal
    rows = torch.cat([points, torch.ones_like(points[..., :1])], dim=2).transpose(1, 2).contiguous()  # (S, p + 1, K)
    product = torch.bmm(rows, ratio).transpose(1, 2)  # ratio is symmetric; this shape is the faster one
    moved = product[..., dimensions:] * points - product[..., :dimensions]  # B X
    return moved / neurons, (points * moved).sum(dim=(1, 2), dtype=torch.float64)


def can_use_kernel(target: Tensor, dimensions: int) -> bool:
    """Whether the compiled kernel is there, can serve, and is faster than torch (of plain vectors it is not)."""
    if _kernel is None or target.device.type != "cpu" or dimensions > MOST_DIMENSIONS:
        return False
    return _kernel.isas()[0] != "generic"


def _exact_stress(target: Tensor, points: Tensor) -> Tensor:
    """(S,) float64 stress, pair by pair, on the CPU."""
    each = [torch.cdist(some, some).sub_(target).square_().sum() / 2 for some in points.double()]
    return torch.stack(each).cpu()


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(..., A, B) between points (..., A, p) and (..., B, p), as one product; rounding may leave it below 0."""
    left, right = a.square().sum(dim=-1, keepdim=True), b.square().sum(dim=-1, keepdim=True)
    first = torch.cat([-2 * a, left, torch.ones_like(left)], dim=-1)
    second = torch.cat([b, torch.ones_like(right), right], dim=-1).transpose(-1, -2).contiguous()
    return torch.matmul(first, second)


def scale_classically(distance: NDArray[np.floating[Any]], dimensions: int) -> NDArray[np.float64]:
    """(K, p) float64, points whose inner products are those that (K, K) distances would have if they were Euclidean.

    Source:
        Torgerson, "Multidimensional scaling: I. Theory and method", Psychometrika, 1952.
    """
    squared = np.square(distance)
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)  # ascending
    found = vectors[:, ::-1][:, :dimensions] * np.sqrt(np.maximum(values[::-1][:dimensions], 0.0))
    points = np.zeros((len(distance), dimensions))
    points[:, : found.shape[1]] = found
    return points
