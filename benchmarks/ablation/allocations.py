"""Ways to spread one budget that were tried: each is allocate(context) -> widths, for orders in the unpruned model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from choices import damped, invert

from secateurs.methods import PruningContext
from secateurs.methods.flap import score_by_fluctuation
from secateurs.methods.secateurs import find_profiles
from secateurs.selection.allocation import allocate_widths
from secateurs.selection.ranking import select_overall

Allocate = Callable[[PruningContext], list[int]]


def by_one_depth(context: PruningContext, *, power: float) -> list[int]:
    """Costs of removals, scaled so that a network's add up to distance^power on the way to 0.3."""
    found = find_profiles(context)
    scales = [one.distances[-1] ** power / one.errors[: one.tried[-1]].sum() for one in found]
    return _spread(context, [one.errors * scale for one, scale in zip(found, scales, strict=True)])


def by_inverse(context: PruningContext) -> list[int]:
    """What goes from each network in proportion to 1 / distance, at most 0.75 of it."""
    inverse = np.array([1 / found.distances[1] for found in find_profiles(context)])
    neurons = context.feedforwards[0].width
    gone = fill(inverse, neurons * len(inverse) - context.budget, round(0.75 * neurons))
    return [neurons - lost for lost in gone]


def by_fluctuation(context: PruningContext) -> list[int]:
    """FLAP's standardised scores."""
    scores = [score_by_fluctuation(context, place) for place in range(len(context.feedforwards))]
    return [len(kept) for kept in select_overall([(s - s.mean()) / s.std() for s in scores], context.budget)]


def by_information(context: PruningContext, *, kind: str) -> list[int]:
    """By how much each neuron shares with the rest of its network, without any forward pass of the whole model.

    "unique": the neurons with the largest unique share of variance, of all networks together; "entropy": widths in
    proportion to exp(joint Gaussian entropy per neuron, activations standardised), the effective dimension.
    """
    shares = []
    for place in range(len(context.feedforwards)):
        moments = damped(context, place, 0.01)
        scale = moments.diagonal().rsqrt()
        correlation = moments * torch.outer(scale, scale)
        if kind == "unique":
            shares.append((1 / invert(correlation).diagonal()).cpu().numpy())
        else:
            shares.append(np.exp(float(torch.logdet(correlation)) / len(correlation)))
    if kind == "unique":
        return [len(kept) for kept in select_overall(shares, context.budget)]
    return fill(np.array(shares), context.budget, context.feedforwards[0].width)


def fill(shares: np.ndarray, total: int, most: int) -> list[int]:
    """Whole numbers in proportion to the shares, none above `most`, `total` in all."""
    low, high = 0.0, float(most / shares.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * shares, most).sum() < total else (low, middle)
    wanted = np.minimum(high * shares, most)
    parts = np.floor(wanted).astype(int)
    parts[np.argsort(parts - wanted)[: total - parts.sum()]] += 1
    return parts.tolist()


def _spread(context: PruningContext, costs: list[np.ndarray]) -> list[int]:
    return allocate_widths(costs, [ffn.width for ffn in context.feedforwards], context.budget)


ALLOCATIONS: Mapping[str, Allocate] = {
    "divergence at 0.3 alone": partial(by_one_depth, power=1.0),
    "refit error alone": partial(by_one_depth, power=0.0),
    "1 / divergence": by_inverse,
    "FLAP's scores": by_fluctuation,
    "unique share of variance": partial(by_information, kind="unique"),
    "joint entropy": partial(by_information, kind="entropy"),
}
