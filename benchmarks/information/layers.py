"""All 30 layers of SmolLM2-135M (K = 1536): seconds a layer and error bounds, on the cores that torch takes.

Run: SECATEURS_DATA=... python benchmarks/information/layers.py
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateurs.information import mutual_information
from secateurs.models.loading import load_model
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe

RESULTS = Path(__file__).with_name("layers.json")
TEXT = Path(os.environ["SECATEURS_DATA"]) / "wikitext2" / "validation.tokens.txt"
CASES: dict[str, dict[str, Any]] = {
    "1000 rows in one kernel, scott-scaled widths": {"rows": 1000, "width": "scott-scaled"},
    "100 rows, r = 0.42": {"rows": 100, "width": 0.42},
}


def main() -> None:
    """Run the cases that are still missing."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    recipe = make_recipe({"calibration": str(TEXT), "calibration_tokens": 8192, "refit": False})
    layers = [layer.samples for layer in open_context(load_model("smollm2"), None, recipe).statistics]
    for name, case in CASES.items():
        if name not in results:
            results[name] = measure(layers, case["rows"], case["width"])
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def measure(layers: list[Tensor], rows: int, width: str | float) -> dict[str, Any]:
    """Every layer in turn."""
    seconds, found = [], []
    for x in layers:
        start = time.perf_counter()
        found.append(mutual_information(x[:rows], width=width, batch_size=None))
        seconds.append(round(time.perf_counter() - start, 2))
        print(seconds[-1], found[-1].path_share, flush=True)
    return {
        "seconds": round(sum(seconds), 1),
        "seconds_a_layer": seconds,
        "median_seconds_a_layer": median(seconds),
        "threads": torch.get_num_threads(),
        "median_width_over_std": [round(float(np.median(m.width_over_std)), 2) for m in found],
        "low_rank_share": [round(m.path_share.get("low rank", 0.0), 6) for m in found],
        "float64_share": [round(m.path_share.get("float64", 0.0), 6) for m in found],
        "median_bound_nats": float(np.median([m.error_bound_nats for m in found])),
    }


if __name__ == "__main__":
    main()
