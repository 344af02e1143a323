"""A fit of F(x) = (x - x^alpha) / (alpha - 1) by logarithms, so that the trace of F needs no eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

SHIFTS = 16
LARGEST_SHIFT = 10**0.5
FLOOR = 1e-3
"""Errors are weighed by max(x, FLOOR): relative to x above it, absolute below."""
GRID, FINE_GRID = 240, 20_000
"""Points, geometric in x, that the fit is made on and that its error is measured on."""


@dataclass(frozen=True, slots=True, eq=False)
class RationalFit:
    """F(x) ~ sum_j c_j log(1 + x / s_j) + a x + b x^2 on [0, 1]; exact at 0."""

    shifts: NDArray[np.float64]
    """(m,) s_j, ascending."""
    coefficients: NDArray[np.float64]
    """(m + 2,) c_j, then a and b."""
    error: float
    """Largest |F(x) - fit| / max(x, FLOOR) on the fine grid."""

    def trace_error(self, count: int) -> float:
        """Largest error of the sum over `count` eigenvalues that sum to at most 1."""
        return self.error * (1 + FLOOR * count)


@lru_cache(maxsize=32)
def fit_entropy(alpha: float, smallest_shift: float) -> RationalFit:
    """The minimax fit for an order alpha in [1, 2], where alpha = 2 is exact; a linear program, 10 ms.

    Args:
        alpha: order of the entropy.
        smallest_shift: the smallest s_j. A smaller one fits better, and takes eigenvalues with less noise.

    Source:
        The log-determinants of T + s I for a few shifts s give the trace of F(T): F'' is a mixture of 1 / (x + s)^2.
    """
    shifts = np.geomspace(smallest_shift, LARGEST_SHIFT, SHIFTS)
    x = np.geomspace(1e-10, 1, GRID)
    weight = np.maximum(x, FLOOR)
    columns = _terms(x, shifts) * np.append(shifts, (1, 1))  # scaled alike, for the solver
    a = columns / weight[:, None]
    b = entropy_loss(x, alpha) / weight
    one = np.ones((GRID, 1))
    for method in ("highs", "highs-ds", "highs-ipm"):  # where one fails by rounding, another may not
        found = linprog(
            np.append(np.zeros(SHIFTS + 2), 1),  # minimise the largest error, the last variable
            A_ub=np.block([[a, -one], [-a, -one]]),
            b_ub=np.append(b, -b),
            bounds=[(None, None)] * (SHIFTS + 2) + [(0, None)],
            method=method,
        )
        if found.x is not None:
            break
    else:
        raise RuntimeError(f"no fit for alpha = {alpha}: {found.message}")
    coefficients = found.x[:-1] * np.append(shifts, (1, 1))
    fine = np.geomspace(1e-13, 1, FINE_GRID)
    misses = np.abs(_terms(fine, shifts) @ coefficients - entropy_loss(fine, alpha))
    return RationalFit(shifts, coefficients, float((misses / np.maximum(fine, FLOOR)).max()))


def entropy_loss(x: Any, alpha: float) -> Any:
    """F(x) = (x - x^alpha) / (alpha - 1) for x in [0, 1], -x log x at alpha = 1; numpy."""
    logs = np.log(np.where(x > 0, x, 1.0))
    return -x * logs if alpha == 1 else -x * np.expm1((alpha - 1) * logs) / (alpha - 1)


def _terms(x: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(x), m + 2) values of the terms."""
    return np.column_stack([np.log1p(x[:, None] / shifts), x, x**2])
