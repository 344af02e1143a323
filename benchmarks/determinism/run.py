"""How far batch size and thread count change a plan: MiniLM at 60 % width.

python benchmarks/determinism/run.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import secateur
from secateur.checkpoint.manifest import find_versions
from secateur.models.loading import hash_weights

BASE = {"keep": 0.6, "calibration_tokens": 8192, "threads": 2, "batch_size": 8}
CASES = {
    "the same again": {},
    "batch size 1": {"batch_size": 1},
    "batch size 32": {"batch_size": 32},
    "1 thread": {"threads": 1},
}


def main() -> None:
    """Compare every case with the base."""
    base = secateur.prune("minilm", **BASE)
    rows = {}
    for name, changes in CASES.items():
        other = secateur.prune("minilm", **{**BASE, **changes})
        pairs = list(zip(base.plan.layers, other.plan.layers, strict=True))
        rows[name] = {
            "same_bytes": hash_weights(base.model) == hash_weights(other.model),
            "kept_in_common": float(np.mean([np.isin(a.kept, b.kept).mean() for a, b in pairs])),
            "lowest_kept_in_common": float(min(np.isin(a.kept, b.kept).mean() for a, b in pairs)),
        }
        print(name, rows[name], flush=True)
    content = {"base": BASE, "versions": find_versions(), "rows": rows}
    Path(__file__).with_name("results.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
