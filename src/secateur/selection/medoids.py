"""Representatives by k-medoids."""

from __future__ import annotations

from typing import Any

import kmedoids
import numpy as np
from numpy.typing import NDArray


def select_medoids(distance: NDArray[np.floating[Any]], width: int, seed: int) -> NDArray[np.int64]:
    """Indices of `width` medoids, sorted: the neurons that all others lie nearest to.

    Args:
        distance: (K, K) float, symmetric, zero diagonal.
        width: number of medoids.
        seed: seed of the random start.

    Source:
        Schubert and Rousseeuw, "Fast and eager k-medoids clustering", 2021 (FasterPAM; package `kmedoids`).
    """
    if width >= len(distance):
        return np.arange(len(distance), dtype=np.int64)
    found = kmedoids.fasterpam(distance.astype(np.float64), width, init="random", random_state=seed, n_cpu=1)
    return np.sort(np.asarray(found.medoids)).astype(np.int64)
