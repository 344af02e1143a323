"""Representatives of clusters of neurons that carry much the same: the paper's own method, and its presets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.errors import InputError
from secateurs.methods.contract import Method, PruningContext, require_information
from secateurs.models.feedforward import masked
from secateurs.models.outputs import read_outputs, require_finite_outputs
from secateurs.results import LayerPlan
from secateurs.selection.candidates import mean_kl_nats
from secateurs.selection.clusters import select_by_clusters
from secateurs.selection.distances import DISTANCES
from secateurs.selection.scaling import (
    LANDMARKS,
    MOST_NEURONS,
    Scaling,
    draw_starts,
    join_copies,
    place_by_landmarks,
    smacof,
)

CHOICE_ROWS = 256
"""Calibration rows that candidates are compared on at most."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one random start keeps."""

    kept: tuple[NDArray[np.int64], ...]
    """(width,) for each network."""

    def masks(self, context: PruningContext) -> list[Tensor]:
        """(K,) for each network: 1 for what is kept, else 0."""
        masks = []
        for ffn, kept in zip(context.feedforwards, self.kept, strict=True):
            mask = torch.zeros(ffn.width, device=ffn.device)
            mask[torch.from_numpy(kept).to(ffn.device)] = 1
            masks.append(mask)
        return masks


