"""Time and memory of `prune` from beginning to end, Secateurs' own method beside FLAP.

    SECATEURS_DATA=... python benchmarks/cost/run.py [--repetitions 3]

SmolLM2-135M in float32 from safetensors, the defaults of `prune` (32,768 calibration tokens, keep 0.8, refitted) on
WikiText-2's validation text: reading, measuring, choosing, refitting, writing and verifying. A process for each run,
the methods in turns. Memory is the highest resident size (of Linux) less that after the imports. Goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import psutil
import torch

import secateurs
from secateurs.checkpoint.manifest import find_versions

RESULTS = Path(__file__).with_name("results.json")
TEXT = Path(os.environ["SECATEURS_DATA"]) / "wikitext2" / "validation.tokens.txt"
WAYS = {
    "flap, not refitted": {"method": "flap", "refit": False},
    "flap": {"method": "flap"},
    "secateurs": {},
    "secateurs, with a report": {"with_report": True},
}


def measure(folder: Path, way: str) -> dict[str, float]:
    """One run in this process."""
    import secateurs.checkpoint.writing  # what a run imports before it reads the model
    import secateurs.pipeline

    before = psutil.Process().memory_info().rss
    begun = time.perf_counter()
    result = secateurs.prune(folder / "dense", calibration=str(TEXT), **WAYS[way])
    result.save(folder / "pruned", overwrite=True)
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "peak_mb": (read_peak() - before) / 1e6,
        "threads": torch.get_num_threads(),
        **result.seconds,
    }


def read_peak() -> int:
    """Highest resident size of this process in bytes; `ru_maxrss` would count the process that started it too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    """Run all ways in turns, and write medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", nargs=2)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measure(Path(asked.child[0]), asked.child[1])))
        return
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    if RESULTS.exists():
        runs |= json.loads(RESULTS.read_text())["runs"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        secateurs.prune("smollm2", keep=1.0, refit=False, method="magnitude", dtype="float32").save(folder / "dense")
        weights = sum(path.stat().st_size for path in (folder / "dense").glob("*.safetensors"))
        for repetition, way in product(range(asked.repetitions), WAYS):
            if len(runs[way]) > repetition:
                continue
            command = [sys.executable, __file__, "--child", name, way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(way, runs[way][-1], flush=True)
            write(runs, weights)


def write(runs: Mapping[str, list[dict[str, float]]], weights: int) -> None:
    """What was measured so far, and medians."""
    medians = {
        way: {key: statistics.median(run[key] for run in found) for key in ("seconds", "peak_mb")}
        for way, found in runs.items()
        if found
    }
    document = {"model_mb": weights / 1e6, "medians": medians, "runs": runs, "versions": find_versions()}
    temporary = RESULTS.with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(RESULTS)


if __name__ == "__main__":
    main()
