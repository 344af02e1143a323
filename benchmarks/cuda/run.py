"""`prune` on a GPU: time, memory, and what it costs.

    SECATEURS_DATA=... python benchmarks/cuda/run.py

SmolLM2-135M in float32, 24,576 calibration tokens of WikiText-2's validation text, keep 0.8; the gap in nats a token is
on 32,768 tokens of its test text. Ways that results.json holds are not run again; delete it to start afresh.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import secateurs
from secateurs.calibration import take_tokens
from secateurs.checkpoint.manifest import find_versions
from secateurs.evaluation.perplexity import compare_losses, evaluate_perplexity
from secateurs.models.loading import LoadedModel, load_model
from secateurs.pruned import PruneResult
from secateurs.texts import open_texts

RESULTS = Path(__file__).with_name("results.json")
TEXT = Path(os.environ["SECATEURS_DATA"]) / "wikitext2"
CALIBRATION = {"calibration": str(TEXT / "validation.tokens.txt"), "calibration_tokens": 24576}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "secateurs": {},
    "secateurs, global": {"allocation": "global"},
    "flap": {"method": "flap"},
}
REPETITIONS = 3
TEST_TOKENS = 32768


def main() -> None:
    """Run the ways that are still missing."""
    loaded = load_model("smollm2", dtype="float32", device="cuda")
    ids = take_tokens(open_texts(TEXT / "test.raw.txt"), loaded.tokenizer, TEST_TOKENS)
    dense = evaluate_perplexity(loaded.model, ids)
    for way, settings in WAYS.items():
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if way in results:
            continue
        runs = [time_prune(loaded, settings) for _ in range(REPETITIONS)]
        first = runs[0][1]
        results[way] = {
            "card": loaded.card,
            "versions": find_versions(),
            "runs": [facts for facts, _ in runs],
            "shared by all runs": min(share_kept(first, result) for _, result in runs),
            "gap_nats": compare_losses(dense, evaluate_perplexity(first.model, ids)).nats,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(way, json.dumps(results[way]), flush=True)


def time_prune(loaded: LoadedModel, settings: Mapping[str, Any]) -> tuple[dict[str, float], PruneResult]:
    """One run: seconds in all and by phase, and the most memory of the GPU besides what was there."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before, begun = torch.cuda.memory_allocated(), time.perf_counter()
    result = secateurs.prune(loaded.model, tokenizer=loaded.tokenizer, round_to=1, **CALIBRATION, **settings)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    return {"seconds": seconds, "peak_mb": peak, **result.seconds}, result


def share_kept(a: PruneResult, b: PruneResult) -> float:
    """Neurons that both keep, of those that one keeps."""
    both = sum(len(np.intersect1d(x.kept, y.kept)) for x, y in zip(a.plan.layers, b.plan.layers, strict=True))
    return both / sum(layer.width for layer in a.plan.layers)


if __name__ == "__main__":
    main()
