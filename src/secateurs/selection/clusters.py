"""Representatives of clusters of points."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

RESTARTS = 4
"""k-means++ starts, the best of which counts."""


def select_by_clusters(points: NDArray[np.floating[Any]], width: int, seed: int) -> NDArray[np.int64]:
    """Indices of `width` points, sorted: of each k-means cluster the one nearest its centre.

    Where points coincide there can be fewer clusters than asked for; then the points furthest from what is kept are
    added one by one, so that exactly `width` are kept.

    Args:
        points: (K, p) float.
        width: number of clusters.
        seed: seed of k-means++.

    Source:
        Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007 (scikit-learn's KMeans).
    """
    if width >= len(points):
        return np.arange(len(points), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: repaired below
        found = KMeans(width, n_init=RESTARTS, random_state=seed).fit(points)
    to_centre = np.square(points - found.cluster_centers_[found.labels_]).sum(axis=1)
    order = np.lexsort((to_centre, found.labels_))
    _, firsts = np.unique(found.labels_[order], return_index=True)
    return np.sort(_fill_up(points, order[firsts], width)).astype(np.int64)


def _fill_up(points: NDArray[np.floating[Any]], kept: NDArray[np.integer[Any]], width: int) -> NDArray[np.int64]:
    """Kept points and those furthest from them, one after another, up to `width`."""
    chosen = list(kept)
    nearest = np.min([np.square(points - points[place]).sum(axis=1) for place in chosen], axis=0)
    nearest[chosen] = -1.0
    while len(chosen) < width:
        place = int(nearest.argmax())
        chosen.append(place)
        nearest = np.minimum(nearest, np.square(points - points[place]).sum(axis=1))
        nearest[chosen] = -1.0
    return np.array(chosen)
