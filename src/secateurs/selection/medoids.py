"""Representatives by k-medoids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import InputError


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
    found = _import_kmedoids().fasterpam(distance.astype(np.float64), width, init="random", random_state=seed, n_cpu=1)
    return np.sort(np.asarray(found.medoids)).astype(np.int64)


def require_kmedoids() -> None:
    """Raise InputError, with the line that installs it, where the package is missing."""
    _import_kmedoids()


def _import_kmedoids() -> Any:
    try:
        import kmedoids
    except ImportError as error:
        raise InputError(f"k-medoids need one more package: pip install 'secateurs[medoids]' ({error})") from error
    return kmedoids
