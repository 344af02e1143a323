"""Whether error bounds hold: random rows, widths and orders, every back end against float64 eigenvalues.

Run: python benchmarks/information/bounds.py [CASES]
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateurs.information import mutual_information
from secateurs.information.backends import BACKENDS
from secateurs.results import MutualInformation

RESULTS = Path(__file__).with_name("bounds.json")
CPU = torch.device("cpu")
WIDTHS: tuple[Any, ...] = (0.42, 1.0, 6.0, "scott", "scott-scaled")
NEURONS = 8


def main() -> None:
    """Draw cases, and write for each back end and order what was seen."""
    torch.set_num_threads(1)
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    draw = random.Random(0)
    seen = defaultdict(list)
    for _ in range(cases):
        rows = draw.randint(8, 200) if draw.random() < 0.9 else draw.randint(201, 600)
        alpha = draw.choice([0.5, 1.0, 1.01, 1.3, 2.0, 3.0, 5.0])
        width = draw.choice([*WIDTHS, draw.uniform(0.05, 16)])
        x = draw_activations(rows, draw.randint(0, 10**6))
        settings: dict[str, Any] = {"alpha": alpha, "width": width, "batch_size": None}
        exact = mutual_information(x, backend="eigenvalues", dtype="float64", **settings)
        widths = exact.width_over_std.clip(1e-3)  # 0 for a constant neuron
        for name, backend in BACKENDS["float32"].items():
            if name != "eigenvalues" and backend.refuses(alpha, CPU) is None:
                found = mutual_information(x, backend=name, **(settings | {"width": widths}))
                seen[f"{name}, alpha = {alpha}"].append(compare(found, exact))
    results = {key: summarise(found) for key, found in sorted(seen.items())}
    RESULTS.write_text(json.dumps({"cases": cases, **results}, indent=2) + "\n")
    print(RESULTS.read_text())


def draw_activations(rows: int, seed: int) -> Tensor:
    """(rows, 8) float64: Gaussian, rectified, skewed and rare neurons, a copy and a noisy copy."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, NEURONS, generator=generator, dtype=torch.float64)
    x[:, 1] = -2 * x[:, 0]
    x[:, 2] = x[:, 0] + 0.05 * x[:, 2]
    x[:, 3].relu_()
    x[:, 4].mul_(2).exp_()
    x[:, 5] = (x[:, 5] > 1) * x[:, 5]
    x[:, 6] = x[:, 6].sign() * x[:, 6].square()
    return x


def compare(found: MutualInformation, exact: MutualInformation) -> tuple[float, float, float]:
    """Largest error, largest error / bound, and median bound."""
    assert found.error_bound_nats is not None
    error = np.abs(found.values - exact.values).max(axis=1)
    return float(error.max()), float((error / found.error_bound_nats).max()), float(np.median(found.error_bound_nats))


def summarise(found: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Over the cases of one back end and order."""
    errors, shares, bounds = zip(*found, strict=True)
    return {
        "cases": len(found),
        "largest_error_nats": max(errors),
        "largest_error_over_bound": round(max(shares), 3),
        "bound_broken": sum(share > 1 for share in shares),
        "median_bound_nats": median(bounds),
        "largest_median_bound_nats": max(bounds),
    }


if __name__ == "__main__":
    main()
