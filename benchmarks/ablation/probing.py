"""How far SmolLM2-135M's outputs move when one network alone is cut and refitted, on rows that it was fitted to or not.

    SECATEUR_DATA=... python benchmarks/ablation/probing.py [--threads N]

For each network and each fraction kept: the mean KL divergence on rows of the refit and on held-out rows, and the sum
of what the removals cost (docs/method.md, section 3). Written to probing.json beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from run import BASE

from secateur.checkpoint.manifest import find_versions
from secateur.methods.secateur import find_removals, leave_out, measure_whole
from secateur.models.feedforward import replaced
from secateur.models.loading import load_model
from secateur.pipeline import open_context
from secateur.probing import Probe, hold_out
from secateur.recipe import make_recipe
from secateur.refitting import refit_network

KEEPS = (0.8, 0.7, 0.65, 0.5, 0.3)


def main() -> None:
    """Measure all networks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    context = open_context(load_model("smollm2", dtype="float32"), None, make_recipe(BASE))
    loaded, seed = context.loaded, context.recipe.seed
    held, rest = hold_out(context.noised, seed)
    probes = [Probe(loaded, rows.batches) for rows in (rest.sample_rows(held.rows, seed), held)]
    found = []
    for ffn, measured in zip(context.feedforwards, measure_whole(context, rest), strict=True):
        counts = [ffn.width - round(keep * ffn.width) for keep in KEEPS]
        removals, distances = find_removals(context, ffn, measured, counts[-1]), []
        for probe in probes:
            probe.go_to(ffn)
        for count in counts:
            layer = refit_network(ffn, leave_out(ffn, removals.order[:count]), measured, ridge=context.ridge)
            with replaced([ffn], [layer]):
                distances.append([probe.distance() for probe in probes])
        costs = np.cumsum(removals.costs.numpy())[np.array(counts) - 1]
        seen, unseen = zip(*distances, strict=True)
        found.append({"seen": seen, "unseen": unseen, "costs": costs.tolist()})
        print(f"{ffn.path}: on rows not seen x {unseen[-1] / seen[-1]:.2f}", flush=True)
    result = {"keep": KEEPS, "networks": found, "versions": find_versions()}
    Path(__file__).with_name("probing.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
