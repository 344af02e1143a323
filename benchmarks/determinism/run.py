"""How far forward batch size and thread count move scores and choices: BERT-tiny and MiniLM at 60 % width.

SECATEURS_MODELS=FOLDER python benchmarks/determinism/run.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import secateurs
from secateurs.checkpoint.manifest import find_versions
from secateurs.information import use_threads
from secateurs.methods import PruningContext
from secateurs.methods.flap import score_by_fluctuation
from secateurs.methods.secateurs import find_removals, measure_whole
from secateurs.models.loading import hash_weights, load_model
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe
from secateurs.selection.ranking import find_largest_shared, penalise_redundancy

MODELS = {"bert-tiny": str(Path(os.environ["SECATEURS_MODELS"]) / "bert-tiny-base"), "minilm": "minilm"}
BASE: dict[str, Any] = {"keep": 0.6, "calibration_tokens": 8192, "batch_size": 8, "threads": 1}
CASES: dict[str, dict[str, Any]] = {
    "the same again": {},
    "batch size 4": {"batch_size": 4},
    "2 threads": {"threads": 2},
}
WITHIN = 1e-5
Scores = NDArray[np.float64]


def score_for_secateurs(context: PruningContext) -> list[Scores]:
    """(K,) a network of the unpruned model: what a neuron costs as it goes; NaN for those that stay."""
    found = []
    for ffn, measured in zip(context.feedforwards, measure_whole(context, context.noised), strict=True):
        removals = find_removals(context, ffn, measured, ffn.width - context.width)
        costs = np.full(ffn.width, np.nan)
        costs[removals.order.numpy()] = removals.costs.numpy()
        found.append(costs)
    return found


def score_for_redundancy(context: PruningContext) -> list[Scores]:
    """(K,) a network: importance, less what more important neurons carry."""
    found = []
    for place in range(len(context.feedforwards)):
        importance = context.importance(place)
        found.append(penalise_redundancy(importance, find_largest_shared(importance, context.information(place))))
    return found


def score_for_flap(context: PruningContext) -> list[Scores]:
    """(K,) a network: variance x squared length."""
    return [score_by_fluctuation(context, place) for place in range(len(context.feedforwards))]


SCORES: dict[str, Callable[[PruningContext], list[Scores]]] = {
    "secateurs": score_for_secateurs,
    "redundancy": score_for_redundancy,
    "flap": score_for_flap,
}


def main() -> None:
    """Compare every case with the base."""
    rows = []
    for name, where in MODELS.items():
        for method in SCORES:
            base = run(where, method, {})
            for case, changes in CASES.items():
                rows.append(
                    {"model": name, "method": method, "case": case, **compare(base, run(where, method, changes))}
                )
                print(rows[-1], flush=True)
    content = {"base": BASE, "versions": find_versions(), "rows": rows}
    Path(__file__).with_name("results.json").write_text(json.dumps(content, indent=1) + "\n")


def run(where: str, method: str, changes: dict[str, Any]) -> tuple[secateurs.PruneResult, list[Scores]]:
    """The pruned model, and the scores that the method takes in the unpruned one."""
    settings = {**BASE, "method": method, **changes}
    recipe = make_recipe(settings)
    with use_threads(recipe.threads):
        scores = SCORES[method](open_context(load_model(where), None, recipe))
    return secateurs.prune(where, **settings), scores


def compare(
    one: tuple[secateurs.PruneResult, list[Scores]], two: tuple[secateurs.PruneResult, list[Scores]]
) -> dict[str, Any]:
    """Figures of one case."""
    pairs = zip(one[0].plan.layers, two[0].plan.layers, strict=True)
    common = [float(np.isin(a.kept, b.kept).mean()) for a, b in pairs]
    apart = np.concatenate([find_differences(a, b) for a, b in zip(one[1], two[1], strict=True)])
    return {
        "same_bytes": hash_weights(one[0].model) == hash_weights(two[0].model),
        "kept_in_common": float(np.mean(common)),
        "lowest_kept_in_common": min(common),
        "largest_relative_score_difference": float(apart.max()),
        "median_relative_score_difference": float(np.median(apart)),
        "scores_within_1e-5": float((apart <= WITHIN).mean()),
    }


def find_differences(one: Scores, two: Scores) -> Sequence[float]:
    """|a - b| / max(|a|, |b|) of each neuron that has a score in both; 0 where both are 0."""
    both = np.isfinite(one) & np.isfinite(two)
    size = np.maximum(np.abs(one), np.abs(two))[both]
    apart: NDArray[np.float64] = np.divide(np.abs(one - two)[both], size, out=np.zeros_like(size), where=size > 0)
    return apart.tolist()


if __name__ == "__main__":
    main()
