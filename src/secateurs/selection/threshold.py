"""Removing neurons pair by pair: Algorithm 1 of the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS_PER_NEURON = 50
"""Draws of a round, times the number of neurons."""
START_PERCENTILE = 90.0
"""Threshold T_r, among the informations of all pairs."""
STEP_PERCENTILE = 5.0
"""By how much it is lowered after a round that left too many neurons."""
DRAWN_AT_ONCE = 4096
Draw = Callable[[int], tuple[int, int]]
"""Two different places among `count` remaining neurons."""


def remove_redundant(
    information: NDArray[np.floating[Any]], threshold: float, *, draws: int, draw: Draw, down_to: int = 1
) -> NDArray[np.int64]:
    """Indices of the neurons that remain, sorted: of two drawn at random the second goes where they share enough.

    Args:
        information: (K, K) float, symmetric.
        threshold: T_r; at or above it the second is removed.
        draws: MAX_ITR, how many pairs to draw.
        draw: draws them.
        down_to: stop when as few remain.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Algorithm 1. It leaves T_r and MAX_ITR open.
    """
    return _remove(information, np.arange(len(information)), threshold, draws, draw, down_to)


def select_by_threshold(information: NDArray[np.floating[Any]], width: int, draw: Draw) -> NDArray[np.int64]:
    """Indices of exactly `width` neurons, sorted: rounds of Algorithm 1 at an ever lower threshold.

    A round takes 50 K draws. The first is held at the 90th percentile of all pairs' information, each later one 5
    percentile points lower, the last one at no threshold at all, where neurons go at random.

    Differs from the paper: Algorithm 1 has one threshold, and keeps as many neurons as that leaves.
    """
    remaining = np.arange(len(information))
    off_diagonal = information[np.triu_indices(len(information), 1)]
    levels = np.arange(START_PERCENTILE, 0.0, -STEP_PERCENTILE)
    thresholds = np.percentile(off_diagonal, levels) if len(off_diagonal) else np.empty(0)
    for threshold in (*thresholds, -np.inf):
        if len(remaining) <= width:
            break
        draws = DRAWS_PER_NEURON * len(information)
        remaining = _remove(information, remaining, float(threshold), draws, draw, width)
    return remaining


def draw_pairs(*seed: int) -> Draw:
    """Seeded draws, the same for the same counts."""
    stream = _uniforms(np.random.default_rng(seed))

    def draw(count: int) -> tuple[int, int]:
        first, second = int(next(stream) * count), int(next(stream) * (count - 1))
        return first, second + (second >= first)

    return draw


def _uniforms(random: np.random.Generator) -> Iterator[float]:
    while True:
        yield from random.random(DRAWN_AT_ONCE).tolist()


def _remove(
    information: NDArray[np.floating[Any]],
    remaining: NDArray[np.int64],
    threshold: float,
    draws: int,
    draw: Draw,
    down_to: int,
) -> NDArray[np.int64]:
    left = list(remaining)
    for _ in range(draws):
        if len(left) <= max(down_to, 1):
            break
        first, second = draw(len(left))
        if information[left[first], left[second]] >= threshold:
            del left[second]
    return np.array(left, dtype=np.int64)
