"""SmolLM2-135M at 80 % width on WikiText-2: what choosing, information and refit each contribute.

    SECATEURS_DATA=... python benchmarks/smollm2/run.py

Calibrates on 24,576 tokens of validation.tokens.txt and scores on the first 16,384 tokens of test.raw.txt, window 512,
not rounded (width 1229). Information at alpha 2 over 256 rows, r = 0.25, unless a row says otherwise. Activations are
measured once and serve every row. Rows that results.json holds are not run again: delete it after a change of defaults.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch

from secateurs.calibration import take_tokens
from secateurs.checkpoint.manifest import find_versions
from secateurs.evaluation.perplexity import PerplexityScore, compare_losses, evaluate_perplexity
from secateurs.models.loading import load_model
from secateurs.pipeline import carry_out, make_plan, open_context
from secateurs.recipe import make_recipe
from secateurs.texts import open_texts

RESULTS = Path(__file__).with_name("results.json")
TEXT = Path(os.environ["SECATEURS_DATA"]) / "wikitext2"
TEST_TOKENS = 16384
BASE = {
    "method": "redundancy",
    "in_turn": False,
    "ridge": 0.1,
    "keep": 0.8,
    "round_to": 1,
    "calibration": str(TEXT / "validation.tokens.txt"),
    "calibration_tokens": 24576,
    "alpha": 2.0,
    "kernel_rows": 256,
    "kernel_width": 0.25,
}
WIDTHS = ("scott-scaled", 4.0, 2.0, 1.0, 0.42, 0.1)
ROWS = {
    "redundancy": {},
    "importance": {"information": False},
    "redundancy, no refit": {"refit": False},
    "importance, no refit": {"information": False, "refit": False},
    "medoids": {"method": "medoids"},
    "medoids, no refit": {"method": "medoids", "refit": False},
    **{f"redundancy, kernel width {width}": {"kernel_width": width} for width in WIDTHS},
    **{f"redundancy, ridge {ridge}": {"ridge": ridge} for ridge in (0.01, 0.03, 0.3)},
}


def main() -> None:
    """Run the rows that are still missing."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    loaded = load_model("smollm2")
    ids = take_tokens(open_texts(TEXT / "test.raw.txt"), loaded.tokenizer, TEST_TOKENS)
    if "dense" not in results:
        score = evaluate_perplexity(loaded.model, ids)
        results["dense"] = {"perplexity": score.perplexity, "window_losses": score.window_losses}
    dense = PerplexityScore(tuple(results["dense"]["window_losses"]), (511,) * (len(ids) // 512))
    context = None
    for name, settings in ROWS.items():
        if name in results["rows"]:
            continue
        if context is None:
            context = open_context(loaded, None, make_recipe(BASE))
            _ = context.statistics
        recipe = make_recipe({**BASE, **settings})
        plan = make_plan(context.under(recipe))
        score = evaluate_perplexity(carry_out(plan, loaded, in_place=False), ids)
        gap = compare_losses(dense, score)
        results["rows"][name] = {
            "settings": settings,
            "width": plan.layers[0].width,
            "perplexity": score.perplexity,
            "perplexity_ratio": score.perplexity / dense.perplexity,
            "gap_nats": gap.nats,
            "gap_standard_error_nats": gap.standard_error_nats,
        }
        results.update(
            base={**make_recipe(BASE).model_dump(), "calibration": "wikitext2/validation.tokens.txt"},
            test_tokens=len(ids),
            versions=find_versions(),
            threads=torch.get_num_threads(),
            machine=platform.processor() or platform.machine(),
        )
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(name, results["rows"][name], flush=True)


if __name__ == "__main__":
    main()
