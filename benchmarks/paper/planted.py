"""Copies planted in a real layer: which methods keep one member of each group.

A layer of MiniLM (K = 1536) gets 150 exact copies of its 50 most important neurons, in place of the 150 least
important: 50 groups of four. All but 150 neurons are kept, so a method that sees copies keeps exactly one of each.
Run: python benchmarks/paper/planted.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from secateurs.checkpoint.manifest import find_versions
from secateurs.methods import find_method
from secateurs.models.families import find_feedforwards
from secateurs.models.loading import load_model
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe

LAYER, GROUPS, COPIES = 2, 50, 3
SETTINGS = {"layers": str(LAYER), "round_to": 1, "refit": False, "calibration_tokens": 16384, "sampling": "tokens"}
WIDTHS = ("scott-scaled", 0.42, 1.0, 2.0, 6.0)
ROWS = {"kernel_rows": 100, "kernels": 5, "samples": 500}


def plant(loaded):
    """Groups of neuron numbers that are copies of one another, planted in place."""
    context = open_context(loaded, None, make_recipe(SETTINGS))
    order = np.argsort(-context.importance(0))
    groups = [[int(original)] for original in order[:GROUPS]]
    places = iter(order[::-1].tolist())
    ffn = find_feedforwards(loaded.model, loaded.family)[LAYER]
    with torch.no_grad():
        for _ in range(COPIES):
            for group in groups:
                copy = next(places)
                ffn.up.weight[copy], ffn.up.bias[copy] = ffn.up.weight[group[0]], ffn.up.bias[group[0]]
                ffn.down.weight[:, copy] = ffn.down.weight[:, group[0]]
                group.append(copy)
    return groups, ffn.width


def share_with_one(kept, groups):
    """Share of the groups of which exactly one member was kept."""
    kept = {int(neuron) for neuron in kept}
    return float(np.mean([len(kept & set(group)) == 1 for group in groups]))


def main():
    """Plant, choose, write planted.json."""
    loaded = load_model("minilm", device="cpu")
    groups, neurons = plant(loaded)
    keep = (neurons - GROUPS * COPIES) / neurons
    found = []
    for width in WIDTHS:
        recipe = make_recipe({**SETTINGS, **ROWS, "keep": keep, "method": "clusters", "kernel_width": width})
        context = open_context(loaded, None, recipe)
        information = context.information(0).values
        for distance in ("normalised", "exp"):
            (layer,) = find_method("clusters").plan(
                context.under(recipe.model_copy(update={"distance": distance}), context.width)
            )
            entry = {
                "distance": distance,
                "kernel_width": width,
                "mean_r": round(layer.figures["mean_width_over_std"], 3),
                "groups_with_one": share_with_one(layer.kept, groups),
                "mi_of_copies_nats": round(float(np.mean([information[g[0], g[1]] for g in groups])), 4),
                "mi_median_nats": round(float(np.median(information)), 4),
            }
            found.append(entry)
            print(json.dumps(entry), flush=True)
    random = np.random.default_rng(0)
    width = round(keep * neurons)
    chance = [share_with_one(random.permutation(neurons)[:width], groups) for _ in range(1000)]
    recipes = (make_recipe({**SETTINGS, "keep": keep, "method": "random", "seed": seed}) for seed in range(10))
    drawn = [
        share_with_one(find_method("random").plan(open_context(loaded, None, recipe))[0].kept, groups)
        for recipe in recipes
    ]
    result = {
        "model": "all-MiniLM-L6-v2",
        "layer": LAYER,
        "neurons": neurons,
        "kept": width,
        "groups": GROUPS,
        "group_size": COPIES + 1,
        "rows": ROWS,
        "clusters": found,
        "random_draws": drawn,
        "chance": {"mean": float(np.mean(chance)), "std": float(np.std(chance))},
        "versions": find_versions(),
    }
    Path(__file__).with_name("planted.json").write_text(json.dumps(result, indent=1) + "\n")
    print("random", drawn, "chance", result["chance"])


if __name__ == "__main__":
    main()
