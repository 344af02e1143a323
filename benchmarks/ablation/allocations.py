"""Ways to spread one budget that were tried: each is allocate(context) -> widths, for orders in the unpruned model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from choices import damped, invert

from secateur.methods import PruningContext
from secateur.methods.flap import score_by_fluctuation
from secateur.methods.secateur import Profile, measure_profiles
from secateur.selection.allocation import allocate_widths
from secateur.selection.ranking import select_overall

Allocate = Callable[[PruningContext], list[int]]


def profiles(context: PruningContext) -> list[Profile]:
    """Orders, costs and distances of all networks, measured once."""
    return context.once(("profiles",), lambda: measure_profiles(context))


def by_costs(context: PruningContext, *, power: float) -> list[int]:
    """Marginal squared errors, scaled so that a network's add up to distance^power on the way to 0.3."""
    costs = [found.costs * found.distance**power / found.costs[: found.tried].sum() for found in profiles(context)]
    return _spread(context, costs)


def by_inverse(context: PruningContext) -> list[int]:
    """What goes from each network in proportion to 1 / distance, at most 0.75 of it."""
    inverse = np.array([1 / found.distance for found in profiles(context)])
    neurons = context.feedforwards[0].width
    low, high = 0.0, float(neurons / inverse.min())
    for _ in range(60):
        middle = (low + high) / 2
        gone = np.minimum(middle * inverse, 0.75 * neurons)
        low, high = (middle, high) if gone.sum() < neurons * len(inverse) - context.budget else (low, middle)
    return [int(neurons - round(lost)) for lost in gone]


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
            shares.append((1 / invert(correlation).diagonal()).numpy())
        else:
            shares.append(np.exp(float(torch.logdet(correlation)) / len(correlation)))
    if kind == "unique":
        return [len(kept) for kept in select_overall(shares, context.budget)]
    parts = np.array(shares) / np.sum(shares) * context.budget
    return [round(min(part, context.feedforwards[0].width)) for part in parts]


def _spread(context: PruningContext, costs: list[np.ndarray]) -> list[int]:
    return allocate_widths(costs, [ffn.width for ffn in context.feedforwards], context.budget)


ALLOCATIONS: Mapping[str, Allocate] = {
    "divergence x squared error": partial(by_costs, power=1.0),
    "squared error alone": partial(by_costs, power=0.0),
    "root of divergence x squared error": partial(by_costs, power=0.5),
    "1 / divergence": by_inverse,
    "FLAP's scores": by_fluctuation,
    "unique share of variance": partial(by_information, kind="unique"),
    "joint entropy": partial(by_information, kind="entropy"),
}