def plan_by_clusters(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the neuron nearest the centre of each cluster of a metric scaling of the neurons' distances.

    With several random starts, each is a candidate for all networks together, and the one stays whose outputs are
    nearest the original's.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), sections on clusters and on the choice among seeds (Eq. 1-2).
        Differs from the paper: what it leaves open is settled (`docs/paper.md`), and `distance="normalised"` puts exact
        copies at 0, which its own exp(-I) does not.
    """
    if context.recipe.seeds > 1:
        _check_outputs(context)
    candidates = draw_candidates(context)
    divergence = np.zeros(1)
    if len(candidates) > 1:
        rated = context.pieces.get("divergence", lambda: (rate_candidates(context, candidates), context.rates))
        divergence = rated[0]
        context.rates.update(rated[1])
    best = int(divergence.argmin())
    return tuple(
        _plan_layer(context, place, best, candidates[best].kept[place], float(divergence[best]))
        for place in range(len(context.feedforwards))
    )


def draw_candidates(context: PruningContext) -> tuple[Candidate, ...]:
    """One candidate for each of the recipe's random starts."""
    scalings = [scale(context, place) for place in range(len(context.feedforwards))]
    candidates = []
    for start in range(context.recipe.seeds):
        kept = tuple(
            select_by_clusters(scaling.points[start].double().numpy(), context.width, _seed(context, place, start))
            for place, scaling in enumerate(scalings)
        )
        candidates.append(Candidate(kept))
        context.progress("clustering", start + 1, context.recipe.seeds)
    return tuple(candidates)


def rate_candidates(context: PruningContext, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """(candidates,) mean KL in nats between the outputs of the model and of the model with neurons masked.

    At most 256 calibration rows are read, all networks of a candidate at once; of a model with an output for every
    token, about 256 tokens of them count. `context.rates` is told the speed.
    """
    model, by = context.loaded.model, context.recipe.choose_by
    batches = context.calibration.draw_batches(CHOICE_ROWS, context.recipe.seed)
    of_batch = -(-CHOICE_ROWS // len(batches))
    random = np.random.default_rng(context.recipe.seed)

    originals, chosen = [], []
    for batch in batches:
        outputs = require_finite_outputs(read_outputs(model, batch, by, context.sampling))
        chosen.append(torch.from_numpy(np.sort(random.permutation(len(outputs))[:of_batch])).to(outputs.device))
        originals.append(outputs[chosen[-1]])
    weights = [len(original) for original in originals]
    found, begun = np.zeros(len(candidates)), time.perf_counter()
    for place, candidate in enumerate(candidates):
        with masked(context.feedforwards, candidate.masks(context)):
            parts = [
                mean_kl_nats(original, read_outputs(model, batch, by, context.sampling)[rows])
                for original, batch, rows in zip(originals, batches, chosen, strict=True)
            ]
        found[place] = np.average(parts, weights=weights)
        context.progress("comparing candidates", place + 1, len(candidates))
    context.rates["candidates per second"] = len(candidates) / (time.perf_counter() - begun)
    return found


def _check_outputs(context: PruningContext) -> None:
    """Raise InputError where the outputs that starts are to be compared by are no more than one number a row."""
    (batch,) = context.calibration.draw_batches(1, context.recipe.seed)
    outputs = read_outputs(context.loaded.model, batch, context.recipe.choose_by, context.sampling)
    if outputs.shape[-1] < 2:
        raise InputError("choose_by logits needs at least 2 outputs a row, the model has 1; use representation")


def scale(context: PruningContext, place: int) -> Scaling:
    """Points of the neurons of one network, from every random start; computed once for all widths."""
    recipe = context.recipe
    key = ("scaling", place, recipe.distance, recipe.dimensions, recipe.seeds, *context.information_key)
    return context.once(key, lambda: context.pieces.get(f"scaling-{place}", lambda: _scale(context, place)))


def _scale(context: PruningContext, place: int) -> Scaling:
    information, recipe = context.information(place), context.recipe
    neurons, device = len(information.values), context.feedforwards[place].device
    measure_distance = DISTANCES[recipe.distance]
    chosen: slice | NDArray[np.int64] = slice(None)
    if neurons > MOST_NEURONS:
        chosen = np.sort(np.random.default_rng([recipe.seed, place]).permutation(neurons)[:LANDMARKS])
    distance = torch.from_numpy(measure_distance(information, chosen)).to(device)  # (K or L, K)
    among = distance if isinstance(chosen, slice) else distance[:, torch.from_numpy(chosen).to(device)]
    starts = draw_starts((recipe.seed, place), recipe.seeds, len(distance), recipe.dimensions)
    starts, count = join_copies(starts, among), len(context.feedforwards)
    scaling = smacof(
        among,
        starts,
        tick=lambda done, total: context.progress("scaling distances", place * total + done, count * total),
    )
    if isinstance(chosen, slice):
        return scaling
    return replace(scaling, points=place_by_landmarks(distance, scaling.points))


def _plan_layer(
    context: PruningContext, place: int, best: int, kept: NDArray[np.int64], divergence: float
) -> LayerPlan:
    ffn, information, scaling = context.feedforwards[place], context.information(place), scale(context, place)
    distance = DISTANCES[context.recipe.distance](information, kept)  # (width, K)
    figures = {
        "start": float(best),
        "kl_nats": divergence,
        "stress": float(scaling.stress[best]),
        "relative_stress": float(scaling.relative_stress[best]),
        "share_of_starts_capped": scaling.capped_share,
        "mean_distance_to_kept": float(distance.min(axis=0).mean()),
        "mean_width_over_std": information.mean_width_over_std,
        "saturated": float(information.saturated),
    }
    return LayerPlan(ffn.path, ffn.width, kept, figures=figures)


def _seed(context: PruningContext, place: int, start: int) -> int:
    return int(np.random.default_rng([context.recipe.seed, place, start, 1]).integers(1 << 31))


def _make(name: str, summary: str) -> Method:
    return Method(
        name=name,
        summary=summary,
        plan=plan_by_clusters,
        needs=frozenset({"activations"}),
        sees=frozenset({"duplicates"}) if name != "paper" else frozenset(),
        check=require_information,
    )


CLUSTERS = _make("clusters", "one neuron of each cluster under normalised mutual information; --seeds tries several")
PAPER = _make("paper", "the paper to the letter: clusters of exp(-I), Scott's widths, 1 % of the rows, 500 seeds")
PAPER_SCALED = _make("paper-scaled", "the same with scaled widths, normalised distances and at least 500 rows")
