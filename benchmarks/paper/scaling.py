"""500 random starts of SMACOF on real distances of 512 neurons: time a layer, and how many starts settle.

    SECATEURS_DATA=... python benchmarks/paper/scaling.py

Neurons are the first 512 of MiniLM's layer 2, rows the first tokens of 600 SST-2 sentences. One thread.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sklearn.manifold import smacof as reference

from secateurs.checkpoint.manifest import find_versions
from secateurs.information import mutual_information
from secateurs.models.loading import load_model
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe
from secateurs.selection.distances import DISTANCES
from secateurs.selection.scaling import draw_starts, smacof

NEURONS, ROWS, STARTS, DIMENSIONS, REPEATS = 512, 600, 500, 10, 3
CASES = (("exp", "scott"), ("normalised", "scott-scaled"), ("normalised", 0.42))


def main() -> None:
    """Measure each case, then write scaling.json."""
    torch.set_num_threads(1)
    x = capture_activations()
    cases = []
    for distance, width in CASES:
        information = mutual_information(x, width=width)
        cases.append(
            {"distance": distance, "kernel_width": width, **measure(DISTANCES[distance](information, slice(None)))}
        )
        print(json.dumps(cases[-1]), flush=True)
    about = {"neurons": NEURONS, "rows": ROWS, "starts": STARTS, "dimensions": DIMENSIONS, "threads": 1}
    content = {**about, "cases": cases, "versions": find_versions()}
    Path(__file__).with_name("scaling.json").write_text(json.dumps(content, indent=1) + "\n")


def capture_activations() -> torch.Tensor:
    """(ROWS, NEURONS) activations."""
    settings = {"sampling": "cls", "samples": ROWS, "calibration_tokens": 1 << 18, "layers": "2", "refit": False}
    sentences = Path(os.environ["SECATEURS_DATA"]) / "sst2" / "train.tsv"
    recipe = make_recipe({**settings, "calibration": str(sentences), "text_column": "sentence"})
    context = open_context(load_model("minilm", device="cpu"), None, recipe)
    return context.statistics[0].samples[:, :NEURONS]


def measure(distance: Any) -> dict[str, Any]:
    """Seconds for all starts, REPEATS times; share that ran out of iterations; stress against scikit-learn's."""
    target, seconds = torch.from_numpy(distance), []
    starts = draw_starts((0,), STARTS, NEURONS, DIMENSIONS)
    for _ in range(REPEATS):
        begun = time.perf_counter()
        found = smacof(target, starts)
        seconds.append(round(time.perf_counter() - begun, 1))
    symmetric, start = ((target + target.T) / 2).double().numpy(), starts[0].double().numpy()
    begun = time.perf_counter()
    _, stress = reference(
        symmetric, n_components=DIMENSIONS, init=start, n_init=1, max_iter=int(found.iterations[0]), eps=0.0
    )
    return {
        "seconds": seconds,
        "median_seconds": median(seconds),
        "share_capped": found.capped_share,
        "mean_iterations": float(found.iterations.double().mean()),
        "relative_stress": [float(found.relative_stress.min()), float(found.relative_stress.max())],
        "stress_over_scikit_learns": float(found.stress[0]) / stress,
        "scikit_learn_seconds_a_start": round(time.perf_counter() - begun, 2),
    }


if __name__ == "__main__":
    main()
