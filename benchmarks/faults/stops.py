"""Ask `secateurs prune` to stop at random moments, and measure how soon it ends and what it leaves.

python benchmarks/faults/stops.py --json benchmarks/faults/stops.json
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = {"minilm": ["--method", "redundancy"], "smollm2": []}
SIGNALS = (signal.SIGTERM, signal.SIGINT)
EARLIEST, LATEST = 5.0, 60.0
"""Seconds after the start."""


def stop(model: str, number: int) -> dict[str, Any]:
    """One run and its end."""
    draw, sent = random.Random(f"{model} {number}"), SIGNALS[number % len(SIGNALS)]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "secateurs", "prune", model, f"{folder}/out", *MODELS[model]]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(moment := draw.uniform(EARLIEST, LATEST))
        begun = time.perf_counter()
        process.send_signal(sent)
        _, told = process.communicate()
        seconds = time.perf_counter() - begun
        left = sorted(path.name for path in Path(folder).iterdir())
        pieces = list(Path(folder).glob(".out.state/*.safetensors"))
    return {
        "model": model,
        "signal": sent.name,
        "moment": round(moment, 1),
        "seconds": round(seconds, 2),
        "exit_code": process.returncode,
        "told": told.strip().splitlines()[-1],
        "beside_out": left,
        "pieces": max(0, len(pieces) - 1),
    }


def main() -> None:
    """Stop each model's pruning several times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=int, default=10, help="of each model")
    parser.add_argument("--json", type=Path, required=True)
    asked = parser.parse_args()
    rows = [stop(model, number) for model in MODELS for number in range(asked.stops)]
    codes = {128 + sent for sent in SIGNALS}
    summary = {
        "stops": len(rows),
        "most seconds": max(row["seconds"] for row in rows),
        "other exit codes": sum(row["exit_code"] not in codes for row in rows),
        "something else left": sum(not set(row["beside_out"]) <= {".out.state"} for row in rows),
    }
    asked.json.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
